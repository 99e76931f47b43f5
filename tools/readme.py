"""README.md from its source, nbs/index.ipynb.

    python tools/readme.py             writes README.md, and in README_files/ what its
                                       cells drew
    python tools/readme.py --check     writes nothing, exits with 1 if a file differs

Markdown cells go over word for word, code cells as python blocks, what they printed as
text blocks, what they drew as pictures. Links and pictures that are relative to nbs/
are made relative to the README. Left out: cells flagged `#| hide` or
`#| include: false`, the code of cells flagged `#| echo: false`, the outputs of those
flagged `#| output: false`.
"""

import base64
import json
import posixpath
import re
import sys
from pathlib import Path

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
LINK = re.compile(r"(\]\(|\b(?:src|href)=[\"'])(?![a-z][a-z0-9+.-]*:|#|/)([^)\s\"']+)")
FENCE = re.compile(r"^\s*(```|~~~)")


def text(
    lines: str | list,  # as stored in a notebook
) -> str:  # in one piece
    "Notebook text, which is stored as a list of lines or as one string."
    return lines if isinstance(lines, str) else "".join(lines)


def directives(
    source: str,  # of a code cell
) -> tuple[dict, str]:  # the directives by name, the code
    "The `#|` lines at the head of a code cell, and the code below them."
    lines, n = source.splitlines(), 0
    while n < len(lines) and (not lines[n].strip() or DIRECTIVE.match(lines[n])):
        n += 1
    found = [m for line in lines[:n] if (m := DIRECTIVE.match(line))]
    return {m[1]: m[2] for m in found}, "\n".join(lines[n:])


def relink(
    markdown: str,  # a text that stands in `folder`
    folder: str,  # relative to that of the README
) -> str:  # the text for the README
    "Relative links made relative to the folder above; fenced code is left alone."

    def move(m):
        return m[1] + posixpath.normpath(posixpath.join(folder, m[2]))

    lines, fenced = [], False
    for line in markdown.splitlines():
        if FENCE.match(line):
            fenced = not fenced
        lines.append(line if fenced else LINK.sub(move, line))
    return "\n".join(lines)


def outputs(
    cell: dict,  # a code cell
    pictures: dict,  # what was drawn so far, by path; added to
    alt: str = "",  # text for who does not see what it drew
) -> list[str]:  # of markdown
    "What a code cell printed and drew."
    parts = []
    for out in cell.get("outputs", []):
        data = out.get("data", {})
        if "image/png" in data:
            path = f"README_files/{len(pictures)}.png"
            pictures[path] = base64.b64decode(text(data["image/png"]))
            parts.append(f"![{alt}]({path})")
        elif "text/markdown" in data:
            parts.append(text(data["text/markdown"]).strip("\n"))
        elif plain := text(out.get("text", data.get("text/plain", ""))).strip("\n"):
            parts.append(f"```text\n{plain}\n```")
    return parts


def render(
    notebook: Path,  # the index
) -> dict[str, bytes]:  # README.md and its pictures
    "Every file that the notebook gives, by path."
    parts, pictures = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = text(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(relink(source, notebook.parent.name))
        if cell["cell_type"] != "code":
            continue
        flags, code = directives(source)
        if "hide" in flags or flags.get("include") == "false" or "default_exp" in flags:
            continue
        if code and flags.get("echo") != "false":
            parts.append(f"```python\n{code}\n```")
        if flags.get("output") != "false":
            parts += outputs(cell, pictures, flags.get("fig-alt", "").strip("\"'"))
    origin = f"{notebook.parent.name}/{notebook.name}"
    note = f"<!-- made by tools/readme.py from {origin}: edit that -->"
    page = "\n\n".join([p for p in parts if p] + [note]) + "\n"
    return {"README.md": page.encode(), **pictures}


def stale(
    root: Path,  # the project
) -> list[str]:  # paths
    "The files of the README that are missing, differ, or are no longer made."
    made, folder = render(root / "nbs" / "index.ipynb"), root / "README_files"
    old = {f"README_files/{p.name}" for p in folder.glob("*")} - made.keys()

    def differs(name):
        return not (root / name).is_file() or (root / name).read_bytes() != made[name]

    return sorted(old | {name for name in made if differs(name)})


def write(
    root: Path,  # the project
):
    "Write the README and its pictures."
    made = render(root / "nbs" / "index.ipynb")
    for name in stale(root):
        (root / name).parent.mkdir(exist_ok=True)
        if name in made:
            (root / name).write_bytes(made[name])
        else:
            (root / name).unlink()


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    if "--check" in sys.argv:
        said = [f"{name} is not what nbs/index.ipynb gives\n" for name in stale(root)]
        sys.exit("".join(said) or 0)
    write(root)
