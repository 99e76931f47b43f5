"""Corrected and stochastic multistep: orders, evaluations, and noise that is used."""

import pytest
import torch
from torch.testing import assert_close

from gud_nb.adams import ExponentialAdams, sa_solver, sde_dpm_solver, unipc
from gud_nb.basis import Wavelet, level_order
from gud_nb.denoiser import Independent, Score, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DPMSolver
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import evaluations, measure_order, quadratic, sample
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
}
side = 4
place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
cov = 2 * torch.exp(-torch.cdist(place, place) / 2)
haar = Wavelet((1, side, side), "haar", 2)
U = haar(torch.eye(side**2).double().reshape(-1, 1, side, side)).flatten(1).T
by_level = LinearGamma(-2.5 - 0.4 * level_order(haar), 3.0)
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
    errors, order = measure_order(method, d, law, (60, 120))
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


@pytest.mark.parametrize("recipe", recipes)
def test_without_noise_and_correction_it_is_dpm_solver(recipe):
    d = LinearDiffusion(recipes[recipe], LinearBeta(), hsm(recipes[recipe]))
    law = Independent(torch.zeros(3), torch.tensor([0.1, 1.0, 9.0]))
    z = torch.randn(2, d.k, 3).double()
    a = sample(ExponentialAdams(2), d, Score(d, law), z, quadratic(9))
    assert_close(a, sample(DPMSolver(2), d, Score(d, law), z, quadratic(9)))
