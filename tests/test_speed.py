"""What a step of training asks of the device: operators are counted, no clock is read.

Read a number, and the processor waits for the device; loop over members, weights or
images, and the processor, not the device, says how long a step takes.
"""

from collections import Counter
from functools import cache, partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gud_nb.basis import DCT, Pixel, Whitened, spectrum_order
from gud_nb.data import gaussian_field
from gud_nb.diffusion import LinearDiffusion
from gud_nb.model import ScoreModel, fit_law
from gud_nb.network import MLP, bands
from gud_nb.objective import (
    LIKELIHOOD,
    Denoising,
    InTurn,
    cosine_levels,
    schedule_levels,
)
from gud_nb.recipe import vp
from gud_nb.schedule import Family, LinearBeta, soft_conditioning
from gud_nb.train import Training, fit

SHAPE = (1, 4, 4)
x = gaussian_field(SHAPE, 2.0, 256, torch.Generator().manual_seed(0))
whitened = Whitened.fit(DCT(SHAPE), x)
variances = whitened.scale.square()
fixed = dict(variances=variances, whitened=True)
family = Family(soft_conditioning, dict(a=(0.4, 1.6)), fixed)
groups = bands(spectrum_order(variances), 4)
SGD = partial(torch.optim.SGD, foreach=False)  # has no counters of its own


class Operators(TorchDispatchMode):
    "Counts the operators that are run."

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.seen[f.overloadpacket.__name__] += 1
        return f(*args, **(kwargs or {}))


def one_step(model, labels=None, **how) -> Counter:
    "The operators of a step of `fit`, by name: the third, and the fourth is like it."
    marks = []

    def timer():  # is called at the beginning and after each step
        marks.append(Counter(mode.seen))
        return 0.0

    how = dict(batch=8, optimizer=SGD) | how
    with Operators() as mode:
        fit(model, x, Training(steps=5, timer=timer, **how), labels, cpu=True)
    third, fourth = (b - a for a, b in zip(marks[2:4], marks[3:5]))
    assert third == fourth
    return third


def images(classes=0, depth=1):
    "One log-SNR for each image."
    d, pixel = LinearDiffusion(vp(), LinearBeta()), Pixel(SHAPE)
    net = MLP(SHAPE, width=8, depth=depth, classes=classes)
    return ScoreModel(net, d, pixel, fit_law(d, pixel, x))


def soft():
    "A log-SNR for each component, under a family."
    d = LinearDiffusion(vp(), family())
    net, law = MLP(SHAPE, width=8, depth=1, groups=4), fit_law(d, whitened, x)
    return ScoreModel(net, d, whitened, law, groups=groups, family=family)


# models, and how many operators a step may have beyond those of a bare loop, views
# included
MODELS = {
    "images": (images, 110),
    "family": (soft, 210),
}


@cache
def step_of(name: str, batch: int = 8) -> Counter:
    "The operators of a step of a model."
    return one_step(MODELS[name][0](), batch=batch)


def bare_step(model) -> Counter:
    "The operators of a bare loop: forward, error, backward, clip, optimizer."
    net = model.network.train()
    weights, sizes = list(net.parameters()), net.config
    optimizer = SGD(weights, lr=1e-3)
    v = torch.randn(8, *sizes["shape_in"])
    level = torch.zeros(8, sizes["groups"]) if sizes["groups"] else torch.zeros(8)
    with Operators() as mode:
        (net(v, level) - v).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return mode.seen


def more(a: Counter, b: Counter) -> dict:
    "What is in a beyond b, and less than in b."
    return {name: a[name] - b[name] for name in a | b if a[name] != b[name]}


WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"}
DEAR = {"_linalg_eigh", "linalg_matrix_exp", "linalg_cholesky_ex", "linalg_qr"}


@pytest.mark.parametrize("name", MODELS)
def test_no_step_waits_for_a_number(name):
    assert not WAITS & set(step_of(name))


@pytest.mark.parametrize("name", MODELS)
def test_no_step_factors_a_matrix(name):
    assert not DEAR & set(step_of(name))


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_as_many_operators_for_any_batch(name):
    assert more(step_of(name, 16), step_of(name)) == {}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_adds_few_operators_to_those_of_a_bare_loop(name):
    make, most = MODELS[name]
    own = step_of(name).total() - bare_step(make()).total()
    assert own <= most


def test_a_step_is_as_many_operators_for_any_number_of_members():
    model, seen = soft(), []
    for n in (4, 64):
        objective = Denoising(schedule_levels(model, members=n))
        seen.append(one_step(model, objective=objective))
    assert more(*seen) == {}


def test_an_average_is_one_operator_for_all_weights():
    one, three = (one_step(images(), ema=decays) for decays in (0.9, (0.9, 0.99, 0.5)))
    assert more(three, one) == {"_foreach_lerp_": 2}


def test_more_weights_cost_what_they_cost_in_a_bare_loop():
    small, large = images(depth=1), images(depth=3)
    added = more(one_step(large), one_step(small))
    assert added == more(bare_step(large), bare_step(small))


def test_labels_flips_and_objectives_in_turn_read_no_number():
    labels, objective = torch.arange(len(x)) % 3, Denoising(cosine_levels)
    how = dict(objective=InTurn(objective, LIKELIHOOD, 0.3), accumulate=2)
    seen = one_step(images(classes=3), labels, unlabelled=0.2, flips=True, **how)
    assert not WAITS & set(seen)
