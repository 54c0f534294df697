"""Data sets by name: splits of uint8 images and integer labels.

A source reads `digits`, `tfds:<name>`, `cifar:<dir>`, `npz:<file>`, `folder:<dir>` or
`array_record:<dir>`, makes `domains` of one of these, makes images up (`generated`), or is a
function of the user's own, `package.module:reader`. A split that fits in memory is an array; a
larger one is a `Lazy` sequence that decodes images on demand. A new source is a new module and one
line of `_SOURCES`.
"""

from typing import NamedTuple

import numpy as np

from kdjax import references
from kdjax.data.sources import (
    array_record,
    cifar,
    digits,
    domains,
    external,
    folder,
    generated,
    npz,
    tfds,
)
from kdjax.data.sources.base import (
    Classes,
    Dataset,
    Lazy,
    OnDemand,
    Reader,
    SourceOptions,
    Split,
    from_arrays,
    in_memory_or_lazy,
    read_image,
    resized,
)
from kdjax.types import UserError

__all__ = [
    "KINDS",
    "Classes",
    "Dataset",
    "Lazy",
    "OnDemand",
    "Reader",
    "SourceOptions",
    "Split",
    "channel_statistics",
    "check_trusted",
    "from_arrays",
    "in_memory_or_lazy",
    "load",
    "read_image",
    "resized",
]


class _Source(NamedTuple):
    form: str  # Of the data set's name, with a placeholder for the reader's argument.
    read: Reader
    named_splits: bool = False  # Whether it has others than train and test.


_SOURCES = {
    "digits": _Source("digits", digits.read),
    "tfds": _Source("tfds:<name>", tfds.read, named_splits=True),
    "cifar": _Source("cifar:<dir>", cifar.read),
    "npz": _Source("npz:<file>", npz.read),
    "folder": _Source("folder:<dir>", folder.read, named_splits=True),
    "array_record": _Source("array_record:<dir>", array_record.read, named_splits=True),
    "domains": _Source("domains:<domains>:<data set>", domains.read, named_splits=True),
    "generated": _Source("generated:<options>", generated.read),
}
#: The forms of `data.name` and of `load`, for messages.
KINDS = ", ".join([*(source.form for source in _SOURCES.values()), "<package.module>:<reader>"])


