"""The style rules, each a function from the project's folder to a list of complaints.

    python tools/style.py              prints every complaint, exits with 1 if there are
    python tools/style.py RULE ...     checks these rules alone
    python tools/style.py --advice     prints also what is only advised
    python tools/style.py --list       prints the rules and the advice

A complaint says where, what was found and what to do. `tests/test_style.py` runs every
rule on this project, and shows each one failing on a project made to break it.
"""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from base64 import b64decode
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import readme

MAX_LINES = 40  # of an exported cell, decorators included, directives not
MAX_WIDTH = 88  # characters of a line of code
MAX_POSITIONAL = 8  # parameters of one function that can be passed by position
MAX_PICTURE = 60 * 1024  # bytes of one stored figure
MAX_IMPORT = 0.3  # seconds that every module together may take on top of torch
HEAVY = (
    "sklearn datasets accelerate matplotlib torchdiffeq huggingface_hub PIL pandas "
    "IPython"
).split()
DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "pywt": "pywavelets",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

# words that no notebook uses, and what to write instead
WORDS = {
    "room": "notebook",
    "rooms": "notebooks",
    "house": "style, or project",
    "clock": "schedule, B or timer",
    "clocks": "schedules",
}
# what may be a parameter of a cached function: these are hashed by their value
PLAIN = set(
    "int float complex bool str bytes None tuple frozenset Path Literal Optional Union "
    "torch.dtype torch.device".split()
)
# what was once used to remember results beside the values that they belong to
REMEMBERED = {"_latest", "_recent", "_memo", "_cache", "_cached", "once"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SHAPED = r"Tensor|tuple|list|dict|Callable|object|ndarray"  # a comment says more
SCOPES = (*FUNCTIONS, ast.ClassDef)
SCRIPTS = ("tools", "tests", "studies", "benchmarks", "conftest.py", "setup.py")


# What the rules look at


@dataclass
class Cell:
    "One cell of a notebook."

    where: str  # in words
    kind: str  # code, markdown or raw
    source: str  # all of it
    flags: dict  # its `#|` directives
    code: str  # what is below them
    outputs: list = field(default_factory=list)  # as stored

    @property
    def exported(self) -> bool:
        "Whether it goes into the package."
        return bool({"export", "exports", "exporti"} & self.flags.keys())

    @property
    def public(self) -> bool:
        "Whether it goes into the package and its documentation."
        return bool({"export", "exports"} & self.flags.keys())

    @property
    def python(self) -> str:
        "The code, line by line; `pass` for magics where there are any."
        try:
            ast.parse(self.code)
        except SyntaxError:
            return re.sub(r"^(\s*)[%!].*$", r"\1pass", self.code, flags=re.M)
        return self.code

    @property
    def tree(self) -> list:
        "The statements of a code cell; none where it does not parse: it fails anyway."
        try:
            return ast.parse(self.python).body if self.kind == "code" else []
        except SyntaxError:
            return []

    @property
    def comments(self) -> dict[int, str]:
        "Its comments by line, empty ones left out."
        if not self.tree:
            return {}
        tokens = tokenize.generate_tokens(io.StringIO(self.python).readline)
        found = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
        return {line: text for line, text in found.items() if text.strip("# ")}


@dataclass
class Notebook:
    "One notebook."

    path: Path
    cells: list[Cell]

    @property
    def number(self) -> float:
        "Its place in the reading order; without a number it comes last."
        m = re.match(r"(\d+)([a-z]?)_", self.path.name)  # 08b stands between 08 and 09
        return int(m[1]) + (ord(m[2]) - 96 if m[2] else 0) / 100 if m else float("inf")

    @property
    def module(self) -> str | None:
        "The module that it exports."
        named = (c.flags["default_exp"] for c in self.cells if "default_exp" in c.flags)
        return next(named, None)


@dataclass
class Thing:
    "A function, class, method or property that a notebook exports."

    cell: Cell
    name: str  # `f`, `C` or `C.f`
    node: ast.AST

    @property
    def is_function(self) -> bool:
        "Whether it has parameters."
        return isinstance(self.node, FUNCTIONS)

    def complain(self, what: str) -> str:
        "A complaint about it."
        return f"{self.cell.where}: {self.name} {what}"

    def commented(self, lines: dict[int, str]) -> set[str]:
        "Of names by the lines they begin at, those that fastcore's docments describes."
        code, found = ["", *self.cell.python.splitlines()], set()
        for line, name in lines.items():
            alone = code[line - 1].lstrip().startswith("#")
            if {line, line - 1 if alone else line} & self.cell.comments.keys():
                found.add(name)
        return found


def settings(root: Path):
    "settings.ini, the single source of metadata."
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def notebook(path: Path) -> Notebook:
    "The notebook in a file."
    cells = []
    for i, raw in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source, kind = readme.text(raw["source"]), raw["cell_type"]
        flags, code = readme.directives(source) if kind == "code" else ({}, "")
        where = f"{path.name}, cell {i} ({raw.get('id', 'no id')})"
        cells.append(Cell(where, kind, source, flags, code, raw.get("outputs", [])))
    return Notebook(path, cells)


def notebooks(root: Path) -> list[Notebook]:
    "Every notebook in reading order."
    books = [notebook(path) for path in (root / "nbs").glob("[!._]*.ipynb")]
    return sorted(books, key=lambda b: (b.number, b.path.name))


def all_cells(root: Path) -> list[Cell]:
    "Every cell of every notebook in reading order."
    return [c for b in notebooks(root) for c in b.cells]


def modules(root: Path) -> list[Path]:
    "The exported modules."
    return sorted((root / settings(root)["lib_name"]).rglob("*.py"))


def scripts(root: Path) -> list[Path]:
    "The Python files beside the package."
    there = [root / name for name in SCRIPTS if (root / name).exists()]
    return [f for p in there for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]


def parsed(file: Path) -> ast.Module:
    "The syntax tree of a Python file."
    return ast.parse(file.read_text(encoding="utf-8"))


def python(*args, **kwargs) -> subprocess.CompletedProcess:
    "Run this interpreter, as if no notebook test were under way."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    env |= kwargs.pop("env", {})
    command = [sys.executable, *map(str, args)]
    return subprocess.run(
        command, env=env, text=True, encoding="utf-8", capture_output=True, **kwargs
    )


def ruff(root: Path, *args) -> list[str]:
    "What ruff has to say, line by line; nothing where all is well."
    run = python("-m", "ruff", *args, cwd=root)
    said = (run.stdout + run.stderr).splitlines() if run.returncode else []
    return [line for line in said if line]


def patched(node: ast.AST) -> bool:
    "Whether a function is added to a class by `@patch`."
    return any(ast.unparse(d).startswith("patch") for d in node.decorator_list)


def defined(cell: Cell) -> list:
    "The functions and classes that a cell binds at top level; `@patch` binds none."
    return [n for n in cell.tree if isinstance(n, SCOPES) and not patched(n)]


def bound(cell: Cell) -> set[str]:
    "Every name that a cell binds at top level."
    names = {n.name for n in defined(cell)}
    for node in cell.tree:
        if isinstance(node, SCOPES):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name.split(".")[0] for a in node.names}
        here = [n for n in walk_here(node) if isinstance(n, ast.Name)]
        names |= {n.id for n in here if isinstance(n.ctx, ast.Store)}
    return names


