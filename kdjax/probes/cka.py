"""Similarity of two networks' features: centered kernel alignment (Kornblith et al. 2019)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.distillers.taps import stages
from kdjax.types import UserError

KERNELS = ("linear", "rbf")
# The standard deviation of `rbf`, as a fraction of the median distance.
_BANDWIDTH = 0.5


def cka(a: np.ndarray, b: np.ndarray, kernel: str = "linear") -> float:
    """Centered kernel alignment (Kornblith et al. 2019, equations 3 and 4).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the kernels of the two networks' features, centred
    over the examples. It does not change if features are rotated, scaled or shifted.

    Args:
      a: [n, ...], the first network's features of n examples, which are flattened.
      b: [n, ...], the second's, of any size.
      kernel: linear, or rbf with a standard deviation of half the median distance.

    Returns:
      A number in [0, 1]; 0 if the features of a network are the same for all examples.

    Raises:
      UserError: on an unknown kernel.
    """
    if kernel not in KERNELS:
        raise UserError(f"unknown kernel {kernel!r}: choose from {', '.join(KERNELS)}")
    # In float64 and with examples by examples, which are few where features are many.
    k, m = (_centred(_gram(features, kernel)) for features in (a, b))
    norm = np.sqrt(np.sum(k * k) * np.sum(m * m))
    return float(np.sum(k * m) / norm) if norm > 0 else 0.0


def taps_of(taps: Mapping[str, Any]) -> list[str]:
    """The taps to compare, shallow to deep: stem, stages after their activation, and embedding."""
    return [name for name in ("stem", *stages(taps), "pre_logits") if name in taps]


def _gram(features: np.ndarray, kernel: str) -> np.ndarray:
    x = np.asarray(features, np.float64).reshape(len(features), -1)
    x = x - x.mean(axis=0)
    products = x @ x.T
    if kernel == "linear":
        return products
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * products, 0)
    median = np.median(distances[~np.eye(len(x), dtype=bool)]) if len(x) > 1 else 0.0
    return (
        np.exp(-distances / (2 * _BANDWIDTH**2 * median)) if median > 0 else np.ones_like(products)
    )


def _centred(gram: np.ndarray) -> np.ndarray:
    rows = gram - gram.mean(axis=0)
    centred: np.ndarray = rows - rows.mean(axis=1, keepdims=True)
    return centred
