"""Reading files, including damaged and malicious ones."""

import json
import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_files import Storage, Tensor, tensor, tensors, written

from kdjax import UserError, torch_import

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
STATE_DICT = {"fc.weight": WEIGHT, "fc.bias": np.ones(3, np.float32)}


@pytest.fixture(params=["zip", "legacy"])
def write(request, tmp_path):
    """`write(content)` returns the path of a file such as `torch.save(content)` writes."""

    def write(content, little_endian=True):
        path = tmp_path / "file.pth"
        path.write_bytes(written(content, request.param, little_endian))
        return path

    return write


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype
        np.testing.assert_array_equal(actual[key], value)


def assert_rejected(path, message):
    with pytest.raises(UserError, match=message) as error:
        torch_import.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bare_state_dict_is_read(write):
    assert_same(torch_import.load(write(tensors(STATE_DICT))), STATE_DICT)


@pytest.mark.parametrize(
    "wrapper",
    ["model_state_dict", "state_dict", "student_state_dict", "model", "net", "network", "student"],
)
def test_a_nested_state_dict_is_found(write, wrapper):
    content = {
        "epoch": 3,
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": tensor(WEIGHT)}}},
        wrapper: tensors({f"module.{key}": value for key, value in STATE_DICT.items()}),
    }
    assert_same(torch_import.load(write(content)), STATE_DICT)


def test_a_state_dict_nested_twice_is_found(write):
    path = write({"model": {"state_dict": tensors(STATE_DICT), "name": "resnet8"}})
    assert_same(torch_import.load(path), STATE_DICT)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_shared_by_all_keys_are_removed(write, prefix):
    path = write(tensors({prefix + key: value for key, value in STATE_DICT.items()}))
    assert_same(torch_import.load(path), STATE_DICT)


def test_a_prefix_of_some_keys_stays(write):
    mixed = {"module.weight": WEIGHT, "bias": WEIGHT}
    assert_same(torch_import.load(write(tensors(mixed))), mixed)


def test_views_and_types_are_read(write):
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
def test_code_in_a_file_does_not_run(write, tmp_path, wrap):
    assert_rejected(
        write(wrap(Evil(tmp_path / "made"))), r"Python object \w+\.mkdir, which is not loaded"
    )
    assert not (tmp_path / "made").exists()


def test_code_in_a_bare_pickle_does_not_run(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    assert_rejected(path, "mkdir, which is not loaded")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "view", [(9, (4,), (1,)), (0, (3, 4), (5, 1)), (4, (2,), (-1,)), (-1, (2,), (1,))]
)
def test_a_view_beyond_its_storage_is_rejected(write, view):
    assert_rejected(write({"weight": Tensor(Storage(WEIGHT), *view)}), "extends beyond its storage")


def test_a_view_is_no_storage_of_another(write):
    """A window of stride 0 has any size; a window of stride 1 over it would read foreign memory."""
    window = Tensor(Storage(np.zeros(1, np.float32)), 0, (2**18,), (0,))
    assert torch_import.load(write({"weight": window}))["weight"].shape == (2**18,)
    assert_rejected(write({"weight": Tensor(window, 0, (2**18,), (1,))}), "not a view of a storage")
    huge = Tensor(Storage(np.zeros(1, np.float32)), 0, (2**40,), (0,))
    assert_rejected(write({"weight": huge}), "extends beyond its storage")


@pytest.mark.parametrize(
    "view", [(0, (2.0,), (1,)), (0, ("2",), (1,)), (None, (2,), (1,)), (0, (True,), (1,))]
)
def test_sizes_and_strides_are_whole_numbers(write, view):
    assert_rejected(write({"weight": Tensor(Storage(WEIGHT), *view)}), "not a view of a storage")


@pytest.mark.parametrize("size", [(2, 200_000), 2**40, -1, 2.0])
def test_a_storage_is_no_larger_than_the_file(write, size):
    storage = Storage(WEIGHT)
    storage.size = size
    path = write({"weight": Tensor(storage, 0, (2,), (1,))})
    assert_rejected(path, "a storage is larger than the file")


