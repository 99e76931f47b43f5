"""The claims of the PSLD paper on Fashion-MNIST at 14×14, with three training seeds.

    GUD_DATA=folder python studies/psld.py train psld-0.01 --seed 0
    GUD_DATA=folder python studies/psld.py ablation psld-0.01 --seed 0

Every case has the same U-Net but for its first and last layer, the same images in the
same order, 2000 steps of 128 images, and the loss of the paper: the squared error of
the noise at uniform times (Pandey & Mandt 2023).

    vp            VP-SDE, β from .1 to 20
    cld           CLD: friction in the momentum alone; hybrid score matching
    psld-Γ        PSLD with ν = 4 + Γ, Γ one of .005, .01, .02, .25; hybrid
    cld-dsm, psld-0.01-dsm           denoising score matching
    psld-0.01-reduced                the network sees one observation a pixel; same loss
    psld-0.01-law                    the same, and a Gaussian law; default loss

`ablation` draws n raw samples with four samplers and adds their rows to
studies/results.csv: the Fréchet distance in the features of the classifier
fashion_mnist_14, and the share of pixels out of range.
"""

import argparse
from pathlib import Path

import torch

from gud_nb.basis import Pixel
from gud_nb.data import Images, fashion_mnist
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, frechet_distance
from gud_nb.loss import eps_from_score
from gud_nb.model import DiffusionModel, PhaseModel, ScoreModel, fit_law
from gud_nb.network import UNet
from gud_nb.recipe import cld, psld, vp
from gud_nb.sampler import EulerMaruyama, ExponentialHeun, quadratic
from gud_nb.schedule import LinearBeta
from gud_nb.train import ScoreMatching, Training, default_objective, fit, load_run
from rows import record

NETWORK = dict(width=16, mults=(1, 2))
STEPS, BATCH, RATE, DECAY = 2000, 128, 2e-3, 0.998
GAMMAS = "0.005 0.01 0.02 0.25".split()
CASES = ["vp", "cld", *(f"psld-{G}" for G in GAMMAS), "cld-dsm", "psld-0.01-dsm"]
CASES += ["psld-0.01-reduced", "psld-0.01-law"]


def images(train: bool = True) -> Images:
    "Fashion-MNIST, each 2×2 pixels averaged."
    full = fashion_mnist(train)
    x = torch.nn.functional.avg_pool2d(full.x, 2)
    return Images(x, full.labels, "fashion_mnist at 14×14", full.classes)


def process(case: str) -> LinearDiffusion:
    "The diffusion of a case."
    if case == "vp":
        return LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
    recipe = cld() if case.startswith("cld") else psld(Gamma=float(case.split("-")[1]))
    if case.endswith("dsm"):
        return LinearDiffusion(recipe, LinearBeta(8.0, 8.0), aux_cov=hsm(recipe))
    return LinearDiffusion(recipe, LinearBeta(8.0, 8.0), Sigma0=hsm(recipe))


class Reduced(PhaseModel):
    "The noise of all phases from a network that sees the observation alone."

    def eps(self, z, t, labels=None):
        kernel = self.diffusion.kernel(t, z)
        y, root = kernel.observe(z), torch.exp(-kernel.log_snr / 2).to(z)
        seen = (y / (1 + root.square()).sqrt())[:, None]
        mixed = torch.is_autocast_enabled(z.device.type)
        n = self._run(seen, kernel.log_snr, labels, mixed)[:, 0]
        score = self.diffusion.score(z, t, y - root * n)
        return eps_from_score(self.diffusion, score, t)


def build(case: str, seed: int, data: Images) -> DiffusionModel:
    "An untrained model."
    d, pixel = process(case), Pixel(data.shape)
    torch.manual_seed(seed)
    if case.endswith("law"):
        return ScoreModel(UNet(1, **NETWORK), d, pixel, fit_law(d, pixel, data, 196))
    if case.endswith("reduced"):
        model = PhaseModel(UNet(2, **NETWORK), d, pixel)
        torch.manual_seed(seed)
        model.network = UNet(1, **NETWORK)
        model.__class__ = Reduced
        return model
    return PhaseModel(UNet(d.k, **NETWORK), d, pixel)


def plan(case: str, seed: int, model: DiffusionModel) -> Training:
    "How it is trained."
    loss = default_objective(model) if case.endswith("law") else ScoreMatching()
    how = dict(batch=BATCH, lr=RATE, ema=DECAY, seed=seed, mixed=True, objective=loss)
    return Training(steps=STEPS, **how)


@torch.no_grad()
def draw(model: DiffusionModel, n: int, seed: int, sampler, times=None) -> torch.Tensor:
    "Raw samples."
    g, how = torch.Generator().manual_seed(seed), {}
    if sampler is not None:
        how = dict(sampler=sampler, times=times)
    with torch.autocast("cpu", torch.bfloat16):
        return model.sample(n, generator=g, **how).float()


def ablation(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Samples by four samplers: a row each."
    features = feature_extractor("fashion_mnist_14")
    real = features(data.x)
    ways = [
        ("default", "default", 25, None, None),
        ("exponential Heun", "quadratic", 51, ExponentialHeun(), quadratic(25)),
        ("Euler-Maruyama", "quadratic", 50, EulerMaruyama(), quadratic(49)),
        ("Euler-Maruyama", "quadratic", 250, EulerMaruyama(), quadratic(249)),
    ]
    for name, grid, evaluations, sampler, times in ways:
        x = draw(model, a.n, a.seed, sampler, times)
        row = dict(study="psld ablation", case=a.case, seed=a.seed)
        row |= dict(sampler=name, grid=grid, evaluations=evaluations)
        row |= dict(sampling_seed=a.seed, n=a.n, images=STEPS * BATCH)
        far = (x.abs() > 1.05).float().mean().item()
        record(row, "Fréchet distance", frechet_distance(features(x), real).value)
        record(row, "pixels out of range", far)


def main():
    "Train or evaluate, with one thread."
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    p.add_argument("what", choices=["train", "ablation"])
    p.add_argument("case", choices=CASES)
    p.add_argument("--seed", type=int, default=0, help="of training and of sampling")
    p.add_argument("--n", type=int, default=2000, help="samples")
    p.add_argument(
        "--out", type=Path, default=Path("runs") / "psld", help="of all runs"
    )
    a = p.parse_args()
    torch.set_num_threads(1)
    data, folder = images(), a.out / f"{a.case}-{a.seed}"
    model = build(a.case, a.seed, data)
    if a.what == "train":
        how = dict(resume=(folder / "loss.csv").exists(), progress=True, cpu=True)
        fit(model, data, plan(a.case, a.seed, model), out=folder, **how)
    else:
        ablation(a, load_run(model, folder), data)


if __name__ == "__main__":
    main()
