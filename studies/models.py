"""Train, measure and ship the models that come with the package.

    GUD_DATA=folder python studies/models.py fashion-mnist --minutes 45
    GUD_DATA=folder python studies/models.py fashion-mnist --evaluate
    GUD_DATA=folder python studies/models.py fashion-mnist --ship

    fashion-mnist         a denoiser with labels, a fifth of them left out in training
    fashion-mnist-phases  PSLD as in the paper: all phases in, the noise of all out, HSM
    cifar-16              a denoiser of colours at 16×16, with labels, mirrored

Minutes are those of the processor, of a process with one thread. Runs lie in
runs/<model>; `--resume` goes on with one. Evaluation draws three sets of samples, raw,
with the default sampler, and appends rows to studies/models.csv. `--ship` writes
half-precision weights and their card into gud_nb/weights, losses beside this script,
and a picture into nbs/images: 60 samples, and 20 real images in the last row. A try:

    GUD_DATA=folder python studies/models.py fashion-mnist --steps 3 --out /tmp/try
"""

import argparse
import csv
import shutil
import time
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image
from rows import append, parser

from gud_nb.basis import Pixel
from gud_nb.core import image_grid, show_images
from gud_nb.data import Images
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, frechet_distance, spectrum_error
from gud_nb.files import cifar10, fashion_mnist
from gud_nb.model import DiffusionModel, PhaseModel, ScoreModel, fit_law
from gud_nb.network import UNet, count_parameters
from gud_nb.recipe import psld, vp
from gud_nb.schedule import LinearBeta
from gud_nb.train import Training, fit, load_run

HERE = Path(__file__).resolve().parent
TABLE = HERE / "models.csv"
VP = LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
PSLD = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))
NETWORK = dict(width=16, mults=(1, 2, 4), blocks=(2, 2, 1), attention=(2,), middle=2)
NAMES = "fashion-mnist fashion-mnist-phases cifar-16".split()
RANK, BATCH, SEED, RATE = 256, 128, 0, 2e-3


def arguments() -> argparse.Namespace:
    "What is asked for on the command line."
    p = parser(__doc__)
    p.add_argument("model", choices=NAMES)
    p.add_argument("--minutes", type=float, default=60.0, help="of the processor")
    p.add_argument("--steps", type=int, help="of training, instead of minutes")
    p.add_argument("--out", type=Path, help="folder; default: runs/<model>")
    p.add_argument("--resume", action="store_true", help="from the checkpoint there")
    p.add_argument("--evaluate", action="store_true", help="samples of a finished run")
    p.add_argument("--n", type=int, default=2000, help="samples of an evaluation")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of samples")
    p.add_argument("--ship", action="store_true", help="put the weights in the package")
    return p.parse_args()


def images(name: str, train: bool) -> Images:
    "The data of a model."
    if name.startswith("fashion"):
        return fashion_mnist(train)
    full = cifar10(train)
    x = torch.nn.functional.avg_pool2d(full.x, 2)
    return Images(x, full.labels, "cifar10 at 16×16", full.classes)


def build(name: str, data: Images) -> DiffusionModel:
    "An untrained model."
    torch.manual_seed(SEED)
    pixel, channels = Pixel(data.shape), data.shape[0]
    if name.endswith("phases"):
        return PhaseModel(UNet(2 * channels, **NETWORK), PSLD, pixel)
    net = UNet(channels, classes=len(data.classes), **NETWORK)
    return ScoreModel(net, VP, pixel, fit_law(VP, pixel, data, RANK))


def plan(a: argparse.Namespace) -> Training:
    "How it is trained."
    budget = dict(steps=a.steps)
    if not a.steps:
        budget = dict(minutes=a.minutes, timer=time.process_time)
    how = dict(batch=BATCH, lr=RATE, warmup=500, ema=(0.9995, 0.999), seed=SEED)
    how |= dict(mixed=True, unlabelled=0.2, flips=a.model == "cifar-16")
    return Training(**how, **budget)


@torch.no_grad()
def samples(model: DiffusionModel, n: int, seed: int, labels) -> torch.Tensor:
    "Raw samples with the default sampler."
    g = torch.Generator().manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16):
        return model.sample(n, generator=g, labels=labels).float()


