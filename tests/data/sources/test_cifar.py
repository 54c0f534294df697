"""The Python version of CIFAR, made small."""

import pickle

import numpy as np
import pytest

from kdjax.data import sources
from kdjax.types import UserError


def batch(n, classes, seed, key="labels"):
    rng = np.random.default_rng(seed)
    labels = [(i % classes) for i in range(n)]
    return {"data": rng.integers(0, 256, (n, 3072)).astype(np.uint8), key: labels}


def write(path, content, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.fixture
def cifar10(tmp_path):
    for i in range(1, 6):
        write(tmp_path / "cifar-10-batches-py" / f"data_batch_{i}", batch(20, 10, i))
    write(tmp_path / "cifar-10-batches-py" / "test_batch", batch(10, 10, 0))
    return tmp_path


@pytest.mark.parametrize("inside", [True, False])
def test_batches_follow_each_other_and_colours_come_last(cifar10, inside):
    folder = cifar10 / "cifar-10-batches-py" if inside else cifar10
    data = sources.load(f"cifar:{folder}")
    assert (len(data.train), len(data.test), data.num_classes) == (100, 10, 10)
    third = batch(20, 10, 3)
    image = data.train.images[40 + 7]
    np.testing.assert_array_equal(image[..., 1].ravel(), third["data"][7, 1024:2048])
    np.testing.assert_array_equal(data.train.labels[40:60], third["labels"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar100_has_its_fine_labels(tmp_path, protocol):
    write(tmp_path / "train", batch(200, 100, 0, "fine_labels"), protocol)
    write(tmp_path / "test", batch(100, 100, 1, "fine_labels"), protocol)
    data = sources.load(f"cifar:{tmp_path}", resize=16)
    assert (data.num_classes, data.train.images.shape) == (100, (200, 16, 16, 3))


def test_a_pickle_cannot_run_code(cifar10, capsys):
    class Printer:
        def __reduce__(self):
            return print, ("run",)

    write(cifar10 / "cifar-10-batches-py" / "test_batch", {"data": Printer(), "labels": []})
    with pytest.raises(UserError, match=r"test_batch': it holds the Python object \S*print"):
        sources.load(f"cifar:{cifar10}")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"not a pickle",
        b"",
        pickle.dumps({"labels": [0]}),
        pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.float32), "labels": [0]}, protocol=2),
        pickle.dumps([1, 2]),
    ],
)
def test_damaged_files_are_one_line(cifar10, content):
    (cifar10 / "cifar-10-batches-py" / "data_batch_4").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read '.*data_batch_4'") as error:
        sources.load(f"cifar:{cifar10}")
    assert "\n" not in str(error.value)


def test_a_folder_without_it_says_what_is_needed(tmp_path):
    with pytest.raises(UserError, match="neither data_batch_1 to data_batch_5"):
        sources.load(f"cifar:{tmp_path}")


def test_classes_have_the_names_of_the_meta_file(cifar10):
    assert sources.load(f"cifar:{cifar10}").class_names == ()
    names = [f"class {i}" for i in range(10)]
    meta = {"label_names": names, "num_cases_per_batch": 20}
    write(cifar10 / "cifar-10-batches-py" / "batches.meta", meta)
    data = sources.load(f"cifar:{cifar10}")
    assert (data.class_names, data.num_classes) == (tuple(names), 10)
