"""PyTorch files, written without PyTorch."""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from unittest import mock

import numpy as np


class Storage:
    def __init__(self, values, size=None):
        self.values = np.ravel(values)
        self.size = self.values.size if size is None else size


class Tensor:
    """An array as PyTorch pickles it, a view of a storage."""

    def __init__(self, storage, offset, shape, strides):
        self.view = (storage, offset, shape, strides)

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self.view, False, OrderedDict())


def tensor(array):
    array = np.ascontiguousarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array), 0, array.shape, strides)


def tensors(state_dict):
    return OrderedDict((key, tensor(value)) for key, value in state_dict.items())


@contextlib.contextmanager
def _torch():
    """A stand-in for PyTorch, of which pickles hold names; yields its storages by their type."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("FloatStorage", "LongStorage", "BFloat16Storage"):
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise NotImplementedError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    kinds = {
        "float32": torch.FloatStorage,
        "int64": torch.LongStorage,
        "bfloat16": torch.BFloat16Storage,
    }
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield kinds


def written(content, layout, little_endian=True):
    """The bytes that `torch.save(content)` writes: now ("zip"), or before 1.6 ("legacy")."""
    storages, file = [], io.BytesIO()
    with _torch() as kinds:

        class Pickler(pickle.Pickler):
            def persistent_id(self, thing):
                if not isinstance(thing, Storage):
                    return None
                if thing not in storages:
                    storages.append(thing)
                key = str(storages.index(thing))
                pid = ("storage", kinds[thing.values.dtype.name], key, "cuda:0", thing.size)
                return (*pid, None) if layout == "legacy" else pid

        Pickler(file, protocol=2).dump(content)
    if layout == "zip":
        return archive(file.getvalue(), [one.values.tobytes() for one in storages], little_endian)
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian})
    parts = [pickle.dumps(part, protocol=2) for part in head]
    parts += [file.getvalue(), pickle.dumps([str(n) for n in range(len(storages))], protocol=2)]
    for storage in storages:
        size = storage.size if isinstance(storage.size, int) else storage.values.size
        parts += [np.int64(size).tobytes(), storage.values.tobytes()]
    return b"".join(parts)


def archive(pickled, storages=(), little_endian=True):
    """A file of a pickle and the bytes of its storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("any/data.pkl", pickled)
        members.writestr("any/byteorder", b"little" if little_endian else b"big")
        for number, content in enumerate(storages):
            members.writestr(f"any/data/{number}", content)
    return file.getvalue()
