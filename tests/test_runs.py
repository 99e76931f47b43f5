"""The folder of a training run: killed, started twice, torn, resumed, refused.

What needs processes is run by this file itself, `python tests/test_runs.py WHAT …`: it
imports torch once and forks. `pytest --flags slow` kills ten times as often.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from gud_nb.core import save_tensors
from gud_nb.runs import (
    Checkpoint,
    Leg,
    Log,
    RunFolder,
    Signals,
    differences,
    fingerprint,
    load_optimizer,
    pack,
    read_checkpoint,
    unpack,
)

ABOUT = dict(recipe="vp", batch=64)
FILES = ["best.safetensors", "checkpoint.safetensors", "loss.csv", "run.json"]
HIDDEN = [".lock", ".owner.json"]


def ones(value=1.0):
    "Weights and a moment."
    return {"network.w": torch.full((3,), value), "adam.0.m": torch.full((3,), value)}


def start(folder, step=0, **how):
    "A run of ten steps, saved at `step` if that is not 0."
    with RunFolder(folder, ABOUT, **how) as run:
        run.begin(steps=10)
        if step:
            run.log.append(dict(step=step, loss=1.0 / step))
            run.save(step, 0.5 * step, ones(step), score=1.0 / step)
    return run


def resumed(folder, identity=ABOUT, **budget):
    "Resume, begin, and leave."
    with RunFolder(folder, identity, resume=True) as run:
        leg = run.begin(**budget)
    return run, leg


def refused(message, f, *args, **how):
    "Whether a call is refused in one line that contains the message."
    with pytest.raises(ValueError) as error:
        f(*args, **how)
    assert message in str(error.value) and "\n" not in str(error.value), error.value


def names(folder):
    "What is in a folder, hidden files of the lock aside."
    return sorted(f.name for f in folder.iterdir() if f.name not in HIDDEN)


# Processes


def drive(what, *args):
    "Run one of the functions below in a process of its own; what it prints as JSON."
    command = [sys.executable, __file__, what, *map(str, args)]
    how = dict(capture_output=True, text=True, encoding="utf-8", timeout=300)
    done = subprocess.run(command, **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def forked(f, *args):
    "The process id of a fork that runs a function and exits with 0, or 3 if refused."
    child = os.fork()
    if child:
        return child
    try:
        f(*args)
    except ValueError as e:
        print(e, file=sys.stderr, flush=True)
        os._exit(3)
    except BaseException as e:
        print(repr(e), file=sys.stderr, flush=True)
        os._exit(4)
    os._exit(0)


def ended(child):
    "How a process ended: its exit status, or minus the signal."
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(folder, steps=60):
    "Random steps, a row each, a checkpoint every third; resumed if there is one."
    there = (folder / "checkpoint.safetensors").exists()
    with RunFolder(folder, ABOUT, resume=there, overwrite=not there) as run:
        run.begin(steps=steps)
        w = run.load().tensors["w"] if there else torch.zeros(50_000)
        for step in range(run.last.step, steps):
            g = torch.Generator().manual_seed(step)
            w = 0.9 * w + torch.randn(len(w), generator=g)
            loss = w.square().mean().item()
            run.log.append(dict(step=step + 1, loss=loss))
            if (step + 1) % 3 == 0:
                run.save(step + 1, float(step), dict(w=w), score=loss / (step + 1))


def healthy(folder):
    "Read all files of a killed run; the step of its checkpoint, 0 if there is none."
    for name in ("run.json", ".owner.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text(encoding="utf-8"))
    Log(folder / "loss.csv").rows()
    if (folder / "best.safetensors").exists():
        read_checkpoint(folder / "best.safetensors")
    if not (folder / "checkpoint.safetensors").exists():
        return 0
    return read_checkpoint(folder / "checkpoint.safetensors").step


def kill(folder, times, seed):
    "Train once undisturbed, and once with kills at random moments."
    torch.set_num_threads(1)
    folder, moments = Path(folder), random.Random(int(seed))
    began = time.monotonic()
    train(folder / "calm")
    whole, kills, steps = time.monotonic() - began, 0, [0]
    while kills < int(times):
        if steps[-1] == 60:  # finished too early: once more from the beginning
            for name in FILES:
                (folder / "rough" / name).unlink()
        child = forked(train, folder / "rough")
        time.sleep(moments.uniform(0, whole / 3))
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        assert status in (0, -signal.SIGKILL), status
        kills += status != 0
        steps.append(healthy(folder / "rough"))
    assert ended(forked(train, folder / "rough")) == 0
    print(json.dumps(dict(kills=kills, steps=steps)))


def test_killed_and_resumed(tmp_path, request):
    "A run killed at random moments ends like one that was never disturbed."
    slow = "slow" in request.config.getoption("--flags")
    seed = random.randrange(10**6)
    found = drive("kill", tmp_path, 60 if slow else 6, seed)
    print("seed", seed, found)
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for name in FILES[:2]:
        a, b = read_checkpoint(calm / name), read_checkpoint(rough / name)
        assert (a.step, a.score, a.best, a.legs) == (b.step, b.score, b.best, b.legs)
        assert torch.equal(a.tensors["w"], b.tensors["w"])
    assert (calm / "loss.csv").read_bytes() == (rough / "loss.csv").read_bytes()
    assert [r["step"] for r in Log(rough / "loss.csv").rows()] == list(range(1, 61))
    assert names(rough) == FILES  # no temporary file is left


def own(folder, ready, orphan):
    "Take a folder for good; beforehand, if `orphan`, leave a child that outlives it."
    with RunFolder(folder, ABOUT) as run:
        run.begin(steps=10)
        if orphan:
            child = forked(time.sleep, 30)
            Path(f"{ready}.orphan").write_text(str(child), encoding="utf-8")
        ready.touch()
        time.sleep(30)


def owners(folder):
    "Two processes want one folder; the first is killed, its child lives on."
    folder, found = Path(folder), {}
    for orphan in (False, True):
        run, ready = folder / f"run{orphan}", folder / f"ready{orphan}"
        first = forked(own, run, ready, orphan)
        while not ready.exists():
            time.sleep(0.01)
        second = ended(forked(start, run))
        by = json.loads((run / ".owner.json").read_text(encoding="utf-8"))["pid"]
        os.kill(first, signal.SIGKILL)
        killed = ended(first)
        third = ended(forked(lambda: start(run, overwrite=True)))
        found[str(orphan)] = [second, by == first, killed, third]
    os.kill(int((folder / "readyTrue.orphan").read_text(encoding="utf-8")), 9)
    print(json.dumps(found))


def test_one_owner(tmp_path):
    "The second process is refused; a killed owner leaves no lock, nor do its children."
    want = [3, True, -signal.SIGKILL, 0]
    assert drive("owners", tmp_path) == {"False": want, "True": want}


def test_one_owner_in_one_process(tmp_path):
    with RunFolder(tmp_path, ABOUT):
        refused(f"process {os.getpid()} on", start, tmp_path)
        refused("in use by another run", start, tmp_path, overwrite=True)
    start(tmp_path)
    refused("holds a run", start, tmp_path)  # and a refused run gives the lock back
    refused("holds a run", start, tmp_path)


# Signals

CASES = {
    "SIGTERM": 143,
    "SIGHUP": 129,
    "SIGINT": -signal.SIGINT,  # which a shell shows as 130
}


def signals(folder):
    "Forks that leave by each signal, through the whole end of the interpreter."
    folder, found = Path(folder), {}
    for name in CASES:
        child = os.fork()
        if not child:
            break
        found[name] = ended(child)
    else:
        print(json.dumps(found))
        return
    os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), 2)
    if name == "SIGHUP":  # the terminal is gone: nobody reads
        ends = os.pipe()
        os.dup2(ends[1], 2)
        os.close(ends[0])
    with Signals() as caught:
        os.kill(os.getpid(), getattr(signal, name))
        if caught.caught:
            caught.leave(f"{folder} is saved, resume it")
    sys.exit(7)


def test_exit_codes(tmp_path):
    assert drive("signals", tmp_path) == CASES
    for name in ("SIGTERM", "SIGINT"):
        said = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        assert said[0] == f"stopped by {name}: {tmp_path} is saved, resume it"
        assert name == "SIGINT" or len(said) == 1


def test_a_second_interrupt_stops_at_once():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught is signal.SIGTERM


def test_an_ignored_signal_stays_ignored():
    "As under nohup."
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.caught is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_counts_and_handlers_are_restored():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with Signals() as signals:
        assert signals.caught is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught is signal.SIGTERM
        with pytest.raises(SystemExit) as end:
            signals.leave("saved")
    assert end.value.code == 143
    assert before == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


def test_signals_in_another_thread():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with Signals() as signals:
            seen.extend([signal.getsignal(signal.SIGTERM), signals.caught])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before, None]


# What is refused


def test_a_used_folder(tmp_path):
    start(tmp_path, 4)
    files = {f: (tmp_path / f).read_bytes() for f in names(tmp_path)}
    refused("(recipe vp, step 4): resume it, overwrite it, or", start, tmp_path)
    refused("recipe vp, step 4", start, tmp_path)
    assert files == {f: (tmp_path / f).read_bytes() for f in names(tmp_path)}
    (tmp_path / FILES[1]).write_bytes(b"damaged")
    refused("its checkpoint can't be read", start, tmp_path)
    refused(str(tmp_path / FILES[1]), resumed, tmp_path)
    (tmp_path / FILES[1]).unlink()
    refused("(recipe vp, no checkpoint)", start, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_file_of_a_run(tmp_path, name):
    (tmp_path / name).write_text("{", encoding="utf-8")
    refused("holds a run already (recipe ?", start, tmp_path)
    start(tmp_path, overwrite=True)


def test_overwrite_removes_its_own_files_only(tmp_path):
    start(tmp_path, 4)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model").mkdir()
    run = start(tmp_path, overwrite=True)
    assert run.last.step == 0 and run.last.best is None
    assert names(tmp_path) == ["model", "notes.txt", "run.json"]
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert len(record["starts"]) == 1
    start(tmp_path / "new", overwrite=True)  # nothing to remove


def test_nothing_to_resume(tmp_path):
    refused("nothing to resume", resumed, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    start(tmp_path / "early")
    refused("nothing to resume", resumed, tmp_path / "early")


def test_arguments():
    refused("not both", RunFolder, "x", ABOUT, resume=True, overwrite=True)
    refused("keep=-1", RunFolder, "x", ABOUT, keep=-1)
    refused("keep=nan", RunFolder, "x", ABOUT, keep=float("nan"))
    refused("plain JSON", RunFolder, "x", dict(a=torch.zeros(1)))
    refused("plain JSON", RunFolder, "x", dict(a=float("nan")))


@pytest.mark.parametrize("resume", [False, True])
def test_folders_that_can_not_be(tmp_path, resume):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "in", tmp_path / ("x" * 300)):
        refused(str(path)[:100], start, path, resume=resume)
    if sys.platform == "linux":
        refused("/proc/nothing", start, "/proc/nothing", resume=resume)


def test_save_before_begin(tmp_path):
    with RunFolder(tmp_path, ABOUT) as run:
        refused("call `begin`", run.save, 1, 1.0, ones())


def test_another_identity(tmp_path):
    start(tmp_path, 4)
    (tmp_path / "loss.csv").write_text("step,loss\n4,1\n5,1\n", encoding="utf-8")
    other = dict(recipe="psld", batch=64.0, seed=0)
    refused('recipe: was "vp", now "psld"; seed: was absent', resumed, tmp_path, other)
    many = {str(i): i for i in range(9)}
    refused("; and 7 more)", resumed, tmp_path, many)
    assert len(Log(tmp_path / "loss.csv").rows()) == 2  # untouched
    resumed(tmp_path, dict(batch=64, recipe="vp"))  # in any order


def test_differences():
    was = dict(a=[1, dict(b=2)], c=None, d="x" * 99, e={}, f=(1, 2), n=1e-5)
    assert differences(was, was) == []
    now = was | dict(a=[1, dict(b=3), 4], c=0, d="y" * 99, e=[], n=1e-4)
    now.pop("f")
    found = differences(was, now)
    assert found[0] == "a.1.b: was 2, now 3" and "a.2: was absent, now 4" in found
    assert "c: was null, now 0" in found and "e: was {}, now []" in found
    assert "n: was 1e-05, now 0.0001" in found
    assert any(line.startswith("f") and line.endswith("now absent") for line in found)
    assert max(len(line) for line in found) < 120


# Legs


def test_rate_of_a_leg():
    leg = Leg(steps=100, lr=1.0)
    assert_close(leg.rate(50, 0.0, warmup=0), 0.5)
    assert_close(leg.rate(9, 0.0, warmup=40), 0.25 * leg.rate(9, 0.0, warmup=0))
    assert leg.rate(100, 0.0, warmup=0) == leg.rate(10**6, 0.0, warmup=0) == 0
    late = Leg(steps=300, lr=1.0, begin_step=200, begin_seconds=1e9)
    for i in (0, 3, 50, 99):
        assert late.rate(200 + i, 0.0, 20) == leg.rate(i, 0.0, 20)
    timed = Leg(minutes=3, lr=1.0, begin_step=200, begin_seconds=60.0)
    assert_close(timed.rate(10**6, 120.0), 0.5)
    assert timed.used(0, 60.0) == 0 and timed.used(0, 180.0) == 1


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(), "give a budget"),
        (dict(steps=1, minutes=1), "give a budget"),
        (dict(steps=0), "> 0"),
        (dict(minutes=-1), "> 0"),
        (dict(minutes=float("inf")), "finite"),
        (dict(steps=1, lr=0), "lr=0"),
        (dict(steps=1, lr=float("nan")), "lr=nan"),
        (dict(steps=5, begin_step=5), "steps=5 is reached, the run has 5"),
        (dict(minutes=1, begin_seconds=90.0), "minutes=1 is reached, the run has 1.5"),
    ],
)
def test_legs_that_can_not_be(how, message):
    refused(message, Leg, **how)


def test_the_same_leg_goes_on(tmp_path):
    start(tmp_path, 4)
    for budget in ({}, dict(steps=10), dict(lr=1e-3), dict(steps=10, lr=1e-3)):
        run, leg = resumed(tmp_path, **budget)
        assert leg == Leg(10) and run.last.legs == (Leg(10),)
    start(tmp_path, 10, overwrite=True)
    run, leg = resumed(tmp_path)
    assert leg.used(run.last.step, run.last.seconds) == 1  # finished: no step is left
    assert run.log.rows() == [dict(step=10, loss=0.1)]


@pytest.mark.parametrize(
    "budget, want",
    [
        (dict(steps=20), Leg(20, None, 1e-3, 4, 2.0)),
        (dict(steps=5), Leg(5, None, 1e-3, 4, 2.0)),
        (dict(minutes=1), Leg(None, 1, 1e-3, 4, 2.0)),
        (dict(lr=2e-3), Leg(10, None, 2e-3, 4, 2.0)),
        (dict(steps=20, lr=2e-3), Leg(20, None, 2e-3, 4, 2.0)),
    ],
)
def test_a_new_leg(tmp_path, budget, want):
    "It is in the checkpoint before the first step, so that a kill does not forget it."
    start(tmp_path, 4)
    assert resumed(tmp_path, **budget)[1] == want
    run, leg = resumed(tmp_path)
    assert leg == want and run.last.legs == (Leg(10), want)
    assert torch.equal(run.load().tensors["network.w"], ones(4)["network.w"])
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [Leg(**leg) for leg in record["legs"]] == [Leg(10), want]
    assert [s["step"] for s in record["starts"]] == [0, 4, 4]
    assert record["identity"] == ABOUT
    told = {"date", "host", "pid", "command", "gud_nb", "torch", "step"}
    assert set(record["starts"][0]) == told


def test_a_budget_that_is_reached(tmp_path):
    start(tmp_path, 10)
    refused("steps=8 is reached, the run has 10", resumed, tmp_path, steps=8)
    refused("steps=10 is reached", resumed, tmp_path, lr=1.0)
    refused("minutes=0.05 is reached", resumed, tmp_path, minutes=0.05)
    assert resumed(tmp_path)[1] == Leg(10)


def test_a_lost_record_is_written_anew(tmp_path):
    start(tmp_path, 4)
    for text in ("{", "[]", '{"starts": 3}', "\0"):
        (tmp_path / "run.json").write_text(text, encoding="utf-8")
        resumed(tmp_path)
        record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
        assert len(record["starts"]) == 1 and record["identity"] == ABOUT


# Checkpoints


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["network.w", "adam.0.m", "the loss"])
def test_a_diverged_run_saves_nothing(tmp_path, where, value):
    start(tmp_path, 4)
    files = {f: (tmp_path / f).read_bytes() for f in FILES[:2]}
    bad, score = ones(), 0.0
    if where == "the loss":
        score = value
    else:
        bad[where][1] = value
    with RunFolder(tmp_path, ABOUT, resume=True) as run:
        run.begin()
        message = f"{where} is not finite at step 5: the checkpoint of step 4 stays"
        refused(message, run.save, 5, 1.0, bad, score=score)
        assert run.last.step == 4
    assert files == {f: (tmp_path / f).read_bytes() for f in FILES[:2]}
    with RunFolder(tmp_path / "new", ABOUT) as run:
        run.begin(steps=10)
        refused("no checkpoint before", run.save, 5, 1.0, bad, score=score)
    assert names(tmp_path / "new") == ["run.json"]


def test_a_checkpoint_that_can_not_be_written(tmp_path, monkeypatch):
    "The old one stays, and the run may go on."
    start(tmp_path, 4)

    def full(*args, **how):
        raise OSError(28, "No space left on device")

    with RunFolder(tmp_path, ABOUT, resume=True) as run:
        run.begin()
        with monkeypatch.context() as m:
            m.setattr(Path, "write_bytes", full)
            refused("the disk is full", run.save, 5, 1.0, ones())
        assert run.last.step == run.load().step == 4
        run.save(6, 1.0, ones())
    assert names(tmp_path) == FILES


def no_links(*args, **how):
    "A file system on which a file has one name."
    raise OSError(95, "Operation not supported")


def test_the_best_checkpoint(tmp_path, monkeypatch):
    with RunFolder(tmp_path, ABOUT) as run:
        run.begin(steps=100)
        found = []
        for step, score in enumerate([None, 3.0, 2.0, 2.0, None, 5.0, 1.0], 1):
            run.save(step, 1.0, ones(step), score=score)
            there = (tmp_path / "best.safetensors").exists()
            found.append(run.load(best=True).step if there else None)
        assert found == [None, 2, 3, 3, 3, 3, 7]
        assert os.path.samefile(tmp_path / FILES[0], tmp_path / FILES[1])
        run.save(8, 1.0, ones(8), score=4.0)
        assert run.load(best=True).tensors["network.w"][0] == 7
        monkeypatch.setattr(os, "link", no_links)
        run.save(9, 1.0, ones(9), score=0.5)
        assert run.load(best=True).step == 9
        assert not os.path.samefile(tmp_path / FILES[0], tmp_path / FILES[1])
    with RunFolder(tmp_path, ABOUT, resume=True) as run:
        run.begin()
        run.save(10, 1.0, ones(10), score=0.7)  # the best is remembered
        assert run.load(best=True).step == 9
    assert set(names(tmp_path)) < set(FILES)


def test_a_kill_between_checkpoint_and_best(tmp_path):
    start(tmp_path, 4)
    path = tmp_path / "best.safetensors"
    path.unlink()
    resumed(tmp_path)
    assert read_checkpoint(path).step == 4
    os.link(tmp_path / "checkpoint.safetensors", tmp_path / f".{path.name}.tmp")
    resumed(tmp_path)  # again, where both names are one file
    assert read_checkpoint(path).step == 4
    assert names(tmp_path) == FILES


def test_back_to_the_best(tmp_path):
    with RunFolder(tmp_path, ABOUT) as run:
        run.begin(steps=10)
        for step, score in ((3, 0.1), (6, 0.9)):
            run.log.append(dict(step=step, loss=score))
            run.save(step, 1.0, ones(step), score=score)
    (tmp_path / FILES[1]).write_bytes((tmp_path / FILES[0]).read_bytes())
    run, leg = resumed(tmp_path, lr=1e-4)
    assert run.last.step == 3 and leg == Leg(10, None, 1e-4, 3, 1.0)
    assert run.log.rows() == [dict(step=3, loss=0.1)]


def test_other_files_are_no_checkpoint(tmp_path):
    for about in ({}, dict(legs=3), dict(legs=[dict(steps=0)]), dict(legs=[], x=1)):
        path = save_tensors(tmp_path / "model.safetensors", ones(), about)
        refused(str(path), read_checkpoint, path)
    refused("none", read_checkpoint, tmp_path / "none")


def test_every_flipped_byte_is_refused(tmp_path):
    c = Checkpoint(step=1, seconds=0.1, identity=ABOUT, legs=(Leg(10),), tensors=ones())
    path = c.write(tmp_path / "c.safetensors")
    raw = path.read_bytes()
    for i in range(0, len(raw), 23):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        refused(str(path), read_checkpoint, path)
    path.write_bytes(raw)
    assert read_checkpoint(path).seconds == 0.1


def test_when_a_checkpoint_is_due(tmp_path):
    for keep, first in ((60.0, 10.0), (3.0, 3.0), (0.0, 0.0)):
        with RunFolder(tmp_path / str(keep), ABOUT, keep=keep) as run:
            assert not run.due()
            now = time.monotonic()
            run.begin(steps=10)
            assert first <= run.next_save - now < first + 5
            assert run.due(run.next_save) and not run.due(run.next_save - 1e-3)
            now = time.monotonic()
            run.save(1, 1.0, ones())
            assert keep <= run.next_save - now < keep + 5


# Tensors


def test_pack():
    values = {"a": torch.ones(2), "b.c": 3, "d": {0: {"e": 0.5, "f": None}}, "g": {}}
    packed = pack("x", values)
    assert list(packed) == ["x.a", "x.b.c", "x.d.0.e"]
    assert list(unpack("x", packed | {"xy.a": torch.ones(1)})) == ["a", "b.c", "d.0.e"]
    refused("got list at x.a", pack, "x", dict(a=[torch.ones(1)]))


OPTIMIZERS = {
    "Adam": dict(amsgrad=True),
    "AdamW": dict(foreach=True),
    "SGD": dict(momentum=0.9, nesterov=True),
    "plain": {},
    "RMSprop": dict(momentum=0.5, centered=True),
    "Adagrad": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "ASGD": {},
    "Rprop": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(tmp_path, name):
    "Saved and restored after two steps, the next two are the same."
    kind = getattr(torch.optim, "SGD" if name == "plain" else name)

    def made():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        return net, kind(net.parameters(), lr=0.01, **OPTIMIZERS[name])

    def step(net, optimizer, i):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    net, optimizer = made()
    for i in range(2):
        step(net, optimizer, i)
    tensors = pack("network", net.state_dict())
    tensors |= pack("moments", optimizer.state_dict()["state"])
    c = Checkpoint(step=2, seconds=0.0, identity={}, legs=(Leg(4),), tensors=tensors)
    c = read_checkpoint(c.write(tmp_path / "c.safetensors"))
    twin, other = made()
    twin.load_state_dict(unpack("network", c.tensors))
    load_optimizer(other, unpack("moments", c.tensors))
    for i in range(2, 4):
        step(net, optimizer, i)
        step(twin, other, i)
    for a, b in zip(net.parameters(), twin.parameters()):
        assert torch.equal(a, b)


def test_what_an_optimizer_is_given_stays_as_it_is():
    "torch would go on with the same tensors, in place."
    w = torch.nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    given = {"0.momentum_buffer": torch.ones(2)}
    load_optimizer(sgd, given)
    w.grad = torch.ones(2)
    sgd.step()
    assert torch.equal(given["0.momentum_buffer"], torch.ones(2))
    assert_close(w.detach(), torch.full((2,), 1 - 0.1 * 1.9))


# The log


def test_a_log_cut_anywhere(tmp_path):
    "Whatever a kill has left of it, the rows are a beginning of what they were."
    rows = [dict(step=10 * i, images=640 * i, loss=1 / i, rate=1e-5) for i in (1, 2, 3)]
    log = Log(tmp_path / "loss.csv")
    for row in rows:
        log.append(row)
    assert log.rows() == rows
    whole = log.path.read_bytes()
    assert whole.startswith(b"step,images,loss,rate\n10,640,")
    for cut in range(len(whole) + 1):
        log.path.write_bytes(whole[:cut])
        kept = log.rows()
        assert kept == rows[: max(0, whole[:cut].count(b"\n") - 1)]
        log.trim(20)
        assert log.rows() == kept[:2]
        log.append(rows[2])
        assert log.rows() == [*kept[:2], rows[2]]
        assert log.path.read_bytes().startswith(b"step,images,loss,rate\n")


def test_a_log_with_garbage_in_it(tmp_path):
    log = Log(tmp_path / "loss.csv")
    text = b"step,loss\n10,1\n\0\0\0\n20,2\nx,3\n\xff\xff,1\n-1,2\n1,2,3\n\n30,3\n"
    log.path.write_bytes(text)
    log.trim(25)
    assert log.path.read_bytes() == b"step,loss\n10,1\n20,2\n"


def test_a_log_without_its_header(tmp_path):
    start(tmp_path, 4)
    (tmp_path / "loss.csv").write_text("10,1\n20,2\n", encoding="utf-8")
    refused(str(tmp_path / "loss.csv"), resumed, tmp_path)
    (tmp_path / "loss.csv").unlink()
    run, _ = resumed(tmp_path)
    assert run.log.rows() == []
    run.log.append(dict(step=5, loss=1.0))
    assert run.log.path.read_text(encoding="utf-8") == "step,loss\n5,1.0\n"


def test_rows_of_another_kind(tmp_path):
    log = Log(tmp_path / "loss.csv")
    refused("want a step", log.append, dict(loss=1))
    log.append(dict(step=1, loss=float("nan")))
    refused("columns step, rate, want step, loss", log.append, dict(step=2, rate=1.0))
    assert [r["step"] for r in log.rows()] == [1]
    refused("can't be used", Log(tmp_path).append, dict(step=1))


def test_rows_are_in_the_file_at_once(tmp_path):
    start(tmp_path, 3)
    assert (tmp_path / "loss.csv").read_text(encoding="utf-8").count("\n") == 2


# Fingerprints


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.bool],
)
def test_fingerprints(dtype):
    x = torch.arange(60).reshape(5, 3, 4).to(dtype)
    found = fingerprint(x)
    assert found["shape"] == [5, 3, 4] and found["dtype"] == str(dtype)[6:]
    assert found == fingerprint(x.mT.contiguous().mT)  # in another layout
    assert found == json.loads(json.dumps(found))
    changed = x.clone()
    changed[0, 0, 0] = 1
    changed[-1, -1, -1] = 0
    assert found != fingerprint(changed) and found != fingerprint(x.reshape(3, 5, 4))
    assert fingerprint(x[:0])["shape"] == [0, 3, 4]


def test_a_fingerprint_is_taken_evenly():
    x = torch.zeros(1000, dtype=torch.uint8)
    found = fingerprint(x, most=100)
    differ = []
    for i in range(1000):
        x[i] = 1
        if fingerprint(x, most=100) != found:
            differ.append(i)
        x[i] = 0
    assert differ == list(range(0, 1000, 10))


def test_fingerprints_of_other_data():
    from datasets import Dataset

    rows = Dataset.from_dict(dict(x=[1, 2, 3]))
    assert fingerprint(rows) == fingerprint(Dataset.from_dict(dict(x=[1, 2, 3])))
    assert fingerprint(rows) != fingerprint(Dataset.from_dict(dict(x=[1, 2, 4])))
    refused("got data of type list", fingerprint, [1, 2])


if __name__ == "__main__":
    {"kill": kill, "owners": owners, "signals": signals}[sys.argv[1]](*sys.argv[2:])
