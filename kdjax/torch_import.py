"""PyTorch state dicts in and out: files to arrays, arrays to variables and back.

    state_dict = torch_import.load("teacher.pth")
    variables = torch_import.convert("wrn_16_2", state_dict, num_classes=10)

PyTorch itself is not needed. Its own safe reader, `torch.load(weights_only=True)`,
would cost every user of a teacher that package of several hundred megabytes; what
it does for a state dict is the reader below. A file's pickle may name storages,
tensors, parameters and ordered dicts, nothing else: no name in it is ever imported,
so no code in it can run.
"""

import collections
import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
import safetensors

from kdjax import models
from kdjax.types import UserError, Variables

# ---------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------

# Where training programs put the state dict among other things, most telling first.
_WRAPPERS = (
    "model_state_dict",
    "state_dict",
    "student_state_dict",
    "model",
    "net",
    "network",
    "student",
)
# DataParallel's and torch.compile's.
_PREFIXES = ("module.", "_orig_mod.")

# What the two formats call the types of numbers.
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
# What PyTorch before 1.6 wrote at the head of a file.
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch or safetensors file.

    Args:
      path: a file that `torch.save` wrote (of any version since 0.4, from any
        device), or one whose name ends in `.safetensors`. The state dict may lie
        in a training program's dict, under `model_state_dict`, `state_dict`,
        `student_state_dict`, `model`, `net`, `network` or `student`.

    Returns:
      Arrays by key, without a `module.` that all keys share.

    Raises:
      UserError: if there is no such file, it is damaged, of another format, holds
        Python objects other than tensors and plain containers, or no state dict.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    # Damage shows as almost any exception of the parsers; all mean the same to the user.
    try:
        content = _read_safetensors(data) if path.suffix == ".safetensors" else _read_torch(data)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except Exception as error:
        raise UserError(
            f"cannot read {path}: no PyTorch (.pth, .pt, .pth.tar) or .safetensors file, "
            f"or a damaged one ({type(error).__name__})"
        ) from None
    state_dict = _unwrapped(content, path)
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state_dict)), ""):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


def _unwrapped(content: Any, path: Path) -> dict[str, np.ndarray]:
    while isinstance(content, dict):
        if content and all(
            isinstance(key, str) and isinstance(value, np.ndarray) for key, value in content.items()
        ):
            return dict(content)
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            raise UserError(
                f"{path} holds no state dict: its keys are "
                f"{', '.join(map(str, content)) or 'none'}; it should hold tensors, "
                f"or a dict of tensors under {', '.join(_WRAPPERS)}"
            )
        content = inner[0]
    raise UserError(f"{path} holds no state dict but a {type(content).__name__}")


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    # The library's NumPy loader does not know bfloat16, its parser does.
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
    """Stands for an object that training programs save and nobody needs here."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """The strided window on a storage that a tensor is."""
    if not math.prod(shape):
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # Outside these bounds a view would reach into memory that is not the file's.
    if min([offset, *strides, *shape]) < 0 or last >= storage.size:
        raise UserError("a tensor reaches beyond its storage")
    in_bytes = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, in_bytes)


# All that a pickle may name, and what stands for it. The ignored ones are what
# programs keep beside the weights: arguments, schedules' milestones, NumPy scalars.
_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
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
    """Reads the tensors of a PyTorch file, and never imports what the file names.

    Attributes:
      storages: all that the pickle referred to, by key, which tensors are views of;
        zeros until `fill`, as the numbers come after the pickle.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) not in _GLOBALS:
            raise UserError(
                f"it holds the Python object {module}.{name}, which is not loaded because it "
                "could run code; save a state dict (model.state_dict()) instead"
            )
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise UserError("it holds views on storages, as only very old PyTorch wrote")
        if key not in self.storages:
            self.storages[key] = np.zeros(size, _STORAGES[dtype])
        return self.storages[key]

    def fill(self, key: str, data: bytes) -> None:
        """Puts the numbers into a storage."""
        storage = self.storages[key]
        storage[:] = np.frombuffer(data, storage.dtype, storage.size)


def _read_torch(data: bytes) -> Any:
    file = io.BytesIO(data)
    return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(io.BytesIO(data))


