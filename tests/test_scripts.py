"""What all scripts have in common."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "studies"))

import rows  # noqa: E402

STUDIES = [p for p in (ROOT / "studies").glob("*.py") if p.name != "rows.py"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_command_lines_are_made_by_one_function(path):
    text = path.read_text(encoding="utf-8")
    assert "parser(__doc__)" in text and "ArgumentParser(" not in text


def test_help_and_rows_are_printed_on_any_terminal(monkeypatch, tmp_path):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    p = rows.parser("Friction Γ.")
    with pytest.raises(SystemExit):
        p.parse_args(["--help"])
    rows.append(tmp_path / "table.csv", {"Fréchet distance": "1 ± 2"})
    screen.flush()
    assert b"Friction \\u0393." in screen.buffer.getvalue()
    assert "1 ± 2" in (tmp_path / "table.csv").read_text(encoding="utf-8")


def test_a_study_says_what_it_is_on_an_ascii_terminal():
    how = dict(capture_output=True, cwd=ROOT, env={"PYTHONIOENCODING": "ascii"})
    found = subprocess.run([sys.executable, "studies/psld.py", "--help"], **how)
    assert found.returncode == 0 and b"denoising score matching" in found.stdout
