"""Teachers' predictions on whole splits: at another resolution, and averaged over crops."""

import functools

import jax
import numpy as np
import pytest

from experiments import evaluation
from experiments.data import PhaseSplit
from experiments.evaluation import CropAverage, TeacherLogits
from kdjax import networks, parallel
from kdjax.data import views, whole
from kdjax.data.sources import OnDemand, Split, resized
from kdjax.networks import TrainedNetwork

N, SIDE, SIZE, K = 7, 8, 6, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def teacher():
    network = networks.create(
        "resnet8", num_classes=K, in_channels=1, mean=(0.5,), std=(0.3,),
        options={"widths": (4, 4, 4, 4)},
    )  # fmt: skip
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, SIZE, SIZE, 1), np.float32))
    return TrainedNetwork(network, variables, "resnet8")


def _split(count=N):
    return PhaseSplit(Split(IMAGES[:count], np.arange(count, dtype=np.int32) % K))


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(network, variables, images):
    return jax.nn.softmax(network.evaluate(variables, images).logits)


def _make_views(**changes):
    arguments = {"crop": "random", "flip": False, "teacher_view": "consistent"} | changes
    return views.make_views(num_classes=K, image_size=SIZE, **arguments)


def test_a_teacher_of_another_resolution_is_evaluated_on_the_resized_square(teacher):
    devices, split = parallel.Devices(jax.local_devices()[:2]), _split()
    placed = {"t": teacher._replace(variables=devices.replicate(teacher.variables))}
    for resolution in (0, 9):
        (logits,) = TeacherLogits(placed, SIZE, devices, (resolution,)).each(split)
        seen = views.evaluation_view(IMAGES, SIZE, resolution)
        assert seen.shape[1] == (resolution or SIZE)
        expected = _probabilities(teacher.network, teacher.variables, seen)
        np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-4)
    # Both resolutions are known, each under its own key.
    assert set(split.teacher_logits) == {("t", 0), ("t", 9)}


def test_the_joint_prediction_of_teachers_is_their_mean_probability(teacher, monkeypatch):
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 4)
    devices, split = parallel.Devices(jax.local_devices()[:1]), _split()
    shifted = jax.tree.map(lambda x: x + 0.5, teacher.variables)
    both = [devices.replicate(variables) for variables in (teacher.variables, shifted)]
    placed = {f"t{i}": teacher._replace(variables=one) for i, one in enumerate(both)}
    of = TeacherLogits(placed, SIZE, devices)
    p, q = (jax.nn.softmax(logits) for logits in of.each(split))
    assert np.abs(p - q).max() > 0.01
    np.testing.assert_allclose(jax.nn.softmax(of.joint(split)), (p + q) / 2, atol=1e-6)
    # One teacher's logits are left as they are, and without teachers there are none.
    alone = TeacherLogits({"t0": placed["t0"]}, SIZE, devices)
    np.testing.assert_array_equal(alone.joint(split), of.each(split)[0])
    assert TeacherLogits({}, SIZE, devices).joint(split) is None


def test_a_teacher_of_another_resolution_sees_the_whole_image_resized_to_it(teacher):
    devices = parallel.Devices(jax.local_devices()[:1])
    placed = {"t": teacher._replace(variables=devices.replicate(teacher.variables))}
    large = np.random.default_rng(1).integers(0, 256, (N, 40, 32, 1)).astype(np.uint8)
    originals = OnDemand(N, lambda positions: [large[i] for i in positions])
    split = PhaseSplit(Split(IMAGES, np.zeros(N, np.int32), originals))
    (logits,) = TeacherLogits(placed, SIZE, devices, (9,)).each(split)
    # Nine of twelve pixels are six of eight.
    seen = views.evaluation_view(np.stack([resized(image, 12) for image in large]), 9)
    expected = _probabilities(teacher.network, teacher.variables, seen)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-4)
    # At its own it sees the split's images.
    (logits,) = TeacherLogits(placed, SIZE, devices, (SIZE,)).each(split)
    seen = views.evaluation_view(IMAGES, SIZE)
    expected = _probabilities(teacher.network, teacher.variables, seen)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-4)


def test_an_averaged_teacher_predicts_the_mean_over_all_windows(teacher):
    devices = parallel.Devices(jax.local_devices()[:2])
    variables = devices.replicate(teacher.variables)
    average = CropAverage(teacher.network, _make_views(), 200, devices)
    logits = average.logits(variables, _split())
    assert logits.shape == (N, K)
    # The mean of all nine windows, of which each of 200 draws takes one.
    windows = np.stack([IMAGES[:, y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)])
    every = _probabilities(
        teacher.network, teacher.variables, windows.reshape(-1, SIZE, SIZE, 1) / 255
    )
    every = np.asarray(every).reshape(9, N, K)
    error = every.std(0).max() / np.sqrt(200)
    np.testing.assert_allclose(np.exp(logits), every.mean(0), atol=5 * error)
    np.testing.assert_allclose(np.exp(logits).sum(-1), np.ones(N), rtol=1e-5)
    # Neither one window nor the mean of logits.
    assert np.abs(np.exp(logits) - every).max(axis=(1, 2)).min() > 1e-3


def test_an_images_crops_depend_on_its_position_alone(teacher):
    one, two = (parallel.Devices(jax.local_devices()[:n]) for n in (1, 2))
    average = functools.partial(CropAverage, teacher.network, _make_views(), 3)
    expected = average(one).logits(one.replicate(teacher.variables), _split())
    actual = average(two).logits(two.replicate(teacher.variables), _split())
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    fewer = average(one).logits(one.replicate(teacher.variables), _split(4))
    np.testing.assert_allclose(fewer, expected[:4], rtol=1e-4)


@pytest.mark.parametrize("teacher_size", [0, 8])
def test_an_average_over_crops_of_whole_images_is_the_mean_of_their_predictions(
    teacher, teacher_size
):
    devices = parallel.Devices(jax.local_devices()[:2])
    large = np.random.default_rng(1).integers(0, 256, (N, 40, 32, 1)).astype(np.uint8)
    originals = OnDemand(N, lambda positions: [large[i] for i in positions])
    split = PhaseSplit(Split(IMAGES, np.zeros(N, np.int32), originals))
    crops = whole.Crops((0.05, 1.0), SIZE, "fixed", teacher_size)
    make = _make_views(crop="inception", cropped=True, teacher_size=teacher_size)
    placed = {"t": teacher._replace(variables=devices.replicate(teacher.variables))}
    (logits,) = TeacherLogits(placed, SIZE, devices, (teacher_size,)).averaged(
        split, make, 3, crops
    )
    seen = [crops.numbered(list(large), np.arange(N), number) / 255 for number in range(3)]
    assert seen[0].shape == (N, *(teacher_size or SIZE,) * 2, 1)
    p = [_probabilities(teacher.network, teacher.variables, images) for images in seen]
    np.testing.assert_allclose(np.exp(logits), np.mean(p, axis=0), rtol=1e-4)
    assert np.ptp(p, axis=0).max() > 0.01
