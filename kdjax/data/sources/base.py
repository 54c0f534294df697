"""What sources are made of: splits, the contract of a reader, and helpers for writing one."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol, Self

import numpy as np
from PIL import Image

from kdjax.types import UserError, first_line

# Image formats that are read: others may be interpreted by programs outside of Pillow.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Of an image file: enough for photographs, and far below what a small file can claim to hold.
MAX_PIXELS = 100_000_000
#: The number of classes, or their names in the order of the labels.
Classes = int | Sequence[str]
# From positions in a split to images, uint8 [h, w, c] each.
ReadImages = Callable[[Sequence[int]], list[np.ndarray]]


class OnDemand:
    """Images decoded when they are needed, of any sizes."""

    def __init__(self, n: int, read: ReadImages):
        """Takes the number of images and a function from positions to images [h, w, c]."""
        self._positions, self._read = np.arange(n), read

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, positions: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """uint8 [h, w, c] of each of the given positions."""
        return self._read([int(i) for i in self._positions[np.asarray(positions, int)]])

    def subset(self, positions: np.ndarray) -> Self:
        """The images at the given positions, still not decoded."""
        part = copy.copy(self)
        part._positions = self._positions[positions]
        return part


class Lazy(OnDemand):
    """Images of one size, decoded on demand.

    Attributes:
      shape: (n, h, w, c).
    """

    def __init__(self, n: int, read: ReadImages):
        """Takes the number of images and a function from positions to images [h, w, c]."""
        super().__init__(n, read)
        self.shape: tuple[int, ...] = (n, *read([0])[0].shape)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [b, h, w, c] at the given positions [b]."""
        return np.stack(self.read(positions))

    def subset(self, positions: np.ndarray) -> Self:
        """The images at the given positions, still not decoded."""
        part = super().subset(positions)
        part.shape = (len(part), *self.shape[1:])
        return part


class Split(NamedTuple):
    """Images and labels.

    Attributes:
      images: uint8 [n, h, w, c], an array or `Lazy`.
      labels: int32 [n], -1 where unknown.
      whole: the same images before they were resized, of any sizes; None unless asked for.
    """

    images: np.ndarray | Lazy
    labels: np.ndarray
    whole: OnDemand | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Split":
        """The examples at the given positions."""
        images = self.images
        part = images.subset(positions) if isinstance(images, Lazy) else images[positions]
        whole = self.whole.subset(positions) if self.whole else None
        return Split(part, self.labels[positions], whole)


class Dataset(NamedTuple):
    """The splits of a data set.

    Attributes:
      train: the examples that networks are trained on.
      test: the examples that results are reported on; never used to choose anything.
      validation: held out of the training data, or None.
      num_classes: k.
      class_names: of the classes, in the order of the labels; () where they are not known.
    """

    train: Split
    test: Split
    validation: Split | None
    num_classes: int
    class_names: tuple[str, ...] = ()

    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


class SourceOptions(NamedTuple):
    """The options of `kdjax.data.sources.load` that concern reading.

    Attributes:
      dir: folder in which the source keeps its data, or "" for its default.
      train_split: name of the training split.
      test_split: name of the test split.
      resize: side in pixels to which images are resized, or 0 to keep their size.
      memory: GB up to which the images of a split are held in memory.
      whole: whether splits keep the way to the images at their full resolution.
    """

    dir: str = ""
    train_split: str = "train"
    test_split: str = "test"
    resize: int = 0
    memory: float = 4.0
    whole: bool = False


class Reader(Protocol):
    """The contract of a function that reads a data set.

    Args:
      argument: what follows the colon in the name of the data set (`npz:<argument>`); "" if
        nothing does, and for readers named by reference.
      options: the options of `load`. A reader ignores those that do not concern it, but must
        return images of side `options.resize` if that is not 0.

    Returns:
      The training split, the test split, and the number of classes k or their names. Images are
      uint8 [n, h, w, c] or `Lazy`, of the same size in both splits; labels are integers [n] in
      [-1, k), -1 where unknown. If `options.whole`, splits also have the images as they were
      before they were resized, if the reader can give them.

    Raises:
      UserError: if the data cannot be found or read.
    """

    def __call__(self, argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]: ...


