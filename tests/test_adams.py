"""Steps of the observation: orders, exactness for a law, evaluations, noise used."""

import math

import pytest
import torch
from fields import U, by_level, cov, side
from torch.testing import assert_close

from gud_nb.adams import ExponentialAdams, sa_solver, sde_dpm_solver, unipc
from gud_nb.denoiser import Dense, Independent, LowRank, Score, Spectral, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DPMSolver, gaussian_distance
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    DDIM,
    Grid,
    edm,
    evaluations,
    marginal_covariance,
    measure_order,
    propagate,
    quadratic,
    sample,
    uniform,
)
from gud_nb.schedule import LinearBeta, LinearGamma

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
methods = {
    "UniPC 1": unipc(1),
    "UniPC 2": unipc(2),
    "SDE 1": sde_dpm_solver(1),
    "SDE 2M": sde_dpm_solver(2),
    "SDE 3M": sde_dpm_solver(3),
    "SA 2": sa_solver(2, 0.5),
    "SA, tau by log-SNR": sa_solver(2, lambda log_snr: 0.5 * (log_snr < 2)),
    "noise 3": ExponentialAdams(3, law=math.inf),
    "UniPC 2, noise": unipc(2, math.inf),
    "UniPC 2, variance": unipc(2, 0.7),
    "SDE 2M, variance": sde_dpm_solver(2, 0.7),
}
settings = {
    "pixels, one schedule": (LinearBeta(1.0, 9.0), cov),
    "Haar, a schedule by level": (by_level, U @ cov @ U.T),
}


@pytest.mark.parametrize("setting", settings)
@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("name", methods)
def test_order(name, recipe, setting):
    method, r, (schedule, C) = methods[name], recipes[recipe], settings[setting]
    d = LinearDiffusion(r, schedule, hsm(r))
    law = gaussian(torch.zeros(1, side, side), C)
    if method.noises:  # every draw apart: in a basis where components are independent
        values = torch.linalg.eigvalsh(C).clamp(min=0)
        law = Independent(torch.zeros(1, side, side), values.reshape(1, side, side))
    # with a variance near the data's the error changes sign on coarse grids
    ns = (240, 480) if name == "UniPC 2, variance" else (60, 120)
    errors, order = measure_order(method, d, law, ns)
    print(f"{name:20} {recipe:12} {setting:26} {method.order} measured {order:.2f}")
    assert method.order - 0.5 < order < method.order + 1.3


def counting(law):
    def denoiser(y, log_snr):
        denoiser.calls += 1
        return law(y, log_snr)

    denoiser.calls = 0
    return denoiser


@pytest.mark.parametrize("name", methods)
def test_one_evaluation_a_step(name):
    d, law = LinearDiffusion(psld(), LinearBeta()), Independent(*torch.ones(2, 3))
    counted = counting(law)
    sample(methods[name], d, Score(d, counted), torch.zeros(2, 2, 3), quadratic(7))
    assert counted.calls == evaluations(methods[name], 7) == 8


def test_noise_is_used_as_it_is_given():
    d, law = LinearDiffusion(psld(), LinearBeta()), Independent(*torch.ones(2, 3))
    z, noise = torch.randn(2, 2, 3), torch.randn(6, 2, 2, 3)
    for method in (sde_dpm_solver(2), sa_solver(2)):
        a, b = (
            sample(method, d, Score(d, law), z, quadratic(6), noise=n)
            for n in (noise, noise.clone())
        )
        assert torch.equal(a, b)
        g = [torch.Generator().manual_seed(3) for _ in range(2)]
        a, b = (
            sample(method, d, Score(d, law), z, quadratic(6), generator=h) for h in g
        )
        assert torch.equal(a, b)


def test_runs_share_nothing():
    d, law = LinearDiffusion(vp(), LinearBeta()), Independent(*torch.ones(2, 3))
    method, z = unipc(3), torch.randn(2, 1, 3)
    first = sample(method, d, Score(d, law), z, quadratic(6))
    sample(method, d, Score(d, law), -z, quadratic(4))
    assert torch.equal(sample(method, d, Score(d, law), z, quadratic(6)), first)


def test_without_noise_and_correction_it_is_dpm_solver():
    d, z = LinearDiffusion(vp(), LinearBeta()), torch.randn(2, 1, 3).double()
    law = Independent(torch.zeros(3), torch.tensor([0.1, 1.0, 9.0]))
    for q in (1, 2):
        one, two = (
            sample(s, d, Score(d, law), z, quadratic(9), final=False)
            for s in (ExponentialAdams(q), DPMSolver(q))
        )
        assert_close(one, two)


