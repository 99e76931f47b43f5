"""Grids tuned for a law: never worse, exact distances, and refusals."""

import math

import pytest
import torch
from torch.testing import assert_close

from gud_nb.adams import ExponentialAdams, sde_dpm_solver, unipc
from gud_nb.denoiser import Independent, LowRank, Mixture, Score, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.grids import (
    best_sampler,
    final_distance,
    final_variances,
    standard_grids,
    tuned_grid,
)
from gud_nb.integrators import DPMSolver, Splitting, gaussian_distance
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    ddim,
    euler_maruyama,
    marginal_covariance,
    quadratic,
    sample,
    sscs,
    uniform,
)
from gud_nb.schedule import Cosine, LinearBeta, LinearGamma

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
place = torch.linspace(0, 1, 5)
schedules = {
    "one": LinearBeta(0.5, 12.0),
    "own": LinearGamma(-9 + 3 * place, 6 + 4 * place),
}
law = Independent(torch.ones(5), torch.logspace(1, -2, 5, dtype=torch.float64))
samplers = {
    "flow": DPMSolver(2),
    "third": DPMSolver(3),
    "noise predicted": ExponentialAdams(3, law=math.inf),
    "corrected": unipc(2),
    "noise": euler_maruyama,
    "two draws": sscs,
    "noise, memory": sde_dpm_solver(2),
}


def process(recipe="VP", schedule="one"):
    "A diffusion of one of the four recipes."
    r = recipes[recipe]
    return LinearDiffusion(r, schedules[schedule], hsm(r))


class Open(type(ddim)):
    "DDIM without an end: the position at the last time is what is handed out."

    def last(self, grid):
        return ()

    def finish(self, c, there, z, past):
        return z


@pytest.mark.parametrize("schedule", schedules)
@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("sampler", ["flow", "two draws"])
def test_never_worse_than_a_standard_grid(recipe, schedule, sampler):
    d, s = process(recipe, schedule), samplers[sampler]
    times = tuned_grid(s, d, law, 4, rounds=2)
    others = standard_grids(d, 4).values()
    best = min(final_distance(s, d, law, t) for t in others)
    assert final_distance(s, d, law, times) < best
    assert times.shape == (5,)
    assert times.dtype == torch.float64
    assert times[0] == 1
    assert times[-1] >= 1e-3 * (1 - 1e-12)
    assert bool((times.diff() < 0).all())


@pytest.mark.parametrize("schedule", schedules)
@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("sampler", samplers)
def test_variances_by_unit_states(recipe, schedule, sampler):
    "Every state and every draw by itself, run forwards by `sample`."
    d, s, times = process(recipe, schedule), samplers[sampler], quadratic(3)
    k, draws = d.k, s.noises
    count = k * (1 + 3 * draws)
    units = torch.eye(count).double()[:, :, None].expand(count, count, 5)
    z = torch.cat([0 * units[:1, :k], units[:, :k]])
    noise = units[:, k:].reshape(count, 3, draws, k, 5)
    noise = torch.cat([0 * noise[:1], noise]).movedim(0, 2)
    noise = (noise[:, 0] if draws == 1 else noise) if draws else None
    x = sample(s, d, Score(d, law), z, times, noise=noise)[:, 0]
    rows = x[1:] - x[0]
    C = marginal_covariance(d, law, 1.0)
    right = torch.einsum("rc,crk,kc->c", rows[:k], C, rows[:k])
    right = right + rows[k:].square().sum(0)
    assert_close(final_variances(s, d, law, times), right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", schedules)
@pytest.mark.parametrize("recipe", ["VP", "PSLD"])
def test_distance_without_an_end_is_that_of_gaussian_distance(recipe, schedule):
    "The prior is so near to the exact law at t = 1 that it makes no difference."
    r, times = recipes[recipe], uniform(6)
    slow = {"one": LinearBeta(20.0, 60.0), "own": LinearGamma(-9 + place, 30 + place)}
    d = LinearDiffusion(r, slow[schedule], hsm(r))
    got = final_distance(Open(), d, law, times)
    right = gaussian_distance(ddim, d, law, times)
    assert abs(got / right - 1) < 1e-5


def test_correlations_count_by_their_axes():
    C = torch.diag(torch.tensor([4.0, 1.0, 0.1])).double()
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=_seed()).double())
    axes, mean = Independent(torch.zeros(3), C.diagonal()), torch.zeros(3)
    right = final_distance(ddim, process(), axes, quadratic(4))
    dense = gaussian(mean, q @ C @ q.T)
    assert final_distance(ddim, process(), dense, quadratic(4)) == pytest.approx(right)
    rest = torch.tensor([4.0, 0.1, 0.1]).double()
    few = gaussian(mean, q @ rest.diag() @ q.T, rank=1)
    right = final_distance(ddim, process(), Independent(mean, rest), quadratic(4))
    assert final_distance(ddim, process(), few, quadratic(4)) == pytest.approx(right)


