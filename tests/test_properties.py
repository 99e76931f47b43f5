"""Random shapes, dtypes, bases, schedules and recipes: a right result, or one line.

`GUD_EXAMPLES=500 pytest tests/test_properties.py` tries more, and others each time.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from gud_nb.adams import ExponentialAdams, sde_dpm_solver, unipc
from gud_nb.basis import DCT, Columns, Compose, Fourier, Pixel, Scaled, Wavelet
from gud_nb.denoiser import Independent, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.frozen import Frozen
from gud_nb.integrators import (
    DEIS,
    ConjugateSplitting,
    DPMSolver,
    Splitting,
    ancestral,
    predictor_corrector,
)
from gud_nb.loss import (
    active_only,
    eps_weight,
    likelihood_weight,
    score_matching,
    snr_times,
    spread_times,
)
from gud_nb.paths import Rising, churn
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    ImageNoise,
    ddim,
    edm,
    euler_maruyama,
    even_log_snr,
    exponential_heun,
    fastest,
    heun,
    quadratic,
    sample,
    sscs,
    uniform,
)
from gud_nb.schedule import Cosine, LinearBeta, LinearGamma, sequential

EXAMPLES = os.environ.get("GUD_EXAMPLES")
settings.register_profile(
    "gud",
    deadline=None,
    max_examples=int(EXAMPLES or 8),
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gud")

axes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
seeds = st.integers(0, 2**32)
floats = st.sampled_from([torch.float32, torch.float64])
times = st.floats(0.05, 0.95)


def numbers(seed, *shape, dtype=torch.float64):
    "Standard normal numbers."
    g = torch.Generator().manual_seed(seed % 2**31)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


def recipe_of(kind, comp, seed):
    "A recipe, the last one for each component."
    some = 0.01 + numbers(seed, *comp).abs().clamp(max=1)
    makers = dict(
        vp=vp,
        cld=cld,
        psld=lambda: psld(some.flatten()[0].item()),
        third_order=third_order,
        own=lambda: psld(some),
    )
    return makers[kind]()


def schedule_of(kind, comp, seed):
    "A schedule, the last three for each component."
    low = -6 - numbers(seed + 1, *comp).abs().clamp(max=3)
    known = numbers(seed + 2, *comp) < 0
    known.view(-1)[0] = False
    makers = dict(
        beta=lambda: LinearBeta(0.1, 5 + 10 * numbers(seed).abs().item()),
        cosine=Cosine,
        gamma=lambda: LinearGamma(low.min().item(), 3.0),
        own=lambda: LinearGamma(low, 4.0),
        sequential=lambda: sequential(numbers(seed, *comp), 0.4),
        frozen=lambda: Frozen(LinearGamma(low.min().item(), 4.0), known),
    )
    return makers[kind]()


RECIPES = ["vp", "cld", "psld", "third_order", "own"]
SCHEDULES = ["beta", "cosine", "gamma", "own", "sequential", "frozen"]


@st.composite
def processes(draw, comp):
    "A diffusion of components (*comp)."
    seed, kind = draw(seeds), draw(st.sampled_from(RECIPES))
    schedule = schedule_of(draw(st.sampled_from(SCHEDULES)), comp, seed)
    recipe = recipe_of(kind, comp, seed)
    start = hsm(recipe)
    Sigma0, aux_cov = draw(st.sampled_from([(None, None), (start, None)]))
    by_snr = kind != "own" and draw(st.booleans())
    return LinearDiffusion(recipe, schedule, Sigma0, aux_cov, by_snr)


def one_line(error):
    "Whether an error is one line."
    return 10 < len(str(error)) < 400 and "\n" not in str(error)


@given(st.data(), axes, seeds, floats)
def test_there_and_back(data, comp, seed, dtype):
    d = data.draw(processes(comp))
    n = data.draw(st.integers(1, 4))
    t = torch.tensor(data.draw(st.lists(times, min_size=n, max_size=n)))
    chi, noise = (
        numbers(seed, n, *comp, dtype=dtype),
        numbers(seed + 1, n, d.k, *comp, dtype=dtype),
    )
    p = d.perturb(chi, t, noise)
    assert p.z.dtype == dtype and p.z.shape == noise.shape
    for i in range(n):  # each image alone
        one = d.perturb(chi[i : i + 1], t[i], noise[i : i + 1])
        assert_close(one.z[0], p.z[i])
    y, log_snr, rest = d.observe(p.z, t)
    kernel = d.kernel(t, p.z)
    assert_close(rest + kernel.phi * y[:, None], p.z, rtol=1e-5, atol=1e-5)
    if dtype == torch.float64:
        clean = d.perturb(chi, t, 0 * noise).z  # without noise: data, shrunk
        assert_close(d.observe(clean, t).y, chi, rtol=1e-7, atol=1e-9)
        s = d.score(p.z, t, chi)
        scale = torch.exp(-log_snr / 2).clamp(min=1)  # of the noise in y
        assert_close(kernel.data(p.z, s) / scale, chi / scale, rtol=1e-6, atol=1e-6)
        assert_close(kernel.noise(p.z, chi), -act_transposed(kernel.T, s))


def act_transposed(T, s):
    "T⊤ applied to the phases of s."
    return (T * s[:, :, None]).sum(1)


@given(axes, axes, axes, seeds, st.sampled_from(RECIPES), st.sampled_from(SCHEDULES))
def test_axes_fit_or_are_refused(comp, of_recipe, of_schedule, seed, recipe, schedule):
    r, s = recipe_of(recipe, of_recipe, seed), schedule_of(schedule, of_schedule, seed)
    try:
        d = LinearDiffusion(r, s)
        z = d.perturb(numbers(seed, 2, *comp), 0.4, numbers(seed, 2, d.k, *comp)).z
    except ValueError as e:
        assert one_line(e)
        return
    assert z.shape == (2, r.k, *comp)
    where = torch.ones(comp).nonzero()[-1].tolist()  # the last component, alone

    def at(shape):
        return tuple(min(i, n - 1) for i, n in zip(where, shape))

    B = s.B(0.4)[at(s.shape)] if s.shape else s.B(0.4)
    one = LinearDiffusion(
        type(r)(*(getattr(r, n)[at(r.shape)] for n in "DQH")) if r.shape else r,
        LinearBeta(B.item(), B.item()),
    )
    chi, noise = numbers(seed, 2, *comp), numbers(seed, 2, d.k, *comp)
    last = (..., *where)
    alone = one.perturb(chi[last], 1.0, noise[last]).z
    assert_close(z[last], alone, rtol=1e-7, atol=1e-9)


@given(st.data(), axes, st.floats(allow_nan=True, width=32))
def test_times_are_in_the_unit_interval(data, comp, t):
    d = data.draw(processes(comp))
    z = torch.zeros(2, d.k, *comp)
    f = data.draw(st.sampled_from([d.B, d.beta, d.frame, d.kernel, d.log_snr]))
    args = (t, z)
    try:
        f(*args)
    except ValueError as e:
        assert one_line(e) and not 0 < t <= 1
    else:
        assert -1e-5 < t < 1 + 1e-5


SAMPLERS = {
    "ddim": ddim,
    "euler_maruyama": euler_maruyama,
    "sscs": sscs,
    "heun": heun,
    "exponential_heun": exponential_heun,
    "ancestral": ancestral,
    "corrected": predictor_corrector(ddim),
    "BAB": Splitting("BAB"),
    "OBAB": Splitting("OBAB"),
    "conjugate": ConjugateSplitting(),
    **{f"DPMSolver({q})": DPMSolver(q) for q in (1, 2, 3)},
    **{f"DEIS({q})": DEIS(q) for q in (1, 2, 3)},
    "unipc": unipc(3),
    "sde_dpm_solver": sde_dpm_solver(2),
    "adams": ExponentialAdams(2, 0.5, True),
    "rising": Rising(ddim),
}


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=int(EXAMPLES or 2))
@given(data=st.data(), comp=axes, seed=seeds, dtype=floats, final=st.booleans())
def test_samples(name, data, comp, seed, dtype, final):
    d, sampler = data.draw(processes(comp)), SAMPLERS[name]
    grid = data.draw(st.sampled_from([uniform, quadratic]))(3, 0.1)
    grid = churn(d, grid, 1.0) if name == "rising" else grid
    law = Independent(numbers(seed, *comp), numbers(seed + 1, *comp).square())
    noise, score = ImageNoise(seed), Score(d, law)

    def run(i, j):
        own = noise.after(i)
        z = d.prior(own(torch.empty(j - i, d.k, *comp, dtype=dtype)))
        return sample(sampler, d, score, z, grid, generator=own, final=final)

    try:
        whole = run(0, 5)
    except ValueError as e:
        assert one_line(e)
        assert isinstance(sampler, Splitting) and d.k == 1
        return
    assert whole.dtype == dtype and whole.isfinite().all()
    assert whole.shape[0] == 5 and whole.shape[-len(comp) :] == comp
    close = dict(rtol=1e-9, atol=1e-9) if dtype == torch.float64 else dict()
    parts = torch.cat([run(0, 2), run(2, 5)])
    scale = whole.abs().amax().clamp(min=1)
    assert_close(parts / scale, whole / scale, **close)


sides = st.sampled_from([2, 4])


@st.composite
def bases(draw):
    "A basis of small images."
    shape = (draw(st.integers(1, 2)), draw(sides), draw(sides))
    inner = draw(
        st.sampled_from(
            [
                Pixel(shape),
                DCT(shape),
                Fourier(shape),
                Wavelet(shape, "haar", 1),
                Columns(Pixel(shape[:2]), shape[-1]),
                Compose(DCT(shape), Pixel(shape)),
            ]
        )
    )
    return draw(st.sampled_from([inner, Scaled(inner, 0.3, 2.0)]))


EXACT = [ddim, exponential_heun, ancestral, DPMSolver(2), DEIS(2), sde_dpm_solver(2)]


@given(st.data(), bases(), seeds, st.sampled_from(EXACT), st.integers(1, 4))
def test_data_that_are_one_image_are_found(data, basis, seed, sampler, n):
    "From any start, on any grid: every prediction is that image."
    d = data.draw(processes(tuple(basis.shape)))
    x = numbers(seed, 1, *basis.data_shape)
    chi = basis(x)[0]
    point = Score(d, Independent(chi, torch.zeros_like(chi)))
    z = d.prior(numbers(seed + 1, 3, d.k, *basis.shape))
    grid = quadratic(n, 0.2)
    g = ImageNoise(seed)
    z = sample(sampler, d, point, z, grid, generator=g, final=False)
    assert z.isfinite().all()
    found = basis.inv(point.data(z, 0.2))
    assert_close(found, x.expand(3, *x.shape[1:]), rtol=1e-6, atol=1e-6)


@given(
    st.data(),
    axes,
    st.one_of(st.integers(-2, 9), st.floats(), st.none(), st.booleans()),
    st.one_of(st.floats(allow_nan=True), st.integers(0, 1), st.none()),
)
def test_grids_fall_from_one(data, comp, n, eps):
    d = data.draw(processes(comp))
    make = data.draw(st.sampled_from([uniform, quadratic, even_log_snr, edm, fastest]))
    args = (n, eps) if make in (uniform, quadratic) else (d, n, eps)
    whole = isinstance(n, int) and not isinstance(n, bool) and n >= 1
    number = isinstance(eps, float) and 0 < eps < 1
    try:
        grid = make(*args)
    except ValueError as e:
        assert one_line(e)
        assert not whole or not number or eps < 1e-3 or eps > 0.999
    else:
        assert whole and number
        assert len(grid) == n + 1 and grid.dtype == torch.float64
        assert_close(grid[[0, -1]], torch.tensor([1.0, eps], dtype=torch.float64))
        assert (grid.diff() <= 0).all()


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**40),
    st.integers(1, 70),
    axes,
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 1000),
)
def test_noise_of_an_image_is_its_own(seed, first, n, shape, dtype, draw):
    noise, like = ImageNoise(seed, first), torch.empty(n, *shape, dtype=dtype)
    whole = noise(like, draw)
    assert whole.dtype == dtype and whole.shape == like.shape
    for i in {0, n // 2, n - 1}:
        assert torch.equal(noise.after(i)(like[:1], draw)[0], whole[i])
        assert torch.equal(ImageNoise(seed, first + i)(like[:1], draw)[0], whole[i])
    assert not torch.equal(noise(like, draw + 1), whole)


@given(st.data(), axes, seeds, floats, st.integers(1, 5))
def test_losses(data, comp, seed, dtype, n):
    d = data.draw(processes(comp))
    t = spread_times(n, torch.Generator().manual_seed(seed % 2**31), 0.05)
    assert t.shape == (n,) and ((t >= 0.05) & (t <= 1)).all()
    chi = numbers(seed, n, *comp, dtype=dtype)
    noise = numbers(seed + 1, n, d.k, *comp, dtype=dtype)
    weight = data.draw(
        st.sampled_from([eps_weight, likelihood_weight, active_only(eps_weight)])
    )
    none = score_matching(d, lambda z, t: noise, chi, t, noise, weight=weight)
    assert_close(none, torch.zeros(n).to(none))
    off = score_matching(d, lambda z, t: 0 * z, chi, t, noise, weight=weight)
    assert off.shape == (n,) and (off >= 0).all() and off.isfinite().all()
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    when = snr_times(d, n=64)(u)
    assert ((when >= 0) & (when <= 1)).all() and (when.diff() >= 0).all()


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.floats(),
    st.complex_numbers(),
    st.integers(-3, 999),
    st.lists(st.floats(), max_size=3),
    st.builds(
        lambda shape, dtype: torch.ones(shape).to(dtype),
        st.lists(st.integers(0, 3), max_size=4),
        st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
    ),
)


@given(st.data(), JUNK, st.integers(0, 9))
def test_anything_in_place_of_an_argument(data, junk, which):
    "A result, or one line; never another error."
    comp = (2,)
    d = data.draw(processes(comp))
    z, chi = torch.randn(3, d.k, *comp), torch.randn(3, *comp)
    law = Independent(torch.zeros(comp), torch.ones(comp))
    calls = [
        (d.perturb, [chi, 0.5, z]),
        (d.score, [z, 0.5, chi]),
        (d.flow, [z, z, 0.5]),
        (d.prior, [z, 1.0]),
        (d.observe, [z, 0.5]),
        (Score(d, law), [z, 0.5]),
        (score_matching, [d, lambda z, t: z, chi, 0.5, z]),
        (sample, [ddim, d, Score(d, law), z, uniform(2)]),
        (edm, [d, 3, 0.1, 7.0]),
        (churn, [d, uniform(2), 1.0]),
    ]
    f, args = calls[which]
    args[data.draw(st.integers(0, len(args) - 1))] = junk
    try:
        f(*args)
    except ValueError as e:
        assert one_line(e)
