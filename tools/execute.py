"""Run notebooks top to bottom and store their outputs.

    python tools/execute.py nbs/02_transition.ipynb [more notebooks] [--slow]

Cells flagged `#| slow`, `#| cuda` or `#| eval: false` are left alone with their stored outputs; `--slow` runs the slow ones too.
The first error stops the run and nothing is written. Afterwards run `nbdev_clean`.
"""
import os, re, sys, traceback
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")          # no progress bars in stored outputs
os.environ.setdefault("IN_TEST", "1")

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell

KEEP = re.compile(r"^#\|\s*(slow|cuda|eval:\s*false)\b", re.M)


def execute(path: Path, slow: bool = False):
    "Run `path` in a fresh shell inside its folder, write outputs back when every cell passed."
    nb, here = read_nb(path), os.getcwd()
    os.chdir(path.parent)
    try:
        shell = CaptureShell(path=".", mpl_format="png")
        for cell in nb.cells:
            if cell.cell_type != "code": continue
            kept = KEEP.search(cell.source)
            if kept and not (slow and kept[1] == "slow"): continue
            cell.outputs = shell.run(re.sub(r";\s*$", "\nNone", cell.source))     # a closing ; would silence what was printed, too
            if shell.exc: sys.exit(f"{path}: stopped in the cell\n\n{cell.source}\n\n{''.join(traceback.format_exception(shell.exc))}")
    finally: os.chdir(here)
    write_nb(nb, path)


if __name__ == "__main__":
    for name in [a for a in sys.argv[1:] if not a.startswith("-")]:
        execute(Path(name), "--slow" in sys.argv)
        print("executed", name)
