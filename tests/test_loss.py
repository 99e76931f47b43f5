"""Losses for every recipe, start and schedule: weights, times, trained phases"""

import re

import pytest
import torch
from torch.testing import assert_close

from gud_nb.core import act
from gud_nb.denoiser import Independent, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import (
    active_only,
    eps_from_score,
    eps_weight,
    first_trained,
    likelihood_weight,
    noise_factor,
    score_from_eps,
    score_matching,
    snr_times,
    spread_times,
    whole_score,
)
from gud_nb.recipe import Recipe, cld, psld, third_order, vp
from gud_nb.schedule import (
    LinearBeta,
    LinearGamma,
    PerImage,
    sequential,
    soft_conditioning,
)

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
every_recipe = pytest.mark.parametrize("name", recipes)
starts = pytest.mark.parametrize("start", ["Sigma0", "aux_cov"])
own = LinearGamma(torch.linspace(-5, -3, 3), 2.0)
v = torch.logspace(1, -3, 40).double()
softness = pytest.mark.parametrize("a", [0.0, 1.0, 1.6])
q = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95]).double()


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def soft(a, **how):
    return soft_conditioning(v, a, gamma_denoise=-9.0, **how)


def refused(words: str):
    return pytest.raises(ValueError, match=re.escape(words))


# Weights


@every_recipe
@pytest.mark.parametrize("schedule", [LinearBeta(), own], ids=["one", "own"])
def test_likelihood_weight_is_that_on_the_score(name, schedule, g):
    r, t = recipes[name], torch.tensor([0.2, 0.7])
    d = LinearDiffusion(r, schedule, Sigma0=hsm(r))
    e = torch.randn(2, r.k, 3, generator=g).double()
    ds = score_from_eps(d, e, t)
    on_eps = (e * act(likelihood_weight(d, t, e), e)).sum(1)
    on_score = (ds * torch.einsum("ij,bjc->bic", r.D, ds)).sum(1) * d.beta(t, e)
    assert_close(on_eps, on_score, rtol=1e-9, atol=1e-9)
    assert_close(eps_from_score(d, ds, t), e, rtol=1e-9, atol=1e-9)


@every_recipe
@pytest.mark.parametrize("schedule", [LinearBeta(), own], ids=["one", "own"])
def test_likelihood_weight_is_the_speed_of_the_snr(name, schedule):
    r = recipes[name]
    d = LinearDiffusion(r, schedule, Sigma0=hsm(r))
    z = torch.zeros(1, r.k, 3).double()
    w = d.kernel(0.3, z).w.expand(1, r.k, 3)
    price = (w * act(likelihood_weight(d, 0.3, z), w)).sum(1)
    later, earlier = (d.log_snr(0.3 + h, z).exp() for h in (1e-5, -1e-5))
    speed = ((earlier - later) / 2e-5).expand(1, 3)
    assert_close(price, speed, rtol=1e-6, atol=0)


def test_vp_in_closed_form():
    d, z = LinearDiffusion(vp(), LinearBeta()), torch.zeros(1, 1, 1)
    variance = 1 - torch.exp(-LinearBeta().B(0.3))  # the weight is β/σ²
    found = likelihood_weight(d, 0.3, z).squeeze()
    assert_close(found, LinearBeta().beta(0.3) / variance)
    assert_close(noise_factor(d, 0.3, z).squeeze(), variance.sqrt())
    z = torch.zeros(3, 1, 3)
    assert_close(active_only()(d, 0.3, z), eps_weight(d, 0.3, z))


on_position = Recipe([[1.0, 0.0], [0.0, 0.0]], [[0.0, -1.0], [1.0, 0.0]], torch.eye(2))
phases = {
    "CLD": (cld(), [0.0, 1.0]),
    "third order": (third_order(), [0.0, 0.0, 1.0]),
    "noise on the position alone": (on_position, [1.0, 1.0]),  # needs both
}


@pytest.mark.parametrize("name", phases)
def test_phases_that_are_trained(name):
    r, want = phases[name]
    d, z = LinearDiffusion(r, LinearBeta()), torch.zeros(1, r.k, 1)
    assert eps_weight(d, 0.1, z)[0, ..., 0].diagonal().tolist() == want


@every_recipe
@starts
def test_the_trained_phases_determine_the_others(name, start, g):
    r, t = recipes[name], torch.tensor([0.2, 0.7])
    law = Independent(torch.zeros(3), torch.tensor([0.1, 1.0, 4.0]))
    d = LinearDiffusion(r, LinearBeta(8.0, 8.0), **{start: hsm(r)})
    z = torch.randn(2, r.k, 3, generator=g).double()
    s = Score(d, law)(z, t)
    part = s.clone()
    part[:, : first_trained(r)] = 0
    assert_close(whole_score(d, part, z, t), s)


