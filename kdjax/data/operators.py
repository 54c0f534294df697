"""Operators on images as Pillow defines them, inside the compiled step.

Every operator takes one image, uint8 [h, w, c] with c = 1 or 3, and returns another of the same
shape. Rounding to uint8 is part of its definition. Values may be traced, so an operator can be
mapped over a batch with a value per image.

The results are those of Pillow 13 to the bit, with two exceptions. `autocontrast` is exact where
Pillow rounds in floating point, and `affine_bicubic` interpolates in float32 and not in float64;
both differ by at most 1 of 255.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.types import Array

# A row-major 2 x 3 matrix from the coordinates (x, y) of the result to those of the image, in
# pixels, where the centre of the first pixel is at (1/2, 1/2).
Matrix = Array | np.ndarray
Number = Array | float

# Pillow computes coordinates in units of 2**-16 pixels.
_UNITS = 65536


def luminance(image: Array) -> Array:
    """Luma of ITU-R 601-2, (299 R + 587 G + 114 B) / 1000, rounded: int32 [h, w, 1].

    A grey image is its own.
    """
    pixels = image.astype(jnp.int32)
    if image.shape[-1] == 1:
        return pixels
    r, g, b = (pixels[..., i : i + 1] for i in range(3))
    return (19595 * r + 38470 * g + 7471 * b + _UNITS // 2) // _UNITS


def blend(degenerate: Array, image: Array, factor: Number) -> Array:
    """Computes degenerate + factor (image - degenerate), clipped to [0, 255] and truncated.

    Args:
      degenerate: integers in [0, 255], broadcastable to the image.
      image: uint8 [h, w, c].
      factor: 0 gives `degenerate` and 1 the image; a factor above 1 extrapolates.
    """
    start = degenerate.astype(jnp.float32)
    step = jnp.asarray(factor, jnp.float32) * (image.astype(jnp.float32) - start)
    # The bound is never reached. Without it, the compiler fuses product and sum, which then
    # round once and not twice, as Pillow does, and one value in five hundred differs by 1.
    step = jnp.minimum(step, 1e6)
    return jnp.clip(start + step, 0, 255).astype(jnp.uint8)


def brightness(image: Array, factor: Number) -> Array:
    """Blends black with the image."""
    return blend(jnp.zeros((), jnp.int32), image, factor)


def contrast(image: Array, factor: Number) -> Array:
    """Blends the rounded mean of the luminance with the image."""
    grey = luminance(image)
    return blend((2 * jnp.sum(grey) + grey.size) // (2 * grey.size), image, factor)


def color(image: Array, factor: Number) -> Array:
    """Blends the luminance with the image; a grey image does not change."""
    return blend(luminance(image), image, factor)


def smooth(image: Array) -> Array:
    """The mean over 3x3 pixels, of which the centre has weight 5; border pixels are kept."""
    pixels = image.astype(jnp.int32)
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * pixels[1:-1, 1:-1]
    return jnp.asarray(image).at[1:-1, 1:-1].set(((2 * total + 13) // 26).astype(jnp.uint8))


def sharpness(image: Array, factor: Number) -> Array:
    """Blends the smoothed image with the image."""
    return blend(smooth(image), image, factor)


def invert(image: Array) -> Array:
    """Computes 255 - v of every value v."""
    return 255 - image


def posterize(image: Array, bits: Number) -> Array:
    """Keeps the upper `bits` bits, of 0 (black) to 8, of every value."""
    mask = (255 << (8 - jnp.asarray(bits, jnp.int32))) & 255
    return image & mask.astype(jnp.uint8)


def solarize(image: Array, threshold: Number) -> Array:
    """Inverts every value that is at least the threshold, of 0 (all) to 256 (none)."""
    return jnp.where(image < jnp.asarray(threshold, jnp.float32), image, invert(image))


def solarize_add(image: Array, addition: Number) -> Array:
    """Adds to every value and inverts what is at least 128 then.

    The sum is clipped to [0, 255] and truncated.
    """
    total = jnp.clip(image + jnp.asarray(addition, jnp.float32), 0, 255)
    return solarize(total.astype(jnp.uint8), 128)


def autocontrast(image: Array) -> Array:
    """Maps each channel's smallest value to 0 and its largest to 255, linearly, truncating.

    A uniform channel does not change.
    """
    pixels = image.astype(jnp.int32)
    smallest = jnp.min(pixels, axis=(0, 1), keepdims=True)
    span = jnp.max(pixels, axis=(0, 1), keepdims=True) - smallest
    stretched = _floor_divide(255 * (pixels - smallest), jnp.maximum(span, 1))
    return jnp.where(span > 0, stretched, pixels).astype(jnp.uint8)


def equalize(image: Array) -> Array:
    """Makes each channel's values as frequent as one another, by Pillow's integer formula.

    A value v becomes min((s // 2 + n(v)) // s, 255), where n(v) values of the channel are below v
    and s = (h w - the number of its largest value) // 255. If s is 0, the channel is kept.
    """
    h, w, c = image.shape
    values = image.astype(jnp.int32) + 256 * jnp.arange(c)[None, None]
    counts = jnp.zeros(256 * c, jnp.int32).at[values].add(1, mode="promise_in_bounds")
    below = jnp.cumsum(counts.reshape(c, 256), axis=1) - counts.reshape(c, 256)
    largest = jnp.max(values, axis=(0, 1))
    step = ((h * w - counts[largest]) // 255)[:, None]
    equal = jnp.minimum(_floor_divide(step // 2 + below, jnp.maximum(step, 1)), 255)
    table = jnp.where(step > 0, equal, jnp.arange(256)[None]).astype(jnp.uint8)
    return table.reshape(-1).at[values].get(mode="promise_in_bounds")


def rectangle(
    image: Array, top: Number, left: Number, bottom: Number, right: Number, fill: Array
) -> Array:
    """Paints the pixels of rows `top` to `bottom` and columns `left` to `right`, both inclusive.

    Args:
      image: [h, w, c] of any type.
      top, left, bottom, right: whole numbers; the rectangle may extend beyond the image.
      fill: its colour, broadcastable to [c].
    """
    h, w, _ = image.shape
    rows, columns = jnp.arange(h)[:, None], jnp.arange(w)[None]
    inside = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    return jnp.where(inside[..., None], _color(fill, image), image)


def shear_x(value: float) -> np.ndarray:
    """The matrix by which row y is taken from x + value y."""
    return np.array([1, value, 0, 0, 1, 0], np.float64)


def shear_y(value: float) -> np.ndarray:
    """The matrix by which column x is taken from y + value x."""
    return np.array([1, 0, 0, value, 1, 0], np.float64)


def translate(x: float, y: float) -> np.ndarray:
    """The matrix by which pixels are taken from (x, y) further to the right and below."""
    return np.array([1, 0, x, 0, 1, y], np.float64)


def rotate(degrees: Number, height: int, width: int) -> Matrix:
    """The matrix by which an image is rotated counter-clockwise about its centre.

    The angle is a number on the host, as in Pillow, or traced.
    """
    xp = jnp if isinstance(degrees, jax.Array) else np
    # Rounded, so that right angles are exact.
    cos, sin = (xp.round(f(xp.radians(degrees)), 15) for f in (xp.cos, xp.sin))
    x, y = width / 2, height / 2
    return xp.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])


def fixed_point(matrix: Matrix) -> Matrix:
    """The matrix in units of 2**-16 pixels and for integer coordinates, int32 [..., 6].

    It is computed as precisely as the matrix is: on the host from float64, as in Pillow, or in
    the compiled step from float32.
    """
    xp = jnp if isinstance(matrix, jax.Array) else np
    a = xp.moveaxis(matrix, -1, 0)
    # The first pixel's centre is at (1/2, 1/2).
    x, y = a[2] + a[0] / 2 + a[1] / 2, a[5] + a[3] / 2 + a[4] / 2
    units = xp.stack([a[0], a[1], x, a[3], a[4], y], axis=-1) * _UNITS
    return xp.floor(units + 0.5).astype(xp.int32)


def affine(image: Array, units: Matrix, fill: Array | int) -> Array:
    """Transforms an image, taking the nearest pixel.

    Args:
      image: [h, w, c] of any type, with sides of less than 2**14 pixels.
      units: int32 [6], the matrix as `fixed_point` returns it.
      fill: colour of pixels from outside of the image, broadcastable to [c].
    """
    h, w, c = image.shape
    a = jnp.asarray(units)
    y, x = jnp.arange(h)[:, None], jnp.arange(w)[None]
    column = (a[0] * x + a[1] * y + a[2]) // _UNITS
    row = (a[3] * x + a[4] * y + a[5]) // _UNITS
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    index = jnp.where(inside, row * w + column, 0)
    moved = jnp.asarray(image).reshape(h * w, c).at[index].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], moved, _color(fill, image))


class Samples(NamedTuple):
    """Where an image is interpolated, for each pixel of the result.

    Attributes:
      left, top: int32 [..., h, w], the pixel to the left of and above the sample.
      x, y: float32 [..., h, w], the distances from that pixel's centre, in [0, 1).
      inside: bool [..., h, w], whether the sample lies in the image.
    """

    left: Matrix
    top: Matrix
    x: Matrix
    y: Matrix
    inside: Matrix


def samples(matrix: Matrix, height: int, width: int) -> Samples:
    """The samples of an affine transformation, computed as precisely as its matrix is.

    Args:
      matrix: [..., 6] on the host in float64, as in Pillow, or [6], traced, in float32.
      height, width: of the image.
    """
    xp = jnp if isinstance(matrix, jax.Array) else np
    a = xp.moveaxis(matrix, -1, 0)[..., None, None]
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    column, row = a[0] * x + a[1] * y + a[2], a[3] * x + a[4] * y + a[5]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    left, top = xp.floor(column - 0.5), xp.floor(row - 0.5)
    return Samples(
        left.astype(xp.int32),
        top.astype(xp.int32),
        (column - 0.5 - left).astype(xp.float32),
        (row - 0.5 - top).astype(xp.float32),
        inside,
    )


def affine_bicubic(image: Array, at: Samples, fill: Array | int) -> Array:
    """Transforms an image with bicubic interpolation (a = -1), without anti-aliasing.

    Args:
      image: uint8 [h, w, c].
      at: the samples, [h, w].
      fill: colour of pixels from outside of the image, broadcastable to [c].
    """
    h, w, c = image.shape
    pixels = jnp.asarray(image).reshape(h * w, c)
    columns = [jnp.clip(at.left + i, 0, w - 1) for i in (-1, 0, 1, 2)]
    rows = [jnp.clip(at.top + i, 0, h - 1) for i in (-1, 0, 1, 2)]
    x, y = jnp.asarray(at.x)[..., None], jnp.asarray(at.y)[..., None]

    def pixel(row: Array, column: Array) -> Array:
        index = row * w + column
        return pixels.at[index].get(mode="promise_in_bounds").astype(jnp.float32)

    lines = [_cubic([pixel(row, column) for column in columns], x) for row in rows]
    value = jnp.clip(_cubic(lines, y), 0, 255).astype(jnp.uint8)
    return jnp.where(jnp.asarray(at.inside)[..., None], value, _color(fill, image))


def _floor_divide(a: Array, b: Array) -> Array:
    """a // b of integers 0 <= a < 2**23 and b > 0, by a division of floats, which is faster.

    It is exact if a / b < 2**15: a + 1/2 keeps the quotient away from whole numbers.
    """
    return jnp.floor((a.astype(jnp.float32) + 0.5) / b.astype(jnp.float32)).astype(jnp.int32)


def _color(fill: Array | int, image: Array) -> Array:
    """A colour [c], or one value for all channels, as [1, 1, c] of the image's type."""
    return jnp.asarray(fill, image.dtype).reshape(1, 1, -1)


def _cubic(v: list[Array], t: Array) -> Array:
    """Interpolates between v[1] (t = 0) and v[2] (t = 1)."""
    cubed = -v[0] + v[1] - v[2] + v[3]
    squared = 2 * (v[0] - v[1]) + v[2] - v[3]
    return v[1] + t * (v[2] - v[0] + t * (squared + t * cubed))


# Operators whose only argument beside the image is a number, or that have none.
BY_VALUE: dict[str, Callable[[Array, Number], Array]] = {
    "brightness": brightness,
    "contrast": contrast,
    "color": color,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
}
WITHOUT_VALUE: dict[str, Callable[[Array], Array]] = {
    "invert": invert,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
