"""Data sets by name: `digits`, `tfds:<name>`, `npz:<file>`, `folder:<dir>`.

A source gives splits of uint8 images and int labels. A split small enough is an
array; a larger one is a `Lazy` sequence that decodes what it is asked for.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdjax.types import UserError, first_line

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
_NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
KINDS = "digits, tfds:<name>, npz:<file>, folder:<dir>"


class Lazy:
    """Images decoded on demand.

    Attributes:
      shape: (n, h, w, c).
    """

    def __init__(self, n: int, read: Callable[[Sequence[int]], list[np.ndarray]]):
        """Takes the number of images and a function from positions to images [h, w, c]."""
        self._positions, self._read = np.arange(n), read
        self.shape = (n, *read([0])[0].shape)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [b, h, w, c] at the given positions [b]."""
        return np.stack(self._read([int(i) for i in self._positions[positions]]))

    def subset(self, positions: np.ndarray) -> "Lazy":
        """The images at these positions, still undecoded."""
        part = object.__new__(Lazy)
        part._positions, part._read = self._positions[positions], self._read
        part.shape = (len(positions), *self.shape[1:])
        return part


class Split(NamedTuple):
    """Images and labels.

    Attributes:
      images: uint8 [n, h, w, c], an array or `Lazy`.
      labels: int32 [n], -1 where unknown.
    """

    images: np.ndarray | Lazy
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Split":
        images = self.images
        part = images.subset(positions) if isinstance(images, Lazy) else images[positions]
        return Split(part, self.labels[positions])


