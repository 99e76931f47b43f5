"""Bases: laws for all of them, fast transforms against matrices, moments, energies,
integers and precision."""

import itertools
import subprocess
import sys
import warnings
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import pywt
import scipy.fft
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as SkPCA
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from gud_nb.basis import (
    DCT,
    PCA,
    Basis,
    Columns,
    Compose,
    Fourier,
    Pad,
    Pixel,
    Scaled,
    Wavelet,
    Whitened,
    _cosines,
    column_order,
    component_moments,
    dct_matrix,
    distance_order,
    level_order,
    moments,
    principal,
    radius_order,
    row_order,
    spectrum_order,
    wavelet_matrix,
)
from gud_nb.core import describe, rebuild

f64 = torch.float64


def normal(*shape, seed=0, dtype=f64):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=f64
    ).to(dtype)


@dataclass(frozen=True)
class Colours(Basis):
    "A basis of a user: it defines the two functions and no more."

    data_shape: tuple
    shape = property(lambda self: self.data_shape)

    def forward(self, x):
        return torch.einsum("ij,njhw->nihw", dct_matrix(3).to(x), x)

    def inverse(self, c):
        return torch.einsum("ij,nihw->njhw", dct_matrix(3).to(c), c)


def fitted(shape, n=60, shared=False, seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PCA.fit(normal(n, *shape, seed=seed), shared=shared)


haar = Wavelet((1, 8, 8), "haar", 2)
BASES = {
    "pixels": Pixel((1, 8, 8)),
    "numbers": Pixel((5,)),
    "cosines": DCT((1, 8, 8)),
    "oblong cosines": DCT((3, 4, 6)),
    "waves": Fourier((1, 8, 8)),
    "odd waves": Fourier((3, 5, 6)),
    "oblong waves": Fourier((2, 4, 7)),
    "haar": Wavelet((1, 8, 8), "haar", 3),
    "db2": Wavelet((3, 8, 12), "db2", 2),
    "wrapped db4": Wavelet((3, 4, 8), "db4", 2),
    "sym4": Wavelet((6, 8), "sym4", 1),
    "coif1": Wavelet((1, 16, 8), "coif1", 3),
    "no level": Wavelet((1, 5, 3), "haar", 0),
    "wavelets of signals": Wavelet((2, 1, 16), "db2", 3),
    "components": fitted((1, 8, 8), 200),
    "shared": fitted((3, 4, 5), 200, shared=True),
    "few data": fitted((1, 8, 8), 20),
    "a user's": Colours((3, 2, 4)),
    "colour haar": Compose(Wavelet((3, 8, 8), "haar", 2), Colours((3, 8, 8))),
    "components of haar": Compose(fitted((1, 8, 8), 200), haar),
    "columns": Columns(fitted((3, 5), 100), 4),
    "cosines of columns": Columns(DCT((2, 5)), 3),
    "padded": Pad((1, 5, 6), (1, 8, 8)),
    "padded haar": Compose(Wavelet((3, 8, 8), "haar", 3), Pad((3, 6, 7), (3, 8, 8))),
    "cosines after pixels": Compose(DCT((1, 4, 6)), Pixel((1, 4, 6))),
}
SCALED = {
    "whitened": Whitened.fit(haar, normal(100, 1, 8, 8)),
    "scaled": Scaled(BASES["components"], 0.5, 2.0),
    "scaled padded": Scaled(BASES["padded haar"], torch.zeros(3, 6, 7)),
}
every_basis = pytest.mark.parametrize("b", BASES.values(), ids=BASES)


# Laws


@pytest.mark.parametrize("dtype, tol", [(f64, 1e-12), (torch.float32, 1e-5)])
@every_basis
def test_there_and_back(b, dtype, tol):
    x, c = normal(7, *b.data_shape, dtype=dtype), normal(7, *b.shape, dtype=dtype)
    before = x.clone(), c.clone()
    assert b(x).dtype == b.inv(c).dtype == dtype
    assert b(x).shape == c.shape and b.inv(c).shape == x.shape
    assert_close(b.inv(b(x)), x, rtol=0, atol=tol)
    lengths = [v.flatten(1).norm(dim=1) for v in (b(x), x)]
    assert_close(*lengths, rtol=tol, atol=0)
    products = [v.flatten(1).sum(1) for v in (b(x) * c, x * b.inv(c))]
    assert_close(*products, rtol=0, atol=30 * tol)
    assert_close((x, c), before, rtol=0, atol=0)  # inputs are left alone


@every_basis
def test_white_noise_stays_white(b):
    d, D = prod(b.data_shape), prod(b.shape)
    U = b.inv(torch.eye(D, dtype=f64).reshape(D, *b.shape)).flatten(1)
    assert_close(U.T @ U, torch.eye(d, dtype=f64), rtol=0, atol=1e-12)
    assert b.onto == (d == D)
    assert b.rotation.onto and tuple(b.rotation.shape) == tuple(b.shape)
    if b.onto:
        assert_close(U @ U.T, torch.eye(D, dtype=f64), rtol=0, atol=1e-12)


LARGE = [
    DCT((1, 128, 130)),
    DCT((2, 129, 131)),
    DCT((1, 127, 256)),
    DCT((128, 256)),
    Wavelet((1, 128, 192), "haar", 4),
    Wavelet((2, 128, 128), "db1", 1),
    Wavelet((1, 128, 128), "db2", 2),
    Fourier((1, 128, 129)),
]


@pytest.mark.parametrize("b", [*BASES.values(), *SCALED.values(), *LARGE])
def test_derivatives_of_every_kind(b):
    x, c = normal(2, *b.data_shape), normal(2, *b.shape, seed=1)
    zero, there, back = b(0 * x), b(x), b.inv(c)
    _, tangent = torch.func.jvp(b, (x,), (x,))
    assert_close(tangent, there - zero)  # affine
    _, pull = torch.func.vjp(b.inv, c)
    _, tangent = torch.func.jvp(b.inv, (c,), (c,))
    assert_close((pull(x)[0] * c).sum(), (x * tangent).sum())
    one_by_one = torch.func.vmap(lambda v: b(v[None])[0])(x)
    assert_close(one_by_one, there)
    assert_close(torch.func.vmap(lambda v: b.inv(v[None])[0])(c), back)
    x.requires_grad_()
    (grad,) = torch.autograd.grad((b(x) * c).sum(), x)
    assert_close((grad * x).sum(), ((there - zero) * c).sum())


@pytest.mark.parametrize("b", [*BASES.values(), *SCALED.values()])
def test_saved_and_read_back(b):
    tensors = {}
    again = rebuild(describe(b, tensors), tensors, allow=(Colours,))
    x = normal(3, *b.data_shape)
    assert type(again) is type(b) and tuple(again.shape) == tuple(b.shape)
    assert_close(again(x), b(x), rtol=0, atol=0)


@pytest.mark.parametrize("b", [*BASES.values(), *SCALED.values(), LARGE[0]])
def test_check_takes_every_basis(b):
    assert b.check() is b


@dataclass(frozen=True)
class Own(Basis):
    "Pixels; each class below breaks one property."

    data_shape: tuple = (1, 4, 4)
    shape: tuple = (1, 4, 4)

    def forward(self, x):
        return x

    def inverse(self, c):
        return c


class NoShape(Basis):
    forward = inverse = Own.forward


class AList(Own):
    def __init__(self):
        object.__setattr__(self, "data_shape", [1, 4, 4])


class NoForward(Basis):
    data_shape = shape = (2,)


class Flat(Own):
    def forward(self, x):
        return x.flatten(1)


class Single(Own):
    def forward(self, x):
        return x @ torch.eye(4)


class Wide(Own):
    def inverse(self, c):
        return c * torch.ones(4, dtype=f64)


class ByBatch(Own):
    def forward(self, x):
        return x - x.mean(0) + x.mean(0).flip(-1)


class InPlace(Own):
    def forward(self, x):
        return x.neg_()


class NoWayBack(Own):
    def inverse(self, c):
        return c.flip(-1)


class Twice(Own):
    def forward(self, x):
        return 2 * x

    def inverse(self, c):
        return c / 2


class Sheared(Own):
    def forward(self, x):
        return torch.cat([x[..., :1] + x[..., 1:2], x[..., 1:]], -1)

    def inverse(self, c):
        return torch.cat([c[..., :1] - c[..., 1:2], c[..., 1:]], -1)


class Displaced(Own):
    places = torch.zeros(2, 4, 4)


NO_BASIS = {
    NoShape: "no attribute 'data_shape': a basis has data_shape",
    AList: "AList has data_shape=[1, 4, 4], want a tuple",
    Flat: "Flat.forward gave shape (3, 16), want (3, 1, 4, 4)",
    Single: "Single.forward fails for torch.float64 on cpu",
    Wide: "Wide.inverse gave torch.float64 on cpu for torch.float32",
    ByBatch: "ByBatch.forward mixes the images",
    InPlace: "InPlace.forward changes its argument",
    NoWayBack: "NoWayBack.inverse(forward(x)) is not x",
    Twice: "Twice multiplies lengths by 2 to 2, want 1",
    Sheared: "Sheared multiplies lengths by",
    Displaced: "places of another shape than (2, *shape) = (2, 1, 4, 4)",
}


@pytest.mark.parametrize("kind, words", NO_BASIS.items(), ids=lambda v: str(v)[:20])
def test_check_says_what_is_wrong(kind, words):
    with pytest.raises(ValueError) as e:
        kind().check()
    assert words in str(e.value) and "\n" not in str(e.value)
    assert len(str(e.value)) < 400


def test_check_looks_into_a_scaled_basis_and_names_a_missing_function():
    with pytest.raises(ValueError, match="Twice multiplies lengths"):
        Scaled(Twice(), 0.5, 3.0).check()
    with pytest.raises(NotImplementedError, match="NoForward must define forward"):
        NoForward().check()
    with pytest.raises(ValueError, match="a basis has data_shape"):
        NoShape()(torch.zeros(1, 4, 4))


@pytest.mark.parametrize("b", [*BASES.values(), *SCALED.values(), *LARGE])
def test_a_basis_has_a_view_and_a_short_repr(b):
    shown = b._repr_html_()
    assert len(shown) < 60_000 and "data: " in shown
    channels = (1, *b.data_shape)[-3] if len(b.data_shape) in (2, 3) else 0
    image = channels in (1, 3)
    assert ("<img" in shown) == image
    assert len(repr(b)) < 250 and "\n" not in repr(b)


def test_a_view_never_raises():
    assert NoShape()._repr_html_() is None


# Wavelets against PyWavelets


@pytest.mark.parametrize(
    "name", "haar db2 db4 db20 sym3 sym4 sym20 coif1 coif17".split()
)
@pytest.mark.parametrize("n", [2, 6, 32])
def test_wavelet_matrix(name, n):
    eye = np.eye(n)
    columns = pywt.dwt(eye, name, mode="periodization", axis=0)
    W = wavelet_matrix(n, name)
    assert_close(W, torch.tensor(np.concatenate(columns)), rtol=0, atol=2e-11)
    assert_close(W @ W.T, torch.eye(n, dtype=f64), rtol=0, atol=4e-15)


@pytest.mark.parametrize("name", ["haar", "db2", "db4", "sym4", "coif1"])
@pytest.mark.parametrize(
    "shape, levels", [((1, 8, 8), 3), ((3, 8, 24), 2), ((6, 8), 1)]
)
@pytest.mark.filterwarnings("ignore:Level value")
def test_wavelet_layout(name, shape, levels):
    x = normal(3, *shape)
    coefficients = pywt.wavedec2(x.numpy(), name, "periodization", levels)
    theirs = pywt.coeffs_to_array(coefficients, axes=(-2, -1))[0]
    ours = Wavelet(shape, name, levels)(x)
    assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["haar", "sym4"])
