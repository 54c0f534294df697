"""scikit-learn's digits."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import sklearn.datasets

from kdjax.data import sources


def test_digits_are_scikit_learns():
    data = sources.load("digits")
    assert data.num_classes == 10
    assert data.class_names == tuple("0123456789")
    assert data.validation is None
    assert set(data.splits()) == {"train", "test"}
    assert len(data.train) + len(data.test) == 1797
    for split in data.splits().values():
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 8, 8, 1)
        assert split.labels.dtype == np.int32
    loaded = np.concatenate([data.train.images, data.test.images])[..., 0] * (16 / 255)
    original = sklearn.datasets.load_digits()
    key = lambda images: np.lexsort(np.round(images).reshape(len(images), -1).T)  # noqa: E731
    np.testing.assert_allclose(
        loaded[key(loaded)], original.images[key(original.images)], atol=0.5 * 16 / 255 + 1e-6
    )
    labels = np.concatenate([data.train.labels, data.test.labels])
    np.testing.assert_array_equal(labels[key(loaded)], original.target[key(original.images)])


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


def test_digits_are_deterministic():
    one, two = sources.load("digits"), sources.load("digits")
    np.testing.assert_array_equal(one.train.images, two.train.images)
    np.testing.assert_array_equal(one.test.labels, two.test.labels)


def test_digits_can_be_resized():
    assert sources.load("digits", resize=12).train.images.shape[1:] == (12, 12, 1)


def test_they_are_read_without_importing_scikit_learn_where_its_file_is_known(monkeypatch):
    program = (
        "import sys\n"
        "from kdjax.data import sources\n"
        "sources.load('digits')\n"
        "print('sklearn' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
    fast = sources.load("digits")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    public = sources.load("digits")
    np.testing.assert_array_equal(fast.train.images, public.train.images)
    np.testing.assert_array_equal(fast.test.labels, public.test.labels)
