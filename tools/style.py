"""The style rules, each a function from the project's folder to a list of complaints.

    python tools/style.py              prints every complaint, exits with 1 if there is one
    python tools/style.py --advice     prints also what is only advised
    python tools/style.py --list       prints the rules and the advice

A complaint says where, what was found and what to do. `tests/test_style.py` runs every rule on this project, and shows each one
failing on a project made to break it.
"""

import ast, json, os, re, shutil, subprocess, sys, tempfile
from base64 import b64decode
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import readme

MAX_LINES = 40  # of an exported cell, decorators included, directives not
MAX_WIDTH = 140  # characters of a line of code
MAX_PICTURE = 60 * 1024  # bytes of one stored figure
MAX_IMPORT = 0.3  # seconds that every module together may take on top of torch
HEAVY = "sklearn datasets accelerate matplotlib torchdiffeq huggingface_hub PIL pandas IPython".split()
DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "pywt": "pywavelets",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


# What the rules look at


@dataclass
class Cell:
    "One cell: where it stands, its directives, its code without them, its stored outputs."

    where: str
    kind: str
    source: str
    flags: dict
    code: str
    outputs: list = field(default_factory=list)

    @property
    def exported(self) -> bool:
        return bool({"export", "exports", "exporti"} & self.flags.keys())

    @property
    def tree(self) -> list:
        "The statements of a code cell; none where it does not parse, for then its notebook fails anyway."
        code = re.sub(r"^(\s*)[%!].*$", r"\1pass", self.code, flags=re.M)
        try:
            return ast.parse(code).body if self.kind == "code" else []
        except SyntaxError:
            return []


@dataclass
class Notebook:
    "One notebook: its number is its place in the reading order; without a number it comes last."

    path: Path
    cells: list[Cell]

    @property
    def number(self) -> float:
        m = re.match(r"(\d+)([a-z]?)_", self.path.name)  # 08b stands between 08 and 09
        return int(m[1]) + (ord(m[2]) - 96 if m[2] else 0) / 100 if m else float("inf")

    @property
    def module(self) -> str | None:
        return next(
            (c.flags["default_exp"] for c in self.cells if "default_exp" in c.flags),
            None,
        )


def settings(root: Path):
    "settings.ini, the single source of metadata."
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def notebooks(root: Path) -> list[Notebook]:
    "Every notebook in reading order."
    books = []
    for path in sorted((root / "nbs").glob("[!._]*.ipynb")):
        cells = []
        for i, raw in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = readme.text(raw["source"])
            flags, code = (
                readme.directives(source) if raw["cell_type"] == "code" else ({}, "")
            )
            where = f"{path.name}, cell {i} ({raw.get('id', 'no id')})"
            cells.append(
                Cell(
                    where, raw["cell_type"], source, flags, code, raw.get("outputs", [])
                )
            )
        books.append(Notebook(path, cells))
    return sorted(books, key=lambda b: (b.number, b.path.name))


def modules(root: Path) -> list[Path]:
    "The exported modules."
    return sorted((root / settings(root)["lib_name"]).rglob("*.py"))


def python(*args, **kwargs) -> subprocess.CompletedProcess:
    "Run this interpreter, as if no notebook test were under way."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | kwargs.pop(
        "env", {}
    )
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env=env,
        text=True,
        capture_output=True,
        **kwargs,
    )


def defined(cell: Cell) -> list:
    "The functions and classes that a cell binds at top level; methods added by `@patch` bind nothing there."

    def patched(node):
        return any(ast.unparse(d).startswith("patch") for d in node.decorator_list)

    return [n for n in cell.tree if isinstance(n, SCOPES) and not patched(n)]


