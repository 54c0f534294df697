"""What a phase may look at, and what is computed of it only once."""

import numpy as np
import pytest

from experiments import data
from kdjax import parallel
from kdjax.types import UserError


@pytest.fixture(scope="module")
def digits():
    return data.read("digits", validation=0.1)


def test_held_out_data_is_the_test_split_alone(digits):
    held_out = digits.held_out()
    assert list(held_out.splits) == ["test"]
    assert held_out.splits["test"] is digits.splits["test"]
    with pytest.raises(UserError, match="no training data"):
        _ = held_out.train


def test_shots_are_so_many_of_each_class_and_the_same_for_all_phases(digits):
    few = digits.shots(3)
    assert np.bincount(few.train.labels).tolist() == [3] * 10
    assert digits.shots(3) is few
    assert digits.shots(2) is not few
    # Fewer shots are a part of more, and other splits are shared.
    images = {image.tobytes() for image in few.train.split.images}
    assert {image.tobytes() for image in digits.shots(2).train.split.images} < images
    assert few.splits["test"] is digits.splits["test"]
    assert few.shots(1) is not digits.shots(1)


def test_shots_that_a_class_does_not_have_are_refused(digits):
    for count in (-1, 1000):
        with pytest.raises(UserError, match=f"shots is {count}: the class with the fewest"):
            digits.shots(count)


def test_a_subset_measures_its_own_statistics(digits):
    part = digits.subset(np.arange(5))
    assert len(part.train) == 5
    mean, _ = part.statistics
    expected = part.train.split.images.mean() / 255
    assert mean == pytest.approx([expected], abs=1e-4)
    assert digits.statistics[0] != mean


def test_a_split_is_placed_on_the_devices_once(digits):
    devices = parallel.Devices.dividing(2)
    test = digits.splits["test"]
    assert test.resident(devices) is test.resident(devices)
    np.testing.assert_array_equal(test.resident(devices)["labels"], test.labels)
