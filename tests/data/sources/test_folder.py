"""Image files in folders."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kdjax.data import sources
from kdjax.data.sources import Lazy
from kdjax.types import UserError


def _every(split):
    return split.images[np.arange(len(split))]


def _write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def _picture(seed, h=6, w=6, c=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, c)).astype(np.uint8)
    return pixels[..., 0] if c == 1 else pixels


@pytest.fixture
def folder(tmp_path):
    """Two classes, cat and dog, with three training and two test images each."""
    for i in range(3):
        _write(tmp_path / "train" / "cat" / f"{i}.png", _picture(i))
        _write(tmp_path / "train" / "dog" / f"{i}.png", _picture(10 + i))
    for i in range(2):
        _write(tmp_path / "test" / "cat" / f"{i}.PNG", _picture(20 + i))
        _write(tmp_path / "test" / "dog" / f"{i}.png", _picture(30 + i))
    return tmp_path


def test_images_are_ordered_by_class_and_name(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / "README").write_text("not a class")
    data = sources.load(f"folder:{folder}")
    assert (data.num_classes, data.class_names) == (2, ("cat", "dog"))
    np.testing.assert_array_equal(data.train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.test.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.train.images, [_picture(i) for i in (0, 1, 2, 10, 11, 12)])
    np.testing.assert_array_equal(data.test.images, [_picture(i) for i in (20, 21, 30, 31)])
    assert isinstance(data.train.images, np.ndarray)


def test_hidden_folders_are_no_classes(folder):
    for split in ("train", "test"):
        (folder / split / ".ipynb_checkpoints").mkdir()
    assert sources.load(f"folder:{folder}").num_classes == 2


def test_a_class_without_a_training_image_is_refused(folder):
    (folder / "train" / "horse").mkdir()
    (folder / "train" / "horse" / "0.gif").write_text("")
    with pytest.raises(UserError, match=r"no .png or .jpg images of class horse in"):
        sources.load(f"folder:{folder}")


def test_images_stay_whole_beside_the_resized_ones_also_in_subsets(folder):
    _write(folder / "train" / "dog" / "1.png", _picture(5, h=9, w=7))
    data = sources.load(f"folder:{folder}", resize=6, whole=True, validation=0.5)
    originals = [
        _picture(0),
        _picture(1),
        _picture(2),
        _picture(10),
        _picture(5, 9, 7),
        _picture(12),
    ]
    known = {image.tobytes() for image in originals}
    for split in (data.train, data.validation):
        assert len(split.whole) == 3
        for image, whole in zip(split.images, split.whole.read(range(3)), strict=True):
            assert whole.tobytes() in known
            known.remove(whole.tobytes())
            np.testing.assert_array_equal(image, sources.resized(whole, 6))
    assert not known


def test_a_folder_with_grey_images_has_one_channel(tmp_path):
    for part in ("train", "test"):
        _write(tmp_path / part / "a" / "0.png", _picture(0, c=1))
    data = sources.load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.train.images[0, ..., 0], _picture(0, c=1))


def test_grey_and_palette_images_among_colour_images_are_converted(folder):
    _write(folder / "train" / "dog" / "1.png", _picture(5, c=1))
    Image.fromarray(_picture(6, c=1)).convert("P").save(folder / "train" / "dog" / "2.png")
    images = sources.load(f"folder:{folder}").train.images
    np.testing.assert_array_equal(images[4], np.repeat(_picture(5, c=1)[..., None], 3, axis=-1))
    np.testing.assert_array_equal(images[5], np.repeat(_picture(6, c=1)[..., None], 3, axis=-1))


def test_jpeg_files_are_read_too(folder):
    smooth = np.full((6, 6, 3), 90, np.uint8)
    _write(folder / "train" / "cat" / "9.jpg", smooth)
    _write(folder / "train" / "dog" / "9.JPEG", smooth)
    data = sources.load(f"folder:{folder}")
    np.testing.assert_array_equal(data.train.labels, [0] * 4 + [1] * 4)
    np.testing.assert_allclose(data.train.images[3], smooth, atol=2)
    np.testing.assert_allclose(data.train.images[7], smooth, atol=2)


def test_splits_can_have_other_names(folder):
    (folder / "train").rename(folder / "fit")
    (folder / "test").rename(folder / "val")
    data = sources.load(f"folder:{folder}", train_split="fit", test_split="val")
    assert (len(data.train), len(data.test)) == (6, 4)


def test_a_class_may_lack_test_images(folder):
    shutil.rmtree(folder / "test" / "dog")
    data = sources.load(f"folder:{folder}")
    assert data.num_classes == 2
    np.testing.assert_array_equal(data.test.labels, [0, 0])


@pytest.mark.parametrize("resize", [0, 4])
def test_images_decoded_on_demand_equal_those_held_in_memory(folder, resize):
    held = sources.load(f"folder:{folder}", resize=resize, validation=0.34)
    lazy = sources.load(f"folder:{folder}", resize=resize, validation=0.34, memory=0)
    for name, split in held.splits().items():
        other = lazy.splits()[name]
        assert isinstance(other.images, Lazy)
        assert other.images.shape == split.images.shape
        np.testing.assert_array_equal(_every(other), split.images)
        np.testing.assert_array_equal(other.labels, split.labels)


@pytest.mark.parametrize("memory", [0, 4])
def test_images_of_several_sizes_need_resize(folder, memory):
    _write(folder / "train" / "dog" / "1.png", _picture(5, 6, 9))
    data = sources.load(f"folder:{folder}", resize=6, memory=memory)
    # The central six of nine columns, not rescaled.
    np.testing.assert_array_equal(_every(data.train)[4], _picture(5, 6, 9)[:, 1:7])
    with pytest.raises(UserError, match=r"1.png' is 6x9, the first image is 6x6: set resize"):
        _every(sources.load(f"folder:{folder}", memory=memory).train)


@pytest.mark.parametrize(("h", "w"), [(12, 30), (30, 12), (13, 17), (5, 5)])
def test_resizing_keeps_the_aspect_ratio(tmp_path, h, w):
    # A ramp along the longer side, whose slope is the scale and whose mean the position.
    y, x = np.mgrid[:h, :w]
    ramp = (4 * (y if h > w else x) + 20).astype(np.uint8)
    for part in ("train", "test"):
        _write(tmp_path / part / "a" / "0.png", ramp)
    image = sources.load(f"folder:{tmp_path}", resize=6).train.images[0, ..., 0].astype(float)
    assert image.shape == (6, 6)
    line = image.mean(1) if h > w else image.mean(0)
    slope = np.polyfit(np.arange(1, 5), line[1:-1], 1)[0]
    np.testing.assert_allclose(slope, 4 * min(h, w) / 6, rtol=0.1)
    assert abs(line.mean() - (4 * (max(h, w) - 1) / 2 + 20)) <= 4 * min(h, w) / 6 / 2 + 1


def test_a_missing_folder_or_split_is_named(assert_error, folder):
    assert_error(f"folder:{folder}/none", "no such folder: .*none")
    shutil.rmtree(folder / "test")
    assert_error(f"folder:{folder}", "has no subfolder 'test'")
    assert_error(f"folder:{folder}", "has no subfolder 'fit'", train_split="fit")


def test_a_class_only_in_test_is_named(assert_error, folder):
    _write(folder / "test" / "emu" / "0.png", _picture(0))
    assert_error(f"folder:{folder}", "test' has classes that .*train' lacks: emu")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_without_images_is_named(assert_error, folder, part):
    for path in (folder / part).rglob("*.*"):
        path.unlink()
    assert_error(f"folder:{folder}", f"no .png or .jpg images in .*{part}'")


@pytest.mark.parametrize("damage", ["empty", "text", "torn", "garbled"])
@pytest.mark.parametrize("file", ["train/cat/0.png", "train/dog/2.png", "test/dog/1.png"])
def test_a_corrupt_image_is_named(assert_error, folder, file, damage):
    path = folder / file
    whole = path.read_bytes()
    garbled = bytearray(whole)
    garbled[50:60] = b"\xff" * 10
    path.write_bytes(
        {"empty": b"", "text": b"not an image", "torn": whole[:60], "garbled": garbled}[damage]
    )
    assert_error(f"folder:{folder}", f"cannot read .*{file}")


def test_grey_images_of_16_bits_are_scaled(folder):
    deep = np.array([[0, 257], [255 * 257, 128 * 257]], np.uint16)
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "test")
    for split in ("train", "test"):
        _write(folder / split / "cat" / "0.png", deep)
    data = sources.load(f"folder:{folder}")
    np.testing.assert_array_equal(data.train.images[0, ..., 0], [[0, 1], [255, 128]])


@pytest.mark.parametrize("text", ["%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "GIF89a"])
def test_only_png_and_jpeg_are_opened(folder, text, monkeypatch):
    (folder / "train/cat/0.png").write_text(text)

    def interpret(*_, **__):
        raise AssertionError("another program was called")

    monkeypatch.setattr("subprocess.check_call", interpret)
    with pytest.raises(UserError, match=r"cannot read '.*0\.png' as PNG, JPEG"):
        sources.load(f"folder:{folder}")


@pytest.mark.parametrize("memory", [0, 4])
def test_an_image_that_claims_to_be_huge_is_not_decoded(folder, memory):
    # The header of a PNG of 20,000 x 20,000 pixels, in 57 bytes.
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (folder / "train/cat/0.png").write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(UserError, match=r"0\.png'"):
        sources.load(f"folder:{folder}", memory=memory)


def test_pipes_are_not_waited_for(folder):
    os.mkfifo(folder / "train/cat/pipe.png")
    assert len(sources.load(f"folder:{folder}").train) == 6
