"""Inception crops of whole images at their full resolution, made on the host.

Images of different sizes do not fit into one array, so they are decoded one after another,
and a batch is made of their crops: the pixels of a crop are the original's, where a crop of
a resized image has fewer (Beyer et al. 2022; big_vision, pp/ops_image.py: `decode`, then
`inception_crop`). A crop is a function of (seed, step, index in the batch).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdjax.data.batches import Batch
from kdjax.data.sources import Lazy, Split, resized

_ATTEMPTS = 10
# Images that are in memory at the same time while a batch is made.
_DECODED = 16
# Left, top, right, bottom, in pixels.
Box = tuple[float, float, float, float]


def draw(*seed: int) -> np.ndarray:
    """The random numbers of one crop, uniform in [0, 1): float64 [22]."""
    return np.random.default_rng(seed).random(2 * _ATTEMPTS + 2)


def inception_box(uniform: np.ndarray, h: int, w: int, scale: tuple[float, float]) -> Box:
    """The part of an image of h x w pixels that `kdjax.data.augment.inception_crop` describes.

    Args:
      uniform: from `draw`.
      h: height of the image, in pixels.
      w: its width.
      scale: range of the part's area as a fraction of the image's.
    """
    fraction = scale[0] + (scale[1] - scale[0]) * uniform[:_ATTEMPTS]
    ratio = (4 / 3) ** (2 * uniform[_ATTEMPTS : 2 * _ATTEMPTS] - 1)
    widths, heights = np.sqrt(fraction * h * w * ratio), np.sqrt(fraction * h * w / ratio)
    fits = np.flatnonzero((widths <= w) & (heights <= h))
    if len(fits):
        height, width = float(heights[fits[0]]), float(widths[fits[0]])
        y, x = uniform[-2] * (h - height), uniform[-1] * (w - width)
    else:
        height = width = float(min(h, w))
        y, x = (h - height) / 2, (w - width) / 2
    return float(x), float(y), float(x + width), float(y + height)


def crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Resizes a part of an image, bilinear without anti-aliasing, as in Beyer et al. 2022.

    Args:
      image: uint8 [h, w, c] with 1 or 3 channels.
      box: the part, inside the image.
      size: side of the result, in pixels.

    Returns:
      uint8 [size, size, c]; fractions are cut off, as they are in the authors' code.
    """
    c = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if c == 1 else image)
    extent, bilinear = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.asarray(picture.transform((size, size), extent, box, bilinear)).reshape(size, size, c)


def squares_side(split: Split, image_size: int, resolution: int) -> int:
    """Side of the resized images for networks of another resolution, in pixels.

    Their central squares of `resolution` pixels show what those of `image_size` pixels show of
    the split's resized images. big_vision evaluates teachers of another resolution in this way
    (configs/proj/flexivit/i1k_deit3_distill.py), there on 384 of 432 pixels, here of 439 where
    students see 224 of 256.
    """
    return round(split.images.shape[1] * resolution / image_size)


def squares(split: Split, side: int) -> Split:
    """The split whose images are resized from the whole ones to another side, on demand."""
    whole = split.whole
    assert whole is not None
    n, read = len(split), lambda positions: [resized(x, side) for x in whole.read(positions)]
    return Split(Lazy(n, read), split.labels)


class Crops(NamedTuple):
    """Which crops of whole images a batch consists of.

    Attributes:
      scale: range of a crop's area as a fraction of the image's.
      size: side of the student's crops, in pixels.
      teacher_view: as for `kdjax.data.views.make_views`.
      teacher_size: side of the teacher's crops; 0 is `size`.
    """

    scale: tuple[float, float]
    size: int
    teacher_view: str = "consistent"
    teacher_size: int = 0

    def add_in_memory(self, split: Split, batch: Batch[np.ndarray]) -> Batch[np.ndarray]:
        """Adds what a batch takes from memory: the resized images, if the teacher sees them."""
        if self._shows_images(split):
            batch["teacher"] = split.images[batch["index"]]
        return batch

    def read_whole(
        self, split: Split, positions: np.ndarray, seed: int, step: int, first: int = 0
    ) -> Batch[np.ndarray]:
        """One batch of a split that has whole images, or some of its rows.

        All but what `add_in_memory` adds: of images in memory it looks at nothing but the shape.

        Args:
          split: the examples.
          positions: of the examples of these rows, int32 [b].
          seed: of the order of the data.
          step: which batch.
          first: index of the first of these rows in the batch.

        Returns:
          The rows. `images` are the student's crops. `teacher` is there if the teacher does not
          see the same: crops of other parts (`independent`), the same parts at its own
          resolution, or the resized images (`fixed`, `squares`).
        """
        assert split.whole is not None
        fixed, independent = (self.teacher_view == name for name in ("fixed", "independent"))
        teacher_size = self.teacher_size or self.size
        as_they_are = self._shows_images(split)
        crops: list[np.ndarray] = []
        teacher: list[np.ndarray] = []
        for start in range(0, len(positions), _DECODED):
            images = split.whole.read(positions[start : start + _DECODED])
            for i, image in enumerate(images, first + start):
                box = self._box(image, seed, step, i, 0)
                crops.append(crop(image, box, self.size))
                if independent:
                    box = self._box(image, seed, step, i, 1)
                if fixed and not as_they_are:
                    teacher.append(resized(image, squares_side(split, self.size, teacher_size)))
                elif independent or teacher_size != self.size:
                    teacher.append(crop(image, box, teacher_size))
        batch: Batch[np.ndarray] = {"index": positions, "images": np.stack(crops)}
        if teacher:
            batch["teacher"] = np.stack(teacher)
        return batch

    def numbered(
        self, images: Sequence[np.ndarray], positions: np.ndarray, number: int
    ) -> np.ndarray:
        """The `number`-th of each image's numbered crops, of the teacher's size.

        Args:
          images: uint8 [h, w, c] each.
          positions: of these images in the split, [b]; the crops depend on nothing else.
          number: from 0.

        Returns:
          uint8 [b, t, t, c].
        """
        size = self.teacher_size or self.size
        boxes = (self._box(x, int(i), number) for x, i in zip(images, positions, strict=True))
        return np.stack([crop(x, box, size) for x, box in zip(images, boxes, strict=True)])

    def _shows_images(self, split: Split) -> bool:
        """Whether the teacher sees the split's resized images, and they are in memory."""
        same_size = self.teacher_size in (0, self.size)
        in_memory = isinstance(split.images, np.ndarray)
        return self.teacher_view == "fixed" and same_size and in_memory

    def _box(self, image: np.ndarray, *seed: int) -> Box:
        h, w = image.shape[:2]
        return inception_box(draw(*seed), h, w, self.scale)
