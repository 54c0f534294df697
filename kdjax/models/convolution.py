"""Convolutions, arranged so that XLA's CPU backend computes them fast."""

import contextlib
import contextvars
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kdjax import parallel
from kdjax.types import Array

# The widest convolution, in and out, that is packed: wider ones have fast code of their own.
_WIDEST = 16
# The narrowest, and the least work (in multiplications, over nine), for which Winograd's
# pays for its additions and for the time that it takes to compile.
_NARROWEST = 16
_ENOUGH = 1 << 23
# Numbers in as many images (or feature maps of the output, where they have more channels) as are
# taken at once: all that is computed from them stays in a core's cache.
_AT_ONCE = 1 << 17
_fast = contextvars.ContextVar("fast", default=True)
# F(4, 3): six combinations of six rows of the images, and of the three of the kernel, whose
# products give four rows; and likewise of columns. At the points 0, 1, -1, 1/2, -2 and infinity,
# whose numbers differ less in size than those of the usual 0, 1, -1, 2, -2: rounding does less.
_OF_IMAGES = (
    (1, -1.5, -2, 1.5, 1, 0),
    (0, -1, 0.5, 2.5, 1, 0),
    (0, 1, -2.5, 0.5, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 0.5, -1, -0.5, 1, 0),
    (0, 1, -1.5, -2, 1.5, 1),
)
_OF_KERNEL = (
    (1, 0, 0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
    (0, 0, 1),
)
_OF_PRODUCTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 0.5, -2, 0),
    (0, 1, 1, 0.25, 4, 0),
    (0, 1, -1, 0.125, -8, 1),
)
_NHWC = ("NHWC", "HWIO", "NHWC")
_NONE_AROUND = [(0, 0), (0, 0)]
_ONE_AROUND = [(1, 1), (1, 1)]


@contextlib.contextmanager
def as_defined() -> Iterator[None]:
    """Within it convolutions are traced as they are defined, for who counts their arithmetic.

    What JAX has traced before it takes from its caches.
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
    """`lax.conv_general_dilated` for [b, h, w, c], by other ways where they are faster.

    On the CPU a 1x1 convolution without padding is computed as a matrix product of pixels:
    its gradient by the kernel takes half to a fifth of the time. A 3x3 convolution with
    stride 1 and padding 1 is computed

    - 4x4 pixels at a time, with a quarter of the multiplications, by Winograd's F(4x4, 3x3)
      (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3),
      where h and w are multiples of four, there are at least 16 channels and enough work,
      and the numbers are float32; in a loop over images, as many at once as a core's cache
      holds;
    - between pairs of columns, where the width is even and there are at most 16 channels:
      a third more arithmetic in twice the channels, for which the backend has fast code.

    Results differ in rounding. 4x4 pixels at a time, results and gradients lie up to seven
    times as far from the exact sums as those of the backend's own convolution: so much do the
    transforms enlarge the rounding of products (for the gradient by the kernel to about 2e-6
    of its size). Of both ways for 3x3, only reverse-mode differentiation is defined.
    """
    if (
        _fast.get()
        and parallel.on_cpu()
        and all(d in (None, 1) for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == 1
    ):
        if kernel.shape[:2] == (1, 1) and padding == _NONE_AROUND:
            return _of_pixels(images[:, :: window_strides[0], :: window_strides[1]], kernel)
        if (
            kernel.shape[:2] == (3, 3)
            and tuple(window_strides) == (1, 1)
            and padding == _ONE_AROUND
            and (_by_tiles(images, kernel) or _by_pairs(images, kernel))
        ):
            return _convolved(images, kernel)
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


def _of_pixels(images: Array, kernel: Array) -> Array:
    """A 1x1 convolution. A product with [b, h, w, c] itself would be a convolution again."""
    *shape, c = images.shape
    return (images.reshape(-1, c) @ kernel[0, 0]).reshape(*shape, -1)


def _by_tiles(images: Array, kernel: Array) -> bool:
    """Whether to take 4x4 pixels at a time."""
    return (
        images.shape[1] % 4 == images.shape[2] % 4 == 0
        and images.dtype == jnp.float32
        and min(kernel.shape[2:]) >= _NARROWEST
        and images.size * kernel.shape[3] >= _ENOUGH
    )


def _by_pairs(images: Array, kernel: Array) -> bool:
    """Whether to take columns two at a time."""
    return images.shape[2] % 2 == 0 and max(kernel.shape[2:]) <= _WIDEST


@jax.custom_vjp
def _convolved(images: Array, kernel: Array) -> Array:
    if not _by_tiles(images, kernel):
        return _between_pairs(images, kernel)
    factors = _of_kernel(kernel)
    results = lax.map(lambda some: _by_factors(some, factors), _in_parts(images, kernel))
    return results.reshape(*images.shape[:-1], -1)


def _by_factors(images: Array, factors: Array) -> Array:
    """[b, h, w, c], [36, c, d] -> [b, h, w, d]."""
    products = jnp.einsum("pnc,pcd->pnd", _of_images(images), factors)
    return _from_products(products, *images.shape[:3])


def _in_parts(x: Array, kernel: Array) -> Array:
    """[b, h, w, c] -> [parts, b / parts, h, w, c]."""
    b, h, w, _ = x.shape
    most = max(1, _AT_ONCE // (h * w * max(kernel.shape[2:])))
    size = max(n for n in range(1, min(b, most) + 1) if b % n == 0)
    return x.reshape(b // size, size, *x.shape[1:])


def _of_images(images: Array) -> Array:
    """[b, h, w, c] -> [36, b * h / 4 * w / 4, c]: what is multiplied for each 4x4 pixels."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    half = _combined(_OF_IMAGES, _of_windows(padded, 1), axis=0)
    # Were both halves one operation, it would repeat the first for each result of the second.
    half = lax.optimization_barrier(half)
    return _combined(_OF_IMAGES, _of_windows(half, 3), axis=1).reshape(36, -1, images.shape[-1])


