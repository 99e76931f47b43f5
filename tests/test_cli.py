"""The commands as a user types them: refusals, any terminal, home folders, seeds."""

import configparser
import errno
import importlib
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import pytest
import torch
from fastcore.script import anno_parser
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from tqdm.auto import tqdm

from gud_nb.__main__ import commands
from gud_nb.adams import default_sampler
from gud_nb.basis import Pixel
from gud_nb.build import (
    LazyImages,
    bases,
    build_gud,
    build_model,
    likelihood_objective,
    losses,
    priors,
)
from gud_nb.cli import (
    _class_number,
    _classes,
    _values,
    bits_bound,
    gud_complete,
    gud_demo,
    gud_evaluate,
    gud_sample,
    gud_train,
    methods,
    samplers,
)
from gud_nb.core import image_grid
from gud_nb.data import denormalise, digits
from gud_nb.evaluate import frechet_distance
from gud_nb.files import image_folder
from gud_nb.guidance import NoisyClassifier, NoisyEncoder, save_noisy_classifier
from gud_nb.likelihood import dequantise, nats_to_bits
from gud_nb.model import DiffusionModel
from gud_nb.network import UNet
from gud_nb.objective import (
    Denoising,
    InTurn,
    LineLevels,
    default_objective,
    for_likelihood,
)
from gud_nb.sampler import default_grid
from gud_nb.saved import from_pretrained
from gud_nb.schedule import Family, sequential
from gud_nb.terminal import _parsed, plain_errors, seeded
from gud_nb.train import Loss

FEW = dict(steps=3, width=8, device="cpu")
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
    how = dict(order="columns", rank=12, loss="both")
    gud_train(**GUD, **how, out=f"{root}/columns", **FEW)
    gud_train(process="vp", labels=True, out=f"{root}/raw", **FEW)
    gud_train(process="vp", dequantise=True, out=f"{root}/spread", **FEW)
    mean = torch.zeros(1, 8, 8)
    guide = NoisyClassifier(NoisyEncoder(1, width=8), Pixel((1, 8, 8)), mean, 0.5)
    save_noisy_classifier(root / "guide", guide, classes=list("abcdefghij"))
    return root


def refused(capsys, command, says, **wrong):
    "The command ends with code 2 and one line that says why."
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(**({"device": "cpu"} | wrong))
    assert ended.value.code == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if ": warning: " not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"{command.__name__}: ")
    assert says in lines[0]


def nothing_drawn(self, n, *args, **how):
    "In place of `DiffusionModel.sample`, which takes most of the time."
    return torch.zeros(n, *self.basis.data_shape)


@pytest.fixture
def no_pictures(monkeypatch):
    "Runs of `gud_train` save no pictures."
    monkeypatch.setattr(DiffusionModel, "sample", nothing_drawn)
    monkeypatch.setattr("gud_nb.cli.save_figure", lambda *_, **how: plt.close("all"))


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
        (dict(width=0), "want 1 to 1024"),
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
    folders = [p for p in runs.iterdir() if p.name != "guide"]
    models = {p.name: from_pretrained(p / "model") for p in folders}
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
    weights = ["best.safetensors", "checkpoint.safetensors", "model"]
    rest = [".lock", ".owner.json", "loss.csv", "run.json"]
    assert files == sorted(pictures + weights + rest)


# Refusals

TRAIN = {
    "choose one of vp, cld, psld, gud": dict(process="vpp"),
    "digits, fashion_mnist, cifar10": dict(data="digitz"),
    "nothing to resume": dict(resume=True),
    "got --steps 0": dict(steps=0),
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
    "got --width 1000000000": dict(width=10**9),
    "got --batch 1000000000": dict(batch=10**9),
    "got --size '8x8x8'": dict(size="8x8x8"),
    "got --size 0": dict(size="0"),
    "got --workers -1": dict(workers=-1),
    "15×15, want even sides": GUD | dict(size="15"),
    "got --batch 0": dict(batch=0),
    "got --lr nan": dict(lr=math.nan),
    "from -2147483647 to 2147483647": dict(seed=2**31),
    "images, likelihood, both": dict(loss="snr"),
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
        ("family.ranges.a: was [0.4, 1.6], now [0.4, 1.5]", dict(softness="0.4:1.5")),
        ("holds another run", dict(basis="dct")),
        ("sizes.classes: was 10, now 0", dict(labels=False)),
        ("sizes.width: was 8, now 16", dict(width=16)),
        ("objective.", dict(loss="likelihood")),
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
    "got a value of b, want a value of a": ("haar", dict(softness="b=1")),
    "a must be a number ≥ 0": ("haar", dict(softness="-1")),
    "b must be in [0, 1)": ("columns", dict(softness="1")),
    "trained without labels": ("columns", dict(label=3)),
    "got --class 10, want 0 to 9": ("haar", dict(label=10)),
    "got --class -1, want 0 to 9": ("haar", dict(label=-1)),
    "got --class 'ten', want a number from 0 to 9": ("haar", dict(label="ten")),
    "no --class": ("haar", dict(guidance=2.0)),
    "got --guidance nan": ("haar", dict(guidance=math.nan, label=1)),
    "no file": ("raw", dict(classifier="nowhere", label=1)),
    "got the format": ("raw", dict(classifier="fashion-mnist", label=1)),
    "train one for this model": ("haar", dict(classifier="guide", label=1)),
    ".png, .gif or .safetensors": ("haar", dict(out="a.txt")),
    "at most 100": ("haar", dict(n=101, out="a.gif")),
    "heun, sscs, em, euler": ("haar", dict(sampler="rk4")),
    "quadratic, uniform": ("haar", dict(grid="cubic")),
    "--n 0": ("haar", dict(n=0)),
    "--n 20000": ("haar", dict(n=20_000)),
    "--steps 0": ("haar", dict(steps=0)),
    "got --seed": ("haar", dict(seed=-(2**31))),
}


