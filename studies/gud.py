"""GUD on two cores: trainings and evaluations behind `nbs/32_gud_trained.ipynb`.

    GUD_DATA=folder python studies/gud.py train pca-white
    GUD_DATA=folder python studies/gud.py evaluate pca-white

`studies/gud.py list` names the settings. A training takes `--minutes` of the processor
(one thread) and goes on from its checkpoint if there is one; its model and losses go to
runs/gud/<name>-<seed>. An evaluation appends rows to studies/gud.csv and leaves out
what is there already. `ship` writes the half-precision weights of a setting into
gud_nb/weights, with its card; `evaluate` takes the titles of these, too. All of them go
to the folder `--out` instead, if it is given. The settings cifar-… compare samples by a
classifier that does not ship: `python studies/train_classifiers.py cifar10_16` makes
it. A short try:

    GUD_DATA=folder python studies/gud.py train pca-white --train-steps 3 --out /tmp/try
    GUD_DATA=folder python studies/gud.py evaluate pca-white --n 20 --steps 5 \\
        --test-images 4 --points 1 --out /tmp/try
"""

import argparse
import csv
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from rows import append, parser
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gud_nb.basis import (
    DCT,
    PCA,
    Basis,
    Columns,
    Fourier,
    Pixel,
    Scaled,
    Wavelet,
    Whitened,
    column_order,
    level_order,
)
from gud_nb.denoiser import Gaussian, Independent
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, measure
from gud_nb.files import cifar10, fashion_mnist
from gud_nb.integrators import DEIS, DPMSolver
from gud_nb.likelihood import dequantise, elbo, nats_to_bits
from gud_nb.loss import active_only, snr_times
from gud_nb.model import DiffusionModel, PhaseModel, ScoreModel, fit_law
from gud_nb.network import UNet, bands
from gud_nb.objective import (
    Denoising,
    Objective,
    ScoreMatching,
    for_images,
    for_likelihood,
    schedule_levels,
)
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import Sampler, evaluations, fastest
from gud_nb.saved import from_pretrained
from gud_nb.schedule import (
    Family,
    LinearBeta,
    continued,
    nested,
    sequential,
    soft_conditioning,
    tilted,
)
from gud_nb.train import Training, fit

warnings.filterwarnings("ignore", message=".*variances are below.*")
HERE = Path(__file__).resolve().parent
ENDS = dict(gamma_denoise=-9.0, gamma_noise=3.0, clip=True)
WINDOW = dict(gamma_min=-9.0, gamma_max=3.0)
SIDE = 16  # of crops, in pixels
FIT = 30_000  # images that means, variances and laws are measured on
FIELDS = ["name", "seed", "at", "images", "measure", "value", "error", "n"]
FIELDS += ["evaluations", "processor_seconds"]


# Data


@cache
def images(train: bool = True) -> Tensor:
    "Fashion-MNIST, its levels blurred once."
    return dequantise(fashion_mnist(train=train).x, torch.Generator().manual_seed(0))


@cache
def labels() -> Tensor:
    "The classes of the training images."
    return fashion_mnist(train=True).labels


