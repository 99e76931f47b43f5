"""What the site has beyond what nbdev and Quarto make of the notebooks.

Quarto runs this twice, see _quarto.yml: before it renders the notebooks that nbdev has
processed, and after. Only Python's own library is used. nbdev marks where names are
shown (settings.ini keeps it from executing the notebooks for that, `skip_procs`); what
is shown there is taken from the source, as text.

    python tools/pages.py before       in _proc: signatures as they stand in the source,
                                       entries for methods and fields, numbers, links
    python tools/pages.py after        in the site: a Markdown twin of each page,
                                       llms.txt, notebooks that install the package
"""

import json
import os
import re
import sys
from configparser import ConfigParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import api

ROOT = Path(__file__).resolve().parents[1]
DONE = "gud_nb_pages"  # in the metadata of a notebook that has been seen to
# files of the top folder that are pages of the site
TOP = {"CHANGELOG.md": "Changes", "CONTRIBUTING.md": "Contributing"}
LINK = re.compile(r"(\]\(|\b(?:src|href)=[\"'])([^)\s\"']+)")
COLAB = "https://colab.research.google.com/github"


def settings() -> dict[str, str]:
    "settings.ini, where the addresses are."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def read(
    path: Path,  # of a notebook
) -> dict:  # the notebook
    "A notebook as it is stored."
    return json.loads(path.read_text(encoding="utf-8"))


