"""A model with every law, under VP and phase-space processes, one schedule and many.

It is its law before training, shared by threads, differentiable, drawn and saved.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gud_nb.basis import DCT, Pixel, Scaled, Wavelet, column_order
from gud_nb.data import digits
from gud_nb.denoiser import (
    Dense,
    Independent,
    LowRank,
    Mixture,
    Score,
    Spectral,
    clipped,
    noise_variance,
)
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import (
    eps_from_score,
    first_trained,
    score_from_eps,
    whole_score,
)
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import MLP, UNet, bands
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    ImageNoise,
    euler_maruyama,
    exponential_heun,
    quadratic,
    sample,
)
from gud_nb.saved import from_pretrained, shipped
from gud_nb.schedule import (
    Family,
    LinearBeta,
    LinearGamma,
    PerImage,
    sequential,
    soft_conditioning,
)

SHAPE, D = (1, 2, 2), 4  # of the small models
pixel = Pixel(SHAPE)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def awake(network, seed=0):
    "A network whose weights at zero are replaced."
    g = generator(seed)
    for p in network.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.3, generator=g)
    return network


# One law of each class: mean and covariance of four components

mean = randn(*SHAPE, seed=1)
F = randn(D, 2, seed=2)
values = torch.tensor([2.0, 0.7, 0.3, 0.1], dtype=torch.float64)
V = torch.linalg.qr(randn(D, D, seed=3))[0]
LAWS = {
    "Independent": Independent(mean, values.reshape(SHAPE)),
    "Spectral": Spectral(mean, values, V),
    "Spectral, rank 2": Spectral(mean, values[:2], V[:, :2], 0.2),
    "Dense": Dense(mean, F @ F.mT + torch.diag(values)),
    "LowRank": LowRank(mean, F, values.reshape(SHAPE)),
}
RECIPES = {"VP": vp(), "PSLD": psld()}
low = torch.linspace(-6.0, -3.0, D).double().reshape(SHAPE)
SCHEDULES = {"one": LinearBeta(8.0, 8.0), "many": LinearGamma(low, 2.0)}

law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def small(law, recipe, schedule):
    "A model of four components whose network says something."
    torch.manual_seed(0)
    d = LinearDiffusion(recipe, schedule, Sigma0=hsm(recipe))
    network = awake(MLP(SHAPE, width=8, depth=1))
    return ScoreModel(network, d, pixel, law).double().eval()


# The untrained model is its law


PROCESSES = {
    "VP": (vp(), {}),
    "CLD, HSM": (cld(), dict(Sigma0=hsm(cld()))),
    "CLD, DSM": (cld(), dict(aux_cov=hsm(cld()))),
    "PSLD, HSM": (psld(), dict(Sigma0=hsm(psld()))),
    "PSLD, DSM": (psld(), dict(aux_cov=hsm(psld()))),
    "third order, HSM": (third_order(), dict(Sigma0=hsm(third_order()))),
    "third order, DSM": (third_order(), dict(aux_cov=hsm(third_order()))),
}
x = digits().x
BASES = {
    "pixels": Pixel((1, 8, 8)),
    "scaled cosines": Scaled(DCT((1, 8, 8)), x.mean(0), 0.5),
}
low64 = torch.linspace(-6, -3, 64).double().reshape(1, 8, 8)


def noised(d, basis, t):
    "States of digits, and the noise in them."
    chi, k = basis(x[: len(t)].double()), d.recipe.k
    noise = randn(len(t), k, 1, 8, 8, seed=7)
    aux = randn(len(t), k - 1, 1, 8, 8, seed=8)
    return d.perturb(chi, t, noise, None if d.aux_cov is None else d.draw_aux(aux)).z


@pytest.mark.parametrize("schedule", [LinearBeta(8.0, 8.0), LinearGamma(low64, 3.0)])
@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_untrained_model_is_its_law(process, basis, schedule):
    recipe, start = process
    d, t = LinearDiffusion(recipe, schedule, **start), torch.tensor([0.3, 0.6, 1.0])
    z = noised(d, basis, t)
    for rank in (None, 6):
        law = fit_law(d, basis, x, rank)
        model = ScoreModel(UNet(1, width=8, mults=(1, 2)), d, basis, law).double()
        assert_close(model(z, t), Score(d, law)(z, t))
        eps = eps_from_score(d, model(z, t), t)
        assert_close(model.eps(z, t), eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_noise_for_training_is_exact_in_single_precision(process):
    "At the highest signal-to-noise ratios, where y and its posterior mean agree."
    recipe, start = process
    low = torch.linspace(-9, -6, 64).double().reshape(1, 8, 8)
    d, basis = LinearDiffusion(recipe, LinearGamma(low, 3.0), **start), BASES["pixels"]
    t = torch.tensor([1e-3, 0.1, 0.5])
    z, law = noised(d, basis, t), fit_law(d, basis, x)
    model = ScoreModel(UNet(1, width=8, mults=(1, 2)), d, basis, law)
    single, double = model.eps(z.float(), t), model.double().eps(z, t)
    assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


@law
@recipe
@schedule
def test_denoiser_is_the_law_minus_the_scaled_network(law, recipe, schedule):
    "By the formula, from the parts: c from the posterior covariance, dense."
    model = small(law, recipe, schedule)
    y, C = randn(3, *SHAPE), law.covariance_matrix()
    log_snr = model.diffusion.log_snr(0.4, randn(3, recipe.k, *SHAPE))
    R = noise_variance(log_snr, y).expand(1, *SHAPE).flatten()
    posterior = C - C @ torch.linalg.solve(C + torch.diag(R), C)
    c = posterior.diagonal().clamp(min=0)
    if isinstance(law, Spectral) and len(R.unique()) == 1:
        c = c.mean().expand(D)  # one rotation mixes all components
    v = C.diagonal().mean()
    seen = (y.flatten(1) - mean.flatten()) / (R + v).sqrt()
    level = -R.log().mean().expand(3)
    said = model.network(seen.reshape(y.shape), level).flatten(1)
    gain = C @ torch.linalg.inv(C + torch.diag(R))
    want = mean.flatten() + (y.flatten(1) - mean.flatten()) @ gain.mT - c.sqrt() * said
    found = model.denoise(y, log_snr).flatten(1)
    assert_close(found, want, rtol=1e-6, atol=1e-6)
    assert_close(model.denoiser(y, log_snr).flatten(1), found)


# Sharing and differentiating


@law
@recipe
@schedule
def test_four_threads_share_a_model(law, recipe, schedule):
    "The same scores as alone, and as of a second model that shares the law."
    model, other = (
        small(law, recipe, schedule),
        small(law, recipe, LinearBeta(1.0, 9.0)),
    )
    cases = [
        (m, randn(n, recipe.k, *SHAPE, seed=n), torch.linspace(0.1 * n, 0.9, n))
        for n in (1, 2, 3, 4)
        for m in (model, other)
    ]
    alone = [copy.deepcopy(m)(z, t) for m, z, t in cases]

    def work(i):
        scores = [m(z, t) for m, z, t in cases[i:] + cases[:i]]
        return scores[len(cases) - i :] + scores[: len(cases) - i]

    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(work, (0, 2, 4, 6)):
            for s, want in zip(scores, alone):
                assert_close(s, want)


@law
@recipe
@schedule
def test_inference_mode_then_training(law, recipe, schedule):
    "What is made in inference mode with times as tensors does not spoil training."
    model, z = small(law, recipe, schedule), randn(2, recipe.k, *SHAPE)
    with torch.inference_mode():
        inside = model(z, torch.tensor([0.3, 0.6]))
        one = model(z, torch.tensor(0.3))
    s = model(z.requires_grad_(), torch.tensor([0.3, 0.6]))
    s.square().sum().backward()
    assert_close(s.detach(), inside.clone())
    assert_close(s[0].detach(), one[0].clone())
    assert z.grad.isfinite().all()


@law
@recipe
@schedule
def test_second_derivatives_twice_and_a_copy(law, recipe, schedule):
    model, z = small(law, recipe, schedule), randn(recipe.k, *SHAPE)

    def first(z):
        return model(z[None], 0.4)[0].square().sum()

    def score(z):
        return model(z[None], 0.4)[0]

    want = torch.autograd.functional.hessian(first, z)
    for _ in range(2):
        assert_close(torch.func.hessian(first)(z), want)
    jacobian = torch.autograd.functional.jacobian(score, z)
    for _ in range(2):
        assert_close(torch.func.jacrev(score)(z), jacobian)
    copied = copy.deepcopy(model)
    assert_close(copied(z[None], 0.4), model(z[None], 0.4))


# The prior


def affine(f, noise):
    "Mean, and factor of the covariance, of an affine function of standard normals."
    zero = f(torch.zeros_like(noise))
    n = noise.numel()
    units = torch.eye(n, dtype=torch.float64).reshape(n, *noise.shape[1:])
    return zero[0].flatten(), (f(units) - zero).flatten(1).mT


@law
@recipe
@schedule
def test_prior_has_the_law_of_noised_data(law, recipe, schedule):
    model = small(law, recipe, schedule)
    d, noise = model.diffusion, torch.zeros(1, recipe.k, *SHAPE, dtype=torch.float64)
    center, A = affine(model.prior, noise)
    kernel = d.kernel(1.0, noise)
    phi = kernel.phi[0].expand(-1, *SHAPE).flatten(1)  # (k, d)
    T = kernel.T[0].expand(-1, -1, *SHAPE).flatten(2)  # (k, k, d)
    signal = torch.cat([torch.diag(row) for row in phi])  # (k·d, d)
    noisy = torch.cat([torch.cat([torch.diag(v) for v in row], 1) for row in T])
    C = signal @ law.covariance_matrix() @ signal.mT + noisy @ noisy.mT
    assert_close(A @ A.mT, C)
    assert_close(center, signal @ law.mean.flatten())


@law
@recipe
@schedule
def test_prior_given_some_components_is_the_exact_conditional(law, recipe, schedule):
    model = small(law, recipe, schedule)
    known = torch.tensor([True, False, False, True]).reshape(SHAPE)
    seen = randn(1, recipe.k, *SHAPE, seed=5)
    d, noise = model.diffusion, torch.zeros(1, recipe.k, *SHAPE, dtype=torch.float64)

    def observed(noise):
        z = model.prior_given(noise, known, seen.expand(len(noise), *seen.shape[1:]))
        return d.observe(z, 1.0).y[:, ~known]

    center, A = affine(observed, noise)
    y, log_snr, _ = d.observe(seen, 1.0)
    R = noise_variance(log_snr, y).expand(1, *SHAPE).flatten()
    S = law.covariance_matrix() + torch.diag(R)
    k, mu = known.flatten(), law.mean.flatten()
    gain = torch.linalg.solve(S[k][:, k], S[k][:, ~k]).mT
    assert_close(center, mu[~k] + gain @ (y.flatten() - mu)[k])
    assert_close(A @ A.mT, S[~k][:, ~k] - gain @ S[k][:, ~k])


@recipe
def test_states_of_unknown_components_are_not_used(recipe):
    model = small(LAWS["Dense"], recipe, SCHEDULES["many"])
    known = torch.tensor([True, False, False, True]).reshape(SHAPE)
    noise, seen = randn(3, recipe.k, *SHAPE), randn(3, recipe.k, *SHAPE, seed=1)
    other = torch.where(known, seen, float("nan"))
    z = model.prior_given(noise, known, seen)
    assert_close(model.prior_given(noise, known, other), z)
    assert torch.equal(z[:, :, known], seen[:, :, known])
    network = MLP((recipe.k, 2, 2), width=8, depth=1)
    plain = PhaseModel(network, model.diffusion, pixel)
    z = plain.prior_given(noise, known, seen)
    assert_close(z, torch.where(known, seen, plain.diffusion.prior(noise)))


# One denoiser for every recipe and schedule


@law
def test_the_denoiser_takes_no_process(law):
    model = small(law, vp(), SCHEDULES["many"])
    y, level = randn(3, *SHAPE), torch.tensor([-1.0, 0.0, 2.0])
    for d in (
        LinearDiffusion(psld(), SCHEDULES["one"]),
        LinearDiffusion(third_order(), SCHEDULES["many"]),
    ):
        other = model.with_diffusion(d)
        assert torch.equal(other.denoise(y, level), model.denoise(y, level))
        z = randn(3, d.k, *SHAPE)
        y0, log_snr, _ = d.observe(z, 0.3)
        assert_close(other(z, 0.3), d.score(z, 0.3, model.denoise(y0, log_snr)))
    assert model.diffusion.k == 1  # the model itself is as it was
    before, other.network = model.network, MLP(SHAPE, width=8, depth=1)
    assert model.network is before


def test_levels_of_groups_and_a_map():
    "Groups and map by hand, from log-SNRs with the data's variances in them."

    class Spy(nn.Module):
        def __init__(self, **config):
            super().__init__()
            self.config = config

        def forward(self, x, level, labels=None):
            self.x, self.level = x, level
            return torch.zeros_like(x[:, :1])

    groups = bands(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), 2)
    d, law = LinearDiffusion(vp(), SCHEDULES["many"]), LAWS["LowRank"]
    haar = Wavelet(SHAPE, "haar", 1)
    model = ScoreModel(Spy(groups=2), d, haar, law, groups=groups, channel=True)
    z, t = randn(3, 1, *SHAPE), torch.tensor([0.1, 0.5, 0.9])
    model(z, t)
    level = d.log_snr(t, z) + law.component_variances.log()
    want = torch.stack([level[:, groups == i].mean(1) for i in (0, 1)], 1)
    assert_close(model.network.level, want)
    atoms = haar.inv(torch.eye(D).double().reshape(D, *SHAPE)).flatten(1).square()
    shares = (level / 10).flatten(1) @ atoms
    assert_close(model.network.x[:, 1].flatten(1), shares)


def test_a_large_channel_needs_no_dense_matrix():
    "Twenty thousand components: a matrix of them would take 3 GB."
    shape = (1, 144, 144)
    d, ones = LinearDiffusion(vp(), LinearBeta()), torch.ones(shape)

    class First(nn.Module):
        def forward(self, x, level, labels=None):
            return x[:, :1]

    law = Independent(0 * ones, ones)
    model = ScoreModel(First(), d, DCT(shape), law, channel=True)
    level = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64)
    assert_close(model.noise_map(level), torch.full((1, *shape), 0.7).double())
    assert model(torch.zeros(1, 1, *shape), 0.5).shape == (1, 1, *shape)


FAMILY = Family(
    soft_conditioning,
    dict(a=(0.4, 1.6)),
    dict(variances=values.reshape(SHAPE), whitened=True),
)


def test_a_family_and_a_schedule_per_image():
    "Row by row what the images give alone; recipes read by SNR keep their table."
    d = LinearDiffusion(psld(), FAMILY(a=1.0), Sigma0=hsm(psld()), by_snr=True)
    network = awake(MLP(SHAPE, width=8, depth=1))
    law = LAWS["LowRank"]
    model = ScoreModel(network, d, pixel, law, family=FAMILY).double().eval()
    z, t = randn(4, 2, *SHAPE), torch.tensor([0.1, 0.4, 0.7, 1.0])
    each = (0.4, 0.4, 1.6, 1.6)
    both = model.with_schedule(PerImage((FAMILY(a=0.4), FAMILY(a=1.6)), 4))
    rows = [model.at(a=a)(z[i : i + 1], t[i : i + 1]) for i, a in enumerate(each)]
    assert_close(both(z, t), torch.cat(rows))
    assert both.diffusion.schedule.table is d.schedule.table


def test_the_last_step_of_a_schedule_with_noise_is_the_posterior_mean():
    start = soft_conditioning(
        values.reshape(SHAPE), 1.0, gamma_denoise=-2.0, whitened=True
    )
    model = small(LAWS["Independent"], vp(), start)
    states = []

    def keep(i, t, z):
        states.append((t, z))

    how = dict(times=quadratic(3), generator=generator())
    found = model.float().sample(2, callback=keep, **how)
    t, z = states[-1]
    assert_close(found, model.conditional().data(z, t))


# The papers' own form


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_phase_model_is_a_score_function(process, tmp_path):
    recipe, start = process
    k = recipe.k
    d = LinearDiffusion(recipe, LinearBeta(8.0, 8.0), **start)
    net = awake(UNet(k, width=8, mults=(1, 2), embed=16, classes=3))
    model = PhaseModel(net, d, BASES["scaled cosines"]).double().eval()
    z, t = randn(3, k, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0])
    eps = model.eps(z, t)
    assert eps.shape == z.shape
    first = first_trained(recipe)  # what comes before follows from the rest
    assert_close(model(z, t)[:, first:], score_from_eps(d, eps, t)[:, first:])
    assert_close(eps_from_score(d, model(z, t), t)[:, first:], eps[:, first:])
    assert_close(whole_score(d, model(z, t), z, t), model(z, t))
    free, bound = model(z, t), model(z, t, 1)
    guided = model.conditional(1, 2.5)(z, t)
    assert_close(guided, free + 2.5 * (bound - free))
    model.float().save_pretrained(tmp_path)
    same = from_pretrained(tmp_path)
    assert type(same) is PhaseModel
    assert_close(same(z.float(), t), model(z.float(), t))
    assert same.sample(2, times=quadratic(2), labels=0).shape == (2, 1, 8, 8)


def test_phase_model_refuses_other_phases_and_guidance_without_labels():
    d = LinearDiffusion(psld(), LinearBeta())
    model = PhaseModel(MLP((2, 2, 2)), d, pixel)
    with pytest.raises(ValueError, match="guidance=3 without labels"):
        model.sample(1, guidance=3)
    with pytest.raises(ValueError, match="1 phases for a network of all 2"):
        model.with_diffusion(LinearDiffusion(vp(), LinearBeta()))


# Saving, and the models that come with the package


@law
@schedule
def test_saved_and_loaded(law, schedule, tmp_path):
    model = small(law, psld(), schedule).float()
    model.about = dict(seed=3)
    same = from_pretrained(model.save_pretrained(tmp_path))
    z = randn(2, 2, *SHAPE).float()
    assert type(same.law) is type(law)
    assert_close(same(z, 0.3), model(z, 0.3))
    assert same.about == dict(seed=3) and not same.training


def test_a_tilde_in_a_path_expands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = small(LAWS["Independent"], vp(), SCHEDULES["one"])
    model.float().save_pretrained("~/models/one")
    assert (tmp_path / "models" / "one" / "config.json").is_file()
    assert from_pretrained("~/models/one").law.shape == SHAPE


with np.load(Path(__file__).parent / "reference" / "models.npz") as f:
    REFERENCE = {k: torch.as_tensor(f[k]) for k in f}
POINTS = {
    "gud-fashion-mnist": dict(a=1.4),
    "gud-haar-columns": dict(a=2.0, b=0.4),
    "gud-cifar-columns": dict(known=3.0, b=0.5),
}


@pytest.mark.parametrize("name", shipped())
@torch.no_grad()
def test_shipped_models_are_what_was_released(name):
    model = from_pretrained(name).double()
    model = model.at(**POINTS[name]) if name in POINTS else model
    d, shape = model.diffusion, model.basis.shape
    n = int(np.prod(shape))
    noise = torch.sin(1 + torch.arange(2 * d.k * n, dtype=torch.float64) ** 2)
    z = d.prior(noise.reshape(2, d.k, *shape) * 2**0.5)
    labels = torch.tensor([2, 7]) if model.network.config["classes"] else None
    pick = torch.arange(5, n, n // 6)[:6]
    for t in (0.05, 0.5, 1.0):
        s = model(z * (0.3 + 0.7 * t), t, labels).flatten(2)[..., pick]
        assert_close(s, REFERENCE[f"{name}/score/{t:g}"], rtol=1e-5, atol=1e-5)
    score = model.conditional(labels)
    end = sample(exponential_heun, d, score, z, quadratic(6), final=False)
    want = REFERENCE[f"{name}/end"]
    assert_close(end.flatten(2)[..., pick], want, rtol=1e-5, atol=1e-5)


# Refusals, each in one line that names the argument


CASES = {
    "n": (lambda m: m.sample(0), "n=0"),
    "sampler": (lambda m: m.sample(1, sampler="heun"), "got the sampler 'heun'"),
    "times": (lambda m: m.sample(1, times=3), "got times=3"),
    "batch": (lambda m: m.sample(4, batch=0), "got batch=0"),
    "negative": (lambda m: m.sample(4, batch=-1), "got batch=-1"),
    "fraction": (lambda m: m.sample(4, batch=2.0), "got batch=2.0"),
    "label": (lambda m: m.sample(1, labels=11), "got labels 11 to 11, want 0 to 9"),
    "null label": (lambda m: m.sample(1, labels=10), "labels 10 to 10, want 0 to 9"),
    "null in call": (lambda m: m(randn(1, 1, *SHAPE), 0.5, 10), "want 0 to 9"),
    "null in eps": (lambda m: m.eps(randn(1, 1, *SHAPE), 0.5, 10), "want 0 to 9"),
    "bool": (lambda m: m.sample(1, labels=True), "torch.bool, want integers"),
    "word": (lambda m: m.sample(1, labels="7"), "labels of type str, want integers"),
    "guidance": (lambda m: m.sample(1, guidance=3), "guidance=3 without labels"),
    "none": (lambda m: m.conditional(None, 0.0), "guidance=0.0 without labels"),
    "below": (lambda m: m.sample(1, labels=-1), "got labels -1 to -1, want 0 to 9"),
    "labels": (lambda m: m.sample(3, labels=torch.arange(2)), "each of 3 images"),
    "halves": (lambda m: m.sample(1, labels=0.5), "want integers"),
    "call": (lambda m: m(randn(1, 1, *SHAPE), 0.5, 11), "got labels 11 to 11"),
    "guidance nan": (lambda m: m.sample(1, guidance=float("nan")), "guidance=nan"),
    "guidance word": (lambda m: m.conditional(1, "3"), "guidance='3', want a finite"),
    "n is true": (lambda m: m.sample(True), "n=True"),
    "n is a word": (lambda m: m.sample("3"), "n='3'"),
    "batch is true": (lambda m: m.sample(2, batch=True), "batch=True"),
    "seed": (lambda m: m.sample(1, generator=3), "generator=3"),
    "steps": (lambda m: m.eps(STATE, torch.tensor([999])), r"times? in \[0, 1\]"),
    "late": (lambda m: m(STATE, 5.0), r"times? in \[0, 1\]"),
    "phases": (lambda m: m(randn(1, 2, *SHAPE), 0.5), "want \\(batch, 1"),
    "no batch": (lambda m: m.denoise(randn(*SHAPE), 0.0), "observations of shape"),
    "other axes": (lambda m: m.denoise(randn(2, 1, 3, 3), 0.0), r"\(batch, 1, 2, 2\)"),
    "other state": (
        lambda m: m.eps(randn(2, 1, 1, 3, 3), 0.5),
        "observations of shape",
    ),
    "a list": (lambda m: m.denoise([1.0], 0.0), "observations of shape"),
    "known": (
        lambda m: m.prior_given(STATE, torch.ones(3) > 0, STATE),
        "want one bool",
    ),
    "floats": (
        lambda m: m.prior_given(STATE, torch.ones(SHAPE), STATE),
        "want one bool",
    ),
    "seen": (
        lambda m: m.prior_given(STATE, torch.ones(SHAPE) > 0, None),
        "got seen of shape",
    ),
    "schedule": (lambda m: m.with_schedule("cosine"), "schedule"),
    "diffusion": (lambda m: m.with_diffusion(None), "diffusion of type NoneType"),
    "denoise": (
        lambda m: m.denoise(randn(2, *SHAPE), torch.zeros(3)),
        "log_snr of shape",
    ),
}
STATE = randn(1, 1, *SHAPE)


@pytest.mark.parametrize("call, message", CASES.values(), ids=CASES)
def test_refused_in_one_line(call, message):
    d = LinearDiffusion(vp(), SCHEDULES["one"])
    network = MLP(SHAPE, width=8, depth=1, classes=10)
    model = ScoreModel(network, d, pixel, LAWS["Independent"]).double()
    with pytest.raises(ValueError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_refused_at_construction():
    d, law = LinearDiffusion(vp(), SCHEDULES["one"]), LAWS["Independent"]
    net = MLP(SHAPE, width=8, depth=1)
    five = LinearDiffusion(vp(), LinearGamma(torch.zeros(1, 5, 5) - 9, 3.0))
    mixture = Mixture(randn(2, *SHAPE), 0.1)
    groups = torch.tensor([[[0, 1], [2, 2]]])
    three = MLP(SHAPE, width=8, depth=1, groups=3)
    for message, how in {
        "law of components|components \\(1, 2, 2\\), the basis": dict(
            basis=Pixel((4,))
        ),
        "make the schedule in this basis": dict(diffusion=five),
        "want a Gaussian one": dict(law=mixture),
        "want a Gaussian one,": dict(law=None),
        "give both the same": dict(groups=groups),
        "without members": dict(network=three, groups=2 * (groups > 1)),
        "a whole number": dict(network=three, groups=groups.flatten()),
        "a whole number from 0": dict(network=three, groups=groups.double()),
        "a group of number -1": dict(network=three, groups=groups - 1),
        "inputs \\(3, 8, 8\\), it will": dict(network=UNet(3), basis=Pixel((1, 8, 8))),
        "it will be given \\(2, 2, 2\\)": dict(channel=True),
        "channel of type int, want bool": dict(channel=1),
        "network of type NoneType": dict(network=None),
        "diffusion of type LinearBeta": dict(diffusion=LinearBeta()),
        "basis of type tuple": dict(basis=(1, 2, 2)),
        "family of type str": dict(family="soft"),
    }.items():
        given = dict(network=net, diffusion=d, basis=pixel, law=law) | how
        with pytest.raises(ValueError, match=message):
            ScoreModel(**given)


def test_one_label_for_all_is_that_label_for_each():
    d = LinearDiffusion(vp(), SCHEDULES["one"])
    network = awake(MLP(SHAPE, width=8, depth=1, classes=10))
    model = ScoreModel(network, d, pixel, LAWS["Independent"]).eval()
    how = dict(times=quadratic(3), guidance=2.0, batch=2)
    one = model.sample(3, labels=7, generator=generator(), **how)
    each = torch.full((3,), 7)
    assert torch.equal(one, model.sample(3, labels=each, generator=generator(), **how))
    other = model.sample(3, labels=2, generator=generator(), **how)
    assert (one - other).norm() > 1e-3


@pytest.mark.parametrize("sampler", [exponential_heun, euler_maruyama])
def test_samples_do_not_depend_on_their_number_or_the_batch(sampler):
    "Each image has the noise of its index, also that of the steps."
    model = small(LAWS["LowRank"], psld(), SCHEDULES["many"]).float()

    def draw(n, batch, source=None):
        source = generator() if source is None else source
        return model.sample(n, sampler, quadratic(4), source, batch=batch)

    whole = draw(9, 9)
    for n, batch in ((9, 2), (9, 1), (4, 3)):
        assert_close(draw(n, batch), whole[:n])
    noise = ImageNoise(5)
    assert_close(draw(3, 2, noise.after(4)), draw(7, 7, noise)[4:])
    assert (whole - draw(9, 9, noise)).norm() > 0.1


def test_a_law_wants_its_own_kinds():
    d, data = LinearDiffusion(vp(), SCHEDULES["one"]), randn(9, *SHAPE)
    for message, given in {
        "diffusion of type NoneType": (None, pixel, data),
        "basis of type NoneType": (d, None, data),
        "or None: got True": (d, pixel, data, True),
        "or None: got 2.0": (d, pixel, data, 2.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            fit_law(*given)


def test_sampling_leaves_the_mode_as_it_was():
    model = small(LAWS["Independent"], vp(), SCHEDULES["one"]).train()
    with pytest.raises(ValueError):
        model.sample(1, sampler="heun")
    assert model.training
    model.float().sample(1, times=quadratic(2))
    assert model.training


def test_a_wrapped_denoiser_drives_the_samplers():
    "clipped(model.denoise) is a denoiser like any other."
    model = small(LAWS["Independent"], psld(), SCHEDULES["one"])
    score = Score(model.diffusion, clipped(model.denoise, -0.1, 0.1))
    z = sample(
        exponential_heun, model.diffusion, score, randn(5, 2, *SHAPE), quadratic(6)
    )
    assert z[:, 0].abs().max() < 0.3
    assert z.isfinite().all()


def test_default_dtype_float64():
    "Everything is made and sampled in double precision."
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        d = LinearDiffusion(vp(), sequential(column_order(pixel), 0.5))
        law = Independent(torch.zeros(SHAPE), torch.ones(SHAPE))
        model = ScoreModel(awake(MLP(SHAPE, width=8, depth=1)), d, pixel, law)
        y = model.sample(2, times=quadratic(2), generator=generator())
        assert y.dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


class Odd(nn.Module):
    "A network that returns something of its own making."

    def __init__(self, change):
        super().__init__()
        self.change, self.config = change, {}

    def forward(self, x, level, labels=None):
        return self.change(x)


ODD = {
    "a tuple": (lambda x: (x,), r"returned a tuple, want a tensor \(3, 1, 2, 2\)"),
    "an image less": (lambda x: x[1:], r"returned \(2, 1, 2, 2\), want \(3, 1, 2, 2\)"),
    "two channels": (lambda x: torch.cat([x, x], 1), r"returned \(3, 2, 2, 2\), want"),
    "no channels": (lambda x: x[:, 0], r"returned \(3, 2, 2\), want \(3, 1, 2, 2\)"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_a_network_returns(kind):
    change, said = ODD[kind]
    law, d = Independent(torch.zeros(SHAPE), torch.ones(SHAPE)), (vp(), LinearBeta())
    model = ScoreModel(Odd(change), LinearDiffusion(*d), pixel, law)
    with pytest.raises(ValueError, match=said):
        model.sample(3, times=quadratic(2))


def test_what_a_network_of_all_phases_returns():
    d = LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
    model = PhaseModel(Odd(lambda x: x[:, :1]), d, pixel)
    with pytest.raises(ValueError, match=r"returned \(3, 1, 2, 2\), want \(3, 2, 2, 2"):
        model.sample(3, times=quadratic(2))
