"""Digits in three domains: as they are, on coloured backgrounds, and blended with textures.

Those on which Ojha et al. 2023, Table 13, train a teacher whose students see the first alone.
"""

from collections.abc import Callable

import numpy as np

from kdjax.data.sources.base import Classes, Lazy, SourceOptions, Split
from kdjax.types import UserError

Textures = np.ndarray | Lazy | None
# Images that are made at a time, in float32.
_AT_A_TIME = 4096
# Colours along each axis of a made texture.
_CELLS = 4


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads grey images and makes those of other domains from them, with three channels.

    With x the grey image in [0, 1], these are

    - `plain`: x in all channels;
    - `color`: x + (1 - x) c, where the colour c is uniform in [0, 1]^3;
    - `texture`: `|t - x|`, where t is a random crop of a coloured image, as MNIST-M is made of
      MNIST (Ganin & Lempitsky 2015), or, without these images, a made texture: random colours
      on a grid, interpolated linearly.

    Args:
      argument: `DOMAIN+DOMAIN+...:DATA SET[@TEXTURES]`, such as
        `plain+color+texture:tfds:mnist@tfds:cifar10`. Both are names of data sets; textures of a
        split are taken from the same split. Several domains follow each other, each with all
        images. An image of a domain is the same in every run.
      options: of the grey images.

    Raises:
      UserError: on an unknown domain, if the data sets cannot be read, if the first has coloured
        images or the second has grey ones, or ones that are smaller.
    """
    # The sources that are read are in the table that this one is in.
    from kdjax.data import sources

    names, _, rest = argument.partition(":")
    name, _, textures = rest.partition("@")
    chosen = names.split("+")
    if unknown := [one for one in chosen if one not in _DOMAINS]:
        raise UserError(f"unknown domain {unknown[0]!r}: choose from {', '.join(_DOMAINS)}")
    data = sources.load(
        name, dir=options.dir, train_split=options.train_split, test_split=options.test_split,
        resize=options.resize, memory=options.memory,
    )  # fmt: skip
    if data.train.images.shape[-1] != 1:
        raise UserError(f"domains are made of grey images, and those of {name!r} are coloured")
    backgrounds: tuple[Textures, Textures] = (None, None)
    if textures and "texture" in chosen:
        found = sources.load(textures, dir=options.dir, memory=options.memory)
        side, shape = data.train.images.shape[1], found.train.images.shape[1:]
        if shape[-1] != 3 or min(shape[:2]) < side:
            raise UserError(
                f"textures {textures!r} are {shape[0]}x{shape[1]} with {shape[2]} "
                f"channel{'s' if shape[2] > 1 else ''}: they must be at least {side}x{side} with 3"
            )
        backgrounds = (found.train.images, found.test.images)
    train, test = (
        _split(split, chosen, background, number)
        for number, (split, background) in enumerate(
            zip((data.train, data.test), backgrounds, strict=True)
        )
    )
    return train, test, data.class_names or data.num_classes


def _split(split: Split, chosen: list[str], textures: Textures, number: int) -> Split:
    """The images of a split, which is the `number`-th, in all chosen domains."""
    n = len(split)
    h, w, _ = split.images.shape[1:]
    images = np.empty((len(chosen) * n, h, w, 3), np.uint8)
    for k, name in enumerate(chosen):
        rng = np.random.default_rng((number, sorted(_DOMAINS).index(name)))
        for first in range(0, n, _AT_A_TIME):
            part = np.arange(first, min(first + _AT_A_TIME, n))
            grey = np.asarray(split.images[part], np.float32) / 255
            pixels = _DOMAINS[name](rng, grey, textures)
            images[k * n + part] = np.round(255 * pixels)
    return Split(images, np.tile(split.labels, len(chosen)))


def _plain(rng: np.random.Generator, grey: np.ndarray, textures: Textures) -> np.ndarray:
    return np.repeat(grey, 3, axis=-1)


def _color(rng: np.random.Generator, grey: np.ndarray, textures: Textures) -> np.ndarray:
    colors = rng.random((len(grey), 1, 1, 3), np.float32)
    return grey + (1 - grey) * colors


def _texture(rng: np.random.Generator, grey: np.ndarray, textures: Textures) -> np.ndarray:
    n, h, w, _ = grey.shape
    made = _made(rng, n, h, w) if textures is None else _crops(rng, n, h, w, textures)
    return np.abs(made - grey)


def _crops(
    rng: np.random.Generator, n: int, h: int, w: int, textures: np.ndarray | Lazy
) -> np.ndarray:
    """Random windows of random images, float32 [n, h, w, 3]."""
    images = np.asarray(textures[rng.integers(0, textures.shape[0], n)])
    top = rng.integers(0, images.shape[1] - h + 1, n)
    left = rng.integers(0, images.shape[2] - w + 1, n)
    rows, columns = top[:, None] + np.arange(h), left[:, None] + np.arange(w)
    windows = images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None]]
    return windows.astype(np.float32) / 255


def _made(rng: np.random.Generator, n: int, h: int, w: int) -> np.ndarray:
    """Random colours on a grid, interpolated linearly, float32 [n, h, w, 3]."""
    colors = rng.random((n, _CELLS, _CELLS, 3), np.float32)

    def weights(size: int) -> np.ndarray:
        at = np.linspace(0, _CELLS - 1, size)[:, None]
        return np.maximum(1 - np.abs(at - np.arange(_CELLS)), 0).astype(np.float32)

    return np.einsum("yi,xj,nijc->nyxc", weights(h), weights(w), colors, optimize=True)


_DOMAINS: dict[str, Callable[[np.random.Generator, np.ndarray, Textures], np.ndarray]] = {
    "plain": _plain,
    "color": _color,
    "texture": _texture,
}
