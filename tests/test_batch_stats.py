"""Batch statistics: equal on all devices, and measured again."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import batch_stats, models, parallel
from kdjax.data import sources, views
from kdjax.models.reused import ReusedClassifier
from kdjax.types import Network, TrainState

SHAPE, CLASSES, BATCH = (8, 8, 1), 4, 8
tiny = models.create("resnet8", num_classes=CLASSES, in_channels=1, widths=(8, 8, 8, 8))


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_renews_the_averages_and_nothing_else(count):
    network = Network(tiny.clone(axis_name=parallel.AXIS), (0.4,), (0.3,))
    alone = network._replace(module=tiny)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, *SHAPE), np.uint8)
    split = sources.Split(images, rng.integers(0, CLASSES, 16).astype(np.int32))
    devices = parallel.Devices.dividing(BATCH, count)
    view = views.make_views(num_classes=CLASSES, image_size=8, crop="none", flip=False)
    step = devices.map(
        batch_stats.make_batch_stats_step(student=network, views=[view], axis_name=parallel.AXIS),
        in_axes=(None, None, 0, None),
    )
    variables = alone.init(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    state = devices.replicate(TrainState.of_variables(variables))
    resident = devices.replicate({"images": split.images, "labels": split.labels})
    key = devices.replicate(jax.random.key(2))
    expected = variables["batch_stats"]
    for index in np.arange(16, dtype=np.int32).reshape(2, BATCH):
        state = step(state, resident, {"index": devices.shard(index[None], axis=1)}, key)
        seen = {"params": variables["params"], "batch_stats": expected}
        pixels = views.as_pixels(images[index])
        _, expected = alone.train(seen, pixels, jax.random.key(0))
    chex.assert_trees_all_close(state.batch_stats, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(jax.device_get(state.params), jax.device_get(variables["params"]))
    assert int(state.step) == 0


class Forgetful(type(tiny)):
    """Takes the mapped axis and does not use it."""

    def batch_norm(self, train):
        return functools.partial(super().batch_norm(train), axis_name=None)


forgetful = Forgetful(
    **{f.name: getattr(tiny, f.name) for f in dataclasses.fields(tiny) if f.name != "parent"}
)


def _variables(network):
    alone = network._replace(module=network.module.clone(axis_name=None))
    return alone.init(jax.random.key(1), jnp.zeros((1, *SHAPE)))


def _of_one_step(network, variables):
    """The batch statistics after a step on two devices, which are equal there; and its images."""

    def train(variables, images):
        _, stats = network.train(variables, images, jax.random.key(0))
        return batch_stats.equal_on_devices(network, stats, parallel.AXIS)

    devices = parallel.Devices.dividing(BATCH, 2)
    images = np.random.default_rng(0).random((BATCH, *SHAPE), np.float32)
    step = devices.map(train, in_axes=(None, 0))
    stats = step(devices.replicate(variables), devices.shard(images))
    for leaf in jax.tree.leaves(stats):
        first, second = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(first, second)
    return stats, images


@pytest.mark.parametrize(
    ("module", "synchronised"),
    [
        (tiny.clone(axis_name=parallel.AXIS), True),
        (tiny, False),
        (forgetful.clone(axis_name=parallel.AXIS), False),
    ],
    ids=["synchronised", "unsynchronised", "one's own"],
)
def test_all_devices_have_the_averages_of_the_batch_or_the_mean_of_their_own(module, synchronised):
    network = Network(module, (0.4,), (0.3,))
    alone = network._replace(module=tiny)
    variables = _variables(network)
    stats, images = _of_one_step(network, variables)
    parts = [images] if synchronised else np.split(images, 2)
    each = [alone.train(variables, part, jax.random.key(0))[1] for part in parts]
    expected = jax.tree.map(lambda *x: sum(x) / len(x), *each)
    chex.assert_trees_all_close(jax.device_get(stats), expected, rtol=1e-4, atol=1e-5)


def test_a_network_of_ones_own_inside_another_is_averaged():
    reused = ReusedClassifier.around(
        forgetful, num_classes=CLASSES, in_channels=1, features=8, size=(2, 2)
    )
    network = Network(reused.clone(axis_name=parallel.AXIS), (0.4,), (0.3,))
    stats, _ = _of_one_step(network, _variables(network))
    assert "backbone" in stats
