"""Convolutions that are computed in other ways are convolutions."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdjax.models.convolution import (
    _OF_IMAGES,
    _OF_KERNEL,
    _OF_PRODUCTS,
    as_defined,
    convolve,
)


def reference(images, kernel, stride=1):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def of(images, kernel, stride=1):
    return convolve(
        images,
        kernel,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def arrays(shape, c, d):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (*shape, c))
    kernel = jax.random.normal(keys[1], (3, 3, c, d))
    grad = jax.random.normal(keys[2], (*shape, d))
    return images, kernel, grad


def kernels(function, *args):
    """Shapes of the kernels that a function convolves with."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    found = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                found.append(equation.invars[1].aval.shape)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    look(inner)

    look(jaxpr)
    return found


# The smallest width, an image higher than wide, one channel, different channels.
@pytest.mark.parametrize(
    ("shape", "c", "d"),
    [((2, 8, 8), 16, 16), ((3, 5, 2), 3, 16), ((1, 6, 4), 16, 1), ((2, 1, 6), 7, 9)],
)
def test_pairs_of_columns_equal_the_convolution_and_its_gradients(shape, c, d):
    images, kernel, grad = arrays(shape, c, d)
    assert kernels(of, images, kernel) == [(3, 2, 2 * c, 2 * d)]
    result, back = jax.vjp(jax.jit(of), images, kernel)
    expected, expected_back = jax.vjp(reference, images, kernel)
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-4)
    chex.assert_trees_all_close(back(grad), expected_back(grad), rtol=1e-5, atol=1e-4)


# The fewest channels and an image at once; all at once and tiles as high as the images; two of six
# at once, higher than wide, with different channels.
@pytest.mark.parametrize(
    ("shape", "c", "d"),
    [((2, 32, 512), 16, 16), ((8, 4, 16), 128, 128), ((6, 32, 24), 32, 64)],
)
def test_tiles_equal_the_convolution_and_its_gradients(shape, c, d):
    images, kernel, grad = arrays(shape, c, d)
    result, back = jax.vjp(jax.jit(of), images, kernel)
    assert kernels(of, images, kernel) == kernels(back, grad) == []
    with jax.enable_x64(True):
        exact, exact_back = jax.vjp(
            reference, images.astype(jnp.float64), kernel.astype(jnp.float64)
        )
        exact = jax.tree.map(np.asarray, (exact, *exact_back(grad.astype(jnp.float64))))
    plain, plain_back = jax.vjp(jax.jit(reference), images, kernel)
    for ours, backends, truth in zip(
        (result, *back(grad)), (plain, *plain_back(grad)), exact, strict=True
    ):
        error, usual = (np.std(np.asarray(x) - truth) for x in (ours, backends))
        assert error < amplification() * usual < 1e-5 * np.std(truth)


def amplification():
    """How many times larger the products' rounding errors are in Winograd's sums than in plain ones.

    Root mean squares, for independent numbers; those of the kernel's gradient are the same.
    """
    of_images, of_kernel, of_products = (
        np.square(table) for table in (_OF_IMAGES, _OF_KERNEL, _OF_PRODUCTS)
    )
    squares = of_products @ (of_images.sum(1) * of_kernel.sum(1)) / 3
    # Its root over rows, and once more over columns.
    return np.mean(squares)


def test_more_images_take_no_more_memory_between():
    def temporaries(b):
        images, kernel, grad = arrays((b, 32, 32), 16, 16)
        back = jax.jit(lambda *args: jax.vjp(of, *args[:2])[1](args[2]))
        return back.lower(images, kernel, grad).compile().memory_analysis().temp_size_in_bytes

    # But for the result of the loop, before it is the images' gradient, and what is as small.
    grown = temporaries(64) - temporaries(32)
    assert grown <= 1.1 * 32 * 32 * 32 * 16 * 4


@pytest.mark.parametrize(
    ("shape", "c", "dtype"),
    [
        ((8, 6, 16), 128, "float32"),
        ((8, 16, 6), 128, "float32"),
        ((2, 4, 16), 128, "float32"),
        ((8, 4, 16), 128, "bfloat16"),
    ],
)
def test_tiles_are_left_alone_where_that_is_better(shape, c, dtype):
    images, kernel, _ = (x.astype(dtype) for x in arrays(shape, c, c))
    assert kernels(of, images, kernel) == [(3, 3, c, c)]


@pytest.mark.parametrize(
    ("shape", "c", "d", "stride"),
    [((2, 8, 7), 4, 4, 1), ((2, 8, 8), 4, 4, 2), ((2, 8, 8), 17, 4, 1), ((2, 8, 8), 4, 17, 1)],
)
def test_others_are_left_alone(shape, c, d, stride):
    images, kernel, _ = arrays(shape, c, d)
    assert kernels(lambda x, k: of(x, k, stride), images, kernel) == [(3, 3, c, d)]
    chex.assert_trees_all_close(
        of(images, kernel, stride), reference(images, kernel, stride), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_single_pixels_equal_the_convolution_and_its_gradients(stride):
    images, kernel, _ = arrays((2, 5, 4), 3, 7)
    pixel = kernel[:1, :1]

    def plain(images, kernel, convolution=lax.conv_general_dilated, around=0):
        strides, sides = (stride, stride), [(around, around)] * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return convolution(images, kernel, strides, sides, dimension_numbers=numbers)

    ours = jax.jit(lambda images, kernel: plain(images, kernel, convolve))
    assert kernels(ours, images, pixel) == []
    result, back = jax.vjp(ours, images, pixel)
    expected, expected_back = jax.vjp(plain, images, pixel)
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-5)
    grad = jax.random.normal(jax.random.key(1), result.shape)
    chex.assert_trees_all_close(back(grad), expected_back(grad), rtol=1e-5, atol=1e-5)
    padded = functools.partial(plain, convolution=convolve, around=1)
    assert kernels(padded, images, pixel) == [pixel.shape]


def test_as_defined_counts_nothing_extra():
    images, kernel, _ = arrays((1, 4, 4), 4, 4)
    with as_defined():
        assert kernels(lambda x, k: of(x, k), images, kernel) == [(3, 3, 4, 4)]
    assert kernels(lambda x, k: of(x, k), images, kernel) == [(3, 2, 8, 8)]


@pytest.mark.parametrize(("shape", "c"), [((2, 4, 4), 4), ((16, 32, 32), 32)])
def test_a_batch_of_kernels_can_be_mapped(shape, c):
    images, kernel, _ = arrays(shape, c, c)
    several = jnp.stack([kernel, 2 * kernel])
    result = jax.vmap(of, (None, 0))(images, several)
    chex.assert_trees_all_close(result[1], 2 * result[0], rtol=1e-5, atol=1e-5)
