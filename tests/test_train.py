"""The trainer: what a step does, that it repeats itself, and what it refuses."""

import csv
import math
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.testing import assert_close

from gud_nb.basis import Pixel
from gud_nb.data import Tensors, denormalise, digits
from gud_nb.denoiser import Dense, Independent, LowRank, Spectral
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.loss import active_only, likelihood_weight, snr_times
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import MLP
from gud_nb.objective import (
    LIKELIHOOD,
    Denoising,
    Draws,
    InTurn,
    LineLevels,
    Objective,
    ScoreMatching,
    cosine_levels,
    for_images,
    for_likelihood,
    normal_levels,
    schedule_levels,
    time_levels,
    uniform_levels,
)
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.runs import differences, read_checkpoint
from gud_nb.saved import from_pretrained
from gud_nb.schedule import (
    Cosine,
    Family,
    LinearBeta,
    LinearGamma,
    PerImage,
    Schedule,
    continued,
    soft_conditioning,
)
from gud_nb.train import (
    Loss,
    Training,
    batch_indices,
    component_losses,
    fit,
    identity,
    load_run,
)

data = digits()
x, SHAPE = data.x, (1, 8, 8)
pixel = Pixel(SHAPE)
steady = LinearBeta(8.0, 8.0)
ROOT = Path(__file__).resolve().parent.parent


def model(recipe=None, classes=0, kind=ScoreModel, seed=0, schedule=steady, **how):
    "A small untrained model of digits."
    torch.manual_seed(seed)
    recipe, family = recipe or vp(), how.pop("family", None)
    d = LinearDiffusion(recipe, schedule, **how)
    if kind is PhaseModel:
        return PhaseModel(MLP((recipe.k, 8, 8), width=16, depth=1), d, pixel)
    network = MLP(SHAPE, width=16, depth=1, classes=classes)
    return ScoreModel(network, d, pixel, fit_law(d, pixel, x), family=family)


def weights(m):
    return torch.cat([p.detach().flatten() for p in m.network.parameters()])


def trained(m, steps=3, **how):
    "The weights after a few steps."
    given = {n: how.pop(n) for n in ("data", "labels", "out") if n in how}
    how = dict(steps=steps, batch=16) | how
    fit(m, given.pop("data", x), Training(**how), cpu=True, every=2, **given)
    return weights(m)


def draws(n=8, seed=0, rows=None):
    return Draws(n, torch.Generator().manual_seed(seed), rows)


# The same again


