"""Classifies images with a trained network, beside its teacher.

    python -m experiments.predict --network=RUN/PHASE --images=FILE_OR_FOLDER

Prints a table of the most probable classes of each image; `--json` prints one JSON object per
image. A folder is searched with its subfolders. Images become grey or coloured, as the network
needs them, and are resized as its training data was. The teacher is the phase that taught this
one in its run; `--teacher=RUN/PHASE` names another network, and `--teacher=none` leaves it out.

A network whose model is the user's own (`module:name`) needs that module on the path:
in the working directory, in PYTHONPATH, or in `--import_from=DIR`.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from experiments import cli
from kdjax.types import UserError

_NETWORK = flags.DEFINE_string("network", "", "RUN/PHASE, the folder of a phase.")
_TEACHER = flags.DEFINE_string("teacher", "auto", "RUN/PHASE, auto or none.")
_IMAGES = flags.DEFINE_string("images", "", "An image file, or a folder of images.")
_TOP = flags.DEFINE_integer("top", 5, "How many classes are shown, the most probable ones.")
_JSON = flags.DEFINE_bool("json", False, "Print a JSON object per image.")
_IMPORT_FROM = flags.DEFINE_string("import_from", "", "Folder with modules of one's own.")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
_BATCH_SIZE = 64

if TYPE_CHECKING:
    import rich.table

    from kdjax import Classifier


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


def guesses(classifier: "Classifier", paths: Sequence[Path], top: int) -> list[list[Guess]]:
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


def load_networks(reference: str, teacher: str) -> "tuple[Classifier, dict[str, Classifier]]":
    """The network, and its teachers by name.

    Args:
      reference: the folder of a phase.
      teacher: the folder of another one, `auto` or `none`.

    Raises:
      UserError: if a network cannot be loaded.
    """
    import kdjax
    from experiments import provenance
    from experiments.evaluation import teacher_sizes

    network = kdjax.load(reference)
    if teacher == "none":
        return network, {}
    if teacher != "auto":
        return network, {teacher: kdjax.load(teacher)}
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
            kdjax.load(folder),
            image_size=network.image_size,
            resize=network.resize,
            resolution=sizes[name],
        )
        for name, folder in known.teachers.items()
    }


def main() -> None:
    """Classifies what the flags name."""
    if not _NETWORK.value or not _IMAGES.value:
        missing = "--images" if _NETWORK.value else "--network"
        raise UserError(f"{missing} is missing: give --network=RUN/PHASE --images=FILE_OR_FOLDER")
    if _TOP.value < 1:
        raise UserError(f"--top is {_TOP.value}: it is at least 1")
    if _IMPORT_FROM.value:
        sys.path.append(_IMPORT_FROM.value)
    paths = find_images(_IMAGES.value)
    network, teachers = load_networks(_NETWORK.value, _TEACHER.value)
    table = _table([Path(_NETWORK.value).name, *(f"{name} (teacher)" for name in teachers)])
    for path, best, *taught in _classified([network, *teachers.values()], paths):
        if _JSON.value:
            of_teachers = dict(zip(teachers, map(_plain, taught), strict=True))
            found = {"image": str(path), "network": _plain(best), "teachers": of_teachers}
            print(json.dumps(found), flush=True)
        else:
            _add(table, path, [best, *taught])
    if not _JSON.value:
        import rich.console

        rich.console.Console().print(table)


def _classified(networks: "Sequence[Classifier]", paths: Sequence[Path]) -> Iterator[Any]:
    """Each image's path, followed by what every network makes of it."""
    for first in range(0, len(paths), _BATCH_SIZE):
        part = paths[first : first + _BATCH_SIZE]
        yield from zip(part, *(guesses(one, part, _TOP.value) for one in networks), strict=True)


def _plain(best: Sequence[Guess]) -> list[dict[str, Any]]:
    return [one._asdict() for one in best]


def _table(titles: Sequence[str]) -> "rich.table.Table":
    import rich.box
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    for title in titles:
        table.add_column(title, overflow="fold")
        table.add_column("%", justify="right", no_wrap=True)
    return table


def _add(table: Any, path: Path, found: Sequence[Sequence[Guess]]) -> None:
    """Adds the rows of an image: its name in the first one, and a network in two columns each."""
    rows = max(len(best) for best in found)
    for row in range(rows):
        cells = [str(path) if row == 0 else ""]
        for best in found:
            guess = best[row] if row < len(best) else None
            cells += [guess.name, f"{guess.probability:.2%}"[:-1]] if guess else ["", ""]
        table.add_row(*cells, end_section=row == rows - 1)


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
