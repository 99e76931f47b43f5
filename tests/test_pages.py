"""The pages can be made: everything nbdev does before Quarto takes over, with a stand-in for Quarto that only notes what it was asked."""

import json, os, shutil, subprocess, sys
from pathlib import Path

import style, yaml

ROOT = Path(__file__).resolve().parents[1]
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
    (site / "README.md").write_text(
        "ours"
    )  # newer than the index, so that nbdev leaves it alone
    (site / "bin").mkdir()
    (site / "bin/quarto").write_text(QUARTO)
    (site / "bin/quarto").chmod(0o755)
    env = {
        k: v for k, v in os.environ.items() if k not in ("IN_TEST", "QUARTO_PREVIEW")
    }
    env |= dict(
        PATH=f"{site / 'bin'}{os.pathsep}{env['PATH']}",
        QUARTO_LOG=str(site / "quarto.log"),
    )
    env |= dict(PYTHONPATH=str(site), OMP_NUM_THREADS="1")
    command = [
        sys.executable,
        "-c",
        "from nbdev.quarto import nbdev_docs; nbdev_docs(n_workers=1)",
    ]
    run = subprocess.run(command, cwd=site, env=env, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr[-6000:]


def test_pages_can_be_made(tmp_path):
    make_site(tmp_path)
    pages, books = tmp_path / "_proc", style.notebooks(ROOT)
    assert (tmp_path / "quarto.log").read_text() == "render --no-cache\n"
    assert (tmp_path / "README.md").read_text() == "ours"

    quarto, made, sidebar = (
        yaml.safe_load((pages / name).read_text())
        for name in ("_quarto.yml", "nbdev.yml", "sidebar.yml")
    )
    assert quarto["metadata-files"] == ["nbdev.yml", "sidebar.yml"]
    assert (
        list(quarto["format"]) == ["html"]
        and quarto["format"]["html"]["html-math-method"] == "mathml"
    )
    assert (pages / quarto["format"]["html"]["css"]).is_file()
    assert made["website"]["title"] == style.settings(ROOT)["title"]
    names = [b.path.name for b in books]
    assert sidebar["website"]["sidebar"]["contents"] == names[-1:] + names[:-1], (
        "the index first, then the notebooks in their order"
    )

    for book in books:
        cells = [
            "".join(c["source"])
            for c in json.loads((pages / book.path.name).read_text())["cells"]
        ]
        assert "title: " in cells[0] and "description: " in cells[0], (
            f"{book.path.name} lost its title or description"
        )
        for cell in (
            c
            for c in book.cells
            if {"export", "exports"} & c.flags.keys() and "hide" not in c.flags
        ):
            for name in (
                n.name for n in style.defined(cell) if not n.name.startswith("_")
            ):
                assert any(f"show_doc({name})" in c for c in cells), (
                    f"{cell.where}: {name} is on no page"
                )
