"""The transition against 80 digits, other people's formulas and a simulation."""

from functools import cache
from math import exp

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gud_nb.recipe import Recipe, cld, psld, third_order, vp
from gud_nb.transition import (
    covariance,
    expm,
    phi,
    scale_tril,
    transition,
    tril_inverse,
)

mp.mp.dps = 80


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


FAMILY = {
    "vp": vp(),
    "cld": cld(),
    "psld": psld(),
    "psld .25": psld(0.25, 4.25),
    "underdamped": psld(0.0, 4.0, M=0.02),
    "overdamped": psld(0.0, 4.0, M=2.0),
    "strong friction": psld(0.1, 60.0, M=1.0),
    "third order": third_order(),
}
CASES = {
    "vp": vp(),
    "cld": cld(),
    "psld .005": psld(0.005, 4.005),
    "psld .01": psld(),
    "psld .25": psld(0.25, 4.25),
    "underdamped": psld(0.01, 1.0, M=0.05),
    "overdamped": psld(0.01, 8.0, M=1.0),
}
DECADES = [10.0**e for e in range(-8, 4)]
THIRD = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 50.0]
MEASURED = {name: (r, DECADES, 1e-11) for name, r in CASES.items()}
MEASURED["third order"] = (third_order(), THIRD, 1e-9)
family = pytest.mark.parametrize("r", FAMILY.values(), ids=FAMILY.keys())
measured = pytest.mark.parametrize(
    "r, at, limit", MEASURED.values(), ids=MEASURED.keys()
)


def random_aux(r, kappa=0.04):
    "A start whose auxiliary phases are random, as in hybrid score matching."
    return torch.diag(tensor([0.0] + [kappa] * (r.k - 1))) * r.S


def starts(r):
    return (None, random_aux(r)) if r.k > 1 else (None,)


# The truth, with 80 digits


@cache
def lyapunov(r):
    "A, and the S that follows from A and D."
    k, A, D = r.k, mp.matrix(r.A.tolist()), r.D.tolist()
    M = mp.matrix(k * k, k * k)
    for i in range(k):
        for j in range(k):
            for n in range(k):
                M[i * k + j, n * k + j] += A[i, n]
                M[i * k + j, i * k + n] += A[j, n]
    right = [-2 * mp.mpf(D[i][j]) for i in range(k) for j in range(k)]
    s = mp.lu_solve(M, mp.matrix(right))
    return A, mp.matrix([[s[i * k + j] for j in range(k)] for i in range(k)])


@cache
def truth(r, B):
    "Φ(B) and P(B): the subtraction that 80 digits can afford."
    A, S = lyapunov(r)
    F = mp.expm(A * mp.mpf(B) / 2, method="taylor")
    return F, S - F * S * F.T


def true_covariance(r, B, Sigma0):
    F, P = truth(r, B)
    return P if Sigma0 is None else P + F * mp.matrix(Sigma0.tolist()) * F.T


def off(got, want, size):
    "The largest error, each measured in `size(i, j)`."
    places = [(i, j) for i in range(want.rows) for j in range(want.cols)]
    return float(max(abs(mp.mpf(got[p].item()) - want[p]) / size(*p) for p in places))


def factor_error(got, want):
    "The largest error: of a diagonal relative, of the rest against its row."
    if not got.isfinite().all():
        return float("inf")
    rows = [mp.sqrt(sum(v**2 for v in row)) for row in want.tolist()]
    return off(got, want, lambda i, j: want[i, i] if i == j else rows[i])


@pytest.mark.parametrize("r", CASES.values(), ids=CASES.keys())
def test_phi_against_80_digits(r):
    "Counted against its largest entry; what is smaller than 1e-300 counts as 0."
    for b in DECADES:
        want, got = truth(r, b)[0], phi(r, b)
        top = max(abs(v) for v in want)
        if top < 1e-300:
            assert got.abs().max() <= 1e-300
        else:
            assert off(got, want, lambda i, j: top) < 1e-11


def test_the_slow_eigenvalue_is_found_without_a_difference():
    r = psld(0.0, 4e3, M=1.0)
    want = truth(r, 1e3)[0]
    top = max(abs(v) for v in want)
    assert off(phi(r, 1e3), want, lambda i, j: top) < 1e-13


@measured
def test_covariance_against_80_digits(r, at, limit):
    "Diagonals relative, the rest against the geometric mean of its diagonals."
    for start in starts(r):
        for b in at:
            want = true_covariance(r, b, start)
            sizes = [mp.sqrt(want[i, i]) for i in range(r.k)]
            got = covariance(r, b, start)
            assert off(got, want, lambda i, j: sizes[i] * sizes[j]) < limit


