"""The published network against the authors' own, and the model around it."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gud_nb.adams import default_sampler, unipc
from gud_nb.basis import Pixel
from gud_nb.denoiser import Independent, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DEIS, DPMSolver
from gud_nb.loss import eps_from_score
from gud_nb.ncsnpp import (
    ACTIVATIONS,
    MODES,
    Combine,
    FilteredConv,
    NCSNpp,
    OfficialModel,
    PixelLinear,
    RandomFeatures,
    Resample,
    double,
    halve,
)
from gud_nb.recipe import cld, higher_order, psld, vp
from gud_nb.sampler import euler_maruyama, exponential_heun, sample, sscs, uniform
from gud_nb.saved import from_pretrained
from gud_nb.schedule import LinearBeta

SMALL = dict(nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))
BEST = dict(fir=True, progressive_input="residual", embedding_type="fourier")
BETA = LinearBeta(8.0, 8.0)
PSLD = LinearDiffusion(psld(), BETA, hsm(psld()))
CLD = {
    "hsm": LinearDiffusion(cld(), BETA, hsm(cld())),
    "dsm": LinearDiffusion(cld(), BETA, aux_cov=hsm(cld())),
}


def reference(name):
    with np.load(Path(__file__).parent / "reference" / f"ncsnpp_{name}.npz") as f:
        return {k: torch.as_tensor(f[k]) for k in f}


def weights(r):
    return {k: v for k, v in r.items() if k.startswith("all_modules")}


@pytest.mark.parametrize("name, tolerance", [("sota8", 1e-4), ("abl8", 1e-5)])
def test_every_layer_gives_what_the_published_one_gives(name, tolerance):
    r = reference(name)
    net = NCSNpp(8, **SMALL, **(BEST if name == "sota8" else {})).eval()
    assert list(net.state_dict()) == list(weights(r))
    net.load_state_dict(weights(r))
    found = []
    for layer in net.all_modules:
        layer.register_forward_hook(lambda layer, given, out: found.append(out))
    with torch.no_grad():
        assert_close(net(r["x"], r["t"]), r["y"], atol=tolerance, rtol=0)
    assert len(found) == len(net.all_modules)
    for i, out in enumerate(found):
        some = out[1:3].flatten()[::3]
        assert_close(some, r[f"act_{i:02}"], atol=tolerance, rtol=0)


def upsampled_by_definition(x, taps, up, down, before, after):
    "Zeros between pixels and around them, each channel convolved, every other kept."
    k = torch.tensor(taps, dtype=x.dtype)
    k = torch.outer(k, k) / k.sum() ** 2 * up**2
    n, c, H, W = x.shape
    z = x.new_zeros(n, c, H * up, W * up)
    z[:, :, ::up, ::up] = x
    z = nn.functional.pad(z, (before, after, before, after))
    z = nn.functional.conv2d(z.flatten(0, 1)[:, None], k.flip(0, 1)[None, None])
    return z[:, 0].unflatten(0, (n, c))[:, :, ::down, ::down]


@pytest.mark.parametrize("taps", [(1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 2, 3, 4, 5)])
def test_resampling_is_its_definition(taps):
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    p = len(taps) - 2
    up = upsampled_by_definition(x, taps, 2, 1, (p + 1) // 2 + 1, p // 2)
    down = upsampled_by_definition(x, taps, 1, 2, (p + 1) // 2, p // 2)
    assert_close(double(x, taps), up)
    assert_close(halve(x, taps), down)


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, 3, 3, 1), (1, 2, 3, 4, 5)])
def test_filtered_convolutions_are_filter_and_convolution(taps):
    x, inner = torch.randn(1, 3, 8, 8), slice(4, -4)
    up, down = (FilteredConv(3, 3, u, taps) for u in (True, False))
    want = nn.functional.conv2d(double(x, taps), up.weight, padding=1)
    assert_close(up(x)[..., inner, inner], want[..., inner, inner])
    p = len(taps) - 2
    low = upsampled_by_definition(x, taps, 1, 1, (p + 1) // 2, p // 2)
    want = nn.functional.conv2d(low, down.weight, padding=1)[:, :, ::2, ::2]
    assert_close(down(x)[..., 1:3, 1:3], want[..., 1:3, 1:3])


def test_halving_by_a_convolution_pads_below_and_to_the_right():
    x, layer = torch.randn(2, 3, 6, 6), Resample(3, 3, False)
    wide = torch.zeros(2, 3, 7, 7)
    wide[:, :, :6, :6] = x
    how = layer.Conv_0.weight, layer.Conv_0.bias
    assert_close(layer(x), nn.functional.conv2d(wide, *how, stride=2))


def test_combine_adds_or_sets_beside():
    x, h = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
    add, cat = Combine(2, 3, False), Combine(2, 3, True)
    assert_close(add(x, h), add.Conv_0(x) + h)
    assert_close(cat(x, h), torch.cat([cat.Conv_0(x), h], 1))


def test_output_skip_sums_what_every_level_adds():
    how = dict(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
    net = NCSNpp(8, **how, progressive="output_skip", init_scale=1.0).eval()
    last = [m for m in net.all_modules if isinstance(m, nn.Conv2d)]
    last = [m for m in last if m.out_channels == 6]
    assert len(last) == 2  # one a level, coarse first
    found = []
    for layer in last:
        layer.register_forward_hook(lambda layer, given, out: found.append(out))
    y = net(torch.randn(2, 6, 8, 8), torch.tensor([0.2, 0.7]))
    assert_close(y, double(found[0], (1, 1)) + found[1])


def test_initial_spreads_and_slopes():
    torch.manual_seed(0)
    assert PixelLinear(256, 256).W.var().item() == pytest.approx(0.1 / 256, rel=0.05)
    assert RandomFeatures(10_000, 16.0).W.std().item() == pytest.approx(16, rel=0.05)
    assert ACTIVATIONS["lrelu"]()(torch.tensor(-1.0)).item() == pytest.approx(-0.2)


def test_a_network_that_is_given_the_logarithm_of_its_time():
    plain = NCSNpp(8, **SMALL, **BEST, init_scale=1.0).eval()
    log = NCSNpp(8, **SMALL, **BEST, init_scale=1.0, log_time=False).eval()
    log.load_state_dict(plain.state_dict())
    x, t = torch.randn(2, 6, 8, 8), torch.tensor([0.2, 0.7])
    assert_close(log(x, t.log()), plain(x, t))


@pytest.mark.parametrize(
    "resblock_type, progressive, progressive_input, fir",
    list(
        product(
            ("biggan", "ddpm"),
            ("none", "output_skip", "residual"),
            ("none", "input_skip", "residual"),
            (True, False),
        )
    ),
)
def test_every_published_setting_runs_backwards(
    resblock_type, progressive, progressive_input, fir
):
    how = dict(resblock_type=resblock_type, progressive=progressive, fir=fir)
    how |= dict(progressive_input=progressive_input, nf=8, ch_mult=(1, 2))
    net = NCSNpp(8, 2, **how, num_res_blocks=1, attn_resolutions=(8,), init_scale=1.0)
    y = net(torch.randn(2, 2, 8, 8), torch.tensor([0.1, 1.0]))
    assert y.shape == (2, 2, 8, 8)
    y.square().mean().backward()
    missing = [k for k, p in net.named_parameters() if p.grad is None]
    assert not missing
    assert NCSNpp(**net.config).config == net.config


def test_a_new_network_predicts_almost_nothing_and_drops_in_training():
    torch.manual_seed(0)
    net = NCSNpp(8, **SMALL, dropout=0.5)
    x, t = torch.randn(2, 6, 8, 8), torch.tensor([0.1, 1.0])
    assert net(x, t).abs().max() < 1e-3
    net = NCSNpp(8, **SMALL, dropout=0.5, init_scale=1.0)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert_close(net(x, t), net(x, t), atol=0, rtol=0)


def test_without_time_the_time_does_not_matter():
    net = NCSNpp(8, **SMALL, noise_cond=False, init_scale=1.0).eval()
    x = torch.randn(2, 6, 8, 8)
    assert_close(net(x, torch.full((2,), 0.1)), net(x, torch.ones(2)), atol=0, rtol=0)


@pytest.mark.parametrize(
    "how, says",
    [
        (dict(image_size=12, ch_mult=(1, 1, 1, 1)), "divisible by 8"),
        (dict(image_size=8, ch_mult=()), "one level or more"),
        (dict(image_size=8, nf=6), "got 18 channels in a layer"),
        (dict(image_size=8, embedding_type="time"), "want 'positional' or 'fourier'"),
        (dict(image_size=8, nonlinearity="gelu"), "want 'swish'"),
        (dict(image_size=8, out_ch=3, progressive="output_skip"), "channels of the in"),
        (dict(image_size=8, fir_kernel=(1, -1)), "whose sum is not 0"),
    ],
)
def test_contradictions_are_refused(how, says):
    with pytest.raises(ValueError, match=says):
        NCSNpp(**how)


@pytest.mark.parametrize(
    "x, labels, says",
    [
        (torch.zeros(1, 3, 8, 8), None, "got x of shape"),
        (torch.zeros(1, 6, 8, 8).int(), None, "int32"),
        (torch.zeros(1, 6, 8, 8), torch.zeros(1), "without classes"),
    ],
)
def test_wrong_inputs_are_refused(x, labels, says):
    with pytest.raises(ValueError, match=says):
        NCSNpp(8, **SMALL)(x, torch.ones(1), labels)


class Exact(nn.Module):
    "The exact noise of the last phases, as a network would predict it."

    def __init__(self, score, out):
        super().__init__()
        self.score, self.out = score, out
        self.config = dict(in_ch=score.diffusion.k, out_ch=out, image_size=2)

    def forward(self, x, t, labels=None):
        z = x[:, :, None]
        eps = eps_from_score(self.score.diffusion, self.score(z, t), t)
        return eps[:, -self.out :, 0]


def exact_model(diffusion, mode):
    law = Independent(torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.3))
    exact = Score(diffusion, law)
    out = MODES[diffusion.k][mode]
    return OfficialModel(Exact(exact, out), diffusion, Pixel((1, 2, 2))), exact


@pytest.mark.parametrize(
    "diffusion, mode",
    [
        (PSLD, "score_xm"),
        (CLD["hsm"], "score_m"),
        (CLD["dsm"], "score_m"),
        (CLD["dsm"], "score_xm"),
        (LinearDiffusion(vp(), LinearBeta()), "score_x"),
    ],
)
@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0])
def test_the_score_of_every_mode_is_the_exact_one(diffusion, mode, t):
    model, exact = exact_model(diffusion, mode)
    assert model.mode == mode
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, diffusion.k, 1, 2, 2, dtype=torch.float64, generator=generator)
    assert_close(model(z, t), exact(z, t), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "sampler",
    [euler_maruyama, sscs, exponential_heun, default_sampler, unipc(2)]
    + [DEIS(2), DPMSolver(2)],
)
@pytest.mark.parametrize("start", ["hsm", "dsm"])
def test_samplers_that_predict_data_run_on_the_momentum_alone(sampler, start):
    d = CLD[start]
    model, exact = exact_model(d, "score_m")
    z = torch.randn(3, 2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    ends = []
    for score in (model, exact):
        g = torch.Generator().manual_seed(1)
        ends.append(sample(sampler, d, score, z, uniform(6), generator=g))
    assert_close(*ends, rtol=1e-3, atol=1e-3)


def test_a_model_comes_back_from_its_folder(tmp_path):
    net = NCSNpp(8, **SMALL, **BEST, init_scale=1.0)
    model = OfficialModel(net, PSLD, Pixel((3, 8, 8))).eval()
    model.about = {"preset": "made up"}
    again = from_pretrained(model.save_pretrained(tmp_path))
    assert type(again) is OfficialModel and again.mode == "score_xm"
    assert again.about == model.about and again.network.config == net.config
    z = torch.randn(2, 2, 3, 8, 8)
    assert_close(again(z, 0.3), model(z, 0.3), atol=0, rtol=0)


def test_one_step_of_training_moves_the_weights():
    net = NCSNpp(8, **(SMALL | dict(nf=8)))
    model = OfficialModel(net, PSLD, Pixel((3, 8, 8)))
    model.eps(torch.randn(2, 2, 3, 8, 8), 0.5).square().mean().backward()
    assert net.all_modules[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(mode="score_m"), "score_m wants 3"),
        (dict(mode="score_x"), "want 'score_xm' or 'score_m'"),
        (dict(basis=Pixel((3, 16, 16))), "wants 16"),
        (dict(basis=Pixel((1, 8, 8))), "wants 2"),
        (dict(channel=True), "got channel"),
        (dict(diffusion=LinearDiffusion(higher_order(3), BETA)), "3 phases"),
    ],
)
def test_models_that_do_not_fit_are_refused(change, says):
    how = dict(network=NCSNpp(8, **SMALL), diffusion=PSLD, basis=Pixel((3, 8, 8)))
    with pytest.raises(ValueError, match=says):
        OfficialModel(**(how | change))
