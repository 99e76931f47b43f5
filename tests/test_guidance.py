"""Classifier guidance: exact where the classes are known, under every process."""

import math
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gud_nb.basis import Pixel, Wavelet
from gud_nb.core import load_tensors, save_tensors
from gud_nb.data import digits
from gud_nb.denoiser import Mixture, Score, guided, noise_variance
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.guidance import (
    NoisyClassifier,
    NoisyEncoder,
    _log_snrs,
    classifier_guided,
    exact_classifier,
    for_class,
    guided_score,
    load_noisy_classifier,
    noisy_accuracy,
    of_denoised,
    save_noisy_classifier,
    train_noisy_classifier,
    with_classifier,
)
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import UNet
from gud_nb.objective import cosine_levels, time_levels
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import default_grid, exponential_heun
from gud_nb.saved import from_pretrained
from gud_nb.schedule import Family, LinearBeta, LinearGamma

FLAT = LinearBeta(8.0, 8.0)
SHAPE = 1, 8, 8
f64 = torch.float64


def haar_schedule(shape):
    "A schedule per component."
    low = torch.linspace(-9.0, -5.0, 64, dtype=f64).reshape(shape)
    return LinearGamma(low, 10.0 + torch.zeros(shape, dtype=f64))


PROCESSES = {
    "vp": LinearDiffusion(vp(), LinearBeta(0.1, 20.0)),
    "cld, dsm": LinearDiffusion(cld(), FLAT, aux_cov=hsm(cld())),
    "psld": LinearDiffusion(psld(), FLAT, Sigma0=hsm(psld())),
    "third order": LinearDiffusion(third_order(), FLAT),
    "per component": LinearDiffusion(vp(), haar_schedule(SHAPE)),
    "psld per component": LinearDiffusion(
        psld(), haar_schedule(SHAPE), Sigma0=hsm(psld())
    ),
}
BASES = {"pixel": Pixel(SHAPE), "haar": Wavelet(SHAPE, "haar", 3)}


@pytest.fixture(autouse=True)
def seeded():
    "The same numbers in every run."
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def images():
    "A few digits of three classes, of unequal number."
    data = digits()
    few = [data.x[data.labels == c][: 3 + 2 * c] for c in range(3)]
    labels = [torch.full((len(x),), c) for c, x in enumerate(few)]
    return torch.cat(few).double(), torch.cat(labels)


def of(images, basis):
    "The law of all components, those of the classes, and the exact classifier."
    x, labels = images
    chi = basis(x)
    laws = [Mixture(chi[labels == c], 0.1) for c in range(3)]
    return Mixture(chi, 0.1), laws, exact_classifier(laws, labels.bincount())


@pytest.fixture(scope="module")
def model():
    "An untrained model of digits."
    torch.manual_seed(0)
    d, pixel = PROCESSES["vp"], BASES["pixel"]
    law = fit_law(d, pixel, digits().x)
    return ScoreModel(UNet(1, width=8, mults=(1, 2)), d, pixel, law).eval()


@pytest.fixture(scope="module")
def classifier(model):
    "A noisy classifier of digits, trained for few steps."
    data = digits()
    how = dict(steps=120, batch=64, width=8)
    return train_noisy_classifier(model, data.x, data.labels, **how)


# Exactness


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("process", PROCESSES)
def test_scale_one_is_the_law_of_the_class(images, process, basis):
    d, (law, laws, exact) = PROCESSES[process], of(images, BASES[basis])
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, d.k, *SHAPE, generator=g, dtype=f64)
    labels = torch.arange(6) % 3
    one = Score(d, classifier_guided(law, for_class(exact, labels)))
    for t in (0.02, 0.3, 0.9):
        got = one.data(z, t)
        for c in range(3):
            want = Score(d, laws[c]).data(z[labels == c], t)
            assert_close(got[labels == c], want, rtol=0, atol=1e-10)
            score = Score(d, laws[c])(z[labels == c], t)
            assert_close(one(z, t)[labels == c], score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, -1.0])
def test_both_guidances_are_one_formula(images, scale):
    law, laws, exact = of(images, BASES["pixel"])
    y = torch.randn(4, *SHAPE, dtype=f64)
    got = classifier_guided(law, for_class(exact, 2), scale)(y, 0.5)
    want = guided(laws[2], law, scale)(y, 0.5)
    assert_close(got, want, rtol=0, atol=1e-10)