def windows(
    x: Tensor,  # (n, C, H, W)
    count: int,  # windows of each image
    generator: torch.Generator,  # of their places
) -> Tensor:  # (count·n, C, SIDE, SIDE)
    "Random square windows of images."
    top = x.shape[-1] - SIDE + 1
    places = torch.randint(top, (2, count * len(x)), generator=generator).T.tolist()
    parts = (x[i // count, :, a : a + SIDE] for i, (a, _) in enumerate(places))
    cut = [part[..., b : b + SIDE] for part, (_, b) in zip(parts, places)]
    return torch.stack(cut)


@cache
def crops(train: bool = True) -> Tensor:
    "Two 16×16 crops of each CIFAR-10 image."
    g = torch.Generator().manual_seed(0)
    return dequantise(windows(cifar10(train=train).x, 2, g), g)


@cache
def grey(train: bool = True) -> Tensor:
    "Four 16×16 crops of each CIFAR-10 image, without colour, half of them mirrored."
    g = torch.Generator().manual_seed(0)
    found = windows(cifar10(train=train).x.mean(1, keepdim=True), 4, g)
    found[::2] = found[::2].flip(-1)
    return found + (torch.rand(found.shape, generator=g) - 0.5) / 128


@cache
def cifar(train: bool = True) -> Tensor:
    "CIFAR-10 at 16×16, each 2×2 pixels averaged, in 256 levels that are blurred once."
    x = avg_pool2d(cifar10(train=train).x, 2)
    levels = ((x + 1) * 127.5).round() / 127.5 - 1
    return dequantise(levels, torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Kind:
    "Images of settings whose names have the same beginning."

    title: str  # in cards
    images: Callable  # train -> (n, *data)
    features: str = ""  # the classifier that samples are compared by


KINDS = {
    "crop-grey": Kind("cifar10, grey crops of 16×16", grey),
    "gud-cifar": Kind("cifar10, grey crops of 16×16", grey),
    "crop": Kind("cifar10, crops of 16×16", crops),
    "cifar": Kind("cifar10 at 16×16", cifar, "cifar10_16"),
    "": Kind("fashion_mnist", images, "fashion_mnist"),
}


def kind_of(name: str) -> Kind:
    "The images of a setting."
    return next(kind for start, kind in KINDS.items() if name.startswith(start))


# Settings


@dataclass
class Setting:
    "What is trained: components and their schedules, and how."

    basis: Basis  # of the components
    family: Family  # of their schedules
    groups: Tensor  # (*comp) of components, whose log-SNRs the network is given
    rank: int | None = None  # common factors in the law; None: variances alone
    loss: str = "uniform"  # one of `LOSSES`
    width: int = 16  # of the network
    labels: bool = False  # whether the network is given classes


PRIORS = ("white", "matching")  # noise of one size; noise of the data's variances


def scaled(
    rotation: Basis,  # without a scale
    x: Tensor,  # (n, *data) training images
    prior: str = "white",  # divided by one number; matching: each by its own deviation
) -> tuple[Basis, Tensor]:  # the scaled basis; the variances (*comp)
    "A basis scaled to data."
    fitted = Whitened.fit(rotation, x[:FIT], floor=1e-5)
    if prior == "matching":
        return fitted, fitted.scale.square()
    size = fitted.scale.square().mean().sqrt()
    return Scaled(rotation, fitted.mean, size), (fitted.scale / size).square()


def merged(*groups: Tensor) -> Tensor:
    "Groups within groups, numbered without gaps."
    total = sum(g * 100**i for i, g in enumerate(groups))
    return total.unique(return_inverse=True)[1]


@cache
def principal(data: Callable = images) -> PCA:
    "Principal components of images."
    return PCA.fit(data()[:FIT], floor=1e-8)


def waves(kind: Callable) -> Basis:
    "A basis of waves for Fashion-MNIST."
    return kind((1, 28, 28))


def haar() -> Wavelet:
    "Haar wavelets of two levels."
    return Wavelet((1, 28, 28), "haar", 2)


def softness(
    rotation: Callable, prior: str = "white", a: tuple = (0.0, 1.6), data=images
) -> Setting:
    "Components by their variance, softness a."
    basis, variances = scaled(rotation(), data(), prior)
    fixed = dict(variances=variances, whitened=prior == "matching", **ENDS)
    family = Family(soft_conditioning, dict(a=a), fixed)
    return Setting(basis, family, bands(-variances.log(), 16))


def box() -> Setting:
    "Softness and a tilt of the order between vertical and horizontal frequencies."
    cosines = DCT((1, 28, 28))
    basis, variances = scaled(cosines, images(), "matching")
    other = cosines.frequencies[0] - cosines.frequencies[1]
    fixed = dict(variances=variances, other=other, whitened=True, **ENDS)
    family = Family(tilted, dict(a=(0.4, 1.6), w=(-0.6, 0.6)), fixed)
    groups = merged(bands(-variances.log(), 8), bands(other, 4))
    return Setting(basis, family, groups)


def cifar_box() -> Setting:
    "Softness and an order of Haar components from their variance to their column."
    wavelets = Wavelet((3, SIDE, SIDE), "haar", 4)
    basis, variances = scaled(wavelets, cifar())
    other = column_order(wavelets)
    fixed = dict(variances=variances, other=other, **ENDS)
    family = Family(tilted, dict(a=(0.4, 1.6), w=(0.0, 1.0)), fixed)
    groups = merged(bands(-variances.log(), 8), bands(other, 4))
    return Setting(basis, family, groups)


def haar_columns() -> Setting:
    "Levels from coarse to fine, columns from left to right."
    level, column = level_order(haar()), column_order(haar())
    fixed = dict(outer=level, inner=column, **WINDOW)
    family = Family(nested, dict(a=(0.0, 6.0), b=(0.0, 0.8)), fixed)
    groups = merged(bands(column, 21), level.long())
    return Setting(scaled(haar(), images(), "matching")[0], family, groups)


def columns() -> Setting:
    "Pixels, column after column."
    pixel = Pixel((1, 28, 28))
    order = column_order(pixel)
    family = Family(sequential, dict(b=(0.0, 0.95)), dict(order=order, **WINDOW))
    return Setting(scaled(pixel, images())[0], family, bands(order, 28))


def crop_columns(rotation: Basis, x: Tensor) -> Setting:
    "Crops of photographs, column after column, the first few of them known."
    order = column_order(rotation)
    ranges = dict(known=(0.0, 12.0), b=(0.0, 0.9))
    family = Family(continued, ranges, dict(order=order, **WINDOW))
    return Setting(scaled(rotation, x)[0], family, bands(order, SIDE))


def crop_pixels() -> Setting:
    "Crops in colour, in pixels."
    return crop_columns(Pixel((3, SIDE, SIDE)), crops())


def crop_grey() -> Setting:
    "Crops without colour, in principal components of a column."
    one = PCA.fit(grey()[:FIT].movedim(-1, 1).flatten(0, 1))
    setting = crop_columns(Columns(one, SIDE), grey())
    return replace(setting, rank=256, loss="snr")


def but(make: Callable, **changes) -> Callable:
    "The same setting, trained otherwise."

    def changed() -> Setting:
        return replace(make(), **changes)

    return changed


ROTATIONS = dict(
    pca=principal, dct=partial(waves, DCT), waves=partial(waves, Fourier), haar=haar
)
SETTINGS = {
    f"{name}-{prior}": partial(softness, rotation, prior)
    for name, rotation in ROTATIONS.items()
    for prior in PRIORS
}
SETTINGS["pca-white-alone"] = partial(softness, principal, a=(1.0, 1.0))
SETTINGS["box"] = box
SETTINGS["haar-columns"] = haar_columns
SETTINGS["columns"] = columns
SETTINGS["crop-columns"] = crop_pixels
GIVEN = ("mean", "cross", "channel")  # other ways to give the network its noise
for way in GIVEN:
    SETTINGS[f"haar-columns-{way}"] = haar_columns
for name in ("pca-white-alone", "pca-white", "pca-matching", "haar-columns", "columns"):
    SETTINGS[f"{name}-snr"] = but(SETTINGS[name], loss="snr")
for name in ("columns", "haar-columns"):
    SETTINGS[f"{name}-factors"] = but(SETTINGS[name], rank=48)
    SETTINGS[f"{name}-factors-snr"] = but(SETTINGS[name], rank=48, loss="snr")
SETTINGS["dct-white-long"] = SETTINGS["dct-white"]
SETTINGS["labels-long"] = but(SETTINGS["dct-white"], loss="snr", width=24, labels=True)
SETTINGS["labels-long-snr"] = SETTINGS["labels-long"]
SETTINGS["crop-grey"] = crop_grey
for prior in PRIORS:
    how = dict(prior=prior, data=cifar)
    SETTINGS[f"cifar-{prior}"] = partial(softness, partial(principal, cifar), **how)
SETTINGS["cifar-box"] = cifar_box
for name in ("labels-long", "haar-columns-factors", "crop-grey"):
    for loss in ("image", "noise"):
        SETTINGS[f"{name}-{loss}"] = but(SETTINGS[name], loss=loss)
PROCESSES = ("vp", "psld", "gud")
HEADS = ("plain", "isotropic", "gaussian")  # what is known besides the network
SETTINGS |= {f"head-{process}-{head}": None for process in PROCESSES for head in HEADS}

# where settings are measured, and with them their variants
POINTS = {
    "haar-columns": [dict(a=a, b=b) for a in (0.0, 2.0, 6.0) for b in (0.0, 0.4, 0.8)],
    "columns": [dict(b=b) for b in (0.0, 0.3, 0.6, 0.9)],
    "box": [
        dict(a=a, w=w)
        for a in (0.4, 0.7, 1.0, 1.3, 1.6)
        for w in (-0.6, -0.3, 0.0, 0.3, 0.6)
    ],
    "cifar-box": [
        dict(a=a, w=w) for a in (0.4, 0.7, 1.0, 1.3, 1.6) for w in (0.0, 0.35, 0.7, 1.0)
    ],
    "crop-grey": [dict(known=0.0, b=b) for b in (0.5, 0.0, 0.9)],
    "gud-fashion-mnist": [dict(a=1.0), dict(a=0.7)],
    "labels-long-image": [dict(a=1.0), dict(a=0.7)],
    "labels-long-snr": [dict(a=1.0)],
    "labels-long-noise": [dict(a=a) for a in (1.0, 0.7, 0.0, 0.4, 1.3, 1.6)],
    "gud-haar-columns": [dict(a=2.0, b=0.4)],
    "gud-cifar-columns": [dict(known=0.0, b=b) for b in (0.5, 0.0, 0.9)],
    "pca-white-alone": [dict(a=1.0)],
    "dct-white-long": [dict(a=a) for a in (0.0, 0.7, 1.0, 1.6)],
    "head-vp": [{}],
    "head-psld": [{}],
    "head-gud": [dict(a=1.0)],
}
CORNERS = [dict(a=2.0, b=0.4), dict(a=0.0, b=0.0), dict(a=6.0, b=0.8)]
POINTS["haar-columns-factors-noise"] = POINTS["gud-haar-columns"]
POINTS |= {f"haar-columns-{way}": CORNERS for way in (*GIVEN, "factors-image")}


def points(name: str) -> list[dict]:
    "Where a setting is measured: as the setting that it is a variant of."
    bases = [k for k in POINTS if name == k or name.startswith(k + "-")]
    if bases:
        return POINTS[max(bases, key=len)]
    return [dict(a=a) for a in (0.0, 0.4, 0.7, 1.0, 1.3, 1.6)]


# Models


def build_head(name: str, seed: int) -> tuple[DiffusionModel, Family | None, Tensor]:
    "A process with the law of the data, with one variance for all, or with no law."
    _, process, kind = name.split("-")
    x, family, groups = images(), None, None
    if process == "gud":
        setting = softness(principal)
        basis, family, groups = setting.basis, setting.family, setting.groups
        diffusion = LinearDiffusion(vp(), family())
    else:
        basis = scaled(Pixel((1, 28, 28)), x)[0]
        diffusion = LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
    if process == "psld":
        diffusion = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))
    phases = diffusion.k if kind == "plain" else 1
    many = 0 if groups is None else int(groups.max()) + 1
    torch.manual_seed(seed)
    network = UNet(phases, width=16, groups=many)
    how = dict(groups=groups, family=family)
    if kind == "plain":
        return PhaseModel(network, diffusion, basis, **how), family, x
    law = fit_law(diffusion, basis, x[:FIT])
    if kind == "isotropic":
        size = torch.full_like(law.mean, law.mean_variance)
        law = Independent(law.mean, size)
    return ScoreModel(network, diffusion, basis, law, **how), family, x


def build(name: str, seed: int) -> tuple[DiffusionModel, Family | None, Tensor]:
    "An untrained model, its family of schedules, its data."
    if name.startswith("head"):
        return build_head(name, seed)
    setting, x, way = SETTINGS[name](), kind_of(name).images(), name.rpartition("-")[2]
    groups = None if way in ("mean", "channel") else setting.groups
    diffusion = LinearDiffusion(vp(), setting.family())
    channels, channel = setting.basis.data_shape[0], way == "channel"
    torch.manual_seed(seed)
    network = UNet(
        channels + channel,
        channels,
        width=setting.width,
        groups=0 if groups is None else int(groups.max()) + 1,
        cross=[2] if way == "cross" else [],
        classes=10 if setting.labels else 0,
    )
    law = fit_law(diffusion, setting.basis, x[:FIT], setting.rank)
    how = dict(groups=groups, channel=channel, family=setting.family)
    model = ScoreModel(network, diffusion, setting.basis, law, **how)
    return model, setting.family, x


def starting_from(model: DiffusionModel, law: Gaussian) -> DiffusionModel:
    "The model, changed in place: its samples start where data of this law end."
    parts = model.network, model.diffusion, model.basis, law
    model.prior = ScoreModel(*parts, groups=model.groups).prior
    return model


# Commands


@dataclass(frozen=True)
class Places:
    "Where models, rows and weights go."

    runs: Path  # folder of trained models
    table: Path  # CSV file of what was measured
    weights: Path  # folder of the weights that ship

    def model(self, name: str, seed: int) -> Path:
        "The folder of a training run."
        return self.runs / f"{name}-{seed}"

    def trained(self, name: str, seed: int) -> DiffusionModel:
        "A trained model, or one that ships."
        shipped = name.startswith("gud-")
        return from_pretrained(name if shipped else self.model(name, seed) / "model")

    def rows(self) -> list[dict]:
        "The rows of the table, as text."
        if not self.table.exists():
            return []
        text = self.table.read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines()))

    def append(self, row: dict):
        "Write a row below the others; what it lacks stays empty."
        append(self.table, row, FIELDS)


