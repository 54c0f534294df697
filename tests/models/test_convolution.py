"""The faster algorithms compute the same convolution."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from convolutions import arrays, convolved, kernels, reference
from jax import lax

from kdjax.models.convolution import as_defined, convolve


# The smallest width, an image higher than wide, one channel, different channels.
@pytest.mark.parametrize(
    ("shape", "c", "d"),
    [((2, 8, 8), 16, 16), ((3, 5, 2), 3, 16), ((1, 6, 4), 16, 1), ((2, 1, 6), 7, 9)],
)
def test_pairs_of_columns_give_the_convolution_and_its_gradients(shape, c, d):
    images, kernel, grad = arrays(shape, c, d)
    assert kernels(convolved, images, kernel) == [(3, 2, 2 * c, 2 * d)]
    result, back = jax.vjp(jax.jit(convolved), images, kernel)
    expected, expected_back = jax.vjp(reference, images, kernel)
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-4)
    chex.assert_trees_all_close(back(grad), expected_back(grad), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "c", "d", "stride"),
    [((2, 8, 7), 4, 4, 1), ((2, 8, 8), 4, 4, 2), ((2, 8, 8), 17, 4, 1), ((2, 8, 8), 4, 17, 1)],
)
def test_other_convolutions_are_left_to_xla(shape, c, d, stride):
    images, kernel, _ = arrays(shape, c, d)
    assert kernels(lambda x, k: convolved(x, k, stride), images, kernel) == [(3, 3, c, d)]
    chex.assert_trees_all_close(
        convolved(images, kernel, stride), reference(images, kernel, stride), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_pixels_give_the_convolution_and_its_gradients(stride):
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


def test_as_defined_traces_the_plain_convolution():
    images, kernel, _ = arrays((1, 4, 4), 4, 4)
    with as_defined():
        assert kernels(lambda x, k: convolved(x, k), images, kernel) == [(3, 3, 4, 4)]
    assert kernels(lambda x, k: convolved(x, k), images, kernel) == [(3, 2, 8, 8)]


@pytest.mark.parametrize(("shape", "c"), [((2, 4, 4), 4), ((16, 32, 32), 32)])
def test_vmap_over_kernels(shape, c):
    images, kernel, _ = arrays(shape, c, c)
    several = jnp.stack([kernel, 2 * kernel])
    result = jax.vmap(convolved, (None, 0))(images, several)
    chex.assert_trees_all_close(result[1], 2 * result[0], rtol=1e-5, atol=1e-5)
