"""What the core refuses, each in one line that says what was got; and what it takes."""

import copy
import math
import re
import warnings

import numpy as np
import pytest
import torch
from fields import Zero

from gud_nb.basis import Pixel, Scaled
from gud_nb.core import act, describe
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
from gud_nb.diffusion import (
    LinearDiffusion,
    SNRTable,
    frame_at,
    hsm,
    lift,
)
from gud_nb.frozen import Frozen, extend, frozen_components, inpaint_frozen
from gud_nb.integrators import (
    DEIS,
    Conjugate,
    DPMSolver,
    PredictorCorrector,
    Splitting,
    dormand_prince,
    gaussian_distance,
    tune_lambda,
)
from gud_nb.loss import (
    active_only,
    eps_from_score,
    eps_weight,
    likelihood_weight,
    noise_factor,
    score_from_eps,
    score_matching,
    snr_times,
    spread_times,
)
from gud_nb.model import ScoreModel
from gud_nb.paths import Rising, ancestral_path, churn, path_evaluations, restart
from gud_nb.recipe import Recipe, psld, vp
from gud_nb.sampler import (
    DDIM,
    EulerMaruyama,
    FlowEuler,
    Grid,
    ImageNoise,
    Trajectory,
    ddim,
    default_grid,
    denoise,
    edm,
    evaluations,
    even_log_snr,
    fastest,
    film,
    image_noise,
    level_time,
    marginal_covariance,
    measure_order,
    propagate,
    quadratic,
    sample,
    sscs,
    uniform,
)
from gud_nb.schedule import Cosine, LinearBeta, LinearGamma, PerImage, Schedule

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


# Every argument in turn is something else

nan, inf = math.nan, math.inf
known = torch.tensor([True, False, False])
drawn = LinearDiffusion(psld(), LinearBeta(), aux_cov=hsm(psld()))
times, t4 = quadratic(5), torch.rand(4) / 2 + 0.1
steps = torch.tensor([0, 400, 999, 1])
numbers = [None, "a", nan, True, [1.0], 1j, torch.ones(2)]
objects = [None, "psld", 3, [1], DDIM, quadratic]
wrong = {
    "time": [1.5, -0.1, nan, inf, 500, steps, steps[1], steps.float(), "a", None, True]
    + [[0.1, 0.2, 0.3, 5.0], [0.1, "b"], torch.rand(4, 1), torch.tensor(0.5 + 1j)],
    "state": [None, 1.0, "z", state.tolist(), state.numpy(), whole, state + 0j]
    + [state[0], state[:, :1], torch.randn(4, 3, 3)],
    "data": [None, 1.0, "x", chi.tolist(), chi.numpy(), whole[:, 0], chi + 0j]
    + [torch.tensor(1.0)],
    "alike": [state.double(), state.half(), state[:2], state[:, :, :2], state[:1]],
    "grid": [None, 5, 0.5, "edm", quadratic, np.int64(5), torch.tensor(5), [1.0]]
    + [steps.sort(descending=True)[0], times.flip(0), times[:1], times[None]]
    + [[1, 0.5, 0.0], [1.5, 0.5], [1, nan, 0.1], [1, 0.5, 0.5], ["a", "b"]],
    "path": [None, 5, 0.5, "edm", quadratic, np.int64(5), [1.0], times.flip(0)]
    + [times[:1], times[None], [1, 0.5, 0.0], [1.5, 0.5], [1, nan], [1, 0.5, 0.5]],
    "count": [0, -3, 5.0, 2.5, None, "5", True, torch.tensor(5), nan, inf, [5]],
    "natural": [-3, 5.0, 2.5, None, "5", True, torch.tensor(5), nan, inf],
    "real": numbers,
    "share": [*numbers, -0.1, 1.1],
    "inside": [*numbers, 0.0, 1.0, -0.1, 1.5, inf],
    "positive": [*numbers, 0.0, -1.0, inf],
    "not negative": [*numbers, -1.0, inf],
    "number": [*numbers, inf, -inf],
    "recipe": [*objects, LinearBeta()],
    "schedule": [*objects, vp()],
    "start": ["a", 3, 0.04, hsm(psld()).tolist(), hsm(psld()).numpy(), -hsm(psld())]
    + [torch.eye(3), torch.eye(2) * nan, torch.eye(2).long(), torch.ones(2)],
    "process": [*objects, vp(), LinearBeta()],
    "source": [*objects, vp()],
    "score": [None, "s", 3, [1], DDIM, vp(), Score(d, law).diffusion],
    "function": [None, "s", 3, [1], DDIM, vp()],
    "sampler": [*objects, vp()],
    "generator": ["a", 3, [1], DDIM, quadratic],
    "flag": [None, 1, "yes", 0.0],
    "law": [*objects, vp(), torch.ones(3)],
    "matrix": ["a", [[1.0]], torch.ones(1, 2), torch.ones(2), torch.eye(2) * nan]
    + [torch.eye(2).long(), torch.ones(2, 2, 2), inf, True],
    "variances": [[0.1, 1.0], -torch.ones(3), torch.zeros(3), torch.ones(3, 2), 1.0]
    + [torch.ones(3) * nan, torch.ones(0), torch.ones(3).long()],
    "known": [None, 3, "left", [True, False], torch.tensor([1, 0]), ~known | known]
    + [torch.tensor(True), known.numpy()],
}
says = {  # what stands for the argument in the error, if not its name
    "time": r"\bt=|times",
    "state": r"state|score|noise|eps|auxiliary|\bs\b",
    "data": "data|components|posterior mean",
    "alike": "noise|score|mean|auxiliary|batch",
    "grid": "times",
    "path": "times",
    "start": "Sigma0|aux_cov",
    "process": "diffusion",
    "sampler": "sampler",
    "positive": "level|tolerance|rtol|first|size|rho|strength|high|low|> 0",
    "inside": "time|level|eps",
    "variances": "variances|values",
}