@measured
def test_factor_and_its_inverse_against_80_digits(r, at, limit):
    for start in starts(r):
        for b in at:
            want = mp.cholesky(true_covariance(r, b, start))
            L = scale_tril(r, b, start)
            limit = 1e-10 if r.k < 3 else 1e-9
            assert factor_error(L, want) < limit
            assert factor_error(tril_inverse(L).mT, (want**-1).T) < limit


def test_third_order_keeps_most_digits_of_its_factor():
    "QR saves most, not all: towards the first instant some go."
    r = third_order()
    want = mp.cholesky(true_covariance(r, 1e-6, random_aux(r)))
    L = scale_tril(r, 1e-6, random_aux(r))
    assert factor_error(L, want) < 1e-7


@pytest.mark.parametrize("r, worst", [(cld(), 1e-13), (third_order(), 1e-13)])
def test_the_variance_of_the_position_keeps_13_digits(r, worst):
    B = torch.logspace(-8, 3, 56, dtype=torch.float64)
    got = covariance(r, B)[:, 0, 0].tolist()
    errors = [abs(p / truth(r, b)[1][0, 0] - 1) for p, b in zip(got, B.tolist())]
    assert max(errors) < worst


def test_third_order_needs_its_doublings():
    "A subtraction from the reach of the series on loses four digits."
    r = third_order()
    B = torch.logspace(-8, 3, 56, dtype=torch.float64)
    F = phi(r, B)
    naive = r.S - F @ r.S @ F.mT
    direct = torch.where((B <= r._reach)[:, None, None], covariance(r, B), naive)
    pairs = zip(direct[:, 0, 0].tolist(), B.tolist())
    errors = [abs(p / truth(r, b)[1][0, 0] - 1) for p, b in pairs]
    assert 3e-13 < max(errors) < 1e-9


def test_the_series_keeps_small_entries_of_phi():
    "How much of the acceleration has reached the position, of the order of B²."
    r, b = third_order(), 1e-2
    A = mp.matrix(r.A.tolist())
    terms = (((A * mp.mpf(b) / 2) ** n)[0, 2] / mp.factorial(n) for n in range(40))
    assert abs(phi(r, b)[0, 2].item() / sum(terms) - 1) < 1e-15


# Other routes


@family
@pytest.mark.parametrize("b", [0.0, 1e-8, 0.3, 2.0, 40.0])
def test_phi_is_the_matrix_exponential(r, b):
    want = torch.linalg.matrix_exp(r.A * b / 2)
    assert_close(phi(r, b), want, rtol=1e-9, atol=1e-12)


@family
def test_phi_of_a_sum_is_the_product(r):
    assert_close(phi(r, 0.7) @ phi(r, 0.4), phi(r, 1.1))


def test_phi_does_not_overflow():
    heavy = psld(0.0, 8.0, M=1.0)
    want = torch.linalg.matrix_exp(heavy.A * 200)
    assert_close(phi(heavy, 400.0), want, rtol=1e-10, atol=0)
    assert phi(psld(0.0, 4e3, M=1.0), 1e3).isfinite().all()  # e^(10⁶) never appears


def test_phi_by_hand():
    assert phi(vp(), torch.zeros(0)).shape == (0, 1, 1)
    assert_close(phi(vp(), [1.0, 2.0])[:, 0, 0], tensor([-0.5, -1.0]).exp())
    b = 1.7  # e^(-B) (I + YB/2)
    want = tensor([[1 + b, 2 * b], [-b / 2, 1 - b]]) * exp(-b)
    assert_close(phi(cld(), b), want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("k", [1, 3])
def test_expm_of_one_and_of_three_phases(k):
    M = torch.eye(k, dtype=torch.float64)
    assert_close(expm(M), exp(1) * M)


@family
def test_the_stationary_law_stays_and_all_end_there(r):
    assert_close(covariance(r, 3.0, r.S), r.S, rtol=1e-12, atol=1e-13)
    assert_close(covariance(r, 900.0), r.S, rtol=1e-6, atol=1e-6)


@family
def test_two_stretches_make_one(r):
    twice = covariance(r, 0.4, covariance(r, 0.7))
    assert_close(covariance(r, 1.1), twice, rtol=1e-9, atol=1e-12)


@family
def test_covariance_by_van_loan(r):
    k, A, b = r.k, r.A, 0.2
    above = torch.cat([-A / 2, r.D.expand_as(A)], -1)
    below = torch.cat([0 * A, A.mT / 2], -1)
    block = torch.linalg.matrix_exp(torch.cat([above, below], -2) * b)
    want = block[k:, k:].mT @ block[:k, k:]
    assert_close(covariance(r, b), want, rtol=1e-9, atol=1e-12)


@family
def test_covariance_obeys_its_differential_equation(r):
    at = tensor([1e-3, 0.3, 4.0])
    C, rate = torch.func.jvp(lambda b: covariance(r, b), (at,), (torch.ones_like(at),))
    assert_close(rate, (r.A @ C + C @ r.A.mT) / 2 + r.D, rtol=1e-8, atol=1e-12)
    at.requires_grad_()
    backward = torch.autograd.grad(covariance(r, at).sum(), at)[0]
    assert_close(backward, rate.sum((-2, -1)))


@family
def test_covariance_by_quadrature(r):
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(12))
    B = torch.logspace(-8, -1, 36, dtype=torch.float64)
    F = phi(r, B[..., None] * (nodes + 1) / 2)
    terms = F @ r.D @ F.mT * B[..., None, None, None] / 2
    want = (weights[:, None, None] * terms).sum(-3)
    assert_close(covariance(r, B), want, rtol=1e-9, atol=0)