def test_many_storages_are_together_no_larger_than_the_file(write):
    content = {
        f"layer{i}": Tensor(Storage(WEIGHT, size=1000), 0, (3, 4), (4, 1)) for i in range(100)
    }
    assert_rejected(write(content), "a storage is larger than the file")


def test_a_dict_that_holds_itself_is_rejected(write):
    content = {}
    content["state_dict"] = content
    assert_rejected(write(content), "no state dict within 8 dicts")


def test_attributes_of_a_dict_do_not_replace_its_methods(write):
    class WithAttributes:
        def __reduce__(self):
            attributes = {"items": "not a method", "_metadata": {"version": 1}}
            return OrderedDict, (), attributes, None, iter(tensors(STATE_DICT).items())

    assert_same(torch_import.load(write(WithAttributes())), STATE_DICT)


def test_keys_that_are_no_strings_are_not_shown(write):
    assert_rejected(write({("a", "b"): 1, "epoch": 3}), "its keys are epoch and 1 more")


def test_tuples_that_share_their_parts_are_rejected(write):
    """Their hash as a key, and their text, would take exponential time."""
    nested = ()
    for _ in range(20):
        nested = (nested, nested)
    assert_rejected(write({nested: 1}), "it holds more than 1,000,000 values")


def test_many_keys_are_not_all_shown(write):
    path = write({f"key{i}": i for i in range(1000)})
    assert_rejected(path, "key9 and 990 more; it should hold")


def test_a_compressed_archive_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("any/data.pkl", bytes(10**6))
    assert_rejected(tmp_path / "bomb.pth", "compressed archive")


def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert_rejected(tmp_path / "pipe.pth", "not a regular file")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    assert_rejected(tmp_path / "zero.pth", "not a regular file")


def test_an_incomplete_storage_is_rejected(write):
    assert_rejected(write({"weight": Tensor(Storage(WEIGHT, size=13), 0, (13,), (1,))}), "damaged")


def test_big_endian_files_are_rejected(write):
    assert_rejected(write(tensors(STATE_DICT), little_endian=False), "big-endian")


def test_truncated_files_are_rejected(write):
    path = write(tensors(STATE_DICT))
    data = path.read_bytes()
    for length in (0, 1, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert_rejected(path, "cannot read .*file, or a damaged one")


def test_the_head_of_a_zip_is_a_damaged_file_whatever_its_time_of_day(tmp_path):
    """Read as a pickle, `PK...\\n` is a persistent id; the bytes after it are the time."""
    path = tmp_path / "weights.pth"
    path.write_bytes(b"PK\x03\x04\x00\x00\x08\x08\x00\x00\n\x05")
    assert_rejected(path, "or a damaged one")


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
def test_a_file_without_state_dict_is_rejected(write, content, message):
    assert_rejected(write(content), message)


@pytest.mark.parametrize("name", ["file.pth", "file.pth.tar", "file.safetensors"])
@pytest.mark.parametrize("data", [b"", b"not a model" * 99, b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_other_files_are_rejected(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert_rejected(tmp_path / name, "cannot read .* or a damaged one")


def test_other_zip_archives_are_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_rejected(tmp_path / "file.pth", r"without the data\.pkl")


def test_a_missing_file_is_named(tmp_path):
    assert_rejected(tmp_path / "none.pth", "No such file")
    assert_rejected(tmp_path, "not a regular file")


def test_safetensors_are_read(tmp_path):
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


def test_safetensors_of_another_type_are_rejected(tmp_path):
    safetensors.numpy.save_file({"x": np.zeros(2, np.uint16)}, tmp_path / "file.safetensors")
    assert_rejected(tmp_path / "file.safetensors", "x has type U16; allowed are F64, ")


@pytest.mark.parametrize("zipped", [False, True])
def test_files_written_by_pytorch_are_read(tmp_path, zipped):
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