values, vectors = torch.linalg.eigh(cov)
few = vectors[:, -5:], values[-5:]
mean = torch.linspace(-1, 1, side**2).double().reshape(1, side, side)
laws = {
    "independent": Independent(mean, cov.diagonal().reshape(1, side, side)),
    "spectral": Spectral(mean, values, vectors),
    "spectral, a rest": Spectral(mean, few[1], few[0], rest=0.3),
    "dense": Dense(mean, cov),
}


@pytest.mark.parametrize("tau", (0.0, 0.6, 1.0))
@pytest.mark.parametrize("recipe", recipes)
def test_steps_keep_the_covariance_of_their_law(recipe, tau):
    r, law = recipes[recipe], laws["independent"]
    for schedule in (LinearBeta(1.0, 9.0), by_level):
        d = LinearDiffusion(r, schedule, hsm(r))
        first, right = (marginal_covariance(d, law, t) for t in (1.0, 0.1))
        for method in (ExponentialAdams(3, tau, c, law) for c in (False, True)):
            found = propagate(
                method,
                d,
                Score(d, law),
                uniform(3, 0.1),
                first,
                shape=(1, side, side),
            )
            assert_close(found, right, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", laws)
@pytest.mark.parametrize("recipe", recipes)
def test_one_step_reaches_the_data_of_its_law(recipe, name):
    r, law = recipes[recipe], laws[name]
    d = LinearDiffusion(r, LinearBeta(1.0, 9.0), hsm(r))
    z = d.prior(torch.randn(3, r.k, 1, side, side).double())
    kernel = d.kernel(1.0, z)
    y = kernel.observe(z)
    for n in (1, 4):
        found = sample(unipc(2, law), d, Score(d, law), z, uniform(n))[:, 0]
        # the flow of a Gaussian: y - mean in units of its deviation stays
        R = torch.exp(-kernel.log_snr).item()
        size, U = torch.linalg.eigh(law.covariance_matrix())
        gain = (U * (size / (size + R)).clamp(min=0).sqrt()) @ U.T
        right = ((y - mean).flatten(1) @ gain).reshape(y.shape) + mean
        assert_close(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tau", "law"), ((0.0, 0.0), (0.0, 0.7), (0.0, math.inf), (1.0, 0.0), (1.0, 0.7))
)
def test_float32_is_near_float64(tau, law):
    data = laws["spectral"]
    for r in recipes.values():
        d = LinearDiffusion(r, LinearBeta(8.0, 8.0), hsm(r))
        z = d.prior(torch.randn(4, r.k, 1, side, side).double())
        noise = torch.randn(12, *z.shape).double()
        method = ExponentialAdams(2, tau, True, law)
        draws = dict(noise=noise) if method.noises else {}
        right = sample(method, d, Score(d, data), z, quadratic(12), **draws)
        draws = {k: v.float() for k, v in draws.items()}
        rough = sample(method, d, Score(d, data), z.float(), quadratic(12), **draws)
        assert_close(rough[:, 0].double(), right[:, 0], rtol=1e-3, atol=2e-3)


def test_a_law_without_common_axes_is_taken_by_components():
    loadings = 0.1 * torch.ones(side**2, 1).double()
    law = LowRank(mean, loadings, torch.ones(side**2).double().reshape(mean.shape))
    apart = Independent(mean, law.component_variances)
    d = LinearDiffusion(vp(), by_level)
    z = torch.randn(2, 1, 1, side, side).double()
    one, two = (
        sample(unipc(2, v), d, Score(d, apart), z, quadratic(5)) for v in (law, apart)
    )
    assert_close(one, two)


def test_refusals():
    for bad, why in (
        (lambda: ExponentialAdams(0), "1 to 4"),
        (lambda: ExponentialAdams(2, -0.1), "tau from 0 to 5"),
        (lambda: ExponentialAdams(2, 7.0), "tau from 0 to 5"),
        (lambda: ExponentialAdams(2, math.nan), "tau from 0 to 5"),
        (lambda: ExponentialAdams(2, "1"), "tau from 0 to 5"),
        (lambda: ExponentialAdams(2.0), "1 to 4"),
        (lambda: ExponentialAdams(True), "1 to 4"),
        (lambda: ExponentialAdams(2, 0.0, "no"), "corrected True or False"),
        (lambda: ExponentialAdams(2, law=True), "variance ≥ 0"),
        (lambda: ExponentialAdams(2, 1.0, law=math.inf), "noise with law=inf"),
        (lambda: ExponentialAdams(2, law=-1.0), "variance ≥ 0"),
        (lambda: ExponentialAdams(2, law=torch.ones(3)), "variance ≥ 0"),
    ):
        with pytest.raises(ValueError, match=why):
            bad()


def test_refusals_of_a_run():
    law = Independent(torch.zeros(3), torch.ones(3))
    d, z = LinearDiffusion(vp(), LinearBeta()), torch.randn(2, 1, 3)
    one, five = (Independent(torch.zeros(n), torch.ones(n)) for n in (1, 5))
    for method, why in (
        (unipc(2, one), r"law of shape \(1,\), want that of the components, \(3,\)"),
        (unipc(2, five), r"law of shape \(5,\)"),
        (sa_solver(2, lambda log_snr: log_snr * math.nan), "from 0 to 5"),
        (sa_solver(2, lambda log_snr: torch.ones(7)), r"tau \(7,\)"),
    ):
        with pytest.raises(ValueError, match=why):
            sample(method, d, Score(d, law), z, quadratic(4))


@pytest.mark.parametrize("tau", (0.0, 1.0, 2.5, 5.0))
def test_weights_of_a_constant_mean_are_what_the_state_loses(tau):
    d, z = LinearDiffusion(vp(), LinearBeta()), torch.zeros(1, 1, 3).double()
    for times in (quadratic(4), quadratic(24)):
        grid = Grid(d, times, z)
        *_, psi, _, weight = ExponentialAdams(1, tau).coefficients(grid)
        assert_close(weight, 1 - psi, rtol=1e-6, atol=1e-9)


def test_one_huge_step():
    d, z = LinearDiffusion(vp(), LinearGamma(-20.0, 20.0)), torch.randn(4, 1, 3)
    law, times = Independent(torch.zeros(3), torch.ones(3)), [1.0, 1e-3]
    z = z.double()
    right = sample(DDIM(), d, Score(d, law), z, times, final=False)
    plain = sample(ExponentialAdams(1), d, Score(d, law), z, times, final=False)
    assert_close(plain, right, rtol=1e-7, atol=1e-10)
    calm = sa_solver(1, lambda log_snr: 0 * log_snr)
    assert sample(calm, d, Score(d, law), z, times).isfinite().all()


def test_the_end_needs_the_last_steps_alone():
    d = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), hsm(psld()))
    z, times = torch.zeros(1, 2, 3).double(), quadratic(9)
    for method in (unipc(1), unipc(3), unipc(4, 0.5), sde_dpm_solver(2)):
        readings, _, again, end = method._table(Grid(d, times, z))
        whole = (*(a[-1:] for a in (*readings, *again)), *end)
        for found, right in zip(method.last(Grid(d, times, z)), whole, strict=True):
            assert_close(found, right)


