"""The trainer: what it is given, that it repeats itself, and what it refuses."""

import csv
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gud_nb.basis import Pixel
from gud_nb.data import denormalise, digits
from gud_nb.denoiser import Dense, Independent, LowRank, Spectral
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import active_only, likelihood_weight, score_matching, spread_times
from gud_nb.network import MLP
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.schedule import Family, LinearBeta, LinearGamma, soft_conditioning
from gud_nb.train import (
    Loss,
    PhaseModel,
    ScoreModel,
    Training,
    batch_indices,
    component_losses,
    fit,
    fit_law,
    load_checkpoint,
    save_checkpoint,
)

data = digits()
x, SHAPE = data.x, (1, 8, 8)
pixel = Pixel(SHAPE)
steady = LinearBeta(8.0, 8.0)


def model(recipe=None, classes=0, kind=ScoreModel, seed=0, schedule=steady, **how):
    "A small untrained model of digits."
    torch.manual_seed(seed)
    recipe = recipe or vp()
    d = LinearDiffusion(recipe, schedule, **how)
    if kind is PhaseModel:
        return PhaseModel(MLP((recipe.k, 8, 8), width=16, depth=1), d, pixel)
    network = MLP(SHAPE, width=16, depth=1, classes=classes)
    return ScoreModel(network, d, pixel, fit_law(d, pixel, x))


def weights(m):
    return torch.cat([p.detach().flatten() for p in m.network.parameters()])


def trained(m, steps=3, **how):
    "The weights after a few steps."
    given = {n: how.pop(n) for n in ("x", "labels", "schedule") if n in how}
    plan = Training(steps=steps, batch=16, **how)
    fit(m, given.pop("x", x), plan, cpu=True, **given)
    return weights(m)


# The same again


def test_a_seed_gives_a_run():
    assert torch.equal(trained(model()), trained(model()))


@pytest.mark.parametrize("a, b", [(0, 1), (-1, -2), (0, 2**61 - 1)])
def test_different_seeds_give_different_runs(a, b):
    "hash(-1) is hash(-2), and hash(2**61 - 1) is hash(0)."
    one, two = (batch_indices(100, 50, 0, seed) for seed in (a, b))
    assert not torch.equal(one, two)
    first, second = (trained(model(), seed=seed, warmup=0) for seed in (a, b))
    assert (first - second).norm() > 1e-4


def test_steps_and_epochs_have_orders_of_their_own():
    epochs = [
        torch.cat([batch_indices(20, 5, 4 * e + i, 0) for i in range(4)])
        for e in range(3)
    ]
    for e in epochs:
        assert torch.equal(e.sort().values, torch.arange(20))
    assert len({tuple(e.tolist()) for e in epochs}) == 3


def test_resumed_by_minutes(tmp_path):
    "Seconds of the earlier run count, too."
    now = [0.0]

    def timer():
        now[0] += 1.0
        return now[0]

    plan = Training(minutes=0.2, timer=timer, batch=16)
    log = fit(model(), x, plan, out=tmp_path, every=1, cpu=True)
    assert log[-1]["seconds"] >= 12
    more = fit(model(), x, plan, out=tmp_path, resume=True, every=1, cpu=True)
    assert len(more) == 1 and more[0]["step"] == log[-1]["step"] + 1
    with open(tmp_path / "loss.csv", encoding="utf-8") as f:
        assert [int(r["step"]) for r in csv.DictReader(f)][-1] == more[0]["step"]


# Every kind of process, model and data


PROCESSES = {
    "VP": dict(),
    "CLD, HSM": dict(recipe=cld(), Sigma0=hsm(cld())),
    "PSLD, DSM": dict(recipe=psld(), aux_cov=hsm(psld())),
    "third order, HSM": dict(recipe=third_order(), Sigma0=hsm(third_order())),
    "third order, DSM": dict(recipe=third_order(), aux_cov=hsm(third_order())),
}


@pytest.mark.parametrize("kind", [ScoreModel, PhaseModel])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_loss_is_score_matching_and_falls(process, kind):
    m = model(kind=kind, **process)
    d, k = m.diffusion, m.diffusion.k
    g, again = (torch.Generator().manual_seed(3) for _ in range(2))
    loss = Loss(m, Training(steps=1))(x[:8], None, g)
    noise = torch.randn(8, k, *SHAPE, generator=again)
    aux = (
        torch.randn(8, k - 1, *SHAPE, generator=again)
        if d.aux_cov is not None
        else None
    )
    t = spread_times(8, again)
    assert_close(loss, score_matching(d, m.eps, x[:8], t, noise, aux).mean())
    before = weights(m)
    after = trained(m, steps=30, lr=3e-3, warmup=0, clip=100.0)
    assert after.isfinite().all() and (after - before).norm() > 0.01
    assert not m.training
    end = component_losses(m, x[:200], torch.tensor([0.5]), g)
    start = component_losses(
        model(kind=kind, **process).eval(), x[:200], torch.tensor([0.5]), g
    )
    assert end.mean() < 1.05 * start.mean()


