"""Phase-space GUD: every recipe in every basis, a schedule for each component"""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.testing import assert_close

from gud_nb.basis import (
    DCT,
    PCA,
    Fourier,
    Scaled,
    Wavelet,
    Whitened,
    column_order,
    spectrum_order,
)
from gud_nb.data import digits
from gud_nb.denoiser import Independent, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DEIS, DPMSolver
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    euler_maruyama,
    exponential_heun,
    marginal_covariance,
    measure_order,
    sscs,
)
from gud_nb.schedule import sequential, soft_conditioning
from gud_nb.transition import covariance, phi

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
bases = ("Haar", "DCT", "Fourier", "PCA")
priors = ("white", "matching")
schedules = {
    "standard": lambda v, order, w: soft_conditioning(v, 1.0, whitened=w),
    "soft": lambda v, order, w: soft_conditioning(v, 2.0, whitened=w),
    "one by one": lambda v, order, w: sequential(order, 0.5),
}
some = torch.tensor([0, 9, 22, 35, 48, 63])  # of 64 components
every_recipe = pytest.mark.parametrize("recipe", recipes)
every_basis = pytest.mark.parametrize("basis", bases)
every_schedule = pytest.mark.parametrize("schedule", schedules)
every_prior = pytest.mark.parametrize("prior", priors)


