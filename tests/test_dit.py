"""A transformer on patches: the protocol of networks, and a noise level per token."""

import json

import pytest
import torch
from torch.testing import assert_close

from gud_nb.basis import Pixel
from gud_nb.data import digits
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import DiT, DiTBlock, bands, patch_groups
from gud_nb.recipe import psld, vp
from gud_nb.sampler import quadratic
from gud_nb.saved import from_pretrained
from gud_nb.schedule import sequential

SHAPE, N = (1, 8, 8), 16  # 16 patches of 2 × 2
NETS = {
    "one level": dict(shape_in=SHAPE),
    "levels of tokens": dict(shape_in=SHAPE, groups=N),
    "classes": dict(shape_in=SHAPE, classes=10, groups=N),
    "colour, oblong": dict(shape_in=(3, 4, 8), patch=4, heads=2),
    "more in than out": dict(shape_in=(3, 4, 4), channels_out=2, groups=4),
}


def made(name, **more):
    torch.manual_seed(0)
    return DiT(**dict(width=16, depth=2) | NETS[name] | more)


def wake(net):
    "Zero weights made random, as the first steps of training would."
    torch.manual_seed(1)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def inputs(net, n=3, dtype=torch.float32):
    how = net.config
    x = torch.randn(n, *how["shape_in"], dtype=dtype)
    level = torch.randn(n, *([how["groups"]] if how["groups"] else [])) * 5
    labels = torch.arange(n) if how["classes"] else None
    return x, level.to(dtype), labels


@pytest.mark.parametrize("name", NETS)
def test_the_protocol(name):
    net = made(name)
    x, level, labels = inputs(net)
    out = (3, net.config["channels_out"], *x.shape[2:])
    assert torch.equal(net(x, level, labels), torch.zeros(out))
    y = wake(net)(x, level, labels)
    for p in torch.autograd.grad(y.square().sum(), net.parameters()):
        assert p.any()
    alone = [
        net(
            x[i : i + 1],
            level[i : i + 1],
            labels if labels is None else labels[i : i + 1],
        )
        for i in range(3)
    ]
    assert_close(torch.cat(alone), y, atol=1e-5, rtol=1e-5)
    again = DiT(**json.loads(json.dumps(net.config))).eval()
    again.load_state_dict(net.state_dict())
    assert_close(again(x, level, labels), y)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, level, labels)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - y).norm() < 0.05 * y.norm()
    double = net.double()(x.double(), level.double(), labels)
    assert double.dtype == torch.float64
    assert_close(double.float(), y, atol=1e-5, rtol=1e-4)


def test_levels_stay_with_their_tokens():
    "Shuffled patches with shuffled levels give shuffled answers; patches alone don't."
    net = wake(made("levels of tokens")).double()
    net.where.data.zero_()  # no place
    x, level, _ = inputs(net, 1, torch.float64)
    order = torch.randperm(N)

    def shuffled(v):
        patches = torch.nn.functional.pixel_unshuffle(v, 2).flatten(2)[..., order]
        return torch.nn.functional.pixel_shuffle(patches.unflatten(-1, (4, 4)), 2)

    y = net(x, level)
    assert_close(net(shuffled(x), level[:, order]), shuffled(y))
    assert (net(shuffled(x), level) - shuffled(y)).norm() > 0.01 * y.norm()


def test_one_level_is_equal_levels():
    many = wake(made("levels of tokens"))
    one = wake(made("one level"))
    one.load_state_dict(many.state_dict())
    x, level, _ = inputs(one)
    assert_close(one(x, level), many(x, level[:, None].expand(-1, N)))


def test_without_attention_a_token_has_its_own_level_alone():
    net = wake(made("levels of tokens"))
    for block in net.body:
        block.attention.out_proj.weight.data.zero_()
    x, level, _ = inputs(net, 1)
    other = level.clone()
    other[:, 5] += 3
    changed = (net(x, other) - net(x, level)).abs()[0] > 0
    assert torch.equal(changed, patch_groups(SHAPE) == 5)


