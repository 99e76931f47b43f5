"""Checkpoints of the official code in miniature, and files that are none."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from gud_nb.convert import (
    Preset,
    choose_weights,
    convert,
    fitting,
    gud_convert,
    presets,
    read_preset,
    read_weights,
)
from gud_nb.ncsnpp import NCSNpp
from gud_nb.recipe import psld
from gud_nb.saved import from_pretrained

SCORE = dict(name="ncsnpp", in_ch=6, out_ch=6, nf=16, ch_mult=[1, 2], dropout=0.15)
SCORE |= dict(num_res_blocks=1, attn_resolutions=[4], nonlinearity="swish")
BEST = dict(fir=True, progressive_input="residual", embedding_type="fourier")
SDE = dict(name="psld", beta_min=8, beta_max=8, nu=4.01, gamma=0.01, kappa=0.04)
SDE |= dict(decomp_mode="lower", numerical_eps=1e-9, is_augmented=True)


def config(name="sota8", sde=SDE, **score):
    score = SCORE | (BEST if name == "sota8" else {}) | score
    return {
        "diffusion": {
            "data": {"image_size": 8, "name": "cifar10"},
            "model": {"score_fn": score, "sde": sde},
            "training": {"mode": "hsm"},
        }
    }


def reference(name):
    with np.load(Path(__file__).parent / "reference" / f"ncsnpp_{name}.npz") as f:
        return {k: torch.as_tensor(f[k]) for k in f}


def lightning(weights, **more):
    "What PyTorch Lightning writes around the network and its moving average."
    state = {f"ema_score_fn.{k}": v for k, v in weights.items()}
    state |= {f"score_fn.{k}": v + 0.1 for k, v in weights.items()}
    callbacks = {
        "ModelCheckpoint": {"best_model_score": torch.ones(()), "dirpath": "x"}
    }
    counters = {"epoch": 2, "global_step": 10, "pytorch-lightning_version": "1.9.0"}
    parts = {"state_dict": state, "callbacks": callbacks, "optimizer_states": [{}]}
    return counters | parts | {"lr_schedulers": [{"last_epoch": 3}]} | more


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    for name in ("sota8", "abl8"):
        r = reference(name)
        weights = {k: v for k, v in r.items() if k.startswith("all_modules")}
        torch.save(lightning(weights), folder / f"{name}.ckpt")
        text = json.dumps(config(name))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name, tolerance", [("sota8", 1e-4), ("abl8", 1e-5)])
def test_a_converted_checkpoint_gives_the_reference(
    miniature, tmp_path, name, tolerance, capsys
):
    how = dict(config=str(miniature / f"{name}.json"), out=str(tmp_path / "model"))
    gud_convert(str(miniature / f"{name}.ckpt"), **how)
    assert "score_xm" in capsys.readouterr().out
    model, r = from_pretrained(tmp_path / "model"), reference(name)
    z = r["x"].unflatten(1, (2, 3))
    with torch.no_grad():
        got = model.eps(z, r["t"]).flatten(1, 2)
    assert_close(got, r["y"], atol=tolerance, rtol=0)
    assert model.about["weights"] == "ema"
    assert not list(tmp_path.glob("*.tmp*"))


def test_the_online_weights_are_the_others(miniature):
    file = miniature / "abl8.ckpt"
    tensors = read_weights(file)
    ema, which = choose_weights(tensors)
    online, other = choose_weights(tensors, "online")
    assert (which, other) == ("ema", "online")
    for k, v in ema.items():
        assert_close(online[k], v + 0.1)
    model = convert(file, read_preset(miniature / "abl8.json"), "online")
    name = "all_modules.16.bias"
    assert_close(model.network.state_dict()[name], online[name], atol=0, rtol=0)


def test_weights_that_a_file_lacks_are_named(miniature):
    tensors = read_weights(miniature / "abl8.ckpt")
    average = {k: v for k, v in tensors.items() if k.startswith("ema_score_fn.")}
    with pytest.warns(UserWarning, match="no set of weights as trained.*took ema"):
        assert choose_weights(average, "online")[1] == "ema"


@pytest.mark.parametrize("prefix", ["", "module.", "score_fn.", "score_fn.module."])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_bare_weights_of_any_wrapping(miniature, tmp_path, prefix, ending):
    found, _ = choose_weights(read_weights(miniature / "abl8.ckpt"))
    file = tmp_path / f"weights{ending}"
    named = {prefix + k: v.clone() for k, v in found.items()}
    save_file(named, file) if ending == ".safetensors" else torch.save(named, file)
    if "score" in prefix:
        with pytest.warns(UserWarning, match="no moving average"):
            again, which = choose_weights(read_weights(file))
    else:
        again, which = choose_weights(read_weights(file), "online")
    assert which == ("online" if "score" in prefix else "bare")
    assert_close(again, found, atol=0, rtol=0)


class Harmful:
    "Leaves a file when a pickle of it is loaded."

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, old):
    mark = tmp_path / "ran"
    content = {"state_dict": {}, "hyper_parameters": Harmful(mark)}
    file = tmp_path / "bad.ckpt"
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match="needs code to load") as caught:
        read_weights(file)
    assert "\n" not in str(caught.value) and not mark.exists()


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "there is no file"),
        (b"", "bad.ckpt"),
        (b"not a checkpoint", "bad.ckpt"),
        ([1, 2], "holds no weights"),
        ({"state_dict": {"epoch": 3}}, "holds no weights"),
        ({"state_dict": {"conv.weight": torch.ones(2)}}, "want names that begin"),
    ],
)
def test_files_that_are_no_checkpoints_take_one_line(tmp_path, content, says):
    file = tmp_path / "bad.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ValueError, match=says) as caught:
        convert(file, "cifar10-vp")
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(miniature, tmp_path):
    raw = (miniature / "abl8.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="cut.ckpt"):
        read_weights(tmp_path / "cut.ckpt")


def test_the_command_leaves_nothing_where_it_fails(miniature, tmp_path, capsys):
    out = tmp_path / "model"
    with pytest.raises(SystemExit) as ended:
        gud_convert(str(miniature / "sota8.ckpt"), out=str(out), preset="cifar10-vp")
    assert ended.value.code == 2 and not out.exists()
    said = capsys.readouterr().err
    assert said.startswith("gud_convert: ") and said.count("\n") == 1
    assert "another network" in said


def test_the_command_in_a_process_of_its_own(miniature, tmp_path):
    script = tmp_path / "gud_convert"
    code = "from gud_nb.convert import gud_convert\ngud_convert()\n"
    script.write_text(code, encoding="utf-8")
    arguments = [str(miniature / "abl8.ckpt"), "--config", str(miniature / "abl8.json")]
    run = subprocess.run(
        [sys.executable, script, *arguments, "--out", str(tmp_path / "model")],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(sde=SDE | dict(decomp_mode="upper")), "upper"),
        (dict(n_heads=8), "n_heads"),
        (dict(ch_mult="12"), "ch_mult"),
    ],
)
def test_configurations_of_other_networks_are_refused(
    miniature, tmp_path, change, says
):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config("sota8", **change)), encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        convert(miniature / "sota8.ckpt", read_preset(file))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"data": {}}', '{"model": 3}'])
def test_files_that_are_no_configurations_take_one_line(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="config.json") as caught:
        read_preset(file)
    assert "\n" not in str(caught.value)


def test_every_preset_has_a_network_and_a_process():
    millions = {
        "cifar10-ablation-0.01": 39.397254,
        "cifar10-sota-ode": 97.627782,
        "celeba64-sota": 62.769158,
        "afhqv2-128": 65.816582,
    }
    for name, preset in presets.items():
        with torch.device("meta"):
            net = NCSNpp(**preset.network)
        count = sum(p.numel() for p in net.parameters() if p.requires_grad) / 1e6
        assert count == pytest.approx(millions.get(name, count), abs=1e-9)
        d = preset.diffusion()
        assert d.k == preset.phases and preset.training["epochs"] > 0
        if preset.phases == 2:
            by_hand = psld(preset.Gamma, 4 + preset.Gamma, M=0.25)
            assert_close(preset.diffusion().recipe.A, by_hand.A)
            momentum = net.config["out_ch"] == 3
            assert momentum == (preset.mode == "score_m") == (preset.Gamma == 0)


def test_presets_are_found_by_size():
    with torch.device("meta"):
        cld = NCSNpp(**presets["cifar10-sota-cld"].network).state_dict()
        vp = NCSNpp(**presets["cifar10-vp"].network).state_dict()
        two = NCSNpp(**presets["cifar10-vp-2"].network).state_dict()
    assert fitting(two) == ["cifar10-vp-2"]
    assert fitting(cld) == ["cifar10-sota-cld"]
    assert fitting(vp) == ["cifar10-vp"]
    assert fitting({"all_modules.0.W": torch.ones(3)}) == []


def test_the_start_of_the_momentum_is_chosen(miniature):
    preset = read_preset(miniature / "abl8.json")
    model = convert(miniature / "abl8.ckpt", preset, start="dsm")
    assert model.diffusion.Sigma0 is None and model.diffusion.aux_cov is not None
    with pytest.raises(ValueError, match="'hsm' or 'dsm'"):
        replace(preset, start="both")
    with pytest.raises(ValueError, match="'hsm' or 'dsm'"):
        Preset({}, start="none")
