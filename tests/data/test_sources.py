import io
import json
import shutil

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from kdjax.data import sources
from kdjax.data.sources import Lazy, Split
from kdjax.types import UserError


def _every(split):
    return split.images[np.arange(len(split))]


def _one_line(name, message, **kwargs):
    with pytest.raises(UserError, match=message) as caught:
        sources.load(name, **kwargs)
    assert "\n" not in str(caught.value)


# --- digits -------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    data = sources.load("digits")
    assert data.num_classes == 10
    assert data.validation is None
    assert set(data.splits()) == {"train", "test"}
    assert len(data.train) + len(data.test) == 1797
    for split in data.splits().values():
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 8, 8, 1)
        assert split.labels.dtype == np.int32
    ours = np.concatenate([data.train.images, data.test.images])[..., 0] * (16 / 255)
    theirs = sklearn.datasets.load_digits()
    key = lambda images: np.lexsort(np.round(images).reshape(len(images), -1).T)  # noqa: E731
    np.testing.assert_allclose(
        ours[key(ours)], theirs.images[key(theirs.images)], atol=0.5 * 16 / 255 + 1e-6
    )
    labels = np.concatenate([data.train.labels, data.test.labels])
    np.testing.assert_array_equal(labels[key(ours)], theirs.target[key(theirs.images)])


def test_every_third_digit_of_each_class_is_a_test_image():
    data = sources.load("digits")
    everywhere = np.bincount(sklearn.datasets.load_digits().target)
    np.testing.assert_array_equal(np.bincount(data.test.labels), everywhere // 3)


def test_no_digit_is_in_both_splits():
    data = sources.load("digits")
    train, test = ({image.tobytes() for image in s.images} for s in (data.train, data.test))
    distinct = {image.tobytes() for image in sklearn.datasets.load_digits().images}
    assert len(distinct) == 1797
    assert not train & test


def test_digits_are_the_same_each_time():
    one, two = sources.load("digits"), sources.load("digits")
    np.testing.assert_array_equal(one.train.images, two.train.images)
    np.testing.assert_array_equal(one.test.labels, two.test.labels)


def test_digits_can_be_resized():
    assert sources.load("digits", resize=12).train.images.shape[1:] == (12, 12, 1)


# --- what holds for all -------------------------------------------------------


def test_validation_is_a_fixed_share_taken_out_of_the_training_split():
    whole, data = sources.load("digits"), sources.load("digits", validation=0.1)
    assert len(data.validation) == round(0.1 * len(whole.train))
    train = {image.tobytes() for image in data.train.images}
    held_out = {image.tobytes() for image in data.validation.images}
    assert not train & held_out
    assert train | held_out == {image.tobytes() for image in whole.train.images}
    np.testing.assert_array_equal(data.test.images, whole.test.images)
    again = sources.load("digits", validation=0.1)
    np.testing.assert_array_equal(again.validation.images, data.validation.images)
    np.testing.assert_array_equal(again.validation.labels, data.validation.labels)
    assert set(data.splits()) == {"train", "validation", "test"}


def test_train_examples_are_a_fixed_subset_beside_the_same_validation_images():
    whole = sources.load("digits", validation=0.1)
    data = sources.load("digits", validation=0.1, train_examples=100)
    assert len(data.train) == 100
    pairs = {(i.tobytes(), y) for i, y in zip(whole.train.images, whole.train.labels, strict=True)}
    assert {
        (i.tobytes(), y) for i, y in zip(data.train.images, data.train.labels, strict=True)
    } < pairs
    np.testing.assert_array_equal(data.validation.images, whole.validation.images)
    again = sources.load("digits", validation=0.1, train_examples=100)
    np.testing.assert_array_equal(again.train.images, data.train.images)


def test_a_small_share_holds_out_at_least_one_image():
    assert len(sources.load("digits", validation=1e-6).validation) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1.0}, r"data.validation is 1.0: it is a share in \[0, 1\)"),
        ({"validation": -0.1}, "data.validation is -0.1"),
        ({"validation": 0.9999}, "data.validation is 0.9999"),
        ({"train_examples": 5000}, "data.train_examples is 5000: there are 1201 training images"),
        ({"train_examples": -1}, "data.train_examples is -1"),
        ({"resize": -1}, "data.resize is -1"),
    ],
)
def test_a_number_out_of_range_is_named(arguments, message):
    _one_line("digits", message, **arguments)


