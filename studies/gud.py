"""GUD on two cores: the trainings and evaluations behind `nbs/32_gud_trained.ipynb`.

    GUD_DATA=folder python studies/gud.py train pca-white
    GUD_DATA=folder python studies/gud.py evaluate pca-white

`studies/gud.py list` names the settings. A training takes `--minutes` of the processor (one thread) and resumes from its checkpoint if it is
there; its model and losses go to runs/gud/<name>-<seed>. An evaluation appends rows to studies/gud.csv and leaves out what is there already.
`ship` writes the half-precision weights of a setting into gud_nb/weights, with its card.
"""

import argparse
import csv
import time
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

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
from gud_nb.cli import processes
from gud_nb.data import cifar10, fashion_mnist
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, measure
from gud_nb.integrators import DEIS, DPMSolver
from gud_nb.likelihood import dequantise, elbo
from gud_nb.loss import moving, snr_times
from gud_nb.network import UNet, bands
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import evaluations, fastest
from gud_nb.schedule import (
    Family,
    continued,
    nested,
    sequential,
    soft_conditioning,
    tilted,
)
from gud_nb.score import Gaussian
from gud_nb.train import ScoreModel, Training, fit, from_pretrained, gaussian_head

warnings.filterwarnings("ignore", message=".*variances are below.*")
ENDS, WINDOW = (
    dict(gamma_denoise=-9.0, gamma_noise=3.0, clip=True),
    dict(gamma_min=-9.0, gamma_max=3.0),
)
HERE = Path(__file__).resolve().parent


@cache
def images(train: bool = True):
    "Fashion-MNIST, its levels blurred once."
    return dequantise(fashion_mnist(train=train).x, torch.Generator().manual_seed(0))