def test_common_factors_count_by_the_variances_of_components():
    F = torch.randn(5, 2, generator=_seed()).double()
    low = LowRank(torch.zeros(5), F, torch.full((5,), 0.3))
    plain = Independent(torch.zeros(5), low.component_variances)
    for d in (process(), process(schedule="own")):
        got = final_distance(ddim, d, low, quadratic(4))
        assert got == final_distance(ddim, d, plain, quadratic(4))


def _seed():
    return torch.Generator().manual_seed(0)


def test_deterministic():
    both = [tuned_grid(sscs, process("PSLD"), law, 3, rounds=2) for _ in range(2)]
    assert torch.equal(*both)


def test_gradients_switched_off_make_no_difference():
    on = final_variances(sscs, process(), law, quadratic(3))
    with torch.no_grad():
        off = final_variances(sscs, process(), law, quadratic(3))
    assert torch.equal(on, off)
    assert not on.requires_grad


def test_improves_a_given_grid():
    times = uniform(4, 0.05)
    got = tuned_grid(ddim, process(), law, 4, start=times, rounds=2)
    pair = [final_distance(ddim, process(), law, t) for t in (got, times)]
    assert pair[0] < pair[1]


def test_many_variances_are_searched_by_few():
    v = torch.arange(1, 2001).double() ** -1.2
    many = Independent(0 * v, v)
    times = tuned_grid(ddim, process(), many, 4, rounds=3)
    others = standard_grids(process(), 4).values()
    best = min(final_distance(ddim, process(), many, t) for t in others)
    assert final_distance(ddim, process(), many, times) < best


def test_no_variance_is_a_component_like_any_other():
    v = torch.tensor([1.0, 0.0, 0.0]).double()
    times = tuned_grid(ddim, process(), Independent(0 * v, v), 3, rounds=1)
    assert bool(times.isfinite().all())


@pytest.mark.parametrize("n", [1, 2, 12])
def test_any_number_of_steps(n):
    assert len(tuned_grid(ddim, process(), law, n, rounds=1)) == n + 1


def test_a_schedule_with_a_kink():
    "Cosine stands still where B has stopped."
    d = LinearDiffusion(vp(), Cosine())
    assert final_distance(ddim, d, law, tuned_grid(ddim, d, law, 4, rounds=1)) < 1


def test_the_best_of_several():
    d, several = process(), [ddim, DPMSolver(2)]
    winner, times, far = best_sampler(several, d, law, 4, rounds=1)
    assert winner in several
    assert far == final_distance(winner, d, law, times)
    each = [tuned_grid(s, d, law, 4, rounds=1) for s in several]
    assert far == min(final_distance(s, d, law, t) for s, t in zip(several, each))


def test_progress_changes_nothing():
    plain = tuned_grid(ddim, process(), law, 3, rounds=2)
    assert torch.equal(
        tuned_grid(ddim, process(), law, 3, rounds=2, progress=True), plain
    )


points = Mixture(torch.zeros(2, 5), 0.1)
refused = {
    "not Gaussian": (lambda: tuned_grid(ddim, process(), points, 3), "Gaussian law"),
    "no steps": (lambda: tuned_grid(ddim, process(), law, 0), "at least one step"),
    "not whole": (lambda: tuned_grid(ddim, process(), law, 2.5), "at least one step"),
    "eps": (lambda: tuned_grid(ddim, process(), law, 2, 0.0), "in (0, 1)"),
    "not a sampler": (lambda: tuned_grid("ddim", process(), law, 3), "got the sampler"),
    "made for a law": (
        lambda: tuned_grid(ExponentialAdams(2, law=law), process(), law, 3),
        "made for a law",
    ),
    "start": (
        lambda: tuned_grid(ddim, process(), law, 3, start=quadratic(4)),
        "3 steps",
    ),
    "start below 1": (
        lambda: tuned_grid(ddim, process(), law, 3, start=quadratic(4)[1:]),
        "from t = 1",
    ),
    "no search": (lambda: tuned_grid(ddim, process(), law, 3, rounds=0), "one round"),
    "splitting of one phase": (
        lambda: final_distance(Splitting("BA"), process(), law, quadratic(3)),
        "one phase",
    ),
    "nothing": (lambda: best_sampler([], process(), law, 3), "no candidates"),
}


@pytest.mark.parametrize("case", refused)
def test_refusals_are_one_line(case):
    call, why = refused[case]
    with pytest.raises(ValueError) as error:
        call()
    assert why in str(error.value)
    assert "\n" not in str(error.value)
