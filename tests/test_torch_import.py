"""Files of PyTorch in, whatever is in them; variables in and out, to the bit."""

import io
import json
import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kdjax import UserError, models, torch_import

REFERENCE = json.loads((Path(__file__).parent / "reference" / "models.json").read_text())
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
STATE_DICT = {"fc.weight": WEIGHT, "fc.bias": np.ones(3, np.float32)}


# Files as torch.save writes them, without PyTorch ------------------------------------------


class Storage:
    def __init__(self, values, size=None):
        self.values = np.ravel(values)
        self.size = self.values.size if size is None else size


class Tensor:
    """An array as PyTorch pickles it: a window on a storage."""

    def __init__(self, storage, offset, shape, strides):
        self.window = (storage, offset, shape, strides)

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self.window, False, OrderedDict())


def tensor(array):
    array = np.ascontiguousarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array), 0, array.shape, strides)


def tensors(state_dict):
    return OrderedDict((key, tensor(value)) for key, value in state_dict.items())


@pytest.fixture(params=["zip", "legacy"])
def write(request, tmp_path, monkeypatch):
    """`write(content)` gives the path of a file that `torch.save(content)` could have made."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("FloatStorage", "LongStorage", "BFloat16Storage"):
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise NotImplementedError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    kinds = {
        "float32": torch.FloatStorage,
        "int64": torch.LongStorage,
        "bfloat16": torch.BFloat16Storage,
    }

    def write(content, little_endian=True):
        storages = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, thing):
                if not isinstance(thing, Storage):
                    return None
                if thing not in storages:
                    storages.append(thing)
                key = str(storages.index(thing))
                pid = ("storage", kinds[thing.values.dtype.name], key, "cuda:0", thing.size)
                return (*pid, None) if request.param == "legacy" else pid

        file = io.BytesIO()
        Pickler(file, protocol=2).dump(content)
        path = tmp_path / "file.pth"
        if request.param == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("any/data.pkl", file.getvalue())
                archive.writestr("any/byteorder", b"little" if little_endian else b"big")
                for number, storage in enumerate(storages):
                    archive.writestr(f"any/data/{number}", storage.values.tobytes())
            return path
        head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian})
        parts = [pickle.dumps(part, protocol=2) for part in head]
        parts += [file.getvalue(), pickle.dumps([str(n) for n in range(len(storages))], protocol=2)]
        for storage in storages:
            parts += [np.int64(storage.size).tobytes(), storage.values.tobytes()]
        path.write_bytes(b"".join(parts))
        return path

    return write


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype
        np.testing.assert_array_equal(actual[key], value)


def refuse(path, message):
    with pytest.raises(UserError, match=message) as error:
        torch_import.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# load --------------------------------------------------------------------------------------


def test_bare_state_dict(write):
    assert_same(torch_import.load(write(tensors(STATE_DICT))), STATE_DICT)


@pytest.mark.parametrize(
    "wrapper",
    ["model_state_dict", "state_dict", "student_state_dict", "model", "net", "network", "student"],
)
def test_wrappers(write, wrapper):
    content = {
        "epoch": 3,
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": tensor(WEIGHT)}}},
        wrapper: tensors({f"module.{key}": value for key, value in STATE_DICT.items()}),
    }
    assert_same(torch_import.load(write(content)), STATE_DICT)


def test_wrapper_in_a_wrapper(write):
    path = write({"model": {"state_dict": tensors(STATE_DICT), "name": "resnet8"}})
    assert_same(torch_import.load(path), STATE_DICT)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes(write, prefix):
    path = write(tensors({prefix + key: value for key, value in STATE_DICT.items()}))
    assert_same(torch_import.load(path), STATE_DICT)


def test_prefix_stays_where_not_all_keys_have_it(write):
    mixed = {"module.weight": WEIGHT, "bias": WEIGHT}
    assert_same(torch_import.load(write(tensors(mixed))), mixed)


def test_windows_and_types(write):
    storage = Storage(WEIGHT)
    content = {
        "transposed": Tensor(storage, 0, (4, 3), (1, 4)),
        "row": Tensor(storage, 4, (4,), (1,)),
        "expanded": Tensor(storage, 5, (2, 2), (0, 0)),
        "empty": Tensor(storage, 0, (0, 4), (4, 1)),
        "counter": Tensor(Storage(np.array([7])), 0, (), ()),
        "half": tensor(WEIGHT.astype(ml_dtypes.bfloat16)),
    }
    expected = {
        "transposed": WEIGHT.T,
        "row": WEIGHT[1],
        "expanded": np.full((2, 2), 5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "counter": np.array(7),
        "half": WEIGHT.astype(ml_dtypes.bfloat16),
    }
    assert_same(torch_import.load(write(content)), expected)


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "wrap", [lambda evil: evil, lambda evil: tensors(STATE_DICT) | {"x": evil}]
)
def test_code_is_not_run(write, tmp_path, wrap):
    refuse(write(wrap(Evil(tmp_path / "made"))), r"Python object \w+\.mkdir, which is not loaded")
    assert not (tmp_path / "made").exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    refuse(path, "mkdir, which is not loaded")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "window", [(9, (4,), (1,)), (0, (3, 4), (5, 1)), (4, (2,), (-1,)), (-1, (2,), (1,))]
)
def test_windows_end_with_their_storage(write, window):
    refuse(write({"weight": Tensor(Storage(WEIGHT), *window)}), "reaches beyond its storage")


def test_storage_that_is_not_all_there(write):
    refuse(write({"weight": Tensor(Storage(WEIGHT, size=13), 0, (13,), (1,))}), "damaged")


def test_big_endian(write):
    refuse(write(tensors(STATE_DICT), little_endian=False), "big-endian")


def test_truncated(write):
    path = write(tensors(STATE_DICT))
    data = path.read_bytes()
    for length in (0, 1, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refuse(path, "cannot read .*file, or a damaged one")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"epoch": 3, "optimizer": {}},
            "its keys are epoch, optimizer; it should hold tensors, or",
        ),
        ({}, "its keys are none"),
        ([1, 2], "no state dict but a list"),
        ({"state_dict": {"weight": 1.0}}, "its keys are weight"),
    ],
)
def test_no_state_dict(write, content, message):
    refuse(write(content), message)


@pytest.mark.parametrize("name", ["file.pth", "file.pth.tar", "file.safetensors"])
@pytest.mark.parametrize("data", [b"", b"not a model" * 99, b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_garbage(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    refuse(tmp_path / name, "cannot read .* or a damaged one")


def test_other_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refuse(tmp_path / "file.pth", r"without the data\.pkl")


def test_no_file(tmp_path):
    refuse(tmp_path / "none.pth", "No such file")
    refuse(tmp_path, "Is a directory")


def test_safetensors(tmp_path):
    half = WEIGHT.astype(ml_dtypes.bfloat16)
    values = {"module.half": half, "module.weight": WEIGHT}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for (key, value), dtype in zip(values.items(), ("BF16", "F32"), strict=True):
        ends = [len(data), len(data) + value.nbytes]
        header[key] = {"dtype": dtype, "shape": value.shape, "data_offsets": ends}
        data += value.tobytes()
    head = json.dumps(header).encode()
    path = tmp_path / "file.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    loaded = torch_import.load(path)
    assert_same({key: loaded[key] for key in sorted(loaded)}, {"half": half, "weight": WEIGHT})


def test_safetensors_of_another_type(tmp_path):
    safetensors.numpy.save_file({"x": np.zeros(2, np.uint16)}, tmp_path / "file.safetensors")
    refuse(tmp_path / "file.safetensors", "x has type U16; allowed are F64, ")


@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_pytorch(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(WEIGHT)
    content = {
        "parameter": torch.nn.Parameter(weight),
        "shared": weight,
        "transposed": weight.T,
        "part": weight[1:, ::2],
        "channels_last": torch.arange(24.0)
        .reshape(1, 2, 3, 4)
        .to(memory_format=torch.channels_last),
        "counter": torch.tensor(7),
        "double": weight.double(),
        "half": weight.half(),
    }
    path = tmp_path / "file.pth.tar"
    saved = {"model_state_dict": content, "epoch": 3, "bfloat16": weight.bfloat16()}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    assert_same(
        torch_import.load(path), {key: value.detach().numpy() for key, value in content.items()}
    )


# convert, export ---------------------------------------------------------------------------


def random_state_dict(name, **attributes):
    model = models.create(name, **attributes)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), model.example())
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype("f4"), shapes)
    return variables, torch_import.export(name, variables, **attributes)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("resnet8", {"num_classes": 7}),
        ("resnet18", {"num_classes": 7}),
        ("resnet18", {"num_classes": 7, "stem": "imagenet"}),
        ("distiller_resnet8", {"num_classes": 7}),
        ("wrn_10_1", {"num_classes": 7, "in_channels": 1}),
        ("wrn_10_1", {"num_classes": 7, "raw_shortcut": True}),
        ("vgg8", {"num_classes": 7}),
        ("vgg11_bn", {"num_classes": 7}),
        ("mobilenetv2_half", {"num_classes": 7}),
        ("mobilenetv2_x0_5", {"num_classes": 7}),
        ("mobilenetv3_small", {"num_classes": 7, "stem": "cifar"}),
        ("shufflenetv1", {"num_classes": 7}),
        ("shufflenetv2_x0_5", {"num_classes": 7}),
        ("lenet", {"num_classes": 7}),
        ("generator", {"image_shape": (28, 28, 1), "latent_dim": 10}),
    ],
)
def test_round_trip(name, attributes):
    variables, state_dict = random_state_dict(name, **attributes)
    again = torch_import.convert(name, state_dict, **attributes)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


@pytest.mark.parametrize("entry", REFERENCE["models"], ids=lambda entry: entry["model"])
def test_exports_what_the_original_loads(entry):
    """The keys, shapes, types and order of the original's state dict, and the same bits."""
    attributes = {"num_classes": entry["num_classes"]} if "num_classes" in entry else {}
    random = np.random.default_rng(0)
    theirs = {
        key: np.array(0) if key.endswith("tracked") else random.normal(size=shape).astype("f4")
        for key, shape in entry["state_dict"]
    }
    variables = torch_import.convert(entry["kdjax"], theirs, **attributes)
    ours = torch_import.export(entry["kdjax"], variables, **attributes)
    if entry["model"] == "distiller.WRN10_1":  # exported under the names of RepDistiller
        renamed = {re.sub(r"^layer(\d)", r"block\1", key): x for key, x in theirs.items()}
        theirs = {re.sub(r"^linear", "fc", key): value for key, value in renamed.items()}
    assert_same(ours, theirs)