def _read_zip(file: BinaryIO) -> Any:
    """PyTorch 1.6 and later: a zip of one pickle and a member for every storage."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = next((name for name in names if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise UserError("a zip archive without the data.pkl of a PyTorch file")
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            _check_byte_order(archive.read(f"{root}byteorder") == b"little")
        unpickler = _Unpickler(io.BytesIO(archive.read(pickled)))
        content = unpickler.load()
        for key in unpickler.storages:
            unpickler.fill(key, archive.read(f"{root}data/{key}"))
    return content


def _read_legacy(file: BinaryIO) -> Any:
    """PyTorch before 1.6: a row of pickles, then the storages one after another."""
    magic, protocol, system = (_Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise UserError("no PyTorch file")
    _check_byte_order(system["little_endian"])
    unpickler = _Unpickler(file)
    content = unpickler.load()
    for key in _Unpickler(file).load():
        (size,) = np.frombuffer(file.read(8), np.int64)
        unpickler.fill(key, file.read(int(size) * unpickler.storages[key].itemsize))
    return content


def _check_byte_order(little_endian: bool) -> None:
    if not little_endian:
        raise UserError("its numbers are big-endian; allowed are little-endian ones")


# ---------------------------------------------------------------------------
# Names and layouts
# ---------------------------------------------------------------------------

Shapes = Mapping[str, tuple[int, ...]]
LeafPath = tuple[str, str, str]  # collection, module, leaf

# Leaves of a module here and in PyTorch, in the order of its state dicts.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# By number of dimensions: which axes of an array here make one of PyTorch's, where
# kernels are [out, in] or [out, in, h, w].
_AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def convert(
    name: str, state_dict: Mapping[str, Any], *, resolution: int = 32, **attributes: Any
) -> Variables:
    """Variables for `create(name, **attributes)` from a PyTorch state dict.

    A submodule is called as in PyTorch with `_` for `.`; other spellings that
    published files use are those of the model's `torch_aliases`. Counters of batch
    norm (`num_batches_tracked`) have no counterpart and are left out.

    Args:
      name: one of `models.names()`.
      state_dict: arrays by key, as `load` gives them.
      resolution: height and width of the images, on which the weights of `lenet` and
        `distiller_resnet*` depend.
      **attributes: `num_classes`, `in_channels` and the others of `models.create`.

    Returns:
      `{"params", "batch_stats"}` of float32 NumPy arrays.

    Raises:
      UserError: if keys or shapes do not fit the model; the one line lists all that
        is missing, left over or of another shape.
    """
    model, template = _template(name, attributes, state_dict, resolution)
    wanted = {key: _to_torch_shape(leaf.shape) for key, (_, leaf) in template.items()}
    counters = {_counter(key) for key in wanted if key.endswith(".running_var")}
    found: dict[str, np.ndarray] = {}
    left_over = []
    for key, value in state_dict.items():
        ours = key
        if key not in wanted and key not in counters:
            for pattern, replacement in model.torch_aliases:
                ours = re.sub(pattern, replacement, ours)
        if ours in wanted and ours not in found:
            found[ours] = np.asarray(value)
        elif ours not in counters:
            left_over.append(key)
    given = {key: value.shape for key, value in found.items()}
    if given != wanted or left_over:
        channels = getattr(model, "in_channels", None)
        hints = _hints(given, wanted, attributes.get("num_classes"), channels)
        misfit = _misfit(given, wanted, left_over)
        raise UserError(f"state dict does not fit {name}: {hints}{misfit}")
    variables: Variables = {}
    for key, ((collection, module, leaf), _) in template.items():
        value = found[key].transpose(np.argsort(_AXES[found[key].ndim]))
        layers = variables.setdefault(collection, {})
        layers.setdefault(module, {})[leaf] = np.ascontiguousarray(value, np.float32)
    return variables


def export(
    name: str,
    variables: Variables,
    *,
    num_batches_tracked: int = 0,
    resolution: int = 32,
    **attributes: Any,
) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model's variables; the inverse of `convert`.

    The keys are those of the original that the model follows, in its order. To write a file:
    `torch.save({k: torch.from_numpy(v) for k, v in state_dict.items()}, path)` or
    `safetensors.numpy.save_file(state_dict, path)`.

    Args:
      name: one of `models.names()`.
      variables: `{"params", "batch_stats"}` of `create(name, **attributes)`.
      num_batches_tracked: what batch norm's counters are to hold, which kdjax does
        not count: the steps of training. PyTorch reads it only with `momentum=None`.
      resolution: height and width of the images, on which the weights of `lenet` and
        `distiller_resnet*` depend.
      **attributes: `num_classes`, `in_channels` and the others of `models.create`.

    Returns:
      float32 arrays by key, and the counters as int64 arrays of no dimensions.

    Raises:
      UserError: if the variables are not those of the model.
    """
    found = {key: leaf for key, (_, leaf) in _by_torch_key(variables).items()}
    given = {key: tuple(np.shape(leaf)) for key, leaf in found.items()}
    _, template = _template(name, attributes, given, resolution)
    wanted = {key: tuple(leaf.shape) for key, (_, leaf) in template.items()}
    if given != wanted:
        left_over = [key for key in given if key not in wanted]
        raise UserError(f"variables do not fit {name}: {_misfit(given, wanted, left_over)}")
    state_dict = {}
    for key in wanted:
        value = np.asarray(found[key], np.float32)
        state_dict[key] = np.ascontiguousarray(value.transpose(_AXES[value.ndim]))
        if key.endswith(".running_var"):
            state_dict[_counter(key)] = np.array(num_batches_tracked, np.int64)
    return state_dict


