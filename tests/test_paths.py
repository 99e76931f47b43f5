"""Paths that rise: exact rises, orders, printed algorithms, costs, and refusals."""

import pytest
import torch
from fields import U, by_level, cov, side
from torch.testing import assert_close

from gud_nb.adams import sde_dpm_solver, unipc
from gud_nb.denoiser import Independent, Score, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DEIS, DPMSolver, ancestral, predictor_corrector
from gud_nb.paths import Rising, ancestral_path, churn, path_evaluations, restart
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    ddim,
    edm,
    euler_maruyama,
    even_log_snr,
    exponential_heun,
    heun,
    marginal_covariance,
    measure_order,
    propagate,
    quadratic,
    sample,
    sscs,
    uniform,
)
from gud_nb.schedule import LinearBeta, LinearGamma, sequential

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
settings = {
    "pixels, one schedule": (LinearBeta(1.0, 9.0), cov),
    "Haar, a schedule by level": (by_level, U @ cov @ U.T),
}


def normal(*shape, seed=0):
    "Standard normal numbers in double precision."
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def process(recipe, setting):
    "A diffusion, and correlated Gaussian data for it."
    schedule, C = settings[setting]
    r = recipes[recipe]
    law = gaussian(torch.zeros(1, side, side), C)
    return LinearDiffusion(r, schedule, hsm(r)), law


def noise_levels(d, *times):
    "The noise level at each of some times, the mean over components in the log."
    like = torch.zeros(1, d.k, *(d.schedule.shape or (1,)))
    log_snr = d.log_snr(torch.tensor(times), like).flatten(1).mean(1)
    return torch.exp(-log_snr / 2).tolist()


def builders(d, strength=5.0):
    "Functions (n, eps) -> path."
    low, high = noise_levels(d, 0.3, 0.6)
    return {
        "churn": lambda n, eps=0.1: churn(d, uniform(n, eps), strength),
        "restart": lambda n, eps=0.1: restart(d, uniform(n, eps), low, high, 2, n // 2),
        "ancestral": lambda n, eps=0.1: ancestral_path(d, uniform(n, eps)),
    }


# A rise is exact


@pytest.mark.parametrize("setting", settings)
@pytest.mark.parametrize("recipe", recipes)
def test_a_rise_leads_from_one_marginal_to_another(recipe, setting):
    d, law = process(recipe, setting)
    for inner in (ddim, sscs):  # with one draw of noise, and with two
        for s, t in ((0.01, 0.02), (0.1, 0.9), (0.5, 1.0)):
            first, right = (marginal_covariance(d, law, u) for u in (s, t))
            how = dict(shape=tuple(law.shape), joint=True)
            found = propagate(Rising(inner), d, Score(d, law), [s, t], first, **how)
            assert_close(found, right, rtol=1e-12, atol=1e-12)


def test_what_stands_still_does_not_move_in_a_rise():
    d = LinearDiffusion(psld(), sequential(torch.arange(3), 0.8), hsm(psld()))
    score, z = Score(d, Independent(*torch.ones(2, 3))), normal(4, 2, 3)
    low, high = (d.B(t, z)[0] for t in (0.1, 0.3))
    still = low == high
    assert still.any() and not still.all()
    end = sample(Rising(ddim), d, score, z, [0.1, 0.3], final=False)
    assert_close(end[..., still], z[..., still], rtol=1e-12, atol=1e-12)
    assert (end[..., ~still] - z[..., ~still]).abs().min() > 1e-6


def test_sampling_agrees_with_propagation():
    d = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), hsm(psld()))
    score, path = Score(d, Independent(torch.zeros(1), torch.ones(1))), [0.4, 0.2, 0.5]
    z, g = d.prior(normal(20_000, 2, 1)), torch.Generator().manual_seed(1)
    how = dict(generator=g, final=False)
    for inner in (ddim, sscs):
        end = sample(Rising(inner), d, score, z, path, **how)[..., 0]
        exact = propagate(Rising(inner), d, score, path, z[..., 0].T.cov())
        assert_close(end.T.cov(), exact, rtol=0, atol=0.02)


# The order along a path is that of the sampler


stepping = {"DDIM": ddim, "exponential Heun": exponential_heun}
along = [
    (kind, name) for kind in ("churn", "restart", "ancestral") for name in stepping
]
stepping["DPMSolver(2)"] = DPMSolver(2)


