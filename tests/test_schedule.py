"""Schedules: axes that are wrong, overlap on large images, sweeps over all of them."""

import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch.testing import assert_close

from gud_nb.core import describe, rebuild
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.recipe import psld
from gud_nb.schedule import (
    B_from_gamma,
    Cosine,
    Family,
    LinearBeta,
    LinearGamma,
    PerImage,
    Schedule,
    blend,
    continued,
    gamma_from_B,
    nested,
    overlap,
    plot_snr,
    sequential,
    soft_conditioning,
    tilted,
)

g = torch.Generator().manual_seed(0)
variances = torch.logspace(1, -3, 24, dtype=torch.float64).reshape(2, 3, 4)
order = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
columns = -torch.arange(4.0, dtype=torch.float64).expand(2, 3, 4)


class Own(Schedule):
    "A schedule per component that is no line in γ."

    shape = (2, 3, 4)

    def B(self, t):
        return 10 * self.per_component(t) ** (1 + order.abs())


class Curved(Schedule):
    "Lines in γ, at another pace."

    shape = (2, 3, 4)

    def gamma(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        return soft_conditioning(variances, 0.5).gamma(t**2)

    def B(self, t):
        return torch.nn.functional.softplus(self.gamma(t))


SCHEDULES = {
    "linear β": (LinearBeta(), variances),
    "linear β, few variances": (LinearBeta(), 2.0**columns),
    "linear β, white": (LinearBeta(), torch.ones(2, 3, 4)),
    "cosine": (Cosine(), variances),
    "linear γ": (LinearGamma(), variances),
    "soft": (soft_conditioning(variances, 0.5), variances),
    "soft, whitened": (soft_conditioning(variances, 0.5, whitened=True), 1.0),
    "soft, clipped": (soft_conditioning(variances, 2.0, clip=True), variances),
    "by another order": (soft_conditioning(variances, 2.0, order=order), variances),
    "tilted": (tilted(variances, order, 1.3, -0.4), variances),
    "columns": (sequential(columns, 0.5), 1.0),
    "columns, one by one": (sequential(columns, 0.75), 1.0),
    "all in an order": (sequential(order, 0.9), 1.0),
    "nested": (nested(columns, order, 2.0, 0.5), 1.0),
    "no line": (Own(), variances),
    "curved": (Curved(), variances),
}
every = pytest.mark.parametrize("s, v", SCHEDULES.values(), ids=SCHEDULES.keys())


# Overlap


def by_pairs(schedule, variances, n):
    "The definition, pair by pair, over the same intervals."
    t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    kinks = schedule.breakpoints if len(schedule.breakpoints) <= n else ()
    t = torch.cat([t, torch.tensor(kinks, dtype=torch.float64)]).unique()
    gamma = schedule.gamma(t)
    gamma = gamma.reshape(len(t), *(schedule.shape or (1,) * 3))
    level = torch.as_tensor(variances, dtype=torch.float64).expand(2, 3, 4).log()
    p = torch.sigmoid(gamma - level).flatten(1).diff(dim=0)
    p = p / p.sum(0)
    first, second = torch.triu_indices(p.shape[1], p.shape[1], 1)
    return torch.minimum(p[:, first], p[:, second]).sum(0).mean().item()


@every
@pytest.mark.parametrize("n", [7, 400])
def test_overlap_is_its_definition(s, v, n):
    v = v if s.shape else torch.as_tensor(v).expand(2, 3, 4)
    assert_close(overlap(s, v, n), by_pairs(s, v, n), rtol=1e-12, atol=1e-12)


def test_overlap_of_equal_components_counts_each():
    "Copies of the components change a mean over pairs in a known way."
    v, copies = variances.flatten(), 5
    many = v.repeat_interleave(copies)
    one = overlap(soft_conditioning(v, 0.5), v)
    d, pairs = len(v), len(many) * (len(many) - 1) / 2
    alike = d * copies * (copies - 1) / 2
    want = (alike + one * (pairs - alike)) / pairs
    assert_close(overlap(soft_conditioning(many, 0.5), many), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [soft_conditioning, None], ids=["lines", "own"])
def test_overlap_of_a_large_image_goes_in_short_stretches(make, monkeypatch):
    d, seen = 200_000, []
    v = torch.rand(d, generator=g, dtype=torch.float64) + 0.1
    made = soft_conditioning(v, 0.5)

    class Wrapped(Schedule):
        shape = (d,)

        def gamma(self, t):
            return made.gamma(t)

    sigmoid = torch.sigmoid

    def watched(x):
        seen.append(x.numel())
        return sigmoid(x)

    monkeypatch.setattr(torch, "sigmoid", watched)
    overlap(made if make else Wrapped(), v, n=40)
    assert max(seen) <= 2**21 + d  # of 8 bytes: 17 MB, not 40 · 200 000
    assert len(seen) > 3


# Axes


@every
def test_axes_are_right(s, v):
    assert s.check() is s


def test_axes_of_one_schedule_per_image_are_right():
    lines = LinearGamma(-7.0, 3.0), LinearGamma(-9.0, 1.0)
    assert PerImage(lines, 4).check().images == 4
    assert PerImage((Own(), Curved()), 6).check().images == 6


class NoTimeAxis(Schedule):
    shape = (3,)

    def B(self, t):
        return t * torch.tensor([1.0, 5.0, 10.0])


class TimeLast(Schedule):
    shape = (3,)

    def B(self, t):
        return torch.tensor([1.0, 5.0, 10.0]).reshape(3, *(1,) * t.ndim) * t


class NotDeclared(Schedule):
    def B(self, t):
        return t[..., None] * torch.ones(3)


class NotGiven(Schedule):
    shape = (3,)

    def B(self, t):
        return t


class FiveByChance(Schedule):
    shape = (5,)

    def B(self, t):
        return t * torch.arange(1.0, 6.0)


WRONG = {
    "no time axis": (NoTimeAxis, "NoTimeAxis.B fails for t (5,)", "want (5, 3)"),
    "time last": (TimeLast, "TimeLast.B gave shape (3, 5) for t (5,)", "want (5, 3)"),
    "undeclared": (NotDeclared, "NotDeclared.B gave shape (3,) for t ()", "want ()"),
    "not given": (NotGiven, "NotGiven.B gave shape () for t ()", "want (3,)"),
    "by chance": (FiveByChance, "gave shape (5,) for t (5,)", "want (5, 5)"),
}


@pytest.mark.parametrize("kind, got, want", WRONG.values(), ids=WRONG.keys())
def test_wrong_axes_are_refused_with_both_shapes(kind, got, want):
    with pytest.raises(ValueError) as e:
        kind().check()
    for words in (got, want, "self.per_component(t)"):
        assert words in str(e.value)
    assert "\n" not in str(e.value)


class Missing(Schedule):
    shape = (2,)


class Detached(Schedule):
    def B(self, t):
        return 8 * t.detach()


class OneNumber(Schedule):
    def B(self, t):
        return torch.as_tensor(8 * math.sin(t))


class NoTensor(Schedule):
    def B(self, t):
        return 8 * float(t)


class ByNumpy(Schedule):
    def B(self, t):
        return torch.as_tensor(8 * t.numpy())


class WrongBeta(NoTimeAxis):
    def B(self, t):
        return self.per_component(t) * torch.ones(3)

    def beta(self, t):
        return torch.ones(3)


NO_DERIVATIVE = {
    "detached": (Detached, "Detached.B has no derivative (The output of f is indep"),
    "number": (OneNumber, "OneNumber.B fails for t (5,)"),
    "no tensor": (NoTensor, "NoTensor.B gave 4.0 for t ()"),
    "numpy": (ByNumpy, "ByNumpy.B has no derivative"),
}


@pytest.mark.parametrize("kind, got", NO_DERIVATIVE.values(), ids=NO_DERIVATIVE.keys())
def test_a_schedule_that_leaves_torch_is_refused(kind, got):
    with pytest.raises(ValueError) as e:
        kind().check()
    assert got in str(e.value) and "without float(t)" in str(e.value)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400
    if "derivative" not in got:
        with pytest.raises(ValueError, match=re.escape(got)):
            LinearDiffusion(psld(), kind())
    with pytest.raises(ValueError, match="has no derivative"):
        kind().beta(torch.tensor(0.5, dtype=torch.float64))


def test_a_missing_B_and_a_wrong_beta_are_named():
    with pytest.raises(NotImplementedError) as e:
        Missing().check()
    assert str(e.value) == "Missing must define B(t)"
    with pytest.raises(ValueError, match=r"WrongBeta.beta gave shape \(3,\) for t \(5"):
        WrongBeta().check()


def test_beta_is_right_without_gradients():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(Quadratic().beta(inner), 20 * inner)


# Looking at schedules


def curves(ax):
    return [line for line in ax.lines if len(line.get_xdata()) > 2]


@every
def test_a_plot_has_at_most_six_lines(s, v):
    plt.switch_backend("Agg")
    ax = plot_snr(s, variances=v if s.shape else 1.0)
    t = torch.linspace(1e-3, 1, 200, dtype=torch.float64)
    lines = curves(ax)
    assert len(lines) == (6 if s.shape else 1)
    snr = -s.gamma(t) + (torch.as_tensor(v).log() if s.shape else 0.0)
    snr = snr.reshape(200, -1)
    for line in lines:
        found = torch.as_tensor(line.get_ydata())[:, None]
        assert ((found - snr).abs().amax(0) < 1e-9).any()  # one of the components
    plt.close(ax.figure)


def test_a_plot_of_groups_and_of_diffusions():
    plt.switch_backend("Agg")
    s = soft_conditioning(variances, 0.5)
    d = LinearDiffusion(psld(), s, hsm(psld()), by_snr=True)
    groups = torch.arange(24).reshape(2, 3, 4) // 12
    t = torch.linspace(0.01, 1, 7, dtype=torch.float64)
    for source in (s, d):
        ax = plot_snr(source, groups, times=t)
        for i, line in enumerate(curves(ax)):
            want = -s.gamma(t).reshape(7, -1)[:, 12 * i : 12 * i + 12].mean(1)
            found = torch.as_tensor(line.get_ydata())
            assert_close(found, want, rtol=0, atol=1e-7)
        plt.close(ax.figure)
    ax = plot_snr({"one": LinearBeta(), "other": d}, times=t)
    assert [line.get_label() for line in curves(ax)] == ["one", "other"]
    plt.close(ax.figure)
    for bad, words in (
        (lambda: plot_snr(psld()), "want a Schedule or a LinearDiffusion"),
        (lambda: plot_snr(s, groups[0]), "want one for each of 24"),
        (lambda: plot_snr({}), "want 1 to 6"),
    ):
        with pytest.raises(ValueError, match=words):
            bad()
    plt.close("all")


@every
def test_a_schedule_has_a_view_and_a_short_repr(s, v):
    assert "<svg" in s._repr_html_() and len(s._repr_html_()) < 6000
    assert len(repr(s)) < 250 and "\n" not in repr(s)


# γ and B


def test_gamma_and_B_are_inverse_at_both_ends():
    gamma = torch.linspace(-40, 40, 9, dtype=torch.float64)
    B = torch.logspace(-17, 3, 41, dtype=torch.float64)
    back = gamma_from_B(B_from_gamma(gamma))
    assert_close(back, gamma, rtol=1e-14, atol=1e-14)
    assert_close(B_from_gamma(gamma_from_B(B)), B, rtol=1e-13, atol=0)
    small = B[:20]
    assert_close(gamma_from_B(small), small.log() + small / 2, rtol=1e-10, atol=0)
    assert_close(B_from_gamma(torch.zeros(()).double()).item(), math.log(2))
    assert gamma_from_B(torch.zeros(1).double()).item() == -math.inf
    assert B_from_gamma(torch.tensor(-math.inf)).item() == 0.0


# Schedules for all components


def test_a_schedule_must_define_B():
    with pytest.raises(NotImplementedError, match=r"Schedule must define B\(t\)"):
        Schedule().B(0.5)


def test_linear_beta():
    assert_close(LinearBeta().B(1.0).item(), 10.05)  # as printed by Song et al.
    constant = LinearBeta(8.0, 8.0).beta(torch.rand(5, generator=g))
    assert_close(constant, torch.full((5,), 8.0, dtype=torch.float64))


def test_cosine():
    s, t = Cosine(), torch.linspace(0, 1, 11, dtype=torch.float64)[:-1]
    theta, end = math.pi / 2 * (t + 0.008) / 1.008, s.breakpoints[0]
    assert_close(torch.exp(-s.B(t) / 2), theta.cos(), rtol=1e-12, atol=0)
    assert_close(s.gamma(t), 2 * theta.tan().log(), rtol=1e-12, atol=1e-12)
    assert_close(s.B(end - 1e-9).item(), 20.0, rtol=1e-4, atol=0)
    assert s.B(1.0).item() == 20.0 and s.beta(1.0).item() == 0.0
    assert s.beta(torch.tensor([0.0, 0.5, 1.0])).isfinite().all()
    assert s.gamma(torch.tensor([1e-6, 1.0])).isfinite().all()
    assert_close(s.beta(t), Schedule.beta(s, t), rtol=1e-10, atol=0)
    want = math.pi / 1.008 * math.exp(10)  # β before it stops
    assert_close(s.beta(end).item(), want, rtol=1e-6, atol=0)


# Lines in γ


capped = LinearGamma(-13.3, 5.0, clip=(-7.0, 3.0))
each = LinearGamma(torch.linspace(-9, -5, 6).reshape(2, 3), 4.0)


def test_lines_have_the_shape_of_their_ends():
    assert each.shape == (2, 3) and each.breakpoints == ()
    assert each.B(torch.rand(5, generator=g)).shape == (5, 2, 3)
    assert each.B(0.5).shape == (2, 3)


def test_lines_stop_at_their_bounds():
    kinks = torch.tensor(capped.breakpoints, dtype=torch.float64)
    bounds = torch.tensor([-7.0, 3.0], dtype=torch.float64)
    assert_close(capped.gamma(kinks), bounds)
    assert_close(capped.beta(kinks), torch.sigmoid(bounds) * 18.3)  # just inside
    assert capped.beta(kinks[0] - 1e-9).item() == 0.0
    assert capped.beta(kinks[1] + 1e-9).item() == 0.0


@pytest.mark.parametrize("axes", [(64,), (8, 8), (1, 8, 8)])
def test_each_component_of_each_image_has_its_own_value(axes):
    ends = torch.linspace(-12, -4, 64, dtype=torch.float64)
    t = torch.linspace(0, 1, 64, dtype=torch.float64)
    many = LinearGamma(ends.reshape(axes), 3.0)
    B = many.B(t)
    assert B.shape == many.beta(t).shape == (64, *axes)
    assert many.gamma(t[0]).shape == axes
    for i, j in ((0, 63), (63, 0), (5, 17)):
        alone = LinearGamma(ends[j].item(), 3.0).B(t[i].item())
        assert_close(B.flatten(1)[i, j], alone)


# Soft conditioning

spectrum = torch.logspace(1, -3, 8, dtype=torch.float64)
other = torch.tensor([3.0, 1.0, 0.0, 2.0, 3.0, 0.0, 1.0, 2.0])
by_column = -torch.arange(4.0).expand(4, 4)
times = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("order", [None, other], ids=["spectrum", "other"])
@pytest.mark.parametrize("a", [0.0, 0.4, 1.0, 3.0])
def test_soft_conditioning_keeps_its_promises(order, a):
    l = -spectrum.log() if order is None else order.double()
    free, tight, white = (
        soft_conditioning(spectrum, a, order=order, **how)
        for how in ({}, dict(clip=True), dict(whitened=True))
    )
    snr = lambda s, t: spectrum.log() - s.gamma(t)
    assert_close(snr(free, 0.0), 7.0 + a * (l.max() - l))
    assert_close(snr(free, 1.0), -3.0 - a * (l - l.min()))
    ends = torch.tensor([[7.0], [-3.0]], dtype=torch.float64).expand(2, 8)
    assert_close(snr(tight, torch.tensor([0.0, 1.0])), ends)
    assert_close(-white.gamma(times), snr(free, times))  # scaled or not, the same SNRs
    if a:  # a larger order is noised earlier
        assert (snr(free, 0.5)[l.argsort(descending=True)].diff() >= -1e-12).all()


def test_strength_one_is_standard_diffusion():
    low, high = spectrum.log().aminmax()
    same = LinearGamma(-7.0 + low.item(), 3.0 + high.item()).gamma(times)
    found = soft_conditioning(spectrum, 1.0).gamma(times)
    assert_close(found, same[:, None].expand(-1, 8))


# Sequential, nested, blended


def test_sequential_is_its_formula():
    s = sequential(by_column, 0.5, -13.0, 5.0)
    for j in range(4):
        tau = 0.5 * j / 3
        want = (-13 + (times - tau) * 18 / 0.5).clamp(-13, 5)
        assert_close(s.gamma(times)[:, 2, j], want)
    assert s.shape == (4, 4)
    kinks = torch.tensor([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6])
    assert_close(torch.tensor(s.breakpoints), kinks)
    late = sequential(by_column, 0.9).beta(0.05)
    assert (late[:, 0] > 0).all() and (late[:, 1:] == 0).all()  # the largest first


ORDERS = {
    "columns": by_column,
    "rows": by_column.T,
    "random": torch.randn(4, 4, generator=g),
    "all equal": torch.ones(4, 4),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_sequential_at_0_is_all_together(order):
    want = LinearGamma().gamma(times)[:, None, None].expand(-1, 4, 4)
    assert_close(sequential(order, 0.0).gamma(times), want)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("a", [0.7, 4.0])
def test_clipped_soft_conditioning_is_sequential(order, a):
    R = order.double().max() - order.double().min()
    ones = torch.ones(4, 4)
    soft = soft_conditioning(ones, a, order=order, whitened=True, clip=True)
    windows = sequential(order, (a * R / (10 + a * R)).item())
    assert_close(windows.gamma(times), soft.gamma(times))


def haar_bands() -> tuple[torch.Tensor, torch.Tensor]:
    "Level and column of 8×8 Haar coefficients, laid out as an image of bands."
    place = torch.arange(8)
    far = torch.maximum(place[:, None], place)
    band = torch.where(far > 0, far.clamp(min=1).log2().floor() + 1, 0.0)
    side = 2 ** (band - 1).clamp(min=0)
    return band, (place % side) / side


def test_nested_orders_levels_and_columns_of_haar():
    band, across = haar_bands()
    inner = nested(band, -across, 0.0, 0.5).gamma(times)
    assert_close(inner, sequential(-across, 0.5).gamma(times))
    outer = nested(band, -across, 2.0, 0.0).gamma(times)
    how = dict(order=band, whitened=True, clip=True)
    assert_close(outer, soft_conditioning(torch.ones(8, 8), 2.0, **how).gamma(times))
    fine = torch.linspace(0, 1, 20_001)
    starts = (nested(band, -across, 100.0, 0.5).gamma(fine) <= -7).sum(0)
    found = [starts[ij] for ij in ((4, 4), (4, 7), (2, 2), (0, 1), (0, 0))]
    assert (torch.stack(found).diff() > 0).all()  # by level, then by column


def test_blend_goes_from_one_order_to_another():
    l = -spectrum.log()
    assert_close(blend(l, other, 0.0), l)
    last = blend(l, other, 1.0).argsort(stable=True)
    assert (last == other.argsort(stable=True)).all()
    ends = [torch.stack(v.aminmax()) for v in (blend(l, other, 0.3), l)]
    assert_close(*ends)
    corner = soft_conditioning(spectrum, 1.0, order=blend(l, other, 0.0))
    gamma = corner.gamma(times)
    assert_close(gamma, gamma[:, :1].expand(-1, 8))  # standard diffusion


@pytest.mark.parametrize("w", [0.0, 0.4, -0.4])
def test_tilted_blends_the_order(w):
    found = tilted(spectrum, other, 1.3, w).gamma(times)
    order = blend(-spectrum.log(), other if w >= 0 else -other, abs(w))
    assert_close(found, soft_conditioning(spectrum, 1.3, order=order).gamma(times))
    turned = tilted(spectrum, -other, 1.3, -w).gamma(times)
    assert_close(found, turned)


def test_continued_leaves_what_is_known():
    s = continued(torch.arange(8), 3, 0.5, -9.0, 3.0)
    known = torch.full((101, 3), -9.0, dtype=torch.float64)
    assert_close(s.gamma(times)[:, :3], known)
    assert (s.beta(times)[:, :3] == 0).all()
    alone = sequential(torch.arange(5), 0.5, -9.0, 3.0)
    assert_close(s.gamma(times)[:, 3:], alone.gamma(times))
    none = continued(torch.arange(8), 0, 0.5).gamma(times)
    assert_close(none, sequential(torch.arange(8), 0.5).gamma(times))


# Overlap: values that are known


def test_overlap_at_its_ends():
    one = overlap(soft_conditioning(spectrum, 0.0), spectrum)
    assert_close(one, 1.0, rtol=1e-12, atol=0)
    assert_close(overlap(Cosine(), torch.ones(3)), 1.0, rtol=1e-12, atol=0)
    none = overlap(sequential(-torch.arange(8.0), 7 / 8))
    assert_close(none, 0.0, rtol=0, atol=1e-12)
    assert overlap(soft_conditioning(spectrum, 100.0), spectrum) < 0.01
    assert overlap(LinearBeta()) == 1.0


def test_overlap_falls_with_strength():
    a = torch.linspace(0, 4, 20).tolist()
    shares = [overlap(soft_conditioning(spectrum, i), spectrum) for i in a]
    assert (torch.tensor(shares).diff() < 0).all()


def test_overlap_of_logistic_densities():
    "Two at a distance δ in log-SNR share 1 - tanh(δ/4)."
    delta = 0.8 * (spectrum.log()[:, None] - spectrum.log()).abs()
    pairs = torch.ones(8, 8).triu(1).bool()
    ends = dict(gamma_denoise=-40.0, gamma_noise=40.0)
    wide = soft_conditioning(spectrum, 0.8, **ends)
    want = (1 - torch.tanh(delta / 4))[pairs].mean().item()
    assert_close(overlap(wide, spectrum, n=20_000), want, rtol=1e-5, atol=0)


class Hurried(Schedule):
    "The same levels of noise, at another pace."

    shape = (8,)

    def gamma(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        return soft_conditioning(spectrum, 0.8).gamma(t**2)


def test_overlap_does_not_depend_on_the_pace():
    even = overlap(soft_conditioning(spectrum, 0.8), spectrum)
    assert_close(overlap(Hurried(), spectrum), even, rtol=1e-3, atol=0)
    whole = overlap(soft_conditioning(spectrum, 1.0, gamma_denoise=-20.0), spectrum)
    assert_close(overlap(LinearBeta(), spectrum), whole, rtol=0.03, atol=0)
    white = overlap(soft_conditioning(spectrum, 0.8, whitened=True))
    assert_close(white, even)


# Families


def test_images_have_the_schedules_of_their_members():
    pair = PerImage((LinearGamma(-7.0, 3.0), LinearGamma(-9.0, 1.0)), 4)
    found = pair.gamma(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert_close(found, torch.tensor([-7.0, 3.0, -9.0, 1.0], dtype=torch.float64))
    betas = torch.stack([m.beta(0.5) for m in pair.members])
    assert_close(pair.beta(0.5)[::2], betas)
    assert_close(pair.B(0.5), B_from_gamma(pair.gamma(0.5)))


def test_a_family_makes_members_in_its_ranges():
    family = Family(soft_conditioning, dict(a=(0.4, 1.6)), dict(variances=spectrum))
    drawn = family.draw(64, torch.Generator().manual_seed(0))
    assert_close(family().gamma(times), family(a=1.0).gamma(times))
    assert_close(
        family(a=1.0).gamma(times), soft_conditioning(spectrum, 1.0).gamma(times)
    )
    assert drawn.gamma(0.5).shape == (64, 8) and len(drawn.members) == 16
    for t in (0.0, 0.3, 1.0):
        assert_close(drawn.gamma(t)[8:12], drawn.members[2].gamma(t).expand(4, 8))
    spread = [m.gamma(0.0) for m in drawn.members]
    log_range = (spectrum.max() / spectrum.min()).log()
    off = [((v.max() - v.min()) / log_range).item() for v in spread]  # |1 - a|
    assert max(off) <= 0.6 and len(set(off)) == 16


def test_a_family_may_have_two_ranges():
    band, across = haar_bands()
    ranges, fixed = dict(a=(0.0, 2.0), b=(0.0, 0.5)), dict(outer=band, inner=-across)
    drawn = Family(nested, ranges, fixed).draw(3, torch.Generator().manual_seed(0))
    assert (drawn.images, len(drawn.members)) == (3, 3)
    assert not torch.equal(drawn.members[0].B(0.5), drawn.members[1].B(0.5))


def test_a_family_is_saved_and_warns_outside_of_its_range():
    family = Family(soft_conditioning, dict(a=(0.4, 1.6)), dict(variances=spectrum))
    text = json.dumps(describe(family, saved := {}))
    again = rebuild(json.loads(text), saved, allow=(Family, soft_conditioning))
    assert torch.equal(again(a=0.7).gamma(times), family(a=0.7).gamma(times))
    assert again.ranges == family.ranges
    with pytest.warns(UserWarning, match="outside of the family's range, 0.4 to 1.6"):
        family(a=3.0)


# Laws of every schedule


class Quadratic(Schedule):
    def B(self, t):
        return 10 * torch.as_tensor(t, dtype=torch.float64) ** 2


class Rates(Schedule):
    shape = (3,)

    def B(self, t):
        return self.per_component(t) * torch.tensor([1.0, 5.0, 10.0])


LAWFUL = {
    "linear β": LinearBeta(),
    "constant β": LinearBeta(8.0, 8.0),
    "cosine": Cosine(),
    "cosine, long": Cosine(B_max=60.0),
    "linear γ": LinearGamma(),
    "wide γ": LinearGamma(-40.0, 40.0),
    "capped": capped,
    "one each": each,
    "no hierarchy": soft_conditioning(spectrum, 0.0),
    "standard": soft_conditioning(spectrum, 1.0),
    "clipped": soft_conditioning(spectrum, 2.0, clip=True),
    "whitened": soft_conditioning(spectrum, 1.5, whitened=True, clip=True),
    "blended": soft_conditioning(
        spectrum, 1.0, order=blend(-spectrum.log(), other, 0.5)
    ),
    "columns": sequential(by_column, 0.5, -13.0, 5.0),
    "rows": sequential(by_column.T, 0.95),
    "all at once": sequential(by_column, 0.0),
    "Haar": nested(haar_bands()[0], -haar_bands()[1], 2.0, 0.5),
    "quadratic": Quadratic(),
    "rates": Rates(),
}
lawful = pytest.mark.parametrize("s", LAWFUL.values(), ids=LAWFUL.keys())
inner = torch.linspace(0.0131, 0.9871, 60, dtype=torch.float64)
ends = torch.tensor([0.0, 1.0], dtype=torch.float64)


def slope(s, t, u):
    return (s.B(u) - s.B(t)) / (u - t).reshape(-1, *(1,) * len(s.shape))


@lawful
def test_shapes_and_precision(s):
    assert s.check() is s
    for f in (s.B, s.beta, s.gamma):
        assert f(inner).shape == (60, *s.shape)
    assert s.B(0.5).shape == s.shape and s.B(inner).dtype == torch.float64
    assert_close(s.B(inner.float()), s.B(inner), rtol=3e-4, atol=3e-4)
    assert_close(s.B(inner)[7], s.B(inner[7].item()))


@lawful
def test_noise_rises_and_is_finite(s):
    assert (s.B(inner).diff(dim=0) >= 0).all()
    start, end = s.B(ends)
    assert (end > start).all() and (start >= 0).all()
    assert s.B(ends).isfinite().all() and s.beta(ends).isfinite().all()
    assert not s.gamma(ends).isnan().any() and (s.gamma(ends) < torch.inf).all()
    assert_close(s.gamma(inner), s.B(inner).expm1().log(), rtol=1e-9, atol=1e-9)


@lawful
def test_beta_is_the_derivative_of_B(s):
    kinks, h = torch.tensor(s.breakpoints, dtype=torch.float64), 1e-6
    assert (kinks.diff() > 0).all() and ((kinks > 0) & (kinks < 1)).all()
    smooth = inner
    if len(kinks):
        smooth = inner[(inner[:, None] - kinks).abs().amin(1) > 2 * h]
    central = slope(s, smooth - h, smooth + h)
    assert_close(s.beta(smooth), central, rtol=1e-6, atol=1e-7)
    assert_close(s.beta(smooth), Schedule.beta(s, smooth), rtol=1e-9, atol=1e-12)
    near = kinks[kinks < 1 - 1e-9]
    if len(near):  # at a kink the larger of the two one-sided ones, the one inside
        sides = slope(s, near - 1e-9, near), slope(s, near, near + 1e-9)
        assert_close(s.beta(near), torch.maximum(*sides), rtol=1e-3, atol=1e-5)


@lawful
def test_results_live_where_the_times_do(s):
    if type(s) in (Quadratic, Rates):
        pytest.skip("a schedule of this file, on the CPU")
    for f in (s.B, s.beta, s.gamma):  # without values: nothing may look at them
        v = f(inner.to("meta"))
        assert v.is_meta and v.shape == (60, *s.shape)


@lawful
def test_a_schedule_is_saved_and_read_back(s):
    if type(s) in (Quadratic, Rates):
        pytest.skip("a schedule of this file, no dataclass")
    saved, allow = {}, (LinearBeta, Cosine, LinearGamma)
    again = rebuild(describe(s, saved), saved, allow=allow)
    for name in ("B", "beta", "gamma"):
        assert torch.equal(getattr(again, name)(inner), getattr(s, name)(inner))
    assert again.breakpoints == s.breakpoints and again.shape == s.shape


# Words


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: soft_conditioning(-variances, 1.0), "variances must be positive"),
        (lambda: overlap(LinearBeta(), -variances), "variances must be positive"),
        (lambda: tilted(0 * variances, order, 1.0, 0.0), "variances must be positive"),
        (lambda: sequential(order, 0.5, 3.0, -7.0), "gamma_min=3.0, gamma_max=-7.0"),
        (lambda: nested(order, order, 1.0, 0.5, 3.0, 3.0), "noise must rise"),
        (lambda: continued(order, 2, 0.5, 3.0, -7.0), "noise must rise"),
        (lambda: continued(order, 2, 1.0), "b must be in [0, 1)"),
        (lambda: PerImage((LinearGamma(),), 0), "got images=0"),
        (lambda: Family(nested, dict(a=(2.0, 1.0))), "the range of a"),
        (lambda: LinearBeta(-1.0, 2.0), "got -1.0 to 2.0"),
        (lambda: Cosine(s=0.0), "> 0"),
        (lambda: LinearGamma(3.0, -7.0), "γ must rise"),
        (lambda: LinearGamma(float("nan")), "γ must rise"),
        (lambda: LinearGamma(clip=(3.0, -7.0)), "two rising bounds"),
        (lambda: soft_conditioning(torch.tensor([1.0, 0.0]), 1.0), "got 0 to 1"),
        (lambda: soft_conditioning(variances, -1.0), "a must be"),
        (lambda: soft_conditioning(variances, float("nan")), "a must be"),
        (lambda: soft_conditioning(variances, 1.0, 3.0, -7.0), "noise must rise"),
        (lambda: soft_conditioning(variances, 1, order=torch.ones(3)), "shape (3,)"),
        (lambda: sequential(columns, 1.0), "b must be in [0, 1)"),
        (lambda: sequential(columns, -0.1), "b must be in [0, 1)"),
        (lambda: sequential(torch.tensor([]), 0.5), "one finite number per component"),
        (lambda: nested(order, torch.ones(3), 1.0, 0.0), "entry per component in both"),
        (lambda: nested(order, order, 1.0, 1.0), "b=1.0"),
        (lambda: blend(order, -order, 0.5), "cancel"),
        (lambda: blend(order, columns, 2.0), "got 2.0"),
        (lambda: blend(order, torch.ones(3), 0.0), "in both"),
        (lambda: tilted(variances, order, 1.0, 2.0), "[-1, 1]"),
        (lambda: continued(torch.arange(8), 8), "below 8"),
        (lambda: overlap(each, torch.ones(4)), "want one per component"),
        (lambda: overlap(LinearBeta(), torch.zeros(4)), "positive"),
        (lambda: overlap(LinearGamma(4.0, 5.0, (-7.0, 3.0))), "must be noised"),
        (lambda: PerImage((LinearGamma(), each), 4), "all of one shape"),
        (lambda: Family(nested, dict(a=2.0)), "(low, high)"),
        (lambda: Family("nested", dict(a=(0.0, 1.0))), "make='nested', want a func"),
        (lambda: Family(nested, dict(a=(0.0, 1.0)), dict(a=1.0)), "one of the two"),
        (lambda: Family(nested, dict(a=(0.0, 1.0)))(c=1.0), "want a value of a"),
    ],
)
def test_refusals(bad, words):
    with pytest.raises(ValueError) as e:
        bad()
    assert words in str(e.value)


@pytest.mark.parametrize("name", ["01_recipe", "02_transition", "03_schedule"])
def test_these_notebooks_use_plain_words(name):
    notebook = Path(__file__).parents[1] / "nbs" / f"{name}.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells).lower()
    found = re.findall(r"\b(clocks?|rooms?|house|told|asks|hears|knows)\b", text)
    assert not found
