"The how-to notebooks 41 to 44 run: pytest leaves studies, 30 and up, out."

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from conftest import run_notebook  # noqa: E402

HOW_TO = sorted((ROOT / "nbs").glob("4[1-4]_my_*.ipynb"))


def test_there_are_four():
    assert [p.name[:2] for p in HOW_TO] == ["41", "42", "43", "44"]


@pytest.mark.parametrize("path", HOW_TO, ids=lambda p: p.stem)
def test_how_to_runs(path):
    said = run_notebook(path, ROOT)
    assert said is None, said