def uniform_times(model: ScoreModel) -> Objective:
    "Squared errors of the noise of changing components at uniform times: a bound."
    return ScoreMatching(active_only())


def times_by_snr(model: ScoreModel) -> Objective:
    "The same, at times by what is seen: notebook 07."
    v = model.law.component_variances
    scale = torch.as_tensor(getattr(model.basis, "scale", 1.0)).to(v)
    return ScoreMatching(active_only(), snr_times(model.diffusion, v, v * scale**2))


def error_of_images(model: ScoreModel) -> Objective:
    "Errors of the image over what the law expects, levels by what is seen."
    return Denoising(schedule_levels(model), for_images)


def error_of_noise(model: ScoreModel) -> Objective:
    "Errors of the noise of changing components, levels by what is seen."
    return Denoising(schedule_levels(model), for_likelihood)


LOSSES = dict(uniform=uniform_times, snr=times_by_snr)
LOSSES |= dict(image=error_of_images, noise=error_of_noise)
ERRORS = dict(uniform="errors of the noise, uniform times")  # in cards
ERRORS |= dict(snr="errors of the noise, times by SNR", image="errors of the image")
ERRORS |= dict(noise="errors of the noise, levels by what is seen")


def train(name: str, a: argparse.Namespace, places: Places):
    "Train a setting, and save it."
    out = places.model(name, a.seed)
    model, family, x = build(name, a.seed)
    setting = SETTINGS[name]() if SETTINGS[name] else None
    loss, known = (setting.loss, setting.labels) if setting else ("uniform", False)
    objective = LOSSES[loss](model)
    if family is None:
        objective = ScoreMatching(times=snr_times(model.diffusion))
    how = dict(objective=objective)
    if a.train_steps:
        how |= dict(steps=a.train_steps)
    else:
        how |= dict(minutes=a.minutes, timer=time.process_time)
    how |= dict(batch=128, lr=2e-3, warmup=200, ema=0.998, seed=a.seed, mixed=True)
    plan = Training(unlabelled=0.1, **how)
    classes = labels() if known else None
    resume = (out / "checkpoint.safetensors").exists()
    files = dict(out=out, resume=resume, keep=30.0)
    last = fit(model, x, plan, classes, cpu=True, **files)[-1]
    width = model.network.config["width"]
    about = dict(data=kind_of(name).title, setting=name, objective=loss)
    about |= dict(images=last["images"], steps=last["step"], batch=128, seed=a.seed)
    about |= dict(processor_seconds=last["seconds"], width=width, loss=last["loss"])
    model.save_pretrained(out / "model", about=about)
    print(about, flush=True)