def from_arrays(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    options: SourceOptions,
    *,
    classes: Classes = 0,
) -> tuple[Split, Split, Classes]:
    """What a `Reader` returns, from arrays in memory; images are resized on request.

    A reader of arrays is three lines:

        def reader(argument, options):
            (x, y), (test_x, test_y) = read_my_data()
            return sources.from_arrays(x, y, test_x, test_y, options)

    Args:
      train_images: uint8 [n, h, w, c] with 1 or 3 channels, or [n, h, w].
      train_labels: int [n], -1 where unknown.
      test_images: uint8 [m, h, w, c], of the size of the training images, or [m, h, w].
      test_labels: int [m], -1 where unknown.
      options: the reader's options, of which `resize` is used.
      classes: their number k or their names; 0 takes one more than the largest label, and every
        class must have a training image then.

    Raises:
      UserError: if an array has another type or shape, a label is too large, or a class has no
        training image.
    """
    splits = []
    for part, images, labels in (
        ("train", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise UserError(
                f"{part}_images is {images.dtype} {images.shape}; it must be uint8 "
                "[n, h, w, c] with 1 or 3 channels"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            raise UserError(
                f"{part}_labels is {labels.dtype} {labels.shape}; it must be integers "
                f"[{len(images)}]"
            )
        if options.resize:
            resized_images = [resized(image, options.resize) for image in images]
            empty = np.empty((0, options.resize, options.resize, images.shape[-1]), np.uint8)
            images = np.stack(resized_images) if resized_images else empty
        if len(labels) and not (labels.min() >= -1 and labels.max() < 2**31):
            raise UserError(
                f"labels are in [{labels.min()}, {labels.max()}]: they are numbers from 0 to k - "
                "1, and -1 where unknown"
            )
        splits.append(Split(images, labels.astype(np.int32)))
    train, test = splits
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"training images are {train.images.shape[1:]}, test images {test.images.shape[1:]}"
        )
    return train, test, count_classes(train.labels, test.labels, classes)


def count_classes(train: np.ndarray, test: np.ndarray, classes: Classes = 0) -> Classes:
    """The number of classes or their names, if labels agree with them.

    Args:
      train: labels of the training split, int [n], -1 where unknown.
      test: the same of the test split.
      classes: as for `from_arrays`.

    Raises:
      UserError: if a label is too large, or a class has no training image.
    """
    largest = max(int(labels.max(initial=-1)) for labels in (train, test))
    if classes:
        if largest >= (k := classes if isinstance(classes, int) else len(classes)):
            raise UserError(f"labels are up to {largest}, and there are {k} classes, from 0 on")
        return classes
    known = set(train.tolist())
    # The first six are among so many numbers, and the largest may be anything.
    without = [i for i in range(min(largest + 1, len(known) + 6)) if i not in known]
    if without and (train >= 0).any():
        shown = ", ".join(map(str, without[:5])) + (", ..." if len(without) > 5 else "")
        raise UserError(
            f"labels are up to {largest}, but no training image has label {shown}: labels are "
            "numbers from 0 to k - 1"
        )
    return 1 + max(largest, 0)


def read_image(
    file: str | Path | IO[bytes], channels: int = 0, name: str | None = None
) -> np.ndarray:
    """Reads an image file as grey values or colours, whichever it has itself.

    Args:
      file: path or content of a file of one of `IMAGE_FORMATS`.
      channels: 1 or 3; 0 is 1 for a greyscale image and 3 for others.
      name: of the image in messages; by default the path.

    Returns:
      uint8 [h, w, c]. Greyscale of 16 bits is scaled to 8.

    Raises:
      UserError: if it cannot be read, is of another format, or has more than `MAX_PIXELS` pixels.
    """
    name = name or repr(str(file))
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(
                    f"{name} is {picture.height}x{picture.width}: an image has at most "
                    f"{MAX_PIXELS:,} pixels"
                )
            is_grey = picture.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I")
            image: Image.Image = picture
            if picture.mode.startswith("I"):
                # Pillow would cut them off at 255.
                grey = np.asarray(picture).astype(np.float64) * (255 / 65535)
                image = Image.fromarray(np.round(grey.clip(0, 255)).astype(np.uint8))
            channels = channels or (1 if is_grey else 3)
            mode = {1: "L", 3: "RGB"}[channels]
            if image.mode != mode:  # It would be a copy.
                image = image.convert(mode)
            pixels = np.asarray(image, np.uint8)
    except UserError:
        raise
    except Exception as error:
        # A damaged file can raise almost any exception.
        raise UserError(
            f"cannot read {name} as {', '.join(IMAGE_FORMATS)}: {first_line(error)}"
        ) from None
    return pixels.reshape(*pixels.shape[:2], channels)


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes the shorter side to `side` (bilinear) and takes the central square.

    Args:
      image: uint8 [h, w, c] with 1 or 3 channels.
      side: in pixels; 0 leaves the image as it is.

    Returns:
      uint8 [side, side, c].
    """
    h, w, c = image.shape
    if not side or (h == side and w == side):
        return image
    scale = side / min(h, w)
    size = (max(side, round(w * scale)), max(side, round(h * scale)))
    picture = Image.fromarray(image[..., 0] if c == 1 else image)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).reshape(*size[::-1], c)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return pixels[top : top + side, left : left + side]


def fits_in_memory(shape: Sequence[int], options: SourceOptions) -> bool:
    """Whether uint8 images of this shape, (n, h, w, c), take at most `options.memory` GB."""
    return bool(np.prod(shape) <= options.memory * 1e9)


def in_memory_or_lazy(n: int, read: ReadImages, options: SourceOptions) -> np.ndarray | Lazy:
    """All n images as one array if they fit in memory, otherwise decoded on demand."""
    lazy = Lazy(n, read)
    if not fits_in_memory(lazy.shape, options):
        return lazy
    images = np.empty(lazy.shape, np.uint8)
    for part in np.array_split(np.arange(n), max(1, n // 1024)):
        images[part] = lazy[part]
    return images