def test_the_posterior_mean_of_a_class_by_quadrature():
    "An independent route: no score, no Tweedie, sums over the line."
    means = torch.tensor([[-1.5], [0.2], [1.0]], dtype=f64)
    laws = [Mixture(means[:1], 0.2), Mixture(means[1:], 0.2)]
    exact = exact_classifier(laws, torch.tensor([1.0, 2.0]))
    x = torch.linspace(-12, 12, 20001, dtype=f64)[:, None]
    y, level = torch.tensor([[-2.0], [0.0], [0.7]], dtype=f64), -0.4
    near = (-0.5 * (y - x.mT).square() / noise_variance(level, y)[0]).exp()
    p = near * (Mixture(means, 0.2).log_prob(x) + exact(x, torch.inf)[:, 0]).exp()
    want = (p * x.mT).sum(1, keepdim=True) / p.sum(1, keepdim=True)
    found = classifier_guided(Mixture(means, 0.2), for_class(exact, 0))(y, level)
    assert_close(found, want, rtol=0, atol=1e-9)


def test_a_pin():
    "Members at ±1 of variance 0 and R = 1: the posterior means are tanh y, and 1."
    means = torch.tensor([[-1.0], [1.0]], dtype=f64)
    both = Mixture(means)
    exact = exact_classifier([Mixture(means[:1]), Mixture(means[1:])])
    y = torch.tensor([[0.3]], dtype=f64)
    assert_close(both(y, 0.0), y.tanh())
    twice = classifier_guided(both, for_class(exact, 1), 2.0)(y, 0.0)
    assert_close(twice, 2.0 - y.tanh())


def test_scores_of_all_phases(images):
    law, laws, exact = of(images, BASES["pixel"])
    for d in PROCESSES.values():
        plain, wanted = Score(d, law), for_class(exact, 1)
        z = torch.randn(3, d.k, *SHAPE, dtype=f64)
        got = guided_score(plain.__call__, d, wanted, 1.0)(z, 0.4)
        assert_close(got, Score(d, laws[1])(z, 0.4), rtol=1e-9, atol=1e-9)


def test_a_clean_classifier_is_exact_without_noise_and_not_with_it(images):
    law, _, exact = of(images, BASES["pixel"])
    approx = of_denoised(law, lambda chi: exact(chi, torch.inf)[:, 1])
    y = torch.randn(3, *SHAPE, dtype=f64)
    near = approx(y, 16.0) - exact(y, 16.0)[:, 1]
    assert_close(near, torch.zeros_like(near), rtol=0, atol=1e-2)
    assert (approx(y, -1.0) - exact(y, -1.0)[:, 1]).abs().max() > 0.1


# Modes of PyTorch


def test_modes(images):
    law, _, exact = of(images, BASES["pixel"])
    lead, y = classifier_guided(law, for_class(exact, 1), 2.0), torch.randn(2, *SHAPE)
    want = lead(y, 0.3)
    with torch.no_grad():
        assert_close(lead(y, 0.3), want)
    with torch.inference_mode():
        assert_close(lead(y.clone(), 0.3), want)
    v = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(lead(v, 0.3).sum(), v)
    h = 1e-2 * torch.randn_like(y)
    change = lead(y + h, 0.3).double() - lead(y - h, 0.3).double()
    assert_close(change.sum() / 2, (slope * h).double().sum(), rtol=0.05, atol=1e-3)


def test_shapes_and_kinds_are_refused(images):
    law, _, exact = of(images, BASES["pixel"])
    y = torch.randn(2, *SHAPE)
    with pytest.raises(ValueError, match="one for each of 2"):
        classifier_guided(law, exact)(y, 0.0)
    with pytest.raises(ValueError, match="want a function"):
        classifier_guided(law, 3)
    with pytest.raises(ValueError, match="want a number"):
        classifier_guided(law, exact, "strong")
    with pytest.raises(ValueError, match="a weight > 0"):
        exact_classifier([law], torch.ones(2))


# Trained ones


def test_a_noisy_classifier_recognises_digits(classifier):
    test, g = digits(train=False), torch.Generator().manual_seed(0)
    many, few = (
        noisy_accuracy(classifier, test.x, test.labels, v, g) for v in (6.0, -8.0)
    )
    assert many > 0.6
    assert few < 0.3


