"""Planes through three images, on which two networks' decisions are compared.

As in somepago/dbViz (Somepalli et al. 2022), whose measure Ojha et al. 2023 use
(Table 1).
"""

from typing import NamedTuple

import numpy as np

# Beyond the images on all sides, as a fraction of their extent.
_MARGIN = 0.1


class Plane(NamedTuple):
    """A plane of images with a grid of points.

    Attributes:
      origin: [h, w, c], the first image.
      axes: [2, h, w, c], orthonormal; the first leads to the second image.
      corners: [3, 2], the coordinates of the three images.
      grid: [2, size], the coordinates of the grid's points along each axis.
    """

    origin: np.ndarray
    axes: np.ndarray
    corners: np.ndarray
    grid: np.ndarray

    def images(self, coordinates: np.ndarray) -> np.ndarray:
        """float32 [m, h, w, c] at the given coordinates [m, 2]."""
        moved = np.tensordot(coordinates, self.axes, 1)
        return (self.origin + moved).astype(np.float32)

    def points(self) -> np.ndarray:
        """Coordinates [size^2, 2] of all points of the grid."""
        x, y = np.meshgrid(*self.grid, indexing="ij")
        return np.stack([x.ravel(), y.ravel()], axis=-1)


def plane_through(images: np.ndarray, size: int = 50) -> Plane:
    """The plane through three images.

    The grid reaches from the smallest to the largest coordinate of the three images, and by a
    tenth of that extent beyond on both sides. Its pixels are not clipped.

    Args:
      images: [3, h, w, c].
      size: points of the grid along each axis, at least 2.
    """
    origin, to_first, to_second = np.asarray(images, np.float64)
    to_first, to_second = to_first - origin, to_second - origin
    a = _normalized(to_first)
    b = _normalized(to_second - np.sum(to_second * a) * a)
    axes = np.stack([a, b])
    corners = np.array(
        [[np.sum(vector * axis) for axis in axes] for vector in (0 * origin, to_first, to_second)]
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = _MARGIN * (high - low)
    return Plane(origin, axes, corners, np.linspace(low - margin, high + margin, size, axis=1))


def _normalized(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    # Images on one line span no plane: all points lie on it.
    return vector / length if length > 1e-9 else np.zeros_like(vector)
