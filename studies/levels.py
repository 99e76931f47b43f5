"""Noise levels of groups: which to train on, and which recipe and schedule to draw by.

    GUD_DATA=folder python studies/levels.py train balanced --seed 0
    GUD_DATA=folder python studies/levels.py schedules balanced --seed 0
    GUD_DATA=folder python studies/levels.py recipes family --seed 0
    GUD_DATA=folder python studies/levels.py orders balanced --seed 0
    GUD_DATA=folder python studies/levels.py complete balanced --seed 0

Fashion-MNIST at 16×16 (a black frame, then 2×2 pixels averaged) in Haar wavelets of two
levels, white prior. Its 48 groups are the three levels (1, 3 and 12 coefficients) of
the 16 patches of 4×4 pixels. One network (a U-Net of width 16) for all choices, the
same law with 48 common factors, the same 2000 steps of 128; the choices differ in the
noise levels that it is trained on:

    standard      one level for all groups, that of the cosine schedule
    line          those of one schedule for all, drawn as those of the next three are:
                  at times by what is seen (notebook 12)
    soft          those of one schedule, coarse levels first, a = 1.5
    columns       those of one schedule, columns of patches one after the other, b = .7
    family        schedules of softness a in [0, 3] and columns b in [0, .9], at random
    independent   a level for each group, whatever the others have
    balanced      the same, with an even distribution of their mean
    bounded       the same, with an even distribution of the cleanest group

The errors of a case are those of the image (notebook 12); `balanced-noise` and so on
take those of the predicted noise, `balanced-each` the same weight for every component.

`schedules` measures a model under VP on schedules from all of these, `recipes` under
four recipes of equal log-SNR, `orders` with 25 evaluations on levels that are chosen
before or on the way (notebook 14d), `gaussian` the fixed ones of these exactly, with
the law of a model in place of the data, `complete` when half of an image is known. n
samples are compared with the training images in the features of the 14×14 classifier
(the frame is cut off). Rows go to studies/results.csv; `ship` puts a model among the
weights of the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from rows import parser, record, recorded
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from gud_nb.adams import default_sampler
from gud_nb.adaptive import (
    Fixed,
    LawVariance,
    Route,
    by_variance,
    denoise_by,
    independent_rounds,
    posterior_variance,
    window_levels,
)
from gud_nb.basis import Scaled, Wavelet, Whitened
from gud_nb.condition import Mask, MomentMatching, sample_given
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, frechet_distance
from gud_nb.files import fashion_mnist
from gud_nb.frozen import Frozen, inpaint_frozen
from gud_nb.integrators import DEIS
from gud_nb.levels import (
    GroupLevels,
    balanced_shares,
    bounded_shares,
    independent_shares,
    shared_shares,
)
from gud_nb.likelihood import dequantise, elbo, nats_to_bits
from gud_nb.model import ScoreModel, fit_law
from gud_nb.network import UNet
from gud_nb.objective import Denoising, for_images, for_likelihood, schedule_levels
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import ImageNoise, evaluations, fastest, image_noise
from gud_nb.saved import from_pretrained
from gud_nb.schedule import Family, LinearGamma, nested
from gud_nb.train import Training, fit


def for_each(share: Tensor, seen: Tensor) -> Tensor:
    "The same weight for every component."
    return torch.ones_like(share)


SIDE, PATCH, LEVELS = 16, 4, 2
WINDOW = dict(gamma_min=-9.0, gamma_max=3.0)
STEPS, BATCH, RANK = 2000, 128, 48
FRECHET, BITS = "Fréchet distance", "bits per dimension"
WEIGHTS = Path(__file__).resolve().parent.parent / "gud_nb" / "weights"
REST = 0.15
KINDS = "standard soft columns family independent balanced bounded line".split()
ERRORS = dict(images=for_images, noise=for_likelihood, each=for_each)
CASES = KINDS + [f"{kind}-{w}" for kind in KINDS for w in list(ERRORS)[1:]]
SOFTNESSES = 0.0, 0.5, 1.0, 1.5, 2.0, 3.0
COLUMNS = 0.3, 0.7, 0.9


# Data, basis, groups


@cache
def images(train: bool = True) -> Tensor:
    "Fashion-MNIST at 16×16, its levels blurred before the average."
    g = torch.Generator().manual_seed(0)
    x = dequantise(fashion_mnist(train=train).x, g)
    return avg_pool2d(pad(x, (2, 2, 2, 2), value=-1.0), 2)


def wavelets() -> Wavelet:
    "Haar wavelets of two levels."
    return Wavelet((1, SIDE, SIDE), "haar", LEVELS)


@cache
def scaled() -> tuple[Scaled, Tensor]:
    "The basis with mean variance 1, and the variances of its components."
    whitened = Whitened.fit(wavelets(), images()[:30_000], floor=1e-5)
    size = whitened.scale.square().mean().sqrt()
    basis = Scaled(wavelets(), whitened.mean, size)
    return basis, (whitened.scale / size).square()


def patches() -> Tensor:
    "The patch of each component, (*comp), row by row from 0."
    row, column = (wavelets().places // PATCH).long()
    return row * (SIDE // PATCH) + column


def groups() -> Tensor:
    "Patch and level of each component, (*comp)."
    return patches() * (LEVELS + 1) + wavelets().level.long()


def softness_order() -> Tensor:
    "Minus the log variance of the level of each component."
    level, variances = wavelets().level, scaled()[1]
    means = torch.stack([variances[level == i].mean() for i in range(LEVELS + 1)])
    return -means.log()[level]


def ordered(
    a: float,  # softness: 1 standard, more: coarse levels first, less: fine ones
    b: float,  # of the columns of patches, from left to right, in [0, 1)
) -> LinearGamma:
    "A schedule for every component."
    order = softness_order() * (1.0 if a >= 1 else -1.0)
    column = (patches() % (SIDE // PATCH)).double()
    return nested(order, column, abs(a - 1.0), b, **WINDOW)


def schedule(at: str) -> LinearGamma:
    "The schedule that is written so, e.g. a=2 b=0."
    return ordered(**{k: float(v) for k, v in (part.split("=") for part in at.split())})


STANDARD, SOFT, COLUMN = "a=1 b=0", "a=1.5 b=0", "a=1 b=0.7"
PLACES = [f"a={a:g} b=0" for a in SOFTNESSES] + [f"a=1 b={b:g}" for b in COLUMNS]


# Training


def levels(case: str, model: ScoreModel):
    "The noise levels of a case, as a function of draws."
    shares = dict(
        standard=(shared_shares, 0.0),
        independent=(independent_shares, REST),
        balanced=(balanced_shares, REST),
        bounded=(bounded_shares, REST),
    )
    if case in shares:
        how, rest = shares[case]
        return GroupLevels(groups(), how, rest=rest)
    parts = model.network, model.diffusion, model.basis, model.law
    how = dict(groups=model.groups, channel=True)
    if case == "family":
        family = Family(ordered, dict(a=(0.0, 3.0), b=(0.0, 0.9)))
        return schedule_levels(ScoreModel(*parts, family=family, **how))
    at = dict(line=STANDARD, soft=SOFT, columns=COLUMN)[case]
    return schedule_levels(model.with_schedule(schedule(at)))


def build(seed: int) -> ScoreModel:
    "An untrained model."
    basis, _ = scaled()
    diffusion = LinearDiffusion(vp(), schedule(STANDARD))
    law = fit_law(diffusion, basis, images()[:30_000], RANK)
    torch.manual_seed(seed)
    network = UNet(2, 1, width=16, groups=int(groups().max()) + 1)
    return ScoreModel(network, diffusion, basis, law, groups=groups(), channel=True)


def train(case: str, seed: int, out: Path, steps: int):
    "Train a case, and save it."
    model, folder = build(seed), out / f"{case}-{seed}"
    kind, _, errors = case.partition("-")
    objective = Denoising(levels(kind, model), ERRORS[errors or "images"])
    how = dict(steps=steps, batch=BATCH, lr=2e-3, warmup=200, ema=0.998)
    plan = Training(objective=objective, seed=seed, mixed=True, **how)
    resume = (folder / "checkpoint.safetensors").exists()
    files = dict(out=folder, resume=resume, keep=30.0)
    last = fit(model, images(), plan, cpu=True, progress=False, **files)[-1]
    about = dict(case=case, seed=seed, images=last["images"], loss=last["loss"])
    about["seconds"] = last["seconds"]
    model.save_pretrained(folder / "model", about=about)
    print(about, flush=True)


# Measures


@cache
def ruler():
    "Features of images at 16×16, and those of the training images."
    features = feature_extractor("fashion_mnist_14")

    def cut(x: Tensor) -> Tensor:
        return features(x[..., 1:-1, 1:-1])

    return cut, cut(images())


def distance(x: Tensor) -> float:
    "The Fréchet distance from the training images."
    features, real = ruler()
    return frechet_distance(features(x), real).value


@torch.no_grad()
def drawn(model: ScoreModel, n: int, seed: int, sampler, spent: int) -> Tensor:
    "Raw samples of so many evaluations each."
    g = torch.Generator().manual_seed(seed)
    times = fastest(model.diffusion, spent - evaluations(sampler, 0))
    with torch.autocast("cpu", torch.bfloat16):
        return model.sample(n, sampler, times, g).float()


@torch.no_grad()
def bits(model: ScoreModel, n: int) -> float:
    "The variational bound on test images, bits per dimension of 256 grey levels."
    found = []
    for i, x in enumerate(images(False)[:n].split(64)):
        g = torch.Generator().manual_seed(i)
        how = dict(draws=8, t0=0.0, prior=model.law, generator=g)
        found.append(elbo(model, x, **how).value)
    return nats_to_bits(torch.cat(found), SIDE**2).mean().item()


def at_hand(row: dict, measure: str) -> bool:
    "Whether a row is in the table already."
    return bool(recorded(**row, measure=measure))


def measured(model, row: dict, sampler, spent: int):
    "A row with a distance, if there is none."
    name = type(sampler).__name__ if sampler is not default_sampler else "default"
    row = row | dict(sampler=name, grid="fastest", evaluations=spent)
    if not at_hand(row, FRECHET):
        x = drawn(model, row["n"], row["sampling_seed"], sampler, spent)
        record(row, FRECHET, distance(x))


def schedules(case: str, seed: int, model: ScoreModel, n: int, a):
    "Distances and bits under VP on every schedule."
    row = dict(study="levels, schedules", case=case, seed=seed)
    row |= dict(images=model.about["images"])
    for at in a.at or PLACES:
        member = model.with_schedule(schedule(at))
        for spent in a.evaluations or [25]:
            here = row | dict(at=at, n=n, sampling_seed=seed)
            measured(member, here, default_sampler, spent)
        here = row | dict(at=at, n=a.test_images)
        if not a.only and not at_hand(here, BITS):
            record(here, BITS, bits(member, a.test_images))


RECIPES = {"VP": vp, "CLD": cld, "PSLD": psld, "third order": third_order}


def recipes(case: str, seed: int, model: ScoreModel, n: int, a):
    "Distances under four recipes, at equal log-SNR."
    for at in a.at or (STANDARD, SOFT, COLUMN):
        for name, make in RECIPES.items():
            start = hsm(make()) if make().k > 1 else None
            d = LinearDiffusion(make(), schedule(at), Sigma0=start, by_snr=True)
            member = model.with_diffusion(d)
            row = dict(study="levels, recipes", case=f"{case}, {name}", seed=seed)
            row |= dict(images=model.about["images"], at=at)
            for spent in a.evaluations or [25]:
                for sampler in (default_sampler, DEIS(2))[: 2 if spent < 100 else 1]:
                    here = row | dict(n=n, sampling_seed=seed)
                    measured(member, here, sampler, spent)
            here = row | dict(n=a.test_images)
            if not a.only and not at_hand(here, BITS):
                record(here, BITS, bits(member, a.test_images))


# Orders chosen before, or on the way

EVALUATIONS, LOOK = 25, 6
PATCHES = (SIDE // PATCH) ** 2
ROUNDS = [1, 1, 2, 4, 8]


def patch_rounds() -> Tensor:
    "The round of each patch, (16,): those of a round have little in common."
    C = scaled()[0](images()[:30_000]).flatten(1).T.cov().double()
    C = C + math.exp(WINDOW["gamma_min"]) * torch.eye(len(C))
    rounds = independent_rounds(C, patches().flatten(), ROUNDS)
    order = torch.empty(PATCHES)
    for i, some in enumerate(rounds):
        order[some] = i
    return order


def of_groups(order: Tensor) -> Tensor:
    "An order of patches (..., 16) as one of the groups (..., 48)."
    return order.repeat_interleave(LEVELS + 1, -1)


def fixed_orders() -> dict:
    "Orders (48,) and softness b of their windows."
    patch = torch.arange(PATCHES)
    level = torch.arange(LEVELS + 1).repeat(PATCHES)
    g = torch.Generator().manual_seed(0)
    random = torch.randperm(PATCHES, generator=g)
    found = {
        "even": (torch.zeros(level.shape), 0.0),
        "coarse levels first": (level, 0.3),
    }
    for name, order in {
        "columns": patch % (SIDE // PATCH),
        "patches, row by row": patch,
        "patches, random": random,
        "patches, independent rounds": patch_rounds(),
    }.items():
        found[name] = of_groups(order.double()), 0.5
    return found


def first_state(model: ScoreModel, n: int, source: ImageNoise) -> tuple[Tensor, Tensor]:
    "Observations of the law at the first level, and that level of all groups."
    like = torch.zeros(n, *model.basis.shape)
    chi = model.law.sample(source.branch(1)(like))
    level = torch.full((1, 3 * PATCHES), -WINDOW["gamma_max"], dtype=torch.float64)
    return chi + torch.exp(-level[0, 0] / 2).float() * source.branch(2)(like), level


def along(model, y, level, source, levels, **how):
    "The end of a way along fixed levels."
    variance = LawVariance(model.law, model.groups)
    route = Fixed(model.groups, levels, variance)
    with torch.autocast("cpu", torch.bfloat16):
        return denoise_by(
            route, model.denoise, y, level, len(levels) - 1, source, **how
        )


def looked(model, y, level, source, first: str, **how):
    "A part of the way together; then patches in the order of their variances."
    together = window_levels(torch.zeros(1, level.shape[-1]), LOOK, 0.0, -3.0, 0.0)
    y, level = along(model, y, level, source.branch(3), together[:, 0], **how)
    now = level[:, model.groups]
    _, V = posterior_variance(model.denoise, y, now, patches(), source.branch(4))
    steps = EVALUATIONS - 1 - 2 - LOOK
    member = torch.arange(PATCHES).repeat_interleave(LEVELS + 1)
    order = dict(b=0.0 if first == "none" else 0.5, certain=first != "uncertain")
    levels = by_variance(V, level, member, steps, **order)
    return along(model, y, level, source.branch(5), levels, **how)


def gained(
    variance: Tensor,  # (...) V, posterior variance now
    before: Tensor,  # (...) log-SNR now
    after: Tensor,  # (...) log-SNR then, ≥ before
) -> Tensor:  # (...) nats
    "Information ½ log(1 + V ΔSNR) that a component of this variance gains."
    return torch.log1p(variance * (after.exp() - before.exp())) / 2


def raised(
    variance: Tensor,  # (...) V, posterior variance now
    before: Tensor,  # (...) log-SNR now
    nats: Tensor,  # (...) to be gained, ≥ 0
) -> Tensor:  # (...) log-SNR then
    "The inverse of `gained`."
    return (before.exp() + torch.expm1(2 * nats) / variance).log()


def poured(
    total: Tensor,  # (batch,) of all components together
    most: Tensor,  # (batch, n) upper bound for a component of each group
    sizes: Tensor,  # (n,) components in each group
) -> Tensor:  # (batch, n) shares of a component, equal or at their bounds
    "A total shared out equally, no share above its bound."
    low, high = torch.zeros_like(total), most.amax(1)
    for _ in range(50):
        middle = (low + high) / 2
        full = (torch.minimum(middle[:, None], most) * sizes).sum(1) > total
        low, high = torch.where(full, low, middle), torch.where(full, middle, high)
    return torch.minimum(high[:, None], most)


@dataclass(frozen=True, eq=False)
class EqualInformation(Route):
    "Every component gains equal information in a step: certain groups go ahead."

    groups: Tensor  # (*comp) from 0, without gaps
    steps: int  # of the whole way, ≥ 1
    end: float = 9.0  # log-SNR at which a group is finished
    probes: int | None = 1  # for the variances: see `posterior_variance`
    # (y, levels (batch, n)) -> (batch, n) variances; None: those by probes
    variance: Callable | None = None
    stride: float = 4.0  # longest step of a log-SNR, in even steps of what is left

    @property
    def evaluations(self) -> int:
        "Of the denoiser in a step, a backward pass counted as two."
        if self.variance is not None:
            return 1
        return 1 + 2 * (self.groups.numel() if self.probes is None else self.probes)

    def __call__(self, denoiser, y, level, step, source):
        now, end = level[:, self.groups], torch.full_like(level, self.end)
        if self.variance is None:
            how = self.groups, source, self.probes
            chi, V = posterior_variance(denoiser, y, now, *how)
        else:
            chi, V = denoiser(y, now), self.variance(y, level).expand_as(level)
        V, left = V.to(level), self.steps - step
        sizes = torch.bincount(self.groups.flatten()).to(V)
        most = gained(V, level, end)
        share = (most * sizes).sum(1) / left
        following = raised(V, level, poured(share, most, sizes))
        farthest = level + (min(self.stride, left) / left) * (end - level)
        following = torch.minimum(following, farthest) if left > 1 else end
        return chi, torch.minimum(following, end), V


def informed(model, y, level, source, probes: int, **how):
    "Steps of equal information."
    variance = None if probes else LawVariance(model.law, model.groups)
    route = EqualInformation(model.groups, 1, probes=probes, variance=variance)
    steps = (EVALUATIONS - 1) // route.evaluations
    route = EqualInformation(model.groups, steps, probes=probes, variance=variance)
    return denoise_by(route, model.denoise, y, level, steps, source, **how)


def ways() -> dict:
    "Ways to sample, by name: called as (model, y, level, source)."
    found = {}
    for name, (order, b) in fixed_orders().items():
        levels = window_levels(order, EVALUATIONS - 1, b)
        found[name] = partial(along, levels=levels)
    for first in ("certain", "uncertain", "none"):
        name = "even, in two parts" if first == "none" else f"patches, {first} first"
        found[name] = partial(looked, first=first)
    found["equal information, by the law"] = partial(informed, probes=0)
    found["equal information, by the Jacobian"] = partial(informed, probes=1)
    return found


def by_way(model, way, n: int, seed: int, size: int = 250) -> Tensor:
    "Samples of a way."
    source, found = image_noise(torch.Generator().manual_seed(seed)), []
    for i in range(0, n, size):
        own = source.after(i)
        y, level = first_state(model, min(size, n - i), own)
        with torch.no_grad():
            y, level = way(model, y, level, own)
            found.append(model.basis.inv(model.denoise(y, level[:, model.groups])))
    return torch.cat(found)


def orders(case: str, seed: int, model: ScoreModel, n: int, a):
    "Distances of every way to choose the next levels."
    for name, way in ways().items():
        row = dict(study="levels, orders", case=case, seed=seed, at=name, n=n)
        row |= dict(images=model.about["images"], sampling_seed=seed)
        row |= dict(sampler="bridge", evaluations=EVALUATIONS)
        if not at_hand(row, FRECHET):
            record(row, FRECHET, distance(by_way(model, way, n, seed)))


def divergence(model: ScoreModel, levels: Tensor) -> float:
    "KL of Gaussian data observed at the last levels, of samples along levels, in nats."
    C = model.law.covariance_matrix()
    at, one = model.groups.flatten(), torch.eye(len(C), dtype=C.dtype)
    variance, like = LawVariance(model.law, model.groups), torch.zeros(1)
    R = torch.exp(-levels[0])[at]
    S = C + R.diag()
    for i, level in enumerate(levels[1:]):
        less = torch.exp(-level)[at]
        gain = torch.linalg.solve(C + R.diag(), C).T
        V = variance(like, levels[i : i + 1])[0, at]
        move = 1 - less / R
        step = one - move.diag() + move[:, None] * gain
        S, R = step @ S @ step.T + (less * move + move**2 * V).diag(), less
    A = torch.linalg.solve(S, C + R.diag())
    return ((A.diagonal().sum() - len(C) - torch.linalg.slogdet(A)[1]) / 2).item()


def gaussian(case: str, seed: int, model: ScoreModel, n: int, a):
    "The exact divergence of every fixed order, if the data were the model's Gaussian."
    for name, (order, b) in fixed_orders().items():
        for spent in a.evaluations or [9, 25, 97]:
            row = dict(study="levels, Gaussian", at=name, sampler="bridge")
            row |= dict(evaluations=spent)
            if not at_hand(row, "divergence, nats"):
                levels = window_levels(order, spent - 1, b)
                record(row, "divergence, nats", divergence(model, levels))


# Completion


def masks() -> dict:
    "Known pixels (16, 16), by name."
    g = torch.Generator().manual_seed(1)
    some = torch.rand(PATCHES, generator=g).argsort() < PATCHES // 2
    half = torch.arange(SIDE) < SIDE // 2
    block = torch.ones(PATCH, PATCH, dtype=torch.bool)
    random = torch.kron(some.reshape(4, 4).float(), block.float()).bool()
    return {"left half": half.expand(SIDE, -1), "half of the patches": random}


def completions(
    model: ScoreModel, x: Tensor, known: Tensor, seed: int, only: bool
) -> dict:
    "Images completed in two ways; the second has two backward passes a step more."
    inside = known[::PATCH, ::PATCH].flatten()[patches()]
    frozen = model.with_schedule(Frozen(schedule(STANDARD), inside))
    times = fastest(schedule(STANDARD), 23)

    def g():
        return torch.Generator().manual_seed(seed)

    how = dict(sampler=default_sampler, times=times)
    out = {
        "known groups without noise": inpaint_frozen(frozen, x, generator=g(), **how)
    }
    if only:
        return out
    plain, method = model.with_schedule(schedule(STANDARD)), MomentMatching(2)
    given = sample_given(plain, Mask(known), x, method, generator=g(), **how)
    return out | {"moment matching": given}


@torch.no_grad()
def complete(case: str, seed: int, model: ScoreModel, n: int, a):
    "Distances of completed test images, and their error."
    x = images(False)[:n]
    for name, known in masks().items():
        row = dict(study="levels, complete", case=case, seed=seed, n=n)
        row |= dict(images=model.about["images"], sampling_seed=seed)
        if at_hand(row | dict(at=f"{name}; known groups without noise"), "error"):
            continue
        for way, found in completions(model, x, known, seed, a.only).items():
            here = row | dict(at=f"{name}; {way}", evaluations=25, sampler="default")
            record(here, FRECHET, distance(found))
            error = (found - x)[:, :, ~known].square().mean().sqrt().item()
            record(row | dict(at=f"{name}; {way}"), "error", error)


CARD = """# fashion-mnist-16

