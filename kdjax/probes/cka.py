"""Similarity of two networks' features: centered kernel alignment (Kornblith et al. 2019)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.types import UserError

KERNELS = ("linear", "rbf")


def cka(a: np.ndarray, b: np.ndarray, kernel: str = "linear", bandwidth: float = 0.5) -> float:
    """Centered kernel alignment (Kornblith et al. 2019, equations 3 and 4).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the kernels of the two networks' features, centred
    over the examples. It does not change if features are rotated, scaled or shifted.

    Args:
      a: [n, ...], the first network's features of n examples, which are flattened.
      b: [n, ...], the second's, of any size.
      kernel: linear, or rbf with a standard deviation of `bandwidth` times the median distance.
      bandwidth: of `rbf`, positive.

    Returns:
      A number in [0, 1]; 0 if the features of a network are the same for all examples.

    Raises:
      UserError: on an unknown kernel.
    """
    if kernel not in KERNELS:
        raise UserError(f"unknown kernel {kernel!r}: choose from {', '.join(KERNELS)}")
    # In float64 and with examples by examples, which are few where features are many.
    k, m = (_centred(_gram(features, kernel, bandwidth)) for features in (a, b))
    norm = np.sqrt(np.sum(k * k) * np.sum(m * m))
    return float(np.sum(k * m) / norm) if norm > 0 else 0.0


def taps_of(taps: Mapping[str, Any]) -> list[str]:
    """The taps to compare, shallow to deep: the stem, all stages after their activation, and the
    embedding.
    """  # fmt: skip
    stages = sorted(
        (name for name in taps if name.startswith("stage") and name[5:].isdigit()),
        key=lambda name: int(name[5:]),
    )
    return [name for name in ("stem", *stages, "pre_logits") if name in taps]


def _gram(features: np.ndarray, kernel: str, bandwidth: float) -> np.ndarray:
    x = np.asarray(features, np.float64).reshape(len(features), -1)
    x = x - x.mean(axis=0)
    products = x @ x.T
    if kernel == "linear":
        return products
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * products, 0)
    median = np.median(distances[~np.eye(len(x), dtype=bool)]) if len(x) > 1 else 0.0
    return (
        np.exp(-distances / (2 * bandwidth**2 * median)) if median > 0 else np.ones_like(products)
    )


def _centred(gram: np.ndarray) -> np.ndarray:
    rows = gram - gram.mean(axis=0)
    centred: np.ndarray = rows - rows.mean(axis=1, keepdims=True)
    return centred
