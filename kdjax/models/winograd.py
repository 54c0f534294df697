"""3x3 convolutions by Winograd's minimal filtering algorithm F(4x4, 3x3).

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4. Each 4x4
tile of the output is computed from a 6x6 tile d of the images and the kernel g as

    Y = A^T [(G g G^T) * (B^T d B)] A,

where the elementwise products are summed over the input channels: 36 multiplications for 16
results of 9 products each, a quarter of the direct convolution's. As in the paper,
U = G g G^T, V = B^T d B and M is the sum of the products.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdjax.types import Array

# G of F(4, 3). Its rows are of the points 0, 1, -1, 1/2, -2 and infinity. The paper's 0, 1, -1, 2,
# -2 give coefficients that differ more in magnitude, and therefore larger rounding errors. The row
# of -2 is scaled such that its column of A^T is the reverse of that of 1/2, up to signs.
G = (
    (1, 0, 0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (-8 / 15, 16 / 15, -32 / 15),
    (0, 0, 1),
)
# G g G^T as a matrix of the nine elements of g.
_GG = np.kron(G, G).astype(np.float32)

# The fewest channels, and the least work (multiplications of a direct convolution, divided by
# nine), for which the saved multiplications outweigh the transforms and their compilation.
_MIN_CHANNELS = 16
_MIN_WORK = 1 << 24
# Elements of a chunk of images (or of output maps, if those have more channels): so few that all
# intermediate results of a chunk fit in a core's cache, but at least that many times those of one
# position of the kernel, because each chunk reads the whole transformed kernel.
_CHUNK_SIZE = 1 << 16
_CHUNK_TO_KERNEL = 8


def is_faster(images: Array, kernel: Array) -> bool:
    """Whether `convolve` applies and is faster than XLA's own convolution on the CPU."""
    return (
        images.shape[1] % 4 == images.shape[2] % 4 == 0
        and images.dtype == jnp.float32
        and min(kernel.shape[2:]) >= _MIN_CHANNELS
        and images.size * kernel.shape[3] >= _MIN_WORK
    )


@jax.custom_vjp
@jax.jit
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


