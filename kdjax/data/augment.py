"""Augmentation of pixels in [0, 1], inside the compiled step.

Every function takes one image [h, w, c] and, if it is random, a key. The views map them
over the batch with one key for each index in the whole batch, so the random draws do not
depend on how many devices share the batch.
"""

import dm_pix as pix
import jax
import jax.numpy as jnp

from kdjax.data import operators
from kdjax.types import Array


def padded_crop(rng: Array, image: Array, padding: int) -> Array:
    """Pads every side with `padding` zeros and takes a random window of the original size."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return pix.random_crop(rng, padded, image.shape)


def random_crop(rng: Array, image: Array, size: int) -> Array:
    """A random window [size, size, c] of an image at least that large."""
    return pix.random_crop(rng, image, (size, size, image.shape[-1]))


def resize(image: Array, size: int) -> Array:
    """Resizes to [size, size, c], bilinear without anti-aliasing; the image itself at that size."""
    shape = (size, size, image.shape[-1])
    return image if image.shape == shape else jax.image.resize(image, shape, "linear", False)


def inception_crop(
    rng: Array, image: Array, size: int, scale: tuple[float, float], attempts: int = 10
) -> Array:
    """Resizes a random part of the image to [size, size, c] (Szegedy et al. 2015, section 6).

    The part's area, as a fraction of the image's, is drawn uniformly from `scale`, and its
    aspect ratio log-uniformly from [3/4, 4/3]. The first of `attempts` draws that fits into the
    image is used, or the largest central square if none does. The interpolation is bilinear
    without anti-aliasing, as in Beyer et al. 2022.
    """
    h, w, c = image.shape
    keys = jax.random.split(rng, 4)
    fraction = jax.random.uniform(keys[0], (attempts,), minval=scale[0], maxval=scale[1])
    log_ratio = jnp.log(jnp.array(4 / 3))
    ratio = jnp.exp(jax.random.uniform(keys[1], (attempts,), minval=-log_ratio, maxval=log_ratio))
    widths, heights = jnp.sqrt(fraction * h * w * ratio), jnp.sqrt(fraction * h * w / ratio)
    fits = (widths <= w) & (heights <= h)
    first, any_fits = jnp.argmax(fits), jnp.any(fits)
    side = jnp.array(min(h, w), jnp.float32)
    height = jnp.where(any_fits, heights[first], side)
    width = jnp.where(any_fits, widths[first], side)
    y = jnp.where(any_fits, jax.random.uniform(keys[2]), 0.5) * (h - height)
    x = jnp.where(any_fits, jax.random.uniform(keys[3]), 0.5) * (w - width)
    zoom = size / jnp.stack([height, width])
    return jax.image.scale_and_translate(
        image, (size, size, c), (0, 1), zoom, -jnp.stack([y, x]) * zoom, "linear", antialias=False
    )


def central_crop(image: Array, size: int) -> Array:
    """The central square [size, size, c] of an image at least that large."""
    return pix.center_crop(image, size, size)


def flip(rng: Array, image: Array) -> Array:
    """Mirrors horizontally with probability one half."""
    return pix.random_flip_left_right(rng, image)


def vertical_flip(rng: Array, image: Array) -> Array:
    """Turns upside down with probability one half."""
    return pix.random_flip_up_down(rng, image)


def noise(rng: Array, image: Array, probability: float) -> Array:
    """With this probability an image of noise, whose pixels are uniform in [0, 1].

    The policy `Noise` of Stanton et al. 2021, figure 3.
    """
    which_key, noise_key = jax.random.split(rng)
    uniform = jax.random.uniform(noise_key, image.shape, image.dtype)
    return jnp.where(jax.random.bernoulli(which_key, probability), uniform, image)


def rotation(rng: Array, image: Array, degrees: float) -> Array:
    """Rotates about the centre by up to `degrees` in either direction.

    Every pixel is that which is nearest to where it comes from, or black, as in torchvision.
    """
    h, w, _ = image.shape
    angle = jax.random.uniform(rng, minval=-degrees, maxval=degrees)
    return operators.affine(image, operators.fixed_point(operators.rotate(angle, h, w)), 0)


def jitter(rng: Array, image: Array, amount: float, hue: float | None = None) -> Array:
    """Changes brightness, contrast, saturation and hue, in random order.

    As torchvision's `ColorJitter`. The first three are multiplied by a factor within `amount`
    of 1; hue is turned by up to `hue` of a full circle, by default `amount`. Grey images have
    neither saturation nor hue.
    """
    order_key, *keys = jax.random.split(rng, 5)
    amounts = (amount, amount, amount, amount if hue is None else hue)
    changes = [
        jax.random.uniform(key, minval=-most, maxval=most)
        for key, most in zip(keys, amounts, strict=True)
    ]
    order = jax.random.permutation(order_key, 4 if image.shape[-1] == 3 else 2)
    return change_colors(image, order, jnp.stack(changes))


def change_colors(image: Array, order: Array, changes: Array) -> Array:
    """Changes brightness (0), contrast (1), saturation (2) and hue (3).

    Args:
      image: float32 [h, w, c], pixels in [0, 1], rounded to multiples of 1/255 after every change.
      order: int32 [m], which are changed, one after the other.
      changes: float32 [4], by how much: factors less 1, and a fraction of a full circle.
    """

    def hue(image: Array, change: Array) -> Array:
        return as_uint8(pix.adjust_hue(image.astype(jnp.float32) / 255, change))

    branches = [
        lambda image, change: operators.brightness(image, 1 + change),
        lambda image, change: operators.contrast(image, 1 + change),
        lambda image, change: operators.color(image, 1 + change),
        hue,
    ]
    # In a grey image, the last two change nothing.
    branches = branches if image.shape[-1] == 3 else branches[:2]
    changes = jnp.asarray(changes)
    pixels, _ = jax.lax.scan(
        lambda pixels, i: (jax.lax.switch(i, branches, pixels, changes[i]), None),
        as_uint8(image),
        order,
    )
    return pixels.astype(jnp.float32) / 255


def as_uint8(image: Array) -> Array:
    """Rounds pixels in [0, 1] to uint8."""
    return jnp.round(image * 255).astype(jnp.uint8)


def cutout(rng: Array, image: Array, size: int, fill: Array) -> Array:
    """Paints a size x size square centred on a random pixel in the colour `fill` [c].

    The square may extend beyond the image (DeVries & Taylor 2017, section 3.1).
    """
    h, w, _ = image.shape
    y, x = jax.random.randint(rng, (2,), 0, jnp.array([h, w]))
    top, left = y - size // 2, x - size // 2
    return operators.rectangle(image, top, left, top + size - 1, left + size - 1, fill)