def test_components_that_stand_still():
    late = LinearDiffusion(vp(), sequential(torch.arange(3), 0.5))
    t, z = torch.tensor([0.1, 0.5, 0.9]), torch.zeros(3, 1, 3)
    want = [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    assert active_only()(late, t, z).squeeze().tolist() == want
    likelihood = likelihood_weight(late, t, z)
    assert_close(active_only(likelihood_weight)(late, t, z), likelihood)


# One step


def test_a_drawn_start(g):
    drawn = LinearDiffusion(psld(), LinearBeta(), aux_cov=hsm(psld()))
    z, x, t = torch.zeros(2, 2, 3), torch.zeros(2, 3), torch.tensor([0.2, 0.7])
    loss = score_matching(drawn, lambda z, t: 0 * z, x, t, z + 1, z[:, 1:])
    assert loss.tolist() == [2.0, 2.0]  # noise of 1 in each of two phases
    with refused("pass aux_noise"):
        score_matching(drawn, lambda z, t: z, x, t, z)
    with refused("want (2, 2, 3)"):
        score_matching(drawn, lambda z, t: z[:, 0], x, t, z, z[:, 1:])


def test_spread_times(g):
    t = spread_times(64, g)
    assert t.shape == (64,) and t.min() >= 1e-5 and t.max() <= 1
    assert t.sort()[0].diff().std() < 1e-12
    mean = torch.stack([spread_times(4, g) for _ in range(4000)]).mean(0)
    assert_close(mean, torch.full((4,), 0.5).double(), rtol=0, atol=0.02)


def test_linear_gamma_makes_the_mse_the_likelihood():
    low = torch.linspace(-12.0, -6.0, 3)
    linear = LinearDiffusion(vp(), LinearGamma(low, 3.0, clip=(-9.0, 2.0)))
    t, z = torch.tensor([0.2, 0.5, 0.9]), torch.zeros(3, 1, 3)
    slope = 3 - linear.schedule.gamma_min
    found = likelihood_weight(linear, t, z).squeeze()
    assert_close(found, slope * active_only()(linear, t, z).squeeze())


# Times by log-SNR


@pytest.mark.parametrize("name", ["VP", "PSLD"])
def test_snr_times_rise_within_their_range(name):
    r = recipes[name]
    d = LinearDiffusion(r, LinearBeta(8.0, 8.0), Sigma0=hsm(r))
    t = snr_times(d)(torch.tensor([0.0, 0.3, 0.7, 1.0]).double())
    assert (t.diff() > 0).all() and t[0] >= 1e-5 and t[-1] <= 1
    with refused("down to 0"):
        snr_times(d, torch.tensor([1.0, 0.0]))
    with refused("share=2.0"):
        snr_times(d, share=2.0)
    with refused("want the same shape"):
        snr_times(d, 1.0, torch.ones(3))


@softness
def test_snr_times_by_picking_components(a, g):
    schedule = soft(a)
    i = torch.multinomial(v, 200_000, replacement=True, generator=g)
    level = torch.rand(200_000, generator=g).double()
    level = -2 * torch.tan(torch.pi / 2 * level).log()
    low, high = schedule.gamma_min[i], schedule.gamma_max[i]
    when = (v[i].log() - level - low) / (high - low)
    when = when[(when > 0) & (when < 1)]
    found = snr_times(LinearDiffusion(vp(), schedule), v)(q)
    assert_close(found, when.quantile(q), rtol=0, atol=6e-3)


@softness
def test_snr_times_do_not_depend_on_scale_or_recipe(a):
    d = LinearDiffusion(vp(), soft(a))
    t = snr_times(d, v)(q)
    white = LinearDiffusion(vp(), soft(a, whitened=True))
    assert_close(snr_times(white, torch.ones(40), v)(q), t, rtol=0, atol=1e-6)
    phase = LinearDiffusion(psld(), soft(a), Sigma0=hsm(psld()), by_snr=True)
    assert_close(snr_times(phase, v)(q), t, rtol=0, atol=1e-6)
    uniform = snr_times(d, v, share=0.0)(q)
    assert_close(uniform, 1e-5 + (1 - 1e-5) * q, rtol=0, atol=1e-9)
    both = d.with_schedule(PerImage((soft(a), soft(1.0)), 5))
    second = snr_times(LinearDiffusion(vp(), soft(1.0)), v)(q[3:])
    assert_close(snr_times(white, v)(q, both), torch.cat([t[:3], second]))


def test_one_schedule_and_the_same_for_each():
    one = LinearDiffusion(vp(), LinearGamma(-9.0, 8.0))
    same = LinearDiffusion(vp(), LinearGamma(torch.full((3,), -9.0), 8.0))
    assert_close(snr_times(same)(q), snr_times(one)(q), rtol=0, atol=2e-4)


# The optimum


@every_recipe
@starts
@pytest.mark.parametrize("weight", [eps_weight, likelihood_weight])
def test_the_loss_is_smallest_at_the_truth(name, start, weight):
    "The exact score of Gaussian data, scaled: a parabola with its minimum at 1."
    r, n, losses = recipes[name], 4000, []
    how = {start: hsm(r)} if r.k > 1 else {}  # VP has nothing to draw
    d = LinearDiffusion(r, LinearBeta(8.0, 8.0), **how)
    s = Score(d, Independent(torch.zeros(4), torch.full((4,), 0.3)))
    for c in (0.9, 1.0, 1.1):
        g = torch.Generator().manual_seed(1)
        chi = 0.3**0.5 * torch.randn(n, 4, generator=g).double()
        noise = torch.randn(n, r.k, 4, generator=g).double()
        aux = torch.randn(n, r.k - 1, 4, generator=g).double()
        t = spread_times(n, g, 1e-2)

        def scaled(z, t):
            return c * eps_from_score(d, s(z, t), t)

        loss = score_matching(d, scaled, chi, t, noise, aux, weight)
        losses.append(loss.mean().item())
    low, middle, high = losses
    best = 1 + 0.05 * (low - high) / (low - 2 * middle + high)
    assert abs(best - 1) < 0.03
