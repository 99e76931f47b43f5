"""Data, networks and evaluation: integers, default precision, groups, ASCII locale."""

import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from unittest import mock

import matplotlib
import pytest
import torch
from loaders import orders, same
from torch.testing import assert_close

from gud_nb import data
from gud_nb.data import (
    Images,
    Tensors,
    denormalise,
    digits,
    every_fifth,
    field_spectrum,
    gaussian_field,
    normalise,
    random_flip,
)
from gud_nb.evaluate import (
    Classifier,
    accuracy,
    calibrate,
    energy_distance,
    feature_extractor,
    film_strip,
    fitted_gaussian,
    frechet_distance,
    load_classifier,
    power_spectrum,
    save_classifier,
    spectrum_error,
    train_classifier,
)
from gud_nb.network import MLP, Conditioning, DiT, FourierEmbedding, UNet, bands

matplotlib.use("Agg")
ROOT = Path(__file__).parents[1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def wake(net):
    "Small random values for the parameters that are zero."
    for i, p in enumerate(net.parameters()):
        if not p.any():
            p.data.copy_(0.1 * torch.randn(p.shape, generator=seeded(i)))
    return net.eval()


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def in_double(f):
    "What `f` returns where the default precision is float64."
    torch.set_default_dtype(torch.float64)
    try:
        return f()
    finally:
        torch.set_default_dtype(torch.float32)


# Groups of components


def sizes(order, n):
    return bands(order, n).bincount().tolist()


def by_hand(counts, n):
    "The least sum of squares over all divisions of neighbouring counts in n groups."
    ends = combinations(range(1, len(counts)), n - 1)
    return min(
        sum(sum(counts[a:b]) ** 2 for a, b in zip((0, *cut), (*cut, len(counts))))
        for cut in ends
    )


def test_as_many_groups_as_wanted_and_as_even_as_can_be():
    g = seeded(3)
    for _ in range(60):
        m = int(torch.randint(1, 9, (), generator=g))
        counts = torch.randint(1, 30, (m,), generator=g) ** 2
        order = torch.arange(m).repeat_interleave(counts)
        order = order[torch.randperm(len(order), generator=g)]
        for n in range(1, m + 1):
            got = sizes(order, n)
            assert len(got) == n and min(got) > 0
            assert sum(k**2 for k in got) == by_hand(counts.tolist(), n)
            groups = bands(order, n)
            for value in range(m):  # equal values together, in rising order
                own = groups[order == value].unique()
                assert len(own) == 1
                assert value == 0 or own >= groups[order == value - 1][0]


def test_levels_of_a_wavelet():
    counts = torch.tensor([4, 12, 48, 192, 768])
    levels = torch.arange(5).repeat_interleave(counts).double()
    assert torch.equal(bands(levels, 5), levels.long())
    assert sizes(levels, 2) == [256, 768]


def test_many_values_are_divided_evenly():
    assert sizes(torch.randn(3072, generator=seeded()), 16) == [192] * 16
    assert max(sizes(torch.arange(1000), 7)) - min(sizes(torch.arange(1000), 7)) == 1
    assert bands(torch.arange(12).reshape(3, 4), 3).tolist() == [
        [i] * 4 for i in (0, 1, 2)
    ]


def test_fewer_values_than_groups_are_said():
    with pytest.warns(
        UserWarning, match="n=3 groups for an order of 2 distinct values"
    ):
        assert bands(torch.tensor([1, 0, 1]), 3).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="NaN"):
        bands(torch.tensor([1.0, torch.nan]), 2)


# Integers

