"""Recipes and their transition: sweeps, refusals, values that follow from matrices."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from gud_nb import recipe as recipes
from gud_nb import transition as transitions
from gud_nb.recipe import (
    Recipe,
    broken_conditions,
    cld,
    drift,
    higher_order,
    phase_space,
    psld,
    recover_q,
    stationarity_residual,
    third_order,
    vp,
)
from gud_nb.transition import covariance, expm, phi, transition

MAKERS = {
    "vp": vp,
    "cld": cld,
    "psld": psld,
    "underdamped": lambda: psld(0.01, 1.0, M=0.05),
    "overdamped": lambda: psld(0.01, 8.0, M=1.0),
    "correlated": lambda: phase_space(0.3, 2.0, rho=0.7),
    "third order": third_order,
    **{f"order {n}": lambda n=n: higher_order(n) for n in range(2, 7)},
    "per component": lambda: psld(torch.tensor([0.0, 0.01, 0.25]), 4.0, M=0.25),
}
DERIVED = "A S G gap _white _reach _phi_terms _noise_terms _doublings _reached".split()
every_recipe = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
two_phases = torch.eye(2, dtype=torch.float64)
J = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
B = torch.tensor([1e-6, 0.3, 4.0], dtype=torch.float64)


def times(make):
    "B for a recipe, with an axis for its components."
    return B[:, None] if make().shape else B


# The matrix exponential

REGIMES = {
    "oscillates": [[0.0, -1.0], [1.0, 0.0]],
    "damped": [[-0.1, -3.0], [1.0, -0.5]],
    "critical": [[1.0, 1.0], [0.0, 1.0]],
    "almost critical": [[0.3, 1e-9], [1.0, 0.3]],
    "just outside of the series": [[0.3, 0.0101], [1.0, 0.3]],
    "just inside of the series": [[0.3, -0.0099], [1.0, 0.3]],
    "nothing": [[0.0, 0.0], [0.0, 0.0]],
    "one direction": [[0.0, 400.0], [0.0, 0.0]],
    "stiff": [[-800.0, 0.5], [0.5, -1.0]],
    "stiff both ways": [[-400.0, 395.0], [395.0, -400.0]],
    "grows": [[300.0, 1.0], [2.0, -900.0]],
}


@pytest.mark.parametrize("rows", REGIMES.values(), ids=REGIMES.keys())
def test_expm_of_two_phases_against_80_digits(rows):
    with mp.workdps(80):
        want = mp.expm(mp.matrix(rows), method="taylor")
        top = max(abs(v) for v in want)
        got = expm(torch.tensor(rows, dtype=torch.float64)).tolist()
        misses = [abs(got[i][j] - want[i, j]) for i in (0, 1) for j in (0, 1)]
        size = max(1.0, max(abs(v) for row in rows for v in row))
        assert max(misses) / top < 1e-15 * size


def test_expm_does_not_overflow_on_the_way():
    M = torch.tensor([[-2e4, 1e4], [1e4, -2e4]], dtype=torch.float64)
    assert torch.equal(expm(M), torch.zeros(2, 2).double())
    M = torch.tensor([[-1e6, 0.0], [0.0, -1e-6]], dtype=torch.float64)
    assert_close(expm(M).diagonal(), torch.tensor([0.0, 1.0 - 1e-6]).double())


def test_expm_finds_the_slow_mode_without_a_difference():
    rows = [[0.0, 500.0], [-500.0, -2e6]]  # eigenvalues -2e6 and -0.125
    with mp.workdps(80):
        want = mp.expm(mp.matrix(rows), method="pade")[0, 0]
    got = expm(torch.tensor(rows, dtype=torch.float64))[0, 0].item()
    assert abs(got / want - 1) < 1e-14


@pytest.mark.parametrize("q", [0.0, 1e-300, 1e-4, 0.00999, 0.0101, -0.00999, -0.0101])
def test_expm_is_differentiable_through_critical_damping(q):
    M = torch.tensor([[0.3, q], [1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(expm, M)
    assert torch.autograd.gradgradcheck(expm, M)


def test_expm_has_a_finite_derivative_far_out():
    M = torch.tensor([[-800.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    assert torch.func.jacfwd(expm)(M).isfinite().all()
    assert torch.func.jacrev(expm)(M).isfinite().all()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_expm_of_many(k):
    g = torch.Generator().manual_seed(k)
    M = torch.randn(5, 7, k, k, generator=g, dtype=torch.float64)
    assert_close(expm(M), torch.linalg.matrix_exp(M), rtol=1e-11, atol=1e-12)
    assert expm(M.float()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_expm_refuses_what_is_not_square(shape):
    with pytest.raises(ValueError, match="square matrices"):
        expm(torch.zeros(shape))


# Values that follow from the matrices of a recipe

FIRST_USES = {
    "forward mode": lambda f, b: torch.func.jvp(f, (b,), (torch.ones_like(b),)),
    "reverse mode": lambda f, b: torch.func.grad(lambda t: f(t).sum())(b),
    "jacfwd": lambda f, b: torch.func.jacfwd(f)(b),
    "inference mode": lambda f, b: torch.inference_mode()(f)(b),
    "no grad": lambda f, b: torch.no_grad()(f)(b),
}


@every_recipe
@pytest.mark.parametrize("first", FIRST_USES.values(), ids=FIRST_USES.keys())
def test_first_use_leaves_no_mark(make, first):
    r, b = make(), times(make)
    first(lambda t: covariance(r, t), b)
    copied = copy.deepcopy(r)
    b = b.clone().requires_grad_()
    for later in (r, copied):
        later_grad = torch.autograd.grad(covariance(later, b).sum(), b)[0]
        want = torch.autograd.grad(covariance(make(), b).sum(), b)[0]
        assert torch.equal(later_grad, want)


@every_recipe
def test_a_recipe_made_in_inference_mode_can_be_trained_with(make):
    with torch.inference_mode():
        r = make()
        covariance(r, times(make))
        mirrored = r.reversed()
    b = times(make).clone().requires_grad_()
    for later in (r, mirrored):
        assert not any(M.is_inference() for M in (later.D, later.A, later.S))
        covariance(later, b).sum().backward()


@every_recipe
def test_derived_values_are_those_of_a_fresh_recipe(make):
    r, copied = make(), pickle.loads(pickle.dumps(copy.deepcopy(make())))  # noqa: S301
    for name in DERIVED:
        assert_close(getattr(r, name), getattr(copied, name), rtol=0, atol=0)
        assert getattr(r, name) is getattr(r, name)


def test_derived_values_are_kept_once_among_threads():
    r = psld(torch.linspace(0.0, 1.0, 500), 4.0, M=0.25)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: (r.A, r._noise_terms), range(32)))
    assert {id(A) for A, _ in found} == {id(r.A)}
    assert {id(terms) for _, terms in found} == {id(r._noise_terms)}


def test_nothing_is_remembered_outside_of_a_recipe():
    for module in (recipes, transitions):
        remembering = [n for n, v in vars(module).items() if hasattr(v, "cache_info")]
        assert not remembering


def test_a_recipe_does_not_change_with_the_matrices_it_was_made_of():
    D, Q, H = two_phases.clone(), J.clone(), two_phases.clone()
    r = Recipe(D, Q, H)
    D[0, 0] = 7.0
    Q *= 2
    assert_close(r.A, -(two_phases + J))


def test_copies_and_mirrors_are_made_once():
    r = psld()
    assert r.on("cpu") is r
    assert r.reversed() is r.reversed()
    assert_close(r.reversed().Q, -r.Q)


# The complete recipe, for any energy


def double_well(z):
    return (z[0] ** 2 - 1) ** 2 + z[1:].square().sum() / 2


def banana(z):
    return z[0] ** 2 / 2 + 2 * (z[1] - z[0] ** 2 / 2) ** 2 + z[2:].square().sum() / 2


def square(z):
    return z @ z / 2


def ring(z):
    return (z @ z) ** 2 - 2 * z @ z


def const(M):
    return lambda s: torch.as_tensor(M, dtype=s.dtype)


def random_recipe(d, seed):
    "Smooth random D(z), positive semidefinite, and Q(z), skew."
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(2, d, d, d, generator=g, dtype=torch.float64)
    b = torch.randn(2, d, d, generator=g, dtype=torch.float64)

    def waves(n, z):
        return torch.sin(W[n].to(z) @ z + b[n].to(z))

    def D(z):
        return waves(0, z) @ waves(0, z).mT

    def Q(z):
        return waves(1, z) - waves(1, z).mT

    return D, Q


def random_states(d, n=200):
    g = torch.Generator().manual_seed(d)
    return 1.2 * torch.randn(n, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("H", [double_well, banana])
@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_recipe_leaves_its_law_stationary(H, d, seed):
    residual = stationarity_residual(*random_recipe(d, seed), H, random_states(d))
    assert residual.shape == (200,)
    assert residual.abs().max() < 1e-8


def test_the_residual_in_float32_and_in_one_dimension():
    z = random_states(2).float()
    residual = stationarity_residual(*random_recipe(2, 0), double_well, z)
    assert residual.abs().max() < 1e-2
    two = torch.tensor([[2.0]], dtype=torch.float64)
    got = drift(lambda s: 1 + s[:1, None] ** 2, const([[0.0]]), square, two)
    assert_close(got.item(), -5.0 * 2 + 4)  # -D z + D'


def test_drift_takes_any_batch_and_has_the_sign_of_Q():
    D, Q = random_recipe(2, 0)
    assert drift(D, Q, double_well, torch.zeros(3, 5, 2).double()).shape == (3, 5, 2)
    residual = stationarity_residual(D, Q, double_well, torch.zeros(2).double())
    assert residual.shape == ()
    z = random_states(2)
    turns = torch.tensor([[1.0, 3.0], [-3.0, 2.0]], dtype=torch.float64)
    assert_close(drift(const(diagonal(1, 2)), const(3 * J), square, z), -z @ turns)


@pytest.mark.parametrize(
    "D, H, z, why",
    [
        (random_recipe(2, 0)[0], double_well, torch.zeros(4, 3).double(), "size"),
        (const([1.0, 2.0]), double_well, random_states(2), r"give \(2, 2\)"),
        (random_recipe(2, 0)[0], lambda s: s, random_states(2), "gives a number"),
        (random_recipe(2, 0)[0], double_well, torch.ones(4, 2).long(), "floating-poi"),
    ],
)
def test_drift_refuses(D, H, z, why):
    Q = D if why.startswith("give ") else random_recipe(2, 0)[1]
    with pytest.raises((ValueError, RuntimeError), match=why):
        drift(D, Q, H, z)


def test_the_theorem_and_the_class_agree():
    r = Recipe(two_phases, 3 * J, diagonal(1, 4))
    z = random_states(2)
    general = const(r.D), const(r.Q), lambda s: s @ r.H @ s / 2
    assert_close(drift(*general, z), z @ r.A.mT)
    assert stationarity_residual(*general, z).abs().max() < 1e-8


def euler(D, f, z, dt, steps, seed):
    "Euler-Maruyama for dz = f dt + √(2D) dw with a diagonal D; D, f take rows."
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        noise = torch.randn(z.shape, generator=g, dtype=z.dtype)
        z = z + dt * f(z) + (2 * dt * D(z)).sqrt() * noise
    return z


def test_a_simulated_recipe_has_its_law_and_without_tau_it_has_not():
    "A banana, with noise and circulation that depend on the place."

    def D(s):
        waves = torch.stack([torch.sin(2 * s[1]), torch.cos(2 * s[0])])
        return torch.diag(1 + 0.6 * waves)

    def Q(s):
        return J * (1 + s[0])

    def lame(s):
        return -(D(s) + Q(s)) @ torch.func.grad(banana)(s)

    def spread(s):
        return torch.vmap(D)(s).diagonal(dim1=-2, dim2=-1)

    edges = torch.linspace(-3, 3, 41, dtype=torch.float64)
    mid = (edges[1:] + edges[:-1]) / 2
    cells = torch.cartesian_prod(mid, mid + 1)
    law = torch.exp(-torch.vmap(banana)(cells)).reshape(40, 40)
    law /= law.sum()

    def gaps(f):
        "Largest gap between the distribution functions of x, and of y."
        start = torch.zeros(10_000, 2, dtype=torch.float64)
        end = euler(spread, f, start, 0.005, 700, 1)
        shifted = end - torch.tensor([0.0, 1.0], dtype=torch.float64)
        found = torch.histogramdd(shifted, bins=[edges, edges])[0] / len(end)
        return [(found - law).sum(a).cumsum(0).abs().max().item() for a in (1, 0)]

    assert max(gaps(lambda s: drift(D, Q, banana, s))) < 0.03
    assert max(gaps(torch.vmap(lame))) > 0.05


def recovered_by_fourier(f, D, p, half):
    "Stream function ψ of the current on a grid, and the divergence that should be 0."
    k = torch.fft.fftfreq(len(p), 2 * half / len(p), dtype=torch.float64) * 2 * torch.pi
    kx, ky = k[:, None], k[None, :]

    def derivative(field, k):
        return torch.fft.ifft2(1j * k * torch.fft.fft2(field)).real

    Jx = f[..., 0] * p - D * derivative(p, kx)
    Jy = f[..., 1] * p - D * derivative(p, ky)
    curl = ky * torch.fft.fft2(Jx) - kx * torch.fft.fft2(Jy)
    psi = torch.fft.ifft2(1j * curl / (kx**2 + ky**2).clamp(min=1e-9)).real
    return psi - psi[0, 0], derivative(Jx, kx) + derivative(Jy, ky)


def test_the_circulation_of_a_limit_cycle_by_fourier_transform():
    "A third route to the Q of notebook 01, beside the line integral and symmetry."
    n, half = 256, 3.0
    s = torch.arange(n, dtype=torch.float64) * 2 * half / n - half
    z = torch.stack(torch.meshgrid(s, s, indexing="ij"), -1)
    r2 = z.square().sum(-1, keepdim=True)
    turned = torch.stack([-z[..., 1], z[..., 0]], -1)
    f = z * (1 - r2) + (1 + r2) * turned
    p = torch.exp(-torch.vmap(ring)(z.reshape(-1, 2))).reshape(n, n)

    def found(p):
        return recovered_by_fourier(f, 0.25, p / p.sum() / (2 * half / n) ** 2, half)

    psi, div = found(p)
    assert div.abs().max() < 1e-9
    assert found(p**1.2)[1].abs().max() > 0.05

    def density(r):
        return np.exp(2 * r**2 - r**4)

    Z = 2 * np.pi * quad(lambda r: r * density(r), 0, 4)[0]
    at = range(n // 2, n // 2 + 90, 6)
    falls = [
        -quad(lambda r: r * (1 + r * r) * density(r), s[i].item(), 4)[0] / Z for i in at
    ]
    route = torch.tensor(falls, dtype=torch.float64)
    assert_close(psi[list(at), n // 2], route, rtol=0, atol=1e-9)


# Recipes


def test_a_recipe_shows_its_matrices():
    assert repr(vp()) == "Recipe(D=[[1.0]], Q=[[0.0]], H=[[1.0]])"
    many = Recipe(two_phases.expand(3, 5, 2, 2), 3 * J, two_phases)
    assert many.shape == (3, 5)
    assert repr(many) == "Recipe(k=2, shape=(3, 5): D 0 to 1, Q -3 to 3, H 0 to 1)"


I2 = torch.eye(2)
NO_RECIPE = {
    "square": (torch.ones(2, 3), J, I2),
    "D must be finite": (I2 * float("nan"), J, I2),
    "Q must be finite": (I2, J * float("inf"), I2),
    "of one size": (I2, torch.zeros(3, 3), I2),
    "D must be symmetric": (I2 + J, J, I2),
    "eigenvalue -1": (-I2, J, I2),
    "skew-symmetric": (I2, I2, I2),
    "H must be positive definite": (I2, J, torch.zeros(2, 2)),
    "H must be symmetric": (I2, J, I2 + 0.1 * J),
    "leading axes": (I2.expand(3, 2, 2), J.expand(4, 2, 2), I2),
    "on one device: got meta, cpu, cpu": (I2.to("meta"), J, I2),
}


@pytest.mark.parametrize("why, matrices", NO_RECIPE.items(), ids=NO_RECIPE.keys())
def test_each_condition_has_an_error_of_its_own(why, matrices):
    with pytest.raises(ValueError, match=why):
        Recipe(*matrices)


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.5])
def test_the_default_mass_is_critical(rho):
    assert phase_space(0.3, 2.0, q=1.7, rho=rho).discriminant.abs() < 1e-14


def test_instances_agree_with_each_other():
    half = torch.tensor([0.0, 0.01, 0.25]).double()
    per = psld(half, torch.tensor([4.0, 4.01, 4.25]))
    assert_close(per.A[1], psld().A, rtol=1e-6, atol=0)
    assert per.A[0].tolist() == cld().A.tolist()
    assert psld(0.25).A.tolist() == psld(0.25, 4.25, M=0.25).A.tolist()  # ν = 4 + Γ
    double_root = torch.linalg.eigvals(psld().A).real
    assert_close(double_root, torch.full((2,), -2.01).double(), atol=1e-6, rtol=0)
    # CLD with its momentum in units of √M is order 2 at half the speed
    unit = diagonal(1, 2)
    assert_close(2 * higher_order(2).A, unit @ cld().A @ unit.inverse())
    assert_close(third_order().gap.item(), 3**0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: psld(-0.1), "Gamma=-0.1"),
        (lambda: psld(4.0, 4.0), "give the mass M"),
        (lambda: psld(M=0.0), "mass"),
        (lambda: phase_space(1.0, 2.0, rho=2.0), r"\[-1, 1\]"),
        (lambda: higher_order(1), "≥ 2"),
        (lambda: recover_q(I2, I2, torch.eye(3)), "of one size"),
    ],
)
def test_instances_refuse(make, why):
    with pytest.raises(ValueError, match=why):
        make()


@every_recipe
def test_the_circulation_of_an_instance_is_recovered(make):
    r = make()
    Q, residual = recover_q(r.A, r.D, r.S)
    assert_close(Q, r.Q.expand_as(Q))
    assert residual.max() < 1e-12
    if not r.shape:
        assert broken_conditions(r.A, r.D, r.S) == []


@pytest.mark.parametrize(
    "parts, why",
    [
        ((-I2 - J, I2 + J, I2), "not symmetric"),
        ((I2, -I2, I2), "no such noise"),
        ((I2, I2, -I2), "no covariance"),
        ((cld().A, 2 * cld().D, cld().S), "not stationary"),
    ],
)
def test_what_is_no_recipe_says_which_condition_breaks(parts, why):
    assert why in broken_conditions(*parts)[0]


def test_two_numbers_decide_a_process_of_phase_space():
    "Γ√M and ν√M; any other mass is the same process in other units."
    M, r = 0.3, psld(0.2, 1.5, M=0.3)
    unit, scaled = diagonal(1, M**0.5), psld(0.2 * M**0.5, 1.5 * M**0.5, M=1.0)
    assert_close(r.A * M**0.5, unit @ scaled.A @ unit.inverse())
    assert_close(r.gap * M**0.5, scaled.gap)


# A diffusion or not


@every_recipe
def test_the_instances_are_diffusions(make):
    assert make().inadmissible() is None
    assert (torch.linalg.eigvalsh(covariance(make(), 20.0)) > 0).all()


@pytest.mark.parametrize("nu", [1e-6, 1e-3, 1e3, 1e5])
def test_weak_and_strong_friction_are_diffusions(nu):
    assert psld(0.0, nu, M=1.0).inadmissible() is None


def rotated(D, Q, seed=0):
    "The same process in coordinates that no phase has for itself."
    g = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(len(D), len(D), generator=g).double())[0]
    D, Q = U @ D @ U.T, U @ Q @ U.T
    return Recipe((D + D.T) / 2, (Q - Q.T) / 2, torch.eye(len(D)))


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


chain = higher_order(3)
unlinked = chain.Q * torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]])
swing = torch.block_diag(torch.zeros(1, 1), J).double()
BROKEN = {
    "no noise": (Recipe(0 * two_phases, J, two_phases), "there is no noise: D = 0"),
    "no noise, one phase": (Recipe([[0.0]], [[0.0]], [[1.0]]), "there is no noise"),
    "no friction": (phase_space(0.0, 0.0, M=0.25), "there is no noise"),
    "aside": (
        Recipe(diagonal(0, 1), 0 * J, two_phases),
        "noise never reaches the position: P(B) is singular, the gap is 0",
    ),
    "momentum": (Recipe(diagonal(1, 0), 0 * J, two_phases), "never reaches phase 1"),
    "broken chain": (Recipe(chain.D, unlinked, chain.H), "never reaches the position"),
    "one mode": (rotated(diagonal(1, 0, 0), swing), "A has the eigenvalue"),
    "one component": (
        Recipe(torch.stack([two_phases, 0 * two_phases]), J, two_phases),
        "no noise at component (1,)",
    ),
    "one of many": (
        psld(0.0, torch.tensor([[4.0, 1.0], [0.0, 2.0]]), M=0.25),
        "no noise at component (1, 0)",
    ),
}


@pytest.mark.parametrize("r, why", BROKEN.values(), ids=BROKEN.keys())
def test_a_recipe_that_is_no_diffusion_says_why(r, why):
    assert why in r.inadmissible()
    assert "\n" not in r.inadmissible()
    assert r.gap.amin().abs() < 1e-12
    lowest = torch.linalg.eigvalsh(covariance(r, 3.0))[..., 0]
    assert lowest.amin() < 1e-12


@every_recipe
def test_noise_reaches_the_position_through_all_integrations(make):
    "For a chain of n phases $P_{xx}$ grows as $B^{2n-1}$ where it begins."
    r = make()
    if not (r.D.diagonal(dim1=-2, dim2=-1)[..., :-1] == 0).all() or r.shape:
        pytest.skip("noise of its own on the position")
    b = 1e-3 * r._reach.item()
    one, two = (covariance(r, t)[0, 0].log2() for t in (b, 2 * b))
    assert_close((two - one).item(), 2.0 * r.k - 1, rtol=0, atol=0.05)


# Words


@every_recipe
def test_repr_is_one_short_line(make):
    assert "\n" not in repr(make())
    assert len(repr(make())) < 200


def test_repr_of_many_shows_shape_and_ranges():
    r = psld(torch.linspace(0.0, 1.0, 3 * 8 * 8).reshape(3, 8, 8), 4.0, M=0.25)
    want = "Recipe(k=2, shape=(3, 8, 8): D 0 to 1, Q -1 to 1, H 0 to 4)"
    assert repr(r) == want


def test_errors_of_per_component_recipes_are_short():
    with pytest.raises(ValueError) as e:
        psld(-torch.rand(3, 64, 64))
    assert len(str(e.value)) < 150


def test_formulas_use_fractions_that_every_reader_shows():
    notebook = Path(__file__).parents[1] / "nbs" / "01_recipe.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any("\\cfrac" in "".join(c["source"]) for c in cells)


# The transition


@every_recipe
def test_series_doubling_and_subtraction_meet(make):
    "Across the borders of the three routes to P nothing jumps."
    r = make()
    if r.k == 1:
        pytest.skip("one formula")
    for n in range(r._doublings + 1):
        b = r._reach * 2**n
        below, above = covariance(r, b * (1 - 1e-12)), covariance(r, b * (1 + 1e-12))
        assert_close(below, above, rtol=1e-9, atol=1e-12)


@every_recipe
def test_transition_agrees_with_its_parts(make):
    r, b = make(), times(make)
    Phi, Sigma, L = transition(r, b)
    assert torch.equal(Phi, phi(r, b))
    assert torch.equal(Sigma, covariance(r, b))
    assert_close(L @ L.mT, Sigma, rtol=1e-9, atol=1e-12)


def test_refusals_speak_of_B():
    with pytest.raises(ValueError, match="B must be ≥ 0 and finite: got B = -1.0"):
        phi(psld(), -1.0)
    with pytest.raises(ValueError, match="B is on the device 'meta'"):
        phi(psld(), torch.rand(3, device="meta"))
    per = psld(torch.rand(120), 4.0, M=0.25)
    with pytest.raises(ValueError, match=r"B of shape \(7,\) and a recipe"):
        phi(per, torch.rand(7))
