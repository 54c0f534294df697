"""The views of a batch that student and teacher see; decided here and nowhere else.

The teacher's view is one of four (Beyer et al. 2022, figure 2 and section 3.1):

- `fixed`: the unaugmented image, the same in every epoch, as in evaluation;
- `independent`: an augmentation drawn independently of the student's;
- `consistent`: the student's augmentation;
- `function_matching`: the student's augmentation and the student's mixup.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kdjax import parallel
from kdjax.data import augment, policies
from kdjax.data import policy as augmentation_policy
from kdjax.types import Array, UserError

TEACHER_VIEWS = ("fixed", "independent", "consistent", "function_matching")
CROPS = ("none", "padded", "random", "inception")
MIXUP_WEIGHTS = ("batch", "example")


class Views(NamedTuple):
    """A batch as the networks see it.

    Attributes:
      student: float32 [b, size, size, c], pixels in [0, 1].
      teacher: float32 [b, t, t, c], pixels in [0, 1]; t is `size` unless the teacher has another.
      labels: float32 [b, k], mixed with the weights of the student's images.
      teacher_logits: [b, k] of each teacher for its view, if they are known.
    """

    student: Array
    teacher: Array
    labels: Array
    teacher_logits: tuple[Array, ...] = ()


class ViewFn(Protocol):
    """What `make_views` returns: from a shard of a batch to its views."""

    def __call__(
        self,
        rng: Array,
        images: Array,
        labels: Array,
        axis_name: str | None = None,
        teacher_images: Array | None = None,
    ) -> Views: ...


def as_pixels(images: Array) -> Array:
    """Converts uint8 to float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def evaluation_view(images: Array, size: int, resolution: int = 0) -> Array:
    """The central squares [b, size, size, c] of uint8 [b, h, w, c], pixels in [0, 1].

    If `resolution` is not 0, they are resized to [b, resolution, resolution, c].
    """
    squares = augment.central_crop(as_pixels(images), size)
    return jax.vmap(lambda image: augment.resize(image, resolution or size))(squares)


def _draw_weight(key: Array, mixup: float) -> Array:
    """A draw of Beta(p, p), float32 []."""
    # Beta(1, 1) is uniform, and needs none of the seven loops by which the others are drawn.
    return jax.random.uniform(key) if mixup == 1 else jax.random.beta(key, mixup, mixup)


