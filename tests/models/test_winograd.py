"""Winograd's algorithm computes the same convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import arrays, convolved, kernels, reference

from kdjax.models import winograd


# The fewest channels and one image per chunk; a single chunk of images one tile high; chunks of four
# images, higher than wide, with different numbers of channels.
@pytest.mark.parametrize(
    ("shape", "c", "d"),
    [((4, 32, 512), 16, 16), ((16, 4, 16), 128, 128), ((48, 16, 12), 32, 64)],
)
def test_it_is_the_convolution_with_its_gradients_up_to_the_rounding_of_its_transforms(shape, c, d):
    images, kernel, grad = arrays(shape, c, d)
    result, back = jax.vjp(jax.jit(convolved), images, kernel)
    assert kernels(convolved, images, kernel) == kernels(back, grad) == []
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


def _matrix(product, size):
    """The matrix by which a function multiplies vectors of that size."""
    return np.stack(product(list(np.eye(size, dtype=np.float32))))


def test_its_matrices_filter_six_numbers_by_three_with_six_multiplications():
    # Every sum of products of one element of each: the algorithm is bilinear.
    bt, at = _matrix(winograd._bt, 6), _matrix(winograd._at, 6)
    products = np.einsum("tm,mi,mj->tij", at, winograd.G, bt)
    outputs = np.arange(4)[:, None, None]
    filters, inputs = np.arange(3)[:, None], np.arange(6)
    np.testing.assert_allclose(products, inputs == outputs + filters, atol=1e-6)
    np.testing.assert_array_equal(_matrix(winograd._a, 4), at.T)


def amplification():
    """The factor by which the transforms amplify the rounding errors of the products.

    Root mean squares for independent numbers; the kernel's gradient has the same factor.
    """
    matrices = _matrix(winograd._bt, 6), winograd.G, _matrix(winograd._at, 6)
    bt, g, at = (np.square(x) for x in matrices)
    squares = at @ (bt.sum(1) * g.sum(1)) / 3
    # The square root for the rows, and once more for the columns.
    return np.mean(squares)


def test_temporary_memory_does_not_grow_with_the_batch_beyond_the_result():
    def temporaries(b):
        images, kernel, grad = arrays((b, 32, 32), 16, 16)
        back = jax.jit(lambda *args: jax.vjp(convolved, *args[:2])[1](args[2]))
        return back.lower(images, kernel, grad).compile().memory_analysis().temp_size_in_bytes

    # The result of the loop, before it becomes the images' gradient, and 10 % for the rest.
    grown = temporaries(128) - temporaries(64)
    assert grown <= 1.1 * 64 * 32 * 32 * 16 * 4


def test_compilation_is_short_as_it_has_few_operations_and_equal_shapes_are_traced_once():
    images, kernel, grad = arrays((64, 32, 32), 16, 16)

    def operations(layers):
        def network(images, kernel):
            for _ in range(layers):
                images = convolved(images, kernel)
            return images

        back = jax.jit(lambda *args: jax.vjp(network, *args[:2])[1](args[2]))
        return back.lower(images, kernel, grad).as_text().count("stablehlo.")

    # A network of a hundred layers has a hundred times as many. The text has each function once.
    assert operations(1) < 500
    assert operations(8) < 2 * operations(1)


@pytest.mark.parametrize(
    ("shape", "c", "dtype"),
    [
        ((16, 6, 16), 128, "float32"),
        ((16, 16, 6), 128, "float32"),
        ((8, 4, 16), 128, "float32"),
        ((16, 4, 16), 128, "bfloat16"),
    ],
)
def test_xlas_own_convolution_is_used_where_it_is_faster(shape, c, dtype):
    images, kernel, _ = (x.astype(dtype) for x in arrays(shape, c, c))
    assert kernels(convolved, images, kernel) == [(3, 3, c, c)]


@pytest.mark.parametrize(
    ("transform", "transpose", "shape", "args"),
    [
        (winograd._transform_kernel, winograd._transpose_kernel, (3, 3, 2, 5), ()),
        (winograd._transform_output, winograd._transpose_output, (36, 12, 5), (2, 8, 12)),
    ],
)
def test_the_transposed_transforms_are_transposes(transform, transpose, shape, args):
    x = jax.random.normal(jax.random.key(0), shape)
    y, vjp = jax.vjp(lambda x: transform(x, *args), x)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(
        transpose(cotangent).reshape(shape), *vjp(cotangent), rtol=1e-4, atol=1e-5
    )
