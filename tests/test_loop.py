"""Notebook 08 in detail: the loop, its grids, noise by image, exact propagation.

The notebook has one legible check of each idea; sweeps, regressions and refusals are
here.
"""

import pytest
import torch
from fastcore.test import test_fail as fails
from torch.testing import assert_close

from gud_nb.core import as_time
from gud_nb.denoiser import Independent, Score, clipped, gaussian, guided
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    Grid,
    ImageNoise,
    Local,
    Sampler,
    Trajectory,
    ddim,
    default_grid,
    denoise,
    edm,
    euler_maruyama,
    evaluations,
    even_log_snr,
    exponential_heun,
    fastest,
    flow_euler,
    heun,
    image_noise,
    level_time,
    marginal_covariance,
    measure_order,
    prepare,
    propagate,
    quadratic,
    sample,
    sscs,
    uniform,
)
from gud_nb.schedule import (
    Cosine,
    LinearBeta,
    LinearGamma,
    Schedule,
    overlap,
    sequential,
    soft_conditioning,
)
from gud_nb.transition import phi

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
law = Independent(torch.tensor([0.5, -1.0]), torch.tensor([0.25, 0.04]))
constant = LinearBeta(8.0, 8.0)
space = LinearDiffusion(psld(), constant, Sigma0=hsm(psld()))
line = LinearDiffusion(vp(), LinearBeta())


def draws(*shape, seed=0):
    "Standard normal numbers in double precision."
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


# Grids


@pytest.mark.parametrize(
    "times", [uniform(5), quadratic(5), even_log_snr(Cosine(), 5), edm(Cosine(), 5)]
)
def test_grids_fall_from_1_to_eps(times):
    assert (times.diff() < 0).all()
    assert_close(times[[0, -1]], torch.tensor([1.0, 1e-3]).double())


def test_even_log_snr_takes_equal_steps():
    bend = LinearBeta().gamma(even_log_snr(LinearBeta(), 7)).diff(n=2)
    assert_close(bend, 0 * bend, rtol=0, atol=1e-6)
    bend = space.log_snr(even_log_snr(space, 9), torch.zeros(1, 2, 1))[:, 0].diff(n=2)
    assert_close(bend, 0 * bend, rtol=0, atol=1e-6)
    two = LinearGamma(torch.tensor([-3.0, 0.0]), 5.0)
    assert_close(even_log_snr(LinearGamma(), 4), uniform(4))
    assert_close(even_log_snr(two, 4), uniform(4))
    assert_close(even_log_snr(line, 9), even_log_snr(LinearBeta(), 9))
    wide = LinearDiffusion(psld(), two, Sigma0=hsm(psld()))
    assert len(even_log_snr(wide, 4)) == 5


def test_edm_takes_equal_steps_of_a_root_of_the_level():
    root = torch.exp(LinearBeta().gamma(edm(LinearBeta(), 9, rho=3.0)) / 6)
    assert_close(root.diff(n=2), torch.zeros(8).double(), rtol=0, atol=1e-9)
    ends = edm(LinearBeta(), 5, sigma_min=0.02, sigma_max=80.0)[[-1, 0]]
    reached = torch.exp(LinearBeta().gamma(ends) / 2)
    assert_close(reached, torch.tensor([0.02, 80.0]).double())
    assert_close(edm(space, 1), torch.tensor([1.0, 1e-3]).double())
    far, even = edm(LinearBeta(), 7, rho=1e6), even_log_snr(LinearBeta(), 7)
    assert_close(far, even, rtol=0, atol=1e-4)


def test_fastest_is_even_where_one_component_moves():
    assert_close(fastest(LinearGamma(), 5), uniform(5), rtol=0, atol=1e-6)
    even = even_log_snr(LinearBeta(), 9)
    assert_close(fastest(LinearBeta(), 9), even, rtol=0, atol=2e-5)
    columns = sequential(torch.arange(4), 0.7)  # some column always moves, equally fast
    assert_close(fastest(columns, 8), uniform(8), rtol=0, atol=1e-3)
    assert_close(fastest(space, 7), even_log_snr(space, 7), rtol=0, atol=1e-4)


