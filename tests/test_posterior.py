"""Conditioning on a linear measurement: exact posteriors, refusals, every argument."""

import math

import pytest
import torch
from fields import Zero, smooth
from torch import nn
from torch.testing import assert_close

from gud_nb.basis import DCT, Pixel, Scaled, Wavelet, column_order
from gud_nb.condition import (
    DPS,
    Blur,
    Components,
    Downsample,
    Given,
    GivenScore,
    LawCovariance,
    Mask,
    Measurement,
    MomentMatching,
    PiGDM,
    Replacement,
    Seen,
    _start,
    complete,
    conjugate_residuals,
    covariance_product,
    deblur,
    gaussian_kernel,
    inpaint,
    linearised,
    sample_given,
    superresolve,
)
from gud_nb.denoiser import (
    Dense,
    Independent,
    Mixture,
    Score,
    gaussian,
)
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DPMSolver
from gud_nb.model import PhaseModel, ScoreModel
from gud_nb.recipe import psld, third_order, vp
from gud_nb.sampler import (
    ImageNoise,
    ddim,
    euler_maruyama,
    even_log_snr,
    exponential_heun,
    marginal_covariance,
    propagate,
    sample,
    uniform,
)
from gud_nb.schedule import LinearGamma, sequential

SHAPE = (1, 4, 4)
LEFT = torch.arange(4).expand(4, 4) < 2
RECIPES = {"VP": vp(), "PSLD": psld(), "third order": third_order()}
BASES = {"pixels": Pixel(SHAPE), "Haar": Wavelet(SHAPE, "haar", 2)}
BASES["scaled"] = Scaled(BASES["Haar"], 0.3, torch.linspace(0.5, 2, 16).reshape(SHAPE))


def matrix(f, shape):
    "The matrix of a linear map of tensors of a shape."
    d = math.prod(shape)
    return f(torch.eye(d).double().reshape(d, *shape)).flatten(1).T


def randn(*shape, seed=0):
    "Standard normal numbers in float64."
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


class Tanh(nn.Module):
    "A network that is neither 0 nor linear, and mixes no images."

    def forward(self, x, level, labels=None):
        return torch.tanh(x.roll(1, -1)) * 0.5 + 0.1


def process(recipe, schedule):
    "A recipe that has the log-SNR of the schedule."
    start = hsm(recipe) if recipe.k > 1 else None
    return LinearDiffusion(recipe, schedule, start, by_snr=recipe.k > 1)


def schedule_of(each, basis):
    "One schedule for all components, or one for each column."
    if each:
        return sequential(column_order(basis), 0.5, -9.0, 12.0)
    return LinearGamma(-9.0, 12.0)


def law_in(basis, data_mean=0.3):
    "The law of components of a smooth field."
    U = matrix(lambda v: basis(v) - basis(0 * v), SHAPE)
    mean = basis(torch.full((1, *SHAPE), data_mean).double())[0]
    C = U @ smooth(4, 4, 1.5, 0.05) @ U.T
    return gaussian(mean, (C + C.T) / 2)


def model_in(basis, recipe=None, each=False, network=None):
    "An exact model of the field in a basis."
    d = process(recipe or vp(), schedule_of(each, basis))
    return ScoreModel(network or Zero(), d, basis, law_in(basis))


def exact_gain(law, h):
    "The gain of the exact posterior mean on what was measured, and its covariance."
    C, H = law.covariance_matrix(), matrix(h.linear, law.shape)
    seen = H @ C @ H.T + h.variance * torch.eye(len(H)).double()
    gain = C @ H.T @ torch.linalg.pinv(seen, hermitian=True, rtol=1e-10)
    rest = C - gain @ H @ C
    return gain, (rest + rest.T) / 2


def posterior(law, h, o):
    "The exact law of components given a measurement."
    gain, rest = exact_gain(law, h)
    more = (gain @ (o - h(law.mean[None])).flatten()).reshape(law.shape)
    return Dense(law.mean + more, rest + 1e-13 * torch.eye(len(rest)).double())


MEASUREMENTS = {
    "mask": Mask(LEFT),
    "noisy mask": Mask(LEFT, 0.1),
    "block means": Downsample(2),
    "noisy block means": Downsample(2, 0.1),
    "blur": Blur(gaussian_kernel(0.5), 0.01),
    "odd blur": Blur(randn(3, 1), 0.01),
    "frequencies": Components(DCT(SHAPE), DCT(SHAPE).frequencies.norm(dim=0) < 0.3),
}