def load(
    name: str,
    *,
    dir: str = "",
    train_split: str = "train",
    test_split: str = "test",
    resize: int = 0,
    validation: float = 0.0,
    train_examples: int = 0,
    memory: float = 4.0,
    whole: bool = False,
) -> Dataset:
    """Reads a data set.

    Args:
      name: one of

        - `digits`: scikit-learn's 1,797 handwritten digits, 8x8x1; every third image of each
          class is a test image.
        - `tfds:<name>`: a data set of TensorFlow Datasets.
        - `cifar:<dir>`: the Python version of CIFAR-10 or CIFAR-100, as their authors publish it.
        - `npz:<file>`: arrays `train_images`, `train_labels`, `test_images`, `test_labels`, and
          `class_names` if there are.
        - `folder:<dir>`: image files `<dir>/{train,test}/<class>/*.{png,jpg}`.
        - `array_record:<dir>`: encoded images and labels in files such as
          `<dir>/train-00000-of-00002.array_record`.
        - `domains:<domains>:<data set>[@<textures>]`: grey images as they are (`plain`), on
          coloured backgrounds (`color`) or blended with textures (`texture`), joined by `+`.
        - `generated:<options>`: noise of any size, such as `generated:n=64,side=224,classes=1000`.
        - `<package.module>:<reader>`: an importable function that follows the contract of
          `Reader`. The kinds above take precedence over modules of the same name.
      dir: folder in which `tfds` keeps its data, or "" for its default.
      train_split: for `tfds`, a split or a slice such as `train[:90%]`; for `folder`, a subfolder;
        for `array_record`, a part of the files' names.
      test_split: the same for the test images.
      resize: side in pixels to which images are resized when they are read (the shorter side,
        followed by the central square; bilinear); 0 leaves them as they are.
      validation: fraction of the training data to hold out, in [0, 1). The choice of images
        does not depend on the run's seed, so that runs can be compared.
      train_examples: size of a fixed random subset of the training data to use; 0 uses all.
      memory: GB up to which a split is held in memory; a larger one is decoded on demand.
      whole: whether splits keep the way to the images at their full resolution beside the
        resized ones, for crops of the whole image (`kdjax.data.whole`). Only `tfds`, `folder`,
        `array_record` and readers of one's own can give them.

    Raises:
      UserError: if the data cannot be found or read, or an argument is out of range.
    """
    if resize < 0:
        raise UserError(f"resize is {resize}: it must be a side in pixels, or 0 for none")
    if not 0 <= validation < 1:
        raise UserError(f"validation is {validation}: it must be a fraction in [0, 1)")
    if whole and not resize:
        raise UserError("whole is set, but resize is 0: it must be the side for evaluation")
    options = SourceOptions(dir, train_split, test_split, resize, memory, whole)
    train, test, classes = _read(name, options)
    if whole and train.whole is None:
        raise UserError(f"data set {name!r} has no images at full resolution: unset whole")
    for split, what in ((train, "training"), (test, "test")):
        if not len(split):
            raise UserError(f"data set {name!r} has no {what} images")
    order = np.random.default_rng(0).permutation(len(train))
    held_out = None
    if validation:
        n = max(1, round(validation * len(train)))
        if n == len(train):
            raise UserError(f"validation is {validation}: it would hold out all {n} images")
        held_out, order = train.subset(np.sort(order[:n])), order[n:]
    if train_examples:
        if not 0 < train_examples <= len(order):
            raise UserError(
                f"train_examples is {train_examples}: there are {len(order)} training images"
            )
        order = order[:train_examples]
    if validation or train_examples:
        train = train.subset(np.sort(order))
    if isinstance(classes, int):
        return Dataset(train, test, held_out, classes)
    return Dataset(train, test, held_out, len(classes), tuple(classes))


def check_trusted(name: str) -> None:
    """Checks that a name from a file leads to no code but kdjax's own and what is trusted.

    Readers of one's own are code. So are the namespaces of TensorFlow Datasets, as in
    `tfds:kaggle:<name>`: they are programs of others.

    Raises:
      UserError: if it does; the line says how to trust it.
    """
    kind, _, argument = name.partition(":")
    if kind == "domains":
        for inner in argument.partition(":")[2].split("@"):
            check_trusted(inner)
        return
    is_own = kind not in _SOURCES and references.is_reference(name)
    if is_own or (kind == "tfds" and ":" in argument):
        references.check_trusted(name, "data set")


def _read(name: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Calls the reader of the data set with this name."""
    kind, _, argument = name.partition(":")
    if kind in _SOURCES:
        source = _SOURCES[kind]
        if bool(argument) == (":" in source.form):
            for given, only in ((options.train_split, "train"), (options.test_split, "test")):
                if given != only and not source.named_splits:
                    raise UserError(f"data set {name!r} has no split {given!r}: it has train, test")
            return source.read(argument, options)
    elif references.is_reference(name):
        return external.read(name, options)
    raise UserError(f"unknown data set {name!r}: choose from {KINDS}")


def channel_statistics(split: Split, at_most: int = 50_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for pixels in [0, 1].

    Args:
      split: any split.
      at_most: number of evenly spaced images to use, if there are more.

    Returns:
      (means, standard deviations), each [c], rounded to four decimals.
    """
    n = len(split)
    positions = np.arange(n) if n <= at_most else np.linspace(0, n - 1, at_most).astype(int)
    channels = split.images.shape[-1]
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for part in np.array_split(positions, max(1, len(positions) // 2048)):
        pixels = np.asarray(split.images[part]).reshape(-1, channels) / 255.0
        total, squares = total + pixels.sum(0), squares + (pixels**2).sum(0)
        count += len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # The bound keeps a channel without contrast from dividing by zero.
    return mean.round(4).tolist(), np.maximum(std, 1e-3).round(4).tolist()
