"""Images of domains that a network was not trained on, made from those that it was trained on.

They stand for the sketches, edges and silhouettes of Geirhos et al. 2019, on which Ojha et al.
2023, Table 11, count how often student and teacher predict the same. Every function takes a
key and one image [h, w, c] with pixels in [0, 1], c = 1 or 3, and returns another of that shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax.types import Array

_NOISE = 0.1


def grey(rng: Array, image: Array) -> Array:
    """Every channel is the luma of ITU-R 601-2; a grey image does not change."""
    return jnp.broadcast_to(_luma(image), image.shape)


def edges(rng: Array, image: Array) -> Array:
    """White, and dark where the luma changes: 1 - the length of Sobel's gradient, clipped."""
    luma = jnp.pad(_luma(image)[..., 0], 1, mode="edge")
    rows = luma[:-2] + 2 * luma[1:-1] + luma[2:]
    columns = luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]
    x, y = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    length = jnp.sqrt(jnp.square(x) + jnp.square(y))
    return jnp.broadcast_to(1 - jnp.clip(length, 0, 1)[..., None], image.shape)


def silhouette(rng: Array, image: Array) -> Array:
    """Black where the luma is below its mean over the image, and white elsewhere."""
    luma = _luma(image)
    return jnp.broadcast_to((luma >= jnp.mean(luma)).astype(image.dtype), image.shape)


def inverted(rng: Array, image: Array) -> Array:
    """The negative."""
    return 1 - image


def noise(rng: Array, image: Array) -> Array:
    """Gaussian noise with standard deviation 0.1 is added, and the sum clipped."""
    return jnp.clip(image + _NOISE * jax.random.normal(rng, image.shape), 0, 1)


def _luma(image: Array) -> Array:
    """[h, w, 1]."""
    if image.shape[-1] == 1:
        return image
    return jnp.tensordot(image, jnp.array([0.299, 0.587, 0.114]), 1)[..., None]


#: Functions from a key and an image to that image in another domain, by name.
DOMAINS: dict[str, Callable[[Array, Array], Array]] = {
    "grey": grey,
    "edges": edges,
    "silhouette": silhouette,
    "inverted": inverted,
    "noise": noise,
}
