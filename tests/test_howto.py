"The how-to notebooks 40 to 51 run: pytest leaves studies, 30 and up, out."

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from conftest import run_notebook  # noqa: E402

HOW_TO = sorted((ROOT / "nbs").glob("[45][0-9]_*.ipynb"))


def test_there_are_twelve():
    assert [int(p.name[:2]) for p in HOW_TO] == list(range(40, 52))


@pytest.mark.parametrize("path", HOW_TO, ids=lambda p: p.stem)
def test_how_to_runs(path):
    said = run_notebook(path, ROOT)
    assert said is None, said