@pytest.mark.parametrize("name", ["digit", "digits:x", "npz", "npz:", "tfds:", "folder", "", ":x"])
def test_an_unknown_data_set_is_named_with_the_kinds_there_are(name):
    _one_line(name, f"unknown data set {name!r}: choose from digits, tfds:<name>, npz:<file>")


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_numpys(channels):
    images = np.random.default_rng(0).integers(0, 200, (5000, 4, 3, channels)).astype(np.uint8)
    split = Split(images, np.zeros(5000, np.int32))
    mean, std = sources.channel_statistics(split)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=5.1e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=5.1e-5)


def test_channel_statistics_of_many_images_are_those_of_evenly_spread_ones():
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    mean, std = sources.channel_statistics(Split(images, np.zeros(100, np.int32)), at_most=4)
    spread = np.array([0, 33, 66, 99]) / 255
    np.testing.assert_allclose((mean[0], std[0]), (spread.mean(), spread.std()), atol=5.1e-5)


def test_a_channel_without_contrast_has_a_deviation_to_divide_by():
    split = Split(np.full((3, 2, 2, 1), 51, np.uint8), np.zeros(3, np.int32))
    assert sources.channel_statistics(split) == ([0.2], [0.001])


def test_a_subset_of_a_subset_of_lazy_images_is_still_undecoded():
    decoded = []

    def read(positions):
        decoded.extend(positions)
        return [np.full((2, 2, 1), i, np.uint8) for i in positions]

    images = Lazy(10, read)
    part = images.subset(np.array([9, 7, 5, 3])).subset(np.array([3, 1]))
    assert decoded == [0]
    assert part.shape == (2, 2, 2, 1)
    np.testing.assert_array_equal(part[np.array([1, 0, 1])][:, 0, 0, 0], [7, 3, 7])


# --- npz ----------------------------------------------------------------------


def _arrays(n=7, h=5, w=4, c=3):
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (n, h, w, c)).astype(np.uint8),
        "train_labels": np.arange(n) % 3,
        "test_images": rng.integers(0, 256, (4, h, w, c)).astype(np.uint8),
        "test_labels": np.array([0, 1, 2, 0]),
    }


def _npz(folder, **changes):
    arrays = {key: x for key, x in (_arrays() | changes).items() if x is not None}
    np.savez(folder / "d.npz", **arrays)
    return f"npz:{folder / 'd.npz'}"


def test_npz_gives_its_arrays(tmp_path):
    data = sources.load(_npz(tmp_path, other=np.zeros(3)))
    for key, x in _arrays().items():
        part, _, what = key.partition("_")
        np.testing.assert_array_equal(getattr(data.splits()[part], what), x)
    assert data.num_classes == 3
    assert data.train.labels.dtype == np.int32


def test_npz_images_may_lack_the_channel_axis(tmp_path):
    arrays = _arrays()
    grey = {key: arrays[key][..., 0] for key in ("train_images", "test_images")}
    data = sources.load(_npz(tmp_path, **grey))
    np.testing.assert_array_equal(data.train.images[..., 0], grey["train_images"])


def test_npz_labels_of_either_split_count_as_classes_and_minus_one_does_not(tmp_path):
    labels = {"train_labels": np.full(7, -1), "test_labels": np.array([0, 5, 1, 2], np.uint8)}
    data = sources.load(_npz(tmp_path, **labels))
    assert data.num_classes == 6
    np.testing.assert_array_equal(data.train.labels, np.full(7, -1))


