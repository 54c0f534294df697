"""Convolutions of few channels, arranged so that XLA's CPU backend computes them fast."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kdjax import parallel
from kdjax.types import Array

# The widest convolution, in and out, that is packed: wider ones have fast code of their own.
_WIDEST = 16
_packing = contextvars.ContextVar("packing", default=True)
_NHWC = ("NHWC", "HWIO", "NHWC")
_ONE_AROUND = [(1, 1), (1, 1)]


@contextlib.contextmanager
def as_defined() -> Iterator[None]:
    """Within it convolutions are traced as they are defined, for who counts their arithmetic.

    What JAX has traced before it takes from its caches.
    """
    token = _packing.set(False)
    try:
        yield
    finally:
        _packing.reset(token)


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
    """`lax.conv_general_dilated` for [b, h, w, c], by another way where that is faster.

    On the CPU a 3x3 convolution with stride 1, padding 1, at most 16 channels and an even
    width is computed as one of 3x2 between pairs of columns, which have twice the channels:
    a third more arithmetic, in the form that the backend has its fast code for. Its result
    differs by the order of sums. Only reverse-mode differentiation is defined for it.
    """
    packs = (
        _packing.get()
        and parallel.on_cpu()
        and kernel.shape[:2] == (3, 3)
        and max(kernel.shape[2:]) <= _WIDEST
        and tuple(window_strides) == (1, 1)
        and padding == _ONE_AROUND
        and all(d in (None, 1) for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == 1
        and images.shape[2] % 2 == 0
    )
    if packs:
        return _packed(images, kernel)
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


@jax.custom_vjp
def _packed(images: Array, kernel: Array) -> Array:
    return _between_pairs(images, kernel)


def _forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _between_pairs(images, kernel), (images, kernel)


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    # The gradient of the images is a convolution of the same kind with the kernel turned
    # round; that of the kernel is faster as XLA writes it.
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    of_kernel = jax.vjp(lambda k: _plain(images, k), kernel)[1]
    return _between_pairs(grad, turned), of_kernel(grad)[0]


_packed.defvjp(_forward, _backward)


def _plain(images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(images, kernel, (1, 1), _ONE_AROUND, dimension_numbers=_NHWC)


def _between_pairs(images: Array, kernel: Array) -> Array:
    """The convolution of [b, h, w, c] with [3, 3, c, d], columns taken two at a time.

    Padded by one on the left, pair j of the images holds columns 2j - 1 and 2j; pair j of the
    output holds columns 2j and 2j + 1, which need the images' pairs j and j + 1.
    """
    b, h, w, c = images.shape
    pairs = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(b, h, w // 2 + 1, 2 * c)
    left, middle, right = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    none = jnp.zeros_like(left)
    # By pair of the images; in each [3, c of either column, d of either column].
    first = [[left, none], [middle, left]]
    second = [[right, middle], [none, right]]
    packed = jnp.stack([jnp.block(rows) for rows in (first, second)], axis=1)
    y = lax.conv_general_dilated(pairs, packed, (1, 1), [(1, 1), (0, 0)], dimension_numbers=_NHWC)
    return y.reshape(b, h, w, -1)
