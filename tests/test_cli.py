"""The commands as a user types them: refusals, any terminal, home folders, seeds."""

import json
import math
import os
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from gud_nb.cli import (
    _settings,
    _values,
    bases,
    bits_bound,
    build_gud,
    build_model,
    gud_demo,
    gud_evaluate,
    gud_sample,
    gud_train,
    priors,
    samplers,
    seeded,
)
from gud_nb.data import digits
from gud_nb.likelihood import dequantise, nats_to_bits
from gud_nb.schedule import Family, sequential
from gud_nb.train import from_pretrained

FEW = dict(steps=5, width=8, device="cpu")
GUD = dict(process="gud")


@pytest.fixture(scope="module")
def spread():
    "The digits with pixels spread over their levels."
    return dequantise(digits().x, torch.Generator().manual_seed(0), levels=17)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Folders of short runs of `gud_train`."
    root = tmp_path_factory.mktemp("runs")
    gud_train(**GUD, labels=True, batch=32, out=f"{root}/haar", **FEW)
    how = dict(recipe="psld", basis="dct", prior="matching", softness="1")
    gud_train(**GUD, **how, out=f"{root}/phase", **FEW)
    how = dict(order="columns", rank=12, times="uniform")
    gud_train(**GUD, **how, out=f"{root}/columns", **FEW)
    gud_train(process="vp", labels=True, out=f"{root}/raw", **FEW)
    gud_train(process="vp", dequantise=True, out=f"{root}/spread", **FEW)
    return root


def refused(capsys, command, says, **wrong):
    "The command ends with code 2 and one line that says why."
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(**({"device": "cpu"} | wrong))
    assert ended.value.code == 2
    err = capsys.readouterr().err
    lines = [
        line
        for line in err.splitlines()
        if line.startswith(command.__name__) and ": warning: " not in line
    ]
    assert len(lines) == 1, err
    assert says in lines[0]
    assert "Traceback" not in err


@pytest.fixture
def run(tmp_path):
    "Runs a command as the shell does: exit code, output and errors as bytes."

    def inner(command, *typed, **environment):
        script = tmp_path / command
        text = f"from gud_nb.cli import {command}\n{command}()\n"
        script.write_text(text, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, script, *typed],
            capture_output=True,
            env=os.environ | environment,
            cwd=tmp_path,
            timeout=120,
        )
        return ran.returncode, ran.stdout, ran.stderr

    return inner


# Building


@pytest.mark.parametrize("prior", priors)
@pytest.mark.parametrize("basis", bases)
def test_components_go_from_one_snr_to_another(spread, basis, prior):
    model = build_gud(spread, basis=basis, prior=prior, width=8)
    variances = model.basis(spread).double().var(0, correction=0).clamp(min=1e-6)
    lively = variances > 1e-4 * variances.max()  # those that are not at the floor
    for softness in (0.4, 1.0, 1.6):
        schedule = model.at(a=softness).diffusion.schedule
        for t, want in ((0.0, -9.0), (1.0, 3.0)):
            got = (schedule.gamma(t) - variances.log())[lively]
            assert_close(got, torch.full_like(got, want), atol=0.05, rtol=0)
    one_line = model.at(a=1.0).diffusion.schedule.gamma_min.std() < 1e-9
    assert bool(one_line) == (prior == "white")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (dict(basis="dct", order="columns"), "no place"),
        (dict(softness=(0.0, 1.0), order="columns"), r"b must be in \[0, 1\)"),
        (dict(basis="haarr"), "pixel, pca, dct, fourier, haar"),
        (dict(width=0), "want at least 1"),
        (dict(rank=64), "fewer than components"),
    ],
)
def test_build_refuses(spread, how, says):
    with pytest.raises(ValueError, match=says):
        build_gud(spread, **how)


def test_haar_wants_even_sides(spread):
    with pytest.raises(ValueError, match="want even sides"):
        build_gud(spread[..., 1:])


def test_options_of_builders_are_keywords(spread):
    with pytest.raises(TypeError):
        build_model("vp", spread, 8)
    with pytest.raises(TypeError):
        build_gud(spread, (0.4, 1.6), "haar")