def test_a_block_is_its_equation():
    block = wake(DiTBlock(8, heads=2)).double()
    x, c = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 8).double()
    a1, b1, g1, a2, b2, g2 = block.film(c).chunk(6, -1)

    def norm(v):
        return (v - v.mean(-1, keepdim=True)) / (
            v.var(-1, correction=0, keepdim=True) + 1e-5
        ).sqrt()

    h, own = norm(x) * (1 + a1) + b1, block.attention
    q, k, v = (
        (h @ own.in_proj_weight.T + own.in_proj_bias)
        .unflatten(-1, (3, 2, 4))
        .unbind(-3)
    )
    weights = torch.einsum("bihc,bjhc->bhij", q, k).div(2).softmax(-1)
    mixed = torch.einsum("bhij,bjhc->bihc", weights, v).flatten(-2)
    want = x + g1 * own.out_proj(mixed)
    want = want + g2 * block.mlp(norm(want) * (1 + a2) + b2)
    assert_close(block(x, c), want)


def test_patches_are_numbered_row_by_row():
    groups = patch_groups((2, 4, 6), 2)
    assert groups.shape == (2, 4, 6) and groups.dtype == torch.int64
    assert groups[1, ::2, ::2].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert_close(groups[0, 1::2, 1::2], groups[0, ::2, ::2])


@pytest.mark.parametrize("kind", ["score", "phases"])
def test_as_a_model(kind, tmp_path):
    "A schedule for each row of patches: saved, loaded, sampled, with a likelihood."
    x, basis = digits().x[:200], Pixel(SHAPE)
    groups = patch_groups(SHAPE)
    rows = bands(groups, 4).double()
    recipe = vp() if kind == "score" else psld()
    start = None if kind == "score" else hsm(recipe)
    d = LinearDiffusion(recipe, sequential(rows, 0.6), Sigma0=start)
    if kind == "score":
        net = wake(made("levels of tokens"))
        model = ScoreModel(net, d, basis, fit_law(d, basis, x), groups=groups)
    else:
        net = wake(made("levels of tokens", shape_in=(2, 8, 8)))
        model = PhaseModel(net, d, basis, groups=groups)
    model.eval()
    z, t = torch.randn(2, recipe.k, *SHAPE), torch.tensor([0.3, 0.6])
    again = from_pretrained(model.save_pretrained(tmp_path))
    assert_close(again(z, t), model(z, t))
    assert type(again.network) is DiT
    made_ = model.sample(
        2, times=quadratic(3), generator=torch.Generator().manual_seed(0)
    )
    assert made_.shape == (2, *SHAPE) and made_.isfinite().all()


def test_levels_reach_their_tokens_through_the_model():
    "Each level that the network is given is that of its patch under the schedule."
    x, basis, groups = digits().x[:200], Pixel(SHAPE), patch_groups(SHAPE)
    d = LinearDiffusion(vp(), sequential(groups.double(), 0.6))
    net = made("levels of tokens")
    model = ScoreModel(net, d, basis, fit_law(d, basis, x), groups=groups)
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    z, t = torch.randn(2, 1, *SHAPE), torch.tensor([0.4, 0.6])
    model(z, t)
    level = d.log_snr(t, z) + model.law.component_variances.log()
    level = level.float().expand(2, *SHAPE)
    want = torch.stack([level[:, groups == i].mean(1) for i in range(N)], 1)
    assert_close(seen[0], want, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DiT((1, 7, 8)), "sides divisible by 2"),
        (lambda: DiT(SHAPE, groups=5), "wanted 0 or 16"),
        (lambda: DiT(SHAPE)(torch.zeros(1, 1, 8, 4), torch.zeros(1)), "got x of shape"),
        (lambda: DiT(SHAPE)(torch.zeros(1, *SHAPE), torch.zeros(1, N)), "log-SNRs"),
        (
            lambda: DiT(SHAPE, groups=N)(torch.zeros(1, *SHAPE), torch.zeros(1)),
            r"\(1, 16\)",
        ),
        (
            lambda: DiT(SHAPE)(torch.zeros(1, *SHAPE).long(), torch.zeros(1)),
            "normalise",
        ),
        (
            lambda: DiT(SHAPE)(
                torch.zeros(1, *SHAPE), torch.zeros(1), torch.zeros(1).long()
            ),
            "classes=0",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
