"""3x3 convolutions by Winograd's minimal filtering algorithm F(4x4, 3x3).

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4. Each 4x4
tile of the output is computed from a 6x6 tile d of the images and the kernel g as

    Y = A^T [(G g G^T) * (B^T d B)] A,

where the elementwise products are summed over the input channels: 36 multiplications for 16
results of 9 products each, a quarter of the direct convolution's. As in the paper,
U = G g G^T, V = B^T d B and M is the sum of the products.
"""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from kdjax.types import Array

# F(4, 3) at the points 0, 1, -1, 1/2, -2 and infinity. The paper's 0, 1, -1, 2, -2 give
# coefficients that differ more in magnitude, and therefore larger rounding errors.
BT = (
    (1, -1.5, -2, 1.5, 1, 0),
    (0, -1, 0.5, 2.5, 1, 0),
    (0, 1, -2.5, 0.5, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 0.5, -1, -0.5, 1, 0),
    (0, 1, -1.5, -2, 1.5, 1),
)
G = (
    (1, 0, 0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
    (0, 0, 1),
)
AT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 0.5, -2, 0),
    (0, 1, 1, 0.25, 4, 0),
    (0, 1, -1, 0.125, -8, 1),
)
_B, _GT, _A = (tuple(zip(*table, strict=True)) for table in (BT, G, AT))

# The fewest channels, and the least work (multiplications of a direct convolution, divided by
# nine), for which the saved multiplications outweigh the transforms and their compilation.
_MIN_CHANNELS = 16
_MIN_WORK = 1 << 23
# Elements of a chunk of images (or of output maps, if those have more channels), so that all
# intermediate results of a chunk fit in a core's cache.
_CHUNK_SIZE = 1 << 17


def is_faster(images: Array, kernel: Array) -> bool:
    """Whether `convolve` applies and is faster than XLA's own convolution on the CPU."""
    return (
        images.shape[1] % 4 == images.shape[2] % 4 == 0
        and images.dtype == jnp.float32
        and min(kernel.shape[2:]) >= _MIN_CHANNELS
        and images.size * kernel.shape[3] >= _MIN_WORK
    )


@jax.custom_vjp
def convolve(images: Array, kernel: Array) -> Array:
    """Convolves images with stride 1 and padding 1.

    Only reverse-mode differentiation is defined. The images are processed in chunks that fit
    in a core's cache.

    Args:
      images: float32 [b, h, w, c], h and w multiples of 4.
      kernel: float32 [3, 3, c, d].

    Returns:
      float32 [b, h, w, d].
    """
    u = _transform_kernel(kernel)
    results: Array = lax.map(lambda chunk: _convolve_chunk(chunk, u), _split(images, kernel))
    return results.reshape(*images.shape[:-1], -1)


def _forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(images, kernel), (images, kernel)


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    # The images' gradient is the same convolution of `grad` with the kernel rotated by 180
    # degrees and its channels swapped.
    u = _transform_kernel(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))

    def accumulate(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        images, grad = chunk
        total += jnp.einsum("pnc,pnd->pcd", _transform_images(images), _transpose_output(grad))
        return total, _convolve_chunk(grad, u)

    # One loop computes both gradients: otherwise XLA would schedule the kernels' gradients of
    # all layers at the end of the step and keep their inputs alive until then.
    chunks = (_split(images, kernel), _split(grad, kernel))
    total, results = lax.scan(accumulate, jnp.zeros((36, *kernel.shape[2:])), chunks)
    return results.reshape(images.shape), _transpose_kernel(total)


convolve.defvjp(_forward, _backward)


def _split(x: Array, kernel: Array) -> Array:
    """Splits [b, h, w, c] into chunks: [chunks, b / chunks, h, w, c]."""
    b, h, w, _ = x.shape
    limit = max(1, _CHUNK_SIZE // (h * w * max(kernel.shape[2:])))
    size = max(n for n in range(1, min(b, limit) + 1) if b % n == 0)
    return x.reshape(b // size, size, *x.shape[1:])


def _convolve_chunk(images: Array, u: Array) -> Array:
    """Convolves [b, h, w, c] with the transformed kernel [36, c, d] to [b, h, w, d]."""
    m = jnp.einsum("pnc,pcd->pnd", _transform_images(images), u)
    return _transform_output(m, *images.shape[:3])


def _transform_images(images: Array) -> Array:
    """V = B^T d B of every tile: [b, h, w, c] to [36, b * h / 4 * w / 4, c]."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    half = _combine(BT, _windows(padded, 1), axis=0)
    # Without the barrier XLA would fuse both halves and recompute the first for each result of
    # the second.
    half = lax.optimization_barrier(half)
    return _combine(BT, _windows(half, 3), axis=1).reshape(36, -1, images.shape[-1])


def _windows(x: Array, axis: int) -> list[Array]:
    """Windows of six at stride four along an axis: all first elements, all second ones, ..."""
    count = (x.shape[axis] - 2) // 4
    return [lax.slice_in_dim(x, i, i + 4 * count - 3, 4, axis) for i in range(6)]


def _transform_kernel(kernel: Array) -> Array:
    """U = G g G^T: [3, 3, c, d] to [36, c, d]."""
    rows = _combine(G, kernel, axis=0)
    both = _combine(G, [rows[:, i] for i in range(3)], axis=1)
    return both.reshape(36, *kernel.shape[2:])


def _transpose_kernel(u: Array) -> Array:
    """G^T u G, the transpose of `_transform_kernel`: [36, c, d] to [3, 3, c, d].

    Written out because JAX's transpose has more operations, which cost time and compilation.
    """
    u = u.reshape(6, 6, *u.shape[1:])
    rows = _combine(_GT, u, axis=0)
    return _combine(_GT, [rows[:, i] for i in range(6)], axis=1)


def _transform_output(m: Array, b: int, h: int, w: int) -> Array:
    """Y = A^T M A: [36, b * h / 4 * w / 4, d] to [b, h, w, d]."""
    m = m.reshape(6, 6, b, h // 4, w // 4, -1)
    half = _combine(AT, [m[:, i] for i in range(6)], axis=4)
    half = lax.optimization_barrier(half)
    return _combine(AT, half, axis=2).reshape(b, h, w, -1)


def _transpose_output(y: Array) -> Array:
    """A y A^T, the transpose of `_transform_output`: [b, h, w, d] to [36, b * h / 4 * w / 4, d]."""
    b, h, w, d = y.shape
    y = y.reshape(b, h // 4, 4, w // 4, 4, d)
    half = _combine(_A, [y[:, :, i] for i in range(4)], axis=0)
    half = lax.optimization_barrier(half)
    columns = [half[:, :, :, :, i] for i in range(4)]
    return _combine(_A, columns, axis=1).reshape(36, -1, d)


def _combine(table: Iterable[Sequence[float]], arrays: Sequence[Array] | Array, axis: int) -> Array:
    """Multiplies the matrix `table` with a vector of arrays and stacks the results.

    Written as sums of scaled arrays because most coefficients are 0 or 1.
    """
    sums = []
    for row in table:
        terms = [x if n == 1 else n * x for n, x in zip(row, arrays, strict=True) if n]
        sums.append(functools.reduce(jnp.add, terms))
    return jnp.stack(sums, axis)
