"""Noise levels of groups (notebook 12c) and orders of sampling (notebook 14d)."""

import math
from itertools import permutations

import pytest
import torch
from torch.testing import assert_close

from gud_nb.adaptive import (
    Fixed,
    LawVariance,
    bridge,
    by_variance,
    denoise_by,
    independent_rounds,
    posterior_variance,
    rounds_cost,
    window_levels,
)
from gud_nb.basis import Pixel
from gud_nb.denoiser import Dense, Independent, Mixture
from gud_nb.diffusion import LinearDiffusion
from gud_nb.levels import (
    GroupLevels,
    balanced_shares,
    independent_shares,
    shared_shares,
    tilt,
    tilted,
)
from gud_nb.model import ScoreModel, group_means
from gud_nb.network import MLP
from gud_nb.objective import Denoising, Draws, cosine_level, cosine_levels
from gud_nb.recipe import vp
from gud_nb.sampler import image_noise
from gud_nb.schedule import LinearGamma, sequential
from gud_nb.train import Training, fit

WAYS = [shared_shares, independent_shares, balanced_shares]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Levels


@pytest.mark.parametrize("mean", [0.001, 0.02, 0.4999, 0.5, 0.7, 0.999])
def test_tilt_is_the_density_of_that_mean(mean):
    theta = tilt(torch.tensor(mean, dtype=torch.float64))
    u = (torch.arange(20_000).double() + 0.5) / 20_000  # midpoints of quantiles
    assert_close(tilted(u[None], theta[None]).mean().item(), mean, rtol=2e-3, atol=1e-6)
    mirrored = tilt(torch.tensor(1 - mean, dtype=torch.float64))
    assert_close(mirrored, -theta, rtol=1e-6, atol=1e-6)


def test_quantiles_invert_the_distribution_function():
    theta = torch.tensor([-30.0, -1.0, 2.0, 50.0]).double()
    u = torch.linspace(0.01, 0.99, 99).double().expand(4, -1)
    x = tilted(u, theta)
    back = torch.expm1(theta[:, None] * x) / torch.expm1(theta[:, None])
    assert_close(back, u)


@pytest.mark.parametrize("way", WAYS)
def test_shares_are_in_the_unit_interval_and_do_not_depend_on_the_split(way):
    whole = way(Draws(64, seeded()), 5)
    assert whole.shape == (64, 5)
    assert bool(((whole > 0) & (whole < 1)).all())


def test_the_mean_of_balanced_shares_is_even():
    share = balanced_shares(Draws(4000, seeded()), 60).mean(1).sort().values
    even = (torch.arange(4000).double() + 0.5) / 4000
    assert (share - even).abs().max() < 0.06


def test_a_spread_of_zero_is_one_share_for_all():
    share = balanced_shares(Draws(9, seeded()), 4, spread=0.0)
    assert_close(share, share[:, :1].expand(-1, 4))


@pytest.mark.parametrize("way", WAYS)
def test_groups_move_together_and_rest_without_weight(way):
    groups = torch.tensor([[0, 0, 1], [2, 2, 1]])
    level, active = GroupLevels(groups, way, rest=0.3)(Draws(200, seeded()))
    assert level.shape == active.shape == (200, 2, 3)
    assert_close(level[:, 0, 0], level[:, 0, 1])
    assert_close(level[:, 1, 2], level[:, 0, 2])
    end = (level == -3) | (level == 9)
    assert bool((end == (active == 0)).all()) and end.any()


def test_cosine_level_is_that_of_training():
    share = torch.tensor([0.25, 0.5]).double()
    want = torch.tensor([-2 * math.log(math.tan(math.pi / 8)), 0.0]).double()
    assert_close(cosine_level(share), want)


def test_one_share_for_all_is_the_usual_training():
    level = cosine_level(shared_shares(Draws(64, seeded()), 1))[:, 0]
    assert_close(level, cosine_levels(Draws(64, seeded())))