@pytest.mark.parametrize("process", ["vp", "psld"])
def test_bits_of_an_untrained_model_are_those_of_its_law(spread, process):
    "Laws with correlations under one schedule: estimates stay near their mean."
    test = digits(train=False).x[:64]
    model = build_model(process, spread, width=8).eval()
    y = dequantise(test, seeded(5), levels=17).double().flatten(1)
    law = model.law
    normal = torch.distributions.MultivariateNormal
    nats = normal(law.mean.flatten(), law.covariance_matrix()).log_prob(y)
    got = bits_bound(model, test, levels=17, seed=5)
    assert got["error"] < 0.15
    assert abs(got["value"] - nats_to_bits(nats.mean().item(), 64, 17)) < 0.4


# What is saved


def test_models_record_what_they_are(runs):
    models = {p.name: from_pretrained(p / "model") for p in runs.iterdir()}
    ranges = {k: m.family and m.family.ranges for k, m in models.items()}
    assert ranges == dict(
        haar=dict(a=(0.4, 1.6)),
        phase=dict(a=(1.0, 1.0)),
        columns=dict(b=(0.0, 0.9)),
        raw=None,
        spread=None,
    )
    levels = {k: m.about.get("levels") for k, m in models.items()}
    assert levels == dict(haar=17, phase=17, columns=17, raw=None, spread=17)
    labels = {k: m.about.get("labels", False) for k, m in models.items()}
    assert [k for k, v in labels.items() if v] == [
        k for k in models if k in ("haar", "raw")
    ]
    wanted = dict(basis="haar", prior="white", order="variance", recipe="vp")
    assert wanted.items() <= models["haar"].about.items()
    assert tuple(models["columns"].law.loadings.shape) == (64, 12)
    assert models["columns"].network.config["groups"] == 8
    assert models["phase"].diffusion.by_snr
    assert models["phase"].diffusion.k == 2


def test_files_of_a_run(runs):
    files = sorted(p.name for p in (runs / "raw").iterdir())
    pictures = ["loss.png", "samples.png"]
    rest = ["checkpoint.safetensors", "loss.csv", "model", "run.json"]
    assert files == sorted(pictures + rest)


def test_settings_of_older_runs_count_as_they_were(tmp_path):
    "A flag that was not there was not given."
    _settings(tmp_path, dict(seed=0, flips=False), False)
    _settings(tmp_path, dict(seed=0, dequantise=False), True)
    with pytest.raises(ValueError, match="dequantise was None, now True"):
        _settings(tmp_path, dict(seed=0, dequantise=True), True)


# Refusals

TRAIN = {
    "choose one of vp, cld, psld, gud": dict(process="vpp"),
    "digits, fashion_mnist, cifar10": dict(data="digitz"),
    "nothing to resume": dict(resume=True),
    "got steps=0": dict(steps=0),
    "choose auto, cpu or cuda": dict(device="tpu"),
    "nowhere": dict(data="fashion_mnist", path="nowhere"),
    "add --process gud": dict(softness="1"),
    "--recipe, --basis": dict(recipe="vp", basis="dct"),
    "want a number, or a range": GUD | dict(softness="a lot"),
    "got --softness '1:0'": GUD | dict(softness="1:0"),
    "a must be a number ≥ 0": GUD | dict(softness="-1:1"),
    "b must be in [0, 1)": GUD | dict(order="columns", softness="0:1"),
    "variance, columns": GUD | dict(order="rows"),
    "pixel, pca, dct, fourier, haar": GUD | dict(basis="haarr"),
    "white, matching": GUD | dict(prior="black"),
    "have a column": GUD | dict(basis="pca", order="columns"),
    "fewer than components": GUD | dict(rank=64),
    "got --rank 0": dict(rank=0),
    "got --rank -3": GUD | dict(rank=-3),
    "got --width 0": dict(width=0),
    "batch=0": dict(batch=0),
    "lr=nan": dict(lr=math.nan),
    "from -2147483647 to 2147483647": dict(seed=2**31),
    "snr, uniform": GUD | dict(times="even"),
    "unknown recipe 'gud'": GUD | dict(recipe="gud"),
}


@pytest.mark.parametrize("says", TRAIN)
def test_train_refuses(capsys, tmp_path, says):
    out = tmp_path / "none"
    how = FEW | dict(out=str(out)) | TRAIN[says]
    refused(capsys, gud_train, says, **how)
    assert not out.exists()  # a mistake leaves nothing behind