@cache
def crops():
    "Two 16×16 crops of each CIFAR-10 image."
    x, g = cifar10(train=True).x, torch.Generator().manual_seed(0)
    top, left = torch.randint(17, (2, 2 * len(x)), generator=g)
    return dequantise(
        torch.stack(
            [
                x[i // 2, :, a : a + 16, b : b + 16]
                for i, (a, b) in enumerate(zip(top.tolist(), left.tolist()))
            ]
        ),
        g,
    )


@cache
def grey():
    "Four 16×16 crops of each CIFAR-10 image, without colour, half of them mirrored."
    x, g = cifar10(train=True).x.mean(1, keepdim=True), torch.Generator().manual_seed(0)
    top, left = torch.randint(17, (2, 4 * len(x)), generator=g)
    found = torch.stack(
        [
            x[i // 4, :, a : a + 16, b : b + 16]
            for i, (a, b) in enumerate(zip(top.tolist(), left.tolist()))
        ]
    )
    found[::2] = found[::2].flip(-1)
    return found + (torch.rand(found.shape, generator=g) - 0.5) / 128


@cache
def labels(train: bool = True):
    return fashion_mnist(train=train).labels


@dataclass
class Setting:
    "What is trained: components and their clocks, and how."

    basis: Basis
    family: Family
    groups: torch.Tensor  # what the network is told the noise of
    factors: int | None = None  # common factors in the head
    share: float = 0.0  # of training times by `snr_times`, instead of uniform
    width: int = 16
    labels: bool = False


def scaled(rotation, x, white: bool):
    "Components with variances 1, or with their own and mean 1; and those variances."
    fitted = Whitened.fit(rotation, x[:30_000], floor=1e-5)
    size = fitted.scale.square().mean().sqrt()
    return (
        (fitted, fitted.scale.square())
        if white
        else (Scaled(rotation, fitted.mean, size), (fitted.scale / size).square())
    )


def merged(*groups):
    "Groups within groups, numbered without gaps."
    return sum(g * 100**i for i, g in enumerate(groups)).unique(return_inverse=True)[1]


def softness(rotation, white: bool, a: tuple):
    "Components by their variance, softness a."
    basis, variances = scaled(rotation, images(), white)
    return Setting(
        basis,
        Family(
            soft_conditioning,
            dict(a=a),
            dict(variances=variances, whitened=white, **ENDS),
        ),
        bands(-variances.log(), 16),
    )


def box():
    "Softness and a tilt of the order between vertical and horizontal frequencies."
    cosines = DCT((1, 28, 28))
    basis, variances = scaled(cosines, images(), True)
    other = cosines.frequencies[0] - cosines.frequencies[1]
    return Setting(
        basis,
        Family(
            tilted,
            dict(a=(0.4, 1.6), w=(-0.6, 0.6)),
            dict(variances=variances, other=other, whitened=True, **ENDS),
        ),
        merged(bands(-variances.log(), 8), bands(other, 4)),
    )


def haar_columns():
    "Levels from coarse to fine, columns from left to right."
    haar = Wavelet((1, 28, 28), "haar", 2)
    level, column = level_order(haar), column_order(haar)
    family = Family(
        nested,
        dict(a=(0.0, 6.0), b=(0.0, 0.8)),
        dict(outer=level, inner=column, **WINDOW),
    )
    return Setting(
        scaled(haar, images(), True)[0], family, merged(bands(column, 28), level.long())
    )


def columns():
    "Pixels, column after column."
    pixel = Pixel((1, 28, 28))
    return Setting(
        scaled(pixel, images(), False)[0],
        Family(
            sequential, dict(b=(0.0, 0.95)), dict(order=column_order(pixel), **WINDOW)
        ),
        bands(column_order(pixel), 28),
    )


def crop_columns(rotation, x):
    "Crops of photographs, column after column, the first few of them known."
    order = column_order(rotation)
    return Setting(
        scaled(rotation, x, False)[0],
        Family(
            continued,
            dict(known=(0.0, 12.0), b=(0.0, 0.9)),
            dict(order=order, **WINDOW),
        ),
        bands(order, 16),
    )


def strips(x):
    return Columns(PCA.fit(x[:30_000].movedim(-1, 1).flatten(0, 1)), 16)


@cache
def principal():
    return PCA.fit(images()[:30_000], floor=1e-8)


ROTATIONS = dict(
    pca=principal,
    dct=lambda: DCT((1, 28, 28)),
    waves=lambda: Fourier((1, 28, 28)),
    haar=lambda: Wavelet((1, 28, 28), "haar", 2),
)
SETTINGS = {
    f"{name}-{scale}": (
        lambda r=r, scale=scale: softness(r(), scale == "white", (0.0, 1.6))
    )
    for name, r in ROTATIONS.items()
    for scale in ("white", "unit")
}
SETTINGS |= {
    "pca-unit-alone": lambda: softness(principal(), False, (1.0, 1.0)),
    "box": box,
    "haar-columns": haar_columns,
    "columns": columns,
    "crop-columns": lambda: crop_columns(Pixel((3, 16, 16)), crops()),
}


def but(name: str, **changes):
    return lambda: replace(
        SETTINGS[name](), **changes
    )  # the same setting, trained otherwise


for told in ("mean", "cross", "channel"):
    SETTINGS[f"haar-columns-{told}"] = haar_columns
for name in ("pca-unit-alone", "pca-unit", "pca-white", "haar-columns", "columns"):
    SETTINGS[f"{name}-snr"] = but(name, share=1.0)
for name in ("columns", "haar-columns"):
    SETTINGS |= {
        f"{name}-factors": but(name, factors=48),
        f"{name}-factors-snr": but(name, factors=48, share=1.0),
    }
SETTINGS |= {
    "dct-unit-long": SETTINGS["dct-unit"],
    "labels-long": but("dct-unit", share=1.0, width=24, labels=True),
    "crop-grey": lambda: replace(
        crop_columns(strips(grey()), grey()), factors=256, share=1.0
    ),
}
PROCESSES, HEADS = ("vp", "psld", "gud"), ("plain", "isotropic", "gaussian")
SETTINGS |= {f"head-{process}-{head}": None for process in PROCESSES for head in HEADS}


def head_of(kind: str, law: Gaussian) -> Gaussian | None:
    "The Gaussian that a model knows: none, one variance for all (the scaling of EDM), or that of the data."
    if kind == "plain":
        return None
    return (
        law
        if kind == "gaussian"
        else Gaussian(law.mean, torch.full_like(law.mean, law.mean_variance))
    )


def build_head(name: str, seed: int):
    "A process with one of three heads."
    _, process, kind = name.split("-")
    if process == "gud":
        setting, x = softness(principal(), False, (0.0, 1.6)), images()
        basis, family, groups = setting.basis, setting.family, setting.groups
    else:
        recipe, clock = processes[process]
        basis, family, groups, x, r = (
            scaled(Pixel((1, 28, 28)), images(), False)[0],
            None,
            None,
            images(),
            recipe(),
        )
    diffusion = (
        LinearDiffusion(vp(), family())
        if family
        else LinearDiffusion(r, clock, Sigma0=hsm(r) if r.k > 1 else None)
    )
    law = gaussian_head(diffusion, basis, x[:30_000])
    phases = diffusion.k if kind == "plain" else 1
    torch.manual_seed(seed)
    network = UNet(
        phases, width=16, groups=0 if groups is None else int(groups.max()) + 1
    )
    return (
        ScoreModel(
            network, diffusion, basis, head_of(kind, law), groups=groups, family=family
        ),
        family,
        x,
    )


def build(name: str, seed: int) -> tuple[ScoreModel, Family, torch.Tensor]:
    "An untrained model, its family of clocks, its data."
    if name.startswith("head"):
        return build_head(name, seed)
    how = SETTINGS[name]()
    x = (
        grey()
        if name.startswith("crop-grey")
        else crops()
        if name.startswith("crop")
        else images()
    )
    (C, H, W), groups, told = how.basis.data_shape, how.groups, name.rpartition("-")[2]
    n, channel = int(groups.max()) + 1, told == "channel"
    if told in ("mean", "channel"):
        n, groups = 0, None
    diffusion = LinearDiffusion(vp(), how.family())
    torch.manual_seed(seed)
    network = UNet(
        C + channel,
        C,
        width=how.width,
        groups=n,
        cross=[2] if told == "cross" else [],
        classes=10 if how.labels else 0,
    )
    head = gaussian_head(diffusion, how.basis, x[:30_000], how.factors)
    return (
        ScoreModel(
            network,
            diffusion,
            how.basis,
            head,
            groups=groups,
            channel=channel,
            family=how.family,
        ),
        how.family,
        x,
    )


def train(name: str, seed: int, minutes: float):
    out = Path("runs/gud") / f"{name}-{seed}"
    model, family, x = build(name, seed)
    setting = SETTINGS[name]() if family and SETTINGS[name] else None
    share, known = (setting.share, setting.labels) if setting else (0.0, False)
    how = (
        dict(weight=moving(), times=model.snr_times(share) if share else None)
        if family
        else dict(times=snr_times(model.diffusion))
    )
    plan = Training(
        minutes=minutes,
        batch=128,
        lr=2e-3,
        warmup=200,
        ema=0.998,
        seed=seed,
        mixed=True,
        clock=time.process_time,
        unlabelled=0.1,
        **how,
    )
    last = fit(
        model,
        x,
        plan,
        labels() if known else None,
        schedule=family,
        out=out,
        resume=(out / "checkpoint.safetensors").exists(),
        keep=30.0,
        cpu=True,
    )[-1]
    about = dict(
        data="cifar10, crops of 16×16" if name.startswith("crop") else "fashion_mnist",
        setting=name,
        images=last["images"],
        steps=last["step"],
        processor_seconds=last["seconds"],
        seed=seed,
        batch=128,
        width=model.network.config["width"],
        loss=last["loss"],
    )
    model.save_pretrained(out / "model", about=about)
    print(about, flush=True)


POINTS = {
    "haar-columns": [dict(a=a, b=b) for a in (0.0, 2.0, 6.0) for b in (0.0, 0.4, 0.8)],
    "columns": [dict(b=b) for b in (0.0, 0.3, 0.6, 0.9)],
    "box": [
        dict(a=a, w=w)
        for a in (0.4, 0.7, 1.0, 1.3, 1.6)
        for w in (-0.6, -0.3, 0.0, 0.3, 0.6)
    ],
    "pca-unit-alone": [dict(a=1.0)],
    "dct-unit-long": [dict(a=a) for a in (0.0, 0.7, 1.0, 1.6)],
    **{
        f"haar-columns-{told}": [
            dict(a=2.0, b=0.4),
            dict(a=0.0, b=0.0),
            dict(a=6.0, b=0.8),
        ]
        for told in ("mean", "cross", "channel")
    },
    **{
        name: [dict(a=1.0)] if "gud" in name else [{}]
        for name in SETTINGS
        if name.startswith("head")
    },
}


def points(name: str) -> list[dict]:
    "Where a setting is measured: as the setting that it is a variant of."
    base = max(
        (k for k in POINTS if name == k or name.startswith(k + "-")),
        key=len,
        default=None,
    )
    return (
        [dict(a=a) for a in (0.0, 0.4, 0.7, 1.0, 1.3, 1.6)]
        if base is None
        else POINTS[base]
    )


FIELDS = [
    "name",
    "seed",
    "at",
    "images",
    "measure",
    "value",
    "error",
    "n",
    "evaluations",
    "processor_seconds",
]


def bits(model, test, draws: int = 8) -> tuple[float, float]:
    "The variational bound in bits per dimension, over test images; the same times and noise for every model."
    with torch.no_grad():
        found = torch.cat(
            [
                elbo(
                    model,
                    x,
                    draws=draws,
                    t0=0.0,
                    prior=model.head.law,
                    generator=torch.Generator().manual_seed(i),
                ).value
                for i, x in enumerate(test.split(64))
            ]
        )
    each = -found / (test[0].numel() * torch.log(torch.tensor(2.0))) - torch.log2(
        torch.tensor(2 / 255)
    )
    return each.mean().item(), (each.std() / len(each) ** 0.5).item()


def untrained(name: str):
    "The bound of the head alone, under one clock: a baseline."
    model = build(name, 0)[0].eval()
    at = dict(a=1.0) if dict(a=1.0) in points(name) else points(name)[0]
    value, error = bits(model.at(**at) if model.family else model, images(False)[:512])
    with (HERE / "gud.csv").open("a", newline="") as f:
        csv.writer(f).writerow(
            [
                f"{name}-untrained",
                0,
                "",
                0,
                "bits",
                f"{value:.5g}",
                f"{error:.2g}",
                512,
                0,
                "",
            ]
        )
    print(f"{name}, untrained: {value:.3f}")


def judge(name: str, seed: int, n: int, steps: int, variants):
    "Append the Fréchet distance of each variant (title, model, integrator, how to sample) of one set of weights."
    features = feature_extractor("fashion_mnist")
    real = features(fashion_mnist(train=True).x)
    for title, member, step, how in variants:
        began, g = time.process_time(), torch.Generator().manual_seed(0)
        y = member.sample(
            n,
            step,
            fastest(member.diffusion, steps - evaluations(step, 0)),
            g,
            batch=125,
            **how,
        )
        value = float(measure(name, features(y.clamp(-1, 1)), real)["frechet"])
        row = [
            name,
            seed,
            title,
            member.about["images"],
            "frechet",
            f"{value:.5g}",
            "",
            n,
            steps,
            f"{time.process_time() - began:.3g}",
        ]
        with (HERE / "gud.csv").open("a", newline="") as f:
            csv.writer(f).writerow(row)
        print(row, flush=True)


def guided(name: str, seed: int, n: int, steps: int):
    "Fréchet distances without labels, with labels, and guided away from the law without them."
    member, classes = (
        from_pretrained(Path("runs/gud") / f"{name}-{seed}" / "model").at(a=1.0),
        torch.arange(n) % 10,
    )
    judge(
        f"{name}-guided",
        seed,
        n,
        steps,
        [
            (f"guidance {g:g}", member, DPMSolver(2), dict(labels=classes, guidance=g))
            for g in (0.0, 1.0, 1.5, 2.0, 3.0)
        ],
    )


def recipes(name: str, seed: int, n: int, steps: int):
    "Fréchet distances under other recipes, on the clock as it is and on the one of equal SNR."
    model, variants = from_pretrained(Path("runs/gud") / f"{name}-{seed}" / "model"), []
    for kind, recipe in (
        ("VP", vp()),
        ("CLD", cld()),
        ("PSLD", psld()),
        ("third order", third_order()),
    ):
        for by_snr in (True, False)[: 1 if recipe.k == 1 else 2]:
            d = LinearDiffusion(
                recipe,
                model.family(),
                Sigma0=hsm(recipe) if recipe.k > 1 else None,
                by_snr=by_snr and recipe.k > 1,
            )
            title = f"{kind}; {'equal SNR' if by_snr else 'equal B'}"
            variants += [
                (
                    f"{title}; {type(step).__name__}({step.order})",
                    model.under(d).at(a=1.0),
                    step,
                    {},
                )
                for step in (DPMSolver(2), DEIS(3))
            ]
    judge(f"{name}-recipes", seed, n, steps, variants)


def evaluate(name: str, seed: int, n: int, steps: int, what: list, prior: bool = False):
    "Bits and Fréchet distances over the family; with `prior`, of the same weights started from a prior that knows common factors."
    out, model, setting = (
        HERE / "gud.csv",
        from_pretrained(Path("runs/gud") / f"{name}-{seed}" / "model"),
        name,
    )
    informed = (
        gaussian_head(model.diffusion, model.basis, images()[:30_000], 48)
        if prior
        else None
    )
    name = f"{name}-prior" if prior else name
    if not out.exists():
        out.write_text(",".join(FIELDS) + "\n")
    done = {
        (r["name"], int(r["seed"]), r["at"], r["measure"], int(r["evaluations"]))
        for r in csv.DictReader(out.open())
    }
    features = feature_extractor("fashion_mnist")
    real = features(fashion_mnist(train=True).x)
    for at in points(setting):
        member, place = (
            model.at(**at) if at else model,
            " ".join(f"{k}={v:g}" for k, v in at.items()),
        )
        if prior:
            member.prior = ScoreModel(
                member.network,
                member.diffusion,
                member.basis,
                informed,
                groups=member.groups,
            ).prior
        if name.startswith("head-gud"):  # all three begin where the data end
            law = gaussian_head(member.diffusion, member.basis, images()[:30_000])
            member.prior = ScoreModel(
                member.network,
                member.diffusion,
                member.basis,
                law,
                groups=member.groups,
            ).prior
        for measured in what:
            spent = steps if measured == "frechet" else 0
            if (name, seed, place, measured, spent) in done:
                continue
            began = time.process_time()
            if measured == "bits" and name.startswith("head"):
                continue
            if measured == "bits":
                number, (value, error) = 512, bits(member, images(False)[:512])
            else:
                step, g = DPMSolver(2), torch.Generator().manual_seed(0)
                y = member.sample(
                    n,
                    step,
                    fastest(member.diffusion, steps - evaluations(step, 0)),
                    g,
                    batch=125,
                )
                number, value, error = (
                    n,
                    float(measure(name, features(y.clamp(-1, 1)), real)["frechet"]),
                    "",
                )
            row = [
                name,
                seed,
                place,
                model.about["images"],
                measured,
                f"{value:.5g}",
                f"{error:.2g}" if error != "" else "",
                number,
                spent,
                f"{time.process_time() - began:.3g}",
            ]
            with out.open("a", newline="") as f:
                csv.writer(f).writerow(row)
            print(row, flush=True)


CARD = """# {title}

A score model of GUD (Gerdes, Welling & Cheng 2024) for {what}: VP in {basis}, trained for the family of clocks {family}; {head}, and a U-Net of
width {width} ({millions:.1f} million parameters) that is told the noising state of {groups} groups of components, in half precision.

| | |
|---|---|
| data | {data} |
| training | {images:,} images, {steps:,} steps of 128, times by SNR, {seconds:.0f} s of one processor core, seed 0 |
| measured | {measured} |
| in | `nbs/32_gud_trained.ipynb` |
| made by | `studies/gud.py`, setting `{setting}` |

Limits: {limits}

    gud_sample --model {title} --softness {example}
"""
SHIPPED = {
    "labels-long": dict(
        title="gud-fashion-mnist",
        what="28×28 images of clothes, with labels",
        basis="a cosine basis with white prior",
        family="a in [0, 1.6]",
        example=".7 --n 64 --label 9",
        head="a Gaussian head of component variances",
        limits="a small network after twenty minutes of one core; outlines are right, texture and print are often lost.",
    ),
    "haar-columns-factors-snr": dict(
        title="gud-haar-columns",
        what="28×28 images of clothes",
        basis="a Haar basis of two levels with the variance-matching prior",
        family="a in [0, 6] (levels), b in [0, 0.8] (columns)",
        example="a=2,b=.4 --n 64",
        head="a Gaussian head with 48 common factors",
        limits="five minutes of one core; made for looking at clocks, not at clothes; no labels.",
    ),
    "crop-grey": dict(
        title="gud-cifar-columns",
        what="16×16 crops of photographs, in grey",
        basis="principal components of each column of pixels",
        family="known in [0, 12] columns, b in [0, 0.9]",
        example="known=0,b=.5 --n 64",
        head="a Gaussian head with the full covariance",
        limits="25 minutes of one core; continues a photograph with what could be there, in the right contrast, without objects.",
    ),
}


def ship(name: str):
    "Put a trained setting among the weights of the package."
    model, root, how = (
        from_pretrained(Path("runs/gud") / f"{name}-0" / "model"),
        HERE.parent / "gud_nb" / "weights",
        SHIPPED[name],
    )
    out = HERE / "gud.csv"
    scores = [
        f"{dict(bits='bound', frechet='Fréchet distance')[r['measure']]} {float(r['value']):.4g} at {r['at']}"
        + (
            f" ({r['n']} samples, {r['evaluations']} evaluations)"
            if r["measure"] == "frechet"
            else " (bits per dimension, 512 images)"
        )
        for r in (csv.DictReader(out.open()) if out.exists() else ())
        if r["name"] == name and r["at"] in ("a=1", "a=2 b=0.4")
    ]
    data = (
        "four random crops of each of the 50,000 training images of CIFAR-10 (Krizhevsky 2009), half of them mirrored"
        if name.startswith("crop")
        else "the 60,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT licence), levels blurred"
    )
    model.save_pretrained(
        root / how["title"], torch.float16, dict(model.about, measured=scores)
    )
    (root / how["title"] / "README.md").write_text(
        CARD.format(
            data=data,
            images=model.about["images"],
            steps=model.about["steps"],
            setting=name,
            seconds=model.about["processor_seconds"],
            groups=int(model.groups.max()) + 1,
            width=model.about["width"],
            millions=sum(p.numel() for p in model.network.parameters()) / 1e6,
            measured="; ".join(scores) or "see there",
            **how,
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command",
        choices=["list", "train", "evaluate", "guided", "recipes", "untrained", "ship"],
    )
    parser.add_argument("name", nargs="?", choices=list(SETTINGS), metavar="name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=6.0, help="of the processor")
    parser.add_argument(
        "--n", type=int, default=1000, help="samples for a Fréchet distance"
    )
    parser.add_argument(
        "--steps", type=int, default=25, help="evaluations of the network for a sample"
    )
    parser.add_argument(
        "--prior",
        action="store_true",
        help="start from a prior that knows common factors (Fréchet distances only)",
    )
    parser.add_argument(
        "--what", nargs="+", default=["bits", "frechet"], choices=["bits", "frechet"]
    )
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.command == "list":
        print("\n".join(SETTINGS))
    elif a.name is None:
        parser.error("name a setting: one of " + ", ".join(SETTINGS))
    elif a.command == "ship":
        ship(a.name)
    elif a.command == "untrained":
        untrained(a.name)
    elif a.command in ("guided", "recipes"):
        globals()[a.command](a.name, a.seed, a.n, a.steps)
    elif a.command == "train":
        train(a.name, a.seed, a.minutes)
    else:
        evaluate(
            a.name, a.seed, a.n, a.steps, ["frechet"] if a.prior else a.what, a.prior
        )
