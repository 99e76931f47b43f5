"The page for beginners: its map has every notebook."

import ast

import style

ROOT = style.Path(__file__).resolve().parents[1]


def test_map_has_every_notebook():
    books = {b.path.stem: b for b in style.notebooks(ROOT)}
    figure = next(c for c in books["start"].cells if "Papers" in c.code)
    strings = [
        n for n in ast.walk(ast.parse(figure.code)) if isinstance(n, ast.Constant)
    ]
    shown = {w for n in strings if isinstance(n.value, str) for w in n.value.split()}
    assert books.keys() - shown - {"index", "00_core", "api"} == set()
    assert not {w for w in shown if w[:2].isdigit()} - books.keys()


def test_start_imports_only_pictures():
    cells = style.notebook(ROOT / "nbs/start.ipynb").cells
    nodes = [n for c in cells for top in c.tree for n in ast.walk(top)]
    found = [n for n in nodes if isinstance(n, ast.ImportFrom) and "gud_nb" in n.module]
    names = {a.name for n in found for a in n.names}
    assert names == {"eight_digits", "show_rows"}
