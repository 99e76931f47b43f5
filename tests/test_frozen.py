"""Frozen components and inpainting: every kind of schedule, recipe and basis."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from fields import Zero, smooth
from torch import nn
from torch.testing import assert_close

from gud_nb.basis import DCT, Columns, Pixel, column_order
from gud_nb.core import act, describe, rebuild
from gud_nb.denoiser import Independent, LowRank, fit_low_rank, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.frozen import Frozen, extend, frozen_components, inpaint_frozen
from gud_nb.integrators import DPMSolver
from gud_nb.model import PhaseModel, ScoreModel
from gud_nb.recipe import psld, third_order, vp
from gud_nb.sampler import (
    Sampler,
    euler_maruyama,
    even_log_snr,
    exponential_heun,
    marginal_covariance,
    uniform,
)
from gud_nb.saved import from_pretrained
from gud_nb.schedule import (
    Family,
    LinearBeta,
    LinearGamma,
    PerImage,
    Schedule,
    continued,
    sequential,
)
from gud_nb.transition import phi

LEVELS = torch.linspace(-12.0, -6.0, 24).reshape(3, 8)
OWN = LinearGamma(LEVELS, 4.0, clip=(-8.0, 3.0))
ROW = sequential(torch.arange(8.0).expand(3, 8), 0.6)
MIDDLE = torch.zeros(3, 8, dtype=torch.bool)
MIDDLE[:, 3:5] = True
SCHEDULES = {
    "one for all": Frozen(LinearGamma(-9.0, 3.0), MIDDLE),
    "one each": Frozen(OWN, MIDDLE),
    "B(0) = 0": Frozen(LinearBeta(), MIDDLE, 1e-3),
    "later": Frozen(ROW, MIDDLE, 0.2),
}
T = torch.linspace(0, 1, 21).double()


class Tanh(nn.Module):
    "A network that is neither 0 nor linear."

    def forward(self, x, level, labels=None):
        return torch.tanh(x) * 0.7 + 0.3


def model_of(cov, schedule, recipe=None, *, shape=None, basis=None, network=None):
    "A model whose law is Gaussian, of mean 0."
    recipe = recipe or vp()
    start = dict(Sigma0=hsm(recipe)) if recipe.k > 1 else {}
    d = LinearDiffusion(recipe, schedule, **start)
    shape = shape or (len(cov),)
    law = gaussian(torch.zeros(shape), cov)
    return ScoreModel(network or Zero(), d, basis or Pixel(shape), law)


def randn(*shape, seed=0):
    "Standard normal numbers in float64."
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


# Frozen


@pytest.mark.parametrize("name", SCHEDULES)
def test_frozen_components_keep_their_noise(name):
    s = SCHEDULES[name]
    assert torch.equal(frozen_components(s), MIDDLE)
    assert torch.equal(s.B(T)[:, MIDDLE], s.B(0.0)[MIDDLE].expand(21, -1))
    assert torch.equal(s.B(0.7)[MIDDLE], s.inner.B(s.at).expand(3, 8)[MIDDLE])
    assert not s.beta(T)[:, MIDDLE].any()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("f", ["B", "beta", "gamma"])
def test_others_are_as_before(name, f):
    s = SCHEDULES[name]
    inner = getattr(s.inner, f)(T).reshape(21, *(s.inner.shape or (1, 1)))
    inner = inner.expand(-1, 3, 8)
    assert torch.equal(getattr(s, f)(T)[:, ~MIDDLE], inner[:, ~MIDDLE])


@pytest.mark.parametrize("name", SCHEDULES)
def test_frozen_schedule_agrees_with_itself(name):
    s = SCHEDULES[name].check()
    smooth_times = torch.tensor([0.137, 0.731]).double()
    slope = Schedule.beta(s, smooth_times)
    assert_close(s.beta(smooth_times), slope, rtol=1e-9, atol=1e-12)
    assert_close(s.gamma(T[1:]), s.B(T[1:]).expm1().log(), rtol=1e-9, atol=1e-9)
    for f in ("B", "beta", "gamma"):
        assert getattr(s, f)(0.5).shape == (3, 8)
        v = getattr(s, f)(T.to("meta"))
        assert v.is_meta
        assert v.shape == (21, 3, 8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_frozen_schedule_is_saved(name):
    s, saved = SCHEDULES[name], {}
    text = json.dumps(describe(s, saved))
    again = rebuild(json.loads(text), saved)
    assert torch.equal(again.B(T), s.B(T))
    assert again.breakpoints == s.breakpoints


def test_nothing_is_frozen_on_an_ordinary_schedule():
    assert not frozen_components(OWN).any()


@pytest.mark.parametrize(
    ("inner", "known", "says"),
    [
        (LinearBeta(), MIDDLE, "e.g. at=1e-3"),
        (OWN, MIDDLE[0], "want the same"),
        (OWN, torch.ones(3, 8).bool(), "leave some"),
        (OWN, MIDDLE.float(), "one bool"),
        (PerImage((LinearBeta(1.0),), 3), MIDDLE, "want the same"),
    ],
)
def test_frozen_refuses(inner, known, says):
    with pytest.raises(ValueError, match=says):
        Frozen(inner, known)


def test_schedules_of_several_images_are_refused():
    with pytest.raises(ValueError, match="schedules of 2 images"):
        frozen_components(PerImage((OWN,), 2))


# inpaint_frozen, against the exact conditional of Gaussian data

COV = smooth(1, 12)
FIRST = torch.arange(12) < 5
SCATTERED = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1]).bool()
ROW12 = torch.arange(12)
CASES = {
    "VP, continued": (vp(), continued(ROW12, 5, 0.3, -9.0, 12.0)),
    "VP, all at once": (vp(), Frozen(LinearGamma(-9.0, 12.0), SCATTERED)),
    "VP, early end": (vp(), Frozen(LinearGamma(-9.0, 3.0), SCATTERED)),
    "VP, linear beta": (vp(), Frozen(LinearBeta(), SCATTERED, 1e-3)),
    "PSLD, continued": (psld(), continued(ROW12, 5, 0.3, -5.0, 12.0)),
    "PSLD, early end": (psld(), continued(ROW12, 5, 0.3, -5.0, 3.0)),
    "PSLD, all at once": (psld(), Frozen(LinearGamma(-5.0, 9.0), SCATTERED)),
    "third order": (third_order(), Frozen(LinearGamma(-3.0, 9.0), SCATTERED)),
}


def affine(model, sampler, times, **how):
    "`inpaint_frozen` as a map to the unknown: from data, noise known, the prior's."
    comp, k = model.basis.shape, model.diffusion.k
    d, known = math.prod(comp), frozen_components(model.diffusion.schedule).flatten()
    unit = torch.eye(d + 2 * k * d).double()
    x, noise = unit[:, :d].reshape(-1, *comp), unit[:, d:].reshape(-1, 2, k, *comp)
    noise = noise.movedim(1, 0)
    out = inpaint_frozen(model, x, None, sampler, times, noise=noise, **how)
    out = out.flatten(1)[:, ~known].T
    of_known, of_prior = out[:, d:].chunk(2, 1)
    seen = known.repeat(k)
    assert not of_known[:, ~seen].any()  # the other numbers have no influence
    return out[:, :d], of_known[:, seen], of_prior


def exact(model, t):
    "The exact gain on known data, that on its noise, and the answer's covariance."
    d, C, k = model.diffusion, model.law.covariance_matrix(), model.diffusion.k
    known = frozen_components(d.schedule).flatten()
    z, seen = torch.zeros(1, k, *model.law.shape), known.repeat(k)
    first = phi(d.recipe, d.B(t, z))[0, ..., 0]
    W = torch.cat([torch.diag(v) for v in first.T])  # phases outermost
    T = torch.block_diag(*d.frame(t, z).T[0])
    order = torch.arange(len(T)).reshape(-1, k).T.flatten()
    S, cross, T = marginal_covariance(d, model.law, t), C @ W.T, T[order][:, order]
    gain = torch.linalg.solve(S[seen][:, seen], cross[~known][:, seen].T).T
    G = torch.linalg.solve(S, cross[~known].T).T[:, ~seen]
    Ssm = S[seen][:, ~seen]
    rest = S[~seen][:, ~seen] - Ssm.T @ torch.linalg.solve(S[seen][:, seen], Ssm)
    return gain @ W[seen][:, known], gain @ T[seen][:, seen], G @ rest @ G.T


@pytest.mark.parametrize("aimed", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_inpaint_is_the_exact_conditional(name, aimed):
    recipe, schedule = CASES[name]
    model, times = model_of(COV, schedule, recipe), even_log_snr(schedule, 200)
    known = frozen_components(schedule)
    K, N, M = affine(model, exponential_heun, times, aimed=aimed)
    gain, blur, rest = exact(model, float(times[-1]))
    assert not K[:, ~known].any()  # what is unknown has no influence
    assert_close(K[:, known], gain, rtol=0, atol=1e-10)
    assert_close(N, blur, rtol=0, atol=1e-10)
    assert_close(M @ M.T, rest, rtol=0, atol=2e-3)


def test_aiming_takes_the_mean_of_two_mirrored_draws():
    "The noise of the start cancels: for a Gaussian law, aiming changes nothing."
    model = model_of(COV, continued(ROW12, 5, 0.5, -9.0, 3.0))
    x, noise = randn(3, 12), randn(2, 3, 1, 12, seed=1)
    plain = inpaint_frozen(model, x, noise=noise, aimed=False)
    assert_close(inpaint_frozen(model, x, noise=noise), plain, rtol=0, atol=1e-5)


class Keep(Sampler):
    "A sampler that leaves the state at t = 1 as it is, and shows it."

    noises, evaluations, extra, memory, order = 0, 0, 0, 0, 1

    def coefficients(self, grid):
        return (grid.t,)

    def update(self, c, here, there, z, noise, past):
        self.start = z
        return z


@pytest.mark.parametrize("recipe", [vp(), psld()])
def test_aimed_start_by_hand(recipe):
    "φ times the mean of two posterior means, plus the start's own noise."
    model = model_of(COV, continued(ROW12, 5, 0.5, -5.0, 3.0), recipe, network=Tanh())
    d, x, noise = model.diffusion, randn(3, 12), randn(2, 3, recipe.k, 12, seed=1)
    kernel, keep = d.kernel(1.0, noise[0]), Keep()
    seen = act(kernel.T, noise[0]) + kernel.phi * x[:, None]
    up, down = (model.prior_given(v, FIRST, seen) for v in (noise[1], -noise[1]))
    means = [model.denoise(*d.observe(z, 1.0)[:2]) for z in (up, down)]
    assert (means[0] - means[1]).abs().max() > 0.1  # one draw would not do
    moved = (up - down) / 2 + kernel.phi * (sum(means) / 2)[:, None]
    inpaint_frozen(model, x, None, keep, uniform(1), noise=noise)
    assert_close(keep.start, torch.where(FIRST, seen, moved))
    inpaint_frozen(model, x, None, keep, uniform(1), noise=noise, aimed=False)
    assert_close(keep.start, up)


# a schedule that the network was not trained for


class Weighted(Zero):
    "A network with a weight, which training could have changed."

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def line(high: float) -> LinearGamma:
    "A schedule for all components."
    return LinearGamma(-9.0, high)


OF_LINES = Family(line, dict(high=(2.0, 4.0)))
BY_COLUMN = Family(continued, dict(known=(0.0, 12.0)), dict(order=ROW12))


def warns(network, family):
    "What is said when a model with five frozen components is run."
    model = model_of(COV, CASES["VP, continued"][1], network=network)
    model.family = family
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inpaint_frozen(model, randn(2, 12), times=uniform(1))
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("family", [None, OF_LINES])
def test_a_network_of_other_schedules_warns(family):
    (said,) = warns(Weighted(), family)
    assert "use gud_nb.condition.inpaint instead" in said


def test_no_warning_of_a_model_trained_on_any_levels():
    model = from_pretrained("fashion-mnist-16")
    known = torch.zeros(model.basis.shape, dtype=torch.bool)
    known.view(-1)[:8] = True
    held = model.with_schedule(Frozen(LinearGamma(-5.0, 3.0), known))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inpaint_frozen(held, torch.zeros(1, 1, 16, 16), times=uniform(1, 0.5))


def test_no_warning_without_weights_or_with_such_a_family():
    assert not warns(Zero(), None)
    assert not warns(Weighted(), BY_COLUMN)


# inpaint_frozen, its arguments


def test_unknown_data_are_not_used_and_known_data_come_back():
    model = model_of(COV, CASES["VP, continued"][1])
    x, noise = randn(3, 12), randn(2, 3, 1, 12, seed=1)
    found = inpaint_frozen(model, x, noise=noise)
    holes = torch.where(FIRST, x, torch.nan)
    assert torch.equal(inpaint_frozen(model, holes, noise=noise), found)
    assert torch.equal(found[:, FIRST], x[:, FIRST])


def test_inpaint_in_float32():
    model = model_of(COV, CASES["VP, continued"][1])
    x, noise = randn(3, 12), randn(2, 3, 1, 12, seed=1)
    found = inpaint_frozen(model, x.float(), noise=noise.float())
    assert found.dtype == torch.float32
    want = inpaint_frozen(model, x, noise=noise)
    assert_close(found.double(), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2, 12])
def test_images_do_not_mix(batch):
    "Also where the batch is as large as there are phases or components."
    model = model_of(COV, CASES["PSLD, continued"][1], psld(), network=Tanh())
    x, noise = randn(batch, 12), randn(2, batch, 2, 12, seed=1)
    found = inpaint_frozen(model, x, noise=noise)
    for i in range(batch):
        alone = inpaint_frozen(model, x[i : i + 1], noise=noise[:, i : i + 1])
        assert_close(found[i : i + 1], alone)


def test_a_drawn_momentum_has_the_same_law():
    schedule = CASES["PSLD, continued"][1]
    model = model_of(COV, schedule, psld())
    d = replace(model.diffusion, Sigma0=None, aux_cov=hsm(psld()))
    x, noise = randn(3, 12), randn(2, 3, 2, 12, seed=1)
    found = inpaint_frozen(model.with_diffusion(d), x, noise=noise)
    assert_close(found, inpaint_frozen(model, x, noise=noise))


def test_inpaint_draws_with_its_generator():
    model, x = model_of(COV, CASES["VP, continued"][1]), randn(3, 12)
    seeds = (7, 7, 8)
    a, b, c = (
        inpaint_frozen(model, x, generator=torch.Generator().manual_seed(s))
        for s in seeds
    )
    assert torch.equal(a, b)
    assert (a - c)[:, ~FIRST].abs().min() > 0
    assert (a[0] - a[1])[~FIRST].abs().min() > 0


def test_samplers_with_noise():
    model, x = model_of(COV, CASES["VP, continued"][1]), randn(2000, 12)
    x[:] = x[:1]
    how = dict(sampler=euler_maruyama, times=uniform(200))
    found = inpaint_frozen(model, x, generator=torch.Generator().manual_seed(0), **how)
    C = COV[~FIRST][:, FIRST] @ torch.linalg.inv(COV[FIRST][:, FIRST])
    error = found[:, ~FIRST].mean(0) - C @ x[0, FIRST]
    assert error.abs().max() < 0.15


def test_inpaint_leaves_the_mode_of_the_model():
    model = model_of(COV, CASES["VP, continued"][1])
    for training in (True, False):
        model.train(training)
        inpaint_frozen(model, randn(2, 12))
        assert model.training == training

    def fails(i, t, z):
        raise KeyError

    model.train()
    with pytest.raises(KeyError):
        inpaint_frozen(model, randn(2, 12), callback=fails)
    assert model.training


def test_inpaint_with_a_low_rank_law():
    "Common factors: the conditional of the law is right without any network."
    chi = randn(4000, 12) @ torch.linalg.cholesky(smooth(1, 12, 4.0)).T
    fitted = fit_low_rank(chi, 4)
    law = LowRank(torch.zeros(12), fitted.loadings, fitted.rest)
    d = LinearDiffusion(vp(), continued(ROW12, 5, 0.5, -12.0, 3.0))
    model = ScoreModel(Zero(), d, Pixel((12,)), law)
    times = even_log_snr(d.schedule, 100)
    K, N, M = affine(model, DPMSolver(2), times)
    C = law.covariance_matrix()
    gain = torch.linalg.solve(C[FIRST][:, FIRST], C[FIRST][:, ~FIRST]).T
    rest = C[~FIRST][:, ~FIRST] - gain @ C[FIRST][:, ~FIRST]
    assert_close(K[:, FIRST], gain, rtol=0, atol=2e-3)
    assert_close(M @ M.T, rest, rtol=0, atol=5e-3)


def test_inpaint_with_a_model_of_all_phases():
    "The papers' form has no denoiser: the posterior mean comes from its score."

    class Same(nn.Module):
        config = {}

        def forward(self, x, level, labels=None):
            return x

    d = LinearDiffusion(psld(), continued(ROW12, 5, 0.5, -5.0, 3.0), Sigma0=hsm(psld()))
    model = PhaseModel(Same(), d, Pixel((12,)))
    model._run = lambda v, level, labels, mixed: v
    x = randn(3, 12)
    found = inpaint_frozen(model, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found[:, FIRST], x[:, FIRST])
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (dict(known=SCATTERED), "and 4 differ: use gud_nb.condition.inpaint"),
        (dict(known=SCATTERED[:3]), "one bool for each"),
        (dict(known=FIRST.double()), "one bool for each"),
        (dict(noise=torch.zeros(2, 2, 1, 12)), r"want \(2, 3, 1, 12\)"),
        (dict(noise=torch.zeros(3, 1, 12)), r"want \(2, 3, 1, 12\)"),
    ],
)
def test_inpaint_refuses(how, says):
    model = model_of(COV, CASES["VP, continued"][1])
    with pytest.raises(ValueError, match=says):
        inpaint_frozen(model, randn(3, 12), **how)


def test_a_schedule_that_freezes_nothing_is_refused():
    model = model_of(COV, LinearGamma(torch.zeros(12) - 9.0, 3.0))
    with pytest.raises(ValueError, match="freezes no component"):
        inpaint_frozen(model, randn(3, 12))


@pytest.mark.parametrize(
    ("schedule", "at"), [(LinearGamma(-9.0, 3.0), 0.0), (LinearBeta(), 1e-3)]
)
def test_known_components_are_frozen_where_the_schedule_freezes_nothing(schedule, at):
    model, x = model_of(COV, schedule), randn(3, 12)
    frozen = model.with_schedule(Frozen(schedule, FIRST, at))
    how = dict(noise=randn(2, 3, 1, 12, seed=1), times=uniform(3))
    found = inpaint_frozen(model, x, FIRST, **how)
    assert_close(found, inpaint_frozen(frozen, x, **how))
    assert frozen_components(model.diffusion.schedule).sum() == 0  # as it was


# extend

SHAPE = (1, 4, 8)
FIELD = smooth(4, 8)
COLUMNS = column_order(Pixel(SHAPE))


def window(order, **how):
    "An exact model of windows, four columns of which are known."
    schedule = continued(order, 4, 0.6, -9.0, 8.0)
    return model_of(FIELD, schedule, shape=SHAPE, **how)


def test_extend_to_the_left_is_to_the_right_in_a_mirror():
    right, left = window(COLUMNS), window(-COLUMNS)
    x, noise = randn(2, *SHAPE), randn(3, 2, 2, 1, *SHAPE, seed=1)
    how = dict(sampler=DPMSolver(2), times=even_log_snr(right.diffusion.schedule, 20))
    there = extend(right, x, 18, noise=noise, **how)
    back = extend(left, x.flip(-1), 18, noise=noise.flip(-1), **how)
    assert there.shape == (2, 1, 4, 18)
    assert torch.equal(there[..., :8], x)
    assert_close(back.flip(-1), there, rtol=1e-6, atol=1e-6)


def test_extend_in_other_components_of_the_same_columns():
    right, strips = window(COLUMNS), Columns(DCT(SHAPE[:2]), 8)
    U = strips(torch.eye(32).double().reshape(32, *SHAPE)).flatten(1)
    schedule = continued(column_order(strips), 4, 0.6, -9.0, 8.0)
    same = model_of(U.T @ FIELD @ U, schedule, shape=strips.shape, basis=strips)
    x, noise = randn(2, *SHAPE), randn(3, 2, 2, 1, *SHAPE, seed=1)
    turned = strips(noise.flatten(0, 3)).reshape(3, 2, 2, 1, *strips.shape)
    how = dict(times=even_log_snr(right.diffusion.schedule, 20))
    there = extend(right, x, 18, noise=noise, **how)
    found = extend(same, x, 18, noise=turned, **how)
    assert_close(found, there, rtol=1e-6, atol=1e-6)


def test_extend_by_nothing():
    x = randn(2, *SHAPE)
    assert torch.equal(extend(window(COLUMNS), x, 8), x)


@pytest.mark.parametrize("have", [4, 5, 11])
@pytest.mark.parametrize("sign", [1, -1])
def test_extend_starts_with_any_width(have, sign):
    x = randn(2, 1, 4, have)
    found = extend(window(sign * COLUMNS), x, 13)
    kept = found[..., :have] if sign > 0 else found[..., -have:]
    assert found.shape == (2, 1, 4, 13)
    assert torch.equal(kept, x)


@pytest.mark.parametrize(
    ("have", "width", "noise", "says"),
    [
        (3, 18, None, "at least the 4"),
        (8, 7, None, "want more"),
        (8, 18, torch.zeros(1, 2, 2, 1, *SHAPE), "for 1 windows, want 3"),
    ],
)
def test_extend_refuses(have, width, noise, says):
    with pytest.raises(ValueError, match=says):
        extend(window(COLUMNS), randn(2, 1, 4, have), width, noise=noise)


def test_extend_wants_whole_columns():
    schedule = Frozen(LinearGamma(-9.0, 3.0), COLUMNS % 2 == 0)
    with pytest.raises(ValueError, match="whole columns"):
        extend(model_of(FIELD, schedule, shape=SHAPE), randn(2, *SHAPE), 18)


def test_independent_law_conditions_on_nothing():
    "Its unknown components start from their own variances."
    law = Independent(torch.zeros(12), torch.linspace(0.2, 2.0, 12))
    d = LinearDiffusion(vp(), continued(ROW12, 5, 0.5, -9.0, 3.0))
    model = ScoreModel(Zero(), d, Pixel((12,)), law)
    K, N, M = affine(model, exponential_heun, even_log_snr(d.schedule, 400))
    assert not K.any()
    assert not N.any()
    got, want = M.square().sum(1), law.variances[~FIRST]
    assert_close(got, want, rtol=2e-2, atol=0)