def bound(cell: Cell) -> set[str]:
    "Every name that a cell binds at top level."
    names = {n.name for n in defined(cell)}
    for node in cell.tree:
        if isinstance(node, SCOPES):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name.split(".")[0] for a in node.names}
        names |= {
            n.id
            for n in walk_here(node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
    return names


def walk_here(node):
    "Like ast.walk, without what lies in a scope of its own."
    yield node
    inner = (
        *SCOPES,
        ast.Lambda,
        ast.ListComp,
        ast.SetComp,
        ast.DictComp,
        ast.GeneratorExp,
    )
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, inner):
            yield from walk_here(child)


def imported(nodes, lib: str) -> set[str]:
    "The modules of the package that these statements import, anywhere in them."
    found = set()
    for node in (n for top in nodes for n in ast.walk(top)):
        if isinstance(node, ast.Import):
            found |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith(lib + ".")
            }
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == 1:
            module = f"{lib}.{module}".rstrip(".")
        if module == lib:
            found |= {a.name for a in node.names if not a.name.startswith("_")}
        elif module.startswith(lib + "."):
            found.add(module.split(".")[1])
    return found


# The rules


def export_in_sync(root: Path) -> list[str]:
    "The package is what the notebooks export, `_modidx.py` included."
    lib = settings(root)["lib_name"]
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        shutil.copy(root / "settings.ini", fresh)
        (fresh / "nbs").mkdir()
        for book in notebooks(root):
            shutil.copy(book.path, fresh / "nbs")
        run = python(
            "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=fresh
        )
        if run.returncode:
            return [f"nbdev_export fails:\n{run.stderr}"]

        def read(base):
            return {
                p.relative_to(base).as_posix(): p.read_bytes() for p in modules(base)
            }

        want, got = read(fresh), read(root)
    init = f"{lib}/__init__.py"  # the version line is a rule of its own
    differ = sorted(
        name
        for name in (want.keys() | got.keys()) - {init}
        if want.get(name) != got.get(name)
    )
    return [
        f"{name} is not what the notebooks export: edit the notebook, not the module, then run nbdev_export"
        f"{'' if name in want else ' (no notebook exports it: delete it)'}"
        for name in differ
    ]


def version_matches(root: Path) -> list[str]:
    "`__version__` is the version in settings.ini."
    cfg = settings(root)
    path = root / cfg["lib_name"] / "__init__.py"
    if not path.is_file():
        return [f"{cfg['lib_name']}/__init__.py is missing: run nbdev_export"]
    got = re.search(
        r"^__version__\s*=\s*[\"'](.*)[\"']", path.read_text(encoding="utf-8"), re.M
    )
    if got and got[1] == cfg["version"]:
        return []
    return [
        f"__version__ is {got and got[1]}, settings.ini says {cfg['version']}: run nbdev_export"
    ]


def notebooks_clean(root: Path) -> list[str]:
    "`nbdev_clean` would change nothing."
    from execnb.nbio import nb2str, read_nb
    from nbdev.clean import clean_nb

    cfg, dirty = settings(root), []
    for book in notebooks(root):
        nb = read_nb(book.path)
        clean_nb(
            nb,
            clear_all=cfg.getboolean("clear_all"),
            clean_ids=cfg.getboolean("clean_ids"),
            allowed_metadata_keys=cfg.get("allowed_metadata_keys", "").split(),
            allowed_cell_metadata_keys=cfg.get(
                "allowed_cell_metadata_keys", ""
            ).split(),
        )
        if nb2str(nb) != book.path.read_text(encoding="utf-8"):
            dirty.append(f"{book.path.name} is not clean: run nbdev_clean")
    return dirty


def first_cells(root: Path) -> list[str]:
    "A notebook begins with `# Title` and `> description` alone in a cell; one that exports says where to."
    bad = []
    for book in notebooks(root):
        first = book.cells[0] if book.cells else None
        if (
            not first
            or first.kind != "markdown"
            or not re.fullmatch(r"# [^\n]+\n+> [^\n]+\s*", first.source)
        ):
            bad.append(
                f"{book.path.name} does not begin with a cell of '# Title', a blank line and '> description', and nothing else"
            )
        if any(c.exported for c in book.cells) and not book.module:
            bad.append(
                f"{book.path.name} exports, but has no cell '#| default_exp name'"
            )
    return bad