@pytest.mark.parametrize(
    ("says", "wrong"),
    [
        ("softness was '0.4:1.6', now '0.4:1.5'", dict(softness="0.4:1.5")),
        ("basis was 'haar', now 'dct'", dict(basis="dct")),
        ("labels was True, now None", dict(labels=False)),
        ("width was 8, now 16", dict(width=16)),
    ],
)
def test_a_resumed_run_has_the_same_settings(capsys, runs, says, wrong):
    how = GUD | FEW | dict(labels=True, batch=32, out=f"{runs}/haar", resume=True)
    refused(capsys, gud_train, says, **how | wrong)


SAMPLE = {
    "trained for one schedule": ("raw", dict(softness="1")),
    "want a number": ("haar", dict(softness="soft")),
    "in the basis haar, not in pca": ("haar", dict(basis="pca")),
    "choose one of pixel": ("haar", dict(basis="Haar")),
    "in the basis pixel, not in haar": ("raw", dict(basis="haar")),
    "this family has a": ("haar", dict(softness="b=1")),
    "a must be a number ≥ 0": ("haar", dict(softness="-1")),
    "b must be in [0, 1)": ("columns", dict(softness="1")),
    "trained without labels": ("columns", dict(label=3)),
    "got --label 10, want 0 to 9": ("haar", dict(label=10)),
    "got --label -1, want 0 to 9": ("haar", dict(label=-1)),
    "no --label": ("haar", dict(guidance=2.0)),
    ".png or .safetensors": ("haar", dict(out="a.txt")),
    "heun, sscs, em, euler": ("haar", dict(sampler="rk4")),
    "quadratic, uniform": ("haar", dict(grid="cubic")),
    "--n 0": ("haar", dict(n=0)),
    "--steps 0": ("haar", dict(steps=0)),
    "got --seed": ("haar", dict(seed=-(2**31))),
}


@pytest.mark.parametrize("says", SAMPLE)
def test_sample_refuses(capsys, runs, tmp_path, says):
    name, wrong = SAMPLE[says]
    out = f"{tmp_path}/no.png"
    refused(
        capsys, gud_sample, says, **dict(model=f"{runs}/{name}/model", out=out) | wrong
    )
    assert not list(tmp_path.iterdir())


def test_models_that_are_none(capsys, tmp_path):
    refused(capsys, gud_sample, "holds no model", model=str(tmp_path))
    refused(capsys, gud_sample, "no model", model="psdl-fashion-mnist")


EVALUATE = {
    "in the basis haar, not in dct": ("haar", dict(basis="dct")),
    "--images 1": ("haar", dict(bits=True, images=1)),
    "--n 1": ("haar", dict(n=1)),
    "fashion_mnist": ("haar", dict(data="mnist")),
    "train with gud_train --dequantise": ("raw", dict(bits=True)),
}


