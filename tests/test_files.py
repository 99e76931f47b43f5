"""Files are whole, sealed and refused in one line when they are damaged.

Writing past links, pipes and kills; corruptions of every kind; descriptions of models
that lie. `pytest --flags slow` tries every change of every entry of a description.
"""

import copy
import errno
import json
import os
import random
import signal
import stat
import threading
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gud_nb import core
from gud_nb.basis import DCT, Pixel, Scaled
from gud_nb.core import load_folder, load_tensors, save_tensors, write_atomic
from gud_nb.denoiser import Dense, Independent, LowRank
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import Classifier, load_classifier, save_classifier
from gud_nb.model import PhaseModel, ScoreModel, bare_network
from gud_nb.network import MLP, UNet
from gud_nb.recipe import psld, vp
from gud_nb.saved import from_pretrained, shipped
from gud_nb.schedule import Family, LinearBeta, soft_conditioning

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (1, 2, 2)


@pytest.fixture
def full(request):
    "Whether all cases are wanted."
    return "slow" in request.config.getoption("--flags", "")


def refused(name, f, *args, **how):
    "The message of a refusal, one line that names a file."
    with pytest.raises(ValueError) as error:
        f(*args, **how)
    message = str(error.value)
    assert str(name) in message and "\n" not in message, message
    return message


def words(text):
    "A function that writes a text."
    return lambda path: path.write_text(text, encoding="utf-8")


def read(path):
    "The text of a file."
    return path.read_text(encoding="utf-8")


def forked(f):
    "What a process that runs a function ends with: 0, 1 for an error, -signal."
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        f()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


# Writing: links, devices, pipes, modes


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a", tmp_path / "link"
    link.symlink_to(target)  # to nothing, at first
    for text in ("one", "two"):
        assert write_atomic(link, words(text)) == link
        assert link.is_symlink() and read(target) == text
    assert [p.name for p in target.parent.iterdir()] == ["a"]


def test_links_in_a_circle_are_refused(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.symlink_to(b)
    b.symlink_to(a)
    assert "circle" in refused(a, write_atomic, a, words("one"))


def test_a_pipe_is_written_to(tmp_path):
    path, found = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(read(path)))
    reader.start()
    write_atomic(path, words("through"))
    reader.join(10)
    assert found == ["through"] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_to(tmp_path):
    save_tensors("/dev/null", dict(a=torch.ones(3)), {})
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_standard_output_of_a_pipe():
    "It is a link to a link to a name that is no file."
    end, other = os.pipe()

    def child():
        os.dup2(other, 1)
        write_atomic("/dev/stdout", words("said"))

    assert forked(child) == 0
    assert os.read(end, 100) == b"said"
    os.close(end)
    os.close(other)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_a_new_file_has_the_mode_of_the_umask(mask, mode, tmp_path):
    def private(path):
        path.write_text("one", encoding="utf-8")
        path.chmod(0o600)  # as some libraries do

    before = os.umask(mask)
    try:
        path = write_atomic(tmp_path / "a", private)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_an_old_file_keeps_its_mode(tmp_path):
    path = write_atomic(tmp_path / "a", words("one"))
    path.chmod(0o640)
    write_atomic(path, words("two"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_to_the_disk_before_the_name(tmp_path, monkeypatch):
    "The file first, then the rename, then the folder."
    seen, replace = [], os.replace

    def fsync(handle):
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        seen.append("folder" if folder else "file")

    def rename(a, b):
        seen.append("rename")
        replace(a, b)

    monkeypatch.setattr(core.os, "fsync", fsync)
    monkeypatch.setattr(core.os, "replace", rename)
    write_atomic(tmp_path / "a", words("one"))
    assert seen == ["file", "rename", "folder"]


# Writing: kills, threads, errors


def killed(path):
    "A write that is killed half-way."
    path.write_text("half", encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)


def test_kills_leave_nothing_behind_but_until_the_next_write(tmp_path):
    path = write_atomic(tmp_path / "a.safetensors", words("old"))
    other = write_atomic(tmp_path / "b.safetensors", words("other"))
    for _ in range(3):  # each removes what the one before has left
        assert forked(lambda: write_atomic(path, killed)) == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 3
    assert read(path) == "old"
    write_atomic(other, words("other"))  # leaves the writers of another file alone
    assert len(list(tmp_path.iterdir())) == 3
    write_atomic(path, words("new"))
    assert sorted(tmp_path.iterdir()) == [path, other]
    assert read(path) == "new"


def test_sixteen_threads_write_one_file(tmp_path):
    path, texts = tmp_path / "a", [str(i) * 10_000 for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda text: write_atomic(path, words(text)), texts))
    assert read(path) in texts
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    def half(path):
        path.write_text("ha", encoding="utf-8")
        raise KeyboardInterrupt

    path = write_atomic(tmp_path / "a", words("whole"))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, half)
    assert read(path) == "whole" and list(tmp_path.iterdir()) == [path]


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    file = write_atomic(tmp_path / "file", words("one"))
    for path, why in {
        tmp_path: "it is a folder",
        file / "a": "a folder on the way is a file",
        file / "a" / "b": "a folder on the way is a file",
        tmp_path / ("n" * 300): "the name is too long",
        Path("/dev/full"): "the disk is full",
        tmp_path / "a\0b": "null character",
    }.items():
        assert why in refused("", write_atomic, path, words("two"))
    assert list(tmp_path.iterdir()) == [file]
    long = tmp_path / ("ä" * 127)  # 254 bytes: as long as a name may be
    assert read(write_atomic(long, words("one"))) == "one"


