"""Convolutions, arranged so that XLA's CPU backend computes them fast."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kdjax import parallel
from kdjax.models import winograd
from kdjax.types import Array

# Columns are paired up to this many input and output channels: for wider convolutions XLA has
# fast code of its own.
_MAX_PAIRED_CHANNELS = 16
_fast = contextvars.ContextVar("fast", default=True)
_NHWC = ("NHWC", "HWIO", "NHWC")
_NO_PADDING = [(0, 0), (0, 0)]
_PADDING_OF_ONE = [(1, 1), (1, 1)]


@contextlib.contextmanager
def as_defined() -> Iterator[None]:
    """Context in which convolutions are traced by definition, for counting their operations.

    Functions that JAX has already traced are taken from its caches and are not affected.
    """
    token = _fast.set(False)
    try:
        yield
    finally:
        _fast.reset(token)


def convolve(
    images: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **kwargs: Any,
) -> Array:
    """`lax.conv_general_dilated` for [b, h, w, c], with faster algorithms on the CPU.

    On the CPU, an unpadded 1x1 convolution is computed as a matrix product over pixels, whose
    gradient with respect to the kernel takes between a fifth and half of the time. A 3x3
    convolution with stride 1 and padding 1 is computed

    - by Winograd's F(4x4, 3x3) with a quarter of the multiplications (`winograd`), if the
      images are float32, h and w are multiples of four, and there are at least 16 channels and
      enough work;
    - over pairs of columns, if the width is even and there are at most 16 channels: a third
      more arithmetic, but with twice the channels, for which XLA has fast code.

    Results differ in rounding. Errors of Winograd's algorithm, in results and gradients, are
    up to seven times those of XLA's own convolution, because its transforms amplify the
    rounding of products (relative error of the kernel's gradient about 2e-6). For both 3x3
    algorithms only reverse-mode differentiation is defined.

    The arguments are those of `lax.conv_general_dilated`.
    """
    if (
        _fast.get()
        and parallel.on_cpu()
        and all(d in (None, 1) for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == 1
    ):
        if kernel.shape[:2] == (1, 1) and padding == _NO_PADDING:
            return _convolve_pixels(images[:, :: window_strides[0], :: window_strides[1]], kernel)
        if (
            kernel.shape[:2] == (3, 3)
            and tuple(window_strides) == (1, 1)
            and padding == _PADDING_OF_ONE
        ):
            if winograd.is_faster(images, kernel):
                return winograd.convolve(images, kernel)
            if images.shape[2] % 2 == 0 and max(kernel.shape[2:]) <= _MAX_PAIRED_CHANNELS:
                return _convolve_pairs(images, kernel)
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        **kwargs,
    )


def _convolve_pixels(images: Array, kernel: Array) -> Array:
    """A 1x1 convolution as a matrix product.

    The images are flattened because XLA would turn a product with [b, h, w, c] back into a
    convolution.
    """
    *shape, c = images.shape
    return (images.reshape(-1, c) @ kernel[0, 0]).reshape(*shape, -1)


@jax.custom_vjp
def _convolve_pairs(images: Array, kernel: Array) -> Array:
    """A 3x3 convolution over pairs of columns, whose channels are concatenated."""
    return _over_pairs(images, kernel)


def _forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve_pairs(images, kernel), (images, kernel)


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    # The images' gradient is the same convolution of `grad` with the kernel rotated by 180
    # degrees and its channels swapped.
    rotated = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    # XLA's own gradient with respect to the kernel is faster than that over pairs.
    _, kernel_vjp = jax.vjp(lambda kernel: _convolve_directly(images, kernel), kernel)
    return _over_pairs(grad, rotated), *kernel_vjp(grad)


_convolve_pairs.defvjp(_forward, _backward)


def _convolve_directly(images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), _PADDING_OF_ONE, dimension_numbers=_NHWC
    )


def _over_pairs(images: Array, kernel: Array) -> Array:
    """Convolves two columns at a time.

    With one column of padding on the left, pair j of the images holds columns 2j - 1 and 2j.
    Pair j of the output holds columns 2j and 2j + 1, which depend on pairs j and j + 1 of the
    images.
    """
    b, h, w, c = images.shape
    pairs = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(b, h, w // 2 + 1, 2 * c)
    left, middle, right = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    zeros = jnp.zeros_like(left)
    # One block matrix for each of the two input pairs: input columns by output columns.
    first = [[left, zeros], [middle, left]]
    second = [[right, middle], [zeros, right]]
    packed = jnp.stack([jnp.block(rows) for rows in (first, second)], axis=1)
    y = lax.conv_general_dilated(pairs, packed, (1, 1), [(1, 1), (0, 0)], dimension_numbers=_NHWC)
    return y.reshape(b, h, w, -1)
