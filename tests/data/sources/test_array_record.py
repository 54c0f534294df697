"""Encoded images in ArrayRecord files."""

import io

import numpy as np
import pytest
from PIL import Image
from records import write_records

from kdjax.data import sources
from kdjax.data.sources import Lazy

COUNTS = {"train": 7, "test": 3}


def _image(part, i, side=4):
    rng = np.random.default_rng([len(part), i])
    return rng.integers(0, 256, (side, side + 2, 3)).astype(np.uint8)


def _encoded(image, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def _examples(part, sides=(4,), first=0):
    return [
        (_encoded(_image(part, i, sides[i % len(sides)])), first + i % 3)
        for i in range(COUNTS[part])
    ]


def _write(root, name="{}.array_record", **given):
    root.mkdir(exist_ok=True)
    for part in COUNTS:
        write_records(root / name.format(part), _examples(part, **given))
    return f"array_record:{root}"


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize("keys", [("image", "label"), ("image/encoded", "image/class/label")])
def test_records_are_read_in_the_order_of_their_files(tmp_path, memory, keys):
    examples = _examples("train")
    write_records(tmp_path / "train-00001-of-00002.array_record", examples[4:], keys)
    write_records(tmp_path / "train-00000-of-00002.array_record", examples[:4], keys)
    write_records(tmp_path / "tiny-test.array_record-00000-of-00001", _examples("test"), keys)
    data = sources.load(f"array_record:{tmp_path}", memory=memory)
    assert (data.num_classes, data.class_names) == (3, ())
    for part, n in COUNTS.items():
        split = data.splits()[part]
        assert isinstance(split.images, Lazy) == (memory == 0)
        np.testing.assert_array_equal(
            split.images[np.arange(n)], [_image(part, i) for i in range(n)]
        )
        np.testing.assert_array_equal(split.labels, np.arange(n) % 3)
        assert split.labels.dtype == np.int32


def test_classes_have_the_names_beside_the_records(assert_error, tmp_path):
    name = _write(tmp_path)
    names = tmp_path / "label.labels.txt"
    names.write_text("finch\nheron\nswift\n")
    assert sources.load(name).class_names == ("finch", "heron", "swift")
    names.write_text("finch\nheron\n")
    assert_error(name, "labels are up to 2, and there are 2 classes")


def test_labels_can_stand_in_a_file_of_their_own(assert_error, tmp_path):
    name, labels = _write(tmp_path), np.array([2, 1, 0, -1, 0, 1, 2])
    file = tmp_path / "train.labels.npy"
    np.save(file, labels)
    data = sources.load(name)
    np.testing.assert_array_equal(data.train.labels, labels)
    np.testing.assert_array_equal(data.test.labels, np.arange(3))
    np.save(file, labels[:-1])
    assert_error(name, r"train.labels.npy' is \(6,\); it must be \[7\]")
    np.save(file, labels / 2)
    assert_error(name, "holds no array of integers")
    np.save(file, labels - 1)
    assert_error(name, r"labels of .*npy' are in \[-2, 1\]")
    np.save(file, labels.astype(object), allow_pickle=True)
    assert_error(name, "cannot read .*npy' as npy: ")


@pytest.mark.parametrize("memory", [0, 4])
def test_images_of_several_sizes_need_resize_and_stay_whole(assert_error, tmp_path, memory):
    name = _write(tmp_path, sides=(4, 6))
    assert_error(name, r"has images of 4x6 and 6x8: set resize", memory=4)
    data = sources.load(name, resize=4, whole=True, memory=memory)
    assert data.train.images[np.arange(7)].shape == (7, 4, 4, 3)
    np.testing.assert_array_equal(data.train.whole.read([3])[0], _image("train", 3, 6))


def test_the_first_image_decides_about_colours(tmp_path):
    grey = _encoded(_image("train", 0)[..., 0])
    for part in COUNTS:
        write_records(tmp_path / f"{part}.arrayrecord", [(grey, 0), *_examples(part)])
    assert sources.load(f"array_record:{tmp_path}").train.images.shape[-1] == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "cannot read the split 'train' of .*at least 64KB"),
        (lambda content: content[:-1], "cannot read the split 'train' of "),
        (lambda content: content[: len(content) // 2], "cannot read the split 'train' of "),
        (lambda content: b"x" * len(content), "cannot read the split 'train' of "),
        (lambda content: content.replace(b"IDAT", b"IDOT", 3), "cannot read the split 'train' of "),
    ],
)
def test_damaged_files_are_refused(assert_error, tmp_path, damage, message):
    name = _write(tmp_path)
    file = tmp_path / "train.array_record"
    file.write_bytes(damage(file.read_bytes()))
    assert_error(name, message)


@pytest.mark.parametrize(
    ("examples", "keys", "message"),
    [
        ([(b"no image", 0)], ("image", "label"), "cannot read image 0 of split 'train' of .* as PNG"),
        (None, ("picture", "label"), r"record 0 of the split 'train' .* features label, picture"),
        (None, ("image", "kind"), r"record 0 .* features image, kind: it must have label or image/class"),
        ([], ("image", "label"), "the split 'train' of .* has no records"),
    ],
)  # fmt: skip
def test_records_of_another_kind_are_refused(assert_error, tmp_path, examples, keys, message):
    name = _write(tmp_path)
    file = tmp_path / "train.array_record"
    write_records(file, _examples("train") if examples is None else examples, keys)
    assert_error(name, message)


def test_labels_are_numbers_from_zero(assert_error, tmp_path):
    assert_error(_write(tmp_path / "one", first=1), "no training image has label 0")
    assert_error(_write(tmp_path / "less", first=-2), r"labels .* are in \[-2, 0\]")


def test_a_missing_split_is_named(assert_error, tmp_path):
    name = _write(tmp_path, "{}ing.array_record")
    assert_error(name, "has no file of the split 'train', such as train.array_record")
    assert_error(name, "no file of the split 'test'", train_split="training")
    assert_error(f"array_record:{tmp_path}/none", "no such folder")