@cache
def setting(name, prior):
    "Digits, a basis with its scale, the variances in it, and an order."
    x, shape = digits().x.double(), (1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # variances raised to the floor
        make = {
            "Haar": lambda: Wavelet(shape, "haar", 3),
            "DCT": lambda: DCT(shape),
            "Fourier": lambda: Fourier(shape),
            "PCA": lambda: PCA.fit(x, 1e-3),
        }
        basis = make[name]()
        matching = Whitened.fit(basis, x, 1e-3)
    v = matching.scale.square()
    order = column_order(basis) if name == "Haar" else spectrum_order(v)
    scaled = matching if prior == "matching" else Scaled(basis, matching.mean)
    return x, scaled, v, order


def process(recipe, basis, schedule, prior):
    "A process by its four names."
    _, _, v, order = setting(basis, prior)
    s = schedules[schedule](v, order, prior == "matching")
    r = recipes[recipe]
    return LinearDiffusion(r, s, hsm(r), by_snr=True)


def few(recipe, basis, schedule, prior):
    "The same for a few components, and the law of these."
    _, _, v, order = setting(basis, prior)
    v, order = v.flatten()[some], order.flatten()[some]
    w = prior == "matching"
    r = recipes[recipe]
    d = LinearDiffusion(r, schedules[schedule](v, order, w), hsm(r), by_snr=True)
    return d, Independent(torch.zeros(6), torch.ones(6) if w else v)


def normal(*shape, seed=0):
    "Standard normal numbers in double precision."
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def integrated(recipe, B):
    "φ and Σ at each of several B, by an ODE solver, from their equations."
    A, D, k = recipe.A.numpy(), recipe.D.numpy(), recipe.k

    def velocity(B, state):
        phi, Sigma = state[:k], state[k:].reshape(k, k)
        spread = (A @ Sigma + Sigma @ A.T) / 2 + D
        return np.concatenate([A @ phi / 2, spread.ravel()])

    start = np.concatenate([np.eye(k)[0], hsm(recipe).numpy().ravel()])
    at, back = np.unique(B.numpy(), return_inverse=True)
    how = dict(t_eval=at, rtol=1e-11, atol=1e-17)
    run = solve_ivp(velocity, (0, at[-1]), start, **how)
    found = torch.as_tensor(run.y.T)[back.reshape(-1)]
    return found[:, :k], found[:, k:].reshape(-1, k, k)


# The kernel


@every_prior
@every_schedule
@every_basis
@every_recipe
def test_kernel_of_each_component_is_that_of_its_own_schedule(
    recipe, basis, schedule, prior
):
    x, scaled, _, _ = setting(basis, prior)
    d, r = process(recipe, basis, schedule, prior), recipes[recipe]
    chi = scaled(x[:3])
    noise = normal(3, r.k, *scaled.shape)
    t = torch.tensor([0.2, 0.5, 0.9]).double()
    p = d.perturb(chi, t, noise)
    B = d.schedule.B(t)  # (3, *comp)
    mean = phi(r, B)[..., 0] * chi[..., None]
    assert_close(p.mean, mean.movedim(-1, 1))
    L = p.L.movedim((1, 2), (-2, -1))
    assert_close(L @ L.mT, covariance(r, B, hsm(r)))
    assert_close(scaled.inv(scaled(x[:3])), x[:3])  # and the basis loses nothing


@every_basis
@every_recipe
def test_kernel_by_an_ode_solver(recipe, basis):
    d, _ = few(recipe, basis, "soft", "white")
    r, like = recipes[recipe], normal(1, recipes[recipe].k, 6)
    chi = normal(1, 6, seed=1)
    p = d.perturb(chi, 0.5, like)
    seen = d.observe(p.z, 0.5)
    mean, Sigma = integrated(r, d.B(0.5, like)[0])
    assert_close(p.mean[0].T, mean * chi[0, :, None], rtol=1e-7, atol=1e-9)
    L = p.L[0].permute(2, 0, 1)
    assert_close(L @ L.mT, Sigma, rtol=1e-6, atol=1e-9)
    weight = torch.linalg.solve(Sigma, mean)
    snr = (mean * weight).sum(1)
    assert_close(seen.log_snr[0], snr.log(), rtol=0, atol=1e-6)
    assert_close(seen.y[0], (weight * p.z[0].T).sum(1) / snr, rtol=0, atol=1e-6)


@every_prior
@every_schedule
@every_basis
def test_the_log_snr_is_that_of_the_schedule_for_every_recipe(basis, schedule, prior):
    _, scaled, v, order = setting(basis, prior)
    t = torch.linspace(0.05, 1, 5).double()
    stated = -schedules[schedule](v, order, prior == "matching").gamma(t)
    for recipe in recipes:
        d = process(recipe, basis, schedule, prior)
        found = d.log_snr(t, torch.zeros(5, d.k, *scaled.shape))
        assert_close(found, stated, rtol=0, atol=1e-8)


@every_schedule
@every_basis
def test_one_denoiser_gives_one_guess_for_states_with_one_observation(basis, schedule):
    x, scaled, v, _ = setting(basis, "white")
    chi, n = scaled(x[:2]), normal(2, *scaled.shape)
    law, guesses = Independent(torch.zeros_like(v), v), []
    for recipe in recipes:
        d = process(recipe, basis, schedule, "white")
        noise = normal(2, d.k, *scaled.shape, seed=1)
        w = d.kernel(0.6, noise).w
        w = w / w.norm(dim=1, keepdim=True)
        noise = noise + w * (n - (w * noise).sum(1))[:, None]
        guesses.append(Score(d, law).data(d.perturb(chi, 0.6, noise).z, 0.6))
    for guess in guesses[1:]:
        assert_close(guess, guesses[0], rtol=0, atol=1e-6)


# The way back


@pytest.mark.parametrize("noisy", (False, True), ids=("flow", "SDE"))
@every_basis
@every_recipe
def test_the_way_back_keeps_the_law_of_each_component(recipe, basis, noisy):
    "By the rate of the covariance: that of the way back is that of the marginal."
    for schedule, prior in (("soft", "white"), ("one by one", "matching")):
        d, law = few(recipe, basis, schedule, prior)
        k, score = d.k, Score(d, law)
        units = torch.eye(k).double()[..., None].expand(k, k, 6)
        for t in (0.2, 0.8):
            s = score(units, t)
            N = d.reverse_drift(units, s, t) if noisy else d.flow(units, s, t)
            N, V = N.permute(2, 1, 0), marginal_covariance(d, law, t)
            rate = N @ V + V @ N.mT
            if noisy:
                rate = rate - d.beta(t, units)[0, :, None, None] * d.recipe.D
            h = 1e-5
            late, early = (marginal_covariance(d, law, t + u) for u in (h, -h))
            right = (late - early) / (2 * h)
            size = d.beta(t, units).max()
            assert_close(rate, right, rtol=1e-4, atol=1e-5 * (1 + size.item()))


# Samplers


@pytest.mark.parametrize(
    "sampler",
    (
        euler_maruyama,
        sscs,
        exponential_heun,
        DPMSolver(3),
        DEIS(2),
    ),
    ids=repr,
)
@every_basis
@every_recipe
def test_order(recipe, basis, sampler):
    d, law = few(recipe, basis, "soft", "white")
    ns = (256, 512) if sampler.order == 3 else (64, 128)  # a third order shows late
    _, found = measure_order(sampler, d, law, ns)
    assert sampler.order - 0.35 < found < sampler.order + 0.4


@every_basis
@pytest.mark.parametrize("recipe", ("PSLD", "third order"))
def test_order_with_a_matching_prior(recipe, basis):
    d, law = few(recipe, basis, "soft", "matching")
    _, found = measure_order(exponential_heun, d, law, (64, 128))
    assert abs(found - 2) < 0.2


# Friction for each component


@every_basis
def test_a_friction_for_each_component(basis):
    _, scaled, v, _ = setting(basis, "matching")
    ranks = v.flatten().argsort().argsort().reshape(v.shape) / 63
    Gamma = 0.01 + ranks.double()
    many = psld(Gamma, nu=4.0)
    s = schedules["soft"](v, None, True)
    d = LinearDiffusion(many, s, hsm(many))
    chi, noise = normal(2, *scaled.shape), normal(2, 2, *scaled.shape, seed=1)
    z = d.perturb(chi, 0.6, noise).z.flatten(2)
    y = d.observe(d.perturb(chi, 0.6, noise).z, 0.6).y.flatten(1)
    for i in some.tolist():
        r = psld(Gamma.flatten()[i].item(), nu=4.0)
        own = soft_conditioning(v, 2.0, whitened=True)
        low, high = (g.flatten()[i].item() for g in (own.gamma(0.0), own.gamma(1.0)))
        lone = LinearDiffusion(r, type(own)(low, high), hsm(r))
        alone = lone.perturb(
            chi.flatten(1)[:, i, None], 0.6, noise.flatten(2)[..., [i]]
        )
        assert_close(z[..., [i]], alone.z)
        assert_close(y[:, [i]], lone.observe(alone.z, 0.6).y)
    law = Independent(torch.zeros_like(v), torch.ones_like(v))
    assert abs(measure_order(exponential_heun, d, law, (48, 96))[1] - 2) < 0.2


def test_frictions_of_components_and_by_snr_are_refused_together():
    many = psld(torch.tensor([0.01, 1.0]), nu=4.0)
    s = soft_conditioning(torch.tensor([1.0, 0.1]), 1.0)
    with pytest.raises(ValueError, match="one recipe for all components"):
        LinearDiffusion(many, s, hsm(many), by_snr=True)
