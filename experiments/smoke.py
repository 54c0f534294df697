"""Images for a smoke test of a config whose own are large and may not be there."""

from ml_collections import ConfigDict

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
# Of a split, and of a step: a step of a large network takes a minute on two cores.
_IMAGES, _BATCH = 16, 8


def with_generated_images(config: ConfigDict) -> bool:
    """Puts generated images in place of large ones that may have to be prepared, with `debug`.

    They have the size and the number of classes of the config's own, so that teachers from files
    and the memory that a step takes are tried, too. `experiments.run.resolve` puts the digits in
    place of all others.

    Args:
      config: of a run, before it is resolved; it is changed.

    Returns:
      Whether images were replaced.
    """
    data = config.data
    side = data.image_size or data.resize
    if not config.debug or data.dir or data.name not in _CLASSES or side <= _LARGEST_DIGITS:
        return False
    data.update(
        name=f"generated:n={_IMAGES},side={data.resize or side},classes={_CLASSES[data.name]}",
        train_split="train", test_split="test", train_examples=0, validation=0.0,
    )  # fmt: skip
    config.evaluation.name = ""
    return True


def shrink(config: ConfigDict) -> None:
    """Makes the batches of a resolved smoke test on large images smaller; it is changed."""
    for phase in config.phases.values():
        phase.batch_size = min(phase.batch_size, _BATCH)
