"""Train the models that ship with the package.

    GUD_DATA=folder python studies/models.py vp-fashion-mnist --minutes 60
    GUD_DATA=folder python studies/models.py vp-fashion-mnist --evaluate
    GUD_DATA=folder python studies/models.py vp-fashion-mnist --ship

Minutes are those of the processor, of a process with one thread. Runs lie in
runs/<model>; `--resume` goes on with one. Evaluation samples 2000 images three times,
raw, with the default sampler, and appends rows to studies/models.csv. `--ship` writes
half-precision weights into gud_nb/weights, and the losses beside this script. A try:

    GUD_DATA=folder python studies/models.py vp-fashion-mnist --steps 3 --out /tmp/try

    vp-fashion-mnist     a denoiser with labels, a fifth of them left out in training
    psld-fashion-mnist   as the paper: all phases in, the noise of all phases out, HSM
    vp-cifar-16          colour, 16×16, with labels, mirrored
"""

import argparse
import csv
import shutil
import time
from pathlib import Path

import torch

from gud_nb.basis import Pixel
from gud_nb.data import Images, cifar10, fashion_mnist
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, frechet_distance, spectrum_error
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import UNet
from gud_nb.recipe import psld, vp
from gud_nb.schedule import LinearBeta
from gud_nb.train import Training, fit, load_run

HERE = Path(__file__).resolve().parent
VP = LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
PSLD = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))
NETWORK = dict(width=16, mults=(1, 2, 4), blocks=(2, 2, 1), attention=(2,), middle=2)
NAMES = "vp-fashion-mnist psld-fashion-mnist vp-cifar-16".split()
RANK, BATCH, SEED, RATE = 256, 128, 0, 2e-3


def arguments() -> argparse.Namespace:
    "What is asked for on the command line."
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    p.add_argument("model", choices=NAMES)
    p.add_argument("--minutes", type=float, default=60.0, help="of the processor")
    p.add_argument("--steps", type=int, help="of training, instead of minutes")
    p.add_argument("--out", type=Path, help="folder; default: runs/<model>")
    p.add_argument("--resume", action="store_true", help="from the checkpoint there")
    p.add_argument("--evaluate", action="store_true", help="samples of a finished run")
    p.add_argument("--n", type=int, default=2000, help="samples of an evaluation")
    p.add_argument("--ship", action="store_true", help="put the weights in the package")
    return p.parse_args()


def images(name: str, train: bool) -> Images:
    "The data of a model."
    if "fashion" in name:
        return fashion_mnist(train)
    full = cifar10(train)
    x = torch.nn.functional.avg_pool2d(full.x, 2)
    return Images(x, full.labels, "cifar10 at 16×16", full.classes)


def build(name: str, data: Images):
    "An untrained model."
    torch.manual_seed(SEED)
    pixel, channels = Pixel(data.shape), data.shape[0]
    if name.startswith("psld"):
        return PhaseModel(UNet(2 * channels, **NETWORK), PSLD, pixel)
    net = UNet(channels, classes=len(data.classes), **NETWORK)
    return ScoreModel(net, VP, pixel, fit_law(VP, pixel, data, RANK))


def plan(a: argparse.Namespace) -> Training:
    "How it is trained."
    budget = dict(steps=a.steps)
    if not a.steps:
        budget = dict(minutes=a.minutes, timer=time.process_time)
    how = dict(batch=BATCH, lr=RATE, warmup=500, ema=(0.9995, 0.999), seed=SEED)
    how |= dict(mixed=True, unlabelled=0.2, flips="cifar" in a.model)
    return Training(**how, **budget)


@torch.no_grad()
def evaluate(a: argparse.Namespace, model, folder: Path):
    "Three sets of samples, raw: rows of the table."
    data, labelled = images(a.model, True), not isinstance(model, PhaseModel)
    features = feature_extractor("fashion_mnist") if "fashion" in a.model else None
    real = features(data.x) if features else None
    path = HERE / "models.csv"
    for seed in range(3):
        for labels in (None, torch.arange(a.n) % 10) if labelled else (None,):
            g = torch.Generator().manual_seed(seed)
            with torch.autocast("cpu", torch.bfloat16):
                x = model.sample(a.n, generator=g, labels=labels).float()
            row = dict(model=a.model, labels=labels is not None, seed=seed, n=a.n)
            row["frechet"] = ""
            if features:
                row["frechet"] = frechet_distance(features(x), real).value
            row["spectrum"] = spectrum_error(x, data.x[:10_000]).value
            row["black"] = (x < -0.96).float().mean().item()
            row["out_of_range"] = (x.abs() > 1.05).float().mean().item()
            fresh = not path.exists()
            with open(path, "a", newline="", encoding="utf-8") as f:
                w = csv.DictWriter(f, row)
                if fresh:
                    w.writeheader()
                w.writerow(row)
            print(row, flush=True)


def main():
    "Train; or evaluate or ship what is trained."
    a = arguments()
    torch.set_num_threads(1)
    folder = a.out or Path("runs") / a.model
    data = images(a.model, True)
    model = build(a.model, data)
    if a.evaluate:
        return evaluate(a, load_run(model, folder), folder)
    if not a.ship:
        fit(model, data, plan(a), out=folder, resume=a.resume, progress=True, cpu=True)
        return None
    load_run(model, folder)
    rows = list(csv.DictReader((folder / "loss.csv").read_text("utf-8").splitlines()))
    last = rows[-1]
    about = dict(data=data.name, process=a.model.split("-")[0], seed=SEED, batch=BATCH)
    about |= dict(images=int(last["images"]), steps=int(last["step"]))
    about |= dict(processor_seconds=float(last["seconds"]), rank=RANK)
    weights = HERE.parent / "gud_nb" / "weights" / a.model
    model.save_pretrained(weights, torch.float16, about)
    shutil.copy(folder / "loss.csv", HERE / f"models_{a.model}.csv")
    return print(about)


if __name__ == "__main__":
    main()
