"""Images from files: of every mode, folders, tables, streams, and their loaders."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from dataclasses import replace
from io import BytesIO
from itertools import count, islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from unittest import mock
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from loaders import orders, same
from PIL import Image, ImageOps
from torch.testing import assert_close

from gud_nb import files
from gud_nb.data import Images, denormalise, digits, normalise
from gud_nb.files import (
    image_folder,
    image_stream,
    image_table,
    load,
    read_image,
)

ROOT = Path(__file__).parents[1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# One file


def encoded(image, kind="PNG", **how):
    buffer = BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def picture(mode="RGB", h=12, w=20, seed=0):
    "Random pixels, all over the range of a mode."
    g = np.random.default_rng(seed)
    bands = len(Image.new(mode, (1, 1)).getbands())
    u = g.integers(0, 256, (h, w, bands), dtype=np.uint8)
    if bands > 1:
        return Image.fromarray(u, mode if mode in ("LA", "RGBA", "CMYK") else None)
    return Image.fromarray(u[..., 0]).convert(mode)


def over_white(u, alpha):
    "The composite, to a level."
    a = alpha.astype(float)[..., None] / 255
    return torch.from_numpy(np.round(u * a + 255 * (1 - a)))


def pixels(image):
    u = torch.from_numpy(np.array(image))
    return u[..., None] if u.ndim == 2 else u


def read(file, *args):
    return read_image(file, *args).permute(1, 2, 0)


def test_every_mode_is_what_a_viewer_shows():
    grey, colour, clear = picture("L"), picture("RGB"), picture("RGBA")
    u = np.array(picture("LA"))
    palette = colour.quantize(7)
    sixteen = np.random.default_rng(0).integers(0, 65536, (12, 20)).astype(np.uint16)
    eight = torch.from_numpy(np.round(sixteen / 257))[..., None]
    want = {
        encoded(grey): pixels(grey),
        encoded(grey.convert("1")): pixels(grey.convert("1").convert("L")),
        encoded(Image.fromarray(u)): over_white(u[..., :1], u[..., 1]),
        encoded(palette): pixels(palette.convert("RGB")),
        encoded(palette, "GIF"): pixels(palette.convert("RGB")),
        encoded(colour): pixels(colour),
        encoded(clear): over_white(np.array(clear)[..., :3], np.array(clear)[..., 3]),
        encoded(picture("CMYK"), "TIFF"): pixels(picture("CMYK").convert("RGB")),
        encoded(Image.fromarray(sixteen)): eight,
        encoded(Image.fromarray(sixteen), "TIFF"): eight,
        encoded(Image.fromarray(sixteen.astype(">u2")), "TIFF"): eight,
        encoded(Image.fromarray(sixteen), "PPM"): eight,
    }
    for kind, how in (("WEBP", dict(lossless=True)), ("BMP", {}), ("TIFF", {})):
        want[encoded(colour, kind, **how)] = pixels(colour)
    assert len(want) == 15
    for file, value in want.items():
        got = read(file)
        assert_close(got.double(), value.double(), rtol=0, atol=1)


def test_sixteen_bits_become_the_nearest_of_eight():
    u = np.array([[0, 128, 129, 385, 386, 65535 - 129, 65535 - 128, 65535]])
    file = encoded(Image.fromarray(u.astype(np.uint16)))
    assert read(file).flatten().tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


def test_one_transparent_colour_is_white():
    palette = picture("RGB").quantize(7)
    first = np.asarray(palette) == 0
    assert (read(encoded(palette, transparency=0))[first] == 255).all()
    grey = Image.fromarray(np.array([[7, 200]], dtype=np.uint8))
    file = encoded(grey, transparency=7)
    assert read(file).tolist() == [[[255], [200]]]


def test_all_eight_orientations_are_undone():
    upright = picture("RGB", 4, 6)
    turns = (None, 0, 3, 1, 5, 2, 6, 4)  # what makes each of the orientations
    for orientation, turn in enumerate(turns, 1):
        stored = upright if turn is None else upright.transpose(turn)
        note = Image.Exif()
        note[0x0112] = orientation
        back = read(encoded(stored, exif=note))
        assert_close(back, pixels(upright))
    note[0x0112] = 6  # 16 bits are turned, too
    deep = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 257)
    got = read(encoded(deep, exif=note))[..., 0]
    assert got.tolist() == [[3, 0], [4, 1], [5, 2]]


def test_grey_and_colour_are_converted_where_that_is_wanted(tmp_path):
    grey, colour = encoded(picture("L")), encoded(picture("RGB"))
    assert_close(read(grey, 3), read(grey).expand(-1, -1, 3))
    assert_close(read(encoded(picture("L").convert("RGB")), 1), read(grey))
    luma = np.array(picture("RGB")) @ [0.299, 0.587, 0.114]
    assert abs(read(colour, 1)[..., 0].numpy() - luma).max() < 1
    with pytest.raises(ValueError, match="got channels=2, want 1"):
        read_image(colour, 2)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_unknown_range_are_refused_by_name(tmp_path, mode):
    Image.new(mode, (3, 2), 1).save(tmp_path / "depth.tif")
    with pytest.raises(ValueError, match=f"depth.tif: pixels of mode {mode},.*8 or 16"):
        read_image(tmp_path / "depth.tif")


def test_sizes_cover_and_are_cropped_about_the_centre():
    stripes = np.zeros((30, 60, 3), np.uint8)
    stripes[:, 20:40] = 255
    got = read(encoded(Image.fromarray(stripes)), None, 10)  # 20 wide, then 10
    assert got.shape == (10, 10, 3)
    assert (got[:, 2:8] > 240).all() and (got[:, [0, 9]] < 140).all()
    assert read(encoded(picture()), None, (5, 9)).shape == (5, 9, 3)
    same = picture("RGB", 8, 8)
    assert_close(read(encoded(same), None, 8), pixels(same))
    want = ImageOps.fit(picture(), (6, 6), Image.Resampling.LANCZOS)
    assert_close(read(encoded(picture()), None, 6), pixels(want))
    for size in (0, -1, 2.5, (3,), (3, 4, 5), "8", True, 10**9):
        with pytest.raises(ValueError, match="want a side in pixels"):
            read_image(encoded(picture()), None, size)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, kind):
    whole, file = encoded(picture("RGB", 40, 40), kind), tmp_path / "cut.img"
    for share in (0, 0.001, 0.01, 0.1, 0.5, 0.9):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match="cut.img: .") as said:
            read_image(file)
        assert "\n" not in str(said.value)


def test_bytes_that_changed_raise_no_other_error():
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"):
        whole, g = encoded(picture("RGB", 16, 16), kind), np.random.default_rng(1)
        for at in g.integers(0, len(whole), 40):
            changed = bytearray(whole)
            changed[at] ^= 1 << int(g.integers(8))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read_image(bytes(changed))
                except ValueError as e:
                    assert "\n" not in str(e)


@pytest.mark.parametrize("error", [KeyError("x"), SyntaxError("y\nz"), EOFError()])
def test_whatever_a_reader_trips_over_is_a_broken_file(tmp_path, error):
    picture().save(tmp_path / "a.png")
    with mock.patch("PIL.ImageFile.ImageFile.load", side_effect=error):
        with pytest.raises(ValueError, match=r"a.png: broken \([^\n]+\)$"):
            read_image(tmp_path / "a.png")


def test_bombs_are_refused_by_name(tmp_path):
    file = tmp_path / "bomb.png"
    picture("L", 10, 10).save(file)
    for limit in (99, 40):  # beyond twice the limit Pillow itself raises
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", limit):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(ValueError, match="bomb.png: .*(bomb|pixels)"):
                    read_image(file)
    with mock.patch.object(Image, "MAX_IMAGE_PIXELS", None):
        assert read_image(file).shape == (1, 10, 10)


def test_only_image_formats_are_opened(tmp_path):
    "A PostScript file would start a program."
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9")
    with pytest.raises(ValueError, match="a.png: no PNG, JPEG"):
        read_image(tmp_path / "a.png")


# Folders


def fill(folder, names, **how):
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=k, **how).save(folder / name)


def test_a_folder_without_what_is_hidden(tmp_path):
    seen = ["a/1.PNG", "a/b/2.webp", "a/b/3.bmp", "c/4.tif", "c/5.jpeg", "c/6.gif"]
    fill(tmp_path, seen)
    fill(tmp_path, [".git/1.png", "a/.thumbs/1.png", "a/.1.png", "__MACOSX/1.png"])
    (tmp_path / "a/notes.txt").write_text("no image", encoding="utf-8")
    train, test = (image_folder(tmp_path, part) for part in (True, False))
    assert sorted(train.files.paths + test.files.paths) == seen
    assert train.classes == test.classes == ("a", "a/b", "c")
    assert len(train[:]) + len(test[:]) == 6
    assert image_folder(tmp_path / "c").classes == ("c",)  # one class has its name
    hidden = tmp_path / ".git"
    fill(hidden, ["2.png"])
    assert len(image_folder(hidden)) == 1  # a folder that was asked for is read


def test_links_are_followed_once_and_loops_end(tmp_path):
    fill(tmp_path / "elsewhere", ["1.png", "2.png"])
    fill(tmp_path / "set", ["z/3.png", "z/4.png"])
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a_second_link").symlink_to(tmp_path / "set/z")
    (tmp_path / "set/z/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/z/itself").symlink_to(tmp_path / "set/z/itself")
    found = image_folder(tmp_path / "set")
    assert found.classes == ("linked", "z")
    assert len(found) + len(image_folder(tmp_path / "set", False)) == 4


def test_pipes_are_left_alone_and_dangling_links_reported(tmp_path):
    fill(tmp_path, ["1.png", "2.png", "3.png"])
    os.mkfifo(tmp_path / "pipe.png")
    assert len(image_folder(tmp_path)) == 2
    (tmp_path / "4.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="1 unusable of 3.*4.png: .*No such file"):
        image_folder(tmp_path)[:]


def test_names_in_any_script_or_none(tmp_path):
    fill(tmp_path, ["Füße/größe.png", "猫/小さい.png", "🐈/a b\n.png"])
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    odd = os.fsencode(tmp_path) + b"/caf\xe9/\xff.png"
    with open(odd, "wb") as f:
        f.write(encoded(picture())[:50])
    data = [image_folder(tmp_path, part) for part in (True, False)]
    assert data[0].classes == ("Füße", "caf\\xe9", "猫", "🐈")
    with pytest.raises(ValueError, match=r"caf\\xe9/\\xff.png") as said:
        [d[:] for d in data]
    str(said.value).encode()


def test_parts_that_have_folders_of_their_own(tmp_path):
    fill(tmp_path, ["train/a/1.png", "train/b/2.png", "val/b/3.png", "val/b/4.png"])
    fill(tmp_path, ["extra/c/5.png"])
    train, test = (image_folder(tmp_path, part) for part in (True, False))
    assert train.files.paths == ["train/a/1.png", "train/b/2.png"]
    assert test.files.paths == ["val/b/3.png", "val/b/4.png"]
    assert train.classes == test.classes == ("a", "b")
    assert test.labels.tolist() == [1, 1]
    fill(tmp_path, ["test/a/6.png"])
    assert image_folder(tmp_path, False).files.paths == ["test/a/6.png"]


def test_sizes_that_differ_are_counted_and_named(tmp_path):
    fill(tmp_path, [f"{k}.png" for k in range(9)])
    fill(tmp_path, ["3.png", "7.png"], h=13)
    with pytest.raises(ValueError) as said:
        image_folder(tmp_path)[:]
    for part in ("2 unusable of 7", "3.png: 13×20 among images of 12×20", "size="):
        assert part in str(said.value)
    assert image_folder(tmp_path, size=8)[:].shape == (3, 8, 8)
    fill(tmp_path, ["2.png"], mode="L")
    assert image_folder(tmp_path, size=8)[:].shape == (3, 8, 8)  # grey is shown grey
    fill(tmp_path, ["1.png"], mode="L")  # a grey one comes first
    with pytest.raises(ValueError, match="5 unusable of 7.*3.png: colour among grey"):
        image_folder(tmp_path, size=8)[:]
    assert image_folder(tmp_path, size=8, channels=3)[:].shape == (3, 8, 8)


@pytest.fixture
def broken(tmp_path):
    "A folder with ten images to train on; numbers 2 and 3 are broken."
    fill(tmp_path / "ten", [f"{k:02}.png" for k in range(13)])
    for name in ("03", "04"):
        file = tmp_path / f"ten/{name}.png"
        file.write_bytes(file.read_bytes()[:99])
    return tmp_path / "ten"


def test_broken_files_are_counted_and_left_out_on_request_only(broken):
    with pytest.raises(ValueError, match="got 2 unusable of 10 .*03.png.*04.png.*skip"):
        image_folder(broken)[:]
    some = image_folder(broken, skip_broken=True)
    with pytest.warns(UserWarning, match="left out 2 broken.*03.png.*04.png"):
        whole = some[:]
    good = [0, 1, *range(4, 10)]
    assert_close(whole.x, image_folder(broken)[good].x)
    with pytest.raises(ValueError, match="no whole image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        some[2:4]
    fill(broken, ["06.png"], h=13)  # another size is no damage
    with pytest.raises(ValueError, match="3 unusable.*among images"):
        some[:]


def test_the_loader_puts_the_next_whole_image_in_place_of_a_broken_one(broken):
    index = [torch.tensor([1, 2, 3]), torch.tensor([3, 0])]
    with pytest.raises(ValueError, match="2 unusable of 3"):
        list(image_folder(broken).loader(index, "cpu"))
    some = image_folder(broken, skip_broken=True)
    with pytest.warns(UserWarning) as said:
        got = [x for x, _ in some.loader(index, "cpu")]
    assert len(said) == 1  # each is named once
    want = [[1, 4, 4], [4, 0]]
    for x, i in zip(got, want):
        assert_close(x, some[i].x)


def test_what_takes_the_place_of_a_broken_image_has_its_own_label(tmp_path):
    fill(tmp_path, ["train/a/1.png", "train/a/2.png", "train/b/3.png", "test/b/4.png"])
    (tmp_path / "train/a/2.png").write_bytes(b"")
    some = image_folder(tmp_path, skip_broken=True)
    with pytest.warns(UserWarning, match="a/2.png"):
        (x, labels), *_ = some.loader([torch.tensor([1, 0])], "cpu")
    assert_close(x, some[[2, 0]].x)
    assert labels.tolist() == [1, 0]


def test_the_first_file_need_not_be_whole(tmp_path):
    fill(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="2.png"):
        assert len(image_folder(tmp_path, skip_broken=True)[:]) == 1
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image that can be read in .*\(2.png"):
        image_folder(tmp_path)


def test_what_is_no_folder_of_images(tmp_path):
    fill(tmp_path, ["1.png"])
    for path, why in {
        tmp_path: "got 1 image in .*two or more",
        tmp_path / "1.png": "want a folder",
        tmp_path / "nothing": "want a folder",
        "x" * 5000: "name too long",
        "a\0b": "want a folder|null byte",
        "~nobody_of_this_name/x": "want a folder",
    }.items():
        with pytest.raises(ValueError, match=why):
            image_folder(path)


# Loaders


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "set", [f"{'ab'[k % 2]}/{k:02}.png" for k in range(25)], h=6, w=5)
    return image_folder(tmp_path / "set")


def test_in_memory_and_on_disk_follow_the_index(folder):
    for source in (digits()[:50], folder, folder[:]):
        index = orders(len(source))
        same(source.loader(index, "cpu"), source, index)
        same(source.loader(iter(index), torch.device("cpu")), source, index)
        assert list(source.loader([], "cpu")) == []
        endless = source.loader((torch.tensor([k % 3]) for k in count()), "cpu")
        same(islice(endless, 4), source, [torch.tensor([k % 3]) for k in range(4)])


def test_workers_give_the_same_in_order_and_end(folder):
    state = torch.get_rng_state()
    index = orders(len(folder))
    steps = folder.loader(iter(index), "cpu", workers=2)
    first = [next(steps), next(steps)]  # one from each
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:  # signals are for the process that trains
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
    same([*first, *steps], folder, index)
    assert_close(torch.get_rng_state(), state)
    left = folder.loader(iter(index), "cpu", workers=1)
    next(left)
    del left  # half read
    until = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_is_one_line(broken):
    steps = image_folder(broken).loader([torch.tensor([2])], "cpu", workers=1)
    with pytest.raises(ValueError, match="^got 1 unusable of 1 .*03.png") as said:
        list(steps)
    assert "\n" not in str(said.value)
    for workers in (-1, 1.5, None):
        with pytest.raises(ValueError, match="got workers="):
            image_folder(broken).loader([], "cpu", workers=workers)


def test_everything_is_on_the_device_of_the_network(folder):
    "The meta device has shapes only; an operation with a CPU tensor raises there."
    for source in (digits()[:30], folder[:], folder):
        (x, labels), *_ = source.loader([torch.tensor([1, 0])], "meta")
        assert x.device == labels.device == torch.device("meta")
        assert (x.shape, x.dtype) == ((2, *source.shape), torch.float32)
    x, _ = next(digits().loader([torch.tensor([1, 0], device="meta")], "meta"))
    assert x.device.type == "meta"


def test_a_part_for_the_law_is_spread_over_all_images(folder):
    for source in (folder, folder[:], digits()):
        assert len(source.head()) == len(source)
        assert_close(source.head(10**6).x, source[:].x)
        some = source.head(min(100, len(source) // 2))
        assert len(some) == min(100, len(source) // 2)
        assert len(some.labels.unique()) == len(source.classes)
        with pytest.raises(ValueError, match="got n=0"):
            source.head(0)


def test_sources_travel_to_workers_of_another_kind(folder):
    "Where processes are spawned, what a worker reads from is pickled."
    again = ForkingPickler.loads(ForkingPickler.dumps(files._Wanted(folder)))
    i = torch.tensor([3, 1])
    assert_close(again.__getitems__(i)[0], denormalise(folder[[3, 1]].x))


# Tables


@pytest.fixture(autouse=True)
def cache(tmp_path_factory):
    "The library `datasets` keeps its copies where tests may."
    import datasets

    place = tmp_path_factory.mktemp("cache")
    soon = mock.patch.object(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    with mock.patch.object(datasets.config, "HF_DATASETS_CACHE", place), soon:
        yield


def table(file, n=30, classes=None, image="image", label="label", labels=None, **how):
    "A parquet file of n pictures that get darker, in the order of their classes."
    import datasets

    file.parent.mkdir(parents=True, exist_ok=True)
    shades = (np.full((4, 4), 255 - k, np.uint8) for k in range(n))
    rows = {image: [dict(bytes=encoded(Image.fromarray(u)), path=None) for u in shades]}
    features = {image: datasets.Image()}
    if label:
        rows[label] = [k * 3 // n for k in range(n)] if labels is None else labels
        known = datasets.ClassLabel(names=classes) if classes else None
        words = isinstance(rows[label][0], str)
        features[label] = known or datasets.Value("string" if words else "int64")
    for column, value in how.items():
        rows[column] = [value] * n
        features[column] = datasets.Value("string")
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    made.to_parquet(str(file), batch_size=10)
    return file


def shades(x):
    "The numbers of the pictures of `table`."
    return (255 - denormalise(x)[:, 0, 0, 0].int()).tolist()


def test_a_table_follows_the_index_with_and_without_workers(tmp_path):
    source = image_table(table(tmp_path / "t.parquet", 60, list("abc")))
    assert (len(source), source.shape, source.classes) == (48, (1, 4, 4), tuple("abc"))
    index = orders(48)
    for workers in (0, 1):
        same(source.loader(iter(index), "cpu", workers=workers), source, index)
    assert shades(source[:5].x) == [1, 2, 3, 4, 6]
    assert shades(image_table(tmp_path / "t.parquet", False)[:3].x) == [0, 5, 10]
    again = ForkingPickler.loads(ForkingPickler.dumps(files._Wanted(source)))
    assert_close(again.__getitems__(index[0])[1], source.labels[index[0]])


def test_labels_of_every_kind(tmp_path):
    def classes(name, **how):
        made = image_table(table(tmp_path / f"{name}.parquet", 10, **how))
        return made.classes, made.labels.tolist()

    one, two = [0] * 4 + [1] * 4, [0] * 4 + [2] * 4
    halves = [0] * 5 + [1] * 5
    assert classes("a", classes=["x", "y"], labels=halves) == (("x", "y"), one)
    assert classes("b", labels=[2 * k for k in halves]) == (("0", "1", "2"), two)
    words = ["cow" if k else "ant" for k in halves]
    assert classes("c", labels=words) == (("ant", "cow"), one)
    assert classes("d", label=None) == (("d",), [0] * 8)
    assert classes("e", label="caption", labels=words) == (("e",), [0] * 8)
    assert classes("f", label="kind", classes=["x", "y"], labels=halves)[1] == one
    named = image_table(tmp_path / "e.parquet", label="caption")
    assert named.classes == ("ant", "cow")
    for bad in ([-1] * 10, [10**9] * 10):
        with pytest.raises(ValueError, match="in column label of g.*0 to 9999"):
            classes("g", labels=bad)
    with pytest.raises(ValueError, match="got label=image for e, want.*caption"):
        image_table(tmp_path / "e.parquet", label="image")


def test_words_mean_the_same_in_both_parts(tmp_path):
    table(tmp_path / "train-0.parquet", 3, labels=["ant", "bee", "cow"])
    table(tmp_path / "test-0.parquet", 2, labels=["cow", "bee"])
    test = image_table(tmp_path, train=False)
    assert (test.classes, test.labels.tolist()) == (("ant", "bee", "cow"), [2, 1])
    table(tmp_path / "test-0.parquet", 2, labels=["cow", "dog"])
    with pytest.raises(ValueError, match=r"\['dog'\].*not among"):
        image_table(tmp_path, train=False)


@pytest.mark.parametrize(
    "names, train, test",
    [
        (["train-0", "test-0"], ["train-0"], ["test-0"]),
        (["data/train", "data/validation"], ["data/train"], ["data/validation"]),
        (["train", "val", "test"], ["train"], ["test"]),
        (["a", "b"], ["a", "b"], None),
        (["train_sft", "test_sft"], ["train_sft"], ["test_sft"]),
        (["test_set/train-0", "test_set/b"], ["test_set/train-0"], ["test_set/b"]),
        (["latest", "contest"], ["latest", "contest"], None),
    ],
)
def test_parts_by_name(names, train, test):
    assert files._part(names, True, "here") == (train, test is None)
    want = (train, True) if test is None else (test, False)
    assert files._part(names, False, "here") == want


def test_a_table_without_a_part_to_train_on(tmp_path):
    table(tmp_path / "test-0.parquet")
    with pytest.raises(
        ValueError, match="got test-0.parquet in .*want a part to train"
    ):
        image_table(tmp_path)
    table(tmp_path / ".hidden/train.parquet")
    with pytest.raises(ValueError, match="want a part to train"):
        image_table(tmp_path)


def test_image_columns(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    files = [encoded(picture(seed=k)) for k in range(4)]
    records = [dict(bytes=f, path=f"{k}.png") for k, f in enumerate(files)]
    for name, cells in (("bytes", files), ("records", records)):
        columns = dict(id=list("abcd"), scan=cells)
        write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        source = image_table(tmp_path / f"{name}.parquet")
        back = denormalise(source[[2]].x)[0]
        assert_close(back, read_image(files[3]))
    with pytest.raises(ValueError, match="got columns id, scan in bytes, want image"):
        image_table(tmp_path / "bytes.parquet", column="image")
    records[3]["bytes"] = records[3]["bytes"][:80]
    write_table(pa.table(dict(scan=records)), tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match=r"1 unusable of 3.*row 3 \(3.png\): "):
        image_table(tmp_path / "cut.parquet")[:]
    write_table(pa.table(dict(id=[1, 2])), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="got columns id in none, want one with image"):
        image_table(tmp_path / "none.parquet")


def test_image_files_that_a_table_points_to(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    fill(tmp_path, ["1.png", "2.png"])
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(tmp_path / "2.png", "2.png")
    near, far = str(tmp_path / "1.png"), f"zip://2.png::{tmp_path}/set.zip"
    records = [dict(bytes=None, path=p) for p in (near, near, far, None)]
    write_table(pa.table(dict(scan=records)), tmp_path / "t.parquet")
    with pytest.warns(UserWarning, match="left out 1 broken image: row 3"):
        source = image_table(tmp_path / "t.parquet", skip_broken=True)[:]
    assert_close(source.x[1], normalise(read_image(tmp_path / "2.png")))


def test_files_that_are_no_tables_are_named(tmp_path):
    whole = table(tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    for source in (tmp_path, tmp_path / "b.parquet"):
        with pytest.raises(ValueError, match="b.parquet, want a whole parquet") as s:
            image_table(source)
        assert "\n" not in str(s.value)
    empty = table(tmp_path / "c.parquet", 0, labels=[0][:0] or None, label=None)
    with pytest.raises(ValueError):
        image_table(empty)


def test_nothing_is_printed_where_nobody_looks(tmp_path, capfd):
    file = table(tmp_path / "t.parquet")
    capfd.readouterr()
    image_table(file)
    assert capfd.readouterr().err == ""


# Streams


def test_a_stream_of_more_than_its_buffer(tmp_path):
    file = table(tmp_path / "t.parquet", 120, list("abc"))
    source = image_stream(file, buffer=10)
    assert (source.shape, source.classes) == ((1, 4, 4), tuple("abc"))
    parts = [shades(image_stream(file, part).head().x) for part in (True, False)]
    assert sorted(sum(parts, [])) == [*range(120)]
    assert 10 < len(parts[1]) < 40
    want, n = parts[0], len(parts[0])
    index = [torch.arange(8) + k for k in range(2 * n // 8 + 1)]
    x, labels = (torch.cat(v) for v in zip(*source.loader(index, "cpu")))
    seen = shades(x)
    assert [s * 3 // 120 for s in seen] == labels.tolist()
    assert sorted(seen[:n]) == sorted(seen[n : 2 * n]) == want  # each once an epoch
    assert seen[:n] != seen[n : 2 * n] and seen[:n] != want  # in a new order
    assert set(seen[:5]) <= set(want[:10])  # from the buffer, near the start
    again = torch.cat([x for x, _ in source.loader(index, "cpu")])
    assert_close(again, x, rtol=0, atol=0)
    resumed = torch.cat([x for x, _ in source.loader(index[3:], "cpu")])
    assert shades(resumed)[:48] != seen[:48] != seen[24:72]


def test_parts_of_a_stream_do_not_depend_on_order_or_workers(tmp_path):
    for k in range(2):
        table(tmp_path / f"{k}.parquet", 40, list("abc"))
    parts = []
    for train in (True, False):
        source = image_stream(tmp_path, train, buffer=20)
        n = len(source.head())
        index = [torch.arange(n)]
        for workers in (0, 2):
            x = next(source.loader(index, "cpu", workers=workers))[0]
            parts.append(set(shades(x)))
    assert parts[0] == parts[1] and parts[2] == parts[3]
    assert not parts[0] & parts[2]


def test_workers_read_the_files_of_a_stream(tmp_path):
    for k in range(2):
        table(tmp_path / f"train-{k}.parquet", 20, list("abc"))
    table(tmp_path / "test-0.parquet", 5, list("abc"))
    source, index = image_stream(tmp_path, buffer=6), [torch.arange(10)] * 12
    runs = []
    for workers in (0, 2, 9):  # at most one for each file
        steps = source.loader(index, "cpu", workers=workers)
        first = next(steps)[0]
        assert len(multiprocessing.active_children()) == min(workers, 2)
        runs.append(torch.cat([first, *(x for x, _ in steps)]))
        assert sorted(shades(runs[-1])) == sorted([*range(20)] * 6)
    assert_close(runs[1], runs[2], rtol=0, atol=0)


def raw_table(file, cells):
    "A parquet file with cells in a column `scan`."
    import pyarrow as pa
    from pyarrow.parquet import write_table

    file.parent.mkdir(exist_ok=True)
    write_table(pa.table(dict(scan=cells)), file)


def test_colour_becomes_grey_on_request_from_every_source(tmp_path):
    files = [encoded(picture(seed=k)) for k in range(6)]
    raw_table(tmp_path / "t.parquet", files)
    for k, file in enumerate(files):
        (tmp_path / f"{k}.png").write_bytes(file)
    want = torch.stack([read_image(f, 1) for f in files])
    found = image_table(tmp_path / "t.parquet", channels=1)[:]
    assert_close(denormalise(found.x), want[1:5], rtol=0, atol=0)
    (tmp_path / "t.parquet").rename(tmp_path / "train.parquet")
    streamed = image_stream(tmp_path / "train.parquet", channels=1).head()
    assert streamed.shape == want.shape[1:]
    (tmp_path / "train.parquet").unlink()
    assert_close(image_folder(tmp_path, channels=1)[:].x, found.x, rtol=0, atol=0)
    grey = encoded(picture("L"))
    raw_table(tmp_path / "mixed.parquet", [grey, grey, files[1]])
    for read_them in (image_table, image_stream):
        with pytest.raises(ValueError, match="colour among grey.*channels=1"):
            [
                read_them(tmp_path / "mixed.parquet", part).head()
                for part in (True, False)
            ]


def test_broken_images_of_a_stream(tmp_path):
    files = [encoded(picture(seed=k)) for k in range(8)]
    files[4] = b"broken"
    raw_table(tmp_path / "t/train.parquet", files)
    raw_table(tmp_path / "t/test.parquet", files[:1])
    index = [torch.arange(8)] * 2
    with pytest.raises(ValueError, match="^got 1 unusable of 8 images read from t: "):
        list(image_stream(tmp_path / "t").loader(index, "cpu"))
    some = image_stream(tmp_path / "t", skip_broken=True)
    with pytest.warns(UserWarning, match="left out 1 broken"):
        assert [len(x) for x, _ in some.loader(index, "cpu")] == [8, 8]
    assert len(some.head()) == 7
    one = image_stream(tmp_path / "t", train=False)
    x, _ = next(one.loader(index, "cpu"))
    assert_close(x, one.head().x.expand(8, -1, -1, -1))  # again and again


def test_a_worker_whose_files_are_all_broken_comes_to_an_end(tmp_path):
    whole = encoded(picture())
    raw_table(tmp_path / "train-0.parquet", [b""] * 3)
    raw_table(tmp_path / "train-1.parquet", [whole] * 3)
    raw_table(tmp_path / "test-0.parquet", [whole])
    half = image_stream(tmp_path, skip_broken=True)
    with pytest.warns(UserWarning):
        assert len(next(half.loader([torch.arange(8)], "cpu", workers=2))[0]) == 8
    rows = files._from_parquet([str(tmp_path / "train-0.parquet")], streaming=True)
    nothing = replace(half, rows=rows)
    with pytest.warns(UserWarning):
        with pytest.raises(ValueError, match="without a whole image"):
            next(nothing.loader([torch.arange(8)], "cpu"))


def test_a_stream_without_declared_classes_has_one(tmp_path):
    source = image_stream(table(tmp_path / "t.parquet"))
    assert source.classes == ("t",)
    (x, labels), *_ = source.loader([torch.arange(5)], "cpu")
    assert labels.tolist() == [0] * 5


# By name


def test_every_source_by_name_and_size(tmp_path, monkeypatch):
    three = dict(train=30, test=5)
    for part, n in three.items():
        table(tmp_path / f"data/fashion_mnist/{part}-0.parquet", n)
        table(tmp_path / f"data/cifar10/{part}-0.parquet", n, image="img")
    fill(tmp_path / "photos", [f"{k}.png" for k in range(5)])
    monkeypatch.setenv("GUD_DATA", str(tmp_path / "data"))
    names = {
        "digits": (1, 1437),
        "fashion_mnist": (1, 30),
        "cifar10": (3, 30),
        tmp_path / "photos": (3, 4),
        tmp_path / "data/cifar10": (1, 30),
        tmp_path / "data/cifar10/test-0.parquet": (1, 4),
    }
    for name, (channels, n) in names.items():
        source = load(name, size=(6, 7))
        assert isinstance(source, Images)
        assert (source.shape, len(source)) == ((channels, 6, 7), n)
        assert len(load(name, train=False, size=6)) < n
        for path in (name, f"{name}"):
            assert load(path, size=6, in_memory=False).shape == (channels, 6, 6)
    large = mock.patch.object(files, "IN_MEMORY", 4 * 30 * 3 * 36 - 1)
    with large:
        assert not isinstance(load("cifar10", size=6), Images)
        assert isinstance(load("fashion_mnist", size=6), Images)
    stream = load("cifar10", size=6, streaming=True)
    assert (stream.shape, stream.classes[3]) == ((3, 6, 6), "cat")
    (x, labels), *_ = stream.loader([torch.arange(9)], "cpu")
    assert x.shape == (9, 3, 6, 6) and set(labels.tolist()) <= {0, 1, 2}


def test_refusals_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("GUD_DATA", raising=False)
    fill(tmp_path, ["1.png", "2.png"])
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    for name, how, why in (
        ("mnist", {}, "got the data set 'mnist', want one of digits, fashion_mnist"),
        (tmp_path / "notes.txt", {}, "want one of digits"),
        ("digits", dict(path=tmp_path), "want none"),
        ("digits", dict(streaming=True), "want neither"),
        ("digits", dict(channels=3), "want neither"),
        ("digits", dict(size=0), "want a side in pixels"),
        (tmp_path, dict(streaming=True), "want a table"),
        (tmp_path, dict(path=tmp_path), "want none"),
        ("fashion_mnist", dict(path=tmp_path), "got no train-"),
        ("./nothing", {}, "want one of digits"),
    ):
        with pytest.raises(ValueError, match=why):
            load(name, **how)


def test_names_on_the_hub(tmp_path):
    "The hub is out of reach of a test; what it would be asked for is not."
    import datasets

    rows = datasets.load_dataset(
        "parquet", data_files=str(table(tmp_path / "t.parquet", 10)), split="train"
    )
    splits = mock.patch.object(
        datasets, "get_dataset_split_names", return_value=["train", "validation"]
    )
    opened = mock.patch.object(datasets, "load_dataset", return_value=rows)
    with splits, opened as asked:
        assert len(load("user/set")) == 10
        asked.assert_called_once_with("user/set", split="train", streaming=False)
        load("user/set", train=False)
        assert asked.call_args_list[1].kwargs["split"] == "validation"
    gone = mock.patch.object(
        datasets, "get_dataset_split_names", side_effect=OSError("gone\nat line 3")
    )
    with gone, pytest.raises(ValueError, match=r"the hub \(user/set\): .*\(gone\)"):
        load("user/set")
    with mock.patch.dict(sys.modules, datasets=None):
        with pytest.raises(ImportError, match=r"pip install 'gud_nb\[data\]'"):
            load("user/set")


def test_named_sets_that_are_not_what_they_should_be(tmp_path):
    for folder, how, why in (
        ("renamed", dict(image="img"), "got columns .* want image and label"),
        ("eleven", dict(labels=[10] * 30), "labels from 10 to 10, want 0 to 9"),
        ("small", {}, "30 unusable of 30 .*row 0: 4×4 among images of 28×28"),
    ):
        table(tmp_path / folder / "fashion_mnist/train-0.parquet", **how)
        size = 28 if folder == "eleven" else None
        with pytest.raises(ValueError, match=why):
            files.fashion_mnist(path=tmp_path / folder, size=size)
    with pytest.raises(ValueError, match="got n=0"):
        files.fashion_mnist(path=tmp_path / "eleven", n=0)
