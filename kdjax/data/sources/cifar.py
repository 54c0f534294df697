"""CIFAR-10 and CIFAR-100 as their authors publish them: pickled batches for Python."""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax.data.sources.base import Classes, SourceOptions, Split, from_arrays
from kdjax.pickles import check_size
from kdjax.types import UserError, first_line


class _Layout(NamedTuple):
    train: tuple[str, ...]
    test: str
    labels: str  # key of the labels
    names: tuple[str, str]  # file and key of the classes' names


# By a file that only one of them has.
_LAYOUTS = {
    "data_batch_1": _Layout(
        tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "labels",
        ("batches.meta", "label_names"),
    ),
    "train": _Layout(("train",), "test", "fine_labels", ("meta", "fine_label_names")),
}  # fmt: skip
_IMAGE = (3, 32, 32)


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads the folder `cifar-10-batches-py` or `cifar-100-python`, or one that holds it.

    Labels of CIFAR-100 are the hundred fine ones. Classes have the names of `batches.meta` or
    `meta` if that file is there. The files are pickles, of which only
    containers, strings, numbers and arrays are read: a file cannot run code.
    """
    root = Path(argument)
    candidates = [root, root / "cifar-10-batches-py", root / "cifar-100-python"]
    found = [
        (folder, layout)
        for folder in candidates
        for first, layout in _LAYOUTS.items()
        if (folder / first).is_file()
    ]
    if not found:
        raise UserError(
            f"{argument!r} has neither data_batch_1 to data_batch_5 and test_batch (CIFAR-10) nor "
            "train and test (CIFAR-100), the files of the Python version"
        )
    folder, layout = found[0]
    parts = [_read(folder / name, layout.labels) for name in (*layout.train, layout.test)]
    names = _read_names(folder, *layout.names)
    images, labels = (np.concatenate(x) for x in zip(*parts[:-1], strict=True))
    try:
        return from_arrays(images, labels, *parts[-1], options, classes=names or 0)
    except UserError as error:
        raise UserError(f"{str(folder)!r}: {error}") from None


def _read(path: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels int [n] of one file."""
    content = _unpickle(path)
    try:
        pixels = np.asarray(content["data"])
        labels = np.asarray(content[key], np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), np.prod(_IMAGE)):
            raise UserError(f"its images are {pixels.dtype} {pixels.shape}")
    except Exception as error:
        # A damaged pickle fails in many ways.
        raise UserError(f"cannot read {str(path)!r}: {first_line(error)}") from None
    return pixels.reshape(-1, *_IMAGE).transpose(0, 2, 3, 1), labels


def _read_names(folder: Path, file: str, key: str) -> list[str]:
    """The names of the classes; none if the file is not there."""
    path = folder / file
    if not path.exists():
        return []
    content = _unpickle(path)
    names = content.get(key) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{str(path)!r} holds no list of strings named {key}")
    return names


def _unpickle(path: Path) -> Any:
    try:
        file = io.BytesIO(path.read_bytes())
        check_size(file)
        return _Unpickler(file, encoding="latin1").load()
    except Exception as error:
        # A damaged pickle fails in many ways.
        raise UserError(f"cannot read {str(path)!r}: {first_line(error)}") from None


class _Array:
    """Stands for an array until its state arrives: `numpy.ndarray` as a pickle builds it."""

    array: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        if dtype != "u1" or fortran_order:
            raise UserError("its images are not uint8")
        if isinstance(data, str):
            data = data.encode("latin1")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


class _Dtype(str):
    """The name of an array's type."""

    def __setstate__(self, state: Any) -> None:
        """The byte order, which single bytes do not have."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): lambda name, *_: _Dtype(name),
} | {
    (module, "_reconstruct"): _reconstruct
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
}


class _Unpickler(pickle.Unpickler):
    """Unpickles arrays of bytes without importing anything that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            # Python 3 writes bytes so for Python 2.
            return lambda text, encoding: text.encode("latin1")
        if (module, name) not in _GLOBALS:
            raise UserError(f"it holds the Python object {module}.{name}, which could run code")
        return _GLOBALS[module, name]