@pytest.mark.parametrize("setting", settings)
@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("kind, name", [*along, ("restart", "DPMSolver(2)")])
def test_order(kind, name, recipe, setting):
    (d, law), inner = process(recipe, setting), stepping[name]
    if inner.memory:  # propagated draw by draw: where components are independent
        values = torch.linalg.eigvalsh(settings[setting][1]).clamp(min=0)
        law = Independent(torch.zeros(1, side, side), values.reshape(1, side, side))
    make = builders(d)[kind]
    found = measure_order(Rising(inner), d, law, (40, 80), grid=make)[1]
    print(f"{name:16} {kind:10} {recipe:12} {setting:26} {found:.2f}")
    assert inner.order - 0.35 < found < inner.order + 0.5


def test_the_third_order_survives_a_restart():
    d = LinearDiffusion(vp(), LinearBeta(1.0, 9.0))
    law = Independent(torch.zeros(2), torch.tensor([0.25, 4.0]))
    found = measure_order(Rising(DPMSolver(3)), d, law, grid=builders(d)["restart"])[1]
    assert abs(found - 3) < 0.3


# What a path is


inners = {
    "DDIM": ddim,
    "Euler-Maruyama": euler_maruyama,
    "SSCS": sscs,
    "Heun": heun,
    "exponential Heun": exponential_heun,
    "ancestral": ancestral,
    "DPMSolver(3)": DPMSolver(3),
    "DEIS(2)": DEIS(2),
    "UniPC": unipc(3),
    "SDE 2M": sde_dpm_solver(2),
    "DDIM, corrected": predictor_corrector(ddim),
}


@pytest.mark.parametrize("name", inners)
def test_without_a_rise_it_is_the_plain_sampler(name):
    inner, d = inners[name], LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
    score, times = Score(d, Independent(*torch.ones(2, 3))), edm(d, 7)
    z = normal(2, 2, 3)
    plain = sample(
        inner, d, score, z, times, generator=torch.Generator().manual_seed(2)
    )
    paths = (
        churn(d, times, 0.0),
        churn(d, times, 5.0, low=1e8),
        restart(d, times, 0.1, 0.5, repeats=0),
        ancestral_path(d, times, 0.0),
    )
    for path in paths:
        assert torch.equal(path, times)
        g = torch.Generator().manual_seed(2)
        assert torch.equal(sample(Rising(inner), d, score, z, path, generator=g), plain)


@pytest.mark.parametrize("name", inners)
def test_evaluations(name):
    inner, d = inners[name], LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
    law, calls = Independent(*torch.ones(2, 3)), []

    def counted(y, log_snr):
        calls.append(y)
        return law(y, log_snr)

    times = edm(d, 6)
    low, high = noise_levels(d, 0.2, 0.5)
    for path in (
        churn(d, times, 3.0),
        restart(d, times, low, high, 2, 3),
        ancestral_path(d, times),
    ):
        calls.clear()
        sample(Rising(inner), d, Score(d, counted), normal(2, 2, 3), path)
        want = path_evaluations(inner, path)
        assert len(calls) == want == path_evaluations(Rising(inner), path)


@pytest.mark.parametrize("name", inners)
def test_each_stretch_is_a_run_of_its_own(name):
    "Rise by hand between two plain runs: the same states."
    inner, d = inners[name], LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
    score, times = Score(d, Independent(*torch.ones(2, 3))), uniform(5, 0.1)
    z, path = normal(2, 2, 3), torch.cat([times, times[1:]])
    shape = (2, 2, 3) if inner.noises < 2 else (inner.noises, 2, 2, 3)
    xi = normal(10, *shape)
    found = sample(Rising(inner), d, score, z, path, noise=xi, final=False)
    for part, draws in ((slice(0, 6), xi[:5]), (slice(6, 11), xi[6:])):
        own = dict(noise=draws if inner.noises else None, final=False)
        if part.start:  # from where the first run ended up to where the second begins
            draw = xi[5] if inner.noises < 2 else xi[5, 0]
            z = sample(
                Rising(ddim), d, score, z, path[5:7], noise=draw[None], final=False
            )
        z = sample(inner, d, score, z, path[part], **own)
    assert_close(found, z)


