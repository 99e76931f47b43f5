"""The two interactive figures, each one HTML file that needs nothing else.

    python tools/figures.py             writes nbs/figures/phase_space.html and
                                        nbs/figures/components.html
    python tools/figures.py --check     writes nothing, exits with 1 if one differs

Each is put together from the parts of its name beside it: body, style, mathematics and
page, with `frame.css` and `frame.js`, which both share. Added here, with the package's
own functions: the images and the variances of their components, and the still picture
that stands where scripts do not run.
"""

import base64
import json
import re
import sys
import warnings
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images

from gud_nb.basis import DCT, Pixel, Wavelet, Whitened
from gud_nb.core import eight_digits
from gud_nb.diffusion import LinearDiffusion
from gud_nb.recipe import phase_space, vp
from gud_nb.schedule import soft_conditioning
from gud_nb.transition import phi

FOLDER = Path(__file__).resolve().parents[1] / "nbs" / "figures"
TITLES = dict(
    phase_space="Phase space: friction, noise and the way back",
    components="Components: an image under a schedule of its own for each",
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<div class="still">
{still}
<p>This is a still picture: the figure to play with needs JavaScript.</p>
</div>
{body}{data}<script id="maths">
{maths}</script>
<script>
{page}</script>
</body>
</html>
"""


# The images, and the variances of their components


def basis_of(
    name: str,  # pixels, dct, haar
    side: int,  # of the images, a power of 2
):
    "One of the three bases of the figure."
    shape = (1, side, side)
    if name == "haar":
        return Wavelet(shape, "haar", side.bit_length() - 1)
    return dict(pixels=Pixel, dct=DCT)[name](shape)


def photographs() -> tuple[torch.Tensor, torch.Tensor]:  # (n, 1, 64, 64), (2, 64, 64)
    "Crops of scikit-learn's two photographs in grey, and two of them as bytes."
    crops, shown = [], []
    for photo, (top, left) in zip(load_sample_images().images, ((4, 8), (10, 29))):
        grey = photo @ np.array([0.299, 0.587, 0.114])
        for f in (3, 4, 5):  # one pixel is the mean of f × f
            h, w = grey.shape[0] // f, grey.shape[1] // f
            small = grey[: h * f, : w * f].reshape(h, f, w, f).mean((1, 3))
            windows = np.lib.stride_tricks.sliding_window_view(small, (64, 64))
            some = windows[::6, ::6].reshape(-1, 64, 64)
            crops += [some, some[:, :, ::-1]]
        shown.append(small[top : top + 64, left : left + 64].round())
    x = torch.from_numpy(np.concatenate(crops))[:, None] / 127.5 - 1
    return x, torch.from_numpy(np.stack(shown)).byte()


def packed(
    values: torch.Tensor,  # any shape
) -> dict:  # the two ends, and 16 bits for each value between them
    "Numbers as text."
    low, high = (round(v.item(), 6) for v in values.aminmax())
    steps = ((values.double() - low) / (high - low) * 65535).round().clamp(0, 65535)
    raw = steps.flatten().numpy().astype("<u2").tobytes()
    return dict(low=low, high=high, data=base64.b64encode(raw).decode())


def unpacked(
    kept: dict,  # what `packed` gave
) -> torch.Tensor:  # (n,) float64
    "The numbers, as the page reads them."
    raw = np.frombuffer(base64.b64decode(kept["data"]), "<u2").astype(np.float64)
    return torch.from_numpy(kept["low"] + raw / 65535 * (kept["high"] - kept["low"]))


def about(
    x: torch.Tensor,  # (n, 1, side, side) in [-1, 1]
    shown: torch.Tensor,  # (m, side, side) bytes, step · byte - 1 is the image
    step: float,
    floor: float,  # smaller variances are raised to so many times the largest
) -> dict:
    "What the page needs of one set of images."
    side = x.shape[-1]
    logs = {}
    for name in ("pixels", "dct", "haar"):
        white = Whitened.fit(basis_of(name, side), x.double(), floor)
        logs[name] = packed(2 * white.scale.log())
    images = [base64.b64encode(i.numpy().tobytes()).decode() for i in shown]
    mean = packed(x.double().mean(0))
    return dict(side=side, step=step, images=images, mean=mean, variances=logs)


@cache
def data() -> dict:
    "The images of the figure, and the variances of their components in each basis."
    digits = torch.from_numpy(load_digits().images)[:, None]
    crops, shown = photographs()
    return dict(
        digits=about(digits / 8 - 1, digits[:8, 0].byte(), 1 / 8, 1e-3),
        photos=about(crops, shown, 1 / 127.5, 1e-8),
    )


# The still pictures


def still_phase_space() -> str:  # SVG
    "Paths without noise in the three damping regimes, from a ring of starts."
    kinds = dict(underdamped=0.6, critical=4.0, overdamped=10.0)
    B, angles = torch.linspace(0, 12, 121).double(), torch.arange(6) * torch.pi / 3
    start = torch.stack([angles.cos(), angles.sin() / 2]).double()
    drawn = []
    for i, (name, nu) in enumerate(kinds.items()):
        z = phi(phase_space(0.0, nu, 0.25), B) @ start  # (121, 2, 6)
        x, y = 110 + 220 * i + 95 * z[:, 0], 125 - 190 * z[:, 1]
        for a, b in zip(x.T.tolist(), y.T.tolist()):
            path = " ".join(f"{u:.1f},{v:.1f}" for u, v in zip(a, b))
            drawn.append(f'<polyline points="{path}"/>')
            drawn.append(f'<circle cx="{a[0]:.0f}" cy="{b[0]:.0f}" r="3"/>')
        text = f"{name}: ν = {nu:g}"
        drawn.append(f'<text x="{110 + 220 * i}" y="16">{text}</text>')
    said = "Paths of position and momentum in three damping regimes: spirals, " + (
        "arcs that end at the centre, and paths that fall onto a line and creep along"
    )
    return svg(660, 240, said, drawn)


def still_components() -> str:  # SVG
    "A digit on its way to noise in the cosine basis, for three softnesses."
    x, basis = eight_digits(torch.float64)[2:3], basis_of("dct", 8)
    every = torch.from_numpy(load_digits().images)[:, None] / 8 - 1
    variances = Whitened.fit(basis, every, floor=1e-3).scale.square()
    noise = np.random.default_rng(0).standard_normal((1, 1, 1, 8, 8))
    eps, drawn = torch.from_numpy(noise), []
    pixels = {grey: [] for grey in range(16)}
    for row, a in enumerate((0.0, 1.0, 2.0)):
        process = LinearDiffusion(vp(), soft_conditioning(variances, a))
        drawn.append(f'<text x="30" y="{60 + 90 * row}">a = {a:g}</text>')
        for column, t in enumerate((0.0, 0.2, 0.4, 0.6, 0.8, 1.0)):
            z = process.perturb(basis(x), torch.tensor([t]).double(), eps).z
            grey = ((basis.inv(z[:, 0])[0, 0].clamp(-1, 1) + 1) * 7.5).round().int()
            left, top = 70 + 90 * column, 15 + 90 * row
            for (i, j), v in np.ndenumerate(grey.numpy()):
                pixels[int(v)].append(f"M{left + 10 * j} {top + 10 * i}h10v10h-10z")
            if row == 2:
                drawn.append(f'<text x="{left + 40}" y="292">t = {t:g}</text>')
    squares = (
        f'<path style="fill:rgb({17 * v},{17 * v},{17 * v});stroke:none" '
        f'd="{"".join(parts)}"/>'
        for v, parts in pixels.items()
    )
    said = (
        "A handwritten two turns to noise at three softnesses: all at once at 0, "
        + ("details first at 1, and from fine to coarse at 2")
    )
    return svg(620, 300, said, [*squares, *drawn])


def svg(width: int, height: int, said: str, parts: list) -> str:
    "A picture in the colour of the text around it."
    style = (
        "polyline{fill:none;stroke:currentColor}circle,text{fill:currentColor}"
        "text{font:14px sans-serif;text-anchor:middle}"
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(said)}"><style>{style}</style>{"".join(parts)}</svg>'
    )


# The pages


def part(name: str) -> str:
    "The text of a part; none if there is no such file."
    file = FOLDER / name
    return file.read_text(encoding="utf-8") if file.exists() else ""


def pages() -> dict[str, str]:  # file name -> text
    "Both figures."
    numbers = json.dumps(data(), separators=(",", ":"))
    embedded = f'<script type="application/json" id="data">{numbers}</script>\n'
    stills = dict(phase_space=still_phase_space(), components=still_components())
    return {
        f"{name}.html": PAGE.format(
            title=title,
            style=part("frame.css") + part(f"{name}.css"),
            still=stills[name],
            body=part(f"{name}.body.html"),
            data=embedded if name == "components" else "",
            maths=part(f"{name}.maths.js"),
            page=part("frame.js") + part(f"{name}.page.js"),
        )
        for name, title in TITLES.items()
    }


DATA = re.compile(r'(?<=<script type="application/json" id="data">)[^<]*')


def same_numbers(a: dict, b: dict) -> bool:
    "Whether two data agree but for rounding, which differs between machines."
    for key in a.keys() | b.keys():
        ours, theirs = a.get(key), b.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            if "data" in ours and "data" in theirs:
                ours, theirs = unpacked(ours), unpacked(theirs)
                if len(ours) != len(theirs) or (ours - theirs).abs().max() > 0.01:
                    return False
            elif not same_numbers(ours, theirs):
                return False
        elif key == "images":
            ours, theirs = (
                np.frombuffer(base64.b64decode("".join(v)), "u1")
                for v in (ours, theirs)
            )
            if np.abs(ours.astype(int) - theirs).max() > 2:
                return False
        elif ours != theirs:
            return False
    return True


def stale() -> list[str]:
    "The files that are not what their parts give."
    bad = []
    for name, text in pages().items():
        kept = part(name)
        found, wanted = DATA.search(kept), DATA.search(text)
        same = DATA.sub("", kept) == DATA.sub("", text)
        if same and wanted:
            same = same_numbers(json.loads(found[0]), json.loads(wanted[0]))
        if not same:
            bad.append(name)
    return bad


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*variances are below.*")
    if "--check" in sys.argv:
        sys.exit(", ".join(stale()) or 0)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.encode()) // 1024} KB")
