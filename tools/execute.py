"""Run notebooks top to bottom and store their outputs.

    python tools/execute.py nbs/02_transition.ipynb [more notebooks] [--slow]

Cells flagged `#| slow`, `#| cuda` or `#| eval: false` are left alone with their stored outputs; `--slow` runs the slow ones too.
The first error stops the run and nothing is written. Afterwards run `nbdev_clean`.
"""

import base64, io, os, re, sys, traceback
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bars in stored outputs
os.environ.setdefault("IN_TEST", "1")

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell

KEEP = re.compile(r"^#\|\s*(slow|cuda|eval:\s*false)\b", re.M)


def smaller(png: bytes, limit: int = 60_000) -> bytes:
    "A picture of more than `limit` bytes with as few of 64, 32 or 16 colours as it takes."
    from PIL import Image

    for colours in (64, 32, 16):
        if len(png) <= limit:
            break
        out = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").quantize(
            colours, dither=Image.Dither.NONE
        ).save(out, "png", optimize=True)
        png = min(png, out.getvalue(), key=len)
    return png


def shrink(outputs: list):
    "Stored figures, kept small."
    for data in (o["data"] for o in outputs if "image/png" in o.get("data", {})):
        data["image/png"] = base64.b64encode(
            smaller(base64.b64decode("".join(data["image/png"])))
        ).decode()


def execute(path: Path, slow: bool = False):
    "Run `path` in a fresh shell inside its folder, write outputs back when every cell passed."
    nb, here = read_nb(path), os.getcwd()
    os.chdir(path.parent)
    try:
        shell = CaptureShell(path=".", mpl_format="png")
        for cell in nb.cells:
            if cell.cell_type != "code":
                continue
            kept = KEEP.search(cell.source)
            if kept and not (slow and kept[1] == "slow"):
                continue
            cell.outputs = shell.run(
                re.sub(r";\s*$", "\nNone", cell.source)
            )  # a closing ; would silence what was printed, too
            shrink(cell.outputs)
            if shell.exc:
                sys.exit(
                    f"{path}: stopped in the cell\n\n{cell.source}\n\n{''.join(traceback.format_exception(shell.exc))}"
                )
    finally:
        os.chdir(here)
    write_nb(nb, path)


if __name__ == "__main__":
    for name in [a for a in sys.argv[1:] if not a.startswith("-")]:
        execute(Path(name), "--slow" in sys.argv)
        print("executed", name)
