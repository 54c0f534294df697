"""Data sets read by a function of the user's own, named `package.module:reader`."""

from typing import Any

import numpy as np

from kdjax import references
from kdjax.data.sources.base import Classes, Lazy, SourceOptions, Split
from kdjax.types import UserError, first_line


def read(reference: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Calls the reader that a reference names and checks what it returns.

    Args:
      reference: `package.module:reader`; the reader is a `kdjax.data.sources.Reader`.
      options: passed on to the reader.

    Raises:
      UserError: if the reader cannot be imported, fails, or breaks the contract.
    """
    reader = references.resolve(reference, "data set")
    if not callable(reader):
        raise UserError(
            f"data set {reference!r} is not a reader but of type {type(reader).__name__}"
        )
    try:
        return _checked(reader("", options), options)
    except UserError as error:
        raise UserError(f"data set {reference!r}: {first_line(error)}") from None
    except Exception as error:
        # A user's reader may fail in any way.
        raise UserError(
            f"data set {reference!r} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _checked(result: Any, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """A reader's result with int32 labels, if it fulfils the contract of `Reader`."""
    if not isinstance(result, tuple) or len(result) != 3:
        raise UserError(
            f"the reader returned {_describe(result)}; it must return "
            "(train split, test split, number of classes or their names)"
        )
    train, test, given = result
    classes = _checked_classes(given)
    num_classes = classes if isinstance(classes, int) else len(classes)
    train = _checked_split("train", train, num_classes, options)
    test = _checked_split("test", test, num_classes, options)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"training images are {train.images.shape[1:]}, test images {test.images.shape[1:]}"
        )
    return train, test, classes


def _checked_classes(classes: Any) -> Classes:
    if isinstance(classes, (list, tuple)) and classes:
        if all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes):
            return classes
        raise UserError("the names of the classes are not strings that differ")
    is_integer = isinstance(classes, int | np.integer) and not isinstance(classes, bool)
    if not is_integer or classes < 1:
        raise UserError(
            f"the number of classes is {classes!r}; it must be a positive integer, or a list of "
            "their names"
        )
    return int(classes)


def _checked_split(name: str, split: Any, num_classes: int, options: SourceOptions) -> Split:
    if not isinstance(split, Split):
        raise UserError(f"the {name} split is {_describe(split)}; it must be a Split")
    images, labels, whole = split
    decoded = images[np.arange(min(1, images.shape[0]))] if isinstance(images, Lazy) else images
    if not isinstance(decoded, np.ndarray) or decoded.dtype != np.uint8 or decoded.ndim != 4:
        raise UserError(
            f"the images of the {name} split are {_describe(decoded)}; they must be uint8 "
            "[n, h, w, c] or Lazy"
        )
    n, side = images.shape[0], options.resize
    if side and images.shape[1:3] != (side, side):
        raise UserError(
            f"the images of the {name} split are {images.shape[1]}x{images.shape[2]} "
            f"although resize is {side}"
        )
    if (
        not isinstance(labels, np.ndarray)
        or not np.issubdtype(labels.dtype, np.integer)
        or labels.shape != (n,)
    ):
        raise UserError(
            f"the labels of the {name} split are {_describe(labels)}; they must be integers [{n}]"
        )
    if n and not -1 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"the labels of the {name} split are in [{labels.min()}, {labels.max()}]; they must be "
            f"in [-1, {num_classes})"
        )
    if whole is not None and len(whole) != n:
        raise UserError(f"the {name} split has {n} images, but {len(whole)} whole ones")
    return Split(images, labels.astype(np.int32), whole)


def _describe(value: Any) -> str:
    """Type and shape of arrays, length of tuples, type of everything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
