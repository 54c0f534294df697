"""Who sees what: the one place that decides which view student and teacher get.

The four teachers' views of Beyer et al. 2022 (figure 2 and section 3.1):

- `fixed`: the plain image, the same in every epoch, as in evaluation;
- `independent`: an augmentation of its own;
- `consistent`: the student's augmentation;
- `function_matching`: the student's augmentation and the student's mixture.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax import parallel
from kdjax.data import augment
from kdjax.types import Array, UserError

TEACHER_VIEWS = ("fixed", "independent", "consistent", "function_matching")
CROPS = ("none", "padded", "inception")
MIXUP_WEIGHTS = ("batch", "example")


class Views(NamedTuple):
    """A batch as the networks see it.

    Attributes:
      student: float32 [b, size, size, c], pixels in [0, 1].
      teacher: the same.
      labels: float32 [b, k], mixed as the student's images are.
    """

    student: Array
    teacher: Array
    labels: Array


def as_pixels(images: Array) -> Array:
    """uint8 -> float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def evaluation_view(images: Array, size: int) -> Array:
    """uint8 [b, h, w, c] -> the middle [b, size, size, c], pixels in [0, 1]."""
    return augment.central_crop(as_pixels(images), size)


def make_views(
    *,
    num_classes: int,
    image_size: int,
    teacher_view: str = "consistent",
    crop: str = "padded",
    padding: int = 4,
    area: tuple[float, float] = (0.05, 1.0),
    flip: bool = True,
    cutout: int = 0,
    fill: tuple[float, ...] = (),
    mixup: float = 0.0,
    mixup_weight: str = "batch",
) -> Callable[..., Views]:
    """The function that feeds student and teacher.

    Args:
      num_classes: k, width of the one-hot labels.
      image_size: side of what the networks see.
      teacher_view: one of `TEACHER_VIEWS`.
      crop: `none` (the middle), `padded` (zeros by `padding`, then a window) or
        `inception` (a part covering a share in `area`, resized).
      padding: for `padded`, in pixels.
      area: for `inception`, range of the share of the image.
      flip: mirror with probability one half.
      cutout: side of a square painted over, 0 for none.
      fill: its colour, [c] in [0, 1].
      mixup: p of the weight's Beta(p, p) distribution; 0 does not mix. Partners are
        neighbours in the (shuffled) batch, the larger share is the image's own.
      mixup_weight: one weight a `batch` (Zhang et al. 2018; Beyer et al. 2022), or
        one an `example`.

    Returns:
      `views(rng, images, labels, axis_name=None) -> Views` for this device's shard:
      images uint8 [b, h, w, c], labels int [b] (-1 where unknown: a row of zeros).

    Raises:
      UserError: on an unknown name, or a mixture that the teacher would not see.
    """
    for what, given, allowed in (
        ("augment.teacher_view", teacher_view, TEACHER_VIEWS),
        ("augment.crop", crop, CROPS),
        ("augment.mixup_weight", mixup_weight, MIXUP_WEIGHTS),
    ):
        if given not in allowed:
            raise UserError(f"unknown {what} {given!r}: choose from {', '.join(allowed)}")
    if mixup and teacher_view != "function_matching":
        raise UserError(
            f"augment.mixup is {mixup} but augment.teacher_view is {teacher_view!r}: only "
            "'function_matching' shows the teacher the student's mixture"
        )

    def one_view(rng: Array, image: Array) -> Array:
        crop_key, flip_key, cutout_key = jax.random.split(rng, 3)
        if crop == "inception":
            image = augment.inception_crop(crop_key, image, image_size, area)
        else:
            image = augment.central_crop(image, image_size)
            if crop == "padded":
                image = augment.padded_crop(crop_key, image, padding)
        if flip:
            image = augment.flip(flip_key, image)
        if cutout:
            image = augment.cutout(cutout_key, image, cutout, jnp.asarray(fill))
        return image

    def mix(x: Array, weight: Array, axis_name: str | None) -> Array:
        weight = weight.reshape(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * parallel.roll(x, axis_name)

    def views(rng: Array, images: Array, labels: Array, axis_name: str | None = None) -> Views:
        b = images.shape[0]
        place = parallel.places(b, axis_name)
        view_key, teacher_key, mix_key = jax.random.split(rng, 3)

        def augmented(key: Array) -> Array:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
            return jax.vmap(one_view)(keys, as_pixels(images))

        student = augmented(view_key)
        targets = jax.nn.one_hot(labels, num_classes)
        if teacher_view == "fixed":
            teacher = evaluation_view(images, image_size)
        elif teacher_view == "independent":
            teacher = augmented(teacher_key)
        else:
            teacher = student
        if mixup:
            if mixup_weight == "batch":
                weight = jax.random.beta(mix_key, mixup, mixup, (1,))
            else:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(mix_key, place)
                weight = jax.vmap(lambda key: jax.random.beta(key, mixup, mixup))(keys)
            weight = jnp.maximum(weight, 1 - weight)
            teacher = student = mix(student, weight, axis_name)
            targets = mix(targets, weight, axis_name)
        return Views(student, teacher, targets)

    return views