def test_npz_images_are_resized_to_a_central_square(tmp_path):
    # Left to right black, grey, white; the middle of a wide image is its grey part.
    images = np.repeat(np.array([0, 128, 255], np.uint8), 8)[None, None, :, None]
    images = np.repeat(np.repeat(images, 8, axis=1), 7, axis=0)
    data = sources.load(_npz(tmp_path, train_images=images, test_images=images[:4]), resize=8)
    np.testing.assert_array_equal(data.train.images, np.full((7, 8, 8, 1), 128))
    halved = sources.load(_npz(tmp_path, train_images=images, test_images=images[:4]), resize=4)
    assert halved.train.images.shape == (7, 4, 4, 1)
    assert (halved.train.images[:, :, 1:3] == 128).all()


X, Y = _arrays()["train_images"], _arrays()["train_labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels: it must hold train_images, train_labels"),
        ({"train_images": None, "test_images": None}, "lacks train_images, test_images"),
        ({"train_images": X.astype(np.float32)}, "train_images is float32 .* must be uint8"),
        ({"train_images": X[0, 0]}, r"train_images is uint8 \(4, 3\); it must be uint8 \[n, h"),
        ({"train_images": X[None]}, r"train_images is uint8 \(1, 7, 5, 4, 3\)"),
        ({"train_images": X[..., :2]}, r"\(7, 5, 4, 2\).*1 or 3 channels"),
        ({"train_labels": Y[:5]}, r"train_labels is int64 \(5,\); it must be integers \[7\]"),
        ({"train_labels": Y.astype(np.float64)}, "train_labels is float64"),
        ({"train_labels": Y[:, None]}, r"train_labels is int64 \(7, 1\)"),
        ({"train_labels": np.array(["a"] * 7)}, "train_labels is <U1"),
        ({"train_labels": np.array([{}] * 7)}, "cannot read .* as npz"),
        ({"test_images": X[:4, :3]}, r"training images are \(5, 4, 3\), test images \(3, 4, 3\)"),
        ({"train_images": X[:0], "train_labels": Y[:0]}, "has no training images"),
        ({"test_images": X[:0], "test_labels": Y[:0]}, "has no test images"),
    ],
)
def test_a_bad_npz_file_is_an_error_of_one_line(tmp_path, changes, message):
    _one_line(_npz(tmp_path, **changes), message)


def test_an_empty_split_is_an_error_when_resized_too(tmp_path):
    name = _npz(tmp_path, train_images=X[:0], train_labels=Y[:0])
    _one_line(name, "has no training images", resize=3)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_file_that_is_not_npz_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    _one_line(f"npz:{tmp_path / 'd.npz'}", "cannot read .* as npz")


def test_a_single_array_is_not_npz(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros(3))
    _one_line(f"npz:{tmp_path / 'd.npy'}", "cannot read .* as npz")


def test_a_torn_npz_file_is_an_error_of_one_line(tmp_path):
    file = _npz(tmp_path).removeprefix("npz:")
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
    _one_line(f"npz:{file}", "cannot read .* as npz")


def test_a_missing_npz_file_is_named(tmp_path):
    _one_line(f"npz:{tmp_path}/none.npz", "no such file: .*none.npz")
    _one_line(f"npz:{tmp_path}", "cannot read .* as npz")


# --- folder -------------------------------------------------------------------


def _write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def _picture(seed, h=6, w=6, c=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, c)).astype(np.uint8)
    return pixels[..., 0] if c == 1 else pixels


@pytest.fixture
def folder(tmp_path):
    """Two classes, cat and dog, of three training and two test images."""
    for i in range(3):
        _write(tmp_path / "train" / "cat" / f"{i}.png", _picture(i))
        _write(tmp_path / "train" / "dog" / f"{i}.png", _picture(10 + i))
    for i in range(2):
        _write(tmp_path / "test" / "cat" / f"{i}.PNG", _picture(20 + i))
        _write(tmp_path / "test" / "dog" / f"{i}.png", _picture(30 + i))
    return tmp_path


