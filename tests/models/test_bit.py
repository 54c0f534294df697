"""BiT with imported weights, against NumPy. Its sizes are in `test_common.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bit_files import BLOCKS, CLASSES, MODEL, OPTIONS, WIDTH, logits, published

from kdjax import networks
from kdjax.models.bit import BiT

RGB = {"in_channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(scope="module")
def arrays():
    return published()


@pytest.fixture(scope="module")
def file(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("bit") / "weights.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def images():
    # Neither side is a multiple of the network's stride.
    return np.random.default_rng(1).uniform(size=(2, 29, 18, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(arrays, images):
    return logits(arrays, 2 * np.float64(images) - 1)


def test_logits_of_a_published_file_are_those_of_numpy(file, images, expected):
    trained = networks.load(f"{MODEL}={file}", **RGB, options=OPTIONS)
    assert trained.network.module.num_classes == CLASSES
    found = jax.jit(trained.network.evaluate)(trained.variables, images).logits
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_kernels_are_standardised_once_for_many_calls(file, images, expected):
    network, variables, _ = networks.load(
        f"{MODEL}={file}", **RGB, dtype="bfloat16", options=OPTIONS
    )
    prepared = jax.jit(network.prepare)(variables, images)
    kernel = prepared["folded"]["root_conv"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(kernel).mean((0, 1, 2)), 0, atol=2e-3)
    np.testing.assert_allclose(np.float32(kernel).std((0, 1, 2)), 1, atol=2e-3)
    evaluate = jax.jit(network.evaluate)
    np.testing.assert_array_equal(
        evaluate(prepared, images).logits, evaluate(variables, images).logits
    )
    names = [key for key in prepared["folded"] if "conv" in key or "downsample" in key]
    assert len(names) == 1 + 3 * sum(BLOCKS) + len(BLOCKS)


def test_the_classifier_starts_at_zero():
    model = BiT(num_classes=CLASSES, blocks=(1,), width=WIDTH)
    head = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]["head_conv"]
    assert not any(np.any(leaf) for leaf in head.values())
