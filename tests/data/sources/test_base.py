"""Splits and the helpers for writing readers."""

import numpy as np
import pytest

from kdjax.data import sources
from kdjax.data.sources import Lazy, SourceOptions
from kdjax.types import UserError


def test_a_subset_of_a_subset_of_lazy_images_is_not_decoded():
    decoded = []

    def read(positions):
        decoded.extend(positions)
        return [np.full((2, 2, 1), i, np.uint8) for i in positions]

    images = Lazy(10, read)
    part = images.subset(np.array([9, 7, 5, 3])).subset(np.array([3, 1]))
    assert decoded == [0]
    assert part.shape == (2, 2, 2, 1)
    np.testing.assert_array_equal(part[np.array([1, 0, 1])][:, 0, 0, 0], [7, 3, 7])


X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
Y = np.array([0, 1, -1, 1, 0, 2])


def test_arrays_become_splits():
    train, test, num_classes = sources.from_arrays(X, Y, X[:2], Y[:2], SourceOptions())
    np.testing.assert_array_equal(train.images, X)
    np.testing.assert_array_equal(train.labels, Y)
    np.testing.assert_array_equal(test.images, X[:2])
    assert train.labels.dtype == np.int32
    assert num_classes == 3


def test_arrays_can_have_more_classes_than_labels():
    assert sources.from_arrays(X, Y, X, Y, SourceOptions(), classes=10)[2] == 10


def test_arrays_are_resized_as_single_images_are():
    train, test, _ = sources.from_arrays(X, Y, X[:2], Y[:2], SourceOptions(resize=3))
    np.testing.assert_array_equal(train.images, [sources.resized(x, 3) for x in X])
    assert test.images.shape == (2, 3, 3, 3)


def test_wrong_arrays_are_named():
    with pytest.raises(
        UserError, match=r"test_images is float64 .*; it must be uint8 \[n, h, w, c\]"
    ):
        sources.from_arrays(X, Y, X / 255, Y, SourceOptions())


@pytest.mark.parametrize(("memory", "lazy"), [(71e-9, True), (72e-9, False)])
def test_images_that_exceed_the_memory_are_decoded_on_demand(memory, lazy):
    small = X[:, :2, :2]
    read = lambda positions: [small[i] for i in positions]  # noqa: E731
    images = sources.in_memory_or_lazy(6, read, SourceOptions(memory=memory))
    assert isinstance(images, Lazy) == lazy
    np.testing.assert_array_equal(images[np.arange(6)], small)


def test_arrays_can_name_their_classes_and_have_no_others():
    names = ("cat", "dog", "horse")
    assert sources.from_arrays(X, Y, X, Y, SourceOptions(), classes=names)[2] == names
    with pytest.raises(UserError, match="labels are up to 2, and there are 2 classes"):
        sources.from_arrays(X, Y, X, Y, SourceOptions(), classes=names[:2])


@pytest.mark.parametrize(
    "label", [np.int64(2**32 + 1), np.uint64(2**64 - 1), np.int64(-5), np.int64(2**31)]
)
def test_labels_are_looked_at_before_they_are_cast(label):
    labels = np.array([0, 1, 0, 1, 0, label], label.dtype)
    with pytest.raises(UserError, match=r"labels are in \[.*\]: they are numbers from 0"):
        sources.from_arrays(X, labels, X, Y, SourceOptions())


def test_a_huge_label_without_others_is_a_line():
    labels = np.array([0, 1, 0, 1, 0, 2**31 - 1])
    with pytest.raises(UserError, match=r"no training image has label 2, 3, 4, 5, 6, \.\.\."):
        sources.from_arrays(X, labels, X, labels, SourceOptions())
