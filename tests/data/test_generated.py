"""Generated images."""

import numpy as np
import pytest

from kdjax import UserError
from kdjax.data import sources

NAME = "generated:n=7,side=12,classes=3"


def test_images_are_functions_of_split_and_number():
    data = sources.load(NAME)
    assert data.train.images.shape == data.test.images.shape == (7, 12, 12, 3)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.num_classes == 3
    both = np.concatenate([data.train.images, data.test.images])
    assert len({image.tobytes() for image in both}) == 14
    again = sources.load("generated:n=3,side=12,classes=3")
    np.testing.assert_array_equal(data.train.images[:3], again.train.images)


def test_whole_images_have_several_shapes_and_their_crops_fit():
    train = sources.load(NAME, resize=9, whole=True).train
    assert train.images.shape == (7, 9, 9, 3)
    shapes = {image.shape for image in train.whole.read(np.arange(7))}
    assert len(shapes) > 3
    assert {min(shape[:2]) for shape in shapes} == {12}


def test_images_too_large_for_memory_are_made_on_demand():
    made, kept = (sources.load(NAME, memory=memory).train.images for memory in (1e-9, 1.0))
    assert isinstance(made, sources.Lazy)
    np.testing.assert_array_equal(made[np.array([5, 2])], kept[[5, 2]])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("n=0", "have no 'n=0': give positive integers of n=64, side=32, channels=3, classes=10"),
        ("sides=3", "have no 'sides=3'"),
        ("n=-1", "have no 'n=-1'"),
        ("channels=2", "have 2 channels: choose 1 or 3"),
    ],
)
def test_mistakes_are_one_line(argument, message):
    with pytest.raises(UserError, match=message):
        sources.load(f"generated:{argument}")