def test_levels_refuse_what_they_cannot_be():
    groups = torch.zeros(2)
    with pytest.raises(ValueError, match="lowest, highest"):
        GroupLevels(groups, shared_shares, bounds=(3.0, -3.0))
    with pytest.raises(ValueError, match="share ≥ 0"):
        GroupLevels(groups, shared_shares, rest=-0.1)


def test_a_model_trains_on_levels_of_groups_and_goes_on(tmp_path):
    groups = torch.tensor([[[0, 0], [1, 1]]])
    x = torch.randn(40, 1, 2, 2, generator=seeded())
    ends = (torch.full((1, 2, 2), v).double() for v in (-9.0, 3.0))
    d, pixel = LinearDiffusion(vp(), LinearGamma(*ends)), Pixel((1, 2, 2))
    law = Independent(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))

    def made():
        torch.manual_seed(0)
        return ScoreModel(
            MLP((1, 2, 2), width=16, groups=2), d, pixel, law, groups=groups
        )

    objective = Denoising(GroupLevels(groups, balanced_shares, rest=0.1))
    how = dict(batch=8, objective=objective)
    once, again, other = made(), made(), made()
    plan = Training(steps=6, **how)
    fit(once, x, plan, cpu=True, progress=False)
    out = dict(out=tmp_path / "run", cpu=True, progress=False)
    fit(again, x, plan, **out)
    for a, b in zip(once.parameters(), again.parameters()):
        assert_close(a, b, rtol=0, atol=0)
    log = fit(again, x, Training(steps=9, **how), resume=True, **out)
    assert log[-1]["step"] == 9
    levels = Denoising(GroupLevels(groups, independent_shares, rest=0.1))
    unlike = Training(steps=12, batch=8, objective=levels)
    with pytest.raises(ValueError):  # a run keeps its levels
        fit(other, x, unlike, resume=True, **out)


# Orders


def chain(n, rho=0.9):
    place = torch.arange(n)
    return rho ** (place[:, None] - place).abs().double(), place


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
def test_the_greedy_rule_finds_the_best_order_of_eight(rho):
    C, place = chain(8, rho)
    costs = []
    for first in permutations(range(8), 4):
        rest = [i for i in range(8) if i not in first]
        rounds = [[first[0]], [first[1]], list(first[2:]), rest]
        costs.append(rounds_cost(C, rounds, place))
    found = independent_rounds(C, place, [1, 1, 2, 4])
    assert_close(rounds_cost(C, found, place), min(costs), rtol=0, atol=1e-9)


def test_one_group_after_another_costs_nothing_and_all_at_once_everything():
    C, place = chain(5)
    assert rounds_cost(C, [[i] for i in (3, 1, 4, 0, 2)], place) == 0
    total = (C.diagonal().log().sum() - torch.linalg.slogdet(C)[1]) / 2
    assert_close(rounds_cost(C, [list(range(5))], place), total.item())


def test_what_groups_have_in_common_does_not_count_within_a_group():
    C, place = chain(6)
    pairs = place // 2
    assert rounds_cost(C, [[0], [1], [2]], pairs) == 0
    one = rounds_cost(C, [[0, 1, 2]], pairs)
    assert 0 < one < rounds_cost(C, [list(range(6))], place)


def test_rounds_must_hold_all_groups():
    with pytest.raises(ValueError, match="want 4 groups"):
        independent_rounds(chain(4)[0], torch.arange(4), [1, 2])


