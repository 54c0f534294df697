"""Networks from npz files: layouts, and files that do not fit or are damaged."""

import io
import zipfile

import flax.linen as nn
import jax
import numpy as np
import pytest
from damage import damaged, damaged_archive, read_or_refused
from hypothesis import given

from kdjax import UserError, npz_import
from kdjax.models import Model
from kdjax.types import Outputs


class Tiny(Model):
    """A mean and a linear layer."""

    npz_layouts = ((("/", "."), ("^", "old.")), (("fc/", "new/"),))

    @nn.compact
    def __call__(self, images, train=False):
        x = images.mean((1, 2))
        return Outputs(self.classifier(x, name="fc"), {"pre_logits": x})


NAME = f"{__name__}:Tiny"
KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = np.arange(4, dtype=np.float32)
OLD = {"old.fc.kernel": KERNEL[None, None], "old.fc.bias": BIAS}


def saved(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


@pytest.fixture
def load(tmp_path):
    def load(content, **attributes):
        path = tmp_path / "weights.npz"
        path.write_bytes(content if isinstance(content, bytes) else saved(content))
        return npz_import.load(path, NAME, in_channels=3, **attributes)

    return load


@pytest.mark.parametrize(
    "content",
    [
        saved(OLD),
        saved(OLD, np.savez_compressed),
        saved({"new/kernel": np.asfortranarray(KERNEL), "new/bias": BIAS[None, None, None]}),
        saved({"params/new/kernel": KERNEL.astype(">f8"), "params/new/bias": BIAS.astype("f2")}),
    ],
)
def test_layouts(load, content):
    variables, num_classes = load(content)
    assert num_classes == 4
    params = variables["params"]["fc"]
    np.testing.assert_array_equal(params["kernel"], KERNEL)
    np.testing.assert_array_equal(params["bias"], BIAS)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert load(content, num_classes=4)[1] == 4


def member(content, header=True):
    """An archive whose kernel has this content behind the header of a [3, 4] array."""
    file = io.BytesIO(saved(OLD))
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    kernel = members["old.fc.kernel.npy"]
    members["old.fc.kernel.npy"] = (kernel[:128] if header else b"") + content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "attributes", "message"),
    [
        (
            {"old.fc.kernel": KERNEL, "x": BIAS, "y": BIAS},
            {},
            "does not fit .*: missing: old.fc.bias; unexpected: x, y",
        ),
        ({"old.fc.bias": BIAS, "z": BIAS}, {"num_classes": 4}, "missing: old.fc.kernel; unexp.*z"),
        (OLD, {"num_classes": 7}, r"bias \[4\] instead of \[7\], .*kernel \[1, 1, 3, 4\] inst"),
        ({"x": BIAS}, {}, "missing: old.fc.bias, old.fc.kernel"),
        ({**OLD, "old.fc.bias": np.arange(4)}, {}, "bias has type int64, and must have float"),
        ({**OLD, "old.fc.bias": np.array([None] * 4)}, {}, "bias has type object"),
        (b"not an archive", {}, "as npz: File is not a zip file"),
        (saved(OLD)[:300], {}, "as npz"),
        (member(b"\0" * 47), {}, "kernel does not have the 48 bytes that its header says"),
        (member(b"\0" * 49), {}, "kernel does not have the 48 bytes that its header says"),
        (member(b"\x93NUMPY\x03\0", header=False), {}, r"version \(3, 0\)"),
        (member(b"x" * 50, header=False), {}, "as npz"),
    ],
)
def test_files_that_do_not_fit_are_one_line(load, content, attributes, message):
    with pytest.raises(UserError, match=message) as raised:
        load(content, **attributes)
    assert "\n" not in str(raised.value)


def test_a_file_that_claims_to_be_large_is_not_read(load):
    header = np.lib.format.header_data_from_array_1_0(KERNEL) | {"shape": (10**9, 10**9)}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match=r"kernel \[1000000000, 1000000000\] instead of \[3, 4\]"):
        load(member(file.getvalue(), header=False))


def test_networks_that_were_not_published_in_this_form(tmp_path):
    with pytest.raises(UserError, match=r"is an .npz file, and resnet20 was not published as one"):
        npz_import.load(tmp_path / "x.npz", "resnet20", num_classes=10)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is not a regular file"):
        npz_import.load(tmp_path, NAME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("npz")


CONTENT = saved(OLD)


@given(content=damaged_archive(CONTENT) | damaged(CONTENT))
def test_damaged_files(folder, content):
    path = folder / "weights.npz"
    path.write_bytes(content)
    found = read_or_refused(npz_import.load, path, NAME)
    if not isinstance(found, str):
        (variables, num_classes) = found
        assert variables["params"]["fc"]["kernel"].shape == (3, num_classes)