def walk_here(node: ast.AST) -> Iterator[ast.AST]:
    "Like ast.walk, without what lies in a scope of its own."
    yield node
    loops = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*SCOPES, ast.Lambda, *loops)):
            yield from walk_here(child)


def imported(nodes: list, lib: str) -> set[str]:
    "The modules of the package that these statements import, anywhere in them."
    found, inside = set(), lib + "."
    for node in (n for top in nodes for n in ast.walk(top)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
            found |= {n.split(".")[1] for n in names if n.startswith(inside)}
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == 1:
            module = f"{lib}.{module}".rstrip(".")
        if module == lib:
            found |= {a.name for a in node.names if not a.name.startswith("_")}
        elif module.startswith(inside):
            found.add(module.split(".")[1])
    return found


def is_public(name: str) -> bool:
    "Whether a name is part of the surface; of Python's own, two are called by readers."
    return not name.startswith("_") or name in ("__init__", "__call__")


def decorated(node: ast.AST, pattern: str) -> bool:
    "Whether a decorator matches `pattern` from its start."
    return any(re.match(pattern, ast.unparse(d)) for d in node.decorator_list)


def things(root: Path, private: bool = False) -> list[Thing]:
    "Everything public that the notebooks export, setters aside; or the private, too."
    found = []
    for cell in (c for c in all_cells(root) if c.public):
        for node in (n for n in cell.tree if isinstance(n, SCOPES)):
            owner = ""
            if isinstance(node, FUNCTIONS) and patched(node) and node.args.args:
                hint = node.args.args[0].annotation
                owner = ast.unparse(hint).strip("'\"") if hint else ""
            if private or is_public(node.name) and not owner.startswith("_"):
                name = f"{owner}.{node.name}".lstrip(".")
                found += [Thing(cell, name, node), *members(cell, node, private)]
    return found


def members(cell: Cell, node: ast.AST, private: bool) -> list[Thing]:
    "The methods and properties in the body of a class."
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [
        Thing(cell, f"{node.name}.{n.name}", n)
        for n in body
        if isinstance(n, FUNCTIONS)
        and (private or is_public(n.name))
        and not decorated(n, r"\w+\.(setter|deleter)$|(typing\.)?overload$")
    ]


def inherits_words(root: Path) -> set[str]:
    "Methods `Class.name` that override one which a base class here has described."
    every = things(root)
    classes = [t for t in every if isinstance(t.node, ast.ClassDef)]
    bases = {
        t.name: [ast.unparse(b).split(".")[-1] for b in t.node.bases] for t in classes
    }
    said = {t.name for t in every if t.is_function and ast.get_docstring(t.node)}

    def above(name: str) -> set[str]:
        found = set(bases.get(name, ()))
        return found.union(*(above(b) for b in found)) if found else found

    out = set()
    for t in (t for t in every if "." in t.name):
        owner, _, method = t.name.rpartition(".")
        if any(f"{b}.{method}" in said for b in above(owner)):
            out.add(t.name)
    return out


def parameters(node: ast.AST) -> list[ast.arg]:
    "The parameters of a function, `self`, `*args` and those called `_` aside."
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    return [p for p in every if p.arg not in ("self", "cls") and p.arg.strip("_")]


def returns(node: ast.AST) -> bool:
    "Whether a function returns or yields a value, or says so."
    hint = ast.unparse(node.returns) if node.returns else ""
    if hint:
        return hint not in ("None", "NoReturn", "Never")
    own = [n for statement in node.body for n in walk_here(statement)]
    ends = [n for n in own if isinstance(n, (ast.Return, ast.Yield, ast.YieldFrom))]
    return any(n.value and ast.unparse(n.value) != "None" for n in ends)


# The rules: the package is what the notebooks export


def export_in_sync(root: Path) -> list[str]:
    "The package is what the notebooks export, `_modidx.py` included."
    lib = settings(root)["lib_name"]
    export = "from nbdev.doclinks import nbdev_export; nbdev_export()"

    def read(base):
        return {p.relative_to(base).as_posix(): p.read_bytes() for p in modules(base)}

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        shutil.copy(root / "settings.ini", fresh)
        (fresh / "nbs").mkdir()
        for book in notebooks(root):
            shutil.copy(book.path, fresh / "nbs")
        run = python("-c", export, cwd=fresh)
        if run.returncode:
            return [f"nbdev_export fails:\n{run.stderr}"]
        want, got = read(fresh), read(root)
    init = f"{lib}/__init__.py"  # the version line is a rule of its own
    names = sorted((want.keys() | got.keys()) - {init})
    return [
        f"{name} is not what the notebooks export: edit the notebook, not the module, "
        f"then run nbdev_export"
        f"{'' if name in want else ' (no notebook exports it: delete it)'}"
        for name in names
        if want.get(name) != got.get(name)
    ]


def version_matches(root: Path) -> list[str]:
    "`__version__` is the version in settings.ini."
    cfg = settings(root)
    path = root / cfg["lib_name"] / "__init__.py"
    if not path.is_file():
        return [f"{cfg['lib_name']}/__init__.py is missing: run nbdev_export"]
    code = path.read_text(encoding="utf-8")
    got = re.search(r"^__version__\s*=\s*[\"'](.*)[\"']", code, re.M)
    if got and got[1] == cfg["version"]:
        return []
    want = cfg["version"]
    return [
        f"__version__ is {got and got[1]}, settings.ini says {want}: run nbdev_export"
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
    "A notebook begins with title and description alone, and says where it exports to."
    bad = []
    for book in notebooks(root):
        first, name = book.cells[0] if book.cells else None, book.path.name
        title = re.compile(r"# [^\n]+\n+> [^\n]+\s*")
        if not first or first.kind != "markdown" or not title.fullmatch(first.source):
            bad.append(
                f"{name} does not begin with a cell of '# Title', a blank line and "
                f"'> description', and nothing else"
            )
        if any(c.exported for c in book.cells) and not book.module:
            bad.append(f"{name} exports, but has no cell '#| default_exp name'")
    return bad


def import_order(root: Path) -> list[str]:
    "A notebook imports only what notebooks before it export; no number is used twice."
    lib, books, bad = settings(root)["lib_name"], notebooks(root), []
    number = {b.module: b.number for b in books if b.module}
    for a, b in zip(books, books[1:]):
        if a.number == b.number < float("inf"):
            bad.append(
                f"{a.path.name} and {b.path.name} have the same number: give each its "
                f"own"
            )
    for book in books:
        for cell in book.cells:
            for name in sorted(imported(cell.tree, lib)):
                says = f"{cell.where} imports {lib}.{name}, which"
                if name not in number:
                    bad.append(f"{says} no notebook exports")
                elif number[name] >= book.number and book.number < float("inf"):
                    bad.append(
                        f"{says} notebook {number[name]:02.0f} exports: import from "
                        f"smaller numbers only, or move the code"
                    )
    return bad


# The rules: cells


def cell_length(root: Path) -> list[str]:
    "An exported cell has at most 40 lines."
    cells = [c for c in all_cells(root) if c.exported]
    lengths = [(c, len(c.code.strip("\n").splitlines())) for c in cells]
    return [
        f"{c.where} exports {n} lines, at most {MAX_LINES} are wanted: one idea a "
        f"cell, split it"
        for c, n in lengths
        if n > MAX_LINES
    ]


def imports_alone(root: Path) -> list[str]:
    "An exported cell with imports holds nothing else, and no star import."
    bad = []
    for cell in (c for c in all_cells(root) if c.exported):
        imports = [n for n in cell.tree if isinstance(n, (ast.Import, ast.ImportFrom))]
        if imports and len(imports) < len(cell.tree):
            bad.append(
                f"{cell.where} mixes exported imports with other code: put the imports "
                f"in a cell of their own"
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
                bad += [
                    f"{cell.where} exports {name}, which {where} binds again: choose "
                    f"another name there"
                    for where, others in names.items()
                    if where != cell.where and name in others
                ]
    return bad


def exports_shown(root: Path) -> list[str]:
    "Every public name that a notebook exports is used in a cell that is not exported."
    bad = []
    for book in notebooks(root):
        shown = [c.code for c in book.cells if c.kind == "code" and not c.exported]
        used = "\n".join(shown)
        for cell in (c for c in book.cells if c.public):
            bad += [
                f"{cell.where} exports {n.name}, which no other cell of the notebook "
                f"uses: show it and test it"
                for n in defined(cell)
                if not n.name.startswith("_") and not re.search(rf"\b{n.name}\b", used)
            ]
    return bad


def words_plain(root: Path) -> list[str]:
    "No notebook uses a word that this project has a better one for, names included."
    bad = []
    for cell in all_cells(root):
        text = re.sub(r"https?://\S+|\btime\.\w+", "", cell.source)
        pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)
        bad += [
            f"{cell.where} says {word!r}: write {WORDS[word]}"
            for word in sorted({p.lower() for p in pieces} & WORDS.keys())
        ]
    return bad


def no_control_characters(root: Path) -> list[str]:
    "No control character in the text of a notebook: a formula has lost a backslash."
    return [
        f"{c.where} has the control character {m[0]!r}: a formula has lost a backslash"
        for c in all_cells(root)
        if c.kind == "markdown" and (m := re.search(r"[\x00-\x09\x0b-\x1f]", c.source))
    ]


def outputs_quiet(root: Path) -> list[str]:
    "Stored figures have at most 60 KB; no error, progress bar or timing is stored."
    noise, bad = re.compile(r"\d+%\|.*\||\d\s?(?:it/s|s/it)\b|Wall time:"), []
    for cell, out in ((c, out) for c in all_cells(root) for out in c.outputs):
        data = out.get("data", {})
        png = b64decode(readme.text(data.get("image/png", "")))
        size = len(png) + len(readme.text(data.get("image/svg+xml", "")))
        said = readme.text(out.get("text", ""))
        said += readme.text(data.get("text/plain", ""))
        if size > MAX_PICTURE:
            bad.append(
                f"{cell.where} stores a figure of {size // 1024} KB, at most "
                f"{MAX_PICTURE // 1024} are wanted: lower its dpi"
            )
        if out["output_type"] == "error":
            bad.append(
                f"{cell.where} stores an error: mend it, or show it with test_fail or "
                f"try"
            )
        if m := noise.search(said):
            bad.append(
                f"{cell.where} stores a progress bar or a timing, {m[0]!r}: switch it "
                f"off there"
            )
    return bad


# The rules: docments


def documented(root: Path) -> list[str]:
    "Every public function, class, method and property has a docstring, or inherits it."
    inherited = inherits_words(root)
    bare = [
        t
        for t in things(root)
        if not t.name.endswith(".__init__")
        and t.name not in inherited
        and not ast.get_docstring(t.node)
    ]
    bad = [t.complain("has no docstring: one sentence") for t in bare]
    for t in things(root):
        body = t.node.body if isinstance(t.node, ast.ClassDef) else []
        for n in (n for n in body if isinstance(n, ast.Assign)):
            name, value = ast.unparse(n.targets[0]), n.value
            if name.startswith("_") or not isinstance(value, ast.Call):
                continue
            makes = ast.unparse(value.func).split(".")[-1]
            said = any(k.arg == "doc" for k in value.keywords) or len(value.args) > 3
            if makes == "cached_property" or makes == "property" and not said:
                bad.append(
                    f"{t.cell.where}: {t.name}.{name} has no docstring: write it with "
                    f"@{makes} and def"
                )
    return bad


def parameters_described(root: Path) -> list[str]:
    "Every parameter of what is exported has a comment: its shape, unit or range."
    bad, inherited = [], inherits_words(root)
    for t in (t for t in things(root) if t.is_function and t.name not in inherited):
        lines = {p.lineno: p.arg for p in parameters(t.node)}
        if t.node.returns:  # of two in a line, the later one has the comment
            lines[t.node.returns.lineno] = "return"
        said = t.commented(lines)
        bare = [p.arg for p in parameters(t.node) if p.arg not in said]
        if bare:
            bad.append(
                t.complain(
                    f"says nothing of {', '.join(bare)}: put a comment where each "
                    f"begins, or on the line above"
                )
            )
    return bad


def returns_described(root: Path) -> list[str]:
    "Tensors and collections that exported code returns have a comment: their shape."
    bad, inherited = [], inherits_words(root)
    for t in (t for t in things(root) if t.is_function and returns(t.node)):
        hint = t.node.returns
        plain = hint and not re.search(SHAPED, ast.unparse(hint))
        prop = decorated(t.node, r"(functools\.)?(cached_)?property$|patch\(as_prop")
        if plain or hint and prop or t.name in inherited:
            continue  # a class or a number says what it is; a property in its docstring
        if not hint or not t.commented({hint.lineno: "return"}):
            bad.append(
                t.complain("says nothing of what it returns: `) -> Tensor:  # (n, k)`")
            )
    return bad


def fields_described(root: Path) -> list[str]:
    "Every field of an exported dataclass or named tuple has a comment."
    bad = []
    for t in (t for t in things(root) if isinstance(t.node, ast.ClassDef)):
        bases = {ast.unparse(b).split(".")[-1] for b in t.node.bases}
        if not decorated(t.node, r"(dataclasses\.)?dataclass\b") and not bases & {
            "NamedTuple",
            "TypedDict",
        }:
            continue
        fields = [
            n
            for n in t.node.body
            if isinstance(n, ast.AnnAssign)
            and not ast.unparse(n.target).startswith("_")
            and "ClassVar" not in ast.unparse(n.annotation)
        ]
        lines = {n.lineno: ast.unparse(n.target) for n in fields}
        said = t.commented(lines)
        bare = [name for name in lines.values() if name not in said]
        if bare:
            bad.append(
                t.complain(
                    f"says nothing of its fields {', '.join(bare)}: put a comment "
                    f"where each begins, or on the line above"
                )
            )
    return bad


def few_positional(root: Path) -> list[str]:
    "No exported function has more than 8 parameters that can be passed by position."
    bad = []
    for t in (t for t in things(root, private=True) if t.is_function):
        a = t.node.args
        names = [p.arg for p in (*a.posonlyargs, *a.args)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MAX_POSITIONAL:
            bad.append(
                t.complain(
                    f"takes {count} parameters by position, at most {MAX_POSITIONAL} "
                    f"are wanted: put `*,` before the others"
                )
            )
    return bad


# The rules: what the package does not do


def no_hidden_memory(root: Path) -> list[str]:
    "No cache is keyed by the identity, name or version of a value."
    bad = []
    for file in modules(root):
        if file.name == "_modidx.py":
            continue
        tree = parsed(file)
        for node in ast.walk(tree):
            for what in kept(node, tree):
                line = getattr(node, "lineno", 0)
                bad.append(f"{file.relative_to(root)}, line {line} {what}")
    return bad


def kept(node: ast.AST, tree: ast.Module) -> Iterator[str]:
    "What is wrong about one node: how it remembers something by what it is not."
    name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", "")))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "id":
        yield "asks for an id(): another object can have it later; compare values"
    if name == "_version" or getattr(node, "value", None) == "_version":
        yield "reads the _version of a tensor: pass on what was computed from it"
    if name == "__qualname__" and not full_name(node, tree):
        yield "uses __qualname__ without the module: two functions can share it"
    kept_in = not isinstance(node, ast.Name) and name in REMEMBERED
    if kept_in or re.fullmatch(r"Weak\w*Dictionary", str(name)):
        yield f"remembers in {name}: compute once before the loop and pass it on"
    if isinstance(node, ast.Compare) and by_identity(node):
        yield f"compares {ast.unparse(node)} by identity: compute it where it is needed"
    if isinstance(node, FUNCTIONS) and decorated(node, CACHE):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        odd = [a.arg for a in every if not is_plain(a.annotation)]
        odd += [a.arg for a in (node.args.vararg, node.args.kwarg) if a]
        if odd:
            yield (
                f"caches {node.name} by {', '.join(odd)}: cache only what is annotated "
                f"as a number, a string or a tuple of them"
            )
    if isinstance(node, ast.Call) and re.match(CACHE, ast.unparse(node.func)):
        if any(not isinstance(a, ast.Constant) for a in node.args):
            yield f"calls {ast.unparse(node)}: decorate a function with the cache"


CACHE = r"(functools\.)?(lru_cache|cache)\b"


def full_name(node: ast.AST, tree: ast.Module) -> bool:
    "Whether a `__qualname__` stands beside its `__module__`, as in a description."
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
    around = [ast.unparse(s) for s in strings if node in ast.walk(s)]
    return any("__module__" in s for s in around)


def by_identity(node: ast.Compare) -> bool:
    "Whether `is` compares a value with one that a private attribute holds."
    if not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
        return False
    sides = [node.left, *node.comparators]
    held = [s for s in sides if re.search(r"\._(?!_)", ast.unparse(s))]
    return bool(held) and not any(isinstance(s, ast.Constant) for s in sides)


def is_plain(annotation: ast.AST | None) -> bool:
    "Whether values of a type are hashed by what they are, not by where they are."
    if annotation is None:
        return False
    hint = re.sub(r"Literal\[.*?\]|\btyping\.", "", ast.unparse(annotation))
    return set(re.findall(r"[A-Za-z_][\w.]*", hint)) <= PLAIN


def nothing_pickled(root: Path) -> list[str]:
    "The package handles no pickles: safetensors and JSON; tensors of others' files."
    bad = []
    for file in modules(root):
        for node in ast.walk(parsed(file)):
            at = f"{file.relative_to(root)}, line {getattr(node, 'lineno', 0)}"
            if names := roots(node) & PICKLES:
                bad.append(f"{at} imports {', '.join(names)}: use safetensors and JSON")
            if not isinstance(node, ast.Call):
                continue
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe = given.get("weights_only") == "True"  # no code runs, torch refuses it
            if ast.unparse(node.func) in ("torch.load", "torch.save") and not safe:
                bad.append(f"{at} calls {ast.unparse(node.func)}: use safetensors")
            allows = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            if any(ast.unparse(v) != "False" for v in allows):
                bad.append(f"{at} allows pickles: store plain arrays")
    return bad


def roots(node: ast.AST) -> set[str]:
    "The top names of what a statement imports, relative imports aside."
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
    return {n.split(".")[0] for n in names}


def imports_declared(root: Path) -> list[str]:
    "The package imports only what settings.ini declares as a requirement."
    cfg, bad = settings(root), []

    def plain(name):
        return name.lower().replace("_", "-")

    keys = ("requirements", "data_requirements", "fid_requirements")
    wanted = [r for key in keys for r in cfg.get(key, "").split()]
    declared = {plain(re.split(r"[<>=!~\[;]", r)[0]) for r in wanted}
    own = sys.stdlib_module_names | {cfg["lib_name"]}
    for file in modules(root):
        for node in ast.walk(parsed(file)):
            for name in roots(node) - own:
                if plain(DISTRIBUTION.get(name, name)) not in declared:
                    bad.append(
                        f"{file.relative_to(root)}, line {node.lineno} imports {name}, "
                        f"which settings.ini does not require"
                    )
    return bad


IMPORT = """
import importlib, json, pkgutil, socket, sys, time

class Closed(socket.socket):
    def __init__(self, *args, **kwargs):
        raise OSError("the import opened a socket")

def closed(*args, **kwargs):
    raise OSError("the import asked for an address")

socket.socket, socket.create_connection, socket.getaddrinfo = Closed, closed, closed
import torch
before, start = set(sys.modules), time.perf_counter()
lib = importlib.import_module(sys.argv[1])
for module in pkgutil.iter_modules(lib.__path__):
    importlib.import_module(f"{lib.__name__}.{module.name}")
seconds = time.perf_counter() - start
new = sorted({m.split(".")[0] for m in set(sys.modules) - before})
print(json.dumps(dict(seconds=seconds, new=new)))
"""


def imported_alone(root: Path) -> dict:
    "What an import of all modules does: seconds on top of torch, modules loaded."
    lib, env = settings(root)["lib_name"], {"PYTHONPATH": str(root)}
    run = python("-c", IMPORT, lib, cwd=root, env=env)
    return dict(error=run.stderr) if run.returncode else json.loads(run.stdout)


def import_is_light(root: Path) -> list[str]:
    "Importing the package and all its modules opens no socket, loads nothing heavy."
    said = imported_alone(root)
    if "error" in said:
        return [f"the package cannot be imported:\n{said['error']}"]
    return [
        f"importing the package loads {name}: import it inside the function that needs "
        f"it"
        for name in HEAVY
        if name in said["new"]
    ]


# The rules: text and files


def formatted(root: Path) -> list[str]:
    "`ruff format` would change neither a notebook nor a script."
    paths = [p for p in ("nbs", *SCRIPTS) if (root / p).exists()]
    flags = ("--check", "--no-cache", "--output-format", "concise")
    said = ruff(root, "format", *flags, *paths)
    return [
        re.sub(r"(:\d+)+: unformatted: .*", " is not formatted: run ruff format", line)
        for line in said
        if not re.match(r"\d+ files? ", line)
    ]


def lint(root: Path) -> list[str]:
    "ruff finds no undefined or unused name, no star import, no line over 88 columns."
    lib = settings(root)["lib_name"]
    paths = [p for p in (lib, "nbs", *SCRIPTS) if (root / p).exists()]
    flags = ("--no-cache", "--quiet", "--output-format", "concise")
    return ruff(root, "check", *flags, *paths)


def long_lines(root: Path) -> list[str]:
    "A line of the package has at most 88 characters, what nbdev adds aside."
    bad = []
    for file in (f for f in modules(root) if f.name != "_modidx.py"):
        code = file.read_text(encoding="utf-8")
        # the description of the notebook, and the list of names
        code = re.sub(r'\A"""[^\n]*|^__all__ = \[[^\]]*\]', "", code, flags=re.M)
        bad += [
            f"{file.relative_to(root)} has a line of {len(line)} characters: "
            f"{line.strip()[:50]} ..."
            for line in code.splitlines()
            if len(line) > MAX_WIDTH and len(line.split()) > 1
        ]
    return bad


def encoding_stated(root: Path) -> list[str]:
    "Text is read and written as UTF-8 wherever it is: each call says so."
    files = [*modules(root), *scripts(root)]
    trees = [(str(f.relative_to(root)), parsed(f).body) for f in files]
    trees += [(c.where, c.tree) for c in all_cells(root) if not c.exported]
    return [
        f"{where}, line {n.lineno}: {ast.unparse(n.func)} without encoding='utf-8'"
        for where, body in trees
        for top in body
        for n in ast.walk(top)
        if isinstance(n, ast.Call) and in_local_encoding(n)
    ]


def in_local_encoding(call: ast.Call) -> bool:
    "Whether a call reads or writes text in the encoding of the machine."
    if any(k.arg in ("encoding", None) for k in call.keywords):
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(call.func, "value", None)
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name != "open" or owner and ast.unparse(owner) in ("Image", "os", "webbrowser"):
        return False
    at = 0 if owner else 1  # of the mode, in path.open("w") and in open(path, "w")
    mode = next((k.value for k in call.keywords if k.arg == "mode"), None)
    mode = call.args[at] if len(call.args) > at else mode
    text = ast.unparse(mode) if mode else "'r'"
    return bool(re.search(r"'[rwax]t?\+?'", text))


def speaks_of_itself(root: Path) -> list[str]:
    "No path of somebody's machine in the notebooks, the package or the pages."
    tops = "work|root|home|Users|tmp|opt|mnt|private"
    path, bad = re.compile(rf"(?<![\w.~/-])/(?:{tops})(?:/[\w.-]+)+"), []
    for cell in all_cells(root):
        stored = [
            {k: v for k, v in (o | o.get("data", {})).items()} for o in cell.outputs
        ]
        for out in stored:
            out.pop("data", None)
            out.pop("image/png", None)
        stored = json.dumps(stored, ensure_ascii=False).replace("\\n", " ")
        bad += [
            f"{cell.where} names the path {m[0]}: take it from an argument or the "
            f"environment"
            for m in path.finditer(cell.source)
        ]
        bad += [
            f"{cell.where} stores the path {m[0]} in its output: print something else"
            for m in path.finditer(stored)
        ]
    kinds = ("md", "ini", "yml", "toml", "txt")
    pages = [f for kind in kinds for f in root.glob(f"*.{kind}")]
    for file in [*modules(root), *pages]:
        bad += [
            f"{file.relative_to(root)} names the path {m[0]}"
            for m in path.finditer(file.read_text(encoding="utf-8"))
        ]
    return bad


def readme_in_sync(root: Path) -> list[str]:
    "README.md has the headings, commands and code of nbs/index.ipynb."
    return [
        f"{name} is not what nbs/index.ipynb gives: edit the notebook, then run python "
        f"tools/readme.py"
        for name in readme.stale(root)
    ]


def links_resolve(root: Path) -> list[str]:
    "Relative links in notebooks and pages lead to files that exist."
    cells = [c for c in all_cells(root) if c.kind == "markdown"]
    pages = [(c.where, root / "nbs", c.source) for c in cells]
    pages += [(p.name, root, p.read_text(encoding="utf-8")) for p in root.glob("*.md")]
    code = re.compile(r"^\s*(```|~~~).*?^\s*\1|`[^`\n]*`", re.M | re.S)
    bad = []
    for where, folder, source in pages:
        links = readme.LINK.finditer(code.sub("", source))
        bad += [
            f"{where} links to {t}, which does not exist"
            for t in (m[2].split("#")[0] for m in links)
            if not (folder / t).exists()
        ]
    return bad


def quarto_linked(root: Path) -> list[str]:
    "nbs/_quarto.yml is a symbolic link to the one at the top."
    link, target = root / "nbs" / "_quarto.yml", "../_quarto.yml"
    if link.is_symlink() and os.readlink(link) == target and link.exists():
        return []
    return [
        f"nbs/_quarto.yml is not a symbolic link to {target}: run ln -sfn {target} "
        f"nbs/_quarto.yml"
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
    words_plain,
    no_control_characters,
    outputs_quiet,
    documented,
    parameters_described,
    returns_described,
    fields_described,
    few_positional,
    no_hidden_memory,
    nothing_pickled,
    imports_declared,
    import_is_light,
    formatted,
    lint,
    long_lines,
    encoding_stated,
    speaks_of_itself,
    readme_in_sync,
    links_resolve,
    quarto_linked,
]


# Advice: what a rule cannot settle; printed, but it fails nothing


def shown_nearby(root: Path) -> list[str]:
    "An exported name is used, in an example or a test, within three cells."
    said = []
    for book in notebooks(root):
        for i, cell in enumerate(book.cells):
            near = [c for c in book.cells[i + 1 : i + 4] if c.kind == "code"]
            after = "\n".join(c.code for c in near if not c.exported)
            names = [n.name for n in defined(cell)] if cell.public else []
            said += [
                f"{cell.where} exports {n}, which the next three cells do not use"
                for n in names
                if not n.startswith("_") and not re.search(rf"\b{n}\b", after)
            ]
    return said


def notebook_size(root: Path) -> list[str]:
    "A notebook exports about 15 names and has about 80 cells at most."
    said = []
    for book in notebooks(root):
        names = [n.name for c in book.cells if c.public for n in defined(c)]
        count = sum(not n.startswith("_") for n in names)
        if count > 15 or len(book.cells) > 80:
            said.append(
                f"{book.path.name} exports {count} names from {len(book.cells)} cells"
            )
    return said


def plain_code(root: Path) -> list[str]:
    "No lambda in a call with one, no `if` in an index, no values made in a tuple."
    said = []
    for cell in (c for c in all_cells(root) if c.kind == "code"):
        nodes = [n for top in cell.tree for n in ast.walk(top)]
        said += [f"{cell.where} has {what}" for n in nodes for what in hard_to_read(n)]
    return said


def hard_to_read(node: ast.AST) -> Iterator[str]:
    "What makes one node hard to read."
    short = ast.unparse(node).splitlines()[0][:50] if hasattr(node, "lineno") else ""
    if isinstance(node, ast.Call):
        given = [*node.args, *(k.value for k in node.keywords)]
        inside = [n for g in given for n in ast.walk(g)]
        if sum(isinstance(n, ast.Lambda) for n in inside) > 1:
            yield f"two lambdas in one call: {short}"
    if isinstance(node, ast.Subscript):
        if any(isinstance(n, ast.IfExp) for n in ast.walk(node.slice)):
            yield f"a condition in an index: {short}"
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
        made = [v for v in node.value.elts if isinstance(v, ast.Call)]
        names = [ast.unparse(v.func).split(".")[-1] for v in made]
        if sum(n[:1].isupper() for n in names) > 1:
            yield f"values made in a tuple: {short}"
    if isinstance(node, ast.arg) and node.arg == "mode" and node.annotation:
        if ast.unparse(node.annotation) == "str":
            yield "a parameter `mode: str`: pass the function or the matrix"


def import_time(root: Path) -> list[str]:
    "Importing every module takes at most 0.3 s on top of torch, on an idle machine."
    seconds = min(imported_alone(root).get("seconds", 0.0) for _ in range(3))
    return [
        f"importing every module takes {seconds:.2f} s on top of torch, at most "
        f"{MAX_IMPORT} are wanted"
    ] * (seconds > MAX_IMPORT)


ADVICE = [shown_nearby, notebook_size, plain_code, import_time]


def main(args: list[str]) -> int | str:
    "Print what is asked for; the number of complaints, in words, if there are any."
    if "--list" in args:
        for rule in RULES + ADVICE:
            print(f"{rule.__name__:22} {rule.__doc__}")
        return 0
    root, count = Path(__file__).resolve().parents[1], 0
    wanted = [a for a in args if not a.startswith("-")]
    for rule in (r for r in RULES if not wanted or r.__name__ in wanted):
        complaints = rule(root)
        count += len(complaints)
        mark = "NO" if complaints else "ok"
        print(f"{mark:3} {rule.__name__}", *complaints, sep="\n      ")
    for rule in (r for r in ADVICE if not wanted or r.__name__ in wanted):
        said = rule(root)
        shown = said if wanted or "--advice" in args else []
        print(f"({len(said)}) {rule.__name__}", *shown, sep="\n      ")
    return f"{count} complaints" if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
