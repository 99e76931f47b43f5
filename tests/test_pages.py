"""The pages can be made, with a stand-in for Quarto that notes what it was asked.

Everything that nbdev does before Quarto takes over is done.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import style
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = "from nbdev.quarto import nbdev_docs; nbdev_docs(n_workers=1)"
QUARTO = '#!/bin/sh\necho "$@" >> "$QUARTO_LOG"\nmkdir -p _docs\n'


def make_site(site: Path):
    "Run `nbdev_docs` on a copy of the project."
    for name in ("settings.ini", "_quarto.yml"):
        shutil.copy(ROOT / name, site)
    for name in ("nbs", "gud_nb"):
        shutil.copytree(
            ROOT / name,
            site / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("*.safetensors", ".*"),
        )
    # newer than the index, so that nbdev leaves it alone
    (site / "README.md").write_text("ours", encoding="utf-8")
    (site / "bin").mkdir()
    (site / "bin/quarto").write_text(QUARTO, encoding="utf-8")
    (site / "bin/quarto").chmod(0o755)
    away = ("IN_TEST", "QUARTO_PREVIEW")
    env = {k: v for k, v in os.environ.items() if k not in away}
    env |= dict(
        PATH=f"{site / 'bin'}{os.pathsep}{env['PATH']}",
        QUARTO_LOG=str(site / "quarto.log"),
        PYTHONPATH=str(site),
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


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def test_pages_can_be_made(tmp_path):
    make_site(tmp_path)
    pages, books = tmp_path / "_proc", style.notebooks(ROOT)
    assert read(tmp_path / "quarto.log") == "render --no-cache\n"
    assert read(tmp_path / "README.md") == "ours"

    names = ("_quarto.yml", "nbdev.yml", "sidebar.yml")
    quarto, made, sidebar = (yaml.safe_load(read(pages / name)) for name in names)
    assert quarto["metadata-files"] == ["nbdev.yml", "sidebar.yml"]
    assert list(quarto["format"]) == ["html"]
    assert quarto["format"]["html"]["html-math-method"] == "mathml"
    assert (pages / quarto["format"]["html"]["css"]).is_file()
    assert made["website"]["title"] == style.settings(ROOT)["title"]
    index, names = "index.ipynb", [b.path.name for b in books]
    wanted = [index, *(n for n in names if n != index)]
    assert sidebar["website"]["sidebar"]["contents"] == wanted

    for book in books:
        name = book.path.name
        cells = ["".join(c["source"]) for c in json.loads(read(pages / name))["cells"]]
        assert "title: " in cells[0], f"{name} lost its title"
        assert "description: " in cells[0], f"{name} lost its description"
        for cell in (c for c in book.cells if c.public and "hide" not in c.flags):
            for node in style.defined(cell):
                shown = any(f"show_doc({node.name})" in c for c in cells)
                said = f"{cell.where}: {node.name} is on no page"
                assert shown or node.name.startswith("_"), said
