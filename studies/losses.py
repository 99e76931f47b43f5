"""Which loss makes the better denoiser: three seeds each, equal time, equal network.

    GUD_DATA=folder python studies/losses.py train images-cosine --seed 0 --seconds 240
    GUD_DATA=folder python studies/losses.py evaluate runs/losses/images-cosine-0

A denoiser is trained on an observation y = x + exp(-λ/2) n and its log-SNR λ, by a bare
loop: no process, schedule or time is in it. The names are WEIGHT-LEVELS:

    eps-cosine      error of the predicted noise; λ of the cosine schedule
    images-cosine   error of the posterior mean over its variance; the same λ
    images-edm      the same weight; λ normal, mean 1, standard deviation 2.4 (EDM's)
    eps-uniform     error of the predicted noise; λ uniform in [-9, 9]: likelihood
    both            images-cosine, the last third of the time eps-uniform

Seconds are those of the processor, of a process with one thread. Evaluation appends a
row to studies/losses.csv: the Fréchet distance of unclipped samples under VP, and the
mean squared error of predicted noise on test images, λ uniform in [-9, 9].
"""

import argparse
import math
import time
from pathlib import Path

import torch
from rows import append, parser

from gud_nb.basis import Pixel
from gud_nb.diffusion import LinearDiffusion
from gud_nb.evaluate import feature_extractor, frechet_distance
from gud_nb.files import fashion_mnist
from gud_nb.model import ScoreModel, fit_law
from gud_nb.network import UNet
from gud_nb.recipe import vp
from gud_nb.saved import from_pretrained
from gud_nb.schedule import LinearBeta

HERE = Path(__file__).resolve().parent
BATCH, RATE, WARM, DECAY, RANK, WIDTH = 128, 2e-3, 200, 0.999, 256, 16
NAMES = "eps-cosine images-cosine images-edm eps-uniform both".split()


def spread(n: int, g: torch.Generator) -> torch.Tensor:
    "Uniform numbers in (0, 1), together evenly spread."
    u = (torch.arange(n) + torch.rand((), generator=g)) / n % 1
    return u[torch.randperm(n, generator=g)].clamp(1e-6, 1 - 1e-6)


def draw(name: str, n: int, g: torch.Generator) -> torch.Tensor:
    "Log-SNRs of a batch."
    u = spread(n, g)
    if name == "cosine":
        return -2 * torch.log(torch.tan(math.pi / 2 * u))
    if name == "edm":
        return 1.0 + 2.4 * math.sqrt(2) * torch.erfinv(2 * u - 1)
    return 18 * u - 9


def loss_of(model, x, level, noise, weight: str) -> torch.Tensor:
    "The mean loss of a batch."
    R = torch.exp(-level).reshape(-1, 1, 1, 1)
    error = (model.denoise(x + R.sqrt() * noise, level) - x).square()
    if weight == "eps":
        return (error / R).mean()
    return (error / model.law.variance(R.double()).to(x)).mean()


def build(x: torch.Tensor, seed: int) -> ScoreModel:
    "An untrained model."
    d, pixel = LinearDiffusion(vp(), LinearBeta(0.1, 20.0)), Pixel((1, 28, 28))
    law = fit_law(d, pixel, x, RANK)
    torch.manual_seed(seed)
    return ScoreModel(UNet(1, width=WIDTH), d, pixel, law)


def train(a: argparse.Namespace):
    "Train one denoiser for a time, and save its averaged weights."
    x = fashion_mnist(train=True).x
    model = build(x, a.seed).train()
    net, g = model.network, torch.Generator().manual_seed(a.seed)
    adam = torch.optim.Adam(net.parameters(), lr=RATE)
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    begin, step, used, log = time.process_time(), 0, 0.0, []
    while used < 1:
        name = a.name
        if name == "both":
            name = "images-cosine" if used < 2 / 3 else "eps-uniform"
        weight, levels = name.split("-")
        i = torch.randint(len(x), (BATCH,), generator=g)
        noise = torch.randn(BATCH, 1, 28, 28, generator=g)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, x[i], draw(levels, BATCH, g), noise, weight)
        rate = RATE * min(1, (step + 1) / WARM) * (1 + math.cos(math.pi * used)) / 2
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in net.state_dict().items():
                average[k].lerp_(v, 1 - decay)
        step, log = step + 1, log + [loss.item()]
        used = (time.process_time() - begin) / a.seconds
        if step % 200 == 0:
            print(a.name, a.seed, step, f"{used:.3f} {sum(log[-200:]) / 200:.4f}")
    net.load_state_dict(average)
    about = dict(loss=a.name, seed=a.seed, seconds=a.seconds, images=step * BATCH)
    model.eval().save_pretrained(a.out / f"{a.name}-{a.seed}", about=about)


@torch.no_grad()
def evaluate(a: argparse.Namespace):
    "Distance of samples and error on test images of one denoiser: a row of the table."
    model, row = from_pretrained(a.name), {}
    features = feature_extractor("fashion_mnist")
    real = features(fashion_mnist(train=True).x)
    g = torch.Generator().manual_seed(a.seed)
    with torch.autocast("cpu", torch.bfloat16):
        samples = model.sample(a.n, generator=g).float()
    row["frechet"] = frechet_distance(features(samples), real).value
    x = fashion_mnist(train=False).x[:2000]
    g, errors = torch.Generator().manual_seed(0), []
    level = draw("uniform", len(x), g)
    noise = torch.randn(x.shape, generator=g)
    for i in range(0, len(x), 250):
        at = slice(i, i + 250)
        errors.append(loss_of(model, x[at], level[at], noise[at], "eps"))
    row["error"] = torch.stack(errors).mean().item()
    row = model.about | dict(n=a.n, sampling_seed=a.seed) | row
    append(HERE / "losses.csv", row)


def main():
    "Train or evaluate, with one thread."
    p = parser(__doc__)
    p.add_argument("what", choices=["train", "evaluate"])
    p.add_argument("name", help=f"one of {', '.join(NAMES)}; or a trained model")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seconds", type=float, default=240.0, help="of the processor")
    p.add_argument("--n", type=int, default=2000, help="samples of an evaluation")
    p.add_argument("--out", type=Path, default=Path("runs") / "losses")
    a = p.parse_args()
    torch.set_num_threads(1)
    {"train": train, "evaluate": evaluate}[a.what](a)


if __name__ == "__main__":
    main()