def test_runs_share_nothing():
    d, method = LinearDiffusion(vp(), LinearBeta()), Rising(DPMSolver(2))
    score, z = Score(d, Independent(*torch.ones(2, 3))), normal(2, 1, 3)
    path = restart(d, edm(d, 6), 0.1, 1.0, 2, 3)
    xi = normal(len(path) - 1, 2, 1, 3)
    first = sample(method, d, score, z, path, noise=xi)
    sample(method, d, score, -z, path[:5], noise=xi[:4])
    assert torch.equal(sample(method, d, score, z, path, noise=xi), first)


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("schedule", (LinearBeta(), by_level))
def test_noise_levels_of_the_paths(recipe, schedule):
    d = LinearDiffusion(recipes[recipe], schedule, hsm(recipes[recipe]))
    times = edm(d, 8)
    sigma = torch.tensor(noise_levels(d, *times.tolist()))
    path = churn(d, times, 2.0)
    up = path.diff() > 0
    levels = torch.tensor(noise_levels(d, *path.tolist()))
    assert int(up.sum()) == 7  # not at t = 1
    assert_close(levels[1:][up] / levels[:-1][up], torch.full((7,), 1.25))
    assert path.max() == 1 and path[-1] == times[-1]
    capped = churn(d, times, 1e6)
    levels = torch.tensor(noise_levels(d, *capped.tolist()))
    ratios = (levels[1:] / levels[:-1])[capped.diff() > 0]
    assert ratios.max() < 2**0.5 + 1e-4 and capped.max() == 1
    path = ancestral_path(d, times, 0.7)
    levels = torch.tensor(noise_levels(d, *path.tolist()))
    up = path.diff() > 0
    s, t = sigma[1:], sigma[:-1]
    sigma_up = (levels[1:][up].square() - levels[:-1][up].square()).sqrt()
    want = 0.7 * s * (1 - s**2 / t**2).sqrt()
    assert_close(sigma_up, want[: len(sigma_up)], rtol=1e-3, atol=0)
    assert len(sigma_up) == 7 and path.min() == times[-1]
    low, high = (sigma[6] * 1.001).item(), sigma[3].item()
    path = restart(d, times, low, high, 3, 5)
    assert len(path) == 9 + 3 * 6
    assert_close(path[7:25].reshape(3, 6), path[7:13].expand(3, 6))
    assert_close(path[7], times[3])
    assert torch.equal(path[12], times[6])
    root = torch.tensor(noise_levels(d, *path[7:13].tolist())) ** (1 / 7)
    assert_close(root.diff(n=2), torch.zeros(4), rtol=0, atol=1e-5)


def test_builders_take_paths():
    d = LinearDiffusion(vp(), LinearBeta())
    once = restart(d, edm(d, 30), 0.1, 1.0, 1, 10)
    twice = restart(d, once, 2.0, 20.0, 1, 10)
    assert len(twice) == 31 + 2 * 11
    assert int((twice.diff() > 0).sum()) == 2
    both = churn(d, twice, 1.0)
    law = Independent(torch.zeros(1), torch.ones(1))
    found = propagate(Rising(exponential_heun), d, Score(d, law), both)
    assert_close(found, torch.ones(1, 1).double(), rtol=0.1, atol=0)
    assert (ancestral_path(d, twice).diff() != 0).all()


def test_schedules_that_stand_still():
    columns = sequential(-torch.arange(4.0), 0.8)
    d = LinearDiffusion(vp(), columns)
    law = Independent(torch.zeros(4), torch.full((4,), 0.1))
    times = even_log_snr(columns, 80)
    for path in (
        churn(columns, times, 5.0),
        ancestral_path(columns, times),
        restart(columns, times, *noise_levels(d, 0.4, 0.6), 2, 40),
    ):
        first, right = (marginal_covariance(d, law, t) for t in (1.0, 1e-3))
        method = Rising(exponential_heun)
        found = propagate(method, d, Score(d, law), path, first, shape=(4,))
        assert_close(found, right, rtol=0.1, atol=0)


def test_churn_rises_within_its_range():
    times, schedule = edm(LinearBeta(), 9), LinearBeta()
    sigma = torch.exp(schedule.gamma(times) / 2)[:-1]
    path = churn(schedule, times, 1.0, low=0.1, high=10.0)
    from_there = path[:-1][path.diff() > 0]
    assert_close(from_there, times[:-1][(sigma >= 0.1) & (sigma <= 10)])


def test_an_ancestral_path_has_no_rise_where_the_schedule_stands_still():
    still = LinearGamma(-9.0, 3.0, clip=(-9.0, -2.0))  # γ is -2 down to t = .58
    path = ancestral_path(still, [1.0, 0.9, 0.8, 0.4, 0.2])
    assert_close(path[:3], torch.tensor([1.0, 0.9, 0.8]).double())
    assert int((path.diff() > 0).sum()) == 1


# Pins: printed algorithms