class Dataset(NamedTuple):
    """What a run reads.

    Attributes:
      train: what networks are trained on.
      test: what they are reported on, and never chosen by.
      validation: carved out of the training data on request, else None.
      num_classes: k.
    """

    train: Split
    test: Split
    validation: Split | None
    num_classes: int

    def splits(self) -> dict[str, Split]:
        """The splits there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


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
) -> Dataset:
    """Reads a data set.

    Args:
      name: `digits` (scikit-learn's 1,797 handwritten digits, 8x8x1; of each class
        every third is a test image), `tfds:<name>`, `npz:<file>` (arrays
        `train_images`, `train_labels`, `test_images`, `test_labels`) or
        `folder:<dir>` (`<dir>/{train,test}/<class>/*.{png,jpg}`).
      dir: where `tfds` keeps its data, or "" for its default.
      train_split, test_split: for `tfds`, e.g. `train[:90%]`; for `folder`, subfolders.
      resize: side in pixels to which images are resized when read (the shorter side,
        then the central square; bilinear); 0 leaves them as they are.
      validation: share of the training data to hold out, in [0, 1). Which images
        does not depend on the run's seed, so that runs can be compared.
      train_examples: use a fixed random subset of this size; 0 uses all.
      memory: GB up to which a split is held in memory; a larger one is decoded on demand.

    Raises:
      UserError: if the data cannot be found or read, or a number is out of range.
    """
    kind, _, rest = name.partition(":")
    readers: dict[str, Callable[..., tuple[Split, Split, int]]] = {
        "digits": _digits, "tfds": _tfds, "npz": _npz, "folder": _folder,
    }  # fmt: skip
    if kind not in readers or bool(rest) == (kind == "digits"):
        raise UserError(f"unknown data set {name!r}: choose from {KINDS}")
    if resize < 0:
        raise UserError(f"data.resize is {resize}: it is a side in pixels, or 0")
    train, test, num_classes = readers[kind](
        rest, dir=dir, train_split=train_split, test_split=test_split, resize=resize,
        memory=memory * 1e9,
    )  # fmt: skip
    for split, what in ((train, "training"), (test, "test")):
        if not len(split):
            raise UserError(f"data set {name!r} has no {what} images")
    if not 0 <= validation < 1:
        raise UserError(f"data.validation is {validation}: it is a share in [0, 1)")
    order = np.random.default_rng(0).permutation(len(train))
    held_out = None
    if validation:
        n = max(1, round(validation * len(train)))
        if n == len(train):
            raise UserError(f"data.validation is {validation}: it would hold out all {n} images")
        held_out, order = train.subset(np.sort(order[:n])), order[n:]
    if train_examples:
        if not 0 < train_examples <= len(order):
            raise UserError(
                f"data.train_examples is {train_examples}: there are {len(order)} training images"
            )
        order = order[:train_examples]
    if validation or train_examples:
        train = train.subset(np.sort(order))
    return Dataset(train, test, held_out, num_classes)


def channel_statistics(split: Split, at_most: int = 50_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], to four decimals."""
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
    # A channel without contrast would divide by zero.
    return mean.round(4).tolist(), np.maximum(std, 1e-3).round(4).tolist()


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes the shorter side to `side` and cuts the central square, [side, side, c]."""
    h, w, c = image.shape
    if not side or (h == side and w == side):
        return image
    scale = side / min(h, w)
    size = (max(side, round(w * scale)), max(side, round(h * scale)))
    picture = Image.fromarray(image[..., 0] if c == 1 else image)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).reshape(*size[::-1], c)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return pixels[top : top + side, left : left + side]


def _in_memory(
    n: int, read: Callable[[Sequence[int]], list[np.ndarray]], memory: float
) -> np.ndarray | Lazy:
    """All images as one array if they fit, else as they are asked for."""
    lazy = Lazy(n, read)
    if np.prod(lazy.shape) > memory:
        return lazy
    images = np.empty(lazy.shape, np.uint8)
    for part in np.array_split(np.arange(n), max(1, n // 1024)):
        images[part] = lazy[part]
    return images


def _digits(_: str, *, resize: int, **__: Any) -> tuple[Split, Split, int]:
    from sklearn import datasets

    digits = datasets.load_digits()
    grey = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    images = np.stack([_resized(image, resize) for image in grey])
    labels = digits.target.astype(np.int32)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[2::3]] = True
    return Split(images[~test], labels[~test]), Split(images[test], labels[test]), 10


def _npz(file: str, *, resize: int, **_: Any) -> tuple[Split, Split, int]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            missing = [key for key in _NPZ_KEYS if key not in stored]
            if missing:
                raise UserError(
                    f"{file!r} lacks {', '.join(missing)}: it must hold {', '.join(_NPZ_KEYS)}"
                )
            arrays = {key: stored[key] for key in _NPZ_KEYS}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no such file: {file!r}") from None
    except Exception as error:
        # Anything else (zip, header, pickle, permission) comes in many exception types.
        raise UserError(f"cannot read {file!r} as npz: {first_line(error)}") from None
    splits = []
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise UserError(
                f"{file!r}: {part}_images is {images.dtype} {images.shape}; it must be uint8 "
                "[n, h, w, c] with 1 or 3 channels"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            raise UserError(
                f"{file!r}: {part}_labels is {labels.dtype} {labels.shape}; it must be integers "
                f"[{len(images)}]"
            )
        if resize:
            resized = [_resized(image, resize) for image in images]
            empty = np.empty((0, resize, resize, images.shape[-1]), np.uint8)
            images = np.stack(resized) if resized else empty
        splits.append(Split(images, labels.astype(np.int32)))
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise UserError(
            f"{file!r}: training images are {splits[0].images.shape[1:]}, "
            f"test images {splits[1].images.shape[1:]}"
        )
    num_classes = 1 + int(max(split.labels.max(initial=0) for split in splits))
    return splits[0], splits[1], num_classes


def _folder(
    root: str, *, train_split: str, test_split: str, resize: int, memory: float, **_: Any
) -> tuple[Split, Split, int]:
    if not Path(root).is_dir():
        raise UserError(f"no such folder: {root!r}")
    train_folder, test_folder = Path(root, train_split), Path(root, test_split)
    for folder in (train_folder, test_folder):
        if not folder.is_dir():
            raise UserError(f"{root!r} has no subfolder {folder.name!r}")
    classes = sorted(path.name for path in train_folder.iterdir() if path.is_dir())
    if extra := {p.name for p in test_folder.iterdir() if p.is_dir()} - set(classes):
        raise UserError(
            f"{str(test_folder)!r} has classes that {str(train_folder)!r} lacks: "
            f"{', '.join(sorted(extra))}"
        )
    files = {
        folder: [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted(folder.joinpath(name).glob("*"))
            if path.suffix.lower() in _IMAGE_SUFFIXES
        ]
        for folder in (train_folder, test_folder)
    }
    if not files[train_folder] or not files[test_folder]:
        empty = test_folder if files[train_folder] else train_folder
        raise UserError(f"no .png or .jpg images in {str(empty)!r}/<class>/")
    first_path = files[train_folder][0][0]
    try:
        with Image.open(first_path) as first:
            mode = "L" if first.mode in ("1", "L") else "RGB"
            expected = (resize, resize) if resize else first.size[::-1]
    except OSError as error:
        raise UserError(f"cannot read {str(first_path)!r}: {first_line(error)}") from None

    def read(paths: list[Path]) -> list[np.ndarray]:
        images = []
        for path in paths:
            try:
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert(mode), np.uint8)
            except OSError as error:
                raise UserError(f"cannot read {str(path)!r}: {first_line(error)}") from None
            image = _resized(pixels.reshape(*pixels.shape[:2], -1), resize)
            if image.shape[:2] != expected:
                raise UserError(
                    f"{str(path)!r} is {image.shape[0]}x{image.shape[1]}, the first image is "
                    f"{expected[0]}x{expected[1]}: set data.resize"
                )
            images.append(image)
        return images

    def split(folder: Path) -> Split:
        paths = [path for path, _ in files[folder]]
        labels = np.array([label for _, label in files[folder]], np.int32)
        reader = lambda positions: read([paths[i] for i in positions])  # noqa: E731
        return Split(_in_memory(len(paths), reader, memory), labels)

    return split(train_folder), split(test_folder), len(classes)


def _tfds(
    name: str, *, dir: str, train_split: str, test_split: str, resize: int, memory: float, **_: Any
) -> tuple[Split, Split, int]:
    tfds = importlib.import_module("tensorflow_datasets")
    where = f" in {dir!r}" if dir else ""
    if dir and not Path(dir).is_dir():
        raise UserError(f"no such folder: {dir!r} (data.dir)")
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    try:
        builder = tfds.builder(name, data_dir=dir or None, file_format="array_record")
        if not Path(builder.data_path).is_dir() and has_tensorflow:
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"unknown data set 'tfds:{name}'{where}") from None
    except Exception as error:
        # Download, disk and import errors of forty kinds; the first line tells them apart.
        raise UserError(f"cannot prepare 'tfds:{name}'{where}: {first_line(error)}") from None
    if not Path(builder.data_path).is_dir():
        raise UserError(
            f"'tfds:{name}' is not prepared{where}: preparing it the first time needs TensorFlow "
            "(pip install 'kdjax[prepare]'), or set data.dir to where it is"
        )
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    if any(key not in features for key in keys):
        raise UserError(f"'tfds:{name}' has no image and label: its features are {list(features)}")

    def split(what: str) -> Split:
        try:
            source = builder.as_data_source(split=what)
        except Exception as error:
            allowed = ", ".join(builder.info.splits)
            raise UserError(
                f"'tfds:{name}' has no split {what!r} ({first_line(error)}): choose from {allowed}"
            ) from None

        def read(positions: Sequence[int]) -> list[np.ndarray]:
            rows = source.__getitems__(positions)
            return [_resized(np.asarray(row[keys[0]], np.uint8), resize) for row in rows]

        n = len(source)
        labels = np.empty(n, np.int32)
        lazy_shape = read([0])[0].shape
        if n * np.prod(lazy_shape) > memory:
            skip = {keys[0]: tfds.decode.SkipDecoding()}
            bare = builder.as_data_source(split=what, decoders=skip)
            for part in np.array_split(np.arange(n), max(1, n // 1024)):
                labels[part] = [row[keys[1]] for row in bare.__getitems__(part.tolist())]
            return Split(Lazy(n, read), labels)
        images = np.empty((n, *lazy_shape), np.uint8)
        for part in np.array_split(np.arange(n), max(1, n // 1024)):
            rows = source.__getitems__(part.tolist())
            for i, row in zip(part, rows, strict=True):
                image = _resized(np.asarray(row[keys[0]], np.uint8), resize)
                if image.shape != lazy_shape:
                    raise UserError(f"'tfds:{name}' has images of several sizes: set data.resize")
                images[i], labels[i] = image, row[keys[1]]
        return Split(images, labels)

    return split(train_split), split(test_split), features[keys[1]].num_classes