def eps(z, t):
    return z


calls = {  # a function, right arguments, and which of them are of what kind
    d.perturb: (
        dict(chi=chi, t=0.5, noise=state),
        dict(chi="data", t="time") | dict(noise="alike"),
    ),
    drawn.draw_aux: (dict(noise=state[:, :1]), {}),
    d.observe: (dict(z=state, t=0.5), dict(z="state", t="time")),
    d.score: (dict(z=state, t=0.5, chi=chi), dict(z="state", t="time", chi="data")),
    d.kernel: (dict(t=0.5, z=state), dict(t="time", z="state")),
    d.frame: (dict(t=0.5, like=state), dict(t="time")),
    d.log_snr: (dict(t=0.5, like=state), dict(t="time")),
    d.B: (dict(t=0.5, like=state), dict(t="time")),
    d.beta: (dict(t=0.5, like=state), dict(t="time")),
    d.F: (dict(t=0.5), dict(t="time")),
    d.G: (dict(t=0.5), dict(t="time")),
    d.flow: (dict(z=state, s=state, t=0.5), dict(z="state", s="state", t="time")),
    d.reverse_drift: (
        dict(z=state, s=state, t=0.5),
        dict(z="state", s="state", t="time"),
    ),
    d.prior: (dict(noise=state), dict(noise="state")),
    d.with_schedule: (dict(schedule=Cosine()), dict(schedule="schedule")),
    d.kernel(0.5, state).observe: (dict(z=state), dict(z="state")),
    d.kernel(0.5, state).score: (dict(z=state, chi=chi), dict(z="state", chi="data")),
    d.kernel(0.5, state).data: (dict(z=state, s=state), dict(z="state", s="state")),
    d.kernel(0.5, state).noise: (dict(z=state, chi=chi), dict(z="state", chi="data")),
    score: (dict(z=state, t=0.5), dict(z="state", t="time")),
    score.data: (dict(z=state, t=0.5), dict(z="state", t="time")),
    LinearDiffusion: (
        dict(recipe=psld(), schedule=LinearBeta(), Sigma0=None, aux_cov=None)
        | dict(by_snr=False),
        dict(recipe="recipe", schedule="schedule", Sigma0="start", aux_cov="start")
        | dict(by_snr="flag"),
    ),
    hsm: (dict(recipe=psld(), kappa=0.1), dict(recipe="recipe", kappa="not negative")),
    lift: (dict(chi=chi, k=2), dict(chi="data", k="count")),
    noise_factor: (
        dict(diffusion=d, t=0.5, z=state),
        dict(diffusion="process", t="time"),
    ),
    score_from_eps: (
        dict(diffusion=d, eps=state, t=0.5),
        dict(diffusion="process", eps="state", t="time"),
    ),
    eps_from_score: (
        dict(diffusion=d, s=state, t=0.5),
        dict(diffusion="process", s="state", t="time"),
    ),
    eps_weight: (dict(diffusion=d, t=0.5, z=state), dict(diffusion="process")),
    likelihood_weight: (
        dict(diffusion=d, t=0.5, z=state),
        dict(diffusion="process", t="time"),
    ),
    active_only: (dict(weight=eps_weight), dict(weight="function")),
    score_matching: (
        dict(diffusion=d, eps_model=eps, chi=chi, t=t4, noise=state)
        | dict(weight=eps_weight),
        dict(diffusion="process", eps_model="function", chi="data", t="time")
        | dict(weight="function", noise="alike"),
    ),
    spread_times: (
        dict(n=4, eps=1e-3, generator=None),
        dict(n="count", eps="inside", generator="generator"),
    ),
    snr_times: (
        dict(diffusion=d, share=0.5, eps=1e-3, n=64),
        dict(diffusion="process", share="share", eps="inside", n="count"),
    ),
    uniform: (dict(n=5, eps=0.1), dict(n="count", eps="inside")),
    quadratic: (dict(n=5, eps=0.1), dict(n="count", eps="inside")),
    even_log_snr: (
        dict(source=d, n=5, eps=0.1),
        dict(source="source", n="count", eps="inside"),
    ),
    edm: (
        dict(source=d, n=5, eps=0.1, rho=7.0),
        dict(source="source", n="count", eps="inside", rho="positive"),
    ),
    fastest: (
        dict(source=d, n=5, eps=0.1, fine=64),
        dict(source="source", n="count", eps="inside", fine="count"),
    ),
    level_time: (dict(source=d, sigma=0.5), dict(source="source", sigma="positive")),
    default_grid: (dict(diffusion=d, n=5), dict(diffusion="process", n="count")),
    ImageNoise: (dict(seed=1, first=0), dict(seed="natural", first="natural")),
    ImageNoise(0).after: (dict(n=3), dict(n="natural")),
    ImageNoise(0).branch: (dict(i=3), dict(i="natural")),
    image_noise: (dict(source=None), {}),
    Trajectory: (dict(every=1), dict(every="count")),
    evaluations: (dict(sampler=ddim, n=5), dict(sampler="sampler", n="natural")),
    path_evaluations: (
        dict(sampler=ddim, path=times),
        dict(sampler="sampler"),
    ),
    Grid: (dict(diffusion=d, times=times, like=state), dict(diffusion="process")),
    denoise: (
        dict(diffusion=d, score=score, z=state, t=0.1),
        dict(diffusion="process", score="function", z="state", t="time"),
    ),
    sample: (
        dict(sampler=sscs, diffusion=d, score=score, z=state, times=times)
        | dict(generator=None),
        dict(sampler="sampler", diffusion="process", score="score", z="state")
        | dict(times="grid", generator="generator"),
    ),
    propagate: (
        dict(sampler=sscs, diffusion=d, score=score, times=times, shape=(3,)),
        dict(sampler="sampler", diffusion="process", score="score", times="grid"),
    ),
    marginal_covariance: (
        dict(diffusion=d, law=law, t=0.5),
        dict(diffusion="process", law="law", t="time"),
    ),
    measure_order: (
        dict(sampler=ddim, diffusion=d, law=law, ns=(4, 8), eps=0.1),
        dict(sampler="sampler", diffusion="process", law="law", eps="inside"),
    ),
    DPMSolver: (dict(order=2), dict(order="count")),
    DEIS: (dict(order=2), dict(order="count")),
    PredictorCorrector: (
        dict(predictor=ddim, size=0.1, corrections=1),
        dict(predictor="sampler", size="positive", corrections="count"),
    ),
    Splitting: (
        dict(word="BAB", reduced=True, lambda_s=1.0),
        dict(word="function", reduced="flag", lambda_s="number"),
    ),
    Conjugate: (dict(Lambda=0.0), dict(Lambda="matrix")),
    tune_lambda: (
        dict(diffusion=d, times=times, variances=torch.ones(2), values=torch.ones(1)),
        dict(diffusion="process", times="grid", variances="variances"),
    ),
    dormand_prince: (
        dict(diffusion=d, score=score, z=state, eps=0.5, rtol=0.1, atol=0.1)
        | dict(max_steps=99),
        dict(diffusion="process", score="function", z="state", eps="inside")
        | dict(rtol="not negative", atol="real", max_steps="count"),
    ),
    gaussian_distance: (
        dict(sampler=ddim, diffusion=d, law=law, times=times),
        dict(sampler="sampler", diffusion="process", law="law", times="grid"),
    ),
    Rising: (dict(sampler=ddim), dict(sampler="sampler")),
    churn: (
        dict(source=d, times=times, strength=1.0, low=0.1, high=9.0),
        dict(source="source", times="path", strength="not negative", low="real")
        | dict(high="real"),
    ),
    restart: (
        dict(source=d, times=times, low=0.3, high=1.0, repeats=1, n=2),
        dict(source="source", times="path", low="positive", high="positive")
        | dict(repeats="natural", n="count"),
    ),
    ancestral_path: (
        dict(source=d, times=times, eta=0.5),
        dict(source="source", times="path", eta="share"),
    ),
    Frozen: (
        dict(inner=LinearBeta(), known=known, at=0.1),
        dict(inner="schedule", known="known", at="share"),
    ),
    frozen_components: (dict(schedule=LinearBeta()), dict(schedule="schedule")),
}
each = [(f, name) for f, (_, kinds) in calls.items() for name in kinds]