def import_order(root: Path) -> list[str]:
    "A notebook imports only modules that notebooks before it export, and no number is used twice."
    lib, books, bad = settings(root)["lib_name"], notebooks(root), []
    number = {b.module: b.number for b in books if b.module}
    for a, b in zip(books, books[1:]):
        if a.number == b.number < float("inf"):
            bad.append(
                f"{a.path.name} and {b.path.name} have the same number: give each its own"
            )
    for book in books:
        for cell in book.cells:
            for name in sorted(imported(cell.tree, lib)):
                if name not in number:
                    bad.append(
                        f"{cell.where} imports {lib}.{name}, which no notebook exports"
                    )
                elif number[name] >= book.number and book.number < float("inf"):
                    bad.append(
                        f"{cell.where} imports {lib}.{name}, which notebook {number[name]:02.0f} exports: "
                        f"import from smaller numbers only, or move the code"
                    )
    return bad


def cell_length(root: Path) -> list[str]:
    "An exported cell has at most 40 lines."
    lengths = [
        (c, len(c.code.strip("\n").splitlines()))
        for b in notebooks(root)
        for c in b.cells
        if c.exported
    ]
    return [
        f"{c.where} exports {n} lines, at most {MAX_LINES} are wanted: one idea a cell, split it"
        for c, n in lengths
        if n > MAX_LINES
    ]


def imports_alone(root: Path) -> list[str]:
    "An exported cell with top-level imports holds nothing else, and no star import."
    bad = []
    for cell in (c for b in notebooks(root) for c in b.cells if c.exported):
        imports = [n for n in cell.tree if isinstance(n, (ast.Import, ast.ImportFrom))]
        if imports and len(imports) < len(cell.tree):
            bad.append(
                f"{cell.where} mixes exported imports with other code: put the imports in a cell of their own"
            )
        if any(a.name == "*" for n in imports for a in n.names):
            bad.append(f"{cell.where} exports a star import: name what it needs")
    return bad


def names_bound_once(root: Path) -> list[str]:
    "A name that a notebook exports is bound in no other cell of it."
    bad = []
    for book in notebooks(root):
        names = {c.where: bound(c) for c in book.cells if c.kind == "code"}
        for cell in (c for c in book.cells if c.exported):
            for name in sorted({n.name for n in defined(cell)}):
                again = [
                    where
                    for where, others in names.items()
                    if where != cell.where and name in others
                ]
                bad += [
                    f"{cell.where} exports {name}, which {where} binds again: choose another name there"
                    for where in again
                ]
    return bad


def exports_shown(root: Path) -> list[str]:
    "Every public name that a notebook exports is used in a cell of it that is not exported: an example or a test."
    bad = []
    for book in notebooks(root):
        used = "\n".join(
            c.code for c in book.cells if c.kind == "code" and not c.exported
        )
        for cell in (c for c in book.cells if {"export", "exports"} & c.flags.keys()):
            bad += [
                f"{cell.where} exports {n.name}, which no other cell of the notebook uses: show it and test it"
                for n in defined(cell)
                if not n.name.startswith("_") and not re.search(rf"\b{n.name}\b", used)
            ]
    return bad


def documented(root: Path) -> list[str]:
    "Every public function and class that is exported has a docstring."
    cells = [
        c
        for b in notebooks(root)
        for c in b.cells
        if {"export", "exports"} & c.flags.keys()
    ]
    return [
        f"{c.where}: {n.name} has no docstring: one sentence"
        for c in cells
        for n in c.tree
        if isinstance(n, SCOPES)
        and not n.name.startswith("_")
        and not ast.get_docstring(n)
    ]


def no_control_characters(root: Path) -> list[str]:
    "No tab or other control character in the text of a notebook: it is what a lost backslash of a formula leaves."
    return [
        f"{c.where} has the control character {m[0]!r}: a formula has lost a backslash"
        for b in notebooks(root)
        for c in b.cells
        if c.kind == "markdown" and (m := re.search(r"[\x00-\x09\x0b-\x1f]", c.source))
    ]


