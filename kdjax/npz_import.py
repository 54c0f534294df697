"""Import of networks that were published as npz files of NumPy arrays, such as BiT.

variables, num_classes = npz_import.load("R50x1_224.npz", "bit_r50x1")
"""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import models
from kdjax.torch_import.conversion import mismatches
from kdjax.types import UserError, Variables, first_line

Shape = tuple[int, ...]
# Above any number of classes.
_MOST_CLASSES = 2**16
# Prefix of all keys in checkpoints of big_vision, and a number in some names of BiT's files.
_PREFIX = "params/"
_NUMBERED = re.compile(r"/standardized_conv2d_\d+/")


class _Header(NamedTuple):
    """What an npz file says of an array.

    Attributes:
      member: its name in the archive.
      start: bytes of the member before the elements.
      shape: of the array, as the file has it.
      columns_first: whether it is in Fortran's order.
      dtype: of its elements.
    """

    member: str
    start: int
    shape: Shape
    columns_first: bool
    dtype: np.dtype[Any]


def load(
    path: str | Path, name: str, *, num_classes: int = 0, **attributes: Any
) -> tuple[Variables, int]:
    """Reads the variables of a network from an npz file in a layout of its authors.

    Shapes may differ in leading dimensions of 1: classifiers were published as 1x1 convolutions.
    No more is read than the network holds, and nothing is unpickled.

    Args:
      path: of the file.
      name: one of `kdjax.models.names()` that was published in this form.
      num_classes: k; 0 is that of the file.
      **attributes: `in_channels` and the other arguments of `kdjax.models.create`.

    Returns:
      `{"params"}` of float32 NumPy arrays, and k.

    Raises:
      UserError: if the network was not published in this form, if the file cannot be read or is
        damaged, or if keys or shapes do not fit. The message lists every missing key, every
        unexpected key and every mismatched shape.
    """
    # With one class, the classifier is what has one output.
    attributes = attributes | {"num_classes": num_classes or 1}
    model: Any = models.create(name, **attributes)
    if not model.npz_layouts:
        raise UserError(
            f"{str(path)!r} is an .npz file, and {name} was not published as one: give a PyTorch "
            "file or the folder of a phase"
        )
    template = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), model.example())["params"]
    leaves = {
        f"{module}/{leaf}": array.shape
        for module, arrays in template.items()
        for leaf, array in arrays.items()
    }
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"cannot read {str(path)!r}: it is not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            found, unexpected = _headers(archive)
            keys = _keys(leaves, model.npz_layouts, found)
            wanted = {keys[leaf]: shape for leaf, shape in leaves.items()}
            if not num_classes:
                num_classes = _count_classes(wanted, found)
                wanted = {key: _with_classes(shape, num_classes) for key, shape in wanted.items()}
            _check(name, wanted, found, unexpected)
            params: dict[str, dict[str, np.ndarray]] = {}
            for leaf, key in keys.items():
                module, _, last = leaf.partition("/")
                array = _read(archive, key, found[key]).reshape(wanted[key])
                params.setdefault(module, {})[last] = array
    except UserError as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
    except Exception as error:
        # A damaged file can raise almost any exception.
        raise UserError(f"cannot read {str(path)!r} as npz: {first_line(error)}") from None
    return {"params": params}, num_classes


def _headers(archive: zipfile.ZipFile) -> tuple[dict[str, _Header], list[str]]:
    """The headers by key, and the names of members that are no further arrays."""
    found: dict[str, _Header] = {}
    unexpected = []
    names = archive.namelist()
    prefix = _PREFIX if all(name.startswith(_PREFIX) for name in names) else ""
    for member in names:
        key = member.removeprefix(prefix).removesuffix(".npy")
        key = _NUMBERED.sub("/standardized_conv2d/", key)
        if not member.endswith(".npy") or key in found:
            unexpected.append(member)
            continue
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise UserError(f"{member} is of version {version} of NumPy's format")
            header = read(file)
            found[key] = _Header(member, file.tell(), *header)
    return found, unexpected


def _keys(
    leaves: Mapping[str, Shape],
    layouts: tuple[tuple[tuple[str, str], ...], ...],
    found: Mapping[str, Any],
) -> dict[str, str]:
    """The key in the file of every leaf, in the layout that most of the file's keys have."""
    known = []
    for layout in layouts:
        keys = {}
        for leaf in leaves:
            key = leaf
            for pattern, replacement in layout:
                key = re.sub(pattern, replacement, key)
            keys[leaf] = key
        known.append(keys)
    return max(known, key=lambda keys: len(found.keys() & set(keys.values())))


def _count_classes(wanted: Mapping[str, Shape], found: Mapping[str, _Header]) -> int:
    """The number of classes of a file, from the arrays of which the model wants one output."""
    heads = [key for key, shape in wanted.items() if shape[-1] == 1]
    for key in heads:
        if key in found and found[key].shape and 0 < found[key].shape[-1] <= _MOST_CLASSES:
            return found[key].shape[-1]
    raise UserError(f"missing: {', '.join(heads)}")


def _with_classes(shape: Shape, num_classes: int) -> Shape:
    return (*shape[:-1], num_classes) if shape[-1] == 1 else shape


def _squeezed(shape: Shape) -> Shape:
    """The shape without leading dimensions of 1."""
    first = next((i for i, size in enumerate(shape) if size != 1), max(0, len(shape) - 1))
    return shape[first:]


def _check(
    name: str, wanted: Mapping[str, Shape], found: Mapping[str, _Header], unexpected: list[str]
) -> None:
    given = {
        # Where they agree, the shape is the model's.
        key: wanted[key] if _squeezed(header.shape) == _squeezed(wanted[key]) else header.shape
        for key, header in found.items()
        if key in wanted
    }
    unexpected = [key for key in found if key not in wanted] + unexpected
    if given != wanted or unexpected:
        raise UserError(f"it does not fit {name}: {mismatches(given, wanted, unexpected)}")


def _read(archive: zipfile.ZipFile, key: str, header: _Header) -> np.ndarray:
    """An array whose shape is the model's, in float32."""
    dtype = header.dtype
    if dtype.kind != "f":
        raise UserError(f"{key} has type {dtype}, and must have floating-point numbers")
    size = math.prod(header.shape) * dtype.itemsize
    with archive.open(header.member) as file:
        # Not by `seek`, after which the archive's checksum would not be compared.
        file.read(header.start)
        data = file.read(size + 1)
    if len(data) != size:
        raise UserError(f"{key} does not have the {size:,} bytes that its header says")
    order: Any = "F" if header.columns_first else "C"
    values = np.frombuffer(data, dtype).reshape(header.shape, order=order)
    return np.ascontiguousarray(values, np.float32)
