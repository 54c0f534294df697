"""The views of a batch that student and teacher see; decided here and nowhere else.

The teacher's view is one of four (Beyer et al. 2022, figure 2 and section 3.1):

- `fixed`: the unaugmented image, the same in every epoch, as in evaluation;
- `independent`: an augmentation drawn independently of the student's;
- `consistent`: the student's augmentation;
- `function_matching`: the student's augmentation and the student's mixup.
"""

from typing import NamedTuple, Protocol

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
      teacher: float32 [b, size, size, c], pixels in [0, 1].
      labels: float32 [b, k], mixed with the weights of the student's images.
    """

    student: Array
    teacher: Array
    labels: Array


class ViewFn(Protocol):
    """What `make_views` returns: from a shard of a batch to its views."""

    def __call__(
        self, rng: Array, images: Array, labels: Array, axis_name: str | None = None
    ) -> Views: ...


def as_pixels(images: Array) -> Array:
    """Converts uint8 to float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def evaluation_view(images: Array, size: int) -> Array:
    """The central squares [b, size, size, c] of uint8 [b, h, w, c], pixels in [0, 1]."""
    return augment.central_crop(as_pixels(images), size)


def make_views(
    *,
    num_classes: int,
    image_size: int,
    teacher_view: str = "consistent",
    crop: str = "padded",
    padding: int = 4,
    scale: tuple[float, float] = (0.05, 1.0),
    flip: bool = True,
    cutout: int = 0,
    fill: tuple[float, ...] = (),
    mixup: float = 0.0,
    mixup_weight: str = "batch",
) -> ViewFn:
    """Makes the function that computes the views of student and teacher.

    Args:
      num_classes: k, the width of the one-hot labels.
      image_size: side of the views, in pixels.
      teacher_view: one of `TEACHER_VIEWS`.
      crop: one of `CROPS`: `none` (the central square), `padded` (pad with zeros, then take a
        random window) or `inception` (take a random part of the image and resize it).
      padding: for `padded`, in pixels.
      scale: for `inception`, range of the part's area as a fraction of the image's.
      flip: mirror horizontally with probability one half.
      cutout: side of the square painted over, in pixels; 0 for none.
      fill: colour of that square, [c] in [0, 1].
      mixup: parameter p of the Beta(p, p) distribution of the mixup weight; 0 disables mixup.
        Each image is mixed with its neighbour in the (shuffled) batch and keeps the larger
        weight itself.
      mixup_weight: one of `MIXUP_WEIGHTS`: one weight per `batch` (Zhang et al. 2018; Beyer et
        al. 2022) or per `example`.

    Returns:
      `views(rng, images, labels, axis_name=None) -> Views` for this device's shard:
      images uint8 [b, h, w, c], labels int [b] (-1, unknown, becomes a row of zeros).

    Raises:
      UserError: if a name is unknown, or mixup is used without `function_matching`, with which
        alone the teacher sees mixed images.
    """
    for option, given, allowed in (
        ("teacher_view", teacher_view, TEACHER_VIEWS),
        ("crop", crop, CROPS),
        ("mixup_weight", mixup_weight, MIXUP_WEIGHTS),
    ):
        if given not in allowed:
            raise UserError(f"unknown {option} {given!r}: choose from {', '.join(allowed)}")
    if mixup and teacher_view != "function_matching":
        raise UserError(
            f"mixup is {mixup} but teacher_view is {teacher_view!r}: the teacher sees mixed images "
            "only with teacher_view='function_matching'"
        )

    def one_view(rng: Array, image: Array) -> Array:
        crop_key, flip_key, cutout_key = jax.random.split(rng, 3)
        if crop == "inception":
            image = augment.inception_crop(crop_key, image, image_size, scale)
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
        index = parallel.batch_indices(b, axis_name)
        view_key, teacher_key, mix_key = jax.random.split(rng, 3)

        def augmented(key: Array) -> Array:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
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
                keys = jax.vmap(jax.random.fold_in, (None, 0))(mix_key, index)
                weight = jax.vmap(lambda key: jax.random.beta(key, mixup, mixup))(keys)
            weight = jnp.maximum(weight, 1 - weight)
            teacher = student = mix(student, weight, axis_name)
            targets = mix(targets, weight, axis_name)
        return Views(student, teacher, targets)

    return views