def test_folder_gives_its_images_by_class_and_name(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / "README").write_text("not a class")
    data = sources.load(f"folder:{folder}")
    assert data.num_classes == 2
    np.testing.assert_array_equal(data.train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.test.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.train.images, [_picture(i) for i in (0, 1, 2, 10, 11, 12)])
    np.testing.assert_array_equal(data.test.images, [_picture(i) for i in (20, 21, 30, 31)])
    assert isinstance(data.train.images, np.ndarray)


def test_a_folder_with_grey_images_has_one_channel(tmp_path):
    for part in ("train", "test"):
        _write(tmp_path / part / "a" / "0.png", _picture(0, c=1))
    data = sources.load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.train.images[0, ..., 0], _picture(0, c=1))


def test_grey_and_palette_images_among_colour_ones_become_colour(folder):
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


def test_other_subfolders_can_be_the_splits(folder):
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
def test_images_decoded_on_demand_are_those_held_in_memory(folder, resize):
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
    # Six of nine columns, from the middle; nothing is rescaled.
    np.testing.assert_array_equal(_every(data.train)[4], _picture(5, 6, 9)[:, 1:7])
    with pytest.raises(UserError, match=r"1.png' is 6x9, the first image is 6x6: set data.resize"):
        _every(sources.load(f"folder:{folder}", memory=memory).train)


@pytest.mark.parametrize(("h", "w"), [(12, 30), (30, 12), (13, 17), (5, 5)])
def test_resize_of_an_image_that_is_not_square_keeps_its_proportions(tmp_path, h, w):
    # A ramp along the longer side: its slope tells the scale, its middle the place.
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


def test_a_missing_folder_or_split_is_named(folder):
    _one_line(f"folder:{folder}/none", "no such folder: .*none")
    shutil.rmtree(folder / "test")
    _one_line(f"folder:{folder}", "has no subfolder 'test'")
    _one_line(f"folder:{folder}", "has no subfolder 'fit'", train_split="fit")


def test_a_class_only_in_test_is_named(folder):
    _write(folder / "test" / "emu" / "0.png", _picture(0))
    _one_line(f"folder:{folder}", "test' has classes that .*train' lacks: emu")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_without_images_is_named(folder, part):
    for path in (folder / part).rglob("*.*"):
        path.unlink()
    _one_line(f"folder:{folder}", f"no .png or .jpg images in .*{part}'")


@pytest.mark.parametrize("damage", ["empty", "text", "torn", "garbled"])
@pytest.mark.parametrize("file", ["train/cat/0.png", "train/dog/2.png", "test/dog/1.png"])
def test_a_corrupt_image_is_named(folder, file, damage):
    path = folder / file
    whole = path.read_bytes()
    garbled = bytearray(whole)
    garbled[50:60] = b"\xff" * 10
    path.write_bytes(
        {"empty": b"", "text": b"not an image", "torn": whole[:60], "garbled": garbled}[damage]
    )
    _one_line(f"folder:{folder}", f"cannot read .*{file}")


# --- tfds ---------------------------------------------------------------------

TINY = {"train": 6, "test": 3}


def _tiny_image(split, i, side=4):
    return np.random.default_rng([len(split), i]).integers(0, 256, (side, side, 3)).astype(np.uint8)