def evaluate(a: argparse.Namespace, model: DiffusionModel, folder: Path):
    "Sets of samples: a picture of each, and rows of the table."
    data, clothes = images(a.model, True), a.model.startswith("fashion")
    features = feature_extractor("fashion_mnist") if clothes else None
    real = features(data.x) if clothes else None
    classes = model.network.config["classes"]
    choices = [None, torch.arange(a.n) % classes] if classes else [None]
    for seed in a.seeds:
        for labels in choices:
            x, known = samples(model, a.n, seed, labels), labels is not None
            row = dict(model=a.model, labels=known, seed=seed, n=a.n, frechet="")
            if clothes:
                row["frechet"] = frechet_distance(features(x), real).value
            row["spectrum"] = spectrum_error(x, data.x[:10_000]).value
            row["black"] = (x < -0.96).float().mean().item()
            row["out_of_range"] = (x.abs() > 1.05).float().mean().item()
            append(TABLE, row)
            shown = show_images(x[:100], cols=10, scale=1.0)
            shown.figure.savefig(folder / f"samples-{seed}-{known}.png")


CARD = """# {name}

{what}, of {weights:,} weights in half precision, for images of {data}.

| | |
|---|---|
| training | {images:,} images, {steps:,} steps of {batch}, {seconds:.0f} s, one core |
| made by | `studies/models.py {name}`, seed {seed} |
{measured}
Limits: a small network, one training seed, less than an hour on one core.

    gud_sample --model {name} --n 64
"""
WHAT = {
    "fashion-mnist": "A denoiser with labels: a Gaussian law and a U-Net",
    "fashion-mnist-phases": "PSLD (Γ = .01) as in its paper: a U-Net of all phases",
    "cifar-16": "A denoiser with labels: a Gaussian law and a U-Net",
}


def measured(name: str) -> str:
    "Rows of the card: means and standard deviations over sets of samples."
    rows = list(csv.DictReader(TABLE.read_text("utf-8").splitlines()))
    rows = [r for r in rows if r["model"] == name]
    out = ""
    for labels in ("False", "True"):
        own = [r for r in rows if r["labels"] == labels]
        if not own:
            continue
        key = "frechet" if own[0]["frechet"] else "spectrum"
        word = dict(frechet="Fréchet distance", spectrum="error of the spectrum")[key]
        v = [float(r[key]) for r in own]
        kind = "labels given" if labels == "True" else "no labels"
        spread = f" ± {stdev(v):.2g}" if len(v) > 1 else ""
        sets = f"{len(v)} sets of {own[0]['n']} raw samples, 25 evaluations"
        sets += f" in bfloat16, {kind}"
        out += f"| {word} | {mean(v):.3g}{spread} ({sets}) |\n"
    return out


def ship(name: str, model: DiffusionModel, folder: Path, data: Images):
    "Weights and card into the package, losses beside this script."
    rows = list(csv.DictReader((folder / "loss.csv").read_text("utf-8").splitlines()))
    last = rows[-1]
    about = dict(data=data.name, seed=SEED, batch=BATCH, images=int(last["images"]))
    about |= dict(steps=int(last["step"]), processor_seconds=float(last["seconds"]))
    weights = HERE.parent / "gud_nb" / "weights" / name
    model.save_pretrained(weights, torch.float16, about)
    shutil.copy(folder / "loss.csv", HERE / f"models_{name}.csv")
    facts = dict(name=name, what=WHAT[name], data=data.name, measured=measured(name))
    facts |= dict(
        weights=count_parameters(model.network), seconds=float(last["seconds"])
    )
    facts |= {k: about[k] for k in ("seed", "batch", "images", "steps")}
    (weights / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
    classes = model.network.config["classes"]
    x = samples(model, 60, SEED, torch.arange(60) % classes if classes else None)
    grid = image_grid(torch.cat([x, data.x[:20]]), 20, gutter=2)
    picture, zoom = Image.fromarray((255 * grid).byte().numpy()), 56 // x.shape[-1]
    picture = picture.resize([zoom * n for n in picture.size], Image.Resampling.NEAREST)
    few = picture.quantize(32 if x.shape[1] == 1 else 256, dither=Image.Dither.NONE)
    path = HERE.parent / "nbs" / "images" / f"{name}.png"
    few.save(path, optimize=True)
    print(about)


def main():
    "Train; or evaluate or ship what is trained."
    a = arguments()
    torch.set_num_threads(1)
    folder = a.out or Path("runs") / a.model
    data = images(a.model, True)
    model = build(a.model, data)
    if a.evaluate:
        evaluate(a, load_run(model, folder), folder)
    elif a.ship:
        ship(a.model, load_run(model, folder), folder, data)
    else:
        fit(model, data, plan(a), out=folder, resume=a.resume, progress=True, cpu=True)


if __name__ == "__main__":
    main()
