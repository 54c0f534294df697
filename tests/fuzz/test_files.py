"""Damaged and made-up data files: read as what they can be, or refused with one line."""

import io
import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy
from damage import (
    EXTREMES,
    damaged,
    damaged_archive,
    damaged_json,
    damaged_png,
    read_or_refused,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch_files import archive, tensors, written

from kdjax import torch_import
from kdjax.data import sources
from kdjax.data.sources.base import read_image

RNG = np.random.default_rng(0)
STATE_DICT = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.ones(3, np.float32)}
GREY = RNG.integers(256, size=(5, 7), dtype=np.uint8)
COLOUR = RNG.integers(256, size=(5, 7, 3), dtype=np.uint8)


def is_state_dict(found):
    return all(isinstance(key, str) for key in found) and all(
        isinstance(value, np.ndarray) and value.nbytes < 2**30 for value in found.values()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def load_weights(folder, content, suffix):
    path = folder / f"weights{suffix}"
    path.write_bytes(content)
    found = read_or_refused(torch_import.load, path)
    assert isinstance(found, str) or is_state_dict(found)


ZIP, LEGACY = (written(tensors(STATE_DICT), layout) for layout in ("zip", "legacy"))


@given(content=damaged_archive(ZIP) | damaged(ZIP))
def test_torch_archives(folder, content):
    load_weights(folder, content, ".pth")


@given(content=damaged(LEGACY))
def test_legacy_torch_files(folder, content):
    load_weights(folder, content, ".pth")


# What the pickles of state dicts are made of, and a few things more.
NAMES = (
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch Size", "torch device",
    "torch._utils _rebuild_parameter", "torch FloatStorage", "torch LongStorage",
    "argparse Namespace", "numpy dtype", "_codecs encode", "os system", "builtins getattr",
)  # fmt: skip
WORDS = ("storage", "fc.weight", "state_dict", "model", "0", "1", "cpu", "items", "__class__")


@st.composite
def opcode(draw):
    kind = draw(st.sampled_from(("plain", "name", "word", "number", "memo", "long")))
    if kind == "plain":
        return draw(
            st.sampled_from(
                [bytes([c]) for c in b"()]}tlduasebRQN120\x85\x86\x87\x88\x89\x94\x81\x90\x8f"]
            )
        )
    if kind == "name":
        return b"c" + draw(st.sampled_from(NAMES)).replace(" ", "\n").encode() + b"\n"
    if kind == "word":
        word = draw(st.sampled_from(WORDS)).encode()
        return b"X" + struct.pack("<I", len(word)) + word
    if kind == "number":
        return b"J" + struct.pack("<i", draw(st.sampled_from((-1, 0, 1, 3, 4, 12, 2**31 - 1))))
    if kind == "memo":
        return draw(st.sampled_from((b"q", b"h"))) + bytes([draw(st.integers(0, 5))])
    value = draw(st.sampled_from(EXTREMES)).to_bytes(9, "little")
    return b"\x8a\x09" + value


@given(opcodes=st.lists(opcode(), max_size=60))
def test_made_up_pickles(folder, opcodes):
    load_weights(folder, archive(b"\x80\x02" + b"".join(opcodes) + b"."), ".pth")


SAFETENSORS = safetensors.numpy.save(STATE_DICT)
HEADER = json.loads(SAFETENSORS[8 : 8 + int.from_bytes(SAFETENSORS[:8], "little")])


@st.composite
def safetensors_of_damaged_header(draw):
    header = draw(damaged_json(json.dumps(HEADER).encode()))
    return struct.pack("<Q", len(header)) + header + bytes(60)


@given(content=damaged(SAFETENSORS) | safetensors_of_damaged_header())
def test_safetensors(folder, content):
    load_weights(folder, content, ".safetensors")


def npz(**changes):
    arrays = {
        "train_images": RNG.integers(256, size=(6, 4, 4, 1), dtype=np.uint8),
        "train_labels": np.arange(6) % 3,
        "test_images": RNG.integers(256, size=(3, 4, 4, 1), dtype=np.uint8),
        "test_labels": np.arange(3),
    }
    file = io.BytesIO()
    np.savez(file, **(arrays | changes))
    return file.getvalue()


NPZ = npz(class_names=np.array(["a", "b", "c"]))
DTYPES = ("u1", "i1", "i8", "u8", "f4", "f8", "?", "c8", "U3", "M8[s]", "O", "i4,f4")


@st.composite
def npz_of_other_arrays(draw):
    """An npz whose arrays are of any type and shape."""
    key = draw(
        st.sampled_from(
            ("train_images", "train_labels", "test_images", "test_labels", "class_names")
        )
    )
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
    if array.dtype.kind in "iuf" and array.size:
        array.flat[0] = draw(st.sampled_from((0, 1, 100)))
    return npz(**{key: array})


def is_data(found):
    for split in found.splits().values():
        images = np.asarray(split.images[np.arange(len(split))])
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert split.labels.dtype == np.int32
        assert len(split.labels) == len(images)
        assert (split.labels >= -1).all()
        assert (split.labels < found.num_classes).all()
    return True


@given(content=damaged_archive(NPZ) | damaged(NPZ) | npz_of_other_arrays())
def test_npz(folder, content):
    path = folder / "data.npz"
    path.write_bytes(content)
    found = read_or_refused(sources.load, f"npz:{path}")
    assert isinstance(found, str) or is_data(found)


BATCH = pickle.dumps(
    {"data": RNG.integers(256, size=(4, 3072), dtype=np.uint8), "fine_labels": [0, 1, 2, 0]}, 2
)
META = pickle.dumps({"fine_label_names": ["a", "b", "c"]}, 2)


@given(batch=st.just(BATCH) | damaged(BATCH), meta=st.just(META) | damaged(META))
def test_cifar(folder, batch, meta):
    for name, content in (("train", batch), ("test", BATCH), ("meta", meta)):
        (folder / name).write_bytes(content)
    found = read_or_refused(sources.load, f"cifar:{folder}")
    assert isinstance(found, str) or is_data(found)


@given(opcodes=st.lists(opcode(), max_size=60))
def test_made_up_cifar(folder, opcodes):
    (folder / "train").write_bytes(b"\x80\x02" + b"".join(opcodes) + b".")
    (folder / "test").write_bytes(BATCH)
    (folder / "meta").unlink(missing_ok=True)
    found = read_or_refused(sources.load, f"cifar:{folder}")
    assert isinstance(found, str) or is_data(found)


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


PNG = encoded(COLOUR, "png")
PICTURES = [
    *(encoded(COLOUR, kind) for kind in ("png", "jpeg", "webp", "bmp", "gif", "tiff", "ppm")),
    encoded(GREY.astype(np.uint16) * 257, "png"),
    encoded(GREY, "gif"),
]


@given(
    content=st.sampled_from(PICTURES).flatmap(damaged) | damaged_png(PNG),
    channels=st.sampled_from((0, 1, 3)),
)
def test_images(folder, content, channels):
    path = folder / "image.png"
    path.write_bytes(content)
    found = read_or_refused(read_image, path, channels)
    if not isinstance(found, str):
        assert found.dtype == np.uint8
        assert found.shape[-1] in ((channels,) if channels else (1, 3))