def test_training_repeats(model, classifier):
    data = digits()
    how = dict(steps=3, batch=16, width=8)
    one, same = (
        train_noisy_classifier(model, data.x, data.labels, **how) for _ in range(2)
    )
    other = train_noisy_classifier(model, data.x, data.labels, seed=1, **how)
    y = data.x[:2]
    assert_close(one(y, 1.0), same(y, 1.0))
    assert not torch.allclose(one(y, 1.0), other(y, 1.0))


def test_training_under_autocast_uses_the_weights_of_every_step(model):
    "A cache of the weights in half precision, kept by a context outside, would not."
    data = digits()
    how = dict(steps=30, batch=32, width=8, mixed=True)
    alone = train_noisy_classifier(model, data.x, data.labels, **how)
    with torch.autocast("cpu", torch.bfloat16):
        inside = train_noisy_classifier(model, data.x, data.labels, **how)
    y = data.x[:4]
    assert_close(inside(y, 1.0), alone(y, 1.0), rtol=0, atol=0.02)


class Probe(nn.Module):
    "A network that keeps what it is given."

    config = dict(classes=2)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x, level):
        self.given = x, level
        return self.weight.expand(len(x), 2)


def test_what_the_network_of_a_classifier_is_given():
    basis, probe = BASES["pixel"], Probe()
    mean = torch.linspace(-1, 1, 64).reshape(SHAPE)
    found = NoisyClassifier(probe, basis, mean, 0.25)
    y = torch.randn(3, *SHAPE)
    found(y, 1.0)
    x, level = probe.given
    assert_close(x, (y - mean) / math.sqrt(math.exp(-1.0) + 0.25))
    assert_close(level, torch.ones(3))
    each = torch.linspace(-4, 2, 64).reshape(1, *SHAPE)
    found(y, each)
    assert_close(probe.given[1], torch.full((3,), -1.0))
    assert_close(probe.given[0], (y - mean) / (torch.exp(-each) + 0.25).sqrt())


def test_accuracy_is_that_under_noise_of_the_level():
    seen = []

    def probe(y, log_snr):
        seen.append(y)
        return torch.zeros(len(y), 2)

    chi = torch.zeros(20_000, 1)
    noisy_accuracy(probe, chi, torch.zeros(20_000), -4.0)
    assert torch.cat(seen).std().item() == pytest.approx(math.exp(2.0), rel=0.03)


def test_a_model_keeps_what_it_has_beside_a_classifier(model, classifier):
    groups = torch.arange(64).reshape(SHAPE) // 32
    net = UNet(1, width=8, mults=(1, 2), groups=2)
    parts = net, model.diffusion, model.basis, model.law
    family = Family(LinearGamma, dict(gamma_min=(-9.0, -7.0)), dict(gamma_max=3.0))
    one = ScoreModel(*parts, groups=groups, family=family).eval()
    led = with_classifier(one, classifier)
    assert led.family is family
    z = torch.randn(2, 1, *SHAPE)
    assert_close(led.conditional()(z, 0.5), one.conditional()(z, 0.5))


def test_levels_fit_the_schedules_of_a_model(model):
    many = model.with_schedule(haar_schedule(SHAPE))
    assert _log_snrs(model, 1.0).func is cosine_levels
    assert _log_snrs(many, 1.0).func is time_levels


def test_a_model_of_another_kind_is_refused(model, classifier):
    class Other(ScoreModel):
        pass

    other = Other(model.network, model.diffusion, model.basis, model.law)
    with pytest.raises(ValueError, match="got a Other, want a ScoreModel or Phase"):
        with_classifier(other, classifier)


def test_a_schedule_per_component_and_another_basis():
    data, basis = digits(), BASES["haar"]
    d = PROCESSES["psld per component"]
    torch.manual_seed(0)
    net = UNet(1, width=8, mults=(1, 2))
    many = ScoreModel(net, d, basis, fit_law(d, basis, data.x)).eval()
    how = dict(steps=20, batch=32, width=8)
    found = train_noisy_classifier(many, data.x, data.labels, **how)
    guided = with_classifier(many, found)
    x = guided.sample(4, times=default_grid(d, 3), labels=2, guidance=2.0)
    assert x.shape == (4, *SHAPE)
    assert x.isfinite().all()