def _template(
    name: str, attributes: Mapping[str, Any], keys: Iterable[str], resolution: int
) -> tuple[Any, dict[str, tuple[LeafPath, Any]]]:
    """The model that the PyTorch keys belong to; its variables' shapes as `_by_torch_key`."""
    model: Any = models.create(name, **attributes).variant_for(keys)
    modules: list[str] = []

    def init(images: Any) -> Variables:
        variables = model.init(jax.random.key(0), images)
        modules.extend(variables["params"])  # in order of computation; what returns is sorted
        return variables

    shapes = jax.eval_shape(init, model.example(resolution))
    params = {module: shapes["params"][module] for module in modules}
    return model, _by_torch_key(shapes | {"params": params})


def _by_torch_key(variables: Mapping[str, Any]) -> dict[str, tuple[LeafPath, Any]]:
    """Path and value of every leaf by its PyTorch key, in the order of the modules."""
    leaves = {}
    for module in variables.get("params", {}):
        for leaf, theirs in _LEAVES.items():
            for collection in ("params", "batch_stats"):
                values = variables.get(collection, {}).get(module, {})
                if leaf in values:
                    key = f"{module.replace('_', '.')}.{theirs}"
                    leaves[key] = (collection, module, leaf), values[leaf]
    return leaves


def _to_torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _AXES[len(shape)])


def _counter(key: str) -> str:
    return f"{key.rpartition('.')[0]}.num_batches_tracked"


def _misfit(given: Shapes, wanted: Shapes, left_over: list[str]) -> str:
    """All that is missing, left over or of another shape."""
    parts = {
        "missing": [key for key in wanted if key not in given],
        "left over": left_over,
        "of another shape": [
            f"{key} {list(given[key])} instead of {list(shape)}"
            for key, shape in wanted.items()
            if key in given and given[key] != shape
        ],
    }
    return "; ".join(f"{what}: {', '.join(keys)}" for what, keys in parts.items() if keys)


def _hints(given: Shapes, wanted: Shapes, num_classes: int | None, in_channels: int | None) -> str:
    """What the user most likely meant, where shapes differ in classes or channels alone."""
    hints = ""
    for key, shape in wanted.items():
        other = given.get(key, ())
        if len(shape) != len(other):
            continue
        differing = [axis for axis, size in enumerate(other) if size != shape[axis]]
        if len(differing) != 1:
            continue
        (axis,) = differing
        if (len(shape), axis, shape[axis]) == (2, 0, num_classes):
            hints += f"it has {other[axis]} classes, not num_classes={num_classes}; "
        if (len(shape), axis, shape[axis]) == (4, 1, in_channels):
            hints += f"it takes {other[axis]} channels, not in_channels={in_channels}; "
    return hints