@pytest.mark.parametrize("says", SAMPLE)
def test_sample_refuses(capsys, runs, tmp_path, says):
    name, wrong = SAMPLE[says]
    if wrong.get("classifier") == "guide":
        wrong = wrong | dict(classifier=f"{runs}/guide")
    out = f"{tmp_path}/no.png"
    refused(
        capsys, gud_sample, says, **dict(model=f"{runs}/{name}/model", out=out) | wrong
    )
    assert not list(tmp_path.iterdir())


# Classes


def test_class_is_an_option_and_label_its_other_name():
    for command in (gud_sample, gud_complete):
        parse = anno_parser(command).parse_args
        for typed in ("--class", "--label"):
            assert parse([typed, "bag"]).label == "bag"
    assert parse([]).label is None
    assert parse(["--class=-1"]).label == "-1"


@pytest.mark.parametrize(
    ("typed", "number"),
    [("7", 7), (7, 7), ("SNEAKER", 7), ("boot", 9), ("Ankle-Boot", 9), ("shirt", 6)],
)
def test_classes_by_name(typed, number):
    names = "T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"
    assert _class_number(typed, 10, names.split(",")) == number


@pytest.mark.parametrize("typed", ["", "-", "o", "shoe", "1.5", "ankle bag"])
def test_classes_that_are_none(typed):
    with pytest.raises(ValueError, match="; bag, ankle boot, sand bag"):
        _class_number(typed, 3, ["bag", "ankle boot", "sand bag"])


def test_names_of_classes(runs, photos, no_pictures, tmp_path):
    assert _classes(from_pretrained("fashion-mnist"))[1][7] == "sneaker"
    assert _classes(from_pretrained("cifar-16"))[1][0] == "airplane"
    assert _classes(from_pretrained(f"{runs}/raw/model")) == (10, list("0123456789"))
    assert _classes(from_pretrained(f"{runs}/spread/model"))[0] == 0
    how = FEW | dict(data=str(photos), process="vp", labels=True, batch=8)
    gud_train(**how, out=f"{tmp_path}/run")
    assert _classes(from_pretrained(f"{tmp_path}/run/model")) == (2, ["0", "1"])


def test_a_classifier_leads(runs, tmp_path):
    "Of a model without labels; an untrained one leads nowhere."
    how = dict(n=2, steps=2, device="cpu", out=f"{tmp_path}/x.safetensors")
    drawn = []
    for more in ({}, dict(classifier=f"{runs}/guide", label="c", guidance=2.0)):
        gud_sample(f"{runs}/spread/model", **how, **more)
        drawn.append(load_file(how["out"])["x"])
    assert_close(*drawn)


# Completing


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "Pictures of a digit, and of none."
    root, u = tmp_path_factory.mktemp("pictures"), denormalise(digits().x[7])[0].numpy()
    grey = Image.fromarray(u)
    grey.save(root / "grey.png")
    grey.convert("RGB").save(root / "colour.png")
    grey.resize((4, 4), Image.Resampling.BOX).save(root / "small.png")
    grey.resize((5, 5)).save(root / "odd.png")
    grey.resize((20, 16)).save(root / "large.png")
    half = Image.new("L", (8, 8))
    half.paste(255, (4, 0, 8, 8))
    half.save(root / "half.png")
    for name, value in dict(black=0, white=255).items():
        Image.new("L", (8, 8), value).save(root / f"{name}.png")
    clear = grey.convert("RGBA")
    clear.putalpha(half.point(lambda v: 255 - v))
    clear.save(root / "clear.png")
    (root / "text.png").write_text("no picture", encoding="utf-8")
    return root


def completed(runs, pictures, tmp_path, **typed):
    "What `gud_complete` draws, as numbers."
    out = tmp_path / "x.safetensors"
    for name in ("image", "mask"):
        if name in typed:
            typed[name] = f"{pictures}/{typed[name]}.png"
    few = dict(samples=2, steps=3, device="cpu", model=f"{runs}/raw/model")
    gud_complete(**few | dict(out=str(out)) | typed)
    return load_file(out)["x"]


@pytest.mark.parametrize("image", ["grey", "colour", "clear"])
def test_filling_in_keeps_what_is_known(runs, pictures, tmp_path, image):
    mask = {} if image == "clear" else dict(mask="half")
    x = completed(runs, pictures, tmp_path, image=image, **mask)
    left = digits().x[7][:, :, :4].expand(2, -1, -1, -1)
    assert x.shape == (2, 1, 8, 8)
    assert_close(x[..., :4], left, atol=0.01, rtol=0)  # of 256 levels
    assert (x[0] - x[1])[..., 4:].abs().max() > 0.01