def called(f):
    return getattr(f, "__qualname__", type(f).__name__)


@pytest.mark.parametrize("f", calls, ids=called)
def test_right_arguments(f):
    f(**calls[f][0])


@pytest.mark.parametrize(
    ("f", "name"), each, ids=[f"{called(f)}-{name}" for f, name in each]
)
def test_wrong_arguments(f, name):
    args, kinds = calls[f]
    named = says.get(kinds[name], "") + f"|{name}"
    for value in wrong[kinds[name]]:
        with pytest.raises(ValueError) as e:
            f(**args | {name: value})
            pytest.fail(f"took {name}={value!r:.80}")
        words = str(e.value)
        assert "\n" not in words and len(words) < 400, words
        assert re.search(named.strip("|"), words), words


@pytest.mark.parametrize(
    "noise",
    [
        torch.randn(5, 2, 4, 2, 3).double(),
        torch.ones(5, 2, 4, 2, 3).long(),
        np.zeros((5, 2, 4, 2, 3)),
        [torch.randn(2, 4, 2, 3)] * 4,
        [torch.randn(4, 2, 3)] * 5,
        [torch.randn(2, 4, 2, 3).double()] * 5,
        [1.0] * 5,
        1.0,
        "gaussian",
    ],
    ids=lambda v: f"{type(v).__name__}",
)
def test_noise_of_another_kind(noise):
    refused(lambda: sample(sscs, d, score, state, times, noise=noise), "noise")