def outputs_quiet(root: Path) -> list[str]:
    "Stored figures have at most 60 KB; no error, progress bar or timing is stored."
    noise, bad = re.compile(r"\d+%\|.*\||\d\s?(?:it/s|s/it)\b|Wall time:"), []
    for cell in (c for b in notebooks(root) for c in b.cells):
        for out in cell.outputs:
            data = out.get("data", {})
            size = len(b64decode(readme.text(data.get("image/png", "")))) + len(
                readme.text(data.get("image/svg+xml", ""))
            )
            said = readme.text(out.get("text", "")) + readme.text(
                data.get("text/plain", "")
            )
            if size > MAX_PICTURE:
                bad.append(
                    f"{cell.where} stores a figure of {size // 1024} KB, at most {MAX_PICTURE // 1024} are wanted: lower its dpi"
                )
            if out["output_type"] == "error":
                bad.append(
                    f"{cell.where} stores an error: mend it, or show it with test_fail or try"
                )
            if m := noise.search(said):
                bad.append(
                    f"{cell.where} stores a progress bar or a timing, {m[0]!r}: switch it off there"
                )
    return bad


def speaks_of_itself(root: Path) -> list[str]:
    "No path of somebody's machine in the notebooks, the package or the pages."
    path, bad = (
        re.compile(
            r"(?<![\w.~/-])/(?:work|root|home|Users|tmp|opt|mnt|private)(?:/[\w.-]+)+"
        ),
        [],
    )
    for cell in (c for b in notebooks(root) for c in b.cells):
        stored = [
            {
                k: v
                for k, v in (o | o.get("data", {})).items()
                if k not in ("data", "image/png")
            }
            for o in cell.outputs
        ]
        stored = json.dumps(stored, ensure_ascii=False).replace("\\n", " ")
        bad += [
            f"{cell.where} names the path {m[0]}: take it from an argument or the environment"
            for m in path.finditer(cell.source)
        ]
        bad += [
            f"{cell.where} stores the path {m[0]} in its output: print something else"
            for m in path.finditer(stored)
        ]
    for file in [
        *modules(root),
        *(
            f
            for kind in ("md", "ini", "yml", "toml", "txt")
            for f in root.glob(f"*.{kind}")
        ),
    ]:
        bad += [
            f"{file.relative_to(root)} names the path {m[0]}"
            for m in path.finditer(file.read_text(encoding="utf-8"))
        ]
    return bad


def readme_in_sync(root: Path) -> list[str]:
    "README.md has the headings, commands and code of nbs/index.ipynb: it is made from it."
    return [
        f"{name} is not what nbs/index.ipynb gives: edit the notebook, then run python tools/readme.py"
        for name in readme.stale(root)
    ]


def links_resolve(root: Path) -> list[str]:
    "Relative links in notebooks and pages lead to files that exist."
    pages = [
        (c.where, root / "nbs", c.source)
        for b in notebooks(root)
        for c in b.cells
        if c.kind == "markdown"
    ]
    pages += [(p.name, root, p.read_text(encoding="utf-8")) for p in root.glob("*.md")]
    bad = []
    for where, folder, source in pages:
        prose = re.sub(
            r"^\s*(```|~~~).*?^\s*\1|`[^`\n]*`", "", source, flags=re.M | re.S
        )
        targets = [m[2].split("#")[0] for m in readme.LINK.finditer(prose)]
        bad += [
            f"{where} links to {t}, which does not exist"
            for t in targets
            if not (folder / t).exists()
        ]
    return bad


def quarto_linked(root: Path) -> list[str]:
    "nbs/_quarto.yml is a symbolic link to the one at the top."
    link = root / "nbs" / "_quarto.yml"
    good = link.is_symlink() and os.readlink(link) == "../_quarto.yml" and link.exists()
    return (
        []
        if good
        else [
            "nbs/_quarto.yml is not a symbolic link to ../_quarto.yml: run ln -sfn ../_quarto.yml nbs/_quarto.yml"
        ]
    )