@pytest.mark.parametrize(
    "number, why",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_errors_of_the_system_leave_the_old_file(
    call, number, why, tmp_path, monkeypatch
):
    path = write_atomic(tmp_path / "a", words("old"))

    def fails(*args, **how):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as m:
        m.setattr(core.os, call, fails)
        assert why in refused(path, write_atomic, path, words("new"))
    assert read(path) == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may")
def test_a_folder_and_a_file_without_permission(tmp_path):
    path = write_atomic(tmp_path / "a", words("old"))
    path.chmod(0o400)
    assert "no permission" in refused(path, write_atomic, path, words("new"))
    tmp_path.chmod(0o500)
    assert "no permission" in refused("b", write_atomic, tmp_path / "b", words("new"))
    tmp_path.chmod(0o700)


# Tensors in a file

KINDS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def test_tensors_come_back_bit_by_bit(tmp_path):
    g = torch.Generator().manual_seed(0)
    tensors = {
        str(k): (10 * torch.randn(3, 2, generator=g)).to(k).T for k in KINDS
    }  # not contiguous
    same = torch.ones(4)
    tensors |= {"": torch.tensor(2.0), "none": torch.ones(0, 3), "a": same, "b": same}
    tensors["nan"] = torch.tensor([float("nan"), float("inf")])
    about = {"text": 'ä "quoted" \\ \n', "n": [1, 2.5, True, None], "d": {"": {}}}
    path = save_tensors(tmp_path / "a", tensors, about)
    found, said = load_tensors(path)
    assert said == about and found.keys() == tensors.keys()
    for k, v in tensors.items():
        assert found[k].dtype == v.dtype and found[k].is_contiguous()
        assert_close(found[k], v, rtol=0, atol=0, equal_nan=True)
    again = save_tensors(tmp_path / "b", tensors, about)
    assert again.read_bytes() == path.read_bytes()  # the same file each time


class Deep(dict):
    "A dict that holds itself."


deep = Deep()
deep["a"] = deep


@pytest.mark.parametrize(
    "about, where",
    [
        (dict(loss=float("nan")), "got nan at about.loss"),
        (dict(a=[1, float("-inf")]), "got -inf at about.a.1"),
        ({"a": {1: 2}}, "the key 1 in about.a"),
        (dict(a=torch.ones(2)), "got Tensor at about.a"),
        (dict(a={1, 2}), "got set at about.a"),
        (deep, "can't be made"),
        ([], "want a dict"),
    ],
)
def test_what_json_would_lose_is_refused(about, where, tmp_path):
    assert where in refused("", save_tensors, tmp_path / "a", {}, about)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": 1},
        {3: torch.ones(1)},
        {"__metadata__": torch.ones(1)},
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.empty(2, device="meta")},
    ],
)
def test_what_is_no_tensor_with_numbers_is_refused(tensors, tmp_path):
    refused("", save_tensors, tmp_path / "a", tensors, {})
    assert not list(tmp_path.iterdir())