def test_default_grid():
    stiff = soft_conditioning(torch.logspace(0, -4, 50).double(), 1.0, clip=True)
    assert_close(default_grid(line, 4), edm(line, 4))
    assert_close(default_grid(LinearDiffusion(vp(), stiff), 4), fastest(stiff, 4))


class Late(Schedule):
    "A schedule that begins at ½."

    breakpoints = (0.5,)

    def B(self, t):
        return 5 * (as_time(t) - 0.5).clamp(min=0)


@pytest.mark.parametrize("grid", (even_log_snr, fastest))
def test_grids_want_levels_that_move(grid):
    still = LinearGamma(4.0, 5.0, clip=(-7.0, 3.0))
    fails(lambda: grid(Late(), 5), contains="raise eps=0.001")
    fails(lambda: grid(still, 5), contains="no schedule moves")


@pytest.mark.parametrize(
    "make, words",
    (
        (lambda: edm(LinearBeta(), 5, rho=0.5), "rho"),
        (lambda: level_time(LinearBeta(), 1e4), "to 152.2"),
        (lambda: uniform(0), "n=0"),
        (lambda: quadratic(5, 0.0), "eps=0.0"),
        (lambda: quadratic(5.0), "a whole number: got n=5.0"),
    ),
)
def test_grid_refused(make, words):
    fails(make, contains=words)


# β up to 1771: what GUD's released code reaches with four columns at its softness 1
width = 18 * torch.sigmoid(torch.tensor(5.0).double()).item() / 1771
hasty = sequential(-torch.arange(4.0), 1 - width, -13.0, 5.0)
columns = LinearDiffusion(vp(), hasty)
schedules = dict(
    columns=sequential(-torch.arange(4.0), 0.5),
    hasty=hasty,
    cosine=Cosine(),
    soft=soft_conditioning(torch.logspace(1, -3, 8), 2.0, clip=True),
    many=sequential(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)), 0.6),
)


@pytest.mark.parametrize("n", (1, 5, 40, 211))
@pytest.mark.parametrize("name", schedules)
def test_promise_of_even_log_snr(name, n):
    schedule = schedules[name]
    times = even_log_snr(schedule, n, 1e-3)
    assert [len(times), times[0].item(), times[-1].item()] == [n + 1, 1, 1e-3]
    assert (times.diff() < 0).all()
    kinks = [b for b in schedule.breakpoints if b > 1e-3]
    steps = -schedule.gamma(times).reshape(n + 1, -1).mean(1).diff()
    if len(kinks) < n:  # they are on the grid
        assert all((times == b).any() for b in kinks)
    else:
        assert_close(steps, steps.mean().expand(n), rtol=1e-6, atol=1e-9)
    if n == 211:  # as equal as the kinks allow
        assert steps.max() < 2 * steps.sum() / n


def column_ratios(sampler, times, variance):
    "Standard deviation of each column at the last time, over the exact one."
    own = Independent(torch.zeros(4), torch.full((4,), variance))
    first, exact = (
        marginal_covariance(columns, own, t) for t in (1.0, times[-1].item())
    )
    C = propagate(sampler, columns, Score(columns, own), times, first, shape=(4,))
    return (C / exact).sqrt().flatten()


def test_hasty_columns_are_hasty():
    steepest = hasty.beta(torch.tensor(hasty.breakpoints).double()).max()
    assert 1770 < steepest < 1772
    assert overlap(hasty) == 0


@pytest.mark.parametrize("sampler", (euler_maruyama, ddim, exponential_heun))
def test_order_where_schedules_stand_still(sampler):
    few, many = (even_log_snr(hasty, 3 + 4 * m) for m in (80, 160))
    few, many = ((column_ratios(sampler, t, 0.1) - 1).abs() for t in (few, many))
    assert (((few / many).log2() - sampler.order).abs() < 0.3).all()
    assert (many < 0.03).all()