def lint(root: Path) -> list[str]:
    "ruff finds no undefined name, unused variable or import, or star import."
    paths = [
        p
        for p in (
            settings(root)["lib_name"],
            "tools",
            "tests",
            "setup.py",
            "conftest.py",
        )
        if (root / p).exists()
    ]
    run = python(
        "-m",
        "ruff",
        "check",
        "--no-cache",
        "--quiet",
        "--output-format",
        "concise",
        *paths,
        cwd=root,
    )
    return (
        [line for line in (run.stdout + run.stderr).splitlines() if line]
        if run.returncode
        else []
    )


def nothing_pickled(root: Path) -> list[str]:
    "The package neither writes nor reads pickles: weights are safetensors, the rest is JSON."
    bad = []
    for file in modules(root):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            at = f"{file.relative_to(root)}, line {getattr(node, 'lineno', 0)}"
            names = (
                {a.name.split(".")[0] for a in node.names}
                if isinstance(node, ast.Import)
                else {(node.module or "").split(".")[0]}
                if isinstance(node, ast.ImportFrom)
                else set()
            )
            if names & PICKLES:
                bad.append(
                    f"{at} imports {', '.join(names & PICKLES)}: use safetensors and JSON"
                )
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) in ("torch.load", "torch.save"):
                bad.append(f"{at} calls {ast.unparse(node.func)}: use safetensors")
            if any(
                k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
                for k in node.keywords
            ):
                bad.append(f"{at} allows pickles: store plain arrays")
    return bad


def imports_declared(root: Path) -> list[str]:
    "The package imports only what settings.ini declares as its own requirements or those of its data."
    cfg, bad = settings(root), []

    def plain(name):
        return name.lower().replace("_", "-")

    declared = {
        plain(re.split(r"[<>=!~\[;]", r)[0])
        for key in ("requirements", "data_requirements")
        for r in cfg.get(key, "").split()
    }
    for file in modules(root):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (
                {n.split(".")[0] for n in names}
                - sys.stdlib_module_names
                - {cfg["lib_name"]}
            ):
                if plain(DISTRIBUTION.get(name, name)) not in declared:
                    bad.append(
                        f"{file.relative_to(root)}, line {node.lineno} imports {name}, which settings.ini does not require"
                    )
    return bad


IMPORT = """
import importlib, json, pkgutil, socket, sys, time
class Closed(socket.socket):
    def __init__(self, *args, **kwargs): raise OSError("the import opened a socket")
def closed(*args, **kwargs): raise OSError("the import asked for an address")
socket.socket, socket.create_connection, socket.getaddrinfo = Closed, closed, closed
import torch
before, start = set(sys.modules), time.perf_counter()
lib = importlib.import_module(sys.argv[1])
alone = time.perf_counter() - start
for module in pkgutil.iter_modules(lib.__path__): importlib.import_module(f"{lib.__name__}.{module.name}")
print(json.dumps(dict(alone=alone, all=time.perf_counter() - start, new=sorted({m.split(".")[0] for m in set(sys.modules) - before}))))
"""


def imported_alone(root: Path) -> dict:
    "What an import of the package and all its modules does: seconds on top of torch, modules loaded."
    run = python(
        "-c",
        IMPORT,
        settings(root)["lib_name"],
        cwd=root,
        env={"PYTHONPATH": str(root)},
    )
    return dict(error=run.stderr) if run.returncode else json.loads(run.stdout)


def import_is_light(root: Path) -> list[str]:
    "Importing the package and all its modules opens no socket and loads nothing heavy."
    said = imported_alone(root)
    if "error" in said:
        return [f"the package cannot be imported:\n{said['error']}"]
    return [
        f"importing the package loads {name}: import it inside the function that needs it"
        for name in HEAVY
        if name in said["new"]
    ]


