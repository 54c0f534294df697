"""Images of noise of any size, for trying what real images take too long for, or are not there."""

from collections.abc import Sequence

import numpy as np

from kdjax.data.sources.base import (
    Classes,
    OnDemand,
    SourceOptions,
    Split,
    in_memory_or_lazy,
    resized,
)
from kdjax.types import UserError

_DEFAULTS = {"n": 64, "side": 32, "channels": 3, "classes": 10}
# Of an image's longer side, by its number: whole images have different shapes.
_RATIOS = (1.0, 1.25, 1.5)


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Makes images of uniform noise, each a function of its split and number.

    Labels go round the classes. Images have sides of `side` pixels or, if whole ones are asked for
    (`options.whole`), a longer one of up to half as much again, upright and lying in turn.

    Args:
      argument: `KEY=NUMBER,...` of n (64; images of a split), side (32; in pixels), channels (3)
        and classes (10).
      options: of which `resize`, `memory` and `whole` are used.

    Raises:
      UserError: on an unknown key, or a value that is no positive integer.
    """
    given = dict(_DEFAULTS)
    for item in filter(None, argument.split(",")):
        key, _, value = item.partition("=")
        if key not in given or not value.isdecimal() or not int(value):
            raise UserError(
                f"generated images have no {item!r}: give positive integers of "
                f"{', '.join(f'{k}={v}' for k, v in _DEFAULTS.items())}"
            )
        given[key] = int(value)
    if given["channels"] not in (1, 3):
        raise UserError(f"generated images have {given['channels']} channels: choose 1 or 3")
    n = given["n"]

    def split(number: int) -> Split:
        def whole(positions: Sequence[int]) -> list[np.ndarray]:
            return [_image(number, i, given, whole=options.whole) for i in positions]

        def read_images(positions: Sequence[int]) -> list[np.ndarray]:
            return [resized(image, options.resize) for image in whole(positions)]

        labels = (np.arange(n) % given["classes"]).astype(np.int32)
        images = in_memory_or_lazy(n, read_images, options)
        return Split(images, labels, OnDemand(n, whole) if options.whole else None)

    return split(0), split(1), given["classes"]


def _image(split: int, position: int, given: dict[str, int], *, whole: bool) -> np.ndarray:
    """uint8 [h, w, c] of a position in a split."""
    h = w = given["side"]
    if whole:
        longer = round(given["side"] * _RATIOS[position % len(_RATIOS)])
        h, w = (longer, w) if position % 2 else (h, longer)
    return np.random.default_rng((split, position)).integers(
        256, size=(h, w, given["channels"]), dtype=np.uint8
    )
