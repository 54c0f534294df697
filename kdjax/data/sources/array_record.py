"""Image files and labels in ArrayRecord files: few large files instead of many small ones."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.data.sources.base import (
    Classes,
    OnDemand,
    SourceOptions,
    Split,
    count_classes,
    in_memory_or_lazy,
    read_image,
    resized,
)
from kdjax.types import UserError, first_line

# Names of features, as in TFDS and as in the TFRecords of ImageNet that many programs write.
_IMAGE_KEYS = ("image", "image/encoded")
_LABEL_KEYS = ("label", "image/class/label")
# Where TFDS writes the names of classes.
_NAMES = "label.labels.txt"
# Records that are in memory at the same time while labels are read.
_AT_ONCE = 512


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads the `.array_record` files in a folder.

    A file belongs to the split whose name stands between dashes and dots in its own:
    `train-00000-of-00002.array_record`, `birds-train.array_record-00000-of-00002`. A record is a
    `tf.train.Example` with an encoded image (`image` or `image/encoded`) and a label (`label` or
    `image/class/label`), numbers from 0 to k - 1, -1 where unknown. The names of the classes are
    the lines of `label.labels.txt`, if there is one. Images have one channel if the first
    training image is greyscale, otherwise three.

    For its labels every record is read once, unless they stand in `train.labels.npy`, int [n].
    """
    root = argument
    if not Path(root).is_dir():
        raise UserError(f"no such folder: {root!r}")
    train, test = (_Records(root, name) for name in (options.train_split, options.test_split))
    first = train.read([0])[0]
    channels, expected = first.shape[-1], resized(first, options.resize).shape

    def split(records: _Records) -> Split:
        def read_whole(positions: Sequence[int]) -> list[np.ndarray]:
            return records.read(positions, channels)

        def read_images(positions: Sequence[int]) -> list[np.ndarray]:
            images = [resized(image, options.resize) for image in read_whole(positions)]
            for image in images:
                if image.shape != expected:
                    raise UserError(
                        f"{root!r} has images of {expected[0]}x{expected[1]} and "
                        f"{image.shape[0]}x{image.shape[1]}: set resize to a side in pixels"
                    )
            return images

        whole = OnDemand(len(records), read_whole) if options.whole else None
        images = in_memory_or_lazy(len(records), read_images, options)
        return Split(images, records.labels(), whole)

    splits = split(train), split(test)
    labels = [one.labels for one in splits]
    try:
        names = Path(root, _NAMES).read_text().splitlines()
    except FileNotFoundError:
        names = []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(Path(root, _NAMES))!r}: {first_line(error)}") from None
    try:
        return *splits, count_classes(labels[0], labels[1], names)
    except UserError as error:
        raise UserError(f"{root!r}: {error}") from None


class _Records:
    """The records of a split. Copies in other processes open its files again."""

    def __init__(self, root: str, split: str):
        """Finds the split's files.

        Raises:
          UserError: if there are none, or they cannot be read.
        """
        # Their imports take a second.
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        files = [str(path) for path in sorted(Path(root).glob("*.array*record*")) if path.is_file()]
        self._labels = Path(root, f"{split}.labels.npy")
        chosen = [path for path in files if split in re.split("[-.]", Path(path).name)]
        if not chosen:
            raise UserError(
                f"{root!r} has no file of the split {split!r}, such as {split}.array_record"
            )
        self._name = f"split {split!r} of {root!r}"
        try:
            self._source = ArrayRecordDataSource(chosen)
            self._n = len(self._source)
        except Exception as error:
            raise UserError(f"cannot read the {self._name}: {first_line(error)}") from None
        if not self._n:
            raise UserError(f"the {self._name} has no records")

    def __len__(self) -> int:
        return self._n

    def read(self, positions: Sequence[int], channels: int = 0) -> list[np.ndarray]:
        """The images at the given positions, uint8 [h, w, c] each, as `read_image` reads them."""
        images = []
        for i, example in zip(positions, self._examples(positions), strict=True):
            (encoded,) = self._values(example, i, _IMAGE_KEYS, "bytes_list")
            images.append(read_image(io.BytesIO(encoded), channels, f"image {i} of {self._name}"))
        return images

    def labels(self) -> np.ndarray:
        """int32 [n], from their own file or from all records."""
        if self._labels.exists():
            labels, where = self._stored_labels(), repr(str(self._labels))
        else:
            labels, where = self._labels_of_records(), f"the {self._name}"
        if not -1 <= labels.min() <= labels.max() < 2**31:
            raise UserError(
                f"labels of {where} are in [{labels.min()}, {labels.max()}]: they are "
                "numbers from 0 to k - 1, and -1 where unknown"
            )
        return labels.astype(np.int32)

    def _stored_labels(self) -> np.ndarray:
        name = repr(str(self._labels))
        try:
            labels = np.load(self._labels, allow_pickle=False)
        except Exception as error:
            # A damaged file can raise almost any exception.
            raise UserError(f"cannot read {name} as npy: {first_line(error)}") from None
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
            raise UserError(f"{name} holds no array of integers")
        if labels.shape != (self._n,):
            raise UserError(f"{name} is {labels.shape}; it must be [{self._n}], as many as records")
        return labels

    def _labels_of_records(self) -> np.ndarray:
        labels = np.empty(self._n, np.int64)
        for part in np.array_split(np.arange(self._n), -(-self._n // _AT_ONCE)):
            for i, example in zip(part, self._examples(part.tolist()), strict=True):
                (labels[i],) = self._values(example, i, _LABEL_KEYS, "int64_list")
        return labels

    def _examples(self, positions: Sequence[int]) -> list[Any]:
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            records = self._source.__getitems__(positions)
            return [tf_example_pb2.Example.FromString(record) for record in records]
        except Exception as error:
            # Records have checksums, so that damage raises.
            raise UserError(f"cannot read the {self._name}: {first_line(error)}") from None

    def _values(self, example: Any, i: int, keys: Sequence[str], kind: str) -> Sequence[Any]:
        """The one value of the feature that has one of these names."""
        features = example.features.feature
        values = [getattr(features[key], kind).value for key in keys if key in features]
        if len(values) != 1 or len(values[0]) != 1:
            raise UserError(
                f"record {i} of the {self._name} has the features "
                f"{', '.join(sorted(features)) or 'none'}: it must have {' or '.join(keys)}, with "
                f"one value of the {kind}"
            )
        return list(values[0])