RULES = [
    export_in_sync,
    version_matches,
    notebooks_clean,
    first_cells,
    import_order,
    cell_length,
    imports_alone,
    names_bound_once,
    exports_shown,
    documented,
    no_control_characters,
    outputs_quiet,
    speaks_of_itself,
    readme_in_sync,
    links_resolve,
    quarto_linked,
    lint,
    nothing_pickled,
    imports_declared,
    import_is_light,
]


# Advice: what a rule cannot settle; printed, but it fails nothing


def parameters_described(root: Path) -> list[str]:
    "Every parameter of an exported function has a comment behind it: its shape, unit or range."
    said = []
    for cell in (
        c
        for b in notebooks(root)
        for c in b.cells
        if {"export", "exports"} & c.flags.keys()
    ):
        lines = cell.code.splitlines()
        for node in (
            n
            for n in cell.tree
            if isinstance(n, SCOPES[:2]) and not n.name.startswith("_")
        ):
            args = [
                a
                for a in (
                    *node.args.posonlyargs,
                    *node.args.args,
                    *node.args.kwonlyargs,
                )
                if a.arg not in ("self", "cls")
            ]
            bare = ", ".join(a.arg for a in args if "#" not in lines[a.end_lineno - 1])
            if bare:
                said.append(f"{cell.where}: {node.name} says nothing of {bare}")
    return said


def shown_nearby(root: Path) -> list[str]:
    "An exported name is used, in an example or a test, within three cells."
    said = []
    for book in notebooks(root):
        for i, cell in enumerate(book.cells):
            after = "\n".join(
                c.code
                for c in book.cells[i + 1 : i + 4]
                if c.kind == "code" and not c.exported
            )
            names = (
                [n.name for n in defined(cell) if not n.name.startswith("_")]
                if {"export", "exports"} & cell.flags.keys()
                else []
            )
            said += [
                f"{cell.where} exports {n}, which the next three cells do not use"
                for n in names
                if not re.search(rf"\b{n}\b", after)
            ]
    return said


def notebook_size(root: Path) -> list[str]:
    "A notebook exports about 15 names and has about 80 cells at most."
    said = []
    for book in notebooks(root):
        count = sum(
            not n.name.startswith("_")
            for c in book.cells
            if {"export", "exports"} & c.flags.keys()
            for n in defined(c)
        )
        if count > 15 or len(book.cells) > 80:
            said.append(
                f"{book.path.name} exports {count} names from {len(book.cells)} cells"
            )
    return said


def long_lines(root: Path) -> list[str]:
    "A line of code in a notebook has at most 140 characters."
    cells = [c for b in notebooks(root) for c in b.cells if c.kind == "code"]
    return [
        f"{c.where} has a line of {len(line)} characters: {line.strip()[:50]} ..."
        for c in cells
        for line in c.source.splitlines()
        if len(line) > MAX_WIDTH
    ]


def import_time(root: Path) -> list[str]:
    "Importing every module takes at most 0.3 s on top of torch; said, not tested, since a busy machine is slow."
    seconds = min(imported_alone(root).get("all", 0.0) for _ in range(3))
    return [
        f"importing every module takes {seconds:.2f} s on top of torch, at most {MAX_IMPORT} are wanted"
    ] * (seconds > MAX_IMPORT)


ADVICE = [parameters_described, shown_nearby, notebook_size, long_lines, import_time]


if __name__ == "__main__":
    if "--list" in sys.argv:
        sys.exit(
            print(
                "\n".join(
                    f"{rule.__name__:20} {rule.__doc__}" for rule in RULES + ADVICE
                )
            )
        )
    root, count = Path(__file__).resolve().parents[1], 0
    for rule in RULES:
        complaints = rule(root)
        count += len(complaints)
        print(
            f"{'ok' if not complaints else 'NO':3} {rule.__name__}",
            *complaints,
            sep="\n      ",
        )
    for rule in ADVICE:
        said = rule(root)
        print(
            f"({len(said)}) {rule.__name__}",
            *(said if "--advice" in sys.argv else []),
            sep="\n      ",
        )
    sys.exit(f"{count} complaints" if count else 0)