class Odd(Schedule):
    "A schedule by a function of the time."

    def __init__(self, f):
        self.f = f

    def B(self, t):
        return self.f(torch.as_tensor(t, dtype=torch.float64))


@pytest.mark.parametrize(
    "f",
    [lambda t: nan * t, lambda t: -t, lambda t: 1 - t, lambda t: (9 * t).long()],
    ids=["NaN", "negative", "falls", "integers"],
)
def test_schedules_that_are_none(f):
    refused(lambda: LinearDiffusion(psld(), Odd(f)), "B")


@pytest.mark.parametrize(
    "other",
    [
        LinearDiffusion(vp(), LinearBeta()),
        LinearDiffusion(psld(0.1), LinearBeta(), hsm(psld(0.1))),
        LinearDiffusion(psld(), LinearBeta()),
        LinearDiffusion(psld(), LinearBeta(0.2), hsm(psld())),
    ],
    ids=["phases", "recipe", "start", "schedule"],
)
def test_the_score_of_another_diffusion(other):
    for sampler in (ddim, sscs):
        refused(
            lambda: sample(sampler, d, Score(other, law), state, times),
            "diffusion|phase",
        )


def test_the_same_diffusion_made_twice():
    same = LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
    found = sample(ddim, d, Score(same, law), state.double(), times)
    right = sample(ddim, d, score, state.double(), times)
    torch.testing.assert_close(found, right)