def test_uniform_grid_misses_the_columns():
    assert column_ratios(euler_maruyama, uniform(103), 1.0).max() > 5
    assert (column_ratios(ddim, uniform(103), 0.1) < 0.5).all()


def test_columns_at_once_or_one_by_one():
    ends = hasty.gamma_min[2].item(), hasty.gamma_max[2].item()
    tenth = torch.full((4,), 0.1)
    one = LinearDiffusion(vp(), LinearGamma(*ends, clip=hasty.clip))
    lone = Score(one, Independent(torch.zeros(1), tenth[:1]))
    alone = propagate(heun, one, lone, even_log_snr(hasty, 43))
    score = Score(columns, Independent(torch.zeros(4), tenth))
    all_four = propagate(heun, columns, score, even_log_snr(hasty, 43), shape=(4,))
    assert_close(alone, all_four[2])
    z = columns.prior(draws(4000, 1, 4), variance=tenth)
    g, times = torch.Generator().manual_seed(0), even_log_snr(hasty, 163)
    x = sample(euler_maruyama, columns, score, z, times, generator=g)[:, 0]
    assert_close(x.T.cov(), 0.1 * torch.eye(4).double(), rtol=0, atol=0.012)


# Noise by image


def test_image_noise_is_normal_and_a_value():
    whole, like = ImageNoise(seed=0), torch.empty(100, 1)
    alone = whole.after(70)
    assert torch.equal(whole(like)[70:77], alone(like[:7]))
    assert not torch.equal(whole(like), whole(like, draw=1))
    assert not torch.equal(whole(like), whole.branch(0)(like))
    many = whole(torch.empty(50_000, 2, dtype=torch.float64))
    assert_close(many.T.cov(), torch.eye(2).double(), rtol=0, atol=0.02)
    assert_close(many.mean(0), torch.zeros(2).double(), rtol=0, atol=0.02)
    g = torch.Generator().manual_seed(0)
    assert image_noise(g) != image_noise(g)  # a generator gives a seed at each call
    assert image_noise(alone) is alone
    fails(lambda: ImageNoise(0.5), contains="got seed=0.5")
    fails(lambda: image_noise(3), contains="for a seed, ImageNoise(seed)")


@pytest.mark.parametrize("sampler", (sscs, euler_maruyama))
def test_images_are_the_same_in_any_batch(sampler):
    noise, like = ImageNoise(3), torch.empty(100, 2, 2).double()
    score = Score(space, law)
    at_once = sample(sampler, space, score, noise(like), uniform(5), generator=noise)
    parts = []
    for i in range(0, 100, 33):
        own = noise.after(i)
        z = own(like[i : i + 33])
        parts.append(sample(sampler, space, score, z, uniform(5), generator=own))
    assert_close(torch.cat(parts), at_once)


# The loop


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("sampler", (euler_maruyama, sscs, heun, exponential_heun))
def test_samples_have_mean_and_spread_of_the_data(sampler, recipe):
    g, r = torch.Generator().manual_seed(0), recipes[recipe]
    d = LinearDiffusion(r, constant, Sigma0=hsm(r))
    z = d.prior(torch.randn(4000, r.k, 2, generator=g).double())
    x = sample(sampler, d, Score(d, law), z, quadratic(120), generator=g)[:, 0]
    assert_close(x.mean(0), law.mean, rtol=0, atol=0.05)
    assert_close(x.std(0), law.variances.sqrt(), rtol=0.15, atol=0.02)


def test_a_run_taken_apart():
    d = LinearDiffusion(third_order(), constant, Sigma0=hsm(third_order()))
    z, score = d.prior(draws(5, 3, 2)), Score(d, law)
    z0 = sample(heun, d, score, z, uniform(20), final=False)
    ended = denoise(d, score, z0, uniform(20)[-1])
    assert_close(ended, sample(heun, d, score, z, uniform(20)))
    (c, here, there), *_ = prepare(heun, Grid(d, uniform(20), z), score)
    assert isinstance(here, Local)
    assert_close(here.score(z), score(z, 1.0))
    assert_close(here.data(z), score.data(z, 1.0))
    one = sample(heun, d, score, z, uniform(20)[:2], final=False)
    assert_close(heun.update(c, here, there, z, None, []), one)
    assert evaluations(heun, 10) == 21
    assert evaluations(sscs, 10, final=False) == 10