def bits(
    model: ScoreModel,  # in evaluation mode
    test: Tensor,  # (n, *data)
    draws: int = 8,  # of time and noise for each image
) -> tuple[float, float]:  # mean over the images, and its standard error
    "The variational bound in bits per dimension; the same noise for every model."
    found = []
    for i, x in enumerate(test.split(64)):
        g = torch.Generator().manual_seed(i)
        how = dict(draws=draws, t0=0.0, prior=model.law, generator=g)
        with torch.no_grad():
            found.append(elbo(model, x, **how).value)
    each = nats_to_bits(torch.cat(found), test[0].numel())
    return each.mean().item(), (each.std() / len(each) ** 0.5).item()


def frechet(
    model: DiffusionModel,  # in evaluation mode
    sampler: Sampler,  # how to sample
    a: argparse.Namespace,  # n samples, steps evaluations
    name: str,  # of the setting
    **how,  # labels, guidance
) -> float:
    "The Fréchet distance of samples from the training images."
    g, n = torch.Generator().manual_seed(0), a.steps - evaluations(sampler, 0)
    times = fastest(model.diffusion, n)
    y = model.sample(a.n, sampler, times, g, batch=125, **how)
    kind = kind_of(name)
    features, real = feature_extractor(kind.features), real_features(kind)
    return float(measure("", features(y.clamp(-1, 1)), real)["frechet"])


