"""scikit-learn's handwritten digits, which need no download."""

import importlib.util
from pathlib import Path

import numpy as np

from kdjax.data.sources.base import Classes, SourceOptions, Split, resized


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads the 1,797 digits, 8x8x1; every third image of each class is a test image."""
    pixels, labels = _pixels_and_labels()
    grey = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = np.stack([resized(image, options.resize) for image in grey])
    labels = labels.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[2::3]] = True
    train = Split(images[~is_test], labels[~is_test])
    return train, Split(images[is_test], labels[is_test]), [str(i) for i in range(10)]


def _pixels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 16, [1797, 64], and labels, [1797], of scikit-learn's file.

    Importing scikit-learn takes most of a second, and nothing else of it is needed.
    """
    package = importlib.util.find_spec("sklearn")
    assert package
    assert package.origin
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1]
    # The file's place is not documented, and a later version may have another.
    from sklearn import datasets

    return datasets.load_digits(return_X_y=True)