def test_covariance_as_printed_for_cld():
    "Dockhorn, Vahdat & Kreis 2022, appendix B; their B is half of ours."
    b, v = tensor([0.1, 0.5, 2.0]), 0.01
    e = torch.exp(4 * b)
    xx = e - 1 - 4 * b - 8 * b**2 + 16 * b**2 * v
    xm = 4 * b * v + 4 * b**2 - 8 * b**2 * v
    mm = (e - 1) / 4 + b + v * (1 + 4 * b**2 - 4 * b) - 2 * b**2
    printed = torch.stack([xx, xm, xm, mm], -1).unflatten(-1, (2, 2))
    got = covariance(cld(), 2 * b, torch.diag(tensor([0.0, v])))
    assert_close(got, printed / e[:, None, None], rtol=1e-11, atol=0)


def test_printed_numbers():
    "Laws stay true when Q changes its sign, numbers do not."
    assert_close(covariance(cld(), 8e-5)[0, 0].item(), 6.826e-13, rtol=1e-3, atol=0)
    first = covariance(psld(), 8e-5, random_aux(psld()))[0]
    want = tensor([8.002563214e-7, 1.606013732e-6])
    assert_close(first, want, rtol=1e-9, atol=0)


def test_covariance_by_simulation():
    g, r, n, steps = torch.Generator().manual_seed(0), psld(0.25, 4.25), 40_000, 200
    z = tensor([1.0, 0.0]).expand(n, 2)
    for _ in range(steps):
        noise = torch.randn(n, 2, generator=g, dtype=z.dtype)
        z = z + 0.5 * z @ r.A.mT / steps + (1 / steps) ** 0.5 * noise @ r.G.mT
    assert_close(z.T.cov(), covariance(r, 1.0), rtol=0, atol=0.015)
    assert_close(z.mean(0), phi(r, 1.0)[:, 0], rtol=0, atol=0.015)


# A recipe for each component

NU = torch.logspace(-1, 2, 120, dtype=torch.float64)
EACH = psld(0.0, NU, M=0.25)
ALONE = [psld(0.0, v, M=0.25) for v in NU]


def small_and_large():
    "B (3, 120) from 1e-6 to 5."
    g = torch.Generator().manual_seed(0)
    B = torch.rand(3, 120, generator=g, dtype=torch.float64)
    return B * 5 * torch.logspace(-6, 0, 120)