@cache
def real_features(kind: Kind) -> Tensor:
    "Features of the training images."
    clothes = kind.images is images
    x = fashion_mnist(train=True).x if clothes else kind.images()
    return feature_extractor(kind.features)(x)


def untrained(name: str, a: argparse.Namespace, places: Places):
    "The bound of the law alone, under one schedule: a baseline."
    model = build(name, 0)[0].eval()
    at = dict(a=1.0) if dict(a=1.0) in points(name) else points(name)[0]
    member = model.at(**at) if model.family else model
    value, error = bits(member, kind_of(name).images(False)[: a.test_images])
    row = dict(name=f"{name}-untrained", seed=0, images=0, measure="bits")
    row |= dict(value=f"{value:.5g}", error=f"{error:.2g}", n=a.test_images)
    places.append(row | dict(evaluations=0))


def judge(name: str, a: argparse.Namespace, places: Places, variants: list[tuple]):
    "Append the distance of each variant (title, model, sampler, how) of one model."
    for title, member, sampler, how in variants:
        began = time.process_time()
        value = frechet(member, sampler, a, name, **how)
        spent = time.process_time() - began
        row = dict(name=name, seed=a.seed, at=title, images=member.about["images"])
        row |= dict(measure="frechet", value=f"{value:.5g}", n=a.n, evaluations=a.steps)
        places.append(row | dict(processor_seconds=f"{spent:.3g}"))


