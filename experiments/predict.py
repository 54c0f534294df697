"""Classifies images with a trained network, beside its teacher.

    python -m experiments.predict --network=RUN/PHASE --images=FILE_OR_FOLDER

Prints a table of the most probable classes of each image; `--json` prints one JSON object per
image. A folder is searched with its subfolders. Images become grey or coloured, as the network
needs them, and are resized as its training data was. The teacher is the phase that taught this
one in its run; `--teacher=RUN/PHASE` names another network, and `--teacher=none` leaves it out.

A run folder may name a model or data of one's own (`module:name`), which are code. Its module is
imported with `--trust=module`, from the path (the working directory and PYTHONPATH are on it) or
from `--import_from=DIR`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli, own_code
from kdjax.types import UserError

_NETWORK = flags.DEFINE_string("network", "", "RUN/PHASE, the folder of a phase.")
_TEACHER = flags.DEFINE_string("teacher", "auto", "RUN/PHASE, auto or none.")
_IMAGES = flags.DEFINE_string("images", "", "An image file, or a folder of images.")
_TOP = flags.DEFINE_integer("top", 5, "How many classes are shown, the most probable ones.")
_JSON = flags.DEFINE_bool("json", False, "Print a JSON object per image.")

if TYPE_CHECKING:
    import rich.table

    from experiments.prediction import Guess


def main() -> None:
    """Classifies what the flags name."""
    if not _NETWORK.value or not _IMAGES.value:
        missing = "--images" if _NETWORK.value else "--network"
        raise UserError(f"{missing} is missing: give --network=RUN/PHASE --images=FILE_OR_FOLDER")
    if _TOP.value < 1:
        raise UserError(f"--top is {_TOP.value}: it is at least 1")
    own_code.allow()
    from experiments import prediction

    root, paths = Path(_IMAGES.value), prediction.find_images(_IMAGES.value)
    network, teachers = prediction.load_networks(_NETWORK.value, _TEACHER.value)
    title = Path(_NETWORK.value).name
    if network.title != network.model:
        title = f"{title} ({network.title})"
    table = _table([title, *(f"{name} (teacher)" for name in teachers)])
    networks = [network, *teachers.values()]
    for path, best, *taught in prediction.classify(networks, paths, _TOP.value):
        if _JSON.value:
            of_teachers = dict(zip(teachers, map(_plain, taught), strict=True))
            found = {"image": str(path), "network": _plain(best), "teachers": of_teachers}
            print(json.dumps(found), flush=True)
        else:
            # One's own folder need not be repeated.
            _add(table, path.relative_to(root) if root.is_dir() else path, [best, *taught])
    if not _JSON.value:
        import rich.console

        rich.console.Console().print(table)


def _plain(best: "Sequence[Guess]") -> list[dict[str, Any]]:
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


def _add(table: Any, path: Path, found: "Sequence[Sequence[Guess]]") -> None:
    """Adds the rows of an image: its name in the first one, and a network in two columns each."""
    from rich.markup import escape

    rows = max(len(best) for best in found)
    for row in range(rows):
        cells = [escape(str(path)) if row == 0 else ""]
        for best in found:
            guess = best[row] if row < len(best) else None
            cells += [escape(guess.name), f"{guess.probability:.2%}"[:-1]] if guess else ["", ""]
        table.add_row(*cells, end_section=row == rows - 1)


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
