"""nbs/api.ipynb, every public name of the package, from the package's own source.

    python tools/api.py                writes nbs/api.ipynb
    python tools/api.py --check        writes nothing, exits with 1 if the file differs

The source is read as text: nothing is imported, so that this runs in any Python.
`tools/pages.py` takes the signatures of the site from here, too.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = Path("nbs") / "api.ipynb"
TITLE = (
    "# Every public name\n\n"
    "> The whole surface on one page: each name, what it does, where it is derived"
)
INTRO = (
    "A name leads to the notebook that derives and tests it. A name with a dot is a "
    "method, a property or a field of the class above it. This page is made from the "
    "source by `tools/api.py`."
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True)
class Entry:
    "A public name."

    name: str  # `sample`, or `LinearDiffusion.perturb`
    kind: str  # class, function, method, property, field or value
    signature: str  # as it stands in the source, `self` left out
    says: str  # its docstring, or the comment of a field
    module: str  # the file that it is in, without .py
    page: str  # the notebook that exports it
    line: int  # where it begins, in its file

    @property
    def anchor(self) -> str:
        "Of its heading on its page."
        return self.name.lower()


def public(
    name: str,  # without a dot
) -> bool:  # whether readers use it
    "Whether a name is part of the surface."
    return not name.startswith("_") or name == "__call__"


def comment(
    line: str,  # of source
) -> str:  # without its mark
    "What is said behind a statement, or alone on a line."
    found = re.search(r"(?:^|\s)#\s?(.*)$", line)
    return found[1].strip() if found else ""


def header(
    node: ast.AST,  # a function or class
    lines: list[str],  # of its file
) -> list[str]:  # from `def` or `class` to its colon, with the comments
    "The first lines of a definition, at no indentation."
    last = node.body[0]
    stop = min([last.lineno, *(d.lineno for d in getattr(last, "decorator_list", []))])
    part = lines[node.lineno - 1 : stop - 1] or [lines[node.lineno - 1]]
    while len(part) > 1 and not part[-1].strip():
        part.pop()
    return [line[node.col_offset :] for line in part]


def signature(
    node: ast.AST,  # a function
    lines: list[str],  # of its file
) -> str:  # of source
    "How to call it: the header without `self` and what a patch says of it."
    part = header(node, lines)
    arguments = [*node.args.posonlyargs, *node.args.args]
    if arguments and arguments[0].arg in ("self", "cls"):
        text = "\n".join(part)
        first = r"\(\s*(?:self|cls)(?:\s*:\s*[\w.\"']+)?\s*"
        behind = r"(?:,(?:[ \t]*#[^\n]*)?[ \t]*|(?=\)))"
        text = re.sub(first + behind, "(", text, count=1)
        short = re.sub(r"\(\n\s*\)", "()", text)
        fits = max(map(len, short.splitlines())) <= 88
        part = (short if fits else text).splitlines()
    return "\n".join(part).rstrip().removesuffix(":")


def fields(
    node: ast.ClassDef,  # a dataclass or a named tuple
    lines: list[str],  # of its file
) -> list[tuple[str, str, str]]:  # name, source, comment
    "The fields of a class, with what is said of each."
    found = []
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and public(part.target.id):
            source = "\n".join(
                line[part.col_offset :]
                for line in lines[part.lineno - 1 : part.end_lineno]
            )
            said = comment(lines[part.end_lineno - 1][part.end_col_offset :])
            above = lines[part.lineno - 2].strip()
            if not said and above.startswith("#"):
                said = comment(above)
                source = f"{above}\n{source}"
            found.append((part.target.id, source, said))
    return found


def class_signature(
    node: ast.ClassDef,  # a class
    lines: list[str],  # of its file
) -> str:  # of source
    "The first line of a class, and its fields or how it is made."
    head = "\n".join(header(node, lines)).rstrip()
    own = fields(node, lines)
    made = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
    if made:
        body = [signature(made, lines)]
    elif own:
        body = [source for _, source, _ in own]
    else:
        return head.removesuffix(":")
    rest = "\n".join(body).splitlines()
    return "\n".join([head, *(f"    {line}" for line in rest)])


def owner(
    node: ast.AST,  # a function
) -> str:  # a class, or ""
    "The class that a function is patched into."
    patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
    hint = node.args.args[0].annotation if patched and node.args.args else None
    return ast.unparse(hint).strip("'\"") if hint else ""


def is_property(
    node: ast.AST,  # a function
) -> bool:  # or a method
    "Whether it is read without being called."
    marks = " ".join(ast.unparse(d) for d in node.decorator_list)
    return bool(re.search(r"as_prop=True|\bproperty\b|cached_property", marks))


def chunks(
    text: str,  # of an exported file
):  # (first line, page) of each cell
    "Where each cell of a notebook begins."
    for n, line in enumerate(text.splitlines(), 1):
        found = re.match(r"# %% \S*?([\w.]+\.ipynb) #", line)
        if found:
            yield n, found[1]


def entries(
    file: Path,  # an exported module
) -> list[Entry]:  # in the order of the source, methods below their class
    "Every public name of a module."
    text = file.read_text(encoding="utf-8")
    lines, tree, cells = text.splitlines(), ast.parse(text), list(chunks(text))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = set(ast.literal_eval(node.value))
    found, members = [], {}

    def page(line: int) -> str:
        return max((c for c in cells if c[0] <= line), default=(0, ""))[1]

    def add(name, kind, source, said, line):
        said = re.sub(r"\s*\n\s*", " ", (said or "").strip())
        entry = Entry(name, kind, source, said, file.stem, page(line), line)
        top = name.split(".")[0]
        (members.setdefault(top, []) if "." in name else found).append(entry)

    def method(cls, node):
        marks = " ".join(ast.unparse(d) for d in node.decorator_list)
        if public(node.name) and not re.search(r"setter|deleter|overload", marks):
            kind = "property" if is_property(node) else "method"
            said = ast.get_docstring(node)
            name = f"{cls}.{node.name}"
            add(name, kind, signature(node, lines), said, node.lineno)

    for node in tree.body:
        if isinstance(node, FUNCTIONS):
            cls = owner(node)
            if cls:
                method(cls, node)
            elif node.name in names:
                said = ast.get_docstring(node)
                add(node.name, "function", signature(node, lines), said, node.lineno)
        elif isinstance(node, ast.ClassDef) and node.name in names:
            said = ast.get_docstring(node)
            source = class_signature(node, lines)
            add(node.name, "class", source, said, node.lineno)
            for name, written, about in fields(node, lines):
                add(f"{node.name}.{name}", "field", written, about, node.lineno)
            for part in node.body:
                if isinstance(part, FUNCTIONS):
                    method(node.name, part)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                name = ast.unparse(target)
                if name in names:
                    source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                    said = comment(lines[node.end_lineno - 1][node.end_col_offset :])
                    above = lines[node.lineno - 2]
                    if not said and above.startswith("# ") and "%%" not in above:
                        said = comment(above)
                    add(name, "value", source, said, node.lineno)
    return [e for top in found for e in (top, *members.get(top.name, []))]


def reference(
    root: Path = ROOT,  # the project
) -> dict[str, list[Entry]]:  # by module, in the order of the notebooks
    "Every public name of the package."
    files = sorted((root / "gud_nb").glob("[!_]*.py"))
    files += sorted((root / "gud_nb").glob("__main__.py"))
    found = {f.stem: entries(f) for f in files}
    pages = {m: e[0].page for m, e in found.items() if e}
    return {m: found[m] for m in sorted(pages, key=pages.get)}


def keys(
    source: str,  # of an assignment
) -> list[str]:  # none where no dictionary is written out
    "The keys of a dictionary."
    value = ast.parse(source).body[0].value
    if isinstance(value, ast.Dict):
        return [k.value for k in value.keys if isinstance(k, ast.Constant)]
    return [k.arg for k in getattr(value, "keywords", []) if k.arg]


def inherited(
    every: dict[str, list[Entry]],  # all entries
) -> dict[str, str]:  # docstrings by name
    "What is said of each name; a method that is silent says what its base class says."
    by_name = {e.name: e for part in every.values() for e in part}
    above = {}
    for e in by_name.values():
        if e.kind == "class":
            bases = re.search(r"\(([^)]*)\)", e.signature.splitlines()[0])
            listed = bases[1].split(",") if bases else []
            above[e.name] = [b.strip().split(".")[-1] for b in listed]

    def said(cls, name):
        own = by_name.get(f"{cls}.{name}")
        if own and own.says:
            return own.says
        return next(filter(None, (said(b, name) for b in above.get(cls, []))), "")

    def words(e):
        if e.says or e.kind != "value":
            return e.says or (said(*e.name.split(".")) if "." in e.name else "")
        made = re.match(r"\w+ = (\w+)", e.signature)
        if made and made[1] in by_name:
            return f"`{e.signature.split(' = ')[1]}`: {by_name[made[1]].says}"
        names = keys(e.signature)
        return "by name: " + ", ".join(f"`{k}`" for k in names) if names else ""

    return {e.name: words(e) for e in by_name.values()}


def escaped(
    words: str,  # a docstring or a comment
) -> str:  # Markdown that shows it as written
    "Asterisks, bars, underscores and brackets that Markdown would take for its own."
    parts = re.split(r"(`[^`]*`|\$[^$]*\$)", words)
    plain = [re.sub(r"([*_|<>\[\]])", r"\\\1", p) for p in parts[::2]]
    parts[::2] = plain
    for n, part in enumerate(parts[1::2]):
        bar = r"\vert{}" if part.startswith("$") else r"\|"
        parts[2 * n + 1] = part.replace("|", bar)
    return "".join(parts)


def sentences(
    every: dict[str, list[Entry]],  # all entries
    root: Path,  # the project
) -> dict[str, str]:  # Markdown by name
    "What is said of each name, as Markdown; notebooks that it mentions are links."
    files = (root / "nbs").glob("*_*.ipynb")
    pages = {f.name.split("_")[0]: f.name for f in files}

    def link(found):
        page = pages.get(found[1])
        return f"[{found[0]}]({page})" if page else found[0]

    return {
        name: re.sub(r"\bnotebook (\d+[a-z]?)\b", link, escaped(words))
        for name, words in inherited(every).items()
    }


def row(
    e: Entry,  # a public name
    says: str,  # of it, in Markdown
) -> str:  # a row of a table
    "A name that is a link, and its sentence."
    shown = "." + e.name.split(".", 1)[1] if "." in e.name else e.name
    link = f"[<code>{shown}</code>]({e.page}#{e.anchor})"
    words = says or f"a {e.kind}"
    return f"| {'&emsp;' * ('.' in e.name)}{link} | {words} |"


def title(
    page: Path,  # a notebook
) -> str:  # of it
    "The heading of a notebook."
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    head = re.match(r"#\s+(.*)", "".join(cells[0]["source"]))
    return head[1] if head else page.stem


def render(
    root: Path = ROOT,  # the project
) -> str:  # JSON of a notebook
    "The page, as a notebook of Markdown cells."
    every = reference(root)
    says = sentences(every, root)
    sources = [TITLE, INTRO]
    for module, part in every.items():
        page = part[0].page
        number = page.split("_")[0]
        link = f"[notebook {number}, *{title(root / 'nbs' / page)}*]({page})"
        rows = [row(e, says[e.name]) for e in part]
        name = f"gud_nb.{module}".replace("__", r"\_\_")
        head = f"## {name} {{#{module.strip('_')}}}\n\nDerived in {link}."
        table = "\n".join(["| name | what it is |", "|:------|:--------------|", *rows])
        sources.append(f"{head}\n\n{table}")
    cells = [
        dict(
            cell_type="markdown",
            id=f"api{n:04}",
            metadata={},
            source=source.splitlines(keepends=True),
        )
        for n, source in enumerate(sources)
    ]
    kernel = dict(display_name="python3", language="python", name="python3")
    book = dict(
        cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5
    )
    return json.dumps(book, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    made, file = render(), ROOT / NOTEBOOK
    if "--check" in sys.argv:
        same = file.is_file() and file.read_text(encoding="utf-8") == made
        sys.exit(0 if same else f"{NOTEBOOK} is stale: run python tools/api.py")
    file.write_text(made, encoding="utf-8")