def guided(name: str, a: argparse.Namespace, places: Places):
    "Distances without labels, with labels, and guided away from those without."
    member, classes = places.trained(name, a.seed).at(a=1.0), torch.arange(a.n) % 10
    variants = []
    for g in (0.0, 1.0, 1.5, 2.0, 3.0):
        how = dict(labels=classes, guidance=g)
        variants.append((f"guidance {g:g}", member, DPMSolver(2), how))
    judge(f"{name}-guided", a, places, variants[: a.points])


def recipes(name: str, a: argparse.Namespace, places: Places):
    "Distances under other recipes, on schedules of equal SNR and of equal B."
    model, variants = places.trained(name, a.seed), []
    kinds = dict(VP=vp(), CLD=cld(), PSLD=psld())
    kinds["third order"] = third_order()
    for kind, recipe in kinds.items():
        start = hsm(recipe) if recipe.k > 1 else None
        for by_snr in (True, False) if recipe.k > 1 else (False,):
            equal = "equal B" if recipe.k > 1 and not by_snr else "equal SNR"
            how = dict(Sigma0=start, by_snr=by_snr)
            d = LinearDiffusion(recipe, model.family(), **how)
            member = model.with_diffusion(d).at(a=1.0)
            for s in (DPMSolver(2), DEIS(3)):
                title = f"{kind}; {equal}; {type(s).__name__}({s.order})"
                variants.append((title, member, s, {}))
    judge(f"{name}-recipes", a, places, variants[: a.points])


