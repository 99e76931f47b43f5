"""What the core refuses, each in one line that says what was got; and what it takes."""

import copy

import pytest
import torch

from gud_nb.denoiser import (
    Dense,
    Independent,
    LowRank,
    Mixture,
    Score,
    Spectral,
    clipped,
    data_from_eps,
    eps_from_data,
    gaussian,
    guided,
)
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.recipe import psld, vp
from gud_nb.sampler import Grid, ddim, even_log_snr, fastest, quadratic, sample, sscs
from gud_nb.schedule import LinearBeta, LinearGamma, PerImage

d = LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
C = torch.eye(3) + 0.5
laws = {
    "independent": Independent(torch.zeros(3), torch.ones(3)),
    "spectral": gaussian(torch.zeros(3), C),
    "dense": Dense(torch.zeros(3), C),
    "low rank": LowRank(torch.zeros(3), torch.ones(3, 1), torch.ones(3)),
    "mixture": Mixture(torch.randn(2, 3), 0.1),
}
law, score = laws["independent"], Score(d, laws["independent"])
whole = torch.randint(-3, 4, (4, 2, 3))
state, chi = torch.randn(4, 2, 3), torch.randn(4, 3)


def refused(f, match):
    with pytest.raises(ValueError, match=match) as e:
        f()
    assert "\n" not in str(e.value)


integers = {
    "data": lambda: d.perturb(whole[:, 0], 0.5, state),
    "noise": lambda: d.perturb(chi, 0.5, whole),
    "score": lambda: score(whole, 0.5),
    "observe": lambda: d.observe(whole, 0.5),
    "score from data": lambda: d.score(whole, 0.5, chi),
    "prior": lambda: d.prior(whole),
    "flow": lambda: d.flow(whole, state, 0.5),
    "drift": lambda: d.reverse_drift(whole, state, 0.5),
    "sample": lambda: sample(ddim, d, score, whole, quadratic(3)),
    "eps": lambda: eps_from_data(whole[:, 0], chi, 0.0),
    "data from eps": lambda: data_from_eps(whole[:, 0], chi, 0.0),
}


@pytest.mark.parametrize("name", integers)
def test_integers(name):
    refused(integers[name], "want a floating tensor")


@pytest.mark.parametrize("name", laws)
def test_laws_of_integers(name):
    refused(lambda: laws[name](whole[:, 0], 0.0), "want a floating tensor")
    refused(lambda: laws[name].sample(whole[:, 0]), "want a floating tensor")
    refused(lambda: laws[name].log_prob(whole[:, 0]), "want a floating tensor")


@pytest.mark.parametrize("phases", [1, 3])
def test_another_number_of_phases(phases):
    z = torch.randn(4, phases, 3)
    for f in (
        lambda: score(z, 0.5),
        lambda: sample(ddim, d, score, z, quadratic(3)),
        lambda: d.prior(z),
        lambda: d.observe(z, 0.5),
        lambda: d.flow(z, z, 0.5),
        lambda: d.reverse_drift(z, z, 0.5),
    ):
        refused(f, "phase")


def test_component_axes_of_recipe_and_start():
    many = psld(torch.tensor([0.01, 0.1, 0.3]))
    wide = torch.zeros(5, 2, 2).double()
    for process, comp in (
        (LinearDiffusion(many, LinearBeta()), (1,)),
        (LinearDiffusion(many, LinearBeta()), (4,)),
        (LinearDiffusion(psld(), LinearBeta(), wide), (1,)),
        (LinearDiffusion(psld(torch.rand(2, 3)), LinearBeta()), (3,)),
    ):
        x, noise = torch.randn(2, *comp), torch.randn(2, 2, *comp)
        refused(lambda: process.perturb(x, 0.5, noise), "component axes")


def test_a_start_that_moves_the_position():
    refused(
        lambda: LinearDiffusion(psld(), LinearBeta(), None, torch.eye(2)), "position"
    )
    refused(lambda: LinearDiffusion(psld(), LinearBeta(), -hsm(psld())), "positive")


def test_times_and_states():
    refused(lambda: d.flow(state, state, torch.rand(3)), "3 times for a batch of 4")
    refused(lambda: score(state, torch.rand(3) / 2 + 0.1), "3 times for a batch of 4")
    refused(lambda: score(state, 0.0), "no noise")


def test_schedules_of_images_are_not_sampled_together():
    two = LinearGamma(torch.tensor([-9.0, -7, -5]), 3.0)
    own = LinearDiffusion(psld(), PerImage((two, two), 6), hsm(psld()))
    z = torch.randn(6, 2, 3)
    for f in (
        lambda: sample(ddim, own, Score(own, law), z, quadratic(5)),
        lambda: sample(sscs, own, Score(own, law), z, quadratic(4)),
        lambda: Grid(own, quadratic(5), z),
        lambda: even_log_snr(own, 5),
        lambda: fastest(own.schedule, 5),
    ):
        refused(f, "schedules for 6 images")


@pytest.mark.parametrize(
    "shape", [(4, 2, 4, 2, 3), (6, 2, 4, 2, 3), (5, 1, 4, 2, 3), (5, 4, 2, 3)]
)
def test_noise_of_another_shape(shape):
    noise = torch.randn(shape)
    refused(lambda: sample(sscs, d, score, state, quadratic(5), noise=noise), "noise")


def test_laws_that_are_none():
    refused(lambda: Dense(torch.zeros(2), torch.tensor([[1.0, 2], [2, 1]])), "semidef")
    refused(
        lambda: Dense(torch.zeros(2), torch.tensor([[1.0, 0], [1, 1]])), "symmetric"
    )
    refused(lambda: Independent(torch.tensor([float("nan")]), torch.ones(1)), "finite")
    bad = torch.full((3, 1), float("inf"))
    refused(lambda: LowRank(torch.zeros(3), bad, torch.ones(3)), "finite")


@pytest.mark.parametrize("name", laws)
def test_a_law_first_used_inside_a_transform(name):
    fresh = copy.deepcopy(laws[name])
    own = LinearDiffusion(vp(), LinearGamma(torch.tensor([-9.0, -7, -5]), 3.0))
    s, z = Score(own, fresh), torch.randn(2, 1, 3)
    torch.func.jacrev(lambda z: s(z, 0.5))(z)
    torch.testing.assert_close(copy.deepcopy(s)(z, 0.5), s(z, 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", laws)
def test_half_precision(name, dtype):
    y = torch.randn(4, 3)
    for level in (0.3, torch.zeros(1, 3)):
        found = laws[name](y.to(dtype), level)
        assert found.dtype == dtype
        right = laws[name](y.to(dtype).float(), level)
        torch.testing.assert_close(found.float(), right, rtol=0.05, atol=0.05)


def test_changed_denoisers_keep_the_protocol():
    def by_class(y, log_snr, labels=None):
        return y if labels is None else y + labels[:, None]

    labels, y = torch.ones(4), torch.randn(4, 3)
    right = by_class(y, 0.0, labels)
    changed = guided(by_class, by_class, 2.0), clipped(by_class, -99.0, 99.0)
    for f in changed:
        torch.testing.assert_close(f(y, 0.0, labels=labels), right)
        torch.testing.assert_close(f(y, 0.0, labels), right)


def test_spectral_laws_keep_their_dense_form():
    fresh = Spectral(torch.zeros(3), torch.ones(1), torch.eye(3)[:, :1], 0.5)
    assert fresh.dense is fresh.dense