def _write_tfds(root, keys=("image", "label"), supervised=True, sizes=(4,)):
    """A prepared data set as tfds writes it, without TensorFlow: ArrayRecords of tf.Examples."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    image_key, label_key = keys
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    for split, n in TINY.items():
        writer = ArrayRecordWriter(
            str(folder / f"tiny-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for i in range(n):
            png = io.BytesIO()
            Image.fromarray(_tiny_image(split, i, sizes[i % len(sizes)])).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature[image_key].bytes_list.value.append(png.getvalue())
            example.features.feature[label_key].int64_list.value.append(i % 3)
            writer.write(example.SerializeToString())
        writer.close()
    side = str(sizes[0]) if len(sizes) == 1 else "-1"
    package = "tensorflow_datasets.core.features"
    features = {
        image_key: {
            "pythonClassName": f"{package}.image_feature.Image",
            "image": {
                "dtype": "uint8",
                "encodingFormat": "png",
                "shape": {"dimensions": [side, side, "3"]},
            },
        },
        label_key: {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "3"},
        },
    }
    info = {
        "name": "tiny",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "moduleName": "__main__",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1000",
                "shardLengths": [str(n)],
            }
            for split, n in TINY.items()
        ],
    }
    if supervised:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in keys]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": f"{package}.features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    return root


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize(
    ("keys", "supervised"), [(("image", "label"), False), (("picture", "kind"), True)]
)
def test_tfds_reads_prepared_data_without_tensorflow(tmp_path, keys, supervised, memory):
    root = _write_tfds(tmp_path / "data", keys, supervised)
    data = sources.load("tfds:tiny", dir=str(root), memory=memory)
    assert data.num_classes == 3
    for name, n in TINY.items():
        split = data.splits()[name]
        assert isinstance(split.images, Lazy) == (memory == 0)
        np.testing.assert_array_equal(_every(split), [_tiny_image(name, i) for i in range(n)])
        np.testing.assert_array_equal(split.labels, np.arange(n) % 3)
        assert split.labels.dtype == np.int32


def test_tfds_splits_may_be_slices(tmp_path):
    root = _write_tfds(tmp_path / "data")
    data = sources.load(
        "tfds:tiny", dir=str(root), train_split="train[:50%]", test_split="train[50%:]"
    )
    np.testing.assert_array_equal(data.train.images, [_tiny_image("train", i) for i in range(3)])
    np.testing.assert_array_equal(data.test.images, [_tiny_image("train", i) for i in range(3, 6)])


def test_tfds_images_of_several_sizes_need_resize(tmp_path):
    root = _write_tfds(tmp_path / "data", sizes=(4, 6))
    _one_line("tfds:tiny", "images of several sizes: set data.resize", dir=str(root))
    data = sources.load("tfds:tiny", dir=str(root), resize=4)
    np.testing.assert_array_equal(data.train.images[0], _tiny_image("train", 0))
    assert data.train.images.shape == (6, 4, 4, 3)


def test_an_unknown_tfds_split_is_named_with_those_there_are(tmp_path):
    root = _write_tfds(tmp_path / "data")
    _one_line("tfds:tiny", "no split 'val'.*choose from .*train", dir=str(root), train_split="val")


def test_an_empty_tfds_split_is_an_error_of_one_line(tmp_path):
    root = _write_tfds(tmp_path / "data")
    _one_line("tfds:tiny", r"no split 'train\[:0\]'", dir=str(root), train_split="train[:0]")


def test_tfds_data_without_image_and_label_names_its_features(tmp_path):
    root = _write_tfds(tmp_path / "data", ("picture", "kind"), supervised=False)
    _one_line("tfds:tiny", r"no image and label: its features are \['.*'\]", dir=str(root))


def test_an_unknown_tfds_name_is_named(tmp_path):
    _one_line("tfds:no_such_data_set", "unknown data set 'tfds:no_such", dir=str(tmp_path))


def test_a_missing_tfds_folder_is_named(tmp_path):
    _one_line("tfds:mnist", r"no such folder: .*none' \(data.dir\)", dir=f"{tmp_path}/none")


def test_tfds_data_that_is_not_prepared_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    _one_line(
        "tfds:mnist", r"'tfds:mnist' is not prepared in .*kdjax\[prepare\]", dir=str(tmp_path)
    )
