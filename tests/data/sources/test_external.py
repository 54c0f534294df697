"""Readers of the user's own, named by reference."""

import importlib

import numpy as np
import pytest

from kdjax.data import sources
from kdjax.data.sources import Lazy, SourceOptions, Split
from kdjax.types import UserError

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
Y = np.array([0, 1, -1, 1, 0, 2])
TEST = Split(X[:2], Y[:2])

SOURCE = """
import numpy as np
from kdjax.data import sources

def from_arrays(argument, options):
    x, y = np.zeros((6, 4, 5), np.uint8), np.arange(6) % 3
    return sources.from_arrays(x, y, x[:2], y[:2], options)

def given(argument, options):
    return result(argument, options)

not_callable = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of an importable module with readers."""
    name = f"readers_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def returning(module):
    """`returning(result)` names a reader that returns, or calls, `result`."""

    def name(result):
        imported = importlib.import_module(module)
        imported.result = result if callable(result) else lambda *_: result
        return f"{module}:given"

    return name


@pytest.mark.parametrize("resize", [0, 3])
def test_a_reader_of_arrays_is_three_lines(module, resize):
    data = sources.load(f"{module}:from_arrays", resize=resize)
    assert data.num_classes == 3
    assert data.train.images.shape == ((6, 3, 3, 1) if resize else (6, 4, 5, 1))
    np.testing.assert_array_equal(data.test.labels, [0, 1])


def test_a_reader_is_called_with_the_options(returning):
    calls = []

    def reader(argument, options):
        calls.append((argument, options))
        return Split(X, Y), TEST, 3

    data = sources.load(
        returning(reader), dir="d", train_split="a", test_split="b", memory=2, validation=0.5
    )
    assert calls == [("", SourceOptions("d", "a", "b", 0, 2))]
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 3, 2)


def test_a_reader_can_decode_on_demand(returning):
    images = Lazy(6, lambda positions: [X[i] for i in positions])
    data = sources.load(returning((Split(images, Y), TEST, 3)))
    assert isinstance(data.train.images, Lazy)
    np.testing.assert_array_equal(data.train.images[np.arange(6)], X)


def test_built_in_kinds_take_precedence_over_modules(assert_error, tmp_path, monkeypatch):
    (tmp_path / "npz.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert_error("npz:from_arrays", "no such file: 'from_arrays'")


GREY = Split(X[..., :1], Y)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            None,
            r"returned a NoneType; it must return \(train split, test split, number of classes or their names\)",
        ),
        ((TEST, TEST), "returned a tuple of 2"),
        (((X, Y), TEST, 3), "the train split is a tuple of 2; it must be a Split"),
        ((TEST, X, 3), "the test split is uint8 .*; it must be a Split"),
        (
            (Split(X / 255, Y), TEST, 3),
            r"images of the train split are float64 \(6, 5, 4, 3\); they",
        ),
        (
            (Split(X[0], Y), TEST, 3),
            r"images of the train split are uint8 \(5, 4, 3\); they must be",
        ),
        ((Split(list(X), Y), TEST, 3), "images of the train split are a list"),
        (
            (Split(Lazy(6, lambda p: [X[0] / 255 for _ in p]), Y), TEST, 3),
            "train split are float64",
        ),
        (
            (Split(X, Y[:5]), TEST, 3),
            r"labels of the train split are int64 \(5,\); .* integers \[6\]",
        ),
        ((Split(X, Y / 2), TEST, 3), "labels of the train split are float64"),
        ((Split(X, list(Y)), TEST, 3), "labels of the train split are a list"),
        ((TEST, Split(X, Y), 2), r"labels of the test split are in \[-1, 2\]; .* in \[-1, 2\)"),
        ((Split(X, Y - 1), TEST, 3), r"labels of the train split are in \[-2, 1\]"),
        ((TEST, TEST, 0), "the number of classes is 0; it must be a positive integer"),
        ((TEST, TEST, 3.0), r"the number of classes is 3\.0"),
        ((TEST, TEST, True), "the number of classes is True"),
        ((TEST, GREY, 3), r"training images are \(5, 4, 3\), test images \(5, 4, 1\)"),
        ((Split(X[:0], Y[:0]), TEST, 3), "has no training images"),
        (lambda *_: 1 / 0, "cannot be read: ZeroDivisionError: division by zero"),
        (lambda: None, "cannot be read: TypeError: .*takes 0 positional arguments"),
    ],
)
def test_a_reader_that_breaks_the_contract_is_named(assert_error, returning, result, message):
    name = returning(result)
    assert_error(name, f"data set '{name}'.*{message}")


def test_a_reader_that_ignores_resize_is_named(assert_error, returning):
    name = returning((TEST, TEST, 3))
    assert_error(name, "images of the train split are 5x4 although resize is 3", resize=3)


def test_a_reference_to_no_reader_is_named(assert_error, module):
    assert_error(f"{module}:absent", "data set '.*:absent': module '.*' has no 'absent'")
    assert_error(f"{module}:not_callable", "is not a reader but of type int")
    assert_error("absent_module:reader", "cannot import 'absent_module' for data set")


def test_a_reader_can_name_the_classes(returning):
    data = sources.load(returning((Split(X, Y), TEST, ["cat", "dog", "horse"])))
    assert (data.class_names, data.num_classes) == (("cat", "dog", "horse"), 3)


@pytest.mark.parametrize("names", [["cat", "cat", "dog"], ["cat", "dog", 3]])
def test_names_of_classes_are_strings_that_differ(returning, names):
    with pytest.raises(UserError, match="names of the classes"):
        sources.load(returning((Split(X, Y), TEST, names)))