def evaluate(name: str, a: argparse.Namespace, places: Places):
    """Bits and distances over the family; with `--factors`, distances of the same
    weights started from a prior that has common factors."""
    model, title = places.trained(name, a.seed), f"{name}-prior" if a.factors else name
    keys = ("name", "seed", "at", "measure", "evaluations")
    done = {tuple(r[k] for k in keys) for r in places.rows()}
    what = ["frechet"] if a.factors or name.startswith("head") else a.what
    if not kind_of(name).features:
        what = ["bits"]
    informed = None
    if a.factors:
        informed = fit_law(model.diffusion, model.basis, images()[:FIT], 48)
    elif name.startswith("head-gud"):  # all three begin where the data end
        informed = fit_law(model.diffusion, model.basis, images()[:FIT])
    for at in points(name)[: a.points]:
        member = model.at(**at) if at else model
        if informed is not None:
            member = starting_from(member, informed)
        place = " ".join(f"{k}={v:g}" for k, v in at.items())
        for measured in what:
            spent = a.steps if measured == "frechet" else 0
            if (title, str(a.seed), place, measured, str(spent)) in done:
                continue
            began = time.process_time()
            row = dict(name=title, seed=a.seed, at=place, images=model.about["images"])
            if measured == "bits":
                value, error = bits(
                    member, kind_of(name).images(False)[: a.test_images]
                )
                row |= dict(error=f"{error:.2g}", n=a.test_images)
            else:
                value = frechet(member, DPMSolver(2), a, name)
                row |= dict(n=a.n)
            row |= dict(measure=measured, value=f"{value:.5g}", evaluations=spent)
            seconds = time.process_time() - began
            places.append(row | dict(processor_seconds=f"{seconds:.3g}"))


# Weights that ship

CARD = """# {title}

A score model of GUD (Gerdes, Welling & Cheng 2024) for {what}: VP in {basis}, \
trained for the family of schedules {family}; {law}, and a U-Net of
width {width} ({millions:.1f} million parameters) that is given the noising state of \
{groups} groups of components, in half precision.

| | |
|---|---|
| data | {data} |
| training | {images:,} images, {steps:,} steps of 128, {errors}, \
{seconds:.0f} s of one processor core, seed 0 |
| measured | {measured} |
| in | `nbs/32_gud_trained.ipynb` |
| made by | `studies/gud.py`, setting `{setting}` |

Limits: {limits}

    gud_sample --model {title} --softness {example}
"""
SHIPPED = {
    "labels-long-noise": dict(
        title="gud-fashion-mnist",
        what="28×28 images of clothes, with labels",
        basis="a cosine basis with white prior",
        family="a in [0, 1.6]",
        law="a Gaussian law of component variances",
        example=".7 --n 64 --label 9",
        limits="a small network; outlines are right, texture and print are often lost.",
    ),
    "haar-columns-factors-noise": dict(
        title="gud-haar-columns",
        what="28×28 images of clothes",
        basis="a Haar basis of two levels with the variance-matching prior",
        family="a in [0, 6] (levels), b in [0, 0.8] (columns)",
        law="a Gaussian law with 48 common factors",
        example="a=2,b=.4 --n 64",
        limits="made for looking at schedules, not at clothes; no labels.",
    ),
    "crop-grey-noise": dict(
        title="gud-cifar-columns",
        what="16×16 crops of photographs, in grey",
        basis="principal components of each column of pixels",
        family="known in [0, 12] columns, b in [0, 0.9]",
        law="a Gaussian law with the full covariance",
        example="known=0,b=.5 --n 64",
        limits="a small network; continues a photograph with what could be there, in "
        "the right contrast, without objects.",
    ),
}
DATA = dict(
    crops="four random crops of each of the 50,000 training images of CIFAR-10 "
    "(Krizhevsky 2009), half of them mirrored",
    clothes="the 60,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf "
    "2017, MIT licence), levels blurred",
)