def test_no_noise_and_levels_outside_of_a_table():
    refused(lambda: frame_at(psld(), torch.tensor([0.1, 0.0])), "want B > 0")
    refused(lambda: score_from_eps(d, state, 0.0), "t=0.0")
    table = SNRTable(psld(), hsm(psld()))
    for gamma in (nan, inf, 101.0, -41.0):
        refused(lambda: table(torch.tensor([0.0, gamma])), "γ")
    assert table(torch.tensor([-inf]))[0] == 0


# A sampler, a recipe and a basis of a user


class Averaged(DDIM):
    "DDIM with the last prediction of the step before, where there is one."

    noises, evaluations, extra, memory, order = 0, 1, 0, 1, 1

    def update(self, c, here, there, z, noise, past):
        A, move = c
        chi = here.data(z)
        mixed = chi + 0.1 * (chi - past.pop()) if past else chi
        past.append(chi)
        return act(A, z, move * mixed[:, None])


class Forgot(Averaged):
    memory = 0


class TwoCalls(Averaged):
    evaluations = 2


class Noisy(EulerMaruyama):
    noises = 0


class TwoDraws(EulerMaruyama):
    noises = 2


class Unused(EulerMaruyama):
    noises = 1

    def update(self, c, here, there, z, noise, past):
        return super().update(c, here, there, z, 0 * noise, past)


class OwnNoise(DDIM):
    def update(self, c, here, there, z, noise, past):
        return super().update(c, here, there, z, noise, past) + torch.rand(())


class NoLayout(DDIM):
    def coefficients(self, grid):
        a, b = grid.before, grid.after
        A = b.T @ a.inverse
        return A, (b.Phi[..., :1] - A @ a.Phi[..., :1])[..., 0]


class OneRow(DDIM):
    def coefficients(self, grid):
        return tuple(c[:1] for c in super().coefficients(grid))


class NoOrder(FlowEuler):
    order = 2


LIARS = {
    Forgot: "uses more of `past` than its memory: Forgot(",
    TwoCalls: "got 5 evaluations in 5 steps, want 10",
    Noisy: "Noisy(noises=0, evaluations=1, extra=0, memory=0, order=1) fails with",
    TwoDraws: "TwoDraws(noises=2, ",
    Unused: "draw 1 of the noise changes nothing: Unused(",
    OwnNoise: "OwnNoise draws numbers of its own",
    NoLayout: "fails with 2 phases: got coefficients (5, 1, 2, 2) of NoLayout, want",
    OneRow: "got coefficients (1, 1, 1, 1) of OneRow, want the 5 steps first",
}


@pytest.mark.parametrize("kind, words", LIARS.items(), ids=lambda v: str(v)[-20:])
def test_a_sampler_that_does_not_do_what_it_declares(kind, words):
    refused(kind().check, re.escape(words))