@pytest.mark.filterwarnings("ignore:Level value")
def test_wavelets_of_signals(name):
    "Along the last axis alone, as PyWavelets' transform of signals."
    x, b = normal(3, 2, 1, 32), Wavelet((2, 1, 32), name, 3)
    theirs = np.concatenate(pywt.wavedec(x.numpy(), name, "periodization", 3), -1)
    assert_close(b(x), torch.as_tensor(theirs), rtol=0, atol=1e-11)
    each = [0] * 4 + [1] * 4 + [2] * 8 + [3] * 16
    assert b.level[0, 0].tolist() == each
    assert not b.places[0].any()  # all are in row 0
    wide = {0: 8, 1: 8, 2: 4, 3: 2}  # samples per coefficient of a level
    for level, n in wide.items():
        at = b.places[1][b.level == level].reshape(2, -1)[0]
        assert_close(at, torch.arange(32 // n, dtype=f64) * n + (n - 1) / 2)
    with pytest.raises(ValueError, match=r"Pad\(\(2, 1, 30\), \(2, 1, 32\)\)"):
        Wavelet((2, 1, 30), name, 3)


# Fast transforms


def by_matrices(b, x, inverse=False):
    "The same transform by matrices on the sides."
    if isinstance(b, DCT):
        R, C = (dct_matrix(n) for n in x.shape[-2:])
        return R.mT @ x @ C if inverse else R @ x @ C.mT
    x = x.clone()
    for j in reversed(range(b.levels)) if inverse else range(b.levels):
        H, W = (n >> j for n in x.shape[-2:])
        R, C = wavelet_matrix(H, b.name), wavelet_matrix(W, b.name)
        corner = x[..., :H, :W]
        corner.copy_(R.mT @ corner @ C if inverse else R @ corner @ C.mT)
    return x


@pytest.mark.parametrize("b", LARGE[:-1])
def test_fast_transforms_are_the_matrices(b):
    x = normal(2, *b.data_shape)
    for inverse, f in ((False, b), (True, b.inv)):
        want = by_matrices(b, x, inverse)
        assert_close(f(x), want, rtol=0, atol=1e-13 * want.abs().max().item())
        assert f(x).is_contiguous()
        single = f(x.float())
        assert single.dtype == torch.float32
        assert_close(single.double(), want, rtol=0, atol=5e-6)


@pytest.mark.parametrize("b", [DCT((1, 128, 128)), Wavelet((1, 128, 128), "haar", 2)])
def test_half_precision_on_large_sides(b):
    x = normal(2, *b.data_shape).bfloat16()
    assert b(x).dtype == torch.bfloat16
    assert_close(b(x).double(), b(x.double()), rtol=0, atol=0.1)


def test_fast_transforms_are_used(monkeypatch):
    def no_matrix(*args):
        raise AssertionError("a matrix was made")

    cosines, wavelet = DCT((1, 160, 128)), Wavelet((1, 160, 128), "haar", 2)
    monkeypatch.setattr("gud_nb.basis._cosines", no_matrix)
    monkeypatch.setattr("gud_nb.basis._wavelets", no_matrix)
    x = normal(1, 1, 160, 128)
    for b in (cosines, wavelet):
        assert_close(b.inv(b(x)), x)
    with pytest.raises(AssertionError, match="a matrix was made"):
        DCT((1, 127, 128))(normal(1, 1, 127, 128))


# Moments


def test_moments_of_components_alone():
    x = normal(50, 2, 3, 4) + 5
    mean, cov = moments(x, batch=7)
    for batch in (7, 4096):
        alone = component_moments(x, batch)
        assert_close(alone[0], mean.reshape(2, 3, 4))
        assert_close(alone[1], cov.diagonal().reshape(2, 3, 4))
    assert_close(cov, x.flatten(1).T.cov(correction=0))


def falling(n, *shape):
    "Data whose variances fall with frequency, off centre."
    scale = 1 / (DCT(shape).frequencies.norm(dim=0) + 0.02)
    return DCT(shape).inv(scale * normal(n, *shape)) + 3


@pytest.mark.parametrize(
    "n, shape, way",
    [
        (300, (1, 8, 8), "covariance"),
        (40, (1, 8, 8), "inner products"),
        (100, (3, 30, 30), "inner products"),
        (2100, (1, 46, 46), "Krylov"),
    ],
)
def test_principal(n, shape, way, monkeypatch):
    called = []
    for name, label in (("_by_gram", "inner products"), ("_leading", "Krylov")):
        f = getattr(sys.modules["gud_nb.basis"], name)
        spy = lambda *a, f=f, label=label: (called.append(label), f(*a))[1]  # noqa: E731
        monkeypatch.setattr(f"gud_nb.basis.{name}", spy)
    x, rank = falling(n, *shape), 12
    p = principal(x, rank)
    assert called == ([way] if way != "covariance" else [])
    y = (x - x.mean(0)).flatten(1)
    _, s, Vh = torch.linalg.svd(y, full_matrices=False)
    variances = s.square() / n
    assert_close(p.mean, x.mean(0))
    assert_close(p.variances, variances[:rank], rtol=1e-6, atol=0)
    assert_close(p.vectors.T @ p.vectors, torch.eye(rank, dtype=f64))
    spanned = (Vh[: rank - 2] @ p.vectors).norm(dim=1)  # the last may be near others
    assert_close(spanned, torch.ones_like(spanned), rtol=1e-3, atol=0)
    assert_close(p.total, variances.sum().item())
    assert_close(p.rest, variances[rank:].sum().item() / (y.shape[1] - rank))
    again = principal(x, rank)
    assert_close(again.vectors, p.vectors, rtol=0, atol=0)  # no chance in it


def test_principal_at_its_limits():
    x = falling(30, 1, 4, 4)
    whole = principal(x, 16)
    assert whole.rest == 0.0
    assert_close(whole.total, whole.variances.sum().item())
    with pytest.raises(ValueError, match="got rank=17, want 1 to 16"):
        principal(x, 17)
    low = normal(2100, 3) @ normal(3, 2200, seed=1)  # of rank 3, by Krylov
    p = principal(low, 8)
    assert (p.variances[3:] < 1e-10 * p.variances[0]).all()
    assert_close(p.vectors.T @ p.vectors, torch.eye(8, dtype=f64))


def test_memory_is_linear_in_rank():
    program = """
import resource, torch
from gud_nb.basis import component_moments, principal
x = torch.randn(100, 3, 128, 128, generator=torch.Generator().manual_seed(0))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
component_moments(x)
principal(x, 16)
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, check=True
    )
    assert float(run.stdout) < 400  # MiB; a covariance alone has 18 432


# Energies


@pytest.mark.parametrize(
    "b",
    [
        *BASES.values(),
        *SCALED.values(),
        Wavelet((2, 16, 8), "db3", 3),
        Wavelet((1, 8, 8), "sym4", 2),
        Compose(Columns(DCT((1, 8)), 8), Pixel((1, 8, 8))),
    ],
)
def test_energy_map(b):
    rotation = b.basis if isinstance(b, Scaled) else b
    D = prod(b.shape)
    squares = rotation.inv(torch.eye(D, dtype=f64).reshape(D, *b.shape)).square()
    v = normal(3, *b.shape).exp()
    want = (v.flatten(1) @ squares.flatten(1)).reshape(3, *b.data_shape)
    assert_close(b.energy_map(v), want)
    assert_close(b.energy_map(v.float()), want.float(), rtol=1e-4, atol=1e-4)
    assert_close(torch.func.jvp(b.energy_map, (v,), (v,))[1], want)


def test_energy_map_of_large_images():
    v = normal(1, 1, 128, 128).exp()
    for b in (DCT((1, 128, 128)), Fourier((1, 128, 128))):
        assert_close(b.energy_map(v).sum(), v.sum())
    b = Wavelet((1, 128, 128), "db4", 3)
    one = torch.zeros(1, 1, 128, 128, dtype=f64)
    one[0, 0, 20, 5] = 1
    assert_close(b.energy_map(one), b.inv(one).square(), rtol=0, atol=1e-14)


# Integers, precision, locale

INTEGERS = (torch.uint8, torch.int16, torch.int64, torch.bool)


@pytest.mark.parametrize("b", [*BASES.values(), *SCALED.values()])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_refused(b, dtype):
    x = torch.ones(2, *b.data_shape).to(dtype)
    c = torch.ones(2, *b.shape).to(dtype)
    with pytest.raises(ValueError, match=f"got data in {dtype}.*convert with .float"):
        b(x)
    for f in (b.inv, b.energy_map):
        with pytest.raises(ValueError, match=f"got components in {dtype}.*convert"):
            f(c)


@pytest.mark.filterwarnings("ignore:.*variances are below")
@pytest.mark.parametrize("dtype", INTEGERS[:3])
def test_integers_are_fitted_exactly(dtype):
    bytes_ = torch.as_tensor(load_digits().images[:200] * 15).to(torch.uint8)[:, None]
    x, same = bytes_.to(dtype), bytes_.double()
    for f in (moments, component_moments, lambda x: principal(x, 4).variances):
        assert_close(f(x), f(same), rtol=0, atol=0)
    for fit in (
        PCA.fit,
        lambda x: Whitened.fit(DCT((1, 8, 8)), x),
        lambda x: PCA.fit(x.expand(-1, 3, -1, -1), shared=True),
    ):
        a, b = fit(x), fit(same)
        y = same.expand(-1, *b.data_shape)
        assert_close(a(y), b(y), rtol=0, atol=0)


def test_integer_constants_are_exact():
    x = normal(2, 1, 2, 2)
    two = Scaled(DCT((1, 2, 2)), torch.ones(1, 2, 2).long(), torch.tensor(2))
    assert_close(two(x), Scaled(DCT((1, 2, 2)), 1.0, 2.0)(x), rtol=0, atol=0)
    cov = torch.diag(torch.tensor([4, 3, 2, 1]))
    b = PCA.from_covariance(cov, torch.zeros(1, 2, 2).long())
    assert_close(b.variances, torch.tensor([4.0, 3, 2, 1], dtype=f64))
    assert_close(Scaled(b, b.mean)(x), b(x))
    swap = PCA((2,), torch.tensor([[0, 1], [1, 0]]), torch.ones(2), torch.zeros(2))
    assert_close(swap(normal(3, 2)), normal(3, 2).flip(1), rtol=0, atol=0)
    order = spectrum_order(torch.tensor([1, 2, 4]))
    assert_close(order, torch.tensor([1.0, 2, 4], dtype=f64).log().neg())
    mask = torch.tensor([[0, 2, 0]])
    assert distance_order(mask).tolist() == distance_order(mask > 0).tolist()


def test_complex_data_are_refused():
    x = torch.ones(3, 1, 4, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match="torch.complex64"):
        DCT((1, 4, 4))(x)
    for f in (moments, component_moments, PCA.fit, lambda x: principal(x, 2)):
        with pytest.raises(ValueError, match="torch.complex64, want .* real"):
            f(x)


def test_numbers_without_a_grid_have_no_place():
    with pytest.raises(ValueError, match="no place"):
        column_order(Pixel((5,)))


@pytest.fixture
def double():
    torch.set_default_dtype(f64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dtype", [f64, torch.float32])
@every_basis
def test_default_precision_is_not_used(b, dtype):
    x, c = normal(2, *b.data_shape, dtype=dtype), normal(2, *b.shape, dtype=dtype)
    assert b(x).dtype == b.inv(c).dtype == b.energy_map(c).dtype == dtype
    for facts in (b.places, b.frequencies):
        assert facts is None or facts.dtype == f64


def test_facts_do_not_depend_on_the_default_precision():
    def facts():
        made = [DCT((1, 6, 10)), Fourier((1, 5, 7)), Wavelet((1, 12, 8), "db2", 2)]
        made += [Columns(DCT((2, 5)), 3), Pixel((1, 3, 4))]
        return [v for b in made for v in (b.places, b.frequencies) if v is not None]

    single = facts()
    torch.set_default_dtype(f64)
    try:
        for a, b in itertools.zip_longest(single, facts()):
            assert_close(a, b, rtol=0, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)


# Each basis against an independent route


def test_pixels_are_the_identity():
    x = normal(2, 1, 4, 4)
    assert Pixel((1, 4, 4))(x) is x
    places = [[[[0, 0, 0], [1, 1, 1]]], [[[0, 1, 2], [0, 1, 2]]]]
    assert Pixel((1, 2, 3)).places.tolist() == places
    assert Pixel((5,)).places is None
    with pytest.raises(NotImplementedError, match=r"must define forward\(x\)"):
        Basis().forward(x)


def test_cosines_are_those_of_scipy():
    x = normal(5, 1, 8, 8)
    theirs = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    assert_close(DCT((1, 8, 8))(x), torch.as_tensor(theirs))
    assert_close(dct_matrix(7) @ dct_matrix(7).T, torch.eye(7, dtype=f64))
    f = DCT((1, 8, 8)).frequencies[0, 0, 3, 0]
    wave = torch.cos(2 * torch.pi * f * (torch.arange(8, dtype=f64) + 0.5))
    assert_close(dct_matrix(8)[3], wave / wave.norm())  # what a frequency means
    assert _cosines(8) is _cosines(8)


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 5, 6), (2, 6, 7), (1, 1, 4), (9, 1)], ids=str
)
def test_waves_are_those_of_numpy(shape):
    x = normal(4, *shape)
    F = np.fft.fft2(x.numpy(), norm="ortho")
    assert_close(Fourier(shape)(x), torch.as_tensor(F.real - F.imag))


def test_frequencies_of_waves():
    found = Fourier((1, 8, 8)).frequencies[:, 0, 1, 6]
    assert found.tolist() == [1 / 8, -2 / 8]


@pytest.mark.parametrize("b", [haar, Wavelet((1, 8, 16), "haar", 3)])
def test_a_wavelet_is_where_its_energy_is(b):
    atoms = b.inv(torch.eye(prod(b.shape), dtype=f64).reshape(-1, *b.shape))
    energy = atoms.square()[:, 0]
    rows = (energy.sum(2) * torch.arange(b.shape[1])).sum(1)
    columns = (energy.sum(1) * torch.arange(b.shape[2])).sum(1)
    assert_close(b.places.flatten(1), torch.stack([rows, columns]))


def test_a_long_wavelet_is_in_the_middle_of_its_support():
    sym, spot = Wavelet((1, 64, 64), "sym4", 2), torch.zeros(1, 1, 64, 64, dtype=f64)
    spot[0, 0, 7, 44] = 1
    inside = sym.inv(spot)[0, 0].nonzero().double()
    assert_close((inside.amin(0) + inside.amax(0)) / 2, sym.places[:, 0, 7, 44])
    assert sym.level[0, 7, 44].item() == 2 and sym.level[0, 7, 30].item() == 1


# The digits


@pytest.fixture(scope="module")
def digits():
    return torch.as_tensor(load_digits().images / 8 - 1, dtype=f64)[:, None]


@pytest.fixture(scope="module")
def pca(digits):
    with pytest.warns(UserWarning, match="of 64 principal variances are below 1e-08"):
        return PCA.fit(digits)


@pytest.fixture(scope="module")
def tinted(digits):
    tint = torch.tensor([1.0, 0.6, -0.3], dtype=f64)[:, None, None]
    shift = torch.tensor([0.0, 0.5, 0.0], dtype=f64)[:, None, None]
    return digits[:400] * tint + shift


def test_principal_components_are_those_of_scikit_learn(digits, pca):
    flat = digits.flatten(1)
    mean, cov = moments(digits, batch=100)
    assert_close(cov, flat.T.cov(correction=0))
    assert_close(mean, flat.mean(0))
    assert_close(component_moments(digits)[1].flatten(), cov.diagonal())
    sk = SkPCA().fit(flat.numpy())
    unbiased = torch.as_tensor(sk.explained_variance_[:50])
    want = unbiased * (len(flat) - 1) / len(flat)
    assert_close(pca.variances[:50], want, rtol=1e-9, atol=0)
    theirs = torch.as_tensor(sk.transform(flat.numpy()))[:, :8].abs()
    ours = pca(digits - pca.mean)[:, :8].abs()
    assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    found = pca(digits).T.cov(correction=0).diagonal()
    assert_close(found, pca.variances, rtol=1e-6, atol=1e-6)


def test_leading_components_of_digits(digits):
    p = principal(digits, 8)
    flat = (digits - digits.mean(0)).flatten(1)
    by_svd = torch.linalg.svdvals(flat).square() / len(flat)
    assert_close(p.variances, by_svd[:8], rtol=1e-6, atol=0)
    assert_close(p.total, by_svd.sum().item())


@pytest.mark.filterwarnings("ignore:.*variances are below")
def test_few_images_and_shared_channels(digits, tinted):
    few, shared = PCA.fit(digits[:20]), PCA.fit(tinted, shared=True)
    assert few.variances.min() > 0 and few.vectors.isfinite().all()
    assert (shared.shape, shared.data_shape) == ((3, 64), (3, 8, 8))
    assert shared.vectors.shape == (64, 64)
    own = shared(tinted).var(0, correction=0)  # the three channels of each component
    assert_close(own.mean(0), shared.variances, rtol=1e-6, atol=1e-6)
    assert_close(shared.mean, tinted.mean(0))


def test_scale_is_the_prior(digits, pca):
    matched = Scaled(pca, pca.mean, pca.variances.sqrt())
    variances = matched(digits).var(0, correction=0)
    assert (variances < 1 + 1e-9).all()  # less where the variance was raised
    assert_close(variances[:50], torch.ones(50, dtype=f64))
    seen = matched.inv(torch.eye(64, dtype=f64)).sub(pca.mean).flatten(1)
    U = pca.vectors
    assert_close(seen.T @ seen, U.T @ pca.variances.diag() @ U)  # UᵀΛU
    tensors = {}
    again = rebuild(describe(matched, tensors), tensors, allow=(Scaled, PCA))
    assert_close(again(digits), matched(digits), rtol=0, atol=0)


SQUARE = {
    "pixels": Pixel((1, 8, 8)),
    "cosines": DCT((1, 8, 8)),
    "waves": Fourier((1, 8, 8)),
    "haar": haar,
}


@pytest.mark.filterwarnings("ignore:.*variances are below")
@pytest.mark.parametrize("b", SQUARE.values(), ids=SQUARE)
def test_whitened_components_have_mean_0_and_variance_1(b, digits):
    w = Whitened.fit(b, digits, batch=500)
    chi = w(digits)
    free = w.scale > 1.01 * w.scale.min()  # not raised to the floor
    assert_close(chi.mean(0), torch.zeros(b.shape, dtype=f64), rtol=0, atol=1e-9)
    assert_close(chi.var(0, correction=0)[free], torch.ones_like(w.scale[free]))


@pytest.mark.filterwarnings("ignore:.*variances are below")
def test_whitened_principal_components(digits, pca):
    w = Whitened.fit(pca, digits)
    assert_close(w.scale[:50], pca.variances[:50].sqrt())


def test_scores_and_densities_transform(digits, pca):
    "By automatic differentiation, on a Gaussian law that is known in data space."
    cov = moments(digits)[1] + torch.eye(64, dtype=f64)
    law = torch.distributions.MultivariateNormal(torch.zeros(64, dtype=f64), cov)
    eye = torch.eye(64, dtype=f64).reshape(-1, 1, 8, 8)
    for b in (
        Scaled(pca, pca.mean, pca.variances.sqrt()),
        Whitened.fit(DCT((1, 8, 8)), digits),
        Scaled(haar, 1.0, 2.0),
    ):
        x = (digits[:5] + 0.3).requires_grad_()
        log_p = law.log_prob(x.flatten(1))
        (score_x,) = torch.autograd.grad(log_p.sum(), x)
        M = b.basis(eye).flatten(1).T / b.scale.expand(b.shape).reshape(-1, 1)
        zero = b(torch.zeros(1, 1, 8, 8, dtype=f64)).flatten()  # χ = M x + constant
        there = torch.distributions.MultivariateNormal(zero, M @ cov @ M.T)
        chi = b(x).detach().requires_grad_()
        log_p_chi = there.log_prob(chi.flatten(1))
        (score_chi,) = torch.autograd.grad(log_p_chi.sum(), chi)
        back = b.basis.inv(score_chi / b.scale)
        assert_close(back, score_x, rtol=1e-6, atol=1e-6)
        assert_close(log_p_chi - b.log_volume, log_p.detach(), rtol=1e-9, atol=1e-6)


def test_bases_of_colour(tinted):
    x, colours = tinted[:2], Colours((3, 8, 8))
    assert_close(colours(x)[:, 0], x.sum(1) / 3**0.5)
    both = Compose(Wavelet((3, 8, 8), "haar", 2), colours)(x)[:, 0, :2, :2]
    alone = Wavelet((8, 8), "haar", 2)(x.sum(1) / 3**0.5)
    assert_close(both, alone[:, :2, :2])


@pytest.mark.filterwarnings("ignore:.*variances are below")
def test_columns_stay_apart(tinted):
    column = PCA.fit(tinted.movedim(-1, 1).flatten(0, 1))
    b, pixel = Columns(column, 8), Pixel((3, 8, 8))
    assert (b.shape, b.data_shape, b.onto) == ((24, 8), (3, 8, 8), True)
    alone = tinted[:4] * (torch.arange(8) == 5)  # column 5 alone
    assert_close(b(alone), b(tinted[:4]) * (torch.arange(8) == 5))
    assert_close(b.places[1], pixel.places[1, 0, :1].expand(24, 8))

    def nats(basis):  # per component, of a Gaussian with these variances
        c = basis(tinted - tinted.mean(0))
        return (c.var(0) + 1e-4).log().mean() / 2

    assert nats(PCA.fit(tinted)) < nats(b) < nats(pixel)


def test_padding_is_an_isometry_not_onto():
    b = Compose(Wavelet((1, 32, 32), "haar", 3), Pad((1, 28, 28), (1, 32, 32)))
    U = b.inv(torch.eye(1024, dtype=f64).reshape(-1, 1, 32, 32)).flatten(1)
    assert_close(U.T @ U, torch.eye(784, dtype=f64))
    values = torch.linalg.eigvalsh(U @ U.T).round(decimals=6)  # of a projection
    assert values.unique(return_counts=True)[1].tolist() == [240, 784]
    assert b.rotation.onto and not b.onto
    scaled = Scaled(b, torch.zeros(1, 28, 28))
    assert scaled.rotation.data_shape == (1, 32, 32)


# Orders


def test_orders():
    deep, side = Wavelet((1, 16, 16), "haar", 3), Pixel((1, 16, 16))
    waves, cosines = (radius_order(B((1, 16, 16))) for B in (Fourier, DCT))
    assert_close(waves[0, 3, 14].item(), 13**0.5 / 16)
    assert_close(cosines[0, 3, 2].item(), 13**0.5 / 32)
    diagonal = level_order(deep)[0, [0, 1, 2, 4, 8], [0, 1, 0, 5, 3]]
    assert diagonal.tolist() == [0, 0, 1, 2, 3]
    assert row_order(side).mT.equal(column_order(side))
    first = column_order(deep)[0, 0, [0, 1, 2, 3, 4, 7, 8, 15]]
    assert first.tolist() == [3.5, 11.5, 3.5, 11.5, 1.5, 13.5, 0.5, 14.5]
    every = column_order(Wavelet((3, 8, 8), "haar", 2))  # every channel alike
    assert every[2].equal(column_order(haar)[0])
    v = normal(9).exp()
    assert_close(spectrum_order(v).exp() * v, torch.ones(9, dtype=f64))


def test_distance_is_that_to_the_nearest_pixel_of_a_mask():
    hole = torch.zeros(1, 16, 16).bool()
    hole[0, 2:6, 2:6] = hole[0, 12, 12] = True
    place = torch.cartesian_prod(torch.arange(16), torch.arange(16)).double()
    want = torch.cdist(place, place[hole.flatten()]).amin(1)
    assert_close(distance_order(hole).flatten(), want)


# What it costs, and what is refused


def multiply_adds(basis):
    "Of encoding one image, counted while it is done."
    with FlopCounterMode(display=False) as counter:
        basis(torch.zeros(1, *basis.data_shape))
    return counter.get_total_flops() / 2


def test_multiply_adds():
    assert multiply_adds(DCT((3, 32, 32))) == 2 * 32 * 3 * 32**2
    levels = 2 * 32 * 3 * 32**2 * (1 + 1 / 8 + 1 / 64)
    assert multiply_adds(Wavelet((3, 32, 32), "db4", 3)) == levels
    assert multiply_adds(BASES["components"]) == 64**2
    assert multiply_adds(BASES["shared"]) == 3 * 20**2


white = Scaled(BASES["components"])
REFUSED = {
    "shape": (lambda: Pixel((1, 4, 4))(torch.ones(2, 4, 4)), "want (batch, 1, 4, 4)"),
    "no image": (lambda: DCT((8,)), "at least (H, W)"),
    "biorthogonal": (lambda: wavelet_matrix(8, "bior2.2"), "is not orthogonal"),
    "nearly": (lambda: wavelet_matrix(8, "dmey"), "orthogonal to"),
    "odd": (lambda: wavelet_matrix(7, "haar"), "want an even number"),
    "signals": (lambda: Wavelet((2, 64), "haar", 3), "have the shape (2, 1, 64)"),
    "halvings": (lambda: Wavelet((1, 28, 28), "haar", 3), "Pad((1, 28, 28), (1, 32"),
    "levels": (lambda: Wavelet((3, 32, 24), "db2", 4), "at most 3"),
    "negative": (lambda: Wavelet((4, 4), "haar", -1), "0 or more"),
    "name": (lambda: Wavelet((1, 28, 28), "hear", 1), "hear"),
    "constant": (lambda: PCA.fit(torch.ones(9, 1, 4, 4)), "finite data that vary"),
    "NaN": (lambda: PCA.fit(torch.full((9, 1, 4, 4), torch.nan)), "NaN or infinite"),
    "covariance": (
        lambda: PCA.from_covariance(torch.eye(4), torch.zeros(1, 4, 4)),
        "got a covariance of shape (4, 4)",
    ),
    "no scale": (lambda: Scaled(haar, 0.0, 0.0), "must be > 0"),
    "twice": (lambda: Scaled(white), "scale its .basis"),
    "scale": (lambda: Scaled(DCT((1, 8, 8)), scale=torch.ones(8)), "expand it"),
    "one": (lambda: Whitened.fit(haar, torch.ones(1, 1, 8, 8)), "at least 2"),
    "chain": (lambda: Compose(haar, BASES["components"]), "want them equal"),
    "scaled": (lambda: Compose(haar, white), "scale last"),
    "pad last": (lambda: Compose(Pad((1, 8, 8), (1, 9, 9)), haar), "pad first"),
    "columns": (lambda: Columns(DCT((3, 8, 8)), 8), "one for a column (C, H)"),
    "width": (lambda: Columns(Pixel((3, 8)), 0), "at least one column"),
    "smaller": (lambda: Pad((1, 28, 28), (1, 28, 24)), "want larger sides"),
    "frequency": (lambda: radius_order(haar), "a basis with `frequencies` (2, *"),
    "place": (lambda: column_order(BASES["components"]), "a basis with `places` (2"),
    "no level": (lambda: level_order(BASES["colour haar"]), "want a Wavelet"),
    "no mask": (lambda: distance_order(torch.zeros(4, 4)), "without a single pixel"),
    "no variance": (lambda: spectrum_order(torch.zeros(3)), "raise the small ones"),
}


@pytest.mark.parametrize("bad, words", REFUSED.values(), ids=REFUSED)
def test_refusals(bad, words):
    with pytest.raises(ValueError) as e:
        bad()
    assert words in str(e.value)
