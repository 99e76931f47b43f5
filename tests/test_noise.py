"""Noise by image: a set of samples does not depend on how it is batched."""

import pytest
import torch
from torch.testing import assert_close

from gud_nb.adams import ExponentialAdams, sa_solver, sde_dpm_solver
from gud_nb.basis import Pixel
from gud_nb.denoiser import Independent, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.frozen import Frozen, extend, inpaint_frozen
from gud_nb.integrators import Splitting, ancestral, predictor_corrector
from gud_nb.model import ScoreModel
from gud_nb.network import MLP
from gud_nb.paths import Rising, ancestral_path, churn, restart
from gud_nb.recipe import psld, third_order, vp
from gud_nb.sampler import (
    ImageNoise,
    ddim,
    euler_maruyama,
    image_noise,
    quadratic,
    sample,
    sscs,
)
from gud_nb.schedule import LinearBeta, LinearGamma

comp, schedule, many = (2, 3), LinearBeta(), 140  # images: in three blocks
law = Independent(torch.zeros(comp), torch.rand(comp) + 0.1)
recipes = {"VP": vp(), "PSLD": psld()}
samplers = {
    "euler_maruyama": euler_maruyama,
    "sscs": sscs,
    "ancestral": ancestral,
    "corrected": predictor_corrector(ddim, corrections=2),
    "SSCS, corrected": predictor_corrector(sscs),
    "OBA": Splitting("OBA"),
    "OBAB": Splitting("OBABO"),
    "sde_dpm_solver": sde_dpm_solver(2),
    "sa_solver": sa_solver(2),
    "tau": ExponentialAdams(3, 0.5),
}
paths = {
    "churn": lambda d, t: churn(d, t, 2.0),
    "restart": lambda d, t: restart(d, t, 0.3, 1.0, 1, 2),
    "ancestral path": lambda d, t: ancestral_path(d, t),
}


def process(recipe):
    return LinearDiffusion(recipe, schedule, hsm(recipe))


def in_batches(run, size, n):
    "What a function of (first, last) gives for n images, some at a time."
    return torch.cat([run(i, min(i + size, n)) for i in range(0, n, size)])


def states(d, sampler, times, dtype):
    "A function of (first, last): the samples of these images."
    noise, score = ImageNoise(5), Score(d, law)

    def run(i, j):
        own = noise.after(i)
        z = d.prior(own(torch.empty(j - i, d.k, *comp, dtype=dtype)))
        return sample(sampler, d, score, z, times, generator=own)

    return run


@pytest.fixture
def alike(request):
    "Whether any batch gives the same images; with `--flags slow` over many more."
    full = "slow" in request.config.getoption("--flags", "")
    batches = [(1, 100), (7, 200), (64, 300), (250, 300)]
    batches = batches if full else [(1, 3), (7, 14), (64, many)]

    def check(run, **tolerance):
        whole = run(0, 300 if full else many)
        for size, n in batches:
            assert_close(in_batches(run, size, n), whole[:n], **tolerance)
        assert_close(run(0, 5), whole[:5], **tolerance)
        assert_close(run(40, 135), whole[40:135], **tolerance)  # of another process
        assert not torch.allclose(whole[:64], whole[64:128])

    return check


exact = dict(rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("name", samplers)
def test_samplers(name, recipe, alike):
    d = process(recipes[recipe])
    if d.k == 1 and isinstance(samplers[name], Splitting):
        pytest.skip("a splitting needs a momentum")
    alike(states(d, samplers[name], quadratic(4), torch.float64), **exact)


def test_three_phases(alike):
    d = process(third_order())
    alike(states(d, sscs, quadratic(4), torch.float64), **exact)


@pytest.mark.parametrize("inner", [ddim, sde_dpm_solver(2)], ids=repr)
@pytest.mark.parametrize("path", paths)
def test_paths_that_rise(path, inner, alike):
    d = process(psld())
    times = paths[path](d, quadratic(4))
    alike(states(d, Rising(inner), times, torch.float64), **exact)


def test_half_a_block_and_other_dtypes():
    noise = ImageNoise(9)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        like = torch.empty(70, 3, dtype=dtype)
        whole = noise(like)
        assert whole.dtype == dtype and whole.isfinite().all()
        assert torch.equal(noise.after(63)(like[63:]), whole[63:])
        assert torch.equal(noise.after(64)(like[64:]), whole[64:])
    assert noise(like[:0]).shape == (0, 3)


def test_draws_and_seeds_are_independent():
    like = torch.empty(4000, dtype=torch.float64)
    noise = ImageNoise(0)
    rows = [noise(like), noise(like, 1), noise.branch(0)(like), noise.branch(1)(like)]
    rows += [ImageNoise(1)(like), noise.after(64)(like)]
    between = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows))
    assert between.abs().max() < 4.5 / 4000**0.5
    assert ImageNoise(2**63 - 1, 10)(like[:3]).shape == (3,)


