"""Arrays in npz files."""

import numpy as np
import pytest

from kdjax.data import sources


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


def test_npz_arrays_are_read(tmp_path):
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


def test_npz_classes_are_counted_in_both_splits_without_minus_one(tmp_path):
    labels = {"train_labels": np.full(7, -1), "test_labels": np.array([0, 5, 1, 2], np.uint8)}
    data = sources.load(_npz(tmp_path, **labels))
    assert data.num_classes == 6
    np.testing.assert_array_equal(data.train.labels, np.full(7, -1))


def test_npz_images_are_resized_to_a_central_square(tmp_path):
    # Black, grey and white from left to right, so that the central square is grey.
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
def test_wrong_npz_arrays_are_named(assert_error, tmp_path, changes, message):
    assert_error(_npz(tmp_path, **changes), message)


def test_an_empty_split_is_an_error_even_with_resize(assert_error, tmp_path):
    name = _npz(tmp_path, train_images=X[:0], train_labels=Y[:0])
    assert_error(name, "has no training images", resize=3)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_another_file_is_rejected(assert_error, tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    assert_error(f"npz:{tmp_path / 'd.npz'}", "cannot read .* as npz")


def test_a_single_array_is_rejected(assert_error, tmp_path):
    np.save(tmp_path / "d.npy", np.zeros(3))
    assert_error(f"npz:{tmp_path / 'd.npy'}", "cannot read .* as npz")


def test_a_truncated_npz_file_is_rejected(assert_error, tmp_path):
    file = _npz(tmp_path).removeprefix("npz:")
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
    assert_error(f"npz:{file}", "cannot read .* as npz")


def test_a_missing_npz_file_is_named(assert_error, tmp_path):
    assert_error(f"npz:{tmp_path}/none.npz", "no such file: .*none.npz")
    assert_error(f"npz:{tmp_path}", "cannot read .* as npz")


def test_labels_from_one_are_refused_instead_of_adding_a_class(assert_error, tmp_path):
    name = _npz(
        tmp_path,
        train_labels=_arrays()["train_labels"] + 1,
        test_labels=_arrays()["test_labels"] + 1,
    )
    assert_error(name, "but no training image has label 0: labels are numbers from 0 to k - 1")


def test_a_test_label_that_no_training_image_has_is_refused(assert_error, tmp_path):
    name = _npz(tmp_path, test_labels=np.array([0, 1, 2, 4]))
    assert_error(name, "labels are up to 4, but no training image has label 3")


def test_npz_may_name_its_classes(tmp_path):
    assert sources.load(_npz(tmp_path)).class_names == ()
    names = np.array(["cat", "dog", "horse", "unicorn"])
    data = sources.load(_npz(tmp_path, class_names=names))
    assert (data.class_names, data.num_classes) == (tuple(names), 4)