def test_a_sampler_that_does():
    for sampler in (ddim, sscs, Averaged(), DPMSolver(2), Rising(ddim)):
        assert sampler.check(order=False) is sampler
    word = Splitting("BAB")
    assert word.check((psld(),), order=False) is word
    with pytest.raises(ValueError, match=r"measured order (0\.9|1\.0). with 1 phases"):
        NoOrder().check((vp(),))


def test_coefficients_without_layout_are_named_where_they_are_used():
    words = "matrices pass through state_layout"
    refused(lambda: sample(NoLayout(), d, score, state, times), words)
    refused(lambda: sample(OneRow(), d, score, state, times), "want the 5 steps first")


def test_film_of_a_model():
    flat = Independent(torch.full((1, 4, 4), 0.3), torch.ones(1, 4, 4))
    process = LinearDiffusion(psld(), LinearBeta(), hsm(psld()))
    model = ScoreModel(Zero(), process, Scaled(Pixel((1, 4, 4)), 0.5, 2.0), flat)
    how = dict(generator=ImageNoise(0), times=quadratic(9))
    f, moves = film(model, 3, 4, **how), film(model, 3, (0, 8), phase=1, **how)
    assert f.frames.shape == (4, 3, 1, 4, 4) and moves.frames.shape == (2, 3, 1, 4, 4)
    torch.testing.assert_close(f.frames[-1], model.sample(3, **how))
    assert f.times[-1] == 0.0 and f.times == sorted(f.times, reverse=True)
    way = Trajectory()
    model.sample(3, callback=way, **how)
    torch.testing.assert_close(moves.frames[0], 2.0 * way.states[0][:, 1] / 0.5)
    refused(lambda: film(model, 3, 1), "got frames=1, want an integer ≥ 2")


def test_matrices_of_single_precision_cause_a_warning():
    H = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    D, Q = torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    with pytest.warns(UserWarning, match="got H in float32, where 0.6 is 0.60000002"):
        Recipe(D, Q, H)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recipe(D, Q, H.double()), Recipe(D / 4, Q, D), Recipe(D.tolist(), Q, D)


def test_what_cannot_be_saved_says_what_can():
    for value in (object(), LinearBeta, print):
        with pytest.raises(ValueError, match="make a class of your own a @dataclass"):
            describe(value, {}, "basis")


mask = torch.arange(4).expand(1, 4, 4) < 2


def pixels(schedule):
    "A model of four by four pixels."
    flat = Independent(torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    return ScoreModel(Zero(), LinearDiffusion(vp(), schedule), Pixel((1, 4, 4)), flat)


x = torch.rand(3, 1, 4, 4)
given = dict(model=pixels(Frozen(LinearBeta(), mask, 1e-3)), x=x, times=quadratic(2))
right = torch.randn(2, 3, 1, 1, 4, 4)
strange = {
    "model": [None, "vp-digits", 3, vp(), ScoreModel, pixels(LinearBeta())],
    "x": [None, 1.0, x.tolist(), x.numpy(), x[0], x.byte(), x[..., :1]],
    "noise": [1.0, right.tolist(), right.double(), right[:1], right[:, :2]],
    "generator": [0, "seed", [1]],
    "times": [5, 0.5, "edm", times.flip(0), [1.0]],
    "sampler": ["ddim", DDIM, 3],
    "known": [mask.tolist(), mask.long(), ~mask, mask[0], "left"],
    "width": [0, 3, 8.0, None, "8", True, torch.tensor(8)],
}


@pytest.mark.parametrize("name", strange)
def test_inpaint_and_extend(name):
    runs = {inpaint_frozen: given, extend: given | dict(width=6)}
    for f, args in runs.items():
        if name in ("known", "width") and (f is extend) != (name == "width"):
            continue
        f(**args)
        for value in strange[name]:
            with pytest.raises(ValueError) as e:
                f(**args | {name: value})
                pytest.fail(f"{f.__name__} took {name}={value!r:.80}")
            assert "\n" not in str(e.value)
