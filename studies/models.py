"""Train VP or PSLD on Fashion-MNIST: the run behind the weights that ship.

    GUD_DATA=folder python studies/fashion_mnist.py psld --minutes 60 --out runs/psld

Minutes are those of the processor, of a process with one thread. Training times are
uniform, as in the papers, or those of `snr_times`. `--resume` goes on from the
checkpoint; `--ship` writes the half-precision weights into gud_nb/weights, and the
losses beside this script. A short try:

    GUD_DATA=folder python studies/fashion_mnist.py psld --steps 3 --out /tmp/try
"""

import argparse
import shutil
import time
from pathlib import Path

import torch

from gud_nb.basis import Pixel
from gud_nb.data import fashion_mnist
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import snr_times
from gud_nb.network import UNet
from gud_nb.recipe import psld, vp
from gud_nb.schedule import LinearBeta
from gud_nb.train import ScoreModel, Training, fit, fit_law

ROOT = Path(__file__).resolve().parent.parent
WIDTH, RANK, BATCH, SEED = 24, 256, 128, 0
PROCESSES = dict(
    vp=LinearDiffusion(vp(), LinearBeta(0.1, 20.0)),
    psld=LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld())),
)


def arguments() -> argparse.Namespace:
    "What is asked for on the command line."
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    p.add_argument("process", choices=list(PROCESSES))
    p.add_argument("--minutes", type=float, default=60.0, help="of the processor")
    p.add_argument("--steps", type=int, help="of training, instead of minutes")
    p.add_argument("--times", choices=["uniform", "snr"], default="snr")
    p.add_argument("--out", type=Path, help="folder; default: runs/<process>")
    p.add_argument("--resume", action="store_true", help="from the checkpoint there")
    p.add_argument("--ship", action="store_true", help="put the weights in the package")
    return p.parse_args()


def build(process: str, x: torch.Tensor) -> ScoreModel:
    "An untrained model."
    diffusion, pixel = PROCESSES[process], Pixel((1, 28, 28))
    torch.manual_seed(SEED)
    law = fit_law(diffusion, pixel, x, RANK)
    return ScoreModel(UNet(1, width=WIDTH), diffusion, pixel, law)


def plan(a: argparse.Namespace, diffusion: LinearDiffusion) -> Training:
    "How it is trained."
    budget = dict(steps=a.steps)
    if not a.steps:
        budget = dict(minutes=a.minutes, timer=time.process_time)
    times = snr_times(diffusion) if a.times == "snr" else None
    how = dict(batch=BATCH, lr=1e-3, warmup=500, ema=0.999, seed=SEED, mixed=True)
    return Training(times=times, **how, **budget)


def main():
    "Train, save, and ship if that is wanted."
    a = arguments()
    torch.set_num_threads(1)
    out = a.out or Path("runs") / a.process
    x = fashion_mnist(train=True).x
    model = build(a.process, x)
    how = dict(out=out, resume=a.resume, progress=True, cpu=True)
    last = fit(model, x, plan(a, model.diffusion), **how)[-1]
    about = dict(data="fashion_mnist", process=a.process, images=last["images"])
    about |= dict(steps=last["step"], processor_seconds=last["seconds"], seed=SEED)
    about |= dict(batch=BATCH, width=WIDTH, rank=RANK)
    model.save_pretrained(out / "model", about=about)
    if a.ship:
        weights = ROOT / "gud_nb" / "weights" / f"{a.process}-fashion-mnist"
        model.save_pretrained(weights, torch.float16, about)
        losses = ROOT / "studies" / f"fashion_mnist_{a.process}.csv"
        shutil.copy(out / "loss.csv", losses)
    print(about)


if __name__ == "__main__":
    main()
