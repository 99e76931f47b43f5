"""Run notebooks top to bottom and store their outputs.

    python tools/execute.py nbs/02_transition.ipynb [more notebooks] [--slow]

Cells flagged `#| slow`, `#| cuda` or `#| eval: false` are left alone with their stored
outputs; `--slow` runs the slow ones too. The first error stops the run and nothing is
written. Afterwards run `nbdev_clean`.
"""

import base64
import io
import os
import re
import sys
import traceback
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bars in stored outputs
os.environ.setdefault("IN_TEST", "1")

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell

KEEP = re.compile(r"^#\|\s*(slow|cuda|eval:\s*false)\b", re.M)


def smaller(
    png: bytes,  # a picture
    limit: int = 60_000,  # bytes
) -> bytes:  # a picture
    "A picture of more than `limit` bytes with as few colours as it takes: 64, 32, 16."
    from PIL import Image

    for colours in (64, 32, 16):
        if len(png) <= limit:
            break
        picture, out = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
        few = picture.quantize(colours, dither=Image.Dither.NONE)
        few.save(out, "png", optimize=True)
        png = min(png, out.getvalue(), key=len)
    return png


def shrink(
    outputs: list,  # of a cell; changed in place
):
    "Stored figures, kept small."
    for data in (o["data"] for o in outputs if "image/png" in o.get("data", {})):
        png = smaller(base64.b64decode("".join(data["image/png"])))
        data["image/png"] = base64.b64encode(png).decode()


def execute(
    path: Path,  # of a notebook
    slow: bool = False,  # run the slow cells, too
):
    "Run a notebook in a fresh shell inside its folder; store outputs if all passed."
    nb, here = read_nb(path), os.getcwd()
    os.chdir(path.parent)
    try:
        shell = CaptureShell(path=".", mpl_format="png")
        for cell in (c for c in nb.cells if c.cell_type == "code"):
            kept = KEEP.search(cell.source)
            if kept and not (slow and kept[1] == "slow"):
                continue
            # a closing ; would silence what was printed, too
            cell.outputs = shell.run(re.sub(r";\s*$", "\nNone", cell.source))
            shrink(cell.outputs)
            if shell.exc:
                error = "".join(traceback.format_exception(shell.exc))
                sys.exit(f"{path}: stopped in the cell\n\n{cell.source}\n\n{error}")
    finally:
        os.chdir(here)
    write_nb(nb, path)


if __name__ == "__main__":
    for name in [a for a in sys.argv[1:] if not a.startswith("-")]:
        execute(Path(name), "--slow" in sys.argv)
        print("executed", name)
