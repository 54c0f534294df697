"""Turns a config into a smoke test: two steps per phase on a few images."""

from ml_collections import ConfigDict

from experiments.data import PhaseData
from experiments.members import expand

# Side of the largest images that the digits stand in for, in pixels.
_LARGEST_DIGITS = 32
# Classes of the data sets that generated images stand in for, so that networks of these fit.
_CLASSES = {
    "tfds:imagenet2012": 1000,
    "tfds:oxford_flowers102": 102,
    "tfds:oxford_iiit_pet": 37,
    "tfds:food101": 101,
    "tfds:sun397": 397,
}
_BATCH = 16
# Of generated images, as a step of a large network takes a minute on two cores.
_LARGE_IMAGES, _LARGE_BATCH = 16, 8


def shrink(config: ConfigDict) -> None:
    """Turns the config of a run into a smoke test; it is changed.

    The digits take the place of data that would have to be prepared first, and then the teachers
    of other data are trained, too. Images of more than 32 pixels are replaced by generated ones of
    their size and number of classes, so that teachers from files and the memory that a step takes
    are tried, too.
    """
    large = config.data.name in _CLASSES and _side(config.data) > _LARGEST_DIGITS
    replaced = unprepared(config.data)
    if replaced:
        (_put_generated_images if large else _put_digits)(config)
    for phase in config.phases.values():
        for given in (phase.images, phase.more_images):
            if given.name and (replaced or unprepared(given)):
                given.update(name="digits", split="train", resize=config.data.resize, examples=0)
        phase.update(
            batch_size=_LARGE_BATCH if replaced and large else _BATCH,
            grad_accum_steps=1, steps=2, shots=min(phase.shots, PhaseData.FEW),
        )  # fmt: skip
        phase.subset.update(examples=min(phase.subset.examples, 2 * PhaseData.FEW), per_class=())
        phase.augment.teacher_crops = min(phase.augment.teacher_crops, 2)
        curves = phase.transition_curves
        curves.update(images=min(curves.images, 5), steps=min(curves.steps, 3))
        phase.train_eval_images = min(phase.train_eval_images, 32)


def unprepared(data: ConfigDict) -> bool:
    """Whether data may have to be downloaded and prepared."""
    return "tfds:" in data.name and not data.dir


def _side(data: ConfigDict) -> int:
    side: int = data.image_size or data.resize
    return side


def _put_generated_images(config: ConfigDict) -> None:
    data = config.data
    side, classes = data.resize or data.image_size, _CLASSES[data.name]
    data.update(
        name=f"generated:n={_LARGE_IMAGES},side={side},classes={classes}",
        train_split="train", test_split="test", train_examples=0, validation=0.0,
    )  # fmt: skip
    config.evaluation.name = ""


def _put_digits(config: ConfigDict) -> None:
    """Replaces the data, and what is of this data, by the digits."""
    side = min(_side(config.data) or _LARGEST_DIGITS, _LARGEST_DIGITS)
    config.data.update(
        name="digits", train_split="train", test_split="test", resize=side, image_size=side,
        train_examples=0, validation=0.1, whole=False,
    )  # fmt: skip
    config.evaluation.name = ""
    phases = config.phases.to_dict()
    names = phases.keys() | {one.name for of in expand(phases).values() for one in of}
    for phase in config.phases.values():
        phase.update(mean=(), std=(), checkpoint="")
        for key in ("init_from", "init_methods_from", "continue_from"):
            if phase[key].partition("@")[0] not in names:
                phase[key] = ""
        phase.init_mix = phase.init_mix if phase.init_from else 1.0
