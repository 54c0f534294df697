"""Data sets of TensorFlow Datasets, read without TensorFlow once they are prepared."""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import files
from kdjax.data.sources.base import (
    Classes,
    Lazy,
    OnDemand,
    SourceOptions,
    Split,
    fits_in_memory,
    resized,
)
from kdjax.types import UserError, first_line


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads the data set named `argument`, from `options.dir` or the default of TFDS.

    Splits may be slices, such as `train[:90%]`. Data that is not prepared is downloaded and
    prepared, which needs TensorFlow.
    """
    name = argument
    tfds = importlib.import_module("tensorflow_datasets")
    where = f" in {options.dir!r}" if options.dir else ""
    if options.dir and not Path(options.dir).is_dir():
        raise UserError(f"no such folder: dir is {options.dir!r}")
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    try:
        _check_features(name, options.dir)
        builder = tfds.builder(name, data_dir=options.dir or None, file_format="array_record")
        if not Path(builder.data_path).is_dir() and has_tensorflow:
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"unknown data set 'tfds:{name}'{where}") from None
    except UserError:
        raise
    except Exception as error:
        # Downloads, disks and imports fail with many exception types, which differ in the
        # first line of their messages.
        raise UserError(f"cannot prepare 'tfds:{name}'{where}: {first_line(error)}") from None
    if not Path(builder.data_path).is_dir():
        raise UserError(
            f"'tfds:{name}' is not prepared{where}: preparing it requires TensorFlow "
            "(pip install 'kdjax[prepare]'); if it is prepared elsewhere, set dir to that folder"
        )
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    if any(key not in features for key in keys):
        raise UserError(f"'tfds:{name}' has no image and label: its features are {list(features)}")
    image_key, label_key = keys

    def split(split_name: str) -> Split:
        try:
            source = builder.as_data_source(split=split_name)
        except Exception as error:
            allowed = ", ".join(builder.info.splits)
            raise UserError(
                f"'tfds:{name}' has no split {split_name!r} ({first_line(error)}): "
                f"choose from {allowed}"
            ) from None

        def rows_of(source: Any, positions: Sequence[int]) -> Sequence[Any]:
            try:
                return list(source.__getitems__(positions))
            except Exception as error:
                # Records have checksums, so that damage raises; images raise almost any exception.
                raise UserError(f"cannot read 'tfds:{name}'{where}: {first_line(error)}") from None

        def read_whole(positions: Sequence[int]) -> list[np.ndarray]:
            return [np.asarray(row[image_key], np.uint8) for row in rows_of(source, positions)]

        def read_images(positions: Sequence[int]) -> list[np.ndarray]:
            return [resized(image, options.resize) for image in read_whole(positions)]

        n = len(source)
        whole = OnDemand(n, read_whole) if options.whole else None
        labels = np.empty(n, np.int32)
        parts = np.array_split(np.arange(n), max(1, n // 1024))
        shape = read_images([0])[0].shape
        if not fits_in_memory((n, *shape), options):
            undecoded = builder.as_data_source(
                split=split_name, decoders={image_key: tfds.decode.SkipDecoding()}
            )
            for part in parts:
                labels[part] = [row[label_key] for row in rows_of(undecoded, part.tolist())]
            return Split(Lazy(n, read_images), labels, whole)
        images = np.empty((n, *shape), np.uint8)
        for part in parts:
            for i, row in zip(part, rows_of(source, part.tolist()), strict=True):
                image = resized(np.asarray(row[image_key], np.uint8), options.resize)
                if image.shape != shape:
                    raise UserError(
                        f"'tfds:{name}' has images of several sizes: set resize to a side in pixels"
                    )
                images[i], labels[i] = image, row[label_key]
        return Split(images, labels, whole)

    train, test = split(options.train_split), split(options.test_split)
    return train, test, features[label_key].names


def _check_features(name: str, given: str) -> None:
    """Raises UserError if prepared data names a class that TFDS would import from elsewhere.

    Args:
      name: of the data set.
      given: the folder of the data, or "" for those that TFDS knows.
    """
    naming = importlib.import_module("tensorflow_datasets.core.naming")
    file_utils = importlib.import_module("tensorflow_datasets.core.utils.file_utils")
    folder = naming.parse_builder_name_kwargs(name)[0].name
    for root in map(Path, file_utils.list_data_dirs(given)):
        # NAME/VERSION, and NAME/CONFIG/VERSION.
        for pattern in ("*/features.json", "*/*/features.json"):
            for file in sorted((root / folder).glob(pattern)):
                for one in _class_names(files.read_json(file)):
                    if not one.startswith("tensorflow_datasets."):
                        raise UserError(
                            f"{str(file)!r} names the class {one!r}, which is code: features are "
                            "those of tensorflow_datasets"
                        )


def _class_names(value: Any) -> Iterator[str]:
    """The classes that features name, in either of their forms, JSON inside strings included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("type", "pythonClassName", "python_class_name") and isinstance(inner, str):
                yield inner
            else:
                yield from _class_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _class_names(inner)
    elif isinstance(value, str) and "{" in value:
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return
        yield from _class_names(inner)