def write(
    path: Path,  # of a notebook
    book: dict,  # the notebook
):
    "Store a notebook."
    text = json.dumps(book, ensure_ascii=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


def source(
    cell: dict,  # of a notebook
) -> str:  # in one piece
    "What is written in a cell."
    return "".join(cell["source"])


def markdown(
    text: str,  # of the cell
) -> dict:  # a cell
    "A new cell of Markdown."
    return dict(cell_type="markdown", metadata={}, source=text)


def number(
    page: Path,  # a notebook
) -> str:  # "08b", or ""
    "The number of a notebook, which begins its name."
    found = re.match(r"(\d+[a-z]?)_", page.name)
    return found[1] if found else ""


def html(
    page: str,  # the name of a notebook
) -> str:  # the name of its page
    "nbdev leaves the number away."
    return (
        re.sub(r"^\d+[a-zA-Z0-9]*_", "", page.lower()).removesuffix(".ipynb") + ".html"
    )


# Before Quarto


def numbered(
    front: str,  # YAML between dashes
    page: Path,  # its notebook
) -> str:  # with the number in the title
    "The number of the notebook before its title, in the heading and in the sidebar."
    if not number(page):
        return front
    begins = r"^(title: ['\"]?)(?!\d+[a-z]? · )"
    return re.sub(begins, rf"\g<1>{number(page)} · ", front, flags=re.M)


def buttons(
    page: Path,  # a notebook
    cfg: dict,  # the settings
) -> str:  # Markdown
    "The line of links below a title."
    colab = f"{COLAB}/{cfg['user']}/{cfg['repo']}/blob/gh-pages/notebooks/{page.name}"
    ours = ' data-noresolveinput="1"'  # Quarto is not to look for their sources
    links = (
        f'<a href="{colab}">Open in Colab</a>',
        f'<a href="notebooks/{page.name}"{ours} download>Download notebook</a>',
        f'<a href="{html(page.name)}.md"{ours}>Markdown</a>',
    )
    return '<p class="page-links">' + " · ".join(links) + "</p>"


def blob(
    cfg: dict,  # the settings
) -> str:  # an address that ends with /
    "Where files of the project can be read."
    return f"https://github.com/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/"


def relinked(
    text: str,  # Markdown of a page
    pages: dict,  # notebooks by the page that each gives
    cfg: dict,  # the settings
) -> str:  # with links that work within the site
    "nbdev links to the published site, also private names; we, to files above."
    site = f"https://{cfg['user']}.github.io/{cfg['repo']}/"

    def move(found):
        begin, target = found.groups()
        if target.startswith(site):
            name, mark, anchor = target.removeprefix(site).partition("#")
            return begin + pages.get(name, name) + mark + anchor
        if target.startswith("../"):
            name = target.removeprefix("../")
            if name.startswith("nbs/"):
                return begin + name.removeprefix("nbs/")
            if name in TOP:
                return begin + name.lower().replace(".md", ".qmd")
            if name == "LICENSE":
                return begin + "LICENSE.txt"
            return begin + blob(cfg) + name
        return begin + target

    text = re.sub(r"\[(`[^`]*`)\]\([^)]*#(\w+\.)?_(?!_)[^)]*\)", r"\1", text)
    return LINK.sub(move, text)


def called(
    e: api.Entry,  # a public name
) -> str:  # in Markdown
    "A name; two underscores would begin bold print."
    return e.name.replace("__", r"\_\_")


def member(
    e: api.Entry,  # a method, a property or a value
    says: str,  # of it, in Markdown
) -> str:  # Markdown
    "A name that has no heading of its own."
    return (
        f"::: {{#{e.anchor} .member}}\n"
        f"[{called(e)}]{{.name}}\n\n```python\n{e.signature}\n```\n\n"
        f"{says}\n:::"
    )


def entry(
    e: api.Entry,  # what a heading shows
    below: list,  # members that have no heading of their own
    says: dict,  # what is said of each name
    cfg: dict,  # the settings
    twice: bool,  # whether another heading of the page has its anchor
) -> str:  # Markdown
    "A public name: its signature as it is written, its sentence, its members."
    link = f"{blob(cfg)}{cfg['lib_name']}/{e.module}.py#L{e.line}"
    marks = "".join(
        f'<span id="{m.anchor}"></span>' for m in below if m.kind == "field"
    )
    head = f"### {called(e)} {{#{e.anchor}{'-1' * twice}}}"
    parts = ["---", head, f"[source]({link}){{.source}}{marks}"]
    parts += [f"```python\n{e.signature}\n```", says[e.name]]
    rest = [m for m in below if m.kind != "field"]
    if rest:
        what = f"More of <code>{e.name}</code>"
        parts.append(f'<details class="members"><summary>{what}</summary>')
        parts += [member(m, says[m.name]) for m in rest]
        parts.append("</details>")
    return "\n\n".join(p for p in parts if p) + "\n"


def shown(
    cell: dict,  # of a processed notebook
) -> str:  # a name, or ""
    "The name that nbdev shows in a cell."
    found = re.search(r"^show_doc\(([\w.]+)", source(cell), re.M)
    return found[1] if found and cell["cell_type"] == "code" else ""


def belongs(
    e: api.Entry,  # a public name
    name: str,  # of a class
) -> bool:  # whether it is shown below the class
    "Members belong to their class, and so does a value that is made by calling it."
    made = e.kind == "value" and e.signature.startswith(f"{e.name} = {name}(")
    return made or e.name.startswith(name + ".")


def documented(
    cells: list[dict],  # of a page
    here: list,  # the entries of its module
    says: dict,  # what is said of each name
    cfg: dict,  # the settings
) -> list[dict]:  # of the page
    "Every public name of a module gets an entry on its page."
    names = {e.name: e for e in here}
    heads = {n for n in map(shown, cells) if n in names}
    anchors = {n.lower() for n in heads}
    left = [e for e in here if e.name not in heads and e.anchor not in anchors]
    done, used = [], set()
    for cell in cells:
        name = shown(cell)
        if name in names:
            # a class and a function may differ in their first letter alone
            twice = names[name].anchor in used
            used.add(names[name].anchor)
            below = [e for e in left if belongs(e, name)]
            left = [e for e in left if e not in below]
            cell = markdown(entry(names[name], below, says, cfg, twice))
        if not name or name in names:
            done.append(cell)
    if left:
        parts = [member(e, says[e.name]) for e in left]
        done.append(markdown("\n\n".join(["## Also exported", *parts])))
    return [apart(cell, {e.anchor for e in here}) for cell in done]


def identifier(
    heading: str,  # Markdown
) -> str:  # an anchor
    "The anchor that Pandoc gives a heading."
    words = re.sub(r"\$[^$]*\$", lambda m: re.sub(r"\\\w+", "", m[0]), heading)
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words)
    words = re.sub(r"[^\w\s.-]", "", words).lower().strip()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", words)) or "section"


