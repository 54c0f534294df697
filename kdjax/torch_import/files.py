"""Reads the state dict in a PyTorch or safetensors file, without PyTorch.

PyTorch's own safe reader, `torch.load(weights_only=True)`, would make a package of several
hundred megabytes a dependency. This module implements the part of it that a state dict needs.
A file's pickle may refer to storages, tensors, parameters and ordered dicts, and to nothing
else. No name in it is ever imported, so it cannot run code.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from kdjax.pickles import check_size
from kdjax.types import UserError

# Keys under which training programs store the state dict, most specific first.
_WRAPPERS = (
    "model_state_dict",
    "state_dict",
    "student_state_dict",
    "model",
    "net",
    "network",
    "student",
)
# Elements that a view with a stride of 0 may have beyond those of its storage.
_EXPANDED = 2**20
# Dicts in dicts down to the state dict, at most.
_NESTING = 8
# Prefixes that DataParallel and torch.compile add to all keys.
_PREFIXES = ("module.", "_orig_mod.")

# Names of the number types: in PyTorch files, in safetensors files, and here.
_DTYPES = (
    ("DoubleStorage", "F64", np.float64),
    ("FloatStorage", "F32", np.float32),
    ("HalfStorage", "F16", np.float16),
    ("BFloat16Storage", "BF16", ml_dtypes.bfloat16),
    ("LongStorage", "I64", np.int64),
    ("IntStorage", "I32", np.int32),
    ("ShortStorage", "I16", np.int16),
    ("CharStorage", "I8", np.int8),
    ("ByteStorage", "U8", np.uint8),
    ("BoolStorage", "BOOL", np.bool_),
)
_STORAGES = {storage: np.dtype(dtype) for storage, _, dtype in _DTYPES}
_SAFETENSORS = {code: np.dtype(dtype) for _, code, dtype in _DTYPES}
# Written at the beginning of a file by PyTorch before 1.6.
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the state dict in a PyTorch or safetensors file.

    Args:
      path: a file written by `torch.save` (in any version since 0.4, on any device), or one
        whose name ends in `.safetensors`. The state dict may be nested in a dict of a training
        program, under `model_state_dict`, `state_dict`, `student_state_dict`, `model`, `net`,
        `network` or `student`.

    Returns:
      Arrays by key, without prefixes `module.` and `_orig_mod.` that all keys share.

    Raises:
      UserError: if the file does not exist, is damaged or of another format, holds Python
        objects other than tensors and plain containers, or holds no state dict.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read {path}: it is not a regular file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    # A damaged file can raise almost any exception; all mean the same to the user.
    try:
        content = _read_safetensors(data) if path.suffix == ".safetensors" else _read_torch(data)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except Exception as error:
        raise UserError(
            f"cannot read {path}: not a PyTorch (.pth, .pt, .pth.tar) or .safetensors file, "
            f"or a damaged one ({type(error).__name__})"
        ) from None
    state_dict = _unwrapped(content, path)
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state_dict)), ""):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


def _unwrapped(content: Any, path: Path) -> dict[str, np.ndarray]:
    for _ in range(_NESTING):
        if not isinstance(content, dict):
            break
        if content and all(
            isinstance(key, str) and isinstance(value, np.ndarray) for key, value in content.items()
        ):
            return dict(content)
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            raise UserError(
                f"{path} holds no state dict: its keys are "
                f"{_named(content) or 'none'}; it should hold tensors, "
                f"or a dict of tensors under {', '.join(_WRAPPERS)}"
            )
        content = inner[0]
    if isinstance(content, dict):
        raise UserError(f"{path} holds no state dict within {_NESTING} dicts in each other")
    raise UserError(f"{path} holds no state dict but a {type(content).__name__}")


def _named(content: dict[Any, Any]) -> str:
    """The first keys of a dict. Only strings are shown: others may be of any size."""
    names = [key for key in content if isinstance(key, str)]
    more = len(content) - len(names[:10])
    return ", ".join(names[:10]) + (f" and {more} more" if more else "")


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    # The library's NumPy loader does not support bfloat16; its parser does.
    arrays = {}
    for key, entry in safetensors.deserialize(data):
        if entry["dtype"] not in _SAFETENSORS:
            raise UserError(
                f"{key} has type {entry['dtype']}; allowed are {', '.join(_SAFETENSORS)}"
            )
        values = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]])
        arrays[key] = values.reshape(entry["shape"])
    return arrays


class _Ignored:
    """Placeholder for objects that training programs save but a state dict does not need."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict(dict[Any, Any]):
    """An OrderedDict of a file. Attributes that the file sets, such as `_metadata`, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage:
    """Numbers of a file, of which tensors are views. Only the file's reader makes one.

    Attributes:
      array: of one dimension; zeros until the numbers are read, which follow the pickle.
    """

    def __init__(self, array: np.ndarray):
        self.array = array


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """A tensor as a strided view of its storage."""
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in numbers):
        raise UserError("a tensor is not a view of a storage")
    array = storage.array
    # Outside these bounds the view would read memory that does not belong to the file; one with a
    # stride of 0 could have any number of elements.
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    elements = math.prod(shape)
    if (
        min(numbers) < 0
        or (elements and last >= array.size)
        or elements > max(array.size, _EXPANDED)
    ):
        raise UserError("a tensor extends beyond its storage")
    if not elements:
        return np.zeros(shape, array.dtype)
    in_bytes = [stride * array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, in_bytes)


# The only globals that a pickle may refer to, and their replacements. The ignored ones are
# what programs save beside the weights: arguments, schedule milestones, NumPy scalars.
_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): tuple,
    ("torch", "device"): _Ignored,
    ("collections", "Counter"): _Ignored,
    ("argparse", "Namespace"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
    ("_codecs", "encode"): _Ignored,
}


class _Unpickler(pickle.Unpickler):
    """Unpickles the tensors of a PyTorch file without importing anything it names.

    Attributes:
      storages: the storages that the pickle refers to, by key. Tensors are views of them. They
        hold zeros until `fill`, since the numbers follow after the pickle.
    """

    def __init__(self, file: BinaryIO, limit: int):
        """Takes the file, and the bytes that it has: its storages cannot have more."""
        check_size(file)
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self._left = limit

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) not in _GLOBALS:
            raise UserError(
                f"it holds the Python object {module}.{name}, which is not loaded because it "
                "could run code; save a state dict (model.state_dict()) instead"
            )
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, kind_of_numbers, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise UserError("it holds views of storages, as only very old PyTorch wrote")
        dtype = _STORAGES[kind_of_numbers]
        if type(size) is not int or not 0 <= size * dtype.itemsize <= self._left:
            known = self.storages.get(key)
            if known is None or known.array.size != size:
                raise UserError("a storage is larger than the file")
        if key not in self.storages:
            self._left -= size * dtype.itemsize
            self.storages[key] = _Storage(np.zeros(size, dtype))
        if self.storages[key].array.dtype != dtype:
            raise UserError("a storage has two types")
        return self.storages[key]

    def fill(self, key: str, data: bytes) -> None:
        """Copies the numbers into a storage."""
        array = self.storages[key].array
        array[:] = np.frombuffer(data, array.dtype, array.size)


def _read_torch(data: bytes) -> Any:
    # By its first bytes: a zip archive cut short is still not a legacy file.
    read = _read_zip if data.startswith(b"PK\x03\x04") else _read_legacy
    return read(io.BytesIO(data))


def _read_zip(file: io.BytesIO) -> Any:
    """PyTorch 1.6 and later: a zip archive of one pickle and one member per storage."""
    limit = file.getbuffer().nbytes
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        # PyTorch compresses nothing, so that no member is larger than the file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise UserError("it is a compressed archive, which PyTorch does not write")
        pickled = next((name for name in names if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise UserError("it is a zip archive without the data.pkl of a PyTorch file")
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            _check_byte_order(archive.read(f"{root}byteorder") == b"little")
        unpickler = _Unpickler(io.BytesIO(archive.read(pickled)), limit)
        content = unpickler.load()
        for key in unpickler.storages:
            unpickler.fill(key, archive.read(f"{root}data/{key}"))
    return content


def _read_legacy(file: io.BytesIO) -> Any:
    """PyTorch before 1.6: a sequence of pickles, followed by the storages."""
    limit = file.getbuffer().nbytes
    magic, protocol, system = (_Unpickler(file, limit).load() for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise UserError("it is not a PyTorch file")
    _check_byte_order(system["little_endian"])
    unpickler = _Unpickler(file, limit)
    content = unpickler.load()
    filled = set()
    for key in _Unpickler(file, limit).load():
        (size,) = np.frombuffer(file.read(8), np.int64)
        array = unpickler.storages[key].array
        if size != array.size:
            raise UserError("a storage has two sizes")
        unpickler.fill(key, file.read(array.nbytes))
        filled.add(key)
    if filled != set(unpickler.storages):
        raise UserError("it lacks the numbers of a storage")
    return content


def _check_byte_order(little_endian: bool) -> None:
    if not little_endian:
        raise UserError("its numbers are big-endian; only little-endian files are supported")