# measurements


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_adjoint(name, basis):
    h = Seen(MEASUREMENTS[name], BASES[basis])
    v, u = randn(3, *SHAPE), h(randn(3, *SHAPE, seed=1))
    assert_close((h.linear(v) * u).sum(), (v * h.adjoint(u)).sum())
    assert_close(h(v) - h(0 * v), h.linear(v))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_project_is_the_nearest_image_that_agrees(name):
    A = MEASUREMENTS[name]
    x = randn(2, *SHAPE)
    o = A(randn(2, *SHAPE, seed=1))
    if A.variance:
        A = type(A)(*(getattr(A, f) for f in list(A.__match_args__)[:-1]), 0.0)
    found = A.project(x, o)
    assert_close(A(found), o, rtol=1e-6, atol=1e-6)
    M = matrix(Seen(A, Pixel(SHAPE)).linear, SHAPE)
    off = (found - x).flatten(1)
    across = off - off @ torch.linalg.pinv(M, rtol=1e-10) @ M
    assert_close(across, torch.zeros_like(across), rtol=0, atol=1e-6)


def test_blur_of_a_constant_and_of_a_point():
    kernel = gaussian_kernel(1.0)
    flat = torch.full((1, 2, 9, 9), 0.7).double()
    assert_close(Blur(kernel)(flat), flat)
    point = torch.zeros(1, 1, 9, 9).double()
    point[0, 0, 4, 4] = 1
    assert_close(Blur(kernel)(point)[0, 0, 1:8, 1:8], kernel)


def test_ones_own_measurement():
    class Sum(Measurement):
        def forward(self, x):
            return x.flatten(1).sum(1, keepdim=True) + 2

    model, o = model_in(BASES["Haar"]), torch.tensor([[5.0]]).double()
    x = sample_given(model, Sum(), o, times=uniform(4), generator=ImageNoise(0))
    assert_close(x.sum() + 2, o.sum())


# the denoiser


@pytest.mark.parametrize("level", [-3.0, 4.0, torch.linspace(-2, 3, 16)])
def test_covariance_product_of_gaussian_data(level):
    law = law_in(BASES["scaled"])
    level = level if isinstance(level, float) else level.reshape(1, *SHAPE).double()
    R = torch.exp(-torch.as_tensor(level).double()).expand(1, *SHAPE).flatten()
    C = law.covariance_matrix()
    want = C - C @ torch.linalg.solve(C + torch.diag(R), C)
    units, y = torch.eye(16).double().reshape(16, *SHAPE), randn(16, *SHAPE)
    with torch.no_grad():
        found = covariance_product(law, y, level, units)
    assert_close(found.flatten(1), want, rtol=1e-8, atol=1e-8)
    assert not found.requires_grad


def test_linearised_gives_labels_to_the_denoiser_and_works_in_inference_mode():
    def denoiser(y, log_snr, labels=None):
        return y * (1 if labels is None else labels[:, None])

    y, labels = randn(2, 3), torch.tensor([2.0, 5.0])
    with torch.inference_mode():
        chi, product = linearised(denoiser, y.clone(), 0.0, labels)
        back = product(torch.ones(2, 3).double())
    assert_close(chi, y * labels[:, None])
    assert_close(back, labels[:, None].double().expand(2, 3))


