"""Pairs of views of an image, on which an invariant network predicts the same.

Every function takes a key, one image [h, w, c] with pixels in [0, 1] and a strength, and returns
two images of that shape.
"""

from collections.abc import Callable

import jax

from kdjax.data import augment
from kdjax.types import Array

View = Callable[[Array, Array, float], tuple[Array, Array]]


def color(rng: Array, image: Array, strength: float) -> tuple[Array, Array]:
    """The image, and the image with its colours changed (Ojha et al. 2023, Table 8).

    Brightness, contrast and saturation are multiplied by a factor within `strength` of 1; hue is
    turned by up to half of `strength` of a full circle, the proportion with which the paper trains
    its teacher. Grey images have neither saturation nor hue.
    """
    return image, augment.jitter(rng, image, strength, strength / 2)


def crop(rng: Array, image: Array, strength: float) -> tuple[Array, Array]:
    """Two random crops with `strength` of the image's area, in (0, 1], resized to its size.

    As `kdjax.data.augment.inception_crop`; a crop of the whole area is the image.
    """
    first, second = jax.random.split(rng)
    area, size = (strength, strength), image.shape[0]
    return (
        augment.inception_crop(first, image, size, area),
        augment.inception_crop(second, image, size, area),
    )


def shift(rng: Array, image: Array, strength: float) -> tuple[Array, Array]:
    """The image twice, each time shifted by up to `strength` whole pixels in both directions.

    What comes from outside of the image is black.
    """
    first, second = jax.random.split(rng)
    padding = int(strength)
    return (
        augment.padded_crop(first, image, padding),
        augment.padded_crop(second, image, padding),
    )


#: Changes of an image by name: each gives a pair of views of it.
VIEWS: dict[str, View] = {"color": color, "crop": crop, "shift": shift}
