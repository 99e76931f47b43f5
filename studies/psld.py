"""The claims of the PSLD paper on Fashion-MNIST at 14×14, with three training seeds.

With --data cifar10 the images are those of CIFAR-10 at 16×16, mirrored at random.

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

The other words measure a trained case, and add rows to studies/results.csv.

    ablation   n raw samples with each of three samplers
    speed      n raw samples with other samplers on 10 to 250 evaluations;
               --part few, more, many, uniform, adaptive or known (adaptive, with the
               noise across the direction that tells of the data put in)
    swap       the network of vp under psld-0.01-reduced, or the other way round:
               samples by the default sampler
    errors     of the noise on 2000 test images by log-SNR: of each phase, along the
               direction that tells of the data, and across it
    response   of the predicted noise to states at t = 1/2 that are scaled up
    gradients  after 200 steps: the variance of a batch's gradient over its square
    cost       of a step of training and of an evaluation, by phases

Samples are measured by their Fréchet distance to all training images in the features of
the classifier fashion_mnist_14 (or cifar10_16), by the share of pixels out of range,
and by the ratio of standard deviations, samples to data, in groups of principal
components.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from rows import parser, record

from gud_nb.adams import sde_dpm_solver, unipc
from gud_nb.basis import Pixel, moments
from gud_nb.data import Images
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, frechet_distance
from gud_nb.files import cifar10, fashion_mnist
from gud_nb.integrators import dormand_prince
from gud_nb.loss import eps_from_score
from gud_nb.model import DiffusionModel, PhaseModel, ScoreModel, fit_law
from gud_nb.network import UNet, count_parameters
from gud_nb.objective import Draws, ScoreMatching, default_objective
from gud_nb.recipe import cld, psld, vp
from gud_nb.sampler import (
    SSCS,
    EulerMaruyama,
    ExponentialHeun,
    ImageNoise,
    denoise,
    edm,
    level_time,
    quadratic,
    uniform,
)
from gud_nb.schedule import LinearBeta
from gud_nb.train import Training, fit, load_run

NETWORK = dict(width=16, mults=(1, 2))
STEPS, BATCH, RATE, DECAY = 2000, 128, 2e-3, 0.998
GAMMAS = "0.005 0.01 0.02 0.25".split()
CASES = ["vp", "cld", *(f"psld-{G}" for G in GAMMAS), "cld-dsm", "psld-0.01-dsm"]
CASES += ["psld-0.01-reduced", "psld-0.01-law"]


def images(name: str, train: bool = True) -> Images:
    "Images of half the size, each 2×2 pixels averaged."
    full = dict(fashion_mnist=fashion_mnist, cifar10=cifar10)[name](train)
    x = torch.nn.functional.avg_pool2d(full.x, 2)
    return Images(x, full.labels, f"{name} at half the size", full.classes)


def process(case: str) -> LinearDiffusion:
    "The diffusion of a case."
    if case == "vp":
        return LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
    recipe = cld() if case.startswith("cld") else psld(float(case.split("-")[1]))
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
    d, pixel, channels = process(case), Pixel(data.shape), data.shape[0]
    torch.manual_seed(seed)
    if case.endswith("law"):
        law = fit_law(d, pixel, data, 196)
        return ScoreModel(UNet(channels, **NETWORK), d, pixel, law)
    if case.endswith("reduced"):
        model = PhaseModel(UNet(2 * channels, **NETWORK), d, pixel)
        torch.manual_seed(seed)
        model.network = UNet(channels, **NETWORK)
        model.__class__ = Reduced
        return model
    return PhaseModel(UNet(d.k * channels, **NETWORK), d, pixel)


def plan(a: argparse.Namespace, model: DiffusionModel) -> Training:
    "How it is trained."
    loss = default_objective(model) if a.case.endswith("law") else ScoreMatching()
    how = dict(batch=BATCH, lr=RATE, ema=DECAY, seed=a.seed, mixed=True, objective=loss)
    return Training(steps=STEPS, flips=a.data == "cifar10", **how)


@torch.no_grad()
def draw(model: DiffusionModel, n: int, seed: int, sampler, times=None) -> torch.Tensor:
    "Raw samples."
    g, how = torch.Generator().manual_seed(seed), {}
    if sampler is not None:
        how = dict(sampler=sampler, times=times)
    with torch.autocast("cpu", torch.bfloat16):
        return model.sample(n, generator=g, **how).float()


def row_of(a: argparse.Namespace, name: str, grid: str, evaluations: float) -> dict:
    "The beginning of a row."
    study = f"psld {a.what}" + (", CIFAR-10" if a.data == "cifar10" else "")
    row = dict(study=study, case=a.case, seed=a.seed, sampler=name)
    row |= dict(grid=grid, evaluations=evaluations, sampling_seed=a.seed)
    return row | dict(n=a.n, images=STEPS * BATCH)


class Ruler:
    "What samples are measured by."

    def __init__(self, data: Images):
        clothes = data.shape == (1, 14, 14)
        self.features = feature_extractor(
            "fashion_mnist_14" if clothes else "cifar10_16"
        )
        self.real = self.features(data.x)
        mean, C = moments(data.x)
        self.mean, values, vectors = mean, *torch.linalg.eigh(C)
        self.values, self.vectors = values.flip(0), vectors.flip(1)

    def __call__(self, row: dict, x: torch.Tensor):
        "Rows of one set of samples."
        x = x.clamp(-1e6, 1e6)
        found = frechet_distance(self.features(x), self.real).value
        record(row, "Fréchet distance", found)
        record(row, "pixels out of range", (x.abs() > 1.05).float().mean().item())
        c = (x.flatten(1).double() - self.mean) @ self.vectors
        for first, last in ((0, 5), (5, 20), (20, 60), (60, 120), (120, 180)):
            part = slice(first, last)
            ratio = c[:, part].var(0).sum() / self.values[part].sum()
            name = f"std ratio, components {first + 1} to {last}"
            record(row, name, ratio.sqrt().item())


def ablation(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Samples by four samplers: a row each."
    ruler = Ruler(data)
    for name, grid, evaluations, sampler, times in (
        ("default", "default", 25, None, None),
        ("exponential Heun", "quadratic", 51, ExponentialHeun(), quadratic(25)),
        ("Euler-Maruyama", "quadratic", 100, EulerMaruyama(), quadratic(99)),
    ):
        x = draw(model, a.n, a.seed, sampler, times)
        ruler(row_of(a, name, grid, evaluations), x)


def speed(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Samples by many samplers: rows of each."
    ruler, d = Ruler(data), model.diffusion
    old = {"Euler-Maruyama": EulerMaruyama()}
    if d.k > 1:
        old["SSCS"] = SSCS()
    new = {"SDE second order": sde_dpm_solver(2), "UniPC 2": unipc(2)}
    runs = []
    for n in {"few": (10, 25, 50), "more": (100,), "many": (250,)}.get(a.part, ()):
        runs += [(k, "quadratic", n, v, quadratic(n - 1)) for k, v in old.items()]
        runs += [(k, "edm", n, v, edm(d, n - 1)) for k, v in new.items()]
    done = ("Euler-Maruyama", 100), ("SDE second order", 25)  # by `ablation`
    runs = [r for r in runs if (r[0], r[2]) not in done]
    if a.part == "uniform":
        for n in (10, 25, 50, 100):
            runs += [(k, "uniform", n, v, uniform(n - 1)) for k, v in old.items()]
    for name, grid, n, sampler, times in runs:
        ruler(row_of(a, name, grid, n), draw(model, a.n, a.seed, sampler, times))
    name = dict(adaptive="RK45", known="RK45, across known").get(a.part)
    score = across_known(model) if a.part == "known" else model.conditional()
    tolerances = (1e-1, 3e-2, 1e-2, 1e-3, 1e-4)
    for tolerance in tolerances[0 if a.part == "adaptive" else 2 :] if name else ():
        x, spent = flow(model, score, a.n, a.seed, tolerance)
        ruler(row_of(a, name, f"{tolerance:g}", round(spent, 1)), x)


def across_known(model: PhaseModel):
    "The score of a model, with the network's noise along the observation alone."
    d = model.diffusion

    def score(z, t):
        kernel = d.kernel(t, z)
        along = (kernel.w * model.eps(z, t)).sum(1) / kernel.w.square().sum(1)
        return d.score(z, t, kernel.observe(z) - along.to(z))

    return score


@torch.no_grad()
def flow(model: DiffusionModel, score, n: int, seed: int, tolerance: float):
    "Raw samples of the flow in float32, and the mean number of evaluations."
    noise = ImageNoise(seed)
    d, parts, spent = model.diffusion, [], 0
    for i in range(0, n, 250):
        like = torch.empty(min(250, n - i), d.k, *model.basis.shape)
        z = model.prior(noise.after(i)(like))
        z, own = dormand_prince(d, score, z, rtol=tolerance, atol=tolerance)
        z = denoise(d, score, z, 1e-3)
        parts.append(model.basis.inv(z[:, 0]))
        spent += own.sum().item() + len(own)
    return torch.cat(parts), spent / n


def swap(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Samples of a network under the process that another one was trained for."
    pair = {"vp": "psld-0.01-reduced", "psld-0.01-reduced": "vp"}
    other = build(pair[a.case], a.seed, data)
    other.network = model.network
    row = row_of(a, "default", "default", 25)
    row["case"] = f"{a.case} under {pair[a.case]}"
    Ruler(data)(row, draw(other, a.n, a.seed, None))


@torch.no_grad()
def errors(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Mean squared errors of the noise by log-SNR."
    x, d = images(a.data, train=False).x[: a.n], model.diffusion
    score = model.conditional()
    for level in range(-8, 9, 2):
        t, g = level_time(d, math.exp(-level / 2)), torch.Generator().manual_seed(0)
        noise = torch.randn(len(x), d.k, *x.shape[1:], generator=g)
        chi = model.basis(x)
        aux = None
        if d.aux_cov is not None:
            more = torch.randn(len(x), d.k - 1, *x.shape[1:], generator=g)
            aux = d.draw_aux(more)
        p = d.perturb(chi, torch.full((len(x),), t, dtype=torch.float64), noise, aux)
        off = []
        for z in p.z.split(250):
            off.append(eps_from_score(d, score(z, t), t))
        off = torch.cat(off) - p.eps
        w = d.kernel(t, p.z).w
        along = (w / w.norm(dim=1, keepdim=True) * off).sum(1)
        row = row_of(a, "", "", "") | dict(at=level, sampling_seed="")
        each = off.square().flatten(2).mean((0, 2))
        for name, v in zip(("position", "momentum"), each.tolist()):
            record(row, f"error of the noise, {name}", v)
        told = along.square().mean().item()
        record(row, "error of the noise, along", told)
        record(row, "error of the noise, across", each.sum().item() - told)


@torch.no_grad()
def response(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Size of the predicted noise where states are larger than the process makes them."
    d, score, t = model.diffusion, model.conditional(), 0.5
    g = torch.Generator().manual_seed(a.seed)
    noise = torch.randn(250, d.k, *data.shape, generator=g)
    z = d.perturb(model.basis(data.x[:250]), t, noise).z
    for scale in (1, 1.25, 1.5, 2, 4, 8):
        eps = eps_from_score(d, score(scale * z, t), t)
        row = row_of(a, "", "", "") | dict(n=250, at=scale)
        record(row, "rms of the predicted noise", eps.square().mean().sqrt().item())


def gradients(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "The noise of gradients of the loss after 200 steps."
    steps, parts = 200, 32
    training = replace(plan(a, model), steps=steps, mixed=False)
    fit(model, data, training, cpu=True)
    g = torch.Generator().manual_seed(a.seed)
    weights = list(model.network.parameters())
    rows = []
    for _ in range(parts):
        i = torch.randint(len(data.x), (BATCH,), generator=g)
        loss = training.objective(model, model.basis(data.x[i]), None, Draws(BATCH, g))
        found = torch.autograd.grad(loss.mean(), weights, allow_unused=True)
        rows.append(torch.cat([v.flatten() for v in found if v is not None]))
    rows = torch.stack(rows).double()
    variance = rows.var(0).sum()
    square = rows.mean(0).square().sum() - variance / parts
    row = row_of(a, "", "", "") | dict(images=steps * BATCH, n=parts)
    record(row, "gradient, variance over square", (variance / square).item())


def cost(a: argparse.Namespace, model: DiffusionModel, data: Images):
    "Milliseconds of the processor for a batch: a step of training, an evaluation."
    network, channels = model.network, model.network.config["channels_in"]
    x, level = torch.randn(BATCH, channels, *data.shape[1:]), torch.zeros(BATCH)

    def seconds(step, times: int = 10) -> float:
        "The least of some runs."
        best = math.inf
        for _ in range(times):
            begin = time.process_time()
            step()
            best = min(best, time.process_time() - begin)
        return 1000 * best

    def train():
        with torch.autocast("cpu", torch.bfloat16):
            network(x, level).float().square().mean().backward()

    @torch.no_grad()
    def answer():
        with torch.autocast("cpu", torch.bfloat16):
            network(x, level)

    row = row_of(a, "", "", "") | dict(n=BATCH, images="", sampling_seed="")
    record(row, "milliseconds of forward and backward", seconds(train))
    record(row, "milliseconds of an evaluation", seconds(answer))
    record(row, "weights", count_parameters(network))


MEASURES = dict(
    ablation=ablation,
    speed=speed,
    swap=swap,
    errors=errors,
    response=response,
    gradients=gradients,
    cost=cost,
)


def main():
    "Train or evaluate, with one thread."
    p = parser(__doc__)
    p.add_argument("what", choices=["train", *MEASURES])
    p.add_argument("case", choices=CASES)
    p.add_argument("--data", default="fashion_mnist", help="or cifar10")
    p.add_argument("--seed", type=int, default=0, help="of training and of sampling")
    p.add_argument("--part", default="few", help="of speed: a word of those above")
    p.add_argument("--n", type=int, default=2000, help="samples")
    p.add_argument(
        "--out", type=Path, default=Path("runs") / "psld", help="of all runs"
    )
    a = p.parse_args()
    torch.set_num_threads(1)
    kind = "cifar10-" if a.data == "cifar10" else ""
    data, folder = images(a.data), a.out / f"{kind}{a.case}-{a.seed}"
    model = build(a.case, a.seed, data)
    if a.what == "train":
        how = dict(resume=(folder / "loss.csv").exists(), progress=True, cpu=True)
        fit(model, data, plan(a, model), out=folder, **how)
    elif a.what in ("gradients", "cost"):
        MEASURES[a.what](a, model, data)
    else:
        MEASURES[a.what](a, load_run(model, folder), data)


if __name__ == "__main__":
    main()