def test_student_in_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    variables, state_dict = random_state_dict("lenet", num_classes=10)
    layers = [
        torch.nn.Conv2d(3, 6, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(400, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    ]  # fmt: skip
    network = torch.nn.ModuleDict({"layers": torch.nn.Sequential(*layers)})
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()}, strict=True)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("f4")
    with torch.no_grad():
        expected = network["layers"](torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = models.create("lenet", num_classes=10).apply(variables, images).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    torch.save(network.state_dict(), tmp_path / "student.pth")
    loaded = torch_import.load(tmp_path / "student.pth")
    again = torch_import.convert("lenet", loaded, num_classes=10)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


def test_counters():
    variables, _ = random_state_dict("resnet8", num_classes=10)
    state_dict = torch_import.export("resnet8", variables, num_classes=10, num_batches_tracked=9)
    counters = [value for key, value in state_dict.items() if key.endswith("tracked")]
    assert len(counters) == 9
    assert {(value.shape, value.dtype.name, int(value)) for value in counters} == {((), "int64", 9)}


def test_resolution():
    """LeNet's first linear layer has the size of what the convolutions leave of an image."""
    model = models.create("lenet", num_classes=10, in_channels=1)
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    attributes = {"num_classes": 10, "in_channels": 1}
    with pytest.raises(UserError, match=r"layers\.7\.weight \[256, 120\] instead of \[400, 120\]"):
        torch_import.export("lenet", variables, **attributes)
    state_dict = torch_import.export("lenet", variables, **attributes, resolution=28)
    assert state_dict["layers.7.weight"].shape == (120, 256)
    again = torch_import.convert("lenet", state_dict, **attributes, resolution=28)
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def misfit(name, state_dict, **attributes):
    with pytest.raises(UserError) as error:
        torch_import.convert(name, state_dict, **attributes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_error_lists_all_that_does_not_fit():
    _, state_dict = random_state_dict("resnet8", num_classes=10)
    del state_dict["layer1.0.conv2.weight"], state_dict["bn1.running_var"]
    state_dict |= {"more.weight": np.zeros(3), "fc.more": np.zeros(())}
    state_dict["conv1.weight"] = np.zeros((16, 3, 5, 5))
    state_dict["layer2.0.bn1.bias"] = np.zeros(31)
    assert misfit("resnet8", state_dict, num_classes=10) == (
        "state dict does not fit resnet8: "
        "missing: bn1.running_var, layer1.0.conv2.weight; "
        "left over: more.weight, fc.more; "
        "of another shape: conv1.weight [16, 3, 5, 5] instead of [16, 3, 3, 3], "
        "layer2.0.bn1.bias [31] instead of [32]"
    )


def test_number_of_classes_and_channels():
    _, state_dict = random_state_dict("wrn_10_1", num_classes=100, in_channels=1)
    assert misfit("wrn_10_1", state_dict, num_classes=10) == (
        "state dict does not fit wrn_10_1: "
        "it takes 1 channels, not in_channels=3; it has 100 classes, not num_classes=10; "
        "of another shape: conv1.weight [16, 1, 3, 3] instead of [16, 3, 3, 3], "
        "fc.weight [100, 64] instead of [10, 64], fc.bias [100] instead of [10]"
    )


def test_another_model():
    _, state_dict = random_state_dict("resnet8", num_classes=10)
    message = misfit("vgg8", state_dict, num_classes=10)
    assert message.startswith("state dict does not fit vgg8: missing: block0.0.weight, block0.0.b")
    assert "left over: conv1.weight, bn1.weight, bn1.bias, bn1.running_mean" in message
    assert message.endswith("fc.weight, fc.bias")


def test_same_key_in_two_spellings():
    _, state_dict = random_state_dict("resnet18", num_classes=10)
    state_dict["fc.bias"] = state_dict["linear.bias"]
    assert misfit("resnet18", state_dict, num_classes=10).endswith("resnet18: left over: fc.bias")


def test_attributes_are_those_of_create():
    assert misfit("resnet8", {}) == "model resnet8 needs num_classes"
    assert "no attribute stem" in misfit("resnet8", {}, num_classes=10, stem="imagenet")
    assert "unknown model 'resnet9'" in misfit("resnet9", {}, num_classes=10)


def test_variables_of_another_model():
    variables, _ = random_state_dict("resnet8", num_classes=10)
    with pytest.raises(UserError, match=r"fit resnet14: missing: layer1\.1\.conv1"):
        torch_import.export("resnet14", variables, num_classes=10)