def test_enlarging_keeps_the_means(runs, pictures, tmp_path):
    x = completed(runs, pictures, tmp_path, image="small", task="superres")
    want = torch.nn.functional.avg_pool2d(digits().x[7][None], 2).expand(2, -1, -1, -1)
    assert_close(torch.nn.functional.avg_pool2d(x, 2), want, atol=0.01, rtol=0)


def test_sharpening_by_every_method(runs, pictures, tmp_path):
    drawn = []
    for method in methods:
        how = dict(image="grey", task="deblur", blur=0.7, method=method)
        drawn.append(completed(runs, pictures, tmp_path, **how))
        assert drawn[-1].isfinite().all()
    for a, b in combinations(drawn, 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("model", ["haar", "columns", "phase"])
def test_completing_with_any_model(runs, pictures, tmp_path, model):
    how = dict(image="large", mask="half", resize=True, model=f"{runs}/{model}/model")
    assert completed(runs, pictures, tmp_path, **how).isfinite().all()


def test_completing_a_class(runs, pictures, tmp_path):
    how = dict(image="grey", mask="half", label="3", guidance=2.0)
    by_label = completed(runs, pictures, tmp_path, **how)
    how |= dict(classifier=f"{runs}/guide", label="d")
    assert by_label.isfinite().all()
    assert completed(runs, pictures, tmp_path, **how).isfinite().all()


def test_colours_for_a_model_of_colours(pictures, tmp_path):
    how = dict(image="large", mask="large", resize=True, model="cifar-16", steps=1)
    x = completed("", pictures, tmp_path, **how)
    assert x.shape == (2, 3, 16, 16)


def test_before_and_after(runs, pictures, tmp_path, capsys):
    out = tmp_path / "x.png"
    how = dict(mask=f"{pictures}/half.png", model=f"{runs}/raw/model", steps=2)
    gud_complete(f"{pictures}/grey.png", out=str(out), samples=3, device="cpu", **how)
    with Image.open(out) as picture:
        assert picture.width > picture.height
    assert "3 completions by moments, 2 steps" in capsys.readouterr().out


COMPLETE = {
    "want a picture: add --image": {},
    "there is no such file": dict(image="nothing"),
    "file": dict(image="text"),
    "inpaint wants --mask": dict(image="grey"),
    "nothing is to be filled in": dict(image="grey", mask="black"),
    "nothing is kept": dict(image="grey", mask="white"),
    "--mask": dict(image="grey", mask="nothing"),
    "got a mask of 4×4 pixels for an image of 8×8": dict(image="grey", mask="small"),
    "got an image of 5×5 pixels for a model of 8×8": dict(image="odd", mask="half"),
    "inpaint, superres, deblur": dict(image="grey", task="paint"),
    "want one of 4×4, 2×2": dict(image="odd", task="superres"),
    "leave it out": dict(image="small", task="superres", resize=True),
    "got --blur 0": dict(image="grey", task="deblur", blur=0.0),
    "got --blur 5": dict(image="grey", task="deblur", blur=5.0),
    "want a number > 0": dict(image="grey", task="deblur", noise=0.0),
    "want a number ≥ 0": dict(image="grey", mask="half", noise=-1.0),
    "moments, law, pigdm": dict(image="grey", mask="half", method="magic"),
    "got --samples 0": dict(image="grey", mask="half", samples=0),
    "got --class 10": dict(image="grey", mask="half", label=10),
    "no --class": dict(image="grey", mask="half", guidance=3.0),
    ".png or .safetensors": dict(image="grey", mask="half", out="x.txt"),
}


@pytest.mark.parametrize("says", COMPLETE)
def test_complete_refuses(capsys, runs, pictures, tmp_path, says):
    wrong = dict(COMPLETE[says])
    for name in ("image", "mask"):
        if name in wrong:
            wrong[name] = f"{pictures}/{wrong[name]}.png"
    how = dict(model=f"{runs}/raw/model", out=f"{tmp_path}/no.png")
    refused(capsys, gud_complete, says, **how | wrong)
    assert not list(tmp_path.iterdir())


def test_a_network_of_all_phases_has_no_law(capsys, pictures, tmp_path):
    how = dict(model="fashion-mnist-phases", out=f"{tmp_path}/no.png", resize=True)
    how |= dict(image=f"{pictures}/grey.png", mask=f"{pictures}/half.png")
    refused(capsys, gud_complete, "take moments", method="law", **how)


def test_models_that_are_none(capsys, tmp_path):
    refused(capsys, gud_sample, "holds no model", model=str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    refused(capsys, gud_sample, "/model' does", model=str(tmp_path))
    refused(capsys, gud_sample, "no model", model="psdl-fashion-mnist")


class OwnNetwork(UNet):
    "A network that does not come with the package."


def test_commands_run_no_classes_of_others(capsys, spread, tmp_path):
    model = build_model("vp", spread, width=8)
    model.network.__class__ = OwnNetwork
    model.save_pretrained(tmp_path)
    out = f"{tmp_path}/no.png"
    refused(capsys, gud_sample, "no code of others", model=str(tmp_path), out=out)


EVALUATE = {
    "in the basis haar, not in dct": ("haar", dict(basis="dct")),
    "--images 1": ("haar", dict(bits=True, images=1)),
    "--images -5": ("haar", dict(images=-5)),
    "--n 1": ("haar", dict(n=1)),
    "--n 0": ("haar", dict(n=0)),
    "ends in .json": ("haar", dict(out="e.txt")),
    "got --data 'mnist', want one of: digits, fashion": ("haar", dict(data="mnist")),
    "train with gud_train --dequantise": ("raw", dict(bits=True)),
    "add --fid": ("raw", dict(inception="weights.pth")),
    "got --inception nowhere.pth": ("raw", dict(fid=True, inception="nowhere.pth")),
}


def test_fid(runs, tmp_path):
    "By features of another kind: its own samples, and training images."
    few = dict(n=6, steps=2, device="cpu", fid=True, out=f"{tmp_path}/e.json")
    model = from_pretrained(f"{runs}/raw/model")
    with patch("gud_nb.cli.inception", lambda *_: lambda x: x.flatten(1)[:, 20:24]):
        gud_evaluate(f"{runs}/raw/model", "digits", **few)
    found = json.loads(Path(few["out"]).read_text(encoding="utf-8"))
    times = default_grid(model.diffusion, 2)
    x = model.sample(6, times=times, generator=seeded(0))
    want = [v.flatten(1)[:, 20:24] for v in (x, digits().x)]
    assert found["fid"]["n_a"] == 6
    assert_close(found["fid"]["value"], frechet_distance(*want).value)
    assert "rows" not in found


@pytest.mark.parametrize("says", EVALUATE)
def test_evaluate_refuses(capsys, runs, tmp_path, says):
    name, wrong = EVALUATE[says]
    how = dict(model=f"{runs}/{name}/model", data="digits", out=f"{tmp_path}/e.json")
    refused(capsys, gud_evaluate, says, **how | wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vp-fashion-mnist", "psld-fashion-mnist"])
def test_shipped_models_of_raw_pixels_have_no_bits(capsys, name):
    refused(capsys, gud_evaluate, "raw pixels", model=name, bits=True)


def test_data_of_a_model_are_its_own(capsys, runs, tmp_path):
    few = dict(bits=True, images=2, device="cpu", out=f"{tmp_path}/e.json")
    gud_evaluate(f"{runs}/spread/model", **few)
    found = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert found["data"] == "digits"
    refused(capsys, gud_evaluate, "name them by --data", model="fashion-mnist-16")


def test_levels_must_be_those_of_the_data(capsys, runs):
    how = dict(model=f"{runs}/haar/model", data="fashion_mnist", bits=True)
    refused(capsys, gud_evaluate, "17 levels, those of fashion_mnist have 256", **how)


def test_demo_refuses(capsys):
    refused(capsys, gud_demo, "must be > 0", seconds=0.0)
    refused(capsys, gud_demo, "got --seed", seed=2**40)


# Places

PLACES = [
    ("is a file", "file/x"),
    ("too long", "a" * 300),
    ("too long", "new/" + "a" * 300),
    ("too long", "b/" * 4000),
    ("no such user", "~nobody-of-this-name/x"),
    ("null character", "a\0b"),
]
ENDINGS = {
    gud_train: "",
    gud_sample: ".png",
    gud_complete: ".png",
    gud_evaluate: ".json",
}


@pytest.fixture
def nothing_read(monkeypatch):
    "Neither data nor a model are read."

    def unwanted(*args, **how):
        raise AssertionError("this is the long work")

    monkeypatch.setattr("gud_nb.cli.load", unwanted)
    monkeypatch.setattr("gud_nb.cli.from_pretrained", unwanted)


@pytest.mark.parametrize(("says", "place"), PLACES)
@pytest.mark.parametrize("command", ENDINGS)
def test_out_is_checked_first(capsys, tmp_path, nothing_read, command, says, place):
    (tmp_path / "file").write_text("", encoding="utf-8")
    out = place + ENDINGS[command]
    out = out if out.startswith("~") else f"{tmp_path}/{out}"
    refused(capsys, command, says, out=out)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ENDINGS)
@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES"])
def test_out_can_be_written(capsys, tmp_path, nothing_read, command, code):
    says = dict(ENOSPC="disk is full", EROFS="read-only", EACCES="no permission")[code]
    fails = OSError(getattr(errno, code), "")
    with patch("gud_nb.core.os.open", side_effect=fails):
        out = f"{tmp_path}/new/x{ENDINGS[command]}"
        refused(capsys, command, says, out=out)
    assert not list(tmp_path.iterdir())


def test_out_may_not_be_a_folder(capsys, tmp_path, nothing_read):
    for command, ending in list(ENDINGS.items())[1:]:
        folder = tmp_path / f"x{ending}"
        folder.mkdir(exist_ok=True)
        refused(capsys, command, "it is a folder", out=str(folder))


def test_files_are_replaced_in_the_end_only(capsys, runs, tmp_path, monkeypatch):
    out = tmp_path / "x.png"
    out.write_text("old", encoding="utf-8")
    fails = ValueError("no samples")
    with patch.object(DiffusionModel, "sample", side_effect=fails):
        how = dict(model=f"{runs}/raw/model", out=str(out))
        refused(capsys, gud_sample, "no samples", **how)
    assert out.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_devices_are_written_to(runs, tmp_path):
    few = dict(bits=True, images=2, device="cpu")
    gud_evaluate(f"{runs}/spread/model", "digits", out="/dev/null", **few)
    assert not Path("/dev/null").is_file()


def test_a_full_disk_during_the_training(capsys, tmp_path):
    full = OSError(errno.ENOSPC, "")
    how = FEW | dict(out=f"{tmp_path}/run")
    with patch("gud_nb.runs.save_tensors", side_effect=full):
        refused(capsys, gud_train, "", **how)


def test_names_are_no_formulas(runs, tmp_path):
    named = tmp_path / "$a_b^$ c{"
    named.symlink_to(runs / "raw" / "model")
    out = tmp_path / "$x_y^$.png"
    gud_sample(str(named), n=2, steps=2, out=str(out), device="cpu")
    assert out.is_file()


# Runs


def test_a_used_folder(capsys, no_pictures, tmp_path):
    how = FEW | dict(process="vp", out=f"{tmp_path}/run")
    gud_train(**how)
    refused(capsys, gud_train, "holds a run already", **how)
    gud_train(**how | dict(steps=2), overwrite=True)
    assert from_pretrained(tmp_path / "run" / "model").about["steps"] == 2
    both = dict(overwrite=True, resume=True)
    refused(capsys, gud_train, "resumed or overwritten", **how, **both)


def test_budgets(no_pictures, tmp_path):
    "A resumed run keeps its budget; steps count from its beginning."
    how = dict(width=8, device="cpu", process="vp", out=f"{tmp_path}/run")
    gud_train(steps=3, **how)
    gud_train(resume=True, **how)
    assert from_pretrained(tmp_path / "run" / "model").about["steps"] == 3
    gud_train(steps=4, resume=True, **how)
    assert from_pretrained(tmp_path / "run" / "model").about["steps"] == 4


def test_two_minutes_without_a_budget(tmp_path):
    with patch("gud_nb.cli.fit", side_effect=ValueError) as fit:
        with pytest.raises(SystemExit):
            gud_train(out=f"{tmp_path}/run", width=8, device="cpu", workers=3)
    plan = fit.call_args.args[2]
    assert (plan.minutes, plan.steps, plan.lr) == (2.0, None, None)
    assert plan.workers == 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals(capsys, no_pictures, tmp_path, monkeypatch, name):
    "The exit code of the signal, and the whole command that goes on, once."
    number, forward, count = getattr(signal, name), Loss.forward, iter(range(100))

    def interrupted(self, *args):
        if next(count) == 2:
            signal.raise_signal(number)
        return forward(self, *args)

    out = f"{tmp_path}/a run"
    typed = f"/bin/gud_train --steps 9 --overwrite --width 8 --out '{out}'"
    monkeypatch.setattr(Loss, "forward", interrupted)
    monkeypatch.setattr("gud_nb.cli.is_cli", lambda: True)
    monkeypatch.setattr(sys, "argv", typed.replace("'", "").split(" ", 7))
    with pytest.raises(SystemExit) as ended:
        gud_train(**FEW | dict(steps=9, out=out, overwrite=True))
    assert ended.value.code == 128 + number
    first, then = capsys.readouterr().err.splitlines()
    assert first.startswith(f"stopped by {name}: step 3 is saved")
    again = f"gud_train --steps 9 --width 8 --out '{out}' --resume"
    assert then == f"To go on: {again}"
    monkeypatch.setattr(Loss, "forward", forward)
    gud_train(**FEW | dict(steps=4, out=out, resume=True))


def test_a_diverged_run_names_the_way_on(capsys, tmp_path, monkeypatch):
    "The first checkpoint is kept, and the command is said."
    forward, count = Loss.forward, iter(range(100))
    monkeypatch.setattr("gud_nb.runs.RunFolder.due", lambda self: True)

    def diverging(self, *args):
        return forward(self, *args) * (math.nan if next(count) == 2 else 1.0)

    monkeypatch.setattr(Loss, "forward", diverging)
    with pytest.raises(SystemExit) as ended:
        gud_train(**FEW | dict(steps=9, out=f"{tmp_path}/run"))
    assert ended.value.code == 2
    first, then = capsys.readouterr().err.splitlines()
    assert first == "To go on: the same call with resume=True"
    assert "is not finite" in then


def test_interrupted_sampling(capsys, runs, tmp_path):
    how = dict(out=f"{tmp_path}/x.png", device="cpu")
    with patch.object(DiffusionModel, "sample", side_effect=KeyboardInterrupt):
        with pytest.raises(SystemExit) as ended:
            gud_sample(f"{runs}/raw/model", **how)
    assert ended.value.code == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_objectives(spread):
    one, many = build_model("vp", spread, width=8), build_gud(spread, width=8)
    for model in (one, many):
        found = likelihood_objective(model)
        assert isinstance(found, Denoising)
        assert found.weight is for_likelihood
        assert losses["images"](model).weight is default_objective(model).weight
        assert isinstance(losses["both"](model), InTurn)
        assert losses["both"](model).at(0.9).weight is for_likelihood
    levels = likelihood_objective(one).levels
    assert_close(levels.keywords["variance"], one.law.mean_variance)
    levels = likelihood_objective(many).levels
    assert isinstance(levels, LineLevels)
    assert levels.cdf is None


# Data


@pytest.mark.parametrize("size", ["15", "12x10", "16x18"])
def test_any_sides(capsys, no_pictures, tmp_path, size):
    "As many levels as the sides can be halved for, said in one line."
    gud_train(**FEW | dict(steps=1), process="vp", size=size, out=f"{tmp_path}/run")
    err = capsys.readouterr().err.splitlines()
    model = from_pretrained(tmp_path / "run" / "model")
    depth = {"15": 1, "12x10": 2, "16x18": 2}[size]
    assert len(model.network.config["mults"]) == depth
    assert len(err) == (size != "12x10")
    sides = tuple(int(v) for v in size.split("x"))
    x = torch.zeros(1, *(sides * 2)[:2])[None]
    assert model.denoise(x, 0.0).shape == x.shape


def test_bits_of_resized_digits(capsys, no_pictures, tmp_path):
    "Resized digits are on 256 levels, and are resized again to be judged."
    how = dict(process="vp", dequantise=True, size="10", out=f"{tmp_path}/run")
    gud_train(**FEW, **how)
    model = f"{tmp_path}/run/model"
    assert from_pretrained(model).about["levels"] == 256
    few = dict(data="digits", device="cpu", images=4, out=f"{tmp_path}/e.json")
    gud_evaluate(model, bits=True, **few)
    refused(capsys, gud_evaluate, "add --fid, or --bits", model=model, **few)


def test_channels(capsys, no_pictures, tmp_path):
    "Coloured pictures are learned in grey, and judged in grey."
    (tmp_path / "photos").mkdir()
    g = torch.Generator().manual_seed(0)
    for i in range(20):
        u = torch.randint(256, (12, 12, 3), generator=g).to(torch.uint8)
        Image.fromarray(u.numpy()).save(tmp_path / "photos" / f"{i}.png")
    how = dict(data=f"{tmp_path}/photos", process="vp", dequantise=True, rank=4)
    gud_train(**FEW, **how, channels=1, out=f"{tmp_path}/run")
    model = f"{tmp_path}/run/model"
    assert from_pretrained(model).basis.data_shape == (1, 12, 12)
    few = dict(device="cpu", images=2, out=f"{tmp_path}/e.json")
    gud_evaluate(model, bits=True, **few)
    refused(capsys, gud_train, "want 1 (grey) or 3", **FEW, channels=2)


@pytest.fixture
def photos(tmp_path):
    "A folder of 40 images, 12×12 in grey, in two classes."
    g = torch.Generator().manual_seed(0)
    for i in range(40):
        u = torch.randint(256, (12, 12), generator=g).to(torch.uint8)
        where = tmp_path / "photos" / str(i % 2)
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(u.numpy()).save(where / f"{i}.png")
    return tmp_path / "photos"


def test_images_that_are_read_when_wanted(photos, no_pictures, tmp_path):
    "The same run as from memory; resumed; with noise on the pixels."
    how = FEW | dict(data=str(photos), process="vp", labels=True, batch=8)
    gud_train(**how, out=f"{tmp_path}/whole")
    with patch("gud_nb.files.IN_MEMORY", 0):
        gud_train(**how, out=f"{tmp_path}/lazy")
        names = [f"{tmp_path}/{name}/model" for name in ("whole", "lazy")]
        whole, lazy = (from_pretrained(name) for name in names)
        for p, q in zip(whole.parameters(), lazy.parameters()):
            assert_close(p, q)
        gud_train(**how | dict(steps=4), out=f"{tmp_path}/lazy", resume=True)
        gud_train(**how, dequantise=True, out=f"{tmp_path}/spread")
        few = dict(bits=True, images=4, device="cpu", out=f"{tmp_path}/e.json")
        gud_evaluate(f"{tmp_path}/spread/model", str(photos), **few)
    assert whole.network.config["classes"] == 2
    assert from_pretrained(names[1]).about["steps"] == 4
    for p in from_pretrained(f"{tmp_path}/spread/model").parameters():
        assert p.isfinite().all()


def test_streams(photos, no_pictures, tmp_path):
    "A table that is read from end to end."
    files = sorted(photos.rglob("*.png"))
    rows = [dict(image=dict(bytes=f.read_bytes(), path=f.name)) for f in files]
    table = tmp_path / "table.parquet"
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), table)
    how = FEW | dict(data=str(table), process="vp", batch=8, out=f"{tmp_path}/run")
    gud_train(**how, streaming=True)
    gud_train(**how | dict(steps=4), streaming=True, resume=True)
    assert from_pretrained(f"{tmp_path}/run/model").about["steps"] == 4


