"""Notebook 25: many papers as one process. What its page says and does not show."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from gud_nb.basis import DCT, Pixel, Wavelet, column_order, level_order
from gud_nb.denoiser import Dense, Independent
from gud_nb.diffusion import LinearDiffusion
from gud_nb.recipe import higher_order, recover_q, third_order, vp
from gud_nb.schedule import LinearBeta, LinearGamma, Schedule, sequential

f64 = torch.float64


class Path(Schedule):
    "The schedule of x = α(t) χ + σ(t) ε, as in notebook 25."

    def __init__(self, alpha_sigma):
        self.alpha_sigma = alpha_sigma

    def B(self, t):
        alpha, sigma = self.alpha_sigma(self.per_component(t))
        return torch.log1p((sigma / alpha.clamp(min=1e-9)) ** 2).clamp(max=20)

    def scale(self, t):
        alpha, sigma = self.alpha_sigma(torch.as_tensor(t, dtype=f64))
        return (alpha**2 + sigma**2).sqrt()


def karras(t):
    sigma = (0.002 ** (1 / 7) + t * (80.0 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    return torch.ones_like(sigma), sigma


def sub(t):
    B = LinearBeta().B(t)
    return (-B / 2).exp(), -torch.expm1(-B)


def mean_preserving(t):
    return torch.ones_like(t), 0.01 * 5000.0**t


PATHS = {
    "EDM": karras,
    "rectified flow": lambda t: (1 - t, t),
    "VE": mean_preserving,
    "sub-VP": sub,
}


@pytest.mark.parametrize("alpha_sigma", PATHS.values(), ids=PATHS)
def test_whole_paths_are_vp_in_another_scale(alpha_sigma):
    "A linear SDE has Cov(n_s, n_t) = α_t/α_s σ_s²; so has s times VP's noise."
    path = Path(alpha_sigma)
    s, t = torch.tensor([0.2, 0.6], dtype=f64)
    (alpha_s, sigma_s), (alpha_t, _) = alpha_sigma(s), alpha_sigma(t)
    B_s, B_t = path.B(s), path.B(t)
    of_vp = torch.exp((B_s - B_t) / 2) * -torch.expm1(-B_s)
    ours = path.scale(s) * path.scale(t) * of_vp
    assert_close(ours, alpha_t / alpha_s * sigma_s**2)


@pytest.mark.parametrize(
    "alpha_sigma, drift, noise",
    [
        (
            mean_preserving,
            lambda t: 0 * t,
            lambda t: (0.01 * 5000**t) ** 2 * 2 * torch.tensor(5000.0, dtype=f64).log(),
        ),
        (
            sub,
            lambda t: -LinearBeta().beta(t) / 2,
            lambda t: LinearBeta().beta(t) * -torch.expm1(-2 * LinearBeta().B(t)),
        ),
    ],
    ids=["VE", "sub-VP"],
)
def test_marginals_solve_the_printed_sde(alpha_sigma, drift, noise):
    "dα/dt = f α and dσ²/dt = 2 f σ² + g², with f and g² of Song et al. 2021."
    t = torch.linspace(0.05, 0.95, 10, dtype=f64)
    one = torch.ones_like(t)

    def moments(t):
        alpha, sigma = alpha_sigma(t)
        return alpha, sigma**2

    (alpha, var), (d_alpha, d_var) = torch.func.jvp(moments, (t,), (one,))
    assert_close(d_alpha, drift(t) * alpha)
    assert_close(d_var, 2 * drift(t) * var + noise(t))


def test_no_variance_makes_ve_a_recipe():
    for S in (1e-3, 1.0, 1e3):
        assert_close(recover_q([[0.0]], [[1.0]], [[S]])[1].item(), 2.0)


def test_one_variance_at_a_time_makes_sub_vp_a_recipe():
    for B in (0.1, 1.0, 5.0):
        S = -torch.expm1(torch.tensor(-2 * B, dtype=f64)).reshape(1, 1)
        assert recover_q([[-1.0]], S, S)[1] < 1e-15
        assert recover_q([[-1.0]], S, 1.1 * S)[1] > 0.1 * S


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_edm_preconditions_by_a_normal_law(sigma):
    sigma_d, y = 0.5, torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    law = Independent(torch.zeros(4), torch.full((4,), sigma_d**2))
    R = torch.full((1, 4), sigma**2, dtype=f64)
    total = sigma**2 + sigma_d**2
    c_skip, c_out = sigma_d**2 / total, sigma * sigma_d / total**0.5
    assert_close(law(y.double(), -R.log()), c_skip * y.double())
    assert_close(law.variance(R), torch.full_like(R, c_out**2))


def test_target_of_heat_dissipation_is_a_linear_function_of_the_denoiser():
    "E[blurred x | u] is the blur of E[x | u]: for a Gaussian law, by two routes."
    g = torch.Generator().manual_seed(0)
    A = torch.randn(16, 16, generator=g, dtype=f64)
    C, basis = A @ A.T / 16, DCT((1, 4, 4))
    W = basis(torch.eye(16, dtype=f64).reshape(16, 1, 4, 4)).flatten(1)  # rows: pixels
    Lambda = (2 * torch.pi * basis.frequencies).square().sum(0).flatten()
    now, before = (W @ (torch.exp(-Lambda * tau)).diag() @ W.T for tau in (0.8, 0.3))
    u = torch.randn(16, generator=g, dtype=f64)
    inverse = torch.linalg.inv(now @ C @ now.T + 0.01**2 * torch.eye(16, dtype=f64))
    target = before @ C @ now.T @ inverse @ u  # regression on u
    y = W.T @ u / torch.exp(-0.8 * Lambda)  # observation in cosines
    log_snr = -2 * 0.8 * Lambda - 2 * torch.tensor(0.01, dtype=f64).log()
    D = Dense(torch.zeros(16), W.T @ C @ W)(y[None], log_snr[None])[0]
    assert_close(W @ (torch.exp(-0.3 * Lambda) * D), target, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_cascade_has_one_level_at_work(levels):
    haar = Wavelet((1, 8, 8), "haar", levels)
    schedule = sequential(level_order(haar), b=levels / (levels + 1))
    for i in range(levels + 1):  # in the middle of each window
        t = (i + 0.5) / (levels + 1)
        gamma = schedule.gamma(t)
        at_work = haar.level == levels - i  # finest first
        assert_close(gamma[at_work], torch.full_like(gamma[at_work], -2.0))
        assert bool((gamma[haar.level > levels - i] == 3).all())
        assert bool((gamma[haar.level < levels - i] == -7).all())


@pytest.mark.parametrize("sides", [(8, 4), (8, 4, 2)])
def test_snrs_of_matryoshka_add(sides):
    "r sizes with SNRs matched: averages in all of them have r times the SNR."
    averages = []
    for side in sides:
        r = sides[0] // side
        blocks = torch.eye(side, dtype=f64).repeat_interleave(r, 1) / r
        one_image = torch.kron(blocks, blocks)  # averages over r×r pixels
        averages.append(one_image / (sides[0] // sides[-1] / r))
    K = torch.cat(averages)  # the signal of each size divided by its side
    haar = Wavelet((1, 8, 8), "haar", len(sides) - 1)
    W = haar(torch.eye(64, dtype=f64).reshape(64, 1, 8, 8)).flatten(1)
    information = W.T @ K.T @ K @ W  # for noise of variance 1
    finest = (sides[-1] / sides[0]) ** 2  # SNR of the largest image
    seen_in = len(sides) - haar.level.flatten().clamp(min=0).double()
    assert_close(information, torch.diag(finest * seen_in), atol=1e-12, rtol=0)


@pytest.mark.parametrize("n, window", [(8, 4), (8, 8), (5, 2), (16, 3)])
def test_rolling_is_sequential(n, window):
    schedule = sequential(torch.arange(float(n)), b=(n - 1) / (n - 1 + window))
    for moved in range(n):
        for t in (0.0, 0.3, 1.0):
            local = ((torch.arange(n).double() - moved + t) / window).clamp(0, 1)
            whole = (t - moved + n - 1) / (n - 1 + window)
            assert_close(schedule.gamma(whole), -7 + 10 * local)


@pytest.mark.parametrize("uncertainty", [0, 1, 5, 20])
def test_forcing_is_sequential(uncertainty, n=6, levels=20):
    b = uncertainty * (n - 1) / (levels + uncertainty * (n - 1))
    schedule = sequential(torch.arange(float(n)), b)
    rows = levels + uncertainty * (n - 1)
    m, j = torch.arange(rows + 1).double()[:, None], torch.arange(n)
    matrix = (levels + uncertainty * j - m).clamp(0, levels)
    assert_close((schedule.gamma(1 - m[:, 0] / rows) + 7) / 10 * levels, matrix)
    if uncertainty == levels:  # one frame after the other
        inside = (matrix > 0) & (matrix < levels)
        assert int(inside.sum(1).max()) == 1


def test_a_vector_of_levels_is_a_schedule():
    g = torch.Generator().manual_seed(0)
    gamma = torch.randn(1, 8, 8, generator=g, dtype=f64)
    d = LinearDiffusion(vp(), LinearGamma(gamma - 10, gamma))
    assert_close(d.log_snr(1.0, torch.zeros(1, 1, 1, 8, 8))[0], -gamma)


def test_limit_of_sequential_schedules():
    "As b → 1 the share of time in which any column is active goes to 0."
    t = torch.linspace(0, 1, 20001, dtype=f64)
    shares = []
    for b in (0.5, 0.9, 0.99, 0.999):
        gamma = sequential(column_order(Pixel((1, 8, 8))), b).gamma(t)[:, 0, 0]
        active = ((gamma > -7) & (gamma < 3)).any(1)
        shares.append(active.double().mean().item())
    assert shares[0] > 0.99
    assert_close(
        torch.tensor(shares[1:]), torch.tensor([0.8, 0.08, 0.008]), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_eigenvalues_of_order_n_are_equal(n):
    "The characteristic polynomial is (s + √(2n-3))ⁿ."
    unit = (2 * n - 3) ** 0.5
    trace = [
        torch.trace(torch.linalg.matrix_power(higher_order(n).A, k))
        for k in range(1, n + 1)
    ]
    for k, found in enumerate(trace, start=1):  # power sums fix the eigenvalues
        assert_close(found.item(), n * (-unit) ** k)


def test_order_three_is_the_third_order():
    for name in "DQH":
        assert_close(getattr(higher_order(3), name), getattr(third_order(), name))


def test_marginal_of_a_path_by_simulation():
    "Sub-VP by Euler steps has the mean and variance of its path."
    g, n, steps = torch.Generator().manual_seed(0), 20_000, 400
    x, dt = torch.full((n,), 1.5, dtype=f64), 0.5 / steps
    normal = partial(torch.randn, n, generator=g, dtype=f64)
    for i in range(steps):
        t = torch.tensor((i + 0.5) * dt, dtype=f64)
        beta, B = LinearBeta().beta(t), LinearBeta().B(t)
        g2 = beta * -torch.expm1(-2 * B)
        x = x - beta * x * dt / 2 + (g2 * dt).sqrt() * normal()
    alpha, sigma = sub(torch.tensor(0.5, dtype=f64))
    assert abs(x.mean() - 1.5 * alpha) < 5 * sigma / n**0.5 + 2e-3
    assert abs(x.std() / sigma - 1) < 0.03
