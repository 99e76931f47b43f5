"""Which weight of errors for a family of schedules: digits, three seeds, equal time.

    python studies/family_losses.py images --seed 0 --seconds 60

One network for soft conditioning in cosine components, a from .4 to 1.6, white prior.
The weights of errors whose variance is one under the law:

    images   errors of the image, over what the law expects of them (the default)
    noise    errors of the predicted noise
    each     every component's error counts the same

Seconds are those of the processor, of a process with one thread. A row for each of
three softnesses goes to studies/family_losses.csv: the Fréchet distance of 2000 raw
samples with the default sampler, and the mean squared error of predicted noise on test
images at uniform times.
"""

import time
from pathlib import Path

import torch
from rows import append, parser

from gud_nb.basis import DCT, Scaled
from gud_nb.data import digits
from gud_nb.diffusion import LinearDiffusion
from gud_nb.evaluate import feature_extractor, frechet_distance
from gud_nb.model import ScoreModel, fit_law
from gud_nb.network import UNet, bands
from gud_nb.objective import (
    Denoising,
    Draws,
    for_images,
    for_likelihood,
    schedule_levels,
)
from gud_nb.recipe import vp
from gud_nb.schedule import Family, soft_conditioning
from gud_nb.train import Training, fit

HERE = Path(__file__).resolve().parent


def for_each(share: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    "The same weight for every component."
    return torch.ones_like(share)


WEIGHTS = dict(images=for_images, noise=for_likelihood, each=for_each)


def build(x: torch.Tensor, seed: int) -> ScoreModel:
    "An untrained model of the family."
    rotation = DCT(tuple(x.shape[1:]))
    c = rotation(x.double())
    size = c.var(0).mean().sqrt()
    basis = Scaled(rotation, x.double().mean(0), size)
    variances = (c.var(0) / size**2).clamp(min=1e-5)
    fixed = dict(variances=variances, gamma_denoise=-7.0, gamma_noise=3.0, clip=True)
    family = Family(soft_conditioning, dict(a=(0.4, 1.6)), fixed)
    d = LinearDiffusion(vp(), family(a=1.0))
    torch.manual_seed(seed)
    net = UNet(1, width=16, mults=(1, 2), embed=64, groups=8)
    groups = bands(-variances.log(), 8)
    law = fit_law(d, basis, x)
    return ScoreModel(net, d, basis, law, groups=groups, family=family)


@torch.no_grad()
def error_of(model: ScoreModel, test: torch.Tensor) -> float:
    "Mean squared error of the noise on test images at uniform times."
    g, total = torch.Generator().manual_seed(0), []
    levels = schedule_levels(model, by_variance=False)
    fixed = Denoising(levels, for_likelihood)
    for _ in range(8):
        total.append(fixed(model, model.basis(test), None, Draws(len(test), g)).mean())
    return torch.stack(total).mean().item()


def main():
    "Train, sample, and append rows."
    p = parser(__doc__)
    p.add_argument("weight", choices=list(WEIGHTS))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seconds", type=float, default=60.0, help="of the processor")
    p.add_argument("--n", type=int, default=2000, help="samples")
    a = p.parse_args()
    torch.set_num_threads(1)
    x, test = digits().x, digits(train=False).x
    model = build(x, a.seed)
    objective = Denoising(schedule_levels(model), WEIGHTS[a.weight])
    how = dict(minutes=a.seconds / 60, timer=time.process_time, batch=128, lr=2e-3)
    plan = Training(objective=objective, seed=a.seed, ema=0.998, **how)
    last = fit(model, x, plan, cpu=True)[-1]
    features = feature_extractor("digits")
    real = features(x)
    for softness in (0.6, 1.0, 1.4):
        own = model.at(a=softness)
        y = own.sample(a.n, generator=torch.Generator().manual_seed(a.seed))
        row = dict(weight=a.weight, seed=a.seed, seconds=a.seconds, a=softness, n=a.n)
        row |= dict(images=last["images"], error=error_of(model, test))
        row["frechet"] = frechet_distance(features(y), real).value
        append(HERE / "family_losses.csv", row)


if __name__ == "__main__":
    main()