def corrupted(raw, others, rng):
    "Bytes, damaged in one of seven ways, and the name of the way."
    raw, i = bytearray(raw), rng.randrange(len(raw))
    n = rng.randrange(1, 300)
    way = rng.choice("flip set cut extend insert drop zero swap".split())
    if way == "flip":
        raw[i] ^= 1 << rng.randrange(8)
    elif way == "set":
        raw[i] = (raw[i] + rng.randrange(1, 256)) % 256
    elif way == "cut":
        raw = raw[:i]
    elif way == "extend":
        raw += bytes(rng.randrange(256) for _ in range(n))
    elif way == "insert":
        raw[i:i] = bytes(rng.randrange(256) for _ in range(n))
    elif way == "drop":
        del raw[i : i + n]
    elif way == "zero":
        part = raw[i : i + n]
        raw[i : i + n] = bytes(len(part)) if any(part) else b"\1" * len(part)
    else:
        raw = rng.choice(others)
    return bytes(raw), way


def test_corrupted_weights_are_refused(tmp_path):
    "240 flips of a byte, in the header and after it; 200 corruptions of every kind."
    folder = ROOT / "gud_nb" / "weights" / "digits-classifier"
    raw = (folder / "model.safetensors").read_bytes()
    config = (folder / "config.json").read_bytes()
    others = [b"", config, b"\x93NUMPY", b"PK\3\4" + raw, raw[8:], raw * 2]
    path = tmp_path / "model.safetensors"
    rng, header = random.Random(0), 8 + int.from_bytes(raw[:8], "little")
    places = [*range(0, 16), header - 1, header, len(raw) - 1]
    places += [rng.randrange(header) for _ in range(100)]
    places += [rng.randrange(len(raw)) for _ in range(240 - len(places))]
    cases = []
    for i in places:
        damaged = bytearray(raw)
        damaged[i] ^= 1 << rng.randrange(8)
        cases.append((bytes(damaged), f"byte {i}"))
    cases += [corrupted(raw, others, rng) for _ in range(200)]
    for damaged, way in cases:
        path.write_bytes(damaged)
        assert damaged != raw, way
        refused(path, load_classifier, tmp_path)
    path.write_bytes(raw)
    load_classifier(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(kind, tmp_path):
    "A pipe is not waited for."
    path = tmp_path / "model.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    assert "there is no file" in refused(path, load_tensors, path)


def test_a_file_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}, {"gud_nb": "[]"}, {"gud_nb": "{" * 9999}):
        save_file(dict(a=torch.ones(2)), path, metadata)
        assert "was not written by" in refused(path, load_tensors, path)


# A folder with a model


def small(law=None, recipe=None, family=None, **how):
    "A model of four components, awake."
    torch.manual_seed(0)
    recipe = recipe or vp()
    schedule = LinearBeta() if family is None else family(a=1.0)
    d = LinearDiffusion(recipe, schedule, Sigma0=hsm(recipe))
    network = MLP(SHAPE, width=8, depth=1, **how)
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    law = law or Independent(torch.zeros(SHAPE), torch.ones(SHAPE))
    return ScoreModel(network, d, Pixel(SHAPE), law, family=family).eval()


values = torch.tensor([2.0, 0.7, 0.3, 0.1], dtype=torch.float64).reshape(SHAPE)
FAMILY = Family(
    soft_conditioning, dict(a=(0.4, 1.6)), dict(variances=values, whitened=True)
)
z = torch.linspace(-1, 1, 8).reshape(2, 1, *SHAPE)