def apart(
    cell: dict,  # of a page
    anchors: set,  # of the entries on it
) -> dict:  # the cell, or one like it
    "A heading whose words are the name of an entry leaves the anchor to the entry."

    def other(found):
        anchor = identifier(found[0].lstrip("#"))
        return f"{found[0]} {{#about-{anchor}}}" if anchor in anchors else found[0]

    if cell["cell_type"] != "markdown" or "```" in source(cell):
        return cell
    return cell | dict(source=re.sub(r"^#+ [^{\n]*$", other, source(cell), flags=re.M))


def before(
    folder: Path,  # of the processed notebooks
):
    "Complete the processed notebooks, each once."
    cfg, every = settings(), api.reference(ROOT)
    books = sorted(folder.glob("*.ipynb"))
    pages = {html(b.name): b.name for b in books}
    says = api.sentences(every, ROOT)
    by_page = {}
    for part in every.values():
        by_page.setdefault(part[0].page, []).extend(part)
    for path in books:
        book = read(path)
        if DONE in book["metadata"]:
            continue
        cells = book["cells"]
        cells = documented(cells, by_page.get(path.name, []), says, cfg)
        for cell in cells:
            if cell["cell_type"] == "markdown":
                cell["source"] = relinked(source(cell), pages, cfg)
            for out in cell.get("outputs", []):
                data = out.get("data", {})
                if "text/markdown" in data:
                    text = "".join(data["text/markdown"])
                    data["text/markdown"] = relinked(text, pages, cfg)
        if cells[0]["cell_type"] == "raw":
            cells[0]["source"] = numbered(source(cells[0]), path)
        if path.name != "api.ipynb":
            cells.insert(1, markdown(buttons(path, cfg)))
        book["cells"] = cells
        book["metadata"][DONE] = True
        write(path, book)
    for name, title in TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        body = re.sub(r"\A# .*\n", "", text)
        body = LINK.sub(lambda m: m[1] + above(m[2]), body)
        front = f"---\ntitle: {title}\nrepo-actions: false\n---\n"
        page = folder / name.lower().replace(".md", ".qmd")
        page.write_text(front + relinked(body, pages, cfg), encoding="utf-8")
    license = (ROOT / "LICENSE").read_text(encoding="utf-8")
    (folder / "LICENSE.txt").write_text(license, encoding="utf-8")


def above(
    target: str,  # a link of a file in the top folder
) -> str:  # as it would be in nbs/
    "A link seen from one folder further down."
    return target if re.match(r"[a-z]+:|#|/", target) else f"../{target}"


# After Quarto


def plain(
    book: dict,  # a completed notebook
) -> str:  # Markdown
    "A page in plain Markdown."
    parts = []
    for cell in book["cells"]:
        text = source(cell)
        if cell["cell_type"] == "raw":
            parts.append(heading(text))
        elif cell["cell_type"] == "markdown":
            if "AUTOGENERATED" not in text and "page-links" not in text:
                parts.append(text)
        else:
            parts += code(cell, text)
    text = "\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n"
    text = re.sub(r"^:::.*\n+|^</?details.*\n+", "", text, flags=re.M)
    text = re.sub(
        r"(?<=[)\w\]}]) ?\{[#.][^}\n]*\}", "", re.sub("<span id.*?></span>", "", text)
    )
    return re.sub(r"\]\(([\w]+\.ipynb)(#[^)]*)?\)", twin, text)


def twin(
    found: re.Match,  # a link to a notebook
) -> str:  # to its twin
    "Between twins, links lead to twins."
    return f"]({html(found[1])}.md{found[2] or ''})"


def fact(
    front: str,  # YAML
    name: str,  # of a line
) -> str:  # its value
    "A value of the front matter."
    found = re.search(rf"^{name}: (.*(?:\n  .*)*)", front, re.M)
    if not found:
        return ""
    value = re.sub(r"\\?\n\s*\\? ?", " ", found[1]).strip()
    if value.startswith('"'):
        try:
            return json.loads(re.sub(r"\\x(..)", r"\\u00\1", value))
        except ValueError:
            return value.strip('"')
    return value[1:-1].replace("''", "'") if value.startswith("'") else value