def in_words(row: dict) -> str:
    "What was measured, for a card."
    value, at = f"{float(row['value']):.4g}", row["at"]
    at = at.replace("guidance 1", "a=1 with labels")
    if row["measure"] == "bits":
        return f"bound {value} at {at} (bits per dimension, {row['n']} images)"
    how = f"{row['n']} samples, {row['evaluations']} evaluations"
    return f"Fréchet distance {value} at {at} ({how})"


def ship(name: str, a: argparse.Namespace, places: Places):
    "Put a trained setting among the weights of the package."
    if name not in SHIPPED:
        raise SystemExit(f"got the setting {name}, want one of {', '.join(SHIPPED)}")
    model, how = places.trained(name, 0), SHIPPED[name]
    mine = (r for r in places.rows() if r["name"].startswith(how["title"]))
    shown = ("a=1", "guidance 1", "a=2 b=0.4", "known=0 b=0.5")
    measured = [in_words(r) for r in mine if r["at"] in shown]
    folder = places.weights / how["title"]
    about = dict(model.about, measured=measured)
    model.save_pretrained(folder, torch.float16, about)
    parameters = sum(p.numel() for p in model.network.parameters())
    card = CARD.format(
        data=DATA["crops" if name.startswith("crop") else "clothes"],
        images=about["images"],
        steps=about["steps"],
        errors=ERRORS[about.get("objective", "snr")],
        setting=name,
        seconds=about["processor_seconds"],
        groups=int(model.groups.max()) + 1,
        width=about["width"],
        millions=parameters / 1e6,
        measured="; ".join(measured) or "see there",
        **how,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


COMMANDS = dict(
    train=train,
    evaluate=evaluate,
    guided=guided,
    recipes=recipes,
    untrained=untrained,
    ship=ship,
)


def arguments() -> argparse.Namespace:
    "What is asked for on the command line, checked."
    p = parser(__doc__)
    p.add_argument("command", choices=["list", *COMMANDS])
    titles = [how["title"] for how in SHIPPED.values()]
    names = [*SETTINGS, *titles]
    p.add_argument("name", nargs="?", choices=names, metavar="name")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--minutes", type=float, default=6.0, help="of the processor")
    p.add_argument("--train-steps", type=int, help="instead of minutes")
    p.add_argument("--n", type=int, default=1000, help="samples for a Fréchet distance")
    p.add_argument("--steps", type=int, default=25, help="evaluations for a sample")
    p.add_argument("--test-images", type=int, default=512, help="for bits")
    p.add_argument("--points", type=int, help="measure at the first few places alone")
    text = "start from a prior with common factors (Fréchet distances only)"
    p.add_argument("--factors", action="store_true", help=text)
    kinds = ["bits", "frechet"]
    p.add_argument("--what", nargs="+", default=kinds, choices=kinds)
    p.add_argument("--out", type=Path, help="folder of everything that is written")
    a = p.parse_args()
    if a.command != "list" and a.name is None:
        p.error("name a setting: one of " + ", ".join(SETTINGS))
    if a.name in titles and a.command not in ("evaluate", "guided", "recipes"):
        p.error(f"{a.name} is trained: evaluate it, or {a.command} its setting")
    return a


def main():
    "Do what is asked for."
    a = arguments()
    torch.set_num_threads(1)
    if a.command == "list":
        return print("\n".join(SETTINGS))
    places = Places(Path("runs/gud"), HERE / "gud.csv", HERE.parent / "gud_nb/weights")
    if a.out is not None:
        a.out.mkdir(parents=True, exist_ok=True)
        places = Places(a.out / "runs", a.out / "gud.csv", a.out / "weights")
    COMMANDS[a.command](a.name, a, places)


if __name__ == "__main__":
    main()
