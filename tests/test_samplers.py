"""The order of every sampler for every recipe, in pixels with one clock and in a Haar basis with a clock per level, without a sample."""

import pytest
import torch

from gud_nb.basis import Pixel, Wavelet, level_order
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import (
    DEIS,
    Conjugate,
    ConjugateSplitting,
    DPMSolver,
    Splitting,
    ancestral,
    predictor_corrector,
)
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    ddim,
    euler_maruyama,
    exponential_heun,
    flow_euler,
    heun,
    measure_order,
    sscs,
)
from gud_nb.schedule import LinearBeta, LinearGamma
from gud_nb.score import gaussian

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
nominal = {
    "euler_maruyama": (euler_maruyama, 1),
    "sscs": (sscs, 1),
    "flow_euler": (flow_euler, 1),
    "heun": (heun, 2),
    "ddim": (ddim, 1),
    "exponential_heun": (exponential_heun, 2),
    "DPMSolver(1)": (DPMSolver(1), 1),
    "DPMSolver(2)": (DPMSolver(2), 2),
    "DPMSolver(3)": (DPMSolver(3), 3),
    "DEIS(1)": (DEIS(1), 1),
    "DEIS(2)": (DEIS(2), 2),
    "DEIS(3)": (DEIS(3), 3),
    "ancestral": (ancestral, 1),
    "Euler-Maruyama, corrected": (predictor_corrector(euler_maruyama), 1),
    "DDIM, corrected": (predictor_corrector(ddim), 1),
    "Conjugate(0)": (Conjugate(0.0), 1),
    "Conjugate(.1)": (Conjugate(0.1), 1),
    "conjugate splitting": (ConjugateSplitting(), 1),
    "λ-DDIM-II": (Conjugate(0.1 * torch.ones(1, 1)), 1),
}
nominal |= {
    f"{w}{', naive' * (not r)}": (Splitting(w, reduced=r), 1)
    for w in ("BA", "BAB", "OBA", "BAO", "OBAB")
    for r in (True, False)
}

side = 4
place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
cov = 2 * torch.exp(
    -torch.cdist(place, place) / 2
)  # a field whose correlations fall with distance
haar = Wavelet((1, side, side), "haar", 2)
U = haar(torch.eye(side**2).double().reshape(-1, 1, side, side)).flatten(1).T
settings = {
    "pixels, one clock": (Pixel((1, side, side)), lambda: LinearBeta(1.0, 9.0), cov),
    "Haar, clocks by level": (
        haar,
        lambda: LinearGamma(-2.5 - 0.4 * level_order(haar), 3.0),
        U @ cov @ U.T,
    ),
}


@pytest.mark.parametrize("setting", settings)
@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("sampler", nominal)
def test_order(sampler, recipe, setting):
    (step, order), r, (basis, clock, C) = (
        nominal[sampler],
        recipes[recipe],
        settings[setting],
    )
    if isinstance(step, (Splitting, ConjugateSplitting)) and r.k == 1:
        pytest.skip("a splitting needs a momentum")
    d = LinearDiffusion(r, clock(), Sigma0=hsm(r))
    ns = (160, 320) if sampler == "DEIS(3)" else (40, 80)  # its third order shows late
    errors, measured = measure_order(
        step, d, gaussian(torch.zeros(basis.shape), C), ns, eps=0.1
    )
    print(
        f"{sampler:26} {recipe:12} {setting:22} nominal {order}, measured {measured:.2f}, errors {errors[0]:.1e} {errors[1]:.1e}"
    )
    assert order - 0.35 < measured < order + 0.9
