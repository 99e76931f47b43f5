"""Train VP or PSLD on Fashion-MNIST: the run behind the weights that ship with the package.

    GUD_DATA=folder python studies/fashion_mnist.py psld --minutes 60 --out runs/psld

Minutes are those of the processor, of a process with one thread. Training times are uniform, as in the papers, or those of `snr_times`. `--resume` goes on from the checkpoint;
`--ship` writes the half-precision weights into gud_nb/weights.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch

from gud_nb.basis import Pixel
from gud_nb.cli import processes
from gud_nb.data import fashion_mnist
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import snr_times
from gud_nb.network import UNet
from gud_nb.train import ScoreModel, Training, fit, gaussian_head

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("process", choices=list(processes))
parser.add_argument("--minutes", type=float, default=60.0)
parser.add_argument("--times", choices=["uniform", "snr"], default="snr")
parser.add_argument("--out", default=None)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--ship", action="store_true")
a = parser.parse_args()
out = Path(a.out or f"runs/{a.process}")

torch.set_num_threads(1)
x = fashion_mnist(train=True).x
recipe, clock = processes[a.process]
recipe, pixel = recipe(), Pixel((1, 28, 28))
diffusion = LinearDiffusion(recipe, clock, Sigma0=hsm(recipe) if recipe.k > 1 else None)
torch.manual_seed(0)
model = ScoreModel(
    UNet(1, width=24), diffusion, pixel, gaussian_head(diffusion, pixel, x, rank=256)
)
plan = Training(
    minutes=a.minutes,
    batch=128,
    lr=1e-3,
    warmup=500,
    ema=0.999,
    seed=0,
    mixed=True,
    clock=time.process_time,
    times=snr_times(diffusion) if a.times == "snr" else None,
)
last = fit(model, x, plan, out=out, resume=a.resume, progress=True, cpu=True)[-1]
about = dict(
    data="fashion_mnist",
    process=a.process,
    images=last["images"],
    steps=last["step"],
    processor_seconds=last["seconds"],
    seed=0,
    batch=128,
    width=24,
    rank=256,
)
model.save_pretrained(out / "model", about=about)
if a.ship:
    root = Path(__file__).resolve().parent.parent
    model.save_pretrained(
        root / "gud_nb" / "weights" / f"{a.process}-fashion-mnist", torch.float16, about
    )
    shutil.copy(out / "loss.csv", root / "studies" / f"fashion_mnist_{a.process}.csv")
print(about)