def test_a_generator_fixes_everything():
    score, z, seen = Score(space, law), draws(3, 2, 2), []
    run = dict(callback=lambda i, s, z: seen.append(s))
    a, b = (
        sample(
            sscs,
            space,
            score,
            z,
            uniform(5),
            generator=torch.Generator().manual_seed(7),
            **run,
        )
        for _ in range(2)
    )
    assert torch.equal(a, b)
    assert_close(seen[:5], uniform(5)[1:].tolist())


@pytest.mark.parametrize("sampler", (sscs, heun, ddim))
def test_a_score_function_gives_what_a_denoiser_gives(sampler):
    score, z = Score(space, law), draws(3, 2, 2)
    noise = draws(5, 2, 3, 2, 2, seed=7)
    by_score = sample(
        sampler, space, lambda z, t: score(z, t), z, uniform(5), noise=noise
    )
    assert_close(by_score, sample(sampler, space, score, z, uniform(5), noise=noise))


def test_guidance_and_limits_need_no_sampler_of_their_own():
    other, path = Independent(-law.mean, law.variances), Trajectory(every=4)
    z, means = space.prior(draws(2000, 2, 2)), []
    for weight in (0.0, 1.0, 2.0):
        push = Score(space, guided(law, other, weight))
        x = sample(exponential_heun, space, push, z, quadratic(20), callback=path)
        means.append(x[:, 0].mean(0))
    assert_close(means[0], other.mean, rtol=0, atol=0.05)
    assert_close(means[1], law.mean, rtol=0, atol=0.05)
    assert (means[2].abs() > means[1].abs()).all()
    assert len(path.states) == 15
    assert_close(path.times[1], quadratic(20)[5].item())
    x = sample(exponential_heun, space, Score(space, law), z, quadratic(40))[:, 0]
    low = Score(space, clipped(law, -9.0, 0.4))
    top = sample(exponential_heun, space, low, z, quadratic(40))[:, 0].max()
    assert top < 0.41 < x.max()


def test_a_sampler_says_what_it_costs():
    def undeclared():
        class Lazy(Sampler):
            "A sampler that does not say what it costs."

            noises, extra, memory, order = 0, 0, 0, 1

    fails(undeclared, contains="Lazy must say its evaluations")


@pytest.mark.parametrize(
    "times, words",
    (
        ([0.1, 0.5], "times must fall"),
        ([1.2, 0.5], "within (0, 1]"),
        ([1.0], "at least two"),
        ([1.0, 0.5, 0.0], "within (0, 1]"),
        (25, "want a grid: uniform(25)"),
    ),
)
def test_times_refused(times, words):
    z = draws(3, 2, 2)
    fails(lambda: sample(heun, space, Score(space, law), z, times), contains=words)


def test_run_refused():
    score, z = Score(space, law), draws(3, 2, 2)
    fails(
        lambda: sample("heun", space, score, z, uniform(5)),
        contains="got the sampler 'heun'",
    )
    other = Score(LinearDiffusion(psld(), Cosine()), law)
    fails(
        lambda: sample(ddim, space, other, z, uniform(5)),
        contains="a score of another diffusion",
    )

    def short(z, t):
        return score(z, t)[:, :1]

    fails(
        lambda: sample(heun, space, short, z, uniform(5)),
        contains="a score of shape (3, 1, 2)",
    )

    def broken(z, t):
        return score(z, t) * (float("nan") if t < 0.5 else 1.0)

    failed = "after step 4 of 5, at t = 0.2008"
    fails(lambda: sample(ddim, space, broken, z, uniform(5)), contains=failed)


# Steps