v = x.var(0).clamp(min=1e-3).double()
FAMILY = Family(soft_conditioning, dict(a=(0.4, 1.6)), dict(variances=v))


@pytest.mark.parametrize("weight", [active_only(), active_only(likelihood_weight)])
def test_a_family_in_phase_space_read_by_snr(weight):
    m = model(psld(), schedule=FAMILY(), Sigma0=hsm(psld()), by_snr=True)
    seen = []

    def times(u, d):
        seen.append((d.schedule.images, d.schedule.table is m.diffusion.schedule.table))
        return u

    trained(m, schedule=FAMILY, weight=weight, times=times)
    assert seen == [(16, True)] * 3
    assert m.family is FAMILY
    assert m.at(a=0.5).sample(2).shape == (2, *SHAPE)


def test_images_bring_their_labels():
    whole, apart = model(classes=10), model(classes=10)
    assert torch.equal(trained(whole, x=data), trained(apart, labels=data.labels))
    assert not torch.equal(weights(whole), trained(model(classes=10)))
    assert torch.equal(trained(model(), x=data), trained(model()))


def test_labels_are_dropped_in_their_share():
    class Spy(nn.Module):
        config = dict(classes=10)

        def forward(self, x, level, labels=None):
            self.labels = labels
            return torch.zeros_like(x)

    m = model()
    m.network = Spy()
    loss, g = Loss(m, Training(steps=1, unlabelled=0.25)), torch.Generator()
    loss(x[:1000], data.labels[:1000], g.manual_seed(0))
    kept = m.network.labels < 10
    assert (m.network.labels == data.labels[:1000])[kept].all()
    assert abs(kept.float().mean() - 0.75) < 0.05


def test_the_average_is_kept():
    "After one step it is nine tenths of the way; with a decay of 0, all of it."
    first = weights(model())
    last, mean = (trained(model(), 1, ema=e, warmup=0) for e in (0.0, 0.999))
    assert_close(mean, first + 0.9 * (last - first))
    assert (last - first).norm() > 1e-3


def test_flips_and_mixed():
    assert trained(model(), flips=True, mixed=True).isfinite().all()


def test_default_dtype_float64(tmp_path):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        m = model(psld(), Sigma0=hsm(psld()), classes=10)
        after = trained(m, x=data, unlabelled=0.5, flips=True)
        assert after.dtype == torch.float64 and after.isfinite().all()
        assert m.sample(2, labels=1).dtype == torch.float64
        m.save_pretrained(tmp_path)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("warmup, first", [(0, 1.0), (1, 1.0), (4, 0.25)])
def test_warmup(warmup, first):
    plan = Training(steps=1000, warmup=warmup, lr=2e-3)
    assert_close(plan.rate(0, 0.0), 2e-3 * first)
    assert plan.rate(999, 0.0) < 1e-7


def test_out_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(model(), x, Training(steps=1), out="~/runs/é", cpu=True)
    assert (tmp_path / "runs" / "é" / "loss.csv").is_file()


# The law


CASES = {
    "one": (steady, None, Spectral),
    "one, rank 5": (steady, 5, Spectral),
    "many": (LinearGamma(-v.log() - 9, 3.0), None, Independent),
    "many, rank 5": (LinearGamma(-v.log() - 9, 3.0), 5, LowRank),
    "many, full": (LinearGamma(-v.log() - 9, 3.0), 64, Spectral),
}


