"""What networks make of image files."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import provenance
from experiments.evaluation import teacher_sizes
from kdjax import Classifier, load
from kdjax.types import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
_BATCH_SIZE = 64


class Guess(NamedTuple):
    """A class that a network considers for an image.

    Attributes:
      label: number of the class.
      name: of the class, or its number.
      probability: in [0, 1].
    """

    label: int
    name: str
    probability: float


def find_images(reference: str) -> list[Path]:
    """The image files that `--images` names, in alphabetical order.

    Raises:
      UserError: if there is no such file or folder, or no image in the folder.
    """
    path = Path(reference)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"no such image or folder: {reference!r}")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise UserError(f"no image in {reference!r}: {', '.join(SUFFIXES)}")
    return found


def guesses(classifier: Classifier, paths: Sequence[Path], top: int) -> list[list[Guess]]:
    """The most probable classes of each image, the most probable one first.

    Raises:
      UserError: if an image cannot be read, or does not fit the network.
    """
    images = np.stack([classifier.read(path) for path in paths])
    result = []
    for p in np.asarray(classifier.probabilities(images)):
        best = np.argsort(-p, kind="stable")[:top].tolist()
        result.append([Guess(i, classifier.class_name(i), float(p[i])) for i in best])
    return result


def load_networks(reference: str, teacher: str) -> tuple[Classifier, dict[str, Classifier]]:
    """The network, and its teachers by name.

    Args:
      reference: the folder of a phase.
      teacher: the folder of another one, `auto` or `none`.

    Raises:
      UserError: if a network cannot be loaded.
    """
    network = load(reference)
    if teacher == "none":
        return network, {}
    if teacher != "auto":
        return network, {teacher: load(teacher)}
    known = provenance.read(Path(reference))
    if known is None:
        return network, {}
    names = known.member.teachers
    sizes = dict(
        zip(names, teacher_sizes(known.phase["augment"]["teacher_size"], len(names)), strict=True)
    )
    return network, {
        # What it saw as a teacher.
        name: dataclasses.replace(
            load(folder),
            image_size=network.image_size,
            resize=network.resize,
            resolution=sizes[name],
        )
        for name, folder in known.teachers.items()
    }


def classify(
    networks: Sequence[Classifier], paths: Sequence[Path], top: int
) -> Iterator[tuple[Any, ...]]:
    """Each image's path, followed by what every network makes of it, as `guesses`."""
    for first in range(0, len(paths), _BATCH_SIZE):
        part = paths[first : first + _BATCH_SIZE]
        yield from zip(part, *(guesses(one, part, top) for one in networks), strict=True)
