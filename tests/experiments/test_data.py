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
    part = digits.subset(data.Subset(examples=5))
    assert len(part.train) == 5
    mean, _ = part.statistics
    expected = part.train.split.images.mean() / 255
    assert mean == pytest.approx([expected], abs=1e-4)
    assert digits.statistics[0] != mean


def test_parts_of_the_training_split_are_disjoint_and_make_up_the_whole(digits):
    halves = [digits.subset(data.Subset(parts=2, part=(i,))) for i in range(2)]
    images = [sorted(image.tobytes() for image in half.train.split.images) for half in halves]
    assert not set(images[0]) & set(images[1])
    assert abs(len(images[0]) - len(images[1])) <= 1
    both = digits.subset(data.Subset(parts=2, part=(0, 1)))
    np.testing.assert_array_equal(both.train.labels, digits.train.labels)
    # Another seed cuts it otherwise; the same one is the same object, with what was computed.
    other = digits.subset(data.Subset(parts=2, part=(0,), seed=1))
    assert sorted(image.tobytes() for image in other.train.split.images) != images[0]
    assert digits.subset(data.Subset(parts=2, part=(0,))) is halves[0]


def test_examples_of_a_subset_come_from_its_parts(digits):
    half = {i.tobytes() for i in digits.subset(data.Subset(parts=2, part=(1,))).train.split.images}
    some = digits.subset(data.Subset(parts=2, part=(1,), examples=20)).train.split.images
    assert len(some) == 20
    assert {image.tobytes() for image in some} <= half


def test_a_subset_may_have_another_number_of_every_class(digits):
    counts = (5, 0, 7, 1, 2, 3, 4, 5, 6, 7)
    part = digits.subset(data.Subset(per_class=counts))
    assert tuple(np.bincount(part.train.labels, minlength=10)) == counts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (data.Subset(parts=2, part=(2,)), r"part is \(2,\) of 2 parts"),
        (data.Subset(parts=0), r"of 0 parts"),
        (data.Subset(examples=10**6), "examples is 1000000: there are"),
        (data.Subset(per_class=(1, 2)), "2 counts for 10 classes"),
        (data.Subset(per_class=(1000,) * 10), "1000 for class 0, which has"),
        (data.Subset(per_class=(0,) * 10), "leaves no image"),
    ],
)
def test_impossible_subsets_are_refused(digits, given, message):
    with pytest.raises(UserError, match=message):
        digits.subset(given)


def test_a_split_is_placed_on_the_devices_once(digits):
    devices = parallel.Devices.dividing(2)
    test = digits.splits["test"]
    assert test.resident(devices) is test.resident(devices)
    np.testing.assert_array_equal(test.resident(devices)["labels"], test.labels)