@jax.jit
def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    # The images' gradient is the same convolution of `grad` with the kernel rotated by 180
    # degrees and its channels swapped.
    u = _transform_kernel(kernel.swapaxes(2, 3), rotated=True)

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
    c, d = kernel.shape[2:]
    limit = max(1, max(_CHUNK_SIZE, _CHUNK_TO_KERNEL * c * d) // (h * w * max(c, d)))
    size = max(n for n in range(1, min(b, limit) + 1) if b % n == 0)
    return x.reshape(b // size, size, *x.shape[1:])


def _convolve_chunk(images: Array, u: Array) -> Array:
    """Convolves [b, h, w, c] with the transformed kernel [36, c, d] to [b, h, w, d]."""
    m = jnp.einsum("pnc,pcd->pnd", _transform_images(images), u)
    return _transform_output(m, *images.shape[:3])


def _transform_images(images: Array) -> Array:
    """V = B^T d B of every tile: [b, h, w, c] to [36, b * h / 4 * w / 4, c]."""
    half = lax.concatenate(_bt(_windows(_pad(images)[None], 2, range(6))), 0)
    # Without the barrier XLA would fuse both halves and recompute the first for each result of
    # the second.
    half = lax.optimization_barrier(half)
    both = lax.concatenate(_bt(_windows(half[:, None], 4, range(6))), 1)
    return both.reshape(36, -1, images.shape[-1])


def _pad(x: Array) -> Array:
    """Adds a pixel of zeros on each side: [b, h, w, c] to [b, h + 2, w + 2, c]."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _windows(x: Array, axis: int, elements: Iterable[int]) -> list[Array]:
    """Elements of the windows of six at stride four along an axis: all first ones, ..."""
    count = (x.shape[axis] - 2) // 4
    return [lax.slice_in_dim(x, i, i + 4 * count - 3, 4, axis) for i in elements]


def _transform_kernel(kernel: Array, rotated: bool = False) -> Array:
    """U = G g G^T of a kernel, or of the same rotated by 180 degrees: [3, 3, c, d] to [36, c, d].

    A product with one small matrix: kernels are much smaller than images.
    """
    table = _GG[:, ::-1] if rotated else _GG
    return jnp.matmul(table, kernel.reshape(9, -1)).reshape(36, *kernel.shape[2:])


def _transpose_kernel(u: Array) -> Array:
    """G^T u G, the transpose of `_transform_kernel`: [36, c, d] to [3, 3, c, d]."""
    return jnp.matmul(_GG.T, u.reshape(36, -1)).reshape(3, 3, *u.shape[1:])


def _transform_output(m: Array, b: int, h: int, w: int) -> Array:
    """Y = A^T M A: [36, b * h / 4 * w / 4, d] to [b, h, w, d]."""
    m = m.reshape(6, 6, b, h // 4, w // 4, 1, -1)
    half = lax.concatenate(_at(_parts(m, 1)), 5)
    half = lax.optimization_barrier(half).reshape(6, b, h // 4, 1, w, -1)
    return lax.concatenate(_at(_parts(half, 0)), 3).reshape(b, h, w, -1)


def _transpose_output(y: Array) -> Array:
    """A y A^T, the transpose of `_transform_output`: [b, h, w, d] to [36, b * h / 4 * w / 4, d]."""
    # `_transform_images` pads the same chunk. Taken from the loop's arrays instead, which XLA
    # would do within the sums, all gradients take a tenth longer.
    half = lax.concatenate(_a(_windows(_pad(y)[None], 2, range(1, 5))), 0)
    half = lax.optimization_barrier(half)
    both = lax.concatenate(_a(_windows(half[:, None], 4, range(1, 5))), 1)
    return both.reshape(36, -1, y.shape[-1])


def _parts(x: Array, axis: int) -> list[Array]:
    """Splits an axis into parts of length one."""
    return [lax.slice_in_dim(x, i, i + 1, axis=axis) for i in range(x.shape[axis])]


# The products with the three matrices have as few operations as were found: a deep network has a
# hundred of each, and XLA's passes take time for each operation. A constant is two operations.


def _bt(d: Sequence[Array]) -> list[Array]:
    """B^T d of six arrays of one shape."""
    d0, d1, d2, d3, d4, d5 = d
    half, three_halves = lax.full_like(d0, 0.5), lax.full_like(d0, 1.5)
    odd, even = d3 - d1, d4 - d2
    return [
        (d0 - d2) + even + three_halves * odd,
        even + odd + three_halves * (d2 + d3),
        even - odd + three_halves * (d3 - d2),
        even + odd + odd,
        even - half * odd,
        (d5 - d3) - odd + three_halves * even,
    ]


def _at(m: Sequence[Array]) -> list[Array]:
    """A^T m of six arrays of one shape."""
    m0, m1, m2, m3, m4, m5 = m
    half = lax.full_like(m0, 0.5)
    plus, minus = m1 + m2, m1 - m2
    m3_2, m4_2 = half * m3, half * m4
    m3_4, m4_4 = half * m3_2, half * m4_2
    m3_8, m4_8 = half * m3_4, half * m4_4
    return [m0 + plus + m3 - m4_8, minus + m3_2 + m4_4, plus + m3_4 - m4_2, minus + m3_8 + m4 + m5]


def _a(y: Sequence[Array]) -> list[Array]:
    """A y of four arrays of one shape."""
    y0, y1, y2, y3 = y
    half = lax.full_like(y0, 0.5)
    even, odd = y0 + y2, y1 + y3
    return [
        y0,
        even + odd,
        even - odd,
        y0 + half * (y1 + half * (y2 + half * y3)),
        y3 - half * (y2 - half * (y1 - half * y0)),
        y3,
    ]