def test_fit_is_this_loop():
    "Every line of a step, written out: orders, draws, rate, clip, moments, averages."
    from gud_nb.train import _seed

    fitted, m = model(classes=10), model(classes=10)
    plan = dict(lr=0.01, warmup=2, clip=0.05, ema=(0.5, 0.9), seed=7, weight_decay=0.1)
    log = fit(
        fitted,
        x,
        Training(steps=5, batch=16, flips=True, unlabelled=0.25, **plan),
        data.labels,
        every=1,
        cpu=True,
    )
    params = list(m.network.parameters())
    adam = torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)
    state = m.network.state_dict()
    average = [v.clone() for v in state.values()]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_seed(7, 0)))
    for step in range(5):
        at = order[16 * step : 16 * step + 16]
        d = draws(16, _seed(7, step))
        heads = d.uniform() < 0.5
        images = torch.where(heads[:, None, None, None], x[at].flip(-1), x[at])
        labels = torch.where(d.uniform() < 0.25, 10, data.labels[at])
        level = cosine_levels(d, m.law.mean_variance)
        R = torch.exp(-level)[:, None, None, None]
        y = images + R.sqrt().float() * d.normal(*SHAPE)
        error = m.denoise(y, level, m.drop(labels, labels == 10)) - images
        loss = (error.double().square() / m.law.variance(R)).mean()
        adam.param_groups[0]["lr"] = (
            0.01
            * min(1, (step + 1) / 2)
            * (1 + torch.tensor(step / 5 * torch.pi).cos())
            / 2
        ).item()
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, 0.05)
        assert norm > 0.05  # so that clipping counts
        adam.step()
        decay = min(0.5, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(average, list(state.values()), None)
        assert_close(log[step]["loss"], loss.item(), rtol=1e-4, atol=0)
        assert_close(log[step]["gradient"], norm.item(), rtol=1e-3, atol=0)
        assert log[step]["images"] == 16 * step + 16
    found = list(fitted.network.state_dict().values())
    for a, b in zip(found, average):
        assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert not fitted.training


def test_a_seed_gives_a_run():
    assert torch.equal(trained(model()), trained(model()))


@pytest.mark.parametrize("a, b", [(0, 1), (-1, -2), (0, 2**61 - 1)])
def test_different_seeds_give_different_runs(a, b):
    "hash(-1) is hash(-2), and hash(2**61 - 1) is hash(0)."
    one, two = (next(batch_indices(100, 50, seed)) for seed in (a, b))
    assert not torch.equal(one, two)
    first, second = (trained(model(), seed=seed, warmup=0) for seed in (a, b))
    assert (first - second).norm() > 1e-4


def test_steps_and_epochs_have_orders_of_their_own():
    run = batch_indices(20, 5, 0)
    epochs = [torch.cat([next(run) for _ in range(4)]) for _ in range(3)]
    for e in epochs:
        assert torch.equal(e.sort().values, torch.arange(20))
    assert len({tuple(e.tolist()) for e in epochs}) == 3


@pytest.mark.parametrize("n, batch", [(20, 5), (7, 3), (3, 8), (1, 4)])
@pytest.mark.parametrize("first", [1, 4, 9])
def test_a_run_goes_on_with_the_same_batches(n, batch, first):
    run, later = batch_indices(n, batch, 0), batch_indices(n, batch, 0, first)
    whole = [next(run) for _ in range(first + 3)]
    for a in whole[first:]:
        assert torch.equal(a, next(later))
        assert len(a) == batch


class Dropped(nn.Module):
    "A network with dropout."

    config = dict(classes=0)

    def __init__(self):
        super().__init__()
        self.body = MLP(SHAPE, width=16, depth=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, level, labels=None):
        return self.body(self.drop(x), level, labels)


def dropped():
    m = model()
    torch.manual_seed(0)
    m.network = Dropped()
    return m


def sgd(params, lr, weight_decay):
    return torch.optim.SGD(params, lr, momentum=0.9, weight_decay=weight_decay)


CASES = {
    "as it is": (model, dict()),
    "dropout": (dropped, dict()),
    "averages": (model, dict(ema=(0.9, 0.0))),
    "momentum": (model, dict(optimizer=sgd)),
    "in turn": (model, dict(objective=InTurn(Denoising(cosine_levels), LIKELIHOOD))),
    "phases": (partial(model, psld(), kind=PhaseModel), dict()),
}


@pytest.mark.parametrize("make, how", CASES.values(), ids=CASES)
def test_resumed_runs_are_the_run(tmp_path, make, how):
    "Every weight, every average, every row of the log."
    how = dict(batch=16, warmup=3, **how)
    whole, m = make(), make()
    kept = dict(keep=0, every=5, cpu=True)
    log = fit(whole, x, Training(steps=12, **how), out=tmp_path / "a", **kept)

    class Killed(Exception):
        pass

    reads = iter(range(8))

    def timer():
        if next(reads, None) is None:
            raise Killed
        return 0.0

    with pytest.raises(Killed):
        plan = Training(steps=12, timer=timer, **how)
        fit(m, x, plan, out=tmp_path / "b", **kept)
    before = torch.random.get_rng_state()
    fit(make(), x, Training(**how), out=tmp_path / "b", resume=True, **kept)
    assert torch.equal(before, torch.random.get_rng_state()) or make is not dropped
    ends = [read_checkpoint(tmp_path / n / "checkpoint.safetensors") for n in "ab"]
    assert ends[0].step == ends[1].step == 12
    for k, v in ends[0].tensors.items():
        assert torch.equal(v, ends[1].tensors[k]), k
    rows = [(tmp_path / n / "loss.csv").read_text("utf-8").splitlines() for n in "ab"]
    numbers = [[r.split(",")[3:] for r in some[1:]] for some in rows]
    assert numbers[0] == numbers[1] and len(log) == 3


def test_a_finished_run_stays_as_it_is(tmp_path):
    m, plan = model(), dict(batch=16)
    end = fit(m, x, Training(steps=4, **plan), out=tmp_path, cpu=True, every=2)[-1]
    file, other = tmp_path / "checkpoint.safetensors", model()
    bytes_before = file.read_bytes()
    again = fit(other, x, Training(**plan), out=tmp_path, resume=True, cpu=True)
    assert again == [end] and file.read_bytes() == bytes_before
    assert torch.equal(weights(m), weights(other))
    longer = Training(steps=6, lr=1e-4, **plan)
    more = fit(other, x, longer, out=tmp_path, resume=True, cpu=True, every=1)
    assert [r["step"] for r in more] == [5, 6]
    assert more[0]["rate"] <= 1e-4
    with open(tmp_path / "loss.csv", encoding="utf-8") as f:
        assert [int(r["step"]) for r in csv.DictReader(f)] == [2, 4, 5, 6]


def test_a_shorter_budget_warms_up_again_and_ends_at_zero(tmp_path):
    plan = dict(batch=16, warmup=2)
    fit(model(), x, Training(steps=4, **plan), out=tmp_path, cpu=True, every=1)
    checkpoint = read_checkpoint(tmp_path / "checkpoint.safetensors")
    longer = replace(checkpoint, legs=(replace(checkpoint.legs[0], steps=40),))
    longer.write(tmp_path / "checkpoint.safetensors")  # stopped at step 4 of 40
    how = dict(out=tmp_path, resume=True, every=1, cpu=True)
    log = fit(model(), x, Training(steps=8, **plan), **how)
    rates = [r["rate"] for r in log]
    assert [r["step"] for r in log] == [5, 6, 7, 8]
    assert rates[0] == 5e-4 and max(rates) == rates[1]
    assert 0 < rates[3] < rates[2] < rates[1]


def test_resumed_by_minutes(tmp_path):
    "Seconds of the earlier run count, too."
    now = [0.0]

    def timer():
        now[0] += 1.0
        return now[0]

    plan = dict(timer=timer, batch=16)
    first = Training(minutes=0.2, **plan)
    log = fit(model(), x, first, out=tmp_path, every=1, cpu=True)
    assert log[-1]["seconds"] == 12
    longer = Training(minutes=0.3, **plan)
    more = fit(model(), x, longer, out=tmp_path, resume=True, every=1, cpu=True)
    assert [r["seconds"] for r in more] == [13, 14, 15, 16, 17, 18]


OTHERS = {
    "recipe": (lambda: model(psld(), Sigma0=hsm(psld())), {}, x),
    "schedule": (lambda: model(schedule=Cosine()), {}, x),
    "network": (lambda: model(classes=10), {}, x),
    "data": (model, {}, x[:-1]),
    "seed": (model, dict(seed=1), x),
    "batch": (model, dict(batch=8), x),
    "objective": (model, dict(objective=LIKELIHOOD), x),
    "decays": (model, dict(ema=0.5), x),
    "optimizer": (model, dict(optimizer=sgd), x),
}


@pytest.mark.parametrize("make, how, other", OTHERS.values(), ids=OTHERS)
def test_another_run_is_refused(tmp_path, make, how, other, request):
    fit(model(), x, Training(steps=1, batch=16), out=tmp_path, cpu=True)
    name = request.node.callspec.id
    word = "sizes" if name == "network" else name
    for given, message in ((dict(resume=True), word), (dict(), "holds a run")):
        plan = Training(steps=2, **(dict(batch=16) | how))
        with pytest.raises(ValueError, match=message) as caught:
            fit(make(), other, plan, out=tmp_path, cpu=True, **given)
        assert "\n" not in str(caught.value)
    fit(make(), other, plan, out=tmp_path, overwrite=True, cpu=True)


def test_a_diverged_run_keeps_its_checkpoint(tmp_path):
    how = dict(out=tmp_path, cpu=True, every=1, keep=0)
    good = fit(model(), x, Training(steps=3, batch=16), **how)
    with pytest.raises(ValueError, match="the loss is|diverged"):
        worse = Training(steps=60, batch=16, lr=1e30, warmup=200)
        fit(model(), x, worse, resume=True, **how)
    c = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert all(v.isfinite().all() for v in c.tensors.values())
    assert good[-1]["step"] <= c.step < 60


def test_averages_and_weights_are_kept(tmp_path):
    trained(model(), 4, ema=(0.5, 0.0), out=tmp_path, warmup=0)
    first, last, raw = (load_run(model(), tmp_path, a) for a in (0, 1, None))
    assert torch.equal(weights(last), weights(raw))
    assert (weights(first) - weights(raw)).norm() > 1e-4
    with pytest.raises(ValueError, match="average=2"):
        load_run(model(), tmp_path, 2)


def test_labels_need_a_network_with_classes():
    labels = torch.zeros(len(x), dtype=torch.long)
    with pytest.raises(ValueError, match='its config needs "classes"'):
        fit(model(), x, Training(steps=1), labels, cpu=True)


# Several processes, signals


TWO = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from test_train import data, model, x
from gud_nb.train import Training, fit
from safetensors.torch import save_file
torch.set_default_dtype(torch.float64)
out, batch = sys.argv[2], int(sys.argv[3])
m = model(classes=10)
how = dict(flips=True, unlabelled=0.25, warmup=0)
plan = Training(steps=4, batch=batch, **how)
fit(m, x.double(), plan, data.labels, out=out, every=2, cpu=True, overwrite=True)
if os.environ.get("RANK", "0") == "0":
    save_file(m.network.state_dict(), out + "/weights.safetensors")
fit(m, x[:1].double(), Training(steps=2, batch=1), data.labels[:1], cpu=True)
"""


def finished(command: list[str], tries: int = 1):
    "Run a script to its end; if it fails, say what it said."
    env = os.environ | dict(OMP_NUM_THREADS="1")
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"  # two processes of one machine
    how = dict(env=env, timeout=300, capture_output=True, text=True)
    for _ in range(tries):
        run = subprocess.run(command, **how)
        if run.returncode == 0:
            return
        print(run.stdout[-2000:], run.stderr[-6000:])
    pytest.fail(f"exit code {run.returncode}: {run.stderr[-6000:]}")


def test_two_processes_are_one(tmp_path):
    "The same batch, the same noise; and one image for two processes."
    script = tmp_path / "two.py"
    script.write_text(TWO, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    start += ["--standalone", "--local-addr=localhost"]
    args = [str(script), str(ROOT / "tests")]
    finished([sys.executable, *args, str(tmp_path / "one"), "16"])
    # two processes may fail to meet; what they compute is the same each time
    finished([*start, *args, str(tmp_path / "two"), "8"], tries=2)
    one, two = (load_file(tmp_path / n / "weights.safetensors") for n in ("one", "two"))
    for k in one:
        assert_close(one[k], two[k], rtol=0, atol=1e-12)
    texts = [(tmp_path / n / "loss.csv").read_text("utf-8") for n in ("one", "two")]
    rows = [list(csv.reader(t.splitlines())) for t in texts]
    assert [r[:2] for r in rows[0]] == [r[:2] for r in rows[1]]
    for a, b in zip(rows[0][1:], rows[1][1:]):
        assert_close([float(v) for v in a[3:]], [float(v) for v in b[3:]])


LONG = """
import sys
import warnings
sys.path.insert(0, sys.argv[1])
from test_train import model, x
from gud_nb.train import Training, fit
fit(model(), x, Training(steps=10**6, batch=16), out=sys.argv[2], every=10, cpu=True)
"""


def test_a_signal_saves(tmp_path):
    args = [sys.executable, "-c", LONG, str(ROOT / "tests"), str(tmp_path)]
    run = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "loss.csv").exists() and run.poll() is None:
        pass
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 143 and "resume" in said, said
    step = read_checkpoint(tmp_path / "checkpoint.safetensors").step
    more = Training(steps=step + 1, batch=16)
    log = fit(model(), x, more, out=tmp_path, resume=True, cpu=True)
    assert log[-1]["step"] == step + 1


# What is learned


PROCESSES = {
    "VP": dict(),
    "CLD, HSM": dict(recipe=cld(), Sigma0=hsm(cld())),
    "PSLD, DSM": dict(recipe=psld(), aux_cov=hsm(psld())),
    "third order, HSM": dict(recipe=third_order(), Sigma0=hsm(third_order())),
    "third order, DSM": dict(recipe=third_order(), aux_cov=hsm(third_order())),
}


@pytest.mark.parametrize("kind", [ScoreModel, PhaseModel])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_loss_falls(process, kind):
    m = model(kind=kind, **process)
    before = weights(m)
    how = dict(lr=0.01, warmup=0, clip=100.0, batch=64, ema=0.9)
    after = trained(m, steps=200, **how)
    assert after.isfinite().all() and (after - before).norm() > 0.01
    assert not m.training
    fresh = model(kind=kind, **process).eval()
    with torch.no_grad():
        end, start = (
            Loss(each, Training())(x[:400], None, draws(400)) for each in (m, fresh)
        )
    assert end < start


def test_a_denoiser_needs_no_process():
    "Trained under any recipe and schedule it gets the same weights."
    one = trained(model())
    assert torch.equal(one, trained(model(psld(), Sigma0=hsm(psld()))))
    assert torch.equal(one, trained(model(schedule=Cosine())))


@pytest.mark.parametrize("weight, power", [(None, 1), (for_likelihood, 2)])
def test_weights_of_the_two_losses(weight, power):
    "The same errors of the posterior mean, over its variance or over the noise's."
    m, level = model(), torch.linspace(-5, 5, 8)
    for p in m.network.parameters():
        nn.init.normal_(p, std=0.3)
    how = {} if weight is None else dict(weight=weight)
    found = Denoising(lambda _: level, **how)(m, x[:8], None, draws())
    R = torch.exp(-level)[:, None, None, None].double()
    y = x[:8] + R.sqrt().float() * draws().normal(*SHAPE)
    error = (m.denoise(y, level) - x[:8]).double().square()
    over = m.law.variance(R) if power == 1 else R
    assert_close(found.double(), (error / over).mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [for_images, for_likelihood])
def test_uneven_weights_give_finite_losses(weight):
    "Variances over eighteen orders; images of which one or no component counts."
    m, level = model(), torch.linspace(-20, 20, 8).double()
    m.law = Independent(torch.zeros(SHAPE), torch.logspace(-12, 6, 64).reshape(SHAPE))
    for p in m.network.parameters():
        nn.init.normal_(p, std=0.1)
    counts = torch.ones(8, *SHAPE)
    counts[1], counts[2], counts[2, 0, 0, 0] = 0.0, 0.0, 1.0
    both = level.reshape(-1, 1, 1, 1).expand(8, *SHAPE), counts
    loss = Denoising(lambda _: both, weight)(m, x[:8], None, draws())
    loss.sum().backward()
    assert loss.isfinite().all() and loss[1] == 0 and loss[2] > 0
    assert all(p.grad.isfinite().all() for p in m.network.parameters())


def test_resting_components_are_not_in_the_mean_of_the_weights():
    m, given = model().eval(), []
    active = torch.zeros(8, *m.basis.shape)
    active[..., 0] = 1.0
    level = torch.linspace(-3, 3, 8).reshape(8, *[1] * len(m.basis.shape))

    def kept(share, seen):
        given.append(for_images(share, seen))
        return given[0]

    objective = Denoising(lambda draws: (level.expand_as(active), active), kept)
    objective(m, m.basis(x[:8]), None, draws(8))
    assert_close(given[0].flatten(1).mean(1), torch.ones(8))
    assert not given[0][active == 0].any()


def test_uniform_levels_for_likelihood_are_the_bound():
    "Half the integral over log-SNR of the error of the noise, as in the ELBO."
    m, n = model(), 4000
    d = Draws(n, torch.Generator().manual_seed(0))
    some = x[torch.randint(len(x), (n,), generator=torch.Generator().manual_seed(1))]
    found = LIKELIHOOD(m, some, None, d).mean()
    exact = 0.0
    for level in torch.linspace(-9, 9, 181)[:-1] + 0.05:
        R = torch.exp(-level.double()).reshape(1, 1, 1, 1)
        exact += (m.law.variance(R) / R).mean() / 180
    assert_close(found.double(), exact, rtol=0.06, atol=0)


def test_levels():
    many = draws(100_000)
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double()
    tan = -2 * torch.tan(torch.pi / 2 * (1 - quantiles)).log()
    assert_close(cosine_levels(many).quantile(quantiles), tan, rtol=0, atol=0.01)
    n = torch.distributions.Normal(1.0, 2.4).icdf(quantiles)
    found = normal_levels(many).quantile(quantiles)
    assert_close(found, n, rtol=0, atol=0.01)
    u = uniform_levels(many, low=-2.0, high=6.0).quantile(quantiles)
    assert_close(u, 8 * quantiles - 2, rtol=0, atol=0.01)
    d = LinearDiffusion(psld(), steady, Sigma0=hsm(psld()))
    t = time_levels(many, d).quantile(quantiles)
    exact = d.log_snr(1 - quantiles, torch.zeros(5, 2, 1)).flatten()
    assert_close(t, exact, rtol=0.01, atol=0.01)
    for f in (cosine_levels, normal_levels, uniform_levels):
        shift = f(draws(16)) - f(draws(16), variance=0.25)
        assert_close(shift, torch.full_like(shift, 0.25).log())


def test_draws_are_those_of_the_whole_batch():
    for rows in (slice(1, None, 2), slice(0, None, 3)):
        whole, part = draws(12), draws(12, rows=rows)
        assert torch.equal(whole.uniform()[rows], part.uniform())
        assert torch.equal(whole.normal(2, 3)[rows], part.normal(2, 3))
    u = draws(1000).uniform().sort().values
    assert_close(u.diff(), torch.full_like(u[1:], 1e-3), rtol=1e-6, atol=0)
    assert (draws(1).uniform() > 0).all()


v = x.var(0).clamp(min=1e-3).double()
FAMILY = Family(soft_conditioning, dict(a=(0.4, 1.6)), dict(variances=v, clip=True))
IN_SPACE = dict(Sigma0=hsm(psld()))
KINDS = {
    "VP": dict(),
    "PSLD": dict(recipe=psld(), **IN_SPACE),
    "PSLD by SNR": dict(recipe=psld(), by_snr=True, **IN_SPACE),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_levels_of_a_schedule_are_its_own(kind):
    "At the time that was drawn, with weight 0 where β is 0."
    m = model(schedule=FAMILY(a=0.7), **kind)
    d = draws(64)
    d.uniform()
    t = d.uniform()
    level, active = schedule_levels(m, by_variance=False)(draws(64))
    like = torch.zeros(64, m.diffusion.k, *SHAPE)
    assert_close(level, m.diffusion.log_snr(t, like), rtol=1e-6, atol=1e-6)
    assert torch.equal(active > 0, m.diffusion.beta(t, like) > 0)


def test_levels_of_a_family():
    "Every image has a member of its own, of parameters evenly over the range."
    m = model(schedule=FAMILY(), family=FAMILY)
    lines = schedule_levels(m)
    assert len(lines.low) == 128
    level, _ = lines(draws(128))
    assert level.shape == (128, *SHAPE)
    ends = [FAMILY(a=a).gamma_min for a in (0.4, 1.6)]
    assert (lines.low >= torch.minimum(*ends)).all()
    assert (lines.low <= torch.maximum(*ends)).all()
    spread = lines.low.flatten(1).std(0) > 0.1
    assert spread.any()


def test_every_image_has_a_component_that_changes():
    "Also where most components, and most of the variance, are frozen."
    column = torch.arange(SHAPE[-1]).expand(SHAPE)
    ranges = dict(known=(0.0, SHAPE[-1] - 0.5), b=(0.0, 0.9))
    family = Family(continued, ranges, dict(order=column))
    m = model(schedule=family(), family=family)
    _, active = schedule_levels(m)(draws(512))
    assert (active.flatten(1).sum(1) > 0).all()
    assert (active.flatten(1).mean(1) < 0.5).any()  # many are frozen
    still = model(schedule=continued(column, SHAPE[-1] - 1, gamma_min=-5.0))
    level, active = schedule_levels(still)(draws(64))
    assert torch.equal(active > 0, (column == column.max()).expand_as(active))
    assert (level[:, column < column.max()] == 5.0).all()


def test_frozen_components_alone_change_how_often_others_decide():
    "The same numbers where all components move; log-variances are 0 by default."
    m = model(schedule=FAMILY(), family=FAMILY)
    lines = schedule_levels(m)
    assert torch.equal(lines._of_moving(), lines.cdf.expand(128, -1))
    low, rise = torch.zeros(1, 3).double(), torch.tensor([[0.0, 1.0, 1.0]]).double()
    free = torch.tensor([-math.inf, math.inf]).double().reshape(2, 1, 1).expand(2, 1, 3)
    some = LineLevels(low, rise, free, torch.tensor([0.5, 0.75, 1.0]).double())
    assert_close(some._of_moving(), torch.tensor([[0.0, 0.5, 1.0]]).double())
    assert some(draws())[0].isfinite().all()
    none = replace(some, rise=0 * rise)
    assert none._of_moving().isfinite().all()


def test_times_by_variance_are_those_of_notebook_07():
    "The same mean log-SNR as times drawn from the tables, for one schedule."
    s = soft_conditioning(v, 0.7)
    m = model(schedule=s)
    u = (torch.arange(4000).double() + 0.5) / 4000
    t = snr_times(m.diffusion, v, v)(u)
    by_table = m.diffusion.log_snr(t, torch.zeros(4000, 1, *SHAPE)).mean(0)
    level, _ = schedule_levels(m)(draws(4000))
    assert_close(level.mean(0), by_table, rtol=0, atol=0.35)


@dataclass(frozen=True, eq=False)
class Curved(Schedule):
    "A schedule per component that is no line in γ."

    speed: torch.Tensor  # (*comp)

    @property
    def shape(self):
        return tuple(self.speed.shape)

    def B(self, t):
        return self.per_component(torch.as_tensor(t).double()) ** 2 * self.speed

    def beta(self, t):
        return 2 * self.per_component(torch.as_tensor(t).double()) * self.speed


def slower(top):
    return LinearBeta(0.1, top)


def curved(top):
    return Curved(top * (1 + v))


def test_schedules_that_are_no_lines():
    "Their log-SNRs come from the process, for one schedule and for one per component."
    d = draws()
    t = 1e-5 + (1 - 1e-5) * d.uniform()
    for schedule, shape in ((Cosine(), (1,)), (curved(8.0), SHAPE)):
        m = model(schedule=schedule)
        want = m.diffusion.log_snr(t, torch.zeros(8, 1, *shape))
        found = schedule_levels(m)(draws())
        assert_close(found, want.flatten() if shape == (1,) else want)
        assert trained(m, objective=Denoising(schedule_levels(m))).isfinite().all()


@pytest.mark.parametrize("make", [slower, curved])
def test_a_family_that_is_no_lines(make):
    "Each image has a member of its own, not the middle one for all."
    family = Family(make, dict(top=(2.0, 20.0)))
    m = model(schedule=family(), family=family)
    found = schedule_levels(m)(draws(64, 5))
    again = draws(64, 5)
    t = 1e-5 + (1 - 1e-5) * again.uniform()
    members = family.draw(64, again.generator).members
    each = m.diffusion.with_schedule(PerImage(members, 64))
    want = each.log_snr(t, torch.zeros(64, 1, *(each.schedule.shape or (1,))))
    assert_close(found.flatten(), want.flatten())
    assert len(members) == 16
    assert trained(m).isfinite().all()


@pytest.mark.parametrize("weight", [active_only(), active_only(likelihood_weight)])
def test_score_matching_at_other_times(weight):
    m = model(psld(), schedule=FAMILY(), by_snr=True, **IN_SPACE)
    seen = []

    def times(u, d):
        seen.append(len(u))
        return u

    after = trained(m, objective=ScoreMatching(weight, times))
    assert seen == [16] * 3 and after.isfinite().all()


def test_a_family_in_phase_space_read_by_snr():
    m = model(psld(), schedule=FAMILY(), by_snr=True, family=FAMILY, **IN_SPACE)
    assert trained(m).isfinite().all()
    assert m.at(a=0.5).sample(2).shape == (2, *SHAPE)


def test_one_objective_after_the_other():
    seen = []

    class Says(Objective):
        def __init__(self, name):
            self.name = name

        def __call__(self, model, chi, labels, draws):
            seen.append(self.name)
            return sum(p.sum() for p in model.network.parameters()) * chi.new_ones(16)

    trained(model(), 6, objective=InTurn(Says("a"), Says("b"), 0.5))
    assert seen == ["a"] * 3 + ["b"] * 3


def test_images_bring_their_labels():
    whole, apart = model(classes=10), model(classes=10)
    one = trained(whole, data=data)
    assert torch.equal(one, trained(apart, labels=data.labels))
    assert not torch.equal(weights(whole), trained(model(classes=10)))
    assert torch.equal(trained(model(), data=data), trained(model()))


def test_a_law_fitted_again_is_the_same_law():
    "Its last digits differ, vectors of equal variances are turned: no other run."
    d, plan = LinearDiffusion(vp(), steady), Training(steps=1)
    source = Tensors(x.double() - x.double().mean(0))

    def who(law):
        m = ScoreModel(MLP(SHAPE, width=16, depth=1), d, pixel, law)
        return identity(m, source, plan)

    law = fit_law(d, pixel, source.x)
    V, null = law.vectors, law.variances < 1.001 * law.rest
    n = int(null.sum())
    assert isinstance(law, Spectral) and n > 1  # constant pixels
    turned = V.clone()
    turned[:, null] = V[:, null] @ torch.linalg.qr(torch.randn(n, n).double())[0]
    noise = 1e-9 * torch.randn_like(V)
    for same in (-V, turned, torch.linalg.qr(V + noise)[0]):
        assert differences(who(law), who(replace(law, vectors=same))) == []
    for change in (dict(variances=law.variances * 1.001), dict(mean=law.mean + 1e-3)):
        found = differences(who(law), who(replace(law, **change)))
        assert any(line.startswith("law.") for line in found)


def test_a_source_is_its_images(tmp_path):
    "Whatever has a loader trains as the tensor does, and is told from others."
    source = Tensors(x, data.labels, "digits", data.classes)
    one = trained(model(classes=10), data=source, out=tmp_path)
    assert torch.equal(one, trained(model(classes=10), data=data))
    assert torch.equal(trained(model(), data=source), trained(model()))
    other = Tensors(x + 0.1, data.labels, "digits", data.classes)
    with pytest.raises(ValueError, match="a run on other data .data.sha256"):
        again = Training(batch=16)
        fit(model(classes=10), other, again, out=tmp_path, resume=True, cpu=True)
    with pytest.raises(ValueError, match="which has its own"):
        fit(model(classes=10), source, Training(steps=1), data.labels, cpu=True)


def test_a_run_on_other_data_is_refused(tmp_path):
    "The law is fitted to the new data, so it differs as well: data alone are named."
    trained(model(), out=tmp_path)
    other = model()
    other.law = fit_law(other.diffusion, other.basis, x[:1000])
    with pytest.raises(
        ValueError, match=r"a run on other data \(data\.shape: [^;]*;[^;]*\)"
    ):
        fit(other, x[:1000], Training(batch=16), out=tmp_path, resume=True, cpu=True)


def test_a_model_keeps_what_is_known_of_its_training(tmp_path):
    m = model()
    m.about = dict(seed=7)
    last = fit(m, data, Training(steps=3, batch=16), every=2, cpu=True)[-1]
    facts = {k: last[k] for k in ("images", "seconds", "loss")}
    assert m.about == dict(seed=7, data="digits", steps=3) | facts
    saved = from_pretrained(m.save_pretrained(tmp_path / "model"))
    assert saved.about == m.about
    unnamed = model()
    fit(unnamed, x, Training(steps=1, batch=16), cpu=True)
    assert list(unnamed.about) == ["steps", "images", "seconds", "loss"]


def test_labels_are_dropped_in_their_share():
    class Spy(nn.Module):
        config = dict(classes=10)

        def forward(self, x, level, labels=None):
            self.labels = labels
            return torch.zeros_like(x)

    m = model()
    m.network = Spy()
    loss = Loss(m, Training(steps=1, unlabelled=0.25))
    loss(x[:1000], data.labels[:1000], draws(1000))
    kept = m.network.labels < 10
    assert (m.network.labels == data.labels[:1000])[kept].all()
    assert kept.sum() == 750


@pytest.mark.parametrize("parts", [2, 8])
def test_a_batch_in_parts_is_the_batch(parts):
    how = dict(warmup=0, flips=True, optimizer=sgd, lr=0.1)
    assert_close(
        trained(model(), accumulate=parts, **how),
        trained(model(), **how),
        rtol=0,
        atol=1e-6,
    )


def test_flips_and_mixed():
    assert trained(model(), flips=True, mixed=True).isfinite().all()
    assert not torch.equal(trained(model(), flips=True), trained(model()))


def test_a_batch_larger_than_the_data():
    m, plan = model(), Training(steps=2, batch=64)
    assert fit(m, x[:3], plan, cpu=True)[-1]["images"] == 128
    fit(m, x[:1], Training(steps=1, batch=1), cpu=True)


def test_default_dtype_float64(tmp_path):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        m = model(psld(), Sigma0=hsm(psld()), classes=10)
        after = trained(m, data=data, unlabelled=0.5, flips=True)
        assert after.dtype == torch.float64 and after.isfinite().all()
        assert m.sample(2, labels=1).dtype == torch.float64
        m.save_pretrained(tmp_path)
    finally:
        torch.set_default_dtype(before)


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
    "nan": (x * float("nan"), "NaN or infinite numbers in"),
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
    "tensor": (dict(data=[1, 2]), "data x of type list"),
    "array": (dict(data=x.numpy()), "data x of type ndarray"),
    "bytes": (dict(data=denormalise(x)), "torch.uint8, want floating .*data.normalise"),
    "shape": (dict(data=x[:, :, :4]), "the basis wants \\(n ≥ 1, 1, 8, 8\\)"),
    "empty": (dict(data=x[:0]), "the basis wants"),
    "plan": (dict(plan=5), "got a plan of type int, want e.g. Training"),
    "model": (dict(model=3), "a model of type int"),
    "null": (dict(labels=torch.full((len(x),), 10)), "10 to 10, want 0 to 9"),
    "bool": (dict(labels=data.labels > 4), "torch.bool, want integers"),
    "label": (dict(labels=data.labels + 5), "got labels 5 to 14, want 0 to 9"),
    "number": (dict(labels=data.labels[:3]), f"each of {len(x)} images"),
    "folder": (dict(resume=True), "need `out`"),
    "budget": (dict(plan=Training()), "give a budget"),
    "nothing": (dict(resume=True, out="/nowhere"), "nothing to resume"),
    "rate": (dict(plan=Training(steps=9, lr=1e30, warmup=0), every=1), "the loss is"),
}


@pytest.mark.parametrize("given, message", REFUSED.values(), ids=REFUSED)
def test_fit_refuses_in_one_line(given, message):
    given = dict(model=model(classes=10), data=x, plan=Training(steps=1)) | given
    with pytest.raises(ValueError, match=message) as caught:
        fit(cpu=True, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(steps=1, minutes=1.0), "give one budget"),
        (dict(steps=0), "steps=0, want"),
        (dict(steps=1.5), "steps=1.5"),
        (dict(minutes=float("nan")), "minutes=nan"),
        (dict(steps=1, ema=-0.1), "ema=-0.1"),
        (dict(steps=1, ema=()), "ema="),
        (dict(steps=1, clip=0), "clip=0"),
        (dict(steps=1, accumulate=3), "equal size"),
        (dict(steps=1, objective="eps"), "objective=eps"),
        (dict(steps=1, batch=0), "batch=0"),
        (dict(steps=1, lr=0.0), "lr=0"),
        (dict(steps=1, warmup=-1), "warmup=-1"),
        (dict(steps=1, unlabelled=2.0), "a share"),
    ],
)
def test_training_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        Training(**given)


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
