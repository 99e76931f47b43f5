"""Process and samplers against the authors' own code and 60-digit arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gud_nb.core import act, state_layout
from gud_nb.denoiser import Independent, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import likelihood_weight
from gud_nb.recipe import psld, vp
from gud_nb.sampler import euler_maruyama, quadratic, sample, sscs, uniform
from gud_nb.schedule import (
    Cosine,
    LinearBeta,
    LinearGamma,
    sequential,
    soft_conditioning,
)
from gud_nb.transition import covariance, phi, scale_tril, tril_inverse


def load(name):
    with np.load(Path(__file__).parent / "reference" / f"{name}.npz") as f:
        return {k: torch.as_tensor(f[k]) if f[k].dtype.kind == "f" else f[k] for k in f}


kernel, samplers, vpsde, gud = (
    load(n) for n in ("psld_kernel", "psld_samplers", "vpsde", "gud")
)


# The kernel of psld and cld
def close(got, want, tol=1e-10):
    "Relative for each entry; entries that are exactly 0 must be 0."
    assert got.shape == want.shape and len(want)
    error = (got - want).abs() / want.abs().clamp(min=1e-300)
    error = torch.where(want == 0, got.abs(), error)
    assert error.max() < tol, f"largest error {error.max():.1e}"


@pytest.mark.parametrize("c", [0, 1], ids=["PSLD", "CLD"])
@pytest.mark.parametrize("start", [0, 1], ids=["HSM", "DSM"])
def test_kernel_from_first_to_last_instant(c, start):
    nu, Gamma, beta, _, kappa, _ = kernel["cfg"][c].tolist()
    recipe = psld(Gamma, nu)
    Sigma0 = hsm(recipe, kappa) if start == 0 else None
    B = LinearBeta(beta, beta).B(kernel["t"])
    C, L = covariance(recipe, B, Sigma0), scale_tril(recipe, B, Sigma0)
    close(phi(recipe, B), kernel["true_mean"][c])
    close(
        torch.stack([C[:, 0, 0], C[:, 0, 1], C[:, 1, 1]], -1),
        kernel["true_cov"][c, start],
    )
    close(L, kernel["true_coef_lower"][c, start])
    close(tril_inverse(L).mT, kernel["true_invT_lower"][c, start])


@pytest.mark.parametrize("c", [0, 1], ids=["PSLD", "CLD"])
def test_forward_drift_and_noise(c):
    nu, Gamma, beta = kernel["cfg"][c, :3].tolist()
    d = LinearDiffusion(psld(Gamma, nu), LinearBeta(beta, beta))
    t, exact = kernel["t"], dict(rtol=1e-12, atol=1e-12)
    assert_close(act(d.F(t), kernel["u"]), kernel["drift"][c], **exact)
    noise = d.G(t).diagonal(dim1=-2, dim2=-1)
    assert_close(noise, kernel["diffusion"][c], **exact)


# Samplers of psld
def states(u):
    "Channels (x, m) as phases next to the batch: no copy, since both are x first."
    return u.unflatten(1, (2, -1))


d = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))
z1 = states(samplers["c0_xT"])


def reference_score(z, t):
    "The authors' exact score, with the 1e-9 that they add to both variances."
    B = d.schedule.B(torch.as_tensor(t, dtype=torch.float64))
    first = phi(d.recipe, B)[:, :1]
    C = covariance(d.recipe, B, hsm(d.recipe)) + samplers["S0"] ** 2 * first @ first.T
    C = C + samplers["numerical_eps"] * torch.eye(2).double()
    centred = z.movedim(1, -1) - samplers["MU"][..., None] * first[:, 0]
    return -torch.linalg.solve(C, centred[..., None])[..., 0].movedim(-1, 1)


def test_grids():
    assert_close(1 - uniform(9, 1e-3), samplers["ts_uniform_10_dn"], rtol=0, atol=1e-14)
    assert_close(
        1 - quadratic(9, 1e-3), samplers["ts_quadratic_10_dn"], rtol=0, atol=1e-14
    )


def test_reverse_process_and_flow():
    z = states(samplers["u_probe"])
    for i, t in enumerate(1 - samplers["t_probe_rev"]):
        s = reference_score(z[i : i + 1], t)
        assert_close(
            s, states(samplers["c0_f64_probe_score"])[i : i + 1], rtol=1e-7, atol=1e-7
        )
        assert_close(
            -d.reverse_drift(z[i : i + 1], s, t),
            states(samplers["c0_f64_rev_sde_drift"])[i : i + 1],
            rtol=1e-7,
            atol=1e-7,
        )
        assert_close(
            -d.flow(z[i : i + 1], s, t),
            states(samplers["c0_f64_rev_pf_drift"])[i : i + 1],
            rtol=1e-7,
            atol=1e-7,
        )


@pytest.mark.parametrize("j", [0, 1])
def test_single_steps(j):
    r, dt = samplers["single_step_t_dt"][j]
    z, t, s = states(samplers["u_probe"]), 1 - r, 1 - r - dt
    noise = [states(samplers["noise_em"][0])]
    times = [float(t), float(s)]
    got = sample(euler_maruyama, d, reference_score, z, times, noise=noise, final=False)
    want = states(samplers[f"c0_f64_em_step{j}"])
    assert (got - want).abs().max() < 1e-9 * want.abs().max().clamp(min=1)


@pytest.mark.parametrize("grid", [uniform, quadratic])
def test_euler_maruyama_ends_where_the_reference_ends(grid):
    z = sample(
        euler_maruyama,
        d,
        reference_score,
        z1,
        grid(9, 1e-3),
        noise=[states(n) for n in samplers["noise_em"][:9]],
    )
    assert_close(
        z, states(samplers[f"c0_f64_em_{grid.__name__}_10_dn"]), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("grid", [uniform, quadratic])
def test_sscs_ends_where_the_reference_ends(grid):
    "To 2e-7: the reference adds 1e-9 to the variances of its analytic halves, too."
    noise = [
        torch.stack(
            [
                states(samplers["noise_sscs"][2 * i]),
                states(samplers["noise_sscs"][2 * i + 1]),
            ]
        )
        for i in range(9)
    ]
    z = sample(sscs, d, reference_score, z1, grid(9, 1e-3), noise=noise)
    assert_close(
        z, states(samplers[f"c0_f64_sscs_{grid.__name__}_10_dn"]), rtol=2e-7, atol=2e-7
    )


def test_exact_score_without_the_added_variance():
    "Our oracle is the reference's, less its 1e-9."
    variances = samplers["S0"].expand(samplers["MU"].shape) ** 2
    S = Score(d, Independent(samplers["MU"], variances))
    z = states(samplers["u_probe"])
    assert_close(S(z, 0.5), reference_score(z, 0.5), rtol=1e-6, atol=1e-6)


# Vp-sde
vp_d = LinearDiffusion(
    vp(), LinearBeta(vpsde["beta_min"].item(), vpsde["beta_max"].item())
)


def test_vp_kernel():
    t, noise = vpsde["t"], vpsde["eps"][:, None]
    p = vp_d.perturb(vpsde["x0"], t, noise)
    assert_close(vp_d.schedule.beta(t), vpsde["beta"], rtol=1e-12, atol=0)
    assert_close(
        phi(vp(), vp_d.schedule.B(t))[:, 0, 0], vpsde["mean_coef"], rtol=1e-12, atol=0
    )
    assert_close(p.L.flatten(), vpsde["std"], rtol=1e-10, atol=0)
    assert_close(p.z[:, 0], vpsde["xt"], rtol=1e-12, atol=1e-12)
    score = vp_d.score(p.z, t, vpsde["x0"])[:, 0]
    assert_close(score, vpsde["score"], rtol=1e-9, atol=1e-9)
    noise_again = vp_d.kernel(t, p.z).noise(p.z, vpsde["x0"])
    assert_close(noise_again, noise, rtol=1e-9, atol=1e-9)
    F = state_layout(vp_d.F(t)[:, None, None, None])
    drift = act(F, vpsde["x0"][:, None])[:, 0]
    assert_close(drift, vpsde["drift_x0"], rtol=1e-12, atol=1e-12)
    assert_close(vp_d.G(t).flatten(), vpsde["diffusion"], rtol=1e-12, atol=0)


def test_vp_likelihood_weight_is_beta_on_the_score():
    "Our weight acts on the error of the noise: β/σ²."
    W = likelihood_weight(vp_d, vpsde["t"], vpsde["eps"][:, None]).flatten()
    assert_close(
        W * vpsde["std"] ** 2, vpsde["likelihood_weighting"], rtol=1e-9, atol=0
    )


def test_vp_reverse():
    u, z = 1 - vpsde["rev_t"], vpsde["rev_x"][:, None]  # the reference counts backwards
    mean = torch.full(z.shape[2:], vpsde["rev_mu0"].item())
    variances = torch.full(z.shape[2:], vpsde["rev_s0"].item() ** 2)
    s = Score(vp_d, Independent(mean, variances))(z, u)
    close_to = dict(rtol=1e-7, atol=1e-7)
    assert_close(-vp_d.flow(z, s, u)[:, 0], vpsde["rev_drift_pf_f64"], **close_to)
    sde = -vp_d.reverse_drift(z, s, u)[:, 0]
    assert_close(sde, vpsde["rev_drift_sde_f64"], **close_to)


# Schedules
@pytest.mark.parametrize(
    "name, schedule",
    [
        ("linear_-7_3", LinearGamma(-7.0, 3.0)),
        ("linear_cap", LinearGamma(-13.3, 5.0, clip=(-7.0, 3.0))),
        ("vp_0.1_20", LinearBeta(0.1, 20.0)),
        ("cosine_0.008", Cosine(0.008, B_max=60.0)),
    ],
)
def test_schedules(name, schedule):
    t, want = (
        gud["t"],
        {k: gud[f"{name}/{k}"] for k in ("gamma", "beta", "alpha", "sigma")},
    )
    fine = want["gamma"].isfinite() & want["beta"].isfinite() & (want["beta"] < 1e6)
    assert fine.sum() >= 18
    assert_close(schedule.gamma(t)[fine], want["gamma"][fine], rtol=1e-9, atol=1e-9)
    assert_close(
        torch.exp(-schedule.B(t) / 2)[fine], want["alpha"][fine], rtol=1e-9, atol=1e-9
    )
    kink = torch.zeros_like(fine)
    for b in schedule.breakpoints:
        kink |= (t - b).abs() < 1e-9  # there the reference halves β
    assert_close(
        schedule.beta(t)[fine & ~kink], want["beta"][fine & ~kink], rtol=1e-8, atol=1e-8
    )


def soft(softness, clip=False):
    "The reference counts in 1/a."
    return soft_conditioning(gud["variances"], 1 / softness, whitened=True, clip=clip)


columns = sequential(
    -torch.arange(4.0).repeat(4), 0.5, -13.0, 5.0
)  # the reference computes these in float32


@pytest.mark.parametrize(
    "name, schedule, tol",
    [
        ("soft_0.5", soft(0.5), 1e-9),
        ("soft_1.0", soft(1.0), 1e-9),
        ("soft_0.5_clip", soft(0.5, clip=True), 1e-9),
        ("column_4x4_2.0", columns, 3e-6),
    ],
)
def test_component_schedules(name, schedule, tol):
    t, gamma, beta = gud["t"], gud[f"{name}/gamma"], gud[f"{name}/beta"]
    assert schedule.shape == (16,) and schedule.gamma(t).shape == gamma.shape
    assert_close(schedule.gamma(t), gamma, rtol=0, atol=tol)
    kink = torch.zeros_like(
        gamma
    ).bool()  # a component at one of its bounds: there the reference halves β
    for bound in schedule.clip or ():
        kink |= ((gamma - torch.as_tensor(bound)).abs() < 1e-5) & (schedule.beta(t) > 0)
    assert kink.float().mean() < 0.1
    assert_close(schedule.beta(t)[~kink], beta[~kink], rtol=tol, atol=tol)


def test_unwhitened_soft_conditioning_is_the_whitened_reference_shifted():
    "The same SNRs in either scale; a = 1 is one schedule for all."
    v, t = gud["variances"], gud["t"]
    assert_close(
        soft_conditioning(v, 2.0).gamma(t) - v.log(),
        gud["soft_0.5/gamma"],
        rtol=0,
        atol=1e-9,
    )
    standard = soft_conditioning(v, 1.0).gamma(t)
    assert_close(standard, standard[:, :1].expand(-1, 16), rtol=0, atol=1e-12)
