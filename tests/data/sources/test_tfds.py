"""Data sets of TensorFlow Datasets, without TensorFlow."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from kdjax.data import sources
from kdjax.data.sources import Lazy


def _every(split):
    return split.images[np.arange(len(split))]


TINY = {"train": 6, "test": 3}


def _tiny_image(split, i, side=4):
    return np.random.default_rng([len(split), i]).integers(0, 256, (side, side, 3)).astype(np.uint8)


def _write_tfds(root, keys=("image", "label"), supervised=True, sizes=(4,)):
    """Writes ArrayRecords of tf.Examples as TFDS prepares them, without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    image_key, label_key = keys
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    for split, n in TINY.items():
        writer = ArrayRecordWriter(
            str(folder / f"tiny-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for i in range(n):
            png = io.BytesIO()
            Image.fromarray(_tiny_image(split, i, sizes[i % len(sizes)])).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature[image_key].bytes_list.value.append(png.getvalue())
            example.features.feature[label_key].int64_list.value.append(i % 3)
            writer.write(example.SerializeToString())
        writer.close()
    side = str(sizes[0]) if len(sizes) == 1 else "-1"
    package = "tensorflow_datasets.core.features"
    features = {
        image_key: {
            "pythonClassName": f"{package}.image_feature.Image",
            "image": {
                "dtype": "uint8",
                "encodingFormat": "png",
                "shape": {"dimensions": [side, side, "3"]},
            },
        },
        label_key: {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "3"},
        },
    }
    info = {
        "name": "tiny",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "moduleName": "__main__",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1000",
                "shardLengths": [str(n)],
            }
            for split, n in TINY.items()
        ],
    }
    if supervised:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in keys]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": f"{package}.features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    return root


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize(
    ("keys", "supervised"), [(("image", "label"), False), (("picture", "kind"), True)]
)
def test_tfds_reads_prepared_data_without_tensorflow(tmp_path, keys, supervised, memory):
    root = _write_tfds(tmp_path / "data", keys, supervised)
    data = sources.load("tfds:tiny", dir=str(root), memory=memory)
    assert (data.num_classes, data.class_names) == (3, ("0", "1", "2"))
    for name, n in TINY.items():
        split = data.splits()[name]
        assert isinstance(split.images, Lazy) == (memory == 0)
        np.testing.assert_array_equal(_every(split), [_tiny_image(name, i) for i in range(n)])
        np.testing.assert_array_equal(split.labels, np.arange(n) % 3)
        assert split.labels.dtype == np.int32


def test_tfds_splits_can_be_slices(tmp_path):
    root = _write_tfds(tmp_path / "data")
    data = sources.load(
        "tfds:tiny", dir=str(root), train_split="train[:50%]", test_split="train[50%:]"
    )
    np.testing.assert_array_equal(data.train.images, [_tiny_image("train", i) for i in range(3)])
    np.testing.assert_array_equal(data.test.images, [_tiny_image("train", i) for i in range(3, 6)])


def test_tfds_images_of_several_sizes_need_resize(assert_error, tmp_path):
    root = _write_tfds(tmp_path / "data", sizes=(4, 6))
    assert_error("tfds:tiny", "images of several sizes: set resize", dir=str(root))
    data = sources.load("tfds:tiny", dir=str(root), resize=4)
    np.testing.assert_array_equal(data.train.images[0], _tiny_image("train", 0))
    assert data.train.images.shape == (6, 4, 4, 3)


@pytest.mark.parametrize("memory", [0, 4])
def test_tfds_images_stay_whole_beside_the_resized_ones(tmp_path, memory):
    root = _write_tfds(tmp_path / "data", sizes=(4, 6))
    load = {"dir": str(root), "resize": 4, "memory": memory}
    data = sources.load("tfds:tiny", whole=True, **load)
    for name, n in TINY.items():
        expected = [_tiny_image(name, i, (4, 6)[i % 2]) for i in range(n)]
        for actual, original in zip(
            data.splits()[name].whole.read(range(n)), expected, strict=True
        ):
            np.testing.assert_array_equal(actual, original)
        assert _every(data.splits()[name]).shape == (n, 4, 4, 3)
    assert sources.load("tfds:tiny", **load).train.whole is None


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize("where", ["cut", "flipped"])
def test_damaged_tfds_data_is_one_line(assert_error, tmp_path, memory, where):
    root = _write_tfds(tmp_path / "data")
    file = root / "tiny/1.0.0/tiny-train.array_record-00000-of-00001"
    content = bytearray(file.read_bytes())
    if where == "flipped":
        content[content.index(b"IDAT")] ^= 1
    file.write_bytes(content[:-1] if where == "cut" else content)
    assert_error("tfds:tiny", "cannot read 'tfds:tiny' in .*Riegeli", dir=str(root), memory=memory)


def test_an_unknown_tfds_split_is_named_with_the_allowed_ones(assert_error, tmp_path):
    root = _write_tfds(tmp_path / "data")
    assert_error(
        "tfds:tiny", "no split 'val'.*choose from .*train", dir=str(root), train_split="val"
    )


def test_an_empty_tfds_split_is_named(assert_error, tmp_path):
    root = _write_tfds(tmp_path / "data")
    assert_error("tfds:tiny", r"no split 'train\[:0\]'", dir=str(root), train_split="train[:0]")


def test_tfds_data_without_image_and_label_names_its_features(assert_error, tmp_path):
    root = _write_tfds(tmp_path / "data", ("picture", "kind"), supervised=False)
    assert_error("tfds:tiny", r"no image and label: its features are \['.*'\]", dir=str(root))


def test_an_unknown_tfds_name_is_named(assert_error, tmp_path):
    assert_error("tfds:no_such_data_set", "unknown data set 'tfds:no_such", dir=str(tmp_path))


def test_a_missing_tfds_folder_is_named(assert_error, tmp_path):
    assert_error("tfds:mnist", r"no such folder: dir is .*none'", dir=f"{tmp_path}/none")


def test_tfds_data_that_is_not_prepared_needs_tensorflow(assert_error, tmp_path, monkeypatch):
    monkeypatch.setattr(sources.tfds.importlib.util, "find_spec", lambda name: None)
    assert_error(
        "tfds:mnist", r"'tfds:mnist' is not prepared in .*kdjax\[prepare\]", dir=str(tmp_path)
    )


@pytest.mark.parametrize("form", ["pythonClassName", "python_class_name", "type", "jsonFeature"])
def test_features_of_prepared_data_are_those_of_the_library(
    assert_error, tmp_path, monkeypatch, form
):
    """The library imports the module of any class that is named, in whatever form."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"planted_{form}.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"
    )
    root = _write_tfds(tmp_path / "data")
    file = root / "tiny/1.0.0/features.json"
    content = json.loads(file.read_text())
    legacy = {"type": f"planted_{form}.Feature", "content": {}}
    match form:
        case "type":
            content = legacy
        case "jsonFeature":
            content = {
                "pythonClassName": content["pythonClassName"],
                form: {"json": json.dumps({"label": legacy})},
            }
        case _:
            content["featuresDict"]["features"]["label"] = {form: f"planted_{form}.Feature"}
    file.write_text(json.dumps(content))
    message = f"names the class 'planted_{form}.Feature', which is code"
    assert_error("tfds:tiny", message, dir=str(root))
    assert not (tmp_path / "imported").exists()