def make_views(
    *,
    num_classes: int,
    image_size: int,
    teacher_view: str = "consistent",
    teacher_size: int = 0,
    crop: str = "padded",
    padding: int = 4,
    scale: tuple[float, float] = (0.05, 1.0),
    flip: bool = True,
    rotation: float = 0.0,
    vertical_flip: bool = False,
    jitter: float = 0.0,
    noise: float = 0.0,
    crop_last: bool = False,
    cutout: int = 0,
    fill: tuple[float, ...] = (),
    mixup: float = 0.0,
    mixup_weight: str = "batch",
    policy: str = "",
    policy_ops: int = 3,
    policy_magnitude: float = 5.0,
    cropped: bool = False,
) -> ViewFn:
    """Makes the function that computes the views of student and teacher.

    Args:
      num_classes: k, the width of the one-hot labels.
      image_size: side of the views, in pixels.
      teacher_view: one of `TEACHER_VIEWS`.
      teacher_size: side of the teacher's views, in pixels; 0 is `image_size`. With another one
        the teacher sees what it would see with `image_size`, at its own resolution (Beyer et
        al. 2022, section 3.3): a part of the image is resized to that side, a window of it
        is resized after it was cut out.
      crop: one of `CROPS`: `none` (the central square), `padded` (pad the central square with
        zeros, then take a random window), `random` (take a random window of the whole image)
        or `inception` (take a random part of the image and resize it).
      padding: for `padded`, in pixels.
      scale: for `inception`, range of the part's area as a fraction of the image's.
      flip: mirror horizontally with probability one half.
      rotation: the largest angle of a random rotation after that, in degrees; 0 for none.
      vertical_flip: turn upside down with probability one half after that.
      jitter: the largest change of brightness, contrast, saturation and hue after that, in
        [0, 1/2]; 0 for none.
      noise: probability, in [0, 1], that an image is replaced, at the end, by one of uniform noise,
        which keeps the label.
      crop_last: whether rotation, vertical flip and jitter come before the crop and the horizontal
        flip instead, as in the code of Stanton et al. 2021. The borders that a padded crop leaves
        are then horizontal and vertical, and black.
      cutout: side of the square painted over, in pixels; 0 for none.
      fill: colour of that square, [c] in [0, 1].
      mixup: parameter p of the Beta(p, p) distribution of the mixup weight; 0 disables mixup.
        Each image is mixed with its neighbour in the (shuffled) batch and keeps the larger
        weight itself.
      mixup_weight: one of `MIXUP_WEIGHTS`: one weight per `batch` (Zhang et al. 2018; Beyer et
        al. 2022) or per `example`.
      policy: one of `policies.POLICIES`, or empty for none. It is applied in the order in which
        the code that published it does so (`Policy.order`): after crop and flip, or before. Crops
        of whole images come before any policy.
      policy_ops: of `randaugment`, N: operators per image.
      policy_magnitude: of `randaugment`, M, in [0, 30].
      cropped: whether the images are crops already, those of `kdjax.data.whole`.

    Returns:
      `views(rng, images, labels, axis_name=None, teacher_images=None) -> Views` for this
      device's shard: images uint8 [b, h, w, c], labels int [b] (-1, unknown, becomes a row of
      zeros), and other images for the teacher if it has its own.

    Raises:
      UserError: if a name is unknown, if a value of the policy is out of range, if mixup is used
        without `function_matching`, with which alone the teacher sees mixed images, or if
        `teacher_size` is negative or is used with cutout, noise or a policy, which would change
        another part of the image.
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
    if rotation < 0 or not 0 <= jitter <= 0.5:
        raise UserError(
            f"rotation is {rotation} and jitter {jitter}: the first is an angle, 0 or larger, the "
            "second is in [0, 0.5]"
        )
    if not 0 <= noise <= 1:
        raise UserError(f"noise is {noise}: it is a probability, from 0 to 1")
    if teacher_size < 0 or (teacher_size and (cutout or policy or noise)):
        raise UserError(
            f"teacher_size is {teacher_size}, cutout {cutout}, noise {noise} and policy "
            f"{policy!r}: the size is a side in pixels, and 0 with cutout, noise or a policy"
        )

    chosen = None
    order: tuple[str, ...] = ("crop", "flip", "cutout")
    if policy:
        chosen = policies.create(policy, operations=policy_ops, magnitude=policy_magnitude)
        order = chosen.order
    first = order.index("crop") if crop_last else order.index("flip") + 1
    order = (*order[:first], "changes", *order[first:], "noise")

    def crop_of(rng: Array, image: Array, size: int) -> Array:
        if crop == "inception" and not cropped:
            image = augment.inception_crop(rng, image, size, scale)
        elif crop == "random" and not cropped:
            image = augment.random_crop(rng, image, image_size)
        elif not cropped:
            image = augment.central_crop(image, image_size)
            if crop == "padded":
                image = augment.padded_crop(rng, image, padding)
        return augment.resize(image, size)

    def changed(rng: Array, image: Array) -> Array:
        # The keys before these are those of `one_view` and of the policy.
        rotation_key, jitter_key, flip_key = jax.random.split(rng, 7)[4:]
        if rotation:
            image = augment.rotation(rotation_key, image, rotation)
        if vertical_flip:
            image = augment.vertical_flip(flip_key, image)
        return augment.jitter(jitter_key, image, jitter) if jitter else image

    def one_view(rng: Array, image: Array, size: int, steps: Sequence[str]) -> Array:
        crop_key, flip_key, cutout_key = jax.random.split(rng, 3)
        for step in steps:
            if step == "crop":
                image = crop_of(crop_key, image, size)
            elif step == "flip" and flip:
                image = augment.flip(flip_key, image)
            elif step == "changes":
                image = changed(rng, image)
            elif step == "cutout" and cutout:
                image = augment.cutout(cutout_key, image, cutout, jnp.asarray(fill))
            elif step == "noise" and noise:
                image = augment.noise(jax.random.split(rng, 8)[7], image, noise)
        return image

    def all_views(keys: Array, images: Array, size: int) -> Array:
        def stage(images: Array, steps: Sequence[str]) -> Array:
            return jax.vmap(functools.partial(one_view, size=size, steps=steps))(keys, images)

        if not chosen:
            return stage(images, order)
        at = order.index("policy")
        # The first three keys are those of `one_view`.
        policy_keys = jax.vmap(lambda key: jax.random.split(key, 4)[3])(keys)
        images = augmentation_policy.apply(
            chosen, policy_keys, stage(images, order[:at]), jnp.asarray(fill)
        )
        return stage(images, order[at + 1 :])

    def mix(x: Array, weight: Array, axis_name: str | None) -> Array:
        weight = weight.reshape(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * parallel.roll(x, axis_name)

    def views(
        rng: Array,
        images: Array,
        labels: Array,
        axis_name: str | None = None,
        teacher_images: Array | None = None,
    ) -> Views:
        seen_by_teacher = images if teacher_images is None else teacher_images
        b = images.shape[0]
        index = parallel.batch_indices(b, axis_name)
        view_key, teacher_key, mix_key = jax.random.split(rng, 3)

        def augmented(key: Array, images: Array, size: int) -> Array:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
            return all_views(keys, as_pixels(images), size)

        student = augmented(view_key, images, image_size)
        targets = jax.nn.one_hot(labels, num_classes)
        if teacher_view == "fixed":
            if cropped and teacher_size:
                # These were resized to the teacher's resolution.
                teacher = evaluation_view(seen_by_teacher, teacher_size)
            else:
                teacher = evaluation_view(seen_by_teacher, image_size, teacher_size)
        elif teacher_view == "independent":
            teacher = augmented(teacher_key, seen_by_teacher, teacher_size or image_size)
        elif teacher_size in (0, image_size):
            teacher = student
        else:
            teacher = augmented(view_key, seen_by_teacher, teacher_size)
        if mixup:
            if mixup_weight == "batch":
                weight = _draw_weight(mix_key, mixup)[None]
            else:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(mix_key, index)
                weight = jax.vmap(lambda key: _draw_weight(key, mixup))(keys)
            weight = jnp.maximum(weight, 1 - weight)
            same = teacher is student
            student = mix(student, weight, axis_name)
            teacher = student if same else mix(teacher, weight, axis_name)
            targets = mix(targets, weight, axis_name)
        return Views(student, teacher, targets)

    return views
