"""Schedules: axes that are wrong, overlap on large images, sweeps over all of them."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from gud_nb.schedule import (
    Cosine,
    Family,
    LinearBeta,
    LinearGamma,
    PerImage,
    Schedule,
    continued,
    nested,
    overlap,
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
