"""Augmentation inside the compiled step, on pixels in [0, 1].

Every function takes one image [h, w, c] and, if it is random, a key; the views
map them over the batch with a key for each example's place in it, so what is
drawn does not depend on how many devices share the batch.
"""

import dm_pix as pix
import jax
import jax.numpy as jnp

from kdjax.types import Array


def padded_crop(rng: Array, image: Array, padding: int) -> Array:
    """Pads with zeros by `padding` on every side and cuts a window of the old size."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return pix.random_crop(rng, padded, image.shape)


def inception_crop(
    rng: Array, image: Array, size: int, area: tuple[float, float], attempts: int = 10
) -> Array:
    """Cuts a random part and resizes it to [size, size, c] (Szegedy et al. 2015, section 6).

    The part covers a share of the image drawn uniformly from `area`, its aspect
    ratio is drawn log-uniformly from [3/4, 4/3]. The first of `attempts` draws that
    fits is used; where none does, the largest central square. Bilinear, without
    anti-aliasing, as in Beyer et al. 2022.
    """
    h, w, c = image.shape
    keys = jax.random.split(rng, 4)
    share = jax.random.uniform(keys[0], (attempts,), minval=area[0], maxval=area[1])
    log_ratio = jnp.log(jnp.array(4 / 3))
    ratio = jnp.exp(jax.random.uniform(keys[1], (attempts,), minval=-log_ratio, maxval=log_ratio))
    widths, heights = jnp.sqrt(share * h * w * ratio), jnp.sqrt(share * h * w / ratio)
    fits = (widths <= w) & (heights <= h)
    first, any_fits = jnp.argmax(fits), jnp.any(fits)
    side = jnp.array(min(h, w), jnp.float32)
    height = jnp.where(any_fits, heights[first], side)
    width = jnp.where(any_fits, widths[first], side)
    y = jnp.where(any_fits, jax.random.uniform(keys[2]), 0.5) * (h - height)
    x = jnp.where(any_fits, jax.random.uniform(keys[3]), 0.5) * (w - width)
    scale = size / jnp.stack([height, width])
    return jax.image.scale_and_translate(
        image, (size, size, c), (0, 1), scale, -jnp.stack([y, x]) * scale, "linear", antialias=False
    )


def central_crop(image: Array, size: int) -> Array:
    """The middle [size, size, c] of an image at least as large."""
    return pix.center_crop(image, size, size)


def flip(rng: Array, image: Array) -> Array:
    """Mirrors left and right with probability one half."""
    return pix.random_flip_left_right(rng, image)


def cutout(rng: Array, image: Array, size: int, fill: Array) -> Array:
    """Paints a size x size square, centred on a random pixel, with the colour `fill` [c].

    The square may stick out over the edge (DeVries & Taylor 2017, section 3.1).
    """
    h, w, _ = image.shape
    y, x = jax.random.randint(rng, (2,), 0, jnp.array([h, w]))
    rows, columns = jnp.arange(h)[:, None], jnp.arange(w)[None, :]
    top, left = y - size // 2, x - size // 2
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside[..., None], fill[None, None].astype(image.dtype), image)