def test_posterior_variance_by_the_jacobian_of_a_mixture():
    law = Mixture(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), 0.3)
    y, level = torch.tensor([[0.3, -0.2]]).double(), torch.tensor([[0.5, 1.5]]).double()
    groups = torch.arange(2)
    chi, V = posterior_variance(law, y, level, groups, image_noise(seeded()), None)
    # by sums over a grid of the data
    a = torch.linspace(-6, 6, 1201).double()
    grid = torch.stack(torch.meshgrid(a, a, indexing="ij"), -1).reshape(-1, 2)
    parts = -(grid[:, None] - law.means).square().sum(-1) / 0.6
    like = -(level.exp() * (grid - y).square()).sum(-1) / 2
    p = torch.softmax(torch.logsumexp(parts, 1) + like, 0)[:, None]
    mean = (p * grid).sum(0)
    assert_close(chi[0], mean, rtol=1e-6, atol=1e-8)
    assert_close(V[0], (p * (grid - mean) ** 2).sum(0), rtol=1e-6, atol=1e-8)


def test_a_step_of_one_gaussian_component_is_exact():
    v, R, less = (torch.tensor([[x]]).double() for x in (1.7, 5.0, 0.2))
    gain, V = v / (v + R), v * R / (v + R)
    # y' = (1 - move + move gain) y + noise, for y of variance v + R
    y, noise = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    by_y = bridge(y, gain * y, R, less, V, 0 * noise)
    by_noise = bridge(0 * y, 0 * y, R, less, V, noise)
    assert_close(by_y**2 * (v + R) + by_noise**2, v + less)


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9])
def test_windows_begin_and_end_with_all_groups(b):
    order = torch.tensor([2.0, 0.0, 1.0])
    levels = window_levels(order, 10, b, -2.0, 5.0)
    assert levels.shape == (11, 3)
    assert_close(levels[0], torch.full((3,), -2.0).double())
    assert_close(levels[-1], torch.full((3,), 5.0).double())
    assert bool((levels.diff(dim=0) >= 0).all())
    assert bool((levels[5, 1] >= levels[5, 2]) & (levels[5, 2] >= levels[5, 0]))


@pytest.mark.parametrize("b", [0.0, 0.3, 0.8])
def test_windows_are_those_of_sequential_backwards(b):
    order = torch.tensor([2.0, 0.0, 1.0, 2.0])
    schedule = sequential(order, b, gamma_min=-9.0, gamma_max=3.0)
    t = torch.linspace(1, 0, 13, dtype=torch.float64)
    assert_close(window_levels(order, 12, b), -schedule.gamma(t))


def test_an_order_by_variance_is_each_images_own():
    V = torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    level, member = torch.zeros(1, 4).double(), torch.tensor([0, 0, 1, 1])
    levels = by_variance(V, level, member, 4, b=0.5)
    assert levels.shape == (5, 2, 4)
    assert levels[2, 0, 0] > levels[2, 0, 2] and levels[2, 1, 0] < levels[2, 1, 2]
    other = by_variance(V, level, member, 4, b=0.5, certain=False)
    assert_close(levels[:, 0], other[:, 1])


def test_samples_are_the_same_in_any_batch_and_have_the_law():
    C, place = chain(4)
    law, steps = Dense(torch.zeros(4), C), 40
    start = torch.full((1, 4), -3.0).double()
    levels = window_levels(torch.tensor([0, 2, 1, 2]), steps, 0.5)
    route = Fixed(place, levels, LawVariance(law, place))
    root = torch.linalg.cholesky(C + torch.eye(4).double() * math.exp(3))
    y = torch.randn(3000, 4, generator=seeded()).double() @ root.T
    found, level = denoise_by(route, law, y, start, steps, image_noise(seeded(1)))
    assert_close(level, torch.full((3000, 4), 9.0).double())
    assert_close(found.T.cov(), C, rtol=0, atol=0.12)
    few, _ = denoise_by(route, law, y[:5], start, steps, image_noise(seeded(1)))
    assert_close(few, found[:5])


def test_group_means_are_means():
    v, groups = torch.arange(6.0).reshape(1, 2, 3), torch.tensor([[0, 1, 1], [0, 1, 0]])
    want = torch.tensor([[(0 + 3 + 5) / 3, (1 + 2 + 4) / 3]])
    assert_close(group_means(v, groups), want)
