"""The site, as far as it can be looked at without Quarto.

`nbdev_docs` runs once on a copy of the project, with a stand-in for Quarto that runs
the two scripts of _quarto.yml and notes what it was asked. What it would have rendered
is checked: links, anchors, pictures, widths, alt texts, references, and that every
public name is found.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import api
import pages
import pytest
import style
import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
DOCS = "from nbdev.quarto import nbdev_docs; nbdev_docs(n_workers=1)"
QUARTO = """#!/bin/sh
echo "$@" >> "$QUARTO_LOG"
mkdir -p _docs
export QUARTO_PROJECT_RENDER_ALL=1 QUARTO_PROJECT_OUTPUT_DIR=_docs
"$PYTHON" ../tools/pages.py before && "$PYTHON" ../tools/pages.py after
"""
WIDTH = 88  # columns of a line that is shown
FENCE = re.compile(r"^ *(```+|~~~+)")
TARGET = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)")
HREF = re.compile(r"<a [^>]*href=[\"']([^\"']+)[\"']([^>]*)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
KEY = re.compile(r"(?<![\w`/.])-?@([a-z]+\d{4}\w*)")


def copy_of_project(site: Path):
    "What the pages are made from."
    for name in ("settings.ini", "_quarto.yml", "LICENSE", *pages.TOP):
        shutil.copy(ROOT / name, site)
    for name in ("nbs", "gud_nb", "studies", "tools"):
        shutil.copytree(
            ROOT / name,
            site / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("*.safetensors", ".*", "__pycache__"),
        )
    # newer than the index, so that nbdev leaves it alone
    (site / "README.md").write_text("ours", encoding="utf-8")
    (site / "bin").mkdir()
    (site / "bin/quarto").write_text(QUARTO, encoding="utf-8")
    (site / "bin/quarto").chmod(0o755)


def make_site(site: Path):
    "Run `nbdev_docs` on a copy of the project."
    copy_of_project(site)
    away = ("IN_TEST", "QUARTO_PREVIEW")
    env = {k: v for k, v in os.environ.items() if k not in away}
    env |= dict(
        PATH=f"{site / 'bin'}{os.pathsep}{env['PATH']}",
        QUARTO_LOG=str(site / "quarto.log"),
        PYTHONPATH=str(site),
        PYTHON=sys.executable,
        OMP_NUM_THREADS="1",
    )
    run = subprocess.run(
        [sys.executable, "-c", DOCS],
        cwd=site,
        env=env,
        text=True,
        encoding="utf-8",
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    (site / "made").touch()


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def written(cell: dict) -> str:
    return "".join(cell["source"])


def split(markdown: str) -> tuple[str, str]:
    "Text and fenced code, apart; the lines of one are empty in the other."
    text, code, fence = [], [], ""
    for line in markdown.splitlines():
        mark = FENCE.match(line)
        inside = bool(fence)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        text.append("" if inside or mark else line)
        code.append(line if inside and fence else "")
    return "\n".join(text), "\n".join(code)


@dataclass
class Page:
    "What Quarto is given for one page."

    path: Path  # in _proc
    texts: list = field(default_factory=list)  # Markdown, fences left out
    code: list = field(default_factory=list)  # shown
    printed: list = field(default_factory=list)  # by cells
    figures: list = field(default_factory=list)  # directives of cells that draw

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def anchors(self) -> Counter:
        text = "\n".join(self.texts)
        found = Counter(re.findall(r"\{#([\w.:-]+)|<span id=\"([\w.:-]+)\"", text))
        found = Counter({a or b: n for (a, b), n in found.items()})
        for line in text.splitlines():
            head = re.match(r"#+\s+(.*)", line)
            if head and "{#" not in head[1]:
                found[pages.identifier(re.sub(r"\{.*\}", "", head[1]))] += 1
        return found

    @property
    def links(self) -> list[str]:
        text = without_code("\n".join(self.texts))
        own = [t for t, more in HREF.findall(text) if "noresolve" not in more]
        return [*TARGET.findall(text), *own]


def without_code(text: str) -> str:
    "Markdown without what stands between backticks or dollars."
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)
    return re.sub(r"`[^`\n]*`|\$[^$\n]*\$", "code", text)


def page(path: Path) -> Page:
    "What a page shows."
    made = Page(path)
    if path.suffix == ".qmd":
        text, code = split(read(path))
        made.texts.append(text)
        made.code.append(code)
        return made
    for cell in json.loads(read(path))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "raw":
            continue
        if cell["cell_type"] == "markdown":
            text, code = split(source)
            made.texts.append(text)
            made.code.append(code)
            continue
        flags, body = style.readme.directives(source)
        if flags.get("include") == "false":
            continue
        if flags.get("echo") != "false":
            made.code.append(body)
        if flags.get("output") == "false":
            continue
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if "image/png" in data or "image/svg+xml" in data:
                made.figures.append(flags)
            elif "text/markdown" in data:
                text, code = split("".join(data["text/markdown"]))
                made.texts.append(text)
                made.code.append(code)
            elif "text/html" not in data:
                plain = out.get("text", data.get("text/plain", ""))
                made.printed.append("".join(plain))
    return made


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    "The folder in which the site was made, once for all workers."
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / "site"
    with FileLock(str(folder) + ".lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make_site(folder)
    return folder


@pytest.fixture(scope="session")
def book(site) -> dict[str, Page]:
    "Every page by its name."
    files = sorted([*(site / "_proc").glob("*.ipynb"), *(site / "_proc").glob("*.qmd")])
    return {f.name: page(f) for f in files}


def none(complaints):
    "Pass if there are none; else show each on a line."
    found = list(complaints)
    assert not found, f"{len(found)} complaints\n" + "\n".join(found)


# How it is made


def test_quarto_was_asked_once_and_the_readme_is_ours(site):
    assert read(site / "quarto.log") == "render --no-cache\n"
    assert read(site / "README.md") == "ours"


def test_settings_of_the_site(site):
    quarto = yaml.safe_load(read(site / "_proc/_quarto.yml"))
    made = yaml.safe_load(read(site / "_proc/nbdev.yml"))
    form = quarto["format"]["html"]
    assert list(quarto["format"]) == ["html"]
    assert quarto["metadata-files"] == ["nbdev.yml"]
    assert form["html-math-method"] == "mathml"
    assert form["respect-user-color-scheme"] is True
    assert made["website"]["title"] == style.settings(ROOT)["title"]
    scss = [t for kind in form["theme"].values() for t in kind if t.endswith(".scss")]
    wanted = [form["css"], quarto["bibliography"], quarto["website"]["favicon"], *scss]
    none(
        f"{name} is missing" for name in wanted if not (site / "_proc" / name).exists()
    )
    assert all(len(kind) == 2 for kind in form["theme"].values())
    assert "$web-font-path: false;" in read(site / "_proc" / scss[0])


def test_no_style_asks_another_host(site):
    none(
        f"{file.name}: {line.strip()}"
        for file in [*(site / "_proc").glob("*.css"), *(site / "_proc").glob("*.scss")]
        for line in read(file).splitlines()
        if re.search(r"https?:|@import", line)
    )


def test_version_stands_in_three_places():
    version = style.settings(ROOT)["version"]
    quarto = yaml.safe_load(read(ROOT / "_quarto.yml"))
    cited = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert f"gud_nb {version}," in quarto["website"]["page-footer"]["left"]
    assert str(cited["version"]) == version
    assert f"version = {{{version}}}" in read(ROOT / "nbs/citing.qmd")


def test_sidebar_has_every_page_once(site, book):
    sidebar = yaml.safe_load(read(site / "_proc/_quarto.yml"))["website"]["sidebar"]
    listed = [name for part in sidebar["contents"] for name in part["contents"]]
    parts = [(part["section"], part["contents"]) for part in sidebar["contents"]]
    assert list(pages.sections(read(ROOT / "_quarto.yml")))[0] == parts[0]
    assert sorted(listed) == sorted(book.keys() - {"404.qmd"})


def test_pages_have_title_number_and_description(book):
    for name in (n for n in book if n.endswith(".ipynb")):
        front = "".join(json.loads(read(book[name].path))["cells"][0]["source"])
        facts = yaml.safe_load(front.strip().strip("-"))
        number = pages.number(Path(name))
        assert facts["description"], f"{name} lost its description"
        assert facts["title"].startswith(f"{number} · " if number else ""), name
        assert pages.fact(front, "title") == facts["title"]
        assert pages.fact(front, "description") == facts["description"]


# Names


def test_api_is_up_to_date():
    assert read(ROOT / api.NOTEBOOK) == api.render(ROOT), "run python tools/api.py"


def test_every_public_name_is_reachable(book):
    linked = set(book["api.ipynb"].links)
    every = [e for part in api.reference(ROOT).values() for e in part]
    none(
        f"api has no link to {e.page}#{e.anchor}"
        for e in every
        if f"{e.page}#{e.anchor}" not in linked
    )
    none(
        f"{e.page} has no entry for {e.name}"
        for e in every
        if e.anchor not in book[e.page].anchors
    )


def test_no_entry_shares_its_anchor(book):
    every = {(e.page, e.anchor) for part in api.reference(ROOT).values() for e in part}
    none(
        f"{page}: {anchor} is there {book[page].anchors[anchor]} times"
        for page, anchor in sorted(every)
        if book[page].anchors[anchor] > 1
    )


def test_api_lists_what_the_package_exports():
    listed = {
        (m, e.name.split(".")[0])
        for m, part in api.reference(ROOT).items()
        for e in part
    }
    for file in style.modules(ROOT):
        exported = re.search(r"^__all__ = (\[.*?\])", read(file), re.M | re.S)
        for name in re.findall(r"'(\w+)'", exported[1]) if exported else ():
            assert (file.stem, name) in listed, f"{file.name}: {name}"


def test_signatures_are_short():
    long = re.compile(r"torch\._C|pathlib\.|collections\.abc|__main__\.|gud_nb\.\w+\.")
    every = [e for part in api.reference(ROOT).values() for e in part]
    none(f"{e.name}: {e.signature}" for e in every if long.search(e.signature))


def test_asterisks_of_a_docstring_are_shown():
    assert api.escaped("of shape (2, *comp)") == r"of shape (2, \*comp)"
    assert api.escaped("`(2, *comp)`, $a*b$") == "`(2, *comp)`, $a*b$"


# What a reader sees


def test_links_lead_somewhere(site, book):
    def wrong(p, target):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            return "github.io" in target and "leads away from the site"
        there = book.get(name) if name else p
        if there is None:
            return not (site / "_proc" / name).is_file() and "is no page and no file"
        return bool(anchor) and anchor not in there.anchors and "has no such anchor"

    none(
        f"{p.name}: {target} {why}"
        for p in book.values()
        for target in sorted(set(p.links))
        if (why := wrong(p, target))
    )


def test_pictures_exist_and_have_alt_texts(site, book):
    none(
        f"{p.name}: {target} {'is missing' if alt else 'has no alt text'}"
        for p in book.values()
        for alt, target in PICTURE.findall(without_code("\n".join(p.texts)))
        if not alt or not (site / "_proc" / target).is_file()
    )


def test_figures_have_captions_and_alt_texts(book):
    none(
        f"{p.name}: a figure has no {name}"
        for p in book.values()
        for flags in p.figures
        for name in ("fig-cap", "fig-alt")
        if not flags.get(name)
    )


def test_directives_are_yaml(book):
    def broken(line):
        try:
            return not isinstance(yaml.safe_load(line), dict)
        except yaml.YAMLError:
            return True

    none(
        f"{p.name}: {line}"
        for p in book.values()
        if p.path.suffix == ".ipynb"
        for cell in json.loads(read(p.path))["cells"]
        if cell["cell_type"] == "code"
        for line in re.findall(r"^#\| ([\w-]+:.*)$", "".join(cell["source"]), re.M)
        if broken(line)
    )


def test_code_fits(book):
    # what cells print may be longer: it wraps, see nbs/styles.css
    none(
        f"{p.name}: {len(line)} columns: {line}"
        for p in book.values()
        for part in p.code
        for line in part.splitlines()
        if len(line) > WIDTH
    )


def test_tables_are_tables(book):
    none(
        f"{p.name}: {line}"
        for p in book.values()
        for part in p.printed
        for line in part.splitlines()
        if re.match(r"\s*\|.*\|\s*$", line)
    )


def test_no_page_shows_what_a_library_complained_of():
    none(
        f"{path.name}, cell {cell['id']}: {''.join(output['text'])[:60]}"
        for path in sorted((ROOT / "nbs").glob("*.ipynb"))
        for cell in json.loads(read(path))["cells"]
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    )


def test_formulas_are_not_escaped_twice(book):
    none(
        f"{p.name}: {found}"
        for p in book.values()
        for part in p.texts
        for found in re.findall(r"\$\\\\[a-zA-Z].{,40}", part)
    )


def test_commands_of_formulas_end_where_they_should(book):
    merged = re.compile(
        r"\\(?:log|exp|sqrt|frac|nabla|partial|tfrac|Phi|Sigma)[a-zA-Z]+"
    )
    none(
        f"{p.name}: {found}"
        for p in book.values()
        for found in merged.findall("\n".join(p.texts))
    )


def test_references_are_in_the_file(site, book):
    known = set(
        re.findall(r"^@\w+\{([\w-]+),", read(site / "nbs/references.bib"), re.M)
    )
    assert len(known) > 20
    none(
        f"{p.name}: @{key}"
        for p in book.values()
        for key in sorted(set(KEY.findall(without_code("\n".join(p.texts)))))
        if key not in known
    )


def test_mentions_of_notebooks_are_links(book):
    plain = re.compile(r"(?<![\w\[])[Nn]otebooks?\s+\d\d[a-z]?\b")
    none(
        f"{p.name}: {found[0]}"
        for p in book.values()
        for found in plain.finditer(TARGET.sub("link", "\n".join(p.texts)))
        if p.path.suffix == ".ipynb"
    )


def test_references_are_citations(book):
    plain = re.compile(r"[A-Z]\w+ (?:et al\.,?|(?:and|&) [A-Z]\w+,?) \(?(?:19|20)\d\d")

    def by_hand(cell):
        # entries are docstrings, which are plain text; so is the README
        made = re.search(r"\{\.source\}|\.member\}", written(cell))
        return cell["cell_type"] == "markdown" and not made

    none(
        f"{p.name}: {found}"
        for p in book.values()
        if p.path.suffix == ".ipynb" and p.name not in ("api.ipynb", "index.ipynb")
        for cell in filter(by_hand, json.loads(read(p.path))["cells"])
        for found in plain.findall(without_code(written(cell)))
    )


# What the site has beside its pages


def test_every_page_has_a_twin_and_a_notebook(site, book):
    for name in (n for n in book if n.endswith(".ipynb")):
        twin = read(site / "_docs" / f"{pages.html(name)}.md")
        assert twin.startswith("# ") and "autogenerated" not in twin.lower()
        if name == "api.ipynb":
            continue
        first = json.loads(read(site / "_docs/notebooks" / name))["cells"][0]
        assert first["cell_type"] == "code" and "pip install" in first["source"]
        links = "".join(json.loads(read(book[name].path))["cells"][1]["source"])
        assert f"/notebooks/{name}" in links and f'"notebooks/{name}"' in links
        assert f'"{pages.html(name)}.md"' in links


def test_llms_txt_lists_every_page_in_order(site, book):
    text = read(site / "_docs/llms.txt")
    listed = re.findall(r"^- \[.+?\]\(\S+/([\w.]+)\.md\): \S", text, re.M)
    sidebar = pages.sections(read(ROOT / "_quarto.yml"))
    wanted = [pages.html(n) for _, names in sidebar for n in names if n in book]
    assert listed == wanted
    assert text.startswith("# gud_nb\n\n> ")


def test_before_runs_twice_without_harm(site):
    folder = site / "_proc"
    old = {f.name: read(f) for f in folder.glob("*.ipynb")}
    pages.before(folder)
    assert old == {f.name: read(f) for f in folder.glob("*.ipynb")}