def test_conjugate_residuals():
    M = randn(6, 6)
    M = (
        M @ M.T + 0.5 * torch.eye(6).double() + 0.1 * randn(6, 6, seed=1)
    )  # not symmetric
    b = torch.cat([randn(3, 6), torch.zeros(1, 6).double()])
    sizes = []
    for n in range(1, 7):
        u = conjugate_residuals(lambda v: v @ M.T, b, n)
        sizes.append((u @ M.T - b).norm().item())
    assert sizes == sorted(sizes, reverse=True)
    assert_close(u @ M.T, b, rtol=1e-8, atol=1e-8)
    alone = conjugate_residuals(lambda v: v @ M.T, b[1:2], 3)
    assert_close(alone, conjugate_residuals(lambda v: v @ M.T, b, 3)[1:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_residuals_of_redundant_rows(dtype):
    "Rows given twice, with other numbers: least squares, however many the steps."
    A = randn(6, 10)
    H = torch.cat([A, A[:4]])
    M = H @ torch.diag(torch.logspace(0, -2, 10).double()) @ H.T
    b = randn(3, 10) @ H.T + torch.tensor([0.0, 1e-3, 1.0]).double()[:, None] * randn(
        3, 10, seed=1
    )
    want = b @ torch.linalg.pinv(M, hermitian=True, rtol=1e-10)
    found = conjugate_residuals(lambda v: v @ M.to(dtype), b.to(dtype), 40)
    off = 1e-4 if dtype == torch.float32 else 1e-10
    assert_close(found.double() @ H, want @ H, rtol=off, atol=off)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_guided_denoiser_is_that_of_the_exact_posterior(name, basis, each):
    law, h = law_in(BASES[basis]), Seen(MEASUREMENTS[name], BASES[basis])
    o = h(law.sample(randn(1, *SHAPE)))
    level = torch.linspace(-3, 2, 16).reshape(1, *SHAPE).double() if each else 1.0
    want = posterior(law, h, o)(randn(2, *SHAPE), level)
    for method in (MomentMatching(40), LawCovariance(law, 40)):
        found = Given(law, h, o, method)(randn(2, *SHAPE), level)
        assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_methods_agree_where_they_must():
    "Uncorrelated data of variance v: all covariances are the same number."
    law = Independent(torch.zeros(SHAPE), torch.full(SHAPE, 2.0))
    h, y = Seen(Mask(LEFT, 0.1), Pixel(SHAPE)), randn(2, *SHAPE)
    o = h(randn(2, *SHAPE, seed=1))
    want = Given(law, h, o, MomentMatching())(y, 0.5)
    for method in (PiGDM(2.0), LawCovariance(law)):
        assert_close(Given(law, h, o, method)(y, 0.5), want)
    h = Seen(Mask(LEFT), Pixel(SHAPE))  # without noise DPS is ΠGDM with v = ∞
    dps, pi = (Given(law, h, o, m)(y, 0.5) for m in (DPS(), PiGDM()))
    assert_close(dps, pi)
    half = Given(law, h, o, DPS(0.5))(y, 0.5)
    assert_close(half - law(y, 0.5), (dps - law(y, 0.5)) / 2)


def test_replacement_by_hand():
    law, h = law_in(BASES["pixels"]), Seen(Mask(LEFT), BASES["pixels"])
    y, n, o = (randn(2, *SHAPE, seed=i) for i in range(3))
    found = Given(law, h, h(o), Replacement(), n)(y, 1.0)
    seen = torch.where(LEFT, o + math.exp(-0.5) * n, y)
    want = torch.where(LEFT, o, law(seen, 1.0))
    assert_close(found, want)


# runs, against the exact posterior of Gaussian data


@pytest.mark.parametrize(
    ("recipe", "basis", "each"),
    [
        ("VP", "pixels", False),
        ("VP", "Haar", True),
        ("PSLD", "pixels", True),
        ("PSLD", "Haar", False),
        ("third order", "pixels", False),
        ("third order", "Haar", True),
    ],
)
def test_a_run_ends_in_the_exact_posterior(recipe, basis, each):
    basis = BASES[basis]
    d = process(RECIPES[recipe], schedule_of(each, basis))
    law, h = law_in(basis), Seen(Mask(LEFT, 0.01), basis)
    o = h(law.sample(randn(1, *SHAPE)))
    exact, given = posterior(law, h, o), Given(law, h, o, LawCovariance(law, 40))
    times = even_log_snr(d.schedule, 30)
    begin, end = (marginal_covariance(d, exact, t) for t in (1.0, float(times[-1])))
    how = dict(shape=SHAPE, joint=True)
    found = propagate(exponential_heun, d, Score(d, given), times, begin, **how)
    assert_close(found, end, rtol=0, atol=0.1 if each else 0.04)
    start = d.kernel(1.0, torch.zeros(1, d.k, *SHAPE).double()).phi * exact.mean[None]
    z = sample(exponential_heun, d, Score(d, given), start, times, final=False)
    y = d.observe(z, float(times[-1])).y[0]
    assert_close(y, exact.mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("name", ["mask", "noisy block means", "frequencies"])
def test_sample_given_has_the_exact_gain(name, jacobian):
    "Under the same noise two answers differ by the gain times what was measured."
    basis = BASES["scaled"]
    model, A = model_in(basis), MEASUREMENTS[name]
    h, o = Seen(A, basis), MEASUREMENTS[name](randn(2, *SHAPE))
    method = MomentMatching(40) if jacobian else LawCovariance(model.law, 40)
    times = even_log_snr(model.diffusion, 12)
    a, b = (
        sample_given(model, A, v[None], method, ddim, times, generator=ImageNoise(3))
        for v in o
    )
    off = exact_gain(model.law, h)[0] @ (o[0] - o[1]).flatten()
    want = basis.inv(off.reshape(1, *SHAPE)) - basis.inv(torch.zeros(1, *SHAPE))
    assert_close(a - b, want.double(), rtol=0, atol=2e-3)


def test_the_start_is_a_draw_given_the_measurement():
    basis = BASES["pixels"]
    d = LinearDiffusion(vp(), LinearGamma(-9.0, -1.0))  # much is seen at t = 1
    model = ScoreModel(Zero(), d, basis, law_in(basis))
    h = Seen(Mask(LEFT, 0.5), basis)
    o = h(model.law.sample(randn(1, *SHAPE))).expand(20_000, *SHAPE)
    z = _start(model, h, o, ImageNoise(0))
    exact = posterior(model.law, h, o[:1])
    y, R = d.observe(z, 1.0).y, math.exp(-1.0)
    assert_close(y.mean(0), exact.mean, rtol=0, atol=0.03)
    assert_close(y.var(0), exact.component_variances + R, rtol=0.05, atol=0)


def test_a_score_is_taken_at_the_state_itself():
    "The part across the observation is held; no change of the mean, no change at all."

    def score(z, t):
        return torch.tanh(z.roll(1, -1))

    def unchanged(denoiser):
        return denoiser

    d = process(psld(), schedule_of(False, BASES["pixels"]))
    z = randn(2, 2, *SHAPE)
    assert_close(GivenScore(d, score, unchanged)(z, 0.5), score(z, 0.5))


def test_early_end_of_a_schedule():
    "The start is drawn given the measurement, as far as a signal is left at t = 1."
    basis = BASES["pixels"]
    d = LinearDiffusion(vp(), LinearGamma(-9.0, 1.0))
    model = ScoreModel(Zero(), d, basis, law_in(basis))
    h = Seen(Mask(LEFT, 0.01), basis)
    o = h(model.law.sample(randn(1, *SHAPE))).expand(3000, *SHAPE)
    how = dict(sampler=DPMSolver(2), times=even_log_snr(d, 12), batch=3000)
    way = LawCovariance(model.law, 40)
    x = sample_given(model, h.measurement, o, way, generator=ImageNoise(0), **how)
    exact = posterior(model.law, h, o[:1])
    error = (x.mean(0) - exact.mean).abs().max()
    assert error < 0.06
    variances = exact.covariance.diagonal().reshape(SHAPE)
    assert_close(x.var(0), variances, rtol=0, atol=0.06)


def test_a_mixture_by_weights():
    "Two lumps that the measurement tells apart in part: better than replacement."
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double()
    law, d = Mixture(means, 0.25), LinearDiffusion(vp(), LinearGamma(-9.0, 12.0))
    h = Seen(Mask(torch.tensor([True, False]), 0.01), Pixel((2,)))
    o, n = torch.tensor([[0.2, 0.0]]).double(), 1000
    log_odds = (means[:, 0] - o[0, 0]).square() / (-2 * 0.26)
    weight = log_odds.softmax(0)[1]
    z, times = randn(n, 1, 2), even_log_snr(d, 30)
    share = {}
    for method in (MomentMatching(), Replacement()):
        score = Score(d, Given(law, h, o, method, randn(n, 2, seed=1)))
        end = score.data(sample(exponential_heun, d, score, z, times), 1e-3)
        share[type(method)] = (end[:, 1] > 0).double().mean()
    found = (share[MomentMatching] - weight).abs()
    assert found < 0.2
    assert found < (share[Replacement] - weight).abs()


# models of all phases


class Exact(PhaseModel):
    "A model of all phases that answers with the exact score of a law."

    law_of_all = law_in(BASES["pixels"])

    def conditional(self, labels=None, guidance=1.0):
        exact = Score(self.diffusion, self.law_of_all)
        return lambda z, t: exact(z, t)


@pytest.mark.parametrize(
    "method", [MomentMatching(40), PiGDM(), DPS(), Replacement()], ids=repr
)
def test_a_score_of_all_phases_is_guided_like_its_denoiser(method):
    basis, recipe = BASES["pixels"], psld()
    d = process(recipe, schedule_of(False, basis))
    phases = Exact(Zero(), d, basis)
    reduced = ScoreModel(Zero(), d, basis, Exact.law_of_all)
    o = Mask(LEFT)(randn(2, *SHAPE))
    times = even_log_snr(d.schedule, 6)
    a, b = (
        sample_given(m, Mask(LEFT), o, method, ddim, times, generator=ImageNoise(1))
        for m in (phases, reduced)
    )
    assert_close(a, b, rtol=0, atol=5e-3)  # the starts differ, at γ = 12


# arguments


SAMPLERS = [ddim, euler_maruyama, exponential_heun, DPMSolver(2)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("each", [False, True])
def test_images_do_not_depend_on_the_batch(sampler, each):
    model = model_in(BASES["Haar"], psld(), each, Tanh())
    x, times = randn(5, *SHAPE), even_log_snr(model.diffusion.schedule, 4)
    how = dict(sampler=sampler, times=times)
    whole = inpaint(model, x, LEFT, generator=ImageNoise(2), **how)
    parts = inpaint(model, x, LEFT, generator=ImageNoise(2), batch=2, **how)
    assert_close(parts, whole)
    later = inpaint(model, x[3:], LEFT, generator=ImageNoise(2, 3), **how)
    assert_close(later, whole[3:])
    assert torch.equal(whole[..., LEFT], x[..., LEFT])
    assert (whole[0] - whole[1])[..., ~LEFT].abs().min() > 0


def test_the_functions_for_users():
    model = model_in(BASES["pixels"], network=Tanh())
    x, how = randn(2, *SHAPE), dict(times=uniform(4), generator=ImageNoise(0))
    small = Downsample(2)(x)
    assert_close(Downsample(2)(superresolve(model, small, **how)), small)
    rough = superresolve(model, small, DPS(0.3), **how)
    assert_close(Downsample(2)(rough), small)  # it agrees by the projection
    kernel = gaussian_kernel(0.5)
    sharp = deblur(model, Blur(kernel)(x), kernel, variance=1e-6, **how)
    assert_close(Blur(kernel)(sharp), Blur(kernel)(x), rtol=0, atol=0.1)
    basis = DCT(SHAPE)
    low = basis.frequencies.norm(dim=0) < 0.3
    found = complete(model, torch.where(low, basis(x), torch.nan), low, basis, **how)
    assert_close(basis(found)[:, low], basis(x)[:, low])
    holes = torch.where(LEFT, x, torch.nan)
    assert torch.equal(
        inpaint(model, holes, LEFT, **how), inpaint(model, x, LEFT, **how)
    )
    assert inpaint(model, x.float(), LEFT, **how).dtype == torch.float32


def test_callback_mode_and_inference_mode():
    model, seen = model_in(BASES["pixels"], network=Tanh()), []
    x, how = randn(3, *SHAPE), dict(times=uniform(3), generator=ImageNoise(0), batch=2)
    model.train()
    with torch.inference_mode():
        inner = x.clone()
        a = inpaint(model, inner, LEFT, callback=lambda *v: seen.append(v[0]), **how)
    assert seen == [0, 1, 2] * 2
    assert model.training
    assert torch.equal(a, inpaint(model, x, LEFT, **how))


X = torch.zeros(2, *SHAPE).double()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: inpaint(m, X, LEFT.float()), "want bools"),
        (lambda m: inpaint(m, X, torch.ones(7, 7) > 0), "want .1, 4, 4. or its last"),
        (lambda m: inpaint(m, X, LEFT & False), "some of them True"),
        (lambda m: inpaint(m, X[..., :2], LEFT), r"want \(2, 1, 4, 4\)"),
        (lambda m: inpaint(m, X, LEFT, variance=-1.0), "want a finite number ≥ 0"),
        (lambda m: inpaint(m, X / 0, LEFT), "not finite"),
        (lambda m: inpaint(m, X, LEFT, method="DPS"), "want a Method"),
        (lambda m: inpaint(m, X, LEFT, batch=0), "want an integer ≥ 1"),
        (lambda m: inpaint(m, X, LEFT, guidance=2.0), "without labels"),
        (lambda m: inpaint(m.law, X, LEFT), "a ScoreModel or PhaseModel"),
        (lambda m: inpaint(m, X.long(), LEFT), "want a floating tensor"),
        (lambda m: sample_given(m, LEFT, X), "want a Measurement"),
        (lambda m: superresolve(m, X[..., :3, :3]), "divided by one number"),
        (lambda m: superresolve(m, X[..., :2]), "divided by one number"),
        (lambda m: deblur(m, X, torch.ones(2, 2)), "two odd sides"),
        (lambda m: complete(m, X, LEFT), "a bool for each of"),
        (lambda m: Downsample(3)(X), "sides that 3 divides"),
        (lambda m: Downsample(0), "want an integer ≥ 1"),
        (lambda m: gaussian_kernel(0.0), "want a number > 0"),
        (lambda m: Components(Pixel(SHAPE), LEFT[None], math.nan), "want a number"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call(model_in(BASES["pixels"]))
    assert "\n" not in str(caught.value)