def test_lazy_images_are_spread_by_their_numbers(photos):
    source, index = image_folder(photos), [torch.arange(4), torch.arange(4, 8)]
    lazy = LazyImages(source, 256, seed=3)
    one, other = (list(lazy.loader(iter(index), "cpu")) for _ in range(2))
    resumed = list(lazy.loader(iter(index[1:]), "cpu"))
    for (x, labels), i in zip(one, index):
        plain = source[i]
        assert ((x - plain.x).abs() <= 1 / 255 + 1e-6).all()
        assert (x != plain.x).any()
        assert_close(labels, plain.labels)
    assert_close(one[1][0], other[1][0])
    assert_close(one[1][0], resumed[0][0])
    assert lazy.fingerprint == LazyImages(image_folder(photos), 256, seed=3).fingerprint
    assert lazy.fingerprint != LazyImages(source, None, seed=3).fingerprint


# Terminals


class Terminal(io.StringIO):
    "A terminal that remembers."

    def isatty(self):
        return True


def test_errors_have_a_line_of_their_own(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with pytest.raises(SystemExit), plain_errors("gud_train"):
        bar = tqdm(total=10, desc="training", disable=False)
        bar.update(3)
        raise ValueError("a mistake")
    *_, last = screen.getvalue().rstrip("\n").split("\n")
    assert last == "gud_train: a mistake"
    assert not tqdm._instances


def test_bars_are_for_terminals(capsys, runs, tmp_path, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    gud_train(**FEW, out=f"{tmp_path}/run")
    assert capsys.readouterr().err == ""
    how = dict(n=2, steps=2, out=f"{tmp_path}/x.png", device="cpu")
    gud_sample(f"{runs}/raw/model", **how)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    gud_sample(f"{runs}/raw/model", **how)
    assert "0/2" in sys.stderr.getvalue()


def test_quiet(capsys, runs, no_pictures, tmp_path, monkeypatch):
    "Nothing is printed, and no bar is drawn in a terminal, but files are written."
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    raw, few = f"{runs}/raw/model", dict(device="cpu", quiet=True)
    gud_sample(raw, n=2, out=f"{tmp_path}/x.safetensors", **few)
    gud_evaluate(raw, "digits", n=8, steps=1, out=f"{tmp_path}/e.json", **few)
    gud_train(**FEW, out=f"{tmp_path}/run", quiet=True)
    assert capsys.readouterr().out == ""
    assert sys.stderr.getvalue() == ""
    names = ["e.json", "run", "x.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


MISTYPED = {
    "--nn 3": "got --nn, which is no option: perhaps --n is meant",
    "--colour 20": "got --colour, which is no option. gud_sample --help",
    "--n many": "got --n 'many', want a whole number",
    "--steps few": "got --steps 'few', want a whole number",
    "--guidance much": "got --guidance 'much', want a number",
    "--seed": "got --seed without a value",
    "--class": "got --class without a value",
    "sneaker": "got sneaker, want an option",
    "--s 1": "could match --steps, --sampler",
}


@pytest.mark.parametrize("typed", MISTYPED)
def test_mistyped_options_take_one_line(capsys, monkeypatch, typed):
    monkeypatch.setattr(sys, "argv", ["gud_sample", *typed.split()])
    with pytest.raises(SystemExit) as ended, plain_errors("gud_sample"):
        _parsed(gud_sample)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("gud_sample: ") and said.count("\n") == 1
    assert MISTYPED[typed] in said
    assert "gud_sample --help" in said


def test_a_reader_that_is_gone(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(SystemExit) as ended:
            gud_train(version=True)
    assert ended.value.code == 141


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA")])
def test_short_memory(capsys, error):
    with pytest.raises(SystemExit), plain_errors("gud_sample"):
        raise error
    assert capsys.readouterr().err.startswith("gud_sample: out of memory: lower")
    with pytest.raises(SystemExit), plain_errors("gud_sample"):
        torch.empty(2**60)
    assert "out of memory" in capsys.readouterr().err


def test_versions(capsys):
    for command in (gud_train, gud_sample, gud_complete, gud_evaluate, gud_demo):
        command(version=True)
        assert capsys.readouterr().out.startswith(f"{command.__name__} of gud_nb 0.")


def test_only_the_first_process_writes(capsys, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    how = dict(n=2, steps=2, device="cpu")
    gud_sample(f"{runs}/raw/model", out=f"{tmp_path}/x.png", **how)
    gud_evaluate(f"{runs}/raw/model", "digits", out=f"{tmp_path}/e.json")
    log = [dict(step=3, images=192, seconds=1.0, loss=1.0)]
    with patch("gud_nb.cli.fit", return_value=log) as fit:
        gud_train(**FEW, out=f"{tmp_path}/run")
        gud_demo(f"{tmp_path}/demo", seconds=1.0)
    assert fit.call_count == 3
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


# Broken models


def spoilt(folder, kind: str):
    "Spoil a model's file."
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    if kind == "flipped":
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif kind == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "noise":
        file.write_bytes(os.urandom(1000))
    elif kind == "huge":
        file.write_bytes(b"\xff" * 8 + whole)
    elif kind == "folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize("command", [gud_sample, gud_evaluate])
@pytest.mark.parametrize("kind", "flipped cut empty noise huge folder".split())
def test_broken_models(capsys, runs, tmp_path, command, kind):
    model = tmp_path / "model"
    model.mkdir()
    for file in (runs / "raw" / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    spoilt(model, kind)
    out = f"{tmp_path}/x{ENDINGS[command]}"
    refused(capsys, command, "model", model=str(model), out=out)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "~nobody-of-this-name/m", "$x$"])
def test_names_of_models(capsys, tmp_path, name):
    refused(capsys, gud_sample, "", model=name, out=f"{tmp_path}/x.png")


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
    model = from_pretrained(haar / "model")
    free = dict(times=default_grid(model.diffusion, 4), generator=seeded(0))
    any_class = model.sample(4, **free)
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


@pytest.mark.parametrize("name", ["raw", "phase"])
def test_a_film_has_a_frame_for_each_step_and_the_sample(runs, tmp_path, name):
    x, out = drawn(runs / name, tmp_path, steps=3), tmp_path / "x.gif"
    gud_sample(f"{runs}/{name}/model", n=4, steps=3, device="cpu", out=str(out))
    with Image.open(out) as film:
        assert film.n_frames == 4
        film.seek(3)
        last = torch.tensor(list(film.convert("L").tobytes()))
        last = last.reshape(film.size[::-1])[4::8, 4::8]
    assert_close(last / 255, image_grid(x, 4)[..., 0], atol=3e-3, rtol=0)


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


# Examples

FEWER = dict(
    gud_train=dict(minutes=None, width=4),
    gud_sample=dict(n=2, steps=1),
    gud_complete=dict(samples=1, steps=1),
    gud_evaluate=dict(n=8, steps=1),
)


def as_typed(line: str) -> tuple:
    "A command, and what it reads from a line."
    name, *rest = shlex.split(line)
    return commands[name], vars(anno_parser(commands[name]).parse_args(rest))


def test_examples_are_read():
    "Each command has some, whose first is its own."
    for name, command in commands.items():
        assert command.examples[0].split()[0] == name
        for line in command.examples:
            as_typed(line)


def test_examples_run(photos, pictures, tmp_path, monkeypatch):
    "With fewer steps; those that need other data or half a minute are only read."
    monkeypatch.chdir(tmp_path)
    sizes = {
        "boot": 28,
        "heel": 28,
        "small": 14,
        "blurred": 28,
        "mask": 40,
        "photo": 40,
    }
    for name, size in sizes.items():
        how = "white" if name in ("heel", "mask") else "grey"
        picture = Image.open(f"{pictures}/{how}.png").resize((size, size))
        if how == "white":
            picture.paste(0, (0, 0, size // 2, size))
        picture.save(f"{name}.{'jpg' if name == 'photo' else 'png'}")
    ran = 0
    for name in FEWER:
        for line in commands[name].examples:
            command, how = as_typed(line)
            if command is gud_evaluate and how["data"] != "digits":
                continue
            more = FEWER[name] | dict(device="cpu")
            if command is gud_train:
                more["steps"] = 1 + how["resume"]
            typed = {k: v for k, v in how.items() if k not in ("pdb", "xtra")}
            with monkeypatch.context() as quick:
                if command is gud_train:
                    quick.setattr(DiffusionModel, "sample", nothing_drawn)
                command(**typed | more)
            ran += 1
    assert ran == 13


# From the shell

COMMANDS = ["gud_train", "gud_sample", "gud_evaluate", "gud_demo"]
ASCII = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_an_ascii_terminal(run, command):
    code, out, err = run(command, "--help", **ASCII)
    assert code == 0, err
    assert out.isascii()
    assert b"usage" in out
    assert f"\nexamples:\n  {command}".encode() in out


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


def test_every_command_of_the_package_exists():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(Path(__file__).parents[1] / "settings.ini", encoding="utf-8")
    scripts = config["DEFAULT"]["console_scripts"].split()
    assert len(scripts) == len(commands)
    for script in scripts:
        name, place = script.split("=")
        module, function = place.split(":")
        assert getattr(importlib.import_module(module), function) is commands[name]


def test_list_of_commands(run, tmp_path):
    "The package as a module lists its commands, and runs them."
    here = [sys.executable, "-m", "gud_nb"]
    how = dict(capture_output=True, text=True, encoding="utf-8", cwd=tmp_path)
    listed = subprocess.run(here, **how, timeout=120)
    assert listed.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in listed.stdout
    one = subprocess.run([*here, "gud_sample", "--n", "0"], **how, timeout=120)
    assert (one.returncode, one.stdout) == (2, "")
    assert one.stderr == "gud_sample: want at least one sample: got --n 0\n"


def test_classes_in_turn(tmp_path):
    "Without a label a model of classes draws one after the other."
    out = tmp_path / "x.safetensors"
    how = dict(n=12, steps=1, device="cpu")
    gud_sample("cifar-16", out=str(out), **how)
    model, labels = from_pretrained("cifar-16"), torch.arange(12) % 10
    ticks, g = default_grid(model.diffusion, 1), torch.Generator().manual_seed(0)
    want = model.sample(12, default_sampler, ticks, g, labels=labels)
    assert_close(load_file(out)["x"], want)
    gud_sample("cifar-16", out=str(out), label=3, **how)
    assert (load_file(out)["x"] - want).abs().max() > 0.01