@pytest.mark.parametrize("schedule, rank, kind", CASES.values(), ids=CASES)
def test_the_law_fits_the_diffusion(schedule, rank, kind):
    law = fit_law(LinearDiffusion(vp(), schedule), pixel, data, rank)
    assert type(law) is kind
    assert_close(law.mean, x.mean(0).double(), rtol=1e-5, atol=1e-5)
    assert (law.component_variances > 0).all()
    variances = law.component_variances
    if rank != 5 or kind is LowRank:
        assert_close(variances, x.double().var(0, correction=0), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("rank", [-1, 0, 2.5])
@pytest.mark.parametrize("schedule", [steady, CASES["many"][0]])
def test_a_rank_below_one_is_refused(rank, schedule):
    d = LinearDiffusion(vp(), schedule)
    with pytest.raises(ValueError, match=f"rank must be .*: got {rank}"):
        fit_law(d, pixel, x, rank)


NO_DATA = {
    "empty": (x[:0], "the basis wants"),
    "array": (x.numpy(), "data x of type ndarray, want a tensor"),
    "bytes": (denormalise(x), "torch.uint8, want floating"),
    "shape": (x[:, :, :4], "the basis wants"),
    "one image": (x[:1], "got 1 "),
    "constant": (torch.full_like(x, 0.3), "want finite images that differ"),
    "black": (0 * x, "of mean variance 0, want finite images that differ"),
    "nan": (x * float("nan"), "of mean variance nan"),
}


@pytest.mark.parametrize("x, message", NO_DATA.values(), ids=NO_DATA)
@pytest.mark.parametrize("schedule, rank, kind", CASES.values(), ids=CASES)
def test_data_without_a_law_are_refused(x, message, schedule, rank, kind):
    with pytest.raises(ValueError, match=message) as caught:
        fit_law(LinearDiffusion(vp(), schedule), pixel, x, rank)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:got 2 images")
@pytest.mark.parametrize("schedule, rank, kind", CASES.values(), ids=CASES)
def test_two_images_have_a_positive_law(schedule, rank, kind):
    "However little a covariance of so few images is shrunk."
    law = fit_law(LinearDiffusion(vp(), schedule), pixel, x[:2], rank)
    values = torch.linalg.eigvalsh(law.covariance_matrix())
    assert values.min() > 1e-10 * law.mean_variance


def test_fewer_images_than_dimensions():
    "One line of warning, and a law that is positive."
    d = LinearDiffusion(vp(), steady)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        law = fit_law(d, pixel, x[:20])
    ours = [
        str(w.message) for w in caught if "too few for a covariance" in str(w.message)
    ]
    assert len(ours) == 1 and "\n" not in ours[0]
    assert law.covariance_matrix().logdet().isfinite()


# Refusals, each in one line


REFUSED = {
    "tensor": (dict(x=[1, 2]), "data x of type list"),
    "array": (dict(x=x.numpy()), "data x of type ndarray"),
    "bytes": (dict(x=denormalise(x)), "torch.uint8, want floating .*data.normalise"),
    "shape": (dict(x=x[:, :, :4]), "the basis wants \\(n ≥ 1, 1, 8, 8\\)"),
    "empty": (dict(x=x[:0]), "the basis wants"),
    "plan": (dict(plan=5), "got a plan of type int, want e.g. Training"),
    "schedule": (dict(schedule=steady), "schedule of type LinearBeta, want a Family"),
    "null": (dict(labels=torch.full((len(x),), 10)), "10 to 10, want 0 to 9"),
    "bool": (dict(labels=data.labels > 4), "torch.bool, want integers"),
    "label": (dict(labels=data.labels + 5), "got labels 5 to 14, want 0 to 9"),
    "number": (dict(labels=data.labels[:3]), f"each of {len(x)} images"),
    "folder": (dict(resume=True), "resume needs `out`"),
    "nothing": (dict(resume=True, out="/nowhere"), "no checkpoint at"),
    "rate": (dict(plan=Training(steps=9, lr=1e30, warmup=0), every=1), "the loss is"),
}


@pytest.mark.parametrize("given, message", REFUSED.values(), ids=REFUSED)
def test_fit_refuses_in_one_line(given, message):
    given = dict(x=x, plan=Training(steps=1)) | given
    with pytest.raises(ValueError, match=message) as caught:
        fit(model(classes=10), cpu=True, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(), "give a budget"),
        (dict(steps=1, minutes=1.0), "give a budget"),
        (dict(steps=0), "must be > 0"),
        (dict(steps=1, batch=0), "batch=0"),
        (dict(steps=1, lr=0.0), "lr=0"),
        (dict(steps=1, warmup=-1), "warmup=-1"),
        (dict(steps=1, unlabelled=2.0), "a share"),
    ],
)
def test_training_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        Training(**given)


def test_a_checkpoint_of_another_network(tmp_path):
    a, b = nn.Linear(3, 2), nn.Linear(3, 5)
    adam = torch.optim.Adam(a.parameters())
    path = save_checkpoint(tmp_path / "c", 1, 0.5, a, dict(a.state_dict()), adam)
    with pytest.raises(ValueError, match="another network"):
        load_checkpoint(path, b, {}, torch.optim.Adam(b.parameters()))
    path.write_text("no checkpoint", encoding="utf-8")
    with pytest.raises(ValueError, match="can't be read"):
        load_checkpoint(path, a, {}, adam)


def test_component_losses_want_evaluation_mode():
    with pytest.raises(ValueError, match="training mode"):
        component_losses(model().train(), x, torch.tensor([0.5]))


def test_a_dense_law_serves_training():
    "Its matrix is solved for every image."
    torch.manual_seed(0)
    d = LinearDiffusion(vp(), CASES["many"][0])
    law = Dense(x.mean(0), fit_law(d, pixel, x, 64).covariance_matrix())
    m = ScoreModel(MLP(SHAPE, width=16, depth=1), d, pixel, law)
    assert trained(m, steps=2).isfinite().all()