@pytest.mark.parametrize("recipe", recipes)
def test_the_end_begins_where_one_more_step_would(recipe):
    r, data = recipes[recipe], laws["independent"]
    d = LinearDiffusion(r, LinearBeta(1.0, 9.0), hsm(r))
    score, end = Score(d, data), 0.05
    times = torch.linspace(1, end, 6).double()
    z = d.prior(torch.randn(3, r.k, 1, side, side).double())
    wrong = Independent(mean, 3 * data.variances)
    for method in (unipc(2, wrong), ExponentialAdams(2, law=wrong)):
        tried = sample(method, d, score, z, times, final=False)
        more = torch.cat([times, times[-1:] - 1e-9])  # corrects the step before it
        made = sample(method, d, score, z, more, final=False)
        here, there = d.kernel(end, tried), d.kernel(end - 1e-9, made)
        y, level = here.observe(tried), here.log_snr
        R, v = torch.exp(-level), wrong.variances
        shrunk = (v / (v + R)).sqrt() * (there.observe(made) - mean)
        right = mean + shrunk + data(y, level) - wrong(y, level)
        found = sample(method, d, score, z, times)[:, 0]
        assert_close(found, right, rtol=1e-6, atol=1e-6)


def test_noise_diverges_with_a_variance_far_above_the_data():
    d, law = LinearDiffusion(vp(), LinearBeta()), Independent(*torch.ones(2, 3))
    near, far = (
        gaussian_distance(sa_solver(3, 1.0, v), d, law, edm(d, 9), final=True)
        for v in (1.0, 1e3)
    )
    assert near < 1 < 10 < far