def _of_windows(x: Array, axis: int) -> list[Array]:
    """Of windows of six, begun at every fourth place along an axis: all firsts, all seconds, ..."""
    windows = (x.shape[axis] - 2) // 4
    return [lax.slice_in_dim(x, i, i + 4 * windows - 3, 4, axis) for i in range(6)]


def _of_kernel(kernel: Array) -> Array:
    """[3, 3, c, d] -> [36, c, d]: by what it is multiplied."""
    rows = _combined(_OF_KERNEL, kernel, axis=0)
    both = _combined(_OF_KERNEL, [rows[:, i] for i in range(3)], axis=1)
    return both.reshape(36, *kernel.shape[2:])


def _from_products(products: Array, b: int, h: int, w: int) -> Array:
    """[36, b * h / 4 * w / 4, d] -> [b, h, w, d]."""
    products = products.reshape(6, 6, b, h // 4, w // 4, -1)
    half = _combined(_OF_PRODUCTS, [products[:, i] for i in range(6)], axis=4)
    half = lax.optimization_barrier(half)
    return _combined(_OF_PRODUCTS, half, axis=2).reshape(b, h, w, -1)


def _to_products(grad: Array) -> Array:
    """The transpose of `_from_products`."""
    b, h, w, d = grad.shape
    grad = grad.reshape(b, h // 4, 4, w // 4, 4, d)
    half = _combined(zip(*_OF_PRODUCTS, strict=True), [grad[:, :, i] for i in range(4)], axis=0)
    half = lax.optimization_barrier(half)
    columns = [half[:, :, :, :, i] for i in range(4)]
    return _combined(zip(*_OF_PRODUCTS, strict=True), columns, axis=1).reshape(36, -1, d)


def _to_kernel(products: Array) -> Array:
    """[36, c, d] -> [3, 3, c, d], the transpose of `_of_kernel`.

    Written out, for what JAX derives has more parts, which cost time and compilation.
    """
    products = products.reshape(6, 6, *products.shape[1:])
    rows = _combined(zip(*_OF_KERNEL, strict=True), products, axis=0)
    return _combined(zip(*_OF_KERNEL, strict=True), [rows[:, i] for i in range(6)], axis=1)


def _combined(
    numbers: Iterable[Sequence[float]], arrays: Sequence[Array] | Array, axis: int
) -> Array:
    """Sums of arrays times numbers, most of which are 0 or 1, stacked."""
    sums = []
    for row in numbers:
        terms = [x if n == 1 else n * x for n, x in zip(row, arrays, strict=True) if n]
        sums.append(functools.reduce(jnp.add, terms))
    return jnp.stack(sums, axis)


def _forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(images, kernel), (images, kernel)


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    # The gradient of the images is a convolution of the same kind with the kernel turned round.
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    if not _by_tiles(images, kernel):
        # That of the kernel is faster as XLA writes it.
        _, of_kernel = jax.vjp(lambda kernel: _plain(images, kernel), kernel)
        return _between_pairs(grad, turned), *of_kernel(grad)
    factors = _of_kernel(turned)

    def of_some(total: Array, some: tuple[Array, Array]) -> tuple[Array, Array]:
        images, grad = some
        total += jnp.einsum("pnc,pnd->pcd", _of_images(images), _to_products(grad))
        return total, _by_factors(grad, factors)

    # Both in one loop: XLA would compute all kernels' gradients last, and keep all until then.
    parts = (_in_parts(images, kernel), _in_parts(grad, kernel))
    total, results = lax.scan(of_some, jnp.zeros((36, *kernel.shape[2:])), parts)
    return results.reshape(images.shape), _to_kernel(total)


_convolved.defvjp(_forward, _backward)


def _plain(images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(images, kernel, (1, 1), _ONE_AROUND, dimension_numbers=_NHWC)


def _between_pairs(images: Array, kernel: Array) -> Array:
    """Columns taken two at a time.

    Padded by one on the left, pair j of the images holds columns 2j - 1 and 2j; pair j of the
    output holds columns 2j and 2j + 1, which need the images' pairs j and j + 1.
    """
    b, h, w, c = images.shape
    pairs = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(b, h, w // 2 + 1, 2 * c)
    left, middle, right = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    none = jnp.zeros_like(left)
    # By pair of the images; in each [n, c of either column, d of either column].
    first = [[left, none], [middle, left]]
    second = [[right, middle], [none, right]]
    packed = jnp.stack([jnp.block(rows) for rows in (first, second)], axis=1)
    y = lax.conv_general_dilated(pairs, packed, (1, 1), [(1, 1), (0, 0)], dimension_numbers=_NHWC)
    return y.reshape(b, h, w, -1)