def test_a_generator_gives_one_seed():
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    first, again = (image_noise(g) for g in seeds)
    assert first == again and first.first == 0
    assert seeds[0].get_state().equal(seeds[1].get_state())
    torch.manual_seed(4)
    ours = image_noise()
    torch.manual_seed(4)
    assert image_noise() == ours != image_noise()
    assert image_noise(first.after(3)) == ImageNoise(first.seed, 3)


def windows(recipe=vp(), known=2):
    "A model of 4 by 4 pixels with random weights that knows the columns on the left."
    torch.manual_seed(0)
    seen = torch.zeros(1, 4, 4, dtype=torch.bool)
    seen[..., :known] = True
    inner = LinearGamma(-8.0, 4.0)
    d = LinearDiffusion(recipe, Frozen(inner, seen) if known else inner, hsm(recipe))
    flat = Independent(torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    return ScoreModel(MLP((1, 4, 4), width=16), d, Pixel((1, 4, 4)), flat)


networks = dict(rtol=1e-6, atol=1e-6)  # matrix products round by the batch


@pytest.mark.parametrize("name", ["sscs", "ancestral", "sde_dpm_solver"])
def test_inpaint(name, alike):
    model = windows(psld())
    x = torch.rand(300, 1, 4, 4) - 0.5
    how = dict(sampler=samplers[name], times=quadratic(4))

    def run(i, j):
        return inpaint_frozen(model, x[i:j], generator=ImageNoise(3, i), **how)

    alike(run, **networks)


def test_extend(alike):
    model, x = windows(), torch.rand(300, 1, 4, 3) - 0.5

    def run(i, j):
        how = dict(sampler=ancestral, times=quadratic(3))
        return extend(model, x[i:j], 8, generator=ImageNoise(3, i), **how)

    alike(run, **networks)
    twice = run(0, 3)[..., 3:]
    assert not torch.allclose(twice[..., :2], twice[..., 2:4])  # windows differ


@pytest.mark.parametrize("name", ["sscs", "corrected", "sde_dpm_solver"])
def test_models(name, request):
    full = "slow" in request.config.getoption("--flags", "")
    n, model = 300 if full else 100, windows(psld(), known=0)
    how = dict(sampler=samplers[name], times=quadratic(4))

    def run(n, generator=None, **more):
        g = torch.Generator().manual_seed(2) if generator is None else generator
        return model.sample(n, generator=g, **how, **more)

    whole = run(n)
    for batch in (1, 7, 64, 250) if full else (33,):
        assert_close(run(n, batch=batch), whole, **networks)
    assert_close(run(5, batch=1), whole[:5], **networks)
    noise = image_noise(torch.Generator().manual_seed(2))  # in three processes
    parts = [run(n // 4, noise), run(n // 2, noise.after(n // 4), batch=30)]
    parts.append(run(n // 4, noise.after(3 * n // 4)))
    assert_close(torch.cat(parts), whole, **networks)


def test_generators_do_not_count_the_images():
    model, x = windows(), torch.rand(9, 1, 4, 4) - 0.5
    for f in (inpaint_frozen, lambda *v, **how: extend(*v, 6, **how)):
        few, all_of_them = (
            f(model, v, sampler=sscs, generator=torch.Generator().manual_seed(1))
            for v in (x[:4], x)
        )
        assert_close(few, all_of_them[:4], **networks)