A denoiser of Fashion-MNIST at 16×16 pixels (a black frame, 2×2 pixels averaged) for \
any combination of noise levels of 48 groups: the three Haar levels of 16 patches of \
4×4 pixels. White prior; a Gaussian law with 48 common factors, and a U-Net of width \
16 ({parameters:,} parameters, half precision).

| | |
|---|---|
| data | the 60,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, \
MIT licence), levels blurred |
| training | {images:,} images in {steps:,} steps of 128, balanced noise levels \
(notebook 12c), seed 0, {seconds:.0f} s of the clock on one processor core |
| measured | {measured} |
| in | `nbs/14d_adaptive.ipynb`, `nbs/33_noise_levels.ipynb` |
| made by | `studies/levels.py train balanced`, `ship balanced` |

Limits: a small network after few images; made for looking at orders of sampling.
"""


def ship(case: str, seed: int, model: ScoreModel, n: int, a):
    "Put a model among the weights of the package, with its card."
    mine = dict(study="levels, schedules", case=case, seed=seed, measure=FRECHET)
    at = {row["at"]: row["value"] for row in recorded(**mine)}
    measured = f"Fréchet distance {at[STANDARD]:.3g} (one schedule for all), "
    measured += f"{at[COLUMN]:.3g} (columns, b = .7); 2000 samples, 25 evaluations"
    folder = WEIGHTS / "fashion-mnist-16"
    about = dict(model.about, levels="any", measured=measured)
    model.save_pretrained(folder, torch.float16, about)
    parameters = sum(p.numel() for p in model.network.parameters())
    text = CARD.format(parameters=parameters, steps=STEPS, **about)
    (folder / "README.md").write_text(text, encoding="utf-8")


MEASURES = dict(
    schedules=schedules,
    recipes=recipes,
    orders=orders,
    gaussian=gaussian,
    complete=complete,
    ship=ship,
)


def main():
    "Train or measure, with one thread."
    p = parser(__doc__)
    p.add_argument("what", choices=["train", *MEASURES])
    p.add_argument("case", choices=CASES, metavar="case", help=", ".join(KINDS))
    p.add_argument("--seed", type=int, default=0, help="of training and sampling")
    p.add_argument("--steps", type=int, default=STEPS, help="of training")
    p.add_argument("--n", type=int, default=2000, help="samples of a distance")
    p.add_argument("--test-images", type=int, default=512, help="for bits")
    p.add_argument("--at", nargs="+", help="schedules, e.g. a=2_b=0; default: all")
    p.add_argument("--evaluations", type=int, nargs="+", help="of a sample; 25")
    p.add_argument("--only", action="store_true", help="no bits, no moment matching")
    p.add_argument("--out", type=Path, default=Path("runs/levels"), help="of models")
    a = p.parse_args()
    a.at = a.at and [at.replace("_", " ") for at in a.at]
    torch.set_num_threads(1)
    if a.what == "train":
        return train(a.case, a.seed, a.out, a.steps)
    model = from_pretrained(a.out / f"{a.case}-{a.seed}" / "model").eval()
    MEASURES[a.what](a.case, a.seed, model, a.n, a)


if __name__ == "__main__":
    main()