INTEGERS = (torch.uint8, torch.int64, torch.bool)
NETS = {
    "unet": (lambda: UNet(1, width=8, mults=(1, 2), classes=3), (1, 8, 8)),
    "groups": (lambda: UNet(1, width=8, mults=(1, 2), groups=2, cross=[1]), (1, 8, 8)),
    "mlp": (lambda: MLP((1, 2), width=8, depth=1, classes=3), (1, 2)),
    "dit": (lambda: DiT((1, 4, 4), width=8, depth=1, classes=3), (1, 4, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_networks_refuse_integer_states(name):
    make, shape = NETS[name]
    level = torch.zeros(2, 2) if name == "groups" else torch.zeros(2)
    for dtype in INTEGERS:
        x = torch.ones(2, *shape).to(dtype)
        with pytest.raises(ValueError, match=f"got x in {dtype}.*normalise"):
            make()(x, level)


@pytest.mark.parametrize("name", NETS)
def test_integer_noise_levels_and_labels_are_exact(name):
    make, shape = NETS[name]
    net, x = wake(make()), torch.randn(2, *shape, generator=seeded())
    level = torch.tensor([[3, -4], [0, 7]] if name == "groups" else [3, -4])
    assert_close(net(x, level), net(x, level.float()), rtol=0, atol=0)
    if name != "groups":
        labels = torch.tensor([2, 3])
        want = net(x, level.float(), labels)
        for dtype in (torch.uint8, torch.int32):
            assert_close(net(x, level, labels.to(dtype)), want, rtol=0, atol=0)
        with pytest.raises(ValueError, match=r"labels.long\(\)"):
            net(x, level, labels.float())


def test_evaluation_refuses_bytes():
    real = digits(train=False).x
    bytes_ = denormalise(real)
    classifier, see = Classifier((1, 8, 8), width=4), feature_extractor("digits")
    for f in (
        classifier,
        classifier.features,
        see,
        lambda x: fitted_gaussian(x, 3, seeded()),
        lambda x: calibrate(see, x, real, seeded()),
        lambda x: train_classifier(x, torch.zeros(len(x)).long(), epochs=1),
        lambda x: accuracy(classifier.eval(), x, torch.zeros(len(x))),
    ):
        with pytest.raises(ValueError, match="got images in torch.uint8.*normalise"):
            f(bytes_)


def test_evaluation_of_integers_is_exact():
    a = torch.randint(0, 9, (20, 4), generator=seeded())
    b = torch.randint(0, 9, (30, 4), generator=seeded(1))
    for f in (frechet_distance, energy_distance):
        assert f(a, b) == f(a.double(), b.double())
        with pytest.raises(ValueError, match="torch.complex"):
            f(a * 1j, b)
    x = torch.randint(0, 255, (5, 1, 8, 8), generator=seeded()).to(torch.uint8)
    for p, q in zip(power_spectrum(x), power_spectrum(x.double())):
        assert_close(p, q, rtol=0, atol=0)
    frames = torch.randint(-1, 2, (3, 2, 1, 8, 8), generator=seeded())
    strips = [film_strip(dict(a=v, b=3 * v)) for v in (frames, frames.float())]
    assert strips[0].axes[1].get_ylabel() == strips[1].axes[1].get_ylabel()


def test_labels_of_any_integer_dtype():
    train = digits()
    x, labels = train.x[:200], train.labels[:200]
    weights = [
        train_classifier(x, y, epochs=1, width=4).head.weight
        for y in (labels, labels.to(torch.uint8), labels.int())
    ]
    assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert_close(weights[0], weights[2], rtol=0, atol=0)


def test_data_of_integers():
    with pytest.raises(ValueError, match="want torch.uint8"):
        normalise(torch.arange(5))
    with pytest.raises(ValueError, match="got torch.uint8, want floating point"):
        denormalise(torch.arange(5).to(torch.uint8))
    pictures = torch.randint(0, 255, (9, 1, 2, 3), generator=seeded())
    flipped = random_flip(pictures, seeded(1))
    assert flipped.dtype == pictures.dtype
    assert_close(flipped.double(), random_flip(pictures.double(), seeded(1)))


def test_fields_of_no_shape_or_number():
    with pytest.raises(ValueError, match=r"want \(C, H, W\)"):
        field_spectrum((8, 8), 2.0)
    with pytest.raises(ValueError, match="want n ≥ 1"):
        gaussian_field((1, 8, 8), 2.0, 0, torch.Generator())
    assert_close(field_spectrum((1, 4, 6), 0.0), torch.ones(1, 4, 6).double())
    with pytest.raises(ValueError, match=r"want \(n, C, H, W\)"):
        random_flip(torch.zeros(1, 8, 8), seeded())


def test_what_are_no_images():
    x, y, abc = torch.zeros(6, 1, 4, 4), torch.arange(6) % 3, ("a", "b", "c")
    for bad_x, bad_y, classes, why in (
        (x[:, 0], y, abc, r"shape \(6, 4, 4\)"),
        (x.double(), y, abc, "torch.float64, want"),
        (x[:0], y[:0], abc, "n ≥ 1"),
        (x[:, :, :0], y, abc, r"shape \(6, 1, 0, 4\)"),
        (x + 1.01, y, abc, r"want \[-1, 1\]: see normalise"),
        (x - 1.01, y, abc, r"want \[-1, 1\]: see normalise"),
        (x * torch.nan, y, abc, "from nan to nan"),
        (x, y[:5], abc, "one for each image"),
        (x, y.int(), abc, "torch.int32"),
        (x, y, abc[:2], "from 0 to 2, want 0 to 1"),
        (x, y - 1, abc, "from -1 to 1, want 0 to 2"),
    ):
        with pytest.raises(ValueError, match=why):
            Images(bad_x, bad_y, "noise", classes)
    noise = Images(x, y, "noise", abc)
    for i, why in ((3, r"data\[3:3\+1\]"), (slice(6, None), "n ≥ 1")):
        with pytest.raises(ValueError, match=why):
            noise[i]


# Default precision


def test_data_do_not_depend_on_the_default_precision():
    def made():
        field = gaussian_field((1, 6, 8), 2.0, 3, seeded())
        flipped = random_flip(field.repeat(20, 1, 1, 1), seeded(1))
        parts = digits().x, digits(size=6).x, every_fifth(torch.arange(9) % 2, True)
        bytes_ = denormalise(field), normalise(torch.arange(9).to(torch.uint8))
        return [
            field,
            flipped,
            field_spectrum((1, 4, 6), 2.0),
            *parts,
            *bytes_,
        ]

    for a, b in zip(made(), in_double(made)):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_in_double_precision(name, dtype, double):
    make, shape = NETS[name]
    net, x = wake(make()), torch.randn(2, *shape, dtype=dtype)
    level = torch.zeros(2, 2, dtype=dtype) if name == "groups" else torch.zeros(2)
    assert net(x, level.to(dtype)).dtype == torch.float64
    single = net.float()(x, level.to(dtype))
    assert single.dtype == torch.float32
    assert_close(single.double(), make_double(net)(x, level), rtol=1e-4, atol=1e-4)


def make_double(net):
    return net.double()


def test_the_embedding_follows_the_default_precision(double):
    embedding = FourierEmbedding()
    assert embedding(torch.zeros(2)).dtype == torch.float64
    assert embedding(torch.zeros(2, dtype=torch.float32)).dtype == torch.float64
    assert Conditioning(8)(torch.zeros(2)).dtype == torch.float64


def test_evaluation_does_not_depend_on_the_default_precision(tmp_path):
    train, test = digits(), digits(train=False)
    see = feature_extractor("digits")

    def made():
        extract = feature_extractor("digits")
        return [
            extract(test.x),
            *power_spectrum(test.x),
            *power_spectrum(torch.ones(1, 1, 6, 9).float()),  # rounding decides here
            torch.tensor(spectrum_error(test.x, train.x).value, dtype=torch.float64),
            fitted_gaussian(train.x, 5, seeded()),
            *(
                torch.tensor(row["frechet"].value, dtype=torch.float64)
                for row in calibrate(see, test.x, train.x, seeded())
            ),
        ]

    for a, b in zip(made(), in_double(made)):
        assert_close(a, b, rtol=0, atol=0)


def test_training_in_double_precision(tmp_path, double):
    train = digits()
    x, labels = train.x[:300], train.labels[:300]
    model = train_classifier(x, labels, epochs=6, width=6, batch=32)
    assert model.head.weight.dtype == torch.float64
    assert accuracy(model, x, labels) > 0.5
    again = load_classifier(save_classifier(tmp_path / "mine", model, data="digits"))
    assert {v.dtype for v in again.parameters()} == {torch.float32}
    assert accuracy(again, x, labels) > 0.5


# Text


def test_text_is_utf8_where_the_locale_is_ascii(tmp_path):
    program = f"""
import gud_nb.basis, gud_nb.data, gud_nb.files, gud_nb.network
from gud_nb.evaluate import Classifier, load_classifier, save_classifier
folder = {str(tmp_path / "mine")!r}
save_classifier(folder, Classifier((1, 8, 8), width=4), data="8\\u00d78")
assert load_classifier(folder).config["width"] == 4
"""
    ascii_only = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | ascii_only,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode(errors="replace")


@pytest.mark.parametrize(
    "name",
    ["benchmarks/bases.py", "studies/train_classifiers.py"],
)
def test_help_is_printed_where_the_locale_is_ascii(name):
    ascii_only = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    run = subprocess.run(
        [sys.executable, ROOT / name, "--help"],
        env=os.environ | ascii_only,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode(errors="replace")
    assert re.search(rb"usage|GUD_DATA", run.stdout)


# In memory


def test_data_that_do_not_fit_are_gathered_by_workers():
    "The device is another, and full; the CPU stands for it where batches arrive."
    train = digits()[:40]
    index = orders(40)
    rows = data._Rows(data._as_bytes(train.x), train.labels)
    cpu = torch.device("cpu")
    how = dict(batch_sampler=data._OnCPU(iter(index)))
    same(data._moved(data._read_ahead(rows, cpu, 0, **how), cpu), train, index)
    full = mock.patch.object(torch.cuda, "mem_get_info", return_value=(100, 1000))
    with full, mock.patch.object(data, "_read_ahead") as ahead:
        train.loader(index, "cuda")
    assert ahead.call_args[0][1:] == (torch.device("cuda"), 0)
    for size, fits in ((50, True), (51, False)):
        with full:
            bytes_ = torch.zeros(size, dtype=torch.uint8)
            assert data._fits(bytes_, torch.device("cuda")) == fits
    assert data._fits(train.x, torch.device("mps"))


def test_images_of_bytes_are_held_as_bytes_and_come_back_exactly():
    u = torch.randint(256, (300, 3, 4, 4), generator=seeded()).to(torch.uint8)
    x = normalise(u)
    assert_close(data._as_bytes(x), u)
    (again, labels), *_ = data._gathered(u, None, [torch.tensor([4, 4, 299])])
    assert_close(again, x[[4, 4, 299]], rtol=0, atol=0)
    assert labels is None
    for other in (x * 0.999, x * 1.5, x.double(), x.where(x < 0.9, torch.nan)):
        assert data._as_bytes(other) is other


def test_tensors_of_any_shape():
    x, labels = torch.randn(9, 2, 5, generator=seeded()) * 7, torch.arange(9)
    source = Tensors(x, labels, "points", tuple("abcdefghi"))
    assert (len(source), source.shape, len(source.classes)) == (9, (2, 5), 9)
    (got, own), *_ = source.loader([torch.tensor([8, 8, 1])], "cpu")
    assert_close(got, x[[8, 8, 1]], rtol=0, atol=0)
    assert own.tolist() == [8, 8, 1]
    assert_close(source.head(3).x, x[[0, 3, 6]])
    assert next(Tensors(x).loader([torch.arange(3)], "cpu"))[1] is None
    for bad in ((x.long(),), (x[:0],), ([1, 2],), (x, labels[:4]), (x, labels.float())):
        with pytest.raises(ValueError, match="tensors"):
            Tensors(*bad)