def test_ddim_as_printed():
    "Song, Meng & Ermon 2021, equation 12."
    d, t, s, z = LinearDiffusion(vp(), Cosine()), 0.7, 0.4, draws(5, 1, 3)
    score = Score(d, Independent(torch.zeros(3), torch.tensor([2.0, 0.5, 0.01])))
    B = d.schedule.B(torch.tensor([t, s]))
    alpha, sigma = torch.exp(-B / 2), (-torch.expm1(-B)).sqrt()
    eps = -sigma[0] * score(z, t)
    printed = alpha[1] / alpha[0] * (z - sigma[0] * eps) + sigma[1] * eps
    assert_close(sample(ddim, d, score, z, [t, s], final=False), printed)


def test_second_half_of_sscs_has_its_own_part_of_the_schedule():
    "What the first half's interval in both would integrate: 10.55, not 10.05."
    B, grid = LinearBeta(0.1, 20.0).B, uniform(10, 1e-6)
    middle = (grid[:-1] + grid[1:]) / 2
    assert 2 * (B(grid[:-1]) - B(middle)).sum() > 10.5
    d = LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
    first, _, _, _, second, _ = sscs.coefficients(Grid(d, grid, torch.zeros(1, 1, 1)))
    both = -2 * (first * second).log().sum()  # Φ = exp(-½∫β)
    assert_close(both, B(1.0) - B(1e-6))


# Exact propagation


def test_marginal_covariance_is_that_of_draws():
    quarter, n = Independent(torch.zeros(1), torch.tensor([0.25])), 100_000
    C = marginal_covariance(space, quarter, 0.3)[0]
    z = space.perturb(0.5 * draws(n, 1), 0.3, draws(n, 2, 1, seed=1)).z
    assert_close(z[..., 0].T.cov(), C, rtol=0.02, atol=0.004)


def test_correlated_components_are_one_matrix():
    pair = gaussian(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    both = marginal_covariance(space, pair, 0.3)  # positions first
    unit = Independent(torch.zeros(1), torch.ones(1))
    alone = marginal_covariance(space, unit, 0.3)[0]
    assert_close(both[0, 0], alone[0, 0])
    assert_close(both[0, 2], alone[0, 1])
    assert_close(both[0, 1], 0.9 * phi(space.recipe, 2.4)[0, 0] ** 2)
    assert abs(measure_order(ddim, space, pair, (64, 128))[1] - 1) < 0.1


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize(
    "sampler", (euler_maruyama, sscs, flow_euler, heun, ddim, exponential_heun)
)
def test_declared_orders(sampler, recipe):
    r, two = recipes[recipe], Independent(torch.zeros(2), torch.tensor([0.25, 4.0]))
    d = LinearDiffusion(r, LinearBeta(1.0, 9.0), Sigma0=hsm(r))
    assert abs(measure_order(sampler, d, two)[1] - sampler.order) < 0.3


def test_propagation_is_what_samples_do():
    quarter, g = Independent(torch.zeros(1), torch.tensor([0.25])), torch.Generator()
    g.manual_seed(0)
    score, times = Score(space, quarter), uniform(20, 0.05)
    z = space.prior(draws(20_000, 2, 1))
    z = sample(sscs, space, score, z, times, generator=g, final=False)
    exact = propagate(sscs, space, score, times)
    assert_close(z[..., 0].T.cov(), exact, rtol=0, atol=0.015)


def test_samples_of_a_schedule_per_component():
    levels, g = LinearGamma(torch.tensor([-9.0, -3.0]), 3.0), torch.Generator()
    g.manual_seed(0)
    own = LinearDiffusion(psld(), levels, Sigma0=hsm(psld()))
    z = own.prior(draws(4000, 2, 2))
    x = sample(sscs, own, Score(own, law), z, uniform(200), generator=g)[:, 0]
    assert_close(x.mean(0), law.mean, rtol=0, atol=0.1)
    assert_close(x.std(0), law.variances.sqrt(), rtol=0.2, atol=0.12)