def test_phi_per_component_is_a_loop():
    B = small_and_large()
    loop = torch.stack([phi(r, B[:, i]) for i, r in enumerate(ALONE)], 1)
    assert_close(phi(EACH, B), loop, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("start", [None, random_aux(cld())], ids=["known", "random"])
def test_covariance_per_component_is_a_loop(start):
    "Neighbours may take different routes to the same digits."
    B = small_and_large()
    each = [covariance(r, B[:, i], start) for i, r in enumerate(ALONE)]
    assert_close(covariance(EACH, B, start), torch.stack(each, 1), rtol=1e-10, atol=0)


def test_shapes_broadcast():
    assert covariance(psld(), torch.rand(5, 3)).shape == (5, 3, 2, 2)
    assert covariance(EACH, 1.0).shape == (120, 2, 2)
    assert covariance(psld(), torch.zeros(0)).shape == (0, 2, 2)


def test_three_phases_per_component():
    r, b = third_order(), small_and_large()[:, -40:]
    loop = torch.stack([covariance(r, v) for v in b.flatten()]).unflatten(0, b.shape)
    assert_close(covariance(r, b), loop, rtol=1e-10, atol=1e-30)
    pair = third_order(), third_order(xi=4.0)
    stack = Recipe(*(torch.stack([getattr(r, n) for r in pair]) for n in "DQH"))
    for f in (phi, covariance):
        assert_close(f(stack, 0.3)[1], f(pair[1], 0.3), rtol=1e-11, atol=0)


# The factor


@family
def test_transition_agrees_with_its_parts_from_either_start(r):
    b = tensor([1e-6, 0.3, 20.0])
    for start in (None, random_aux(r)):
        Phi, Sigma, L = transition(r, b, start)
        assert torch.equal(Phi, phi(r, b))
        assert torch.equal(Sigma, covariance(r, b, start))
        assert torch.equal(L, scale_tril(r, b, start))
        size = Sigma.diagonal(dim1=-2, dim2=-1).sqrt()[..., None]
        unit = size * size.mT
        limit = 1e-14 if r.k < 3 else 1e-12
        assert_close(L @ L.mT / unit, Sigma / unit, rtol=0, atol=limit)
        assert (L.diagonal(dim1=-2, dim2=-1) > 0).all()
        assert L.triu(1).abs().max() == 0


@family
def test_at_zero_there_is_the_start_alone(r):
    Sigma0 = random_aux(r) + r.S
    assert_close(scale_tril(r, 0.0, Sigma0), torch.linalg.cholesky(Sigma0))
    assert scale_tril(r, torch.zeros(3)).abs().max() == 0  # 0, not NaN


@pytest.mark.parametrize("r", [psld(), third_order()])
def test_a_singular_start_has_a_finite_factor(r):
    "Singular to rounding, but covariances all the same."
    v = torch.linspace(0.1, 1, 99 * r.k, dtype=torch.float64).view(99, r.k).sin()
    assert scale_tril(r, 0.5, v[:, :, None] * v[:, None]).isfinite().all()


# What it takes

TIMES = [
    0,
    3,
    1e-8,
    2.5,
    [0, 1],
    torch.tensor([0, 7]),
    torch.tensor([0.0, 1e-8, 1e-4, 1.0, 1e3]),
    torch.tensor(1e-8),
]


@family
@pytest.mark.parametrize("b", TIMES, ids=map(str, range(len(TIMES))))
def test_whatever_B_is_the_answer_is_float64_and_finite(r, b):
    for start in (None, random_aux(r).float()):
        for got in transition(r, b, start):
            assert got.dtype == torch.float64
            assert got.isfinite().all()


@family
def test_float32_is_as_exact_as_its_rounding(r):
    rounded = covariance(r, torch.tensor(0.3))
    assert_close(rounded, covariance(r, 0.3), rtol=1e-6, atol=1e-7)
    start = random_aux(r)
    assert_close(covariance(r, 1.0, start.float()), covariance(r, 1.0, start))


MINUS = torch.stack([torch.eye(2), -torch.eye(2)])
REFUSED = {
    "≥ 0 and finite: got B = -1.0": lambda: phi(psld(), -1.0),
    "got B = nan at (1, 1)": lambda: covariance(
        psld(), tensor([[0.1, 0.2], [0.3, float("nan")]])
    ),
    "got B = inf": lambda: scale_tril(vp(), float("inf")),
    "on the device 'meta'": lambda: phi(psld(), torch.rand(3, device="meta")),
    "B of shape (7,) and a recipe per component (120,)": lambda: phi(
        EACH, torch.rand(7)
    ),
    "must be (..., 2, 2)": lambda: covariance(psld(), 1.0, torch.zeros(3, 3)),
    "got shape (2, 3)": lambda: covariance(psld(), 1.0, torch.zeros(2, 3)),
    "leading axes must broadcast": lambda: covariance(
        psld(), torch.rand(5), torch.zeros(4, 2, 2)
    ),
    "symmetric: got [[0.0, 0.1], [0.0, 0.04]]": lambda: covariance(
        psld(), 1.0, tensor([[0.0, 0.1], [0.0, 0.04]])
    ),
    "positive semidefinite: got [[0.0, 0.1], [0.1, 0.04]]": lambda: covariance(
        psld(), 1.0, tensor([[0.0, 0.1], [0.1, 0.04]])
    ),
    "at (1,)": lambda: scale_tril(psld(), 1.0, MINUS),
    "positive semidefinite": lambda: scale_tril(third_order(), 1.0, -torch.eye(3)),
    "must be finite: got [[0.0, 0.0], [0.0, nan]]": lambda: transition(
        psld(), 1.0, tensor([[0.0, 0.0], [0.0, float("nan")]])
    ),
    "Sigma0 is on device meta": lambda: transition(
        psld(), 1.0, torch.zeros(2, 2, device="meta")
    ),
    "square": lambda: Recipe([[1.0], [2.0]], [[0.0]], [[1.0]]),
}


@pytest.mark.parametrize("why, bad", REFUSED.items(), ids=REFUSED.keys())
def test_refusals_show_the_value(why, bad):
    with pytest.raises(ValueError) as e:
        bad()
    assert why in str(e.value)
