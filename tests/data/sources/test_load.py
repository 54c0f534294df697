"""What holds for every source, and statistics of splits."""

import numpy as np
import pytest

from kdjax.data import sources
from kdjax.data.sources import Split


def test_validation_is_a_fixed_fraction_of_the_training_split():
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


def test_train_examples_are_a_fixed_subset_disjoint_from_the_same_validation_images():
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


def test_a_small_fraction_holds_out_at_least_one_image():
    assert len(sources.load("digits", validation=1e-6).validation) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1.0}, r"validation is 1.0: it must be a fraction in \[0, 1\)"),
        ({"validation": -0.1}, "validation is -0.1"),
        ({"validation": 0.9999}, "validation is 0.9999"),
        ({"train_examples": 5000}, "train_examples is 5000: there are 1201 training images"),
        ({"train_examples": -1}, "train_examples is -1"),
        ({"resize": -1}, "resize is -1: it must be a side in pixels"),
        ({"whole": True}, "whole is set, but resize is 0"),
        ({"whole": True, "resize": 9}, "'digits' has no images at full resolution: unset whole"),
    ],
)
def test_a_number_out_of_range_is_named(assert_error, arguments, message):
    assert_error("digits", message, **arguments)


@pytest.mark.parametrize("name", ["digit", "digits:x", "npz", "npz:", "tfds:", "folder", "", ":x"])
def test_an_unknown_data_set_is_named_with_the_allowed_kinds(assert_error, name):
    assert_error(
        name, f"unknown data set {name!r}: choose from digits, tfds:<name>, cifar:<dir>, npz:<file>"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_match_numpy(channels):
    images = np.random.default_rng(0).integers(0, 200, (5000, 4, 3, channels)).astype(np.uint8)
    split = Split(images, np.zeros(5000, np.int32))
    mean, std = sources.channel_statistics(split)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=5.1e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=5.1e-5)


def test_channel_statistics_of_many_images_use_evenly_spaced_ones():
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    mean, std = sources.channel_statistics(Split(images, np.zeros(100, np.int32)), at_most=4)
    spread = np.array([0, 33, 66, 99]) / 255
    np.testing.assert_allclose((mean[0], std[0]), (spread.mean(), spread.std()), atol=5.1e-5)


def test_a_channel_without_contrast_has_a_positive_deviation():
    split = Split(np.full((3, 2, 2, 1), 51, np.uint8), np.zeros(3, np.int32))
    assert sources.channel_statistics(split) == ([0.2], [0.001])