@pytest.mark.parametrize("says", EVALUATE)
def test_evaluate_refuses(capsys, runs, tmp_path, says):
    name, wrong = EVALUATE[says]
    how = dict(model=f"{runs}/{name}/model", data="digits", out=f"{tmp_path}/e.json")
    refused(capsys, gud_evaluate, says, **how | wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vp-fashion-mnist", "psld-fashion-mnist"])
def test_shipped_models_of_raw_pixels_have_no_bits(capsys, name):
    refused(capsys, gud_evaluate, "raw pixels", model=name, bits=True)


def test_levels_must_be_those_of_the_data(capsys, runs):
    how = dict(model=f"{runs}/haar/model", data="fashion_mnist", bits=True)
    refused(capsys, gud_evaluate, "17 levels, those of fashion_mnist have 256", **how)


def test_demo_refuses(capsys):
    refused(capsys, gud_demo, "must be > 0", seconds=0.0)
    refused(capsys, gud_demo, "got --seed", seed=2**40)


def test_a_file_in_the_way_takes_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(capsys, gud_train, "File exists", **FEW | dict(out=f"{tmp_path}/file"))


# Sampling


def drawn(model, tmp_path, **how):
    "What `gud_sample` writes."
    file = f"{tmp_path}/x.safetensors"
    gud_sample(f"{model}/model", **dict(n=4, steps=4, device="cpu", out=file) | how)
    return load_file(file)["x"]


@pytest.mark.parametrize("sampler", samplers)
def test_every_sampler(runs, tmp_path, sampler):
    x = drawn(runs / "haar", tmp_path, sampler=sampler, softness="0.7")
    assert x.shape == (4, 1, 8, 8)
    assert x.isfinite().all()


@pytest.mark.parametrize("name", ["haar", "phase", "columns", "raw", "spread"])
def test_every_model_without_a_network(runs, tmp_path, name):
    with patch("socket.socket", side_effect=OSError("no network")):
        assert drawn(runs / name, tmp_path).isfinite().all()


def test_guidance_and_labels(runs, tmp_path):
    haar = runs / "haar"
    any_class = drawn(haar, tmp_path)
    ignored, three, twice = (
        drawn(haar, tmp_path, label=3, guidance=g) for g in (0.0, 1.0, 2.0)
    )
    assert_close(ignored, any_class, atol=1e-4, rtol=0)
    assert_close(twice - ignored, 2 * (three - ignored), atol=0.1, rtol=0)
    assert (three - ignored).abs().max() > 0
    raw = runs / "raw"
    assert not torch.equal(drawn(raw, tmp_path, label=0), drawn(raw, tmp_path))


def test_seeds_differ(runs, tmp_path):
    x = [drawn(runs / "raw", tmp_path, seed=s) for s in (-1, -2, 0, 0)]
    assert torch.equal(x[2], x[3])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])


def test_ranges_are_named_where_there_are_two():
    two = Family(sequential, dict(b=(0.0, 0.9), gamma_max=(2.0, 3.0)), {})
    assert _values("a model", two, "b=.5, gamma_max=3") == dict(b=0.5, gamma_max=3.0)
    with pytest.raises(ValueError, match="b=NUMBER,gamma_max=NUMBER"):
        _values("a model", two, ".5")


# Evaluation


def test_bits_of_a_model_of_spread_pixels(capsys, runs, tmp_path):
    "A code that takes all levels as alike needs log2(17) = 4.09 bits."
    how = dict(bits=True, images=64, out=f"{tmp_path}/e.json", device="cpu")
    for name in ("haar", "spread"):
        gud_evaluate(f"{runs}/{name}/model", "digits", **how)
        text = (tmp_path / "e.json").read_text(encoding="utf-8")
        found = json.loads(text)
        assert "rows" not in found
        assert 2 < found["bits"]["value"] < math.log2(17)
        assert 0 < found["bits"]["error"] < 0.3
        assert found["bits"]["levels"] == 17
        assert "bits per dimension or less (64 test images" in capsys.readouterr().out


# From the shell

COMMANDS = ["gud_train", "gud_sample", "gud_evaluate", "gud_demo"]
ASCII = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_an_ascii_terminal(run, command):
    code, out, err = run(command, "--help", **ASCII)
    assert code == 0, err
    assert out.isascii()
    assert b"usage" in out


def test_errors_and_numbers_on_an_ascii_terminal(run, runs, tmp_path):
    code, _, err = run("gud_train", "--softness=-1", "--process", "gud", **ASCII)
    assert code == 2
    assert err.isascii()
    assert b"Traceback" not in err
    model, out = ["--model", f"{runs}/haar/model"], ["--out", f"{tmp_path}/e.json"]
    few = ["--data", "digits", "--bits", "--images", "4", "--device", "cpu"]
    code, said, err = run("gud_evaluate", *model, *few, *out, **ASCII)
    assert code == 0, err
    assert said.isascii()


def test_home_folders(run, runs, tmp_path):
    (tmp_path / "model").symlink_to(runs / "raw" / "model")
    few = ["--n", "2", "--steps", "2", "--device", "cpu"]
    files = ["--model", "~/model", "--out", "~/new/x.png"]
    code, _, err = run("gud_sample", *files, *few, HOME=str(tmp_path))
    assert code == 0, err
    assert (tmp_path / "new" / "x.png").is_file()


def test_home_folder_of_training(run, tmp_path):
    few = ["--steps", "2", "--width", "4", "--device", "cpu", "--out", "~/run"]
    code, _, err = run("gud_train", *few, HOME=str(tmp_path))
    assert code == 0, err
    assert (tmp_path / "run" / "model" / "config.json").is_file()
