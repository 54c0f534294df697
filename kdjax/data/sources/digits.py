"""scikit-learn's handwritten digits, which need no download."""

import numpy as np

from kdjax.data.sources.base import Classes, SourceOptions, Split, resized


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads the 1,797 digits, 8x8x1; every third image of each class is a test image."""
    from sklearn import datasets

    digits = datasets.load_digits()
    grey = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    images = np.stack([resized(image, options.resize) for image in grey])
    labels = digits.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[2::3]] = True
    train = Split(images[~is_test], labels[~is_test])
    return train, Split(images[is_test], labels[is_test]), [str(i) for i in range(10)]