def test_restart_is_the_printed_algorithm():
    "Xu et al. 2023, algorithm 1, with Euler's step in its coordinate z / α."
    d, K, n = LinearDiffusion(vp(), LinearBeta()), 2, 4
    law = Independent(torch.zeros(3), torch.tensor([0.1, 1.0, 9.0]))
    times = quadratic(10)
    sigma = torch.expm1(d.schedule.B(times)).sqrt()
    i, t_max = 6, 2.0
    inner = 2.0 ** (1 / 7) + torch.arange(n + 1) / n * (
        sigma[i] ** (1 / 7) - 2.0 ** (1 / 7)
    )
    inner = inner.double() ** 7
    z, xi = normal(5, 1, 3), normal(K, 5, 1, 3, seed=1)

    def descend(x, levels):
        for t, s in zip(levels, levels[1:]):
            x = x + (s - t) * (x - law(x, -2 * t.log())) / t
        return x

    x = descend(z[:, 0] / torch.exp(-d.schedule.B(times[0]) / 2), sigma[: i + 1])
    for k in range(K):
        x = x + (t_max**2 - sigma[i] ** 2).sqrt() * xi[k, :, 0]
        x = descend(x, inner)
    x = descend(x, sigma[i:])
    path = restart(d, times, sigma[i].item() * (1 + 1e-9), t_max, K, n)
    noise = torch.zeros(len(path) - 1, 5, 1, 3).double()
    noise[path.diff() > 0] = xi
    end = sample(Rising(ddim), d, Score(d, law), z, path, noise=noise, final=False)
    alpha = torch.exp(-d.schedule.B(times[-1]) / 2)
    assert_close(end[:, 0], alpha * x, rtol=1e-5, atol=1e-5)


def test_an_ancestral_path_has_the_law_of_the_ancestral_sampler():
    d, law = LinearDiffusion(vp(), LinearBeta()), Independent(*torch.ones(2, 1))
    times = edm(d, 12)
    path = ancestral_path(d, times)[:-1]
    found = propagate(Rising(ddim), d, Score(d, law), path)
    assert_close(found, propagate(ancestral, d, Score(d, law), times[:-1]))


@pytest.mark.parametrize("v", (0.2, 1.0, 5.0))
def test_a_restart_reduces_an_error_by_the_formula(v):
    d = LinearDiffusion(vp(), LinearBeta())
    law = Independent(torch.zeros(1), torch.tensor([v]))
    path = restart(d, edm(d, 200), 0.1, 2.0, 1, 100)
    at = int((path.diff() > 0).nonzero()[0])
    method, score, errors = Rising(exponential_heun), Score(d, law), []
    right = marginal_covariance(d, law, path[at].item())
    for part in (path[at : at + 102], path[at : at + 2]):
        C = propagate(method, d, score, part, 1.3 * right, shape=(1,))
        right_there = marginal_covariance(d, law, part[-1].item())
        errors.append((C / right_there - 1).item())
    low = noise_levels(d, path[at].item())[0]
    factor = (v + low**2) / (v + 4)
    want = torch.full((2,), 0.3 * factor)
    assert_close(torch.tensor(errors), want, rtol=2e-2, atol=1e-3)


# Refusals, each in one line


d, times = LinearDiffusion(vp(), LinearBeta()), edm(LinearBeta(), 5)
nothing = Score(d, Independent(*torch.ones(2, 3)))
refused = {
    "strength ≥ 0: got -1": lambda: churn(d, times, -1.0),
    "0 ≤ low < high: got low=2": lambda: churn(d, times, 1.0, low=2.0, high=1.0),
    "0 ≤ low < high: got low=-1": lambda: churn(d, times, 1.0, low=-1.0),
    "0 < low < high: got low=2": lambda: restart(d, times, 2.0, 1.0),
    "0 < low < high: got low=0": lambda: restart(d, times, 0.0, 1.0),
    "n ≥ 1, whole: got repeats=1, n=0": lambda: restart(d, times, 0.1, 1.0, n=0),
    "whole: got repeats=1, n=2.5": lambda: restart(d, times, 0.1, 1.0, n=2.5),
    "whole: got repeats=-1": lambda: restart(d, times, 0.1, 1.0, repeats=-1),
    "high=1000000.0, want noise levels": lambda: restart(d, times, 0.1, 1e6),
    "low=1e-06 and high=1": lambda: restart(d, times, 1e-6, 1.0),
    "eta from 0 to 1: got -0.1": lambda: ancestral_path(d, times, -0.1),
    "eta from 0 to 1: got 1.5": lambda: ancestral_path(d, times, 1.5),
    "does not rise by itself": lambda: Rising(Rising(ddim)),
    "got the sampler 'ddim'": lambda: Rising("ddim"),
    "must fall, within": lambda: sample(ddim, d, nothing, normal(2, 1, 3), [0.2, 0.5]),
    "must fall, within (0, 1]": lambda: propagate(ddim, d, nothing, [0.2, 0.5]),
    "fall or rise": lambda: sample(
        Rising(ddim), d, nothing, normal(2, 1, 3), [0.5, 0.5]
    ),
    "fall or rise, within (0, 1]": lambda: churn(d, [0.5, 1.5], 1.0),
    "times=5, want a grid": lambda: ancestral_path(d, 5),
}


@pytest.mark.parametrize("why", refused)
def test_refusals(why):
    with pytest.raises(ValueError) as caught:
        refused[why]()
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