def test_the_shipped_files_are_sealed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folders = sorted((ROOT / "gud_nb" / "weights").iterdir())
        formats = [load_folder(folder)[1]["format"] for folder in folders]
    assert formats.count("gud_nb classifier") == 3
    assert formats.count("gud_nb noisy classifier") == 1
    assert formats.count("gud_nb model") == len(shipped()) == len(folders) - 4
    for folder in folders:
        assert (folder / "README.md").is_file()


def test_a_kill_between_the_two_files_keeps_weights_and_description_together(tmp_path):
    "The old copy of the description stays; the new weights have their own."
    small().save_pretrained(tmp_path)
    law, write = LowRank(torch.zeros(SHAPE), torch.ones(4, 1), values), write_atomic

    def until_the_copy(path, how):
        if path.name == "config.json":
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, how)

    def save():
        core.write_atomic = until_the_copy
        small(law, classes=3).save_pretrained(tmp_path)

    assert forked(save) == -signal.SIGKILL
    with pytest.warns(UserWarning, match="config.json is not the description") as said:
        model = from_pretrained(tmp_path)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert isinstance(model.law, LowRank) and model.network.config["classes"] == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 3}', "[" * 9999])
def test_the_copy_of_the_description_is_never_used(text, tmp_path):
    model = small()
    copied = model.save_pretrained(tmp_path) / "config.json"
    copied.write_text(text, encoding="utf-8")
    with pytest.warns(UserWarning, match="which is used"):
        same = from_pretrained(tmp_path)
    assert_close(same(z, 0.5), model(z, 0.5))
    copied.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_pretrained(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = small()
    with torch.no_grad():
        model.network.stem.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    how = dict(dtype=torch.float16)  # holds 65504 at most
    refused("network.stem.weight", model.save_pretrained, tmp_path, **how)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert "dtype" in refused("", model.save_pretrained, tmp_path, dtype=torch.int8)


# Descriptions that lie


def change(config, path, value):
    "A copy of a description in which a dotted path leads to a value; ...: to nothing."
    config = copy.deepcopy(config)
    *folders, last = path.split(".")
    inner = config
    for name in folders:
        inner = inner[int(name) if isinstance(inner, list) else name]
    if value is ...:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return config


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    "Tensors and description of a model, and a folder to change it in."
    law = LowRank(torch.zeros(SHAPE), torch.ones(4, 1), values)
    model = small(law, psld(), FAMILY)
    folder = tmp_path_factory.mktemp("described")
    file = model.save_pretrained(folder) / "model.safetensors"
    (folder / "config.json").unlink()
    return *load_tensors(file), file


DAMAGES = {  # path, value, what the error says
    "no format": ("format", ..., "no gud_nb model of this version"),
    "another format": ("format", "gud_nb classifier", "no gud_nb model"),
    "another class": ("class", "Popen", "the class 'Popen'"),
    "class in a list": ("class", ["ScoreModel"], "no gud_nb model"),
    "another kind of model": ("class", "PhaseModel", "got a law for a PhaseModel"),
    "no network": ("network", ..., "the model lacks network"),
    "network is a list": ("network", [], "network: got network of type list"),
    "another key": ("net", {}, "the model has net"),
    "about is a list": ("about", [], "got about of type list, want dict"),
    "no law": ("law", ..., "the model lacks law"),
    "law is null": ("law", None, "got the law NoneType"),
    "no class of network": ("network.class", ..., "network lacks class"),
    "class is a number": ("network.class", 3, "network: got the network 3"),
    "a program": ("network.class", "subprocess.Popen", "want one of gud_nb.network"),
    "another network": ("network.class", "gud_nb.network.UNet", "UNet does not take"),
    "no network at all": ("network.class", "gud_nb.network.bands", "want one of"),
    "a part of one": ("network.class", "gud_nb.network.MLPBlock", "does not take"),
    "extra argument": ("network.config.more", 1, "network: got more"),
    "missing argument": ("network.config.shape_in", ..., "network: .*shape_in"),
    "width is a word": ("network.config.width", "x", "got width of type str, want int"),
    "width is true": ("network.config.width", True, "got width of type bool"),
    "width is a fraction": ("network.config.width", 8.0, "got width of type float"),
    "width is huge": ("network.config.width", 10**9, "got width=1000000000"),
    "width is negative": ("network.config.width", -8, "network: "),
    "width is another": ("network.config.width", 4, "the weights of another network"),
    "depth is huge": ("network.config.depth", 10**6, "got depth=1000000, want at most"),
    "a shape of words": ("network.config.shape_in", ["a"], "shape_in of type str"),
    "a huge shape": ("network.config.shape_in.0", 10**9, "shape_in"),
    "more classes": ("network.config.classes", 3, "they lack conditioning.label"),
    "extra field": ("diffusion.more", 1, "diffusion: .*'more'"),
    "no recipe": ("diffusion.recipe", ..., "diffusion: .*'recipe'"),
    "no class": ("diffusion.class", ..., "diffusion: "),
    "no such module": ("diffusion.class", "gud_nb.x.Y", "diffusion: "),
    "by another name": (
        "diffusion.class",
        "gud_nb.loss.LinearDiffusion",
        "got the class 'gud_nb.loss.LinearDiffusion'",
    ),
    "a class of all": ("diffusion.class", "pathlib.Path", "diffusion: got the class"),
    "by_snr is a word": ("diffusion.by_snr", "x", "got by_snr of type str .*want bool"),
    "by_snr is a number": ("diffusion.by_snr", 1, "got by_snr of type int"),
    "by_snr is another": ("diffusion.by_snr", True, "contradict one another"),
    "recipe is a word": ("diffusion.recipe", "vp", "got recipe of type str"),
    "schedule is a recipe": (
        "diffusion.schedule",
        {"class": "gud_nb.schedule.Family"},
        "",
    ),
    "not a class of ours": ("basis.class", 7, "basis: "),
    "diffusion is a number": ("diffusion", 5, "got diffusion of type int"),
    "basis is a list": ("basis", [1], "got basis of type tuple"),
    "data of words": ("basis.data_shape", "abc", "got data_shape of type str"),
    "huge data": ("basis.data_shape", [1, 10**9, 10**9], "basis.data_shape"),
    "large data": ("basis.data_shape", [1, 50_000, 50_000], "product at most 16777216"),
    "huge columns": (
        "basis",
        {
            "class": "gud_nb.basis.Columns",
            "column": {"class": "gud_nb.basis.Pixel", "data_shape": [1, 2]},
            "width": 10**9,
        },
        "got basis.width=1000000000, want ≤ 65536",
    ),
    "groups are a word": ("groups", "x", "got groups of type str"),
    "family is a number": ("family", 1.0, "got family of type float"),
    "no function": ("family.make", None, "family: got make of type NoneType"),
    "a function of all": ("family.make", {"function": "os.system"}, "the function"),
    "ranges are a list": ("family.ranges", [1], "got ranges of type tuple"),
    "whitened is a word": (
        "family.fixed.dict.whitened",
        "x",
        "got whitened of type str",
    ),
    "a range with true": ("family.ranges.dict.a.0", True, "got the range of a of type"),
    "ranges of words": ("family.ranges.dict.a", ["x", "y"], "family: |a"),
    "channel is a word": ("channel", "no", "got channel of type str, want bool"),
    "no dtype": ("law.mean.dtype", ..., "law: got tensor in a saved file, want dtype"),
    "no such dtype": ("law.mean.dtype", "float65", "law: got the dtype 'float65'"),
    "dtype is a function": ("law.mean.dtype", "randn", "law: got the dtype 'randn'"),
    "no such tensor": ("law.mean.tensor", "x", "law: "),
    "ragged": ("law.mean.tensor", [[1.0], []], "law: "),
    "words for numbers": ("law.mean.tensor", ["a"], "law: "),
    "mean is a number": ("law.mean", 3.0, "got mean of type float in a saved LowRank"),
    "variances below 0": ("law.rest.tensor", [[[-1.0, 1.0], [1.0, 1.0]]], "law: "),
}


@pytest.mark.parametrize("path, value, message", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_description_is_refused_in_one_line(path, value, message, described):
    tensors, config, file = described
    save_tensors(file, tensors, change(config, path, value))
    with pytest.raises(ValueError, match=f"{file}: .*({message})") as caught:
        from_pretrained(file.parent)
    assert "\n" not in str(caught.value)


def test_a_huge_network_is_refused_before_memory_is_taken(described):
    import resource

    tensors, config, file = described
    save_tensors(file, tensors, change(config, "network.config.width", 10**9))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(file, from_pretrained, file.parent)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("old", ["network.stem.weight", "law.loadings"])
@pytest.mark.parametrize("way", ["renamed", "gone", "more", "another shape"])
def test_tensors_of_another_description_are_refused(way, old, tmp_path):
    law = LowRank(torch.zeros(8), torch.ones(8, 5), torch.ones(8))
    d = LinearDiffusion(vp(), LinearBeta())
    model = ScoreModel(MLP((8,), width=8, depth=1), d, Pixel((8,)), law)
    file = model.save_pretrained(tmp_path) / "model.safetensors"
    tensors, config = load_tensors(file)
    if way == "more":
        tensors[f"{old}s"] = torch.ones(3)
    else:
        v = tensors.pop(old)
        other = {"renamed": {f"{old}er": v}, "gone": {}}
        other["another shape"] = {old: torch.ones(3, 3, 3)}
        tensors |= other[way]
    save_tensors(file, tensors, config)
    refused(file, from_pretrained, tmp_path)


def test_a_field_with_a_default_may_be_missing(described):
    "Files of earlier versions lack the fields that came later."
    tensors, config, file = described
    save_tensors(file, tensors, change(config, "diffusion.by_snr", ...))
    assert from_pretrained(file.parent).diffusion.by_snr is False


def entries(plain, at=()):
    "Paths to all entries of a description."
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain)
    for k, v in inner:
        yield (*at, str(k))
        if isinstance(v, (dict, list)):
            yield from entries(v, (*at, str(k)))


VALUES = [None, "x", -1, 10**9, 2.5, 1e308, True, [], [1], {}, {"tensor": "x"}]


def listed(v):
    "JSON without the difference between tuples and lists."
    return json.loads(json.dumps(v))


def test_any_change_is_refused_or_taken_as_it_is(described, full):
    "What loads must be what the description says: saved again, it says the same."
    tensors, config, file = described
    paths = [".".join(p) for p in entries(config)]
    cases = [(p, v) for p in paths for v in VALUES]
    for path, value in cases if full else random.Random(0).sample(cases, 60):
        changed = change(config, path, value)
        save_tensors(file, tensors, changed)
        try:
            model = from_pretrained(file.parent)
        except ValueError as e:
            assert "\n" not in str(e) and str(file) in str(e), (path, value, e)
        else:
            said = listed(model._described()[1] | dict(about=model.about))
            for d in (said, changed):  # None is there what comes of it
                del d["network"]["config"]
            assert said == changed, (path, value)


# State dicts, and networks that are wrapped


LAWS = {
    "Independent": Independent(torch.zeros(SHAPE), values),
    "Dense": Dense(torch.zeros(SHAPE), torch.eye(4) + 0.5),
    "LowRank": LowRank(torch.zeros(SHAPE), torch.ones(4, 1), values),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_state_dict_holds_the_law(law):
    model, other = small(law), small(law)
    for p in other.parameters():
        nn.init.zeros_(p)
    state = model.state_dict()
    assert {k for k in state if k.startswith("law.")} > {"law.mean"}
    other.load_state_dict(copy.deepcopy(state))
    assert_close(other(z, 0.5), model(z, 0.5))
    model.half().load_state_dict({k: v.half() for k, v in state.items()})


def test_a_state_dict_of_another_law_is_refused():
    "Before any weight is changed."
    laws = [*LAWS.values(), Independent(torch.ones(SHAPE), values)]
    models = [small(law) for law in laws]
    bare = PhaseModel(small().network, models[0].diffusion, Pixel(SHAPE))
    for model in (*models, bare):
        before = copy.deepcopy(model.network.state_dict())
        for other in models:
            if other is not model:
                state = {k: v + 1 for k, v in other.state_dict().items()}
                with pytest.raises(ValueError, match="another law"):
                    model.load_state_dict(state)
        after = model.network.state_dict()
        assert all(torch.equal(v, before[k]) for k, v in after.items())


def test_a_state_dict_without_the_law_is_refused():
    model = small()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("law.")}
    with pytest.raises(RuntimeError, match="law.mean"):
        model.load_state_dict(state)
    model.load_state_dict(state, strict=False)


WRAPPED = {
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "both": lambda net: nn.DataParallel(torch.compile(net)),
    "twice": lambda net: torch.compile(nn.DataParallel(net)),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_networks_are_saved_bare(wrap, tmp_path):
    model = small(classes=3)
    law, d = model.law, model.diffusion
    wrapped = ScoreModel(wrap(model.network), d, Pixel(SHAPE), law)
    assert bare_network(wrapped) is model.network
    same = from_pretrained(wrapped.save_pretrained(tmp_path))
    assert_close(same(z, 0.5, 1), model(z, 0.5, 1))
    refused("labels 3 to 3, want 0 to 2", wrapped.checked_labels, 3, 2)


def test_a_network_with_a_compiled_part_is_saved_bare(tmp_path):
    model = small()
    want = model(z, 0.5)
    model.network.body = torch.compile(model.network.body)
    same = from_pretrained(model.save_pretrained(tmp_path))
    assert_close(same(z, 0.5), want)


def test_a_network_of_several_processes_is_saved_bare(tmp_path):
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = small()
        want = model(z, 0.5)
        model.network = nn.parallel.DistributedDataParallel(model.network)
        folder = model.save_pretrained(tmp_path / "model")
    finally:
        dist.destroy_process_group()
    assert_close(from_pretrained(folder)(z, 0.5), want)


# The same network for images; classifiers


def test_a_model_of_images_comes_back(tmp_path):
    "A U-Net in a scaled basis, in half precision, with what was said about it."
    basis = Scaled(DCT((1, 8, 8)), torch.zeros(1, 8, 8), 0.5)
    law = Independent(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
    d = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))
    net = UNet(1, width=8, mults=(1, 2), attention=(1,), classes=4, middle=1, embed=16)
    model = ScoreModel(net, d, basis, law)
    model.about = dict(seed=0, measured=["ä", 1.5])
    random_state = torch.get_rng_state()
    same = from_pretrained(model.save_pretrained(tmp_path, torch.float16))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert same.about == model.about and not same.training
    for k, v in same.network.state_dict().items():
        assert torch.equal(v, net.state_dict()[k].half().float())
    assert "device" in refused("device", from_pretrained, tmp_path, device="gpu9")


CLASSIFIER = {
    "no config": ("config", ..., "'config'"),
    "config is a list": ("config", [], ""),
    "another format": ("format", "gud_nb model", "got the format 'gud_nb model'"),
    "no shape": ("config.shape", ..., "'shape'"),
    "huge": ("config.width", 10**9, "got width=1000000000"),
    "another width": ("config.width", 4, "weights of another network"),
    "a word": ("config.dim", "x", "got dim of type str"),
    "more": ("config.more", 1, "got more"),
}


@pytest.mark.parametrize("path, value, message", CLASSIFIER.values(), ids=CLASSIFIER)
def test_a_damaged_classifier_is_refused(path, value, message, tmp_path):
    folder = save_classifier(tmp_path, Classifier((1, 8, 8), width=2, dim=4), seed=0)
    tensors, about = load_folder(folder)
    file = folder / "model.safetensors"
    (folder / "config.json").unlink()
    save_tensors(file, tensors, change(about, path, value))
    assert message in refused(file, load_classifier, folder)