def test_models_with_a_classifier(images, model):
    "A model whose network is its law: samples are those of the class's law."
    law, laws, exact = of(images, BASES["pixel"])
    how = dict(times=default_grid(model.diffusion, 4), sampler=exponential_heun)
    guided = with_classifier(model, exact)
    drawn = []
    for denoiser in (law, laws[2]):
        with patch.object(ScoreModel, "denoise", lambda s, *a, d=denoiser: d(*a[:2])):
            one, labels = (guided, 2) if denoiser is law else (model, None)
            g = torch.Generator().manual_seed(3)
            drawn.append(one.sample(5, generator=g, labels=labels, **how))
    assert_close(*drawn, rtol=0, atol=1e-4)


def test_labels_in_batches(model, classifier):
    guided, g = with_classifier(model, classifier), torch.Generator()
    how = dict(times=default_grid(model.diffusion, 2), guidance=3.0)
    how |= dict(labels=torch.arange(5))
    whole, parts = (
        guided.sample(5, generator=g.manual_seed(0), batch=b, **how) for b in (5, 2)
    )
    near = dict(rtol=0, atol=5e-3)  # slopes are multiplied by e^10
    assert_close(whole, parts, **near)
    for i in (0, 4):
        g.manual_seed(0)
        how["labels"] = torch.full((5,), i)
        same = guided.sample(5, generator=g, **how)
        assert_close(same[i], whole[i], **near)


def test_phase_models(classifier):
    torch.manual_seed(0)
    d = PROCESSES["psld"]
    phases = PhaseModel(UNet(2, width=8, mults=(1, 2)), d, BASES["pixel"]).eval()
    guided = with_classifier(phases, classifier)
    z = torch.randn(3, 2, *SHAPE)
    wanted = for_class(classifier, 4)
    want = guided_score(phases.conditional(), d, wanted, 2.0)(z, 0.5)
    assert_close(guided.conditional(4, 2.0)(z, 0.5), want)
    assert (want - phases(z, 0.5)).abs().max() > 1e-4
    times = default_grid(d, 2)
    assert guided.sample(2, times=times, labels=1, guidance=2.0).isfinite().all()


def test_a_model_with_a_classifier_refuses(model, classifier, tmp_path):
    guided = with_classifier(model, classifier)
    with pytest.raises(ValueError, match="want 0 to 9"):
        guided.sample(2, labels=10)
    with pytest.raises(ValueError, match="without labels"):
        guided.conditional(None, 2.0)
    with pytest.raises(ValueError, match="two folders"):
        guided.save_pretrained(tmp_path)
    assert guided.conditional()(torch.zeros(1, 1, *SHAPE), 0.5).shape == (1, 1, *SHAPE)
    with pytest.raises(ValueError, match="without `.classes`"):
        with_classifier(model, lambda y, level: y)
    mean = torch.zeros(1, 4, 4)
    other = NoisyClassifier(NoisyEncoder(1), Pixel((1, 4, 4)), mean, 1.0)
    with pytest.raises(ValueError, match="train one for this model"):
        with_classifier(model, other)


# Files


def test_files(classifier, tmp_path):
    save_noisy_classifier(tmp_path, classifier, torch.float32, seed=0)
    again = load_noisy_classifier(tmp_path)
    y = digits().x[:3]
    assert_close(again(y, 1.0), classifier(y, 1.0))
    assert again.about == dict(seed=0)


@pytest.mark.parametrize("gone", ["config", "basis", "mean", "variance", "about"])
def test_damaged_files(classifier, tmp_path, gone):
    save_noisy_classifier(tmp_path, classifier)
    tensors, about = load_tensors(tmp_path / "model.safetensors")
    del about[gone]
    save_tensors(tmp_path / "model.safetensors", tensors, about)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=gone):
        load_noisy_classifier(tmp_path)


def test_other_files_are_no_classifiers(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        load_noisy_classifier(tmp_path)
    with pytest.raises(ValueError, match="no file"):
        load_noisy_classifier("fashion-mnist-gide")
    with pytest.raises(ValueError, match="got the format"):
        load_noisy_classifier("fashion-mnist")


def test_the_shipped_one():
    guide = load_noisy_classifier("fashion-mnist-guide")
    guided = with_classifier(from_pretrained("fashion-mnist-phases"), guide)
    assert guide.about["classes"][5] == "sandal"
    assert guide(torch.zeros(1, 1, 28, 28), 0.0).shape == (1, guided.classifier.classes)