def heading(
    front: str,  # YAML
) -> str:  # Markdown
    "Title and description of a page."
    about = fact(front, "description")
    return f"# {fact(front, 'title')}" + (f"\n\n> {about}" if about else "")


def code(
    cell: dict,  # of code
    text: str,  # in it
) -> list[str]:  # of Markdown
    "A cell of code and what it printed; of its figures, what they show."
    flags = dict(re.findall(r"^#\|\s*([\w-]+):\s*(.*)$", text, re.M))
    body = re.sub(r"^#\|.*\n?", "", text, flags=re.M).strip("\n")
    parts = []
    if body and flags.get("echo") != "false":
        parts.append(f"```python\n{body}\n```")
    for out in cell.get("outputs", []):
        data = out.get("data", {})
        if "image/png" in data:
            said = (flags.get(k, "").strip("\"'") for k in ("fig-cap", "fig-alt"))
            parts.append(f"*Figure.* {' '.join(s for s in said if s)}")
        elif "text/markdown" in data:
            parts.append("".join(data["text/markdown"]))
        elif "text/html" in data:
            parts.append("*Interactive: see the page.*")
        elif printed := "".join(out.get("text", data.get("text/plain", ""))).strip():
            parts.append(f"```text\n{printed}\n```")
    return parts


def standalone(
    book: dict,  # a notebook as it stands in nbs/
    cfg: dict,  # the settings
) -> dict:  # a notebook for elsewhere
    "A notebook that installs the package, and fetches the files that it reads."
    url = f"https://github.com/{cfg['user']}/{cfg['repo']}"
    whole = "".join(source(c) for c in book["cells"])
    if "../" in whole or "images/" in whole:
        lines = [
            "# the package, and the tables and pictures that this notebook reads",
            f"!git clone -q --depth 1 {url}",
            f"%pip install -q ./{cfg['repo']}",
            f"%cd {cfg['repo']}/nbs",
        ]
    else:
        lines = ["# the package", f"%pip install -q git+{url}"]
    cell = dict(
        cell_type="code",
        execution_count=None,
        id="install",
        metadata={},
        outputs=[],
        source="\n".join(lines),
    )
    return book | dict(cells=[cell, *book["cells"]])


def sections(
    config: str,  # _quarto.yml
):  # (title, names of notebooks) of each part
    "The parts of the sidebar."
    title, names = "", []
    for line in config.splitlines():
        if found := re.match(r"\s*- section: [\"']?(.*?)[\"']?\s*$", line):
            if names:
                yield title, names
            title, names = found[1], []
        elif found := re.match(r"\s*- (?:href: )?([\w-]+\.ipynb)\s*$", line):
            names.append(found[1])
    yield title, names


def after(
    folder: Path,  # of the processed notebooks
    site: Path,  # what Quarto made
):
    "Write the twins, llms.txt and the notebooks for elsewhere."
    cfg = settings()
    url = f"https://{cfg['user']}.github.io/{cfg['repo']}/"
    listed = {}
    (site / "notebooks").mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.ipynb")):
        book = read(path)
        name = html(path.name)
        (site / f"{name}.md").write_text(plain(book), encoding="utf-8")
        front = source(book["cells"][0])
        about = fact(front, "description")
        listed[path.name] = f"- [{fact(front, 'title')}]({url}{name}.md): {about}"
        own = ROOT / "nbs" / path.name
        if own.is_file() and path.name != "api.ipynb":
            write(site / "notebooks" / path.name, standalone(read(own), cfg))
    parts = [f"# {cfg['title']}", f"> {cfg['description']}"]
    config = (folder / "_quarto.yml").read_text(encoding="utf-8")
    for title, names in sections(config):
        lines = [listed[n] for n in names if n in listed]
        if lines:
            parts.append("\n".join([f"## {title}", "", *lines]))
    (site / "llms.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    here = Path.cwd()
    if sys.argv[1:] == ["before"]:
        before(here)
    elif sys.argv[1:] == ["after"]:
        if os.environ.get("QUARTO_PROJECT_RENDER_ALL"):
            after(here, here / os.environ["QUARTO_PROJECT_OUTPUT_DIR"])
    else:
        sys.exit(__doc__)
