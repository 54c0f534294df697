"""Image files in one folder per split and class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdjax.data.sources.base import (
    Classes,
    OnDemand,
    SourceOptions,
    Split,
    in_memory_or_lazy,
    read_image,
    resized,
)
from kdjax.types import UserError

_SUFFIXES = {".png", ".jpg", ".jpeg"}


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads `<dir>/<split>/<class>/*.{png,jpg}`.

    Classes are the subfolders of the training split that are not hidden, in alphabetical order;
    each must have an image. Images have one channel if the first training image is greyscale,
    otherwise three.
    """
    root = argument
    if not Path(root).is_dir():
        raise UserError(f"no such folder: {root!r}")
    train_folder, test_folder = Path(root, options.train_split), Path(root, options.test_split)
    for folder in (train_folder, test_folder):
        if not folder.is_dir():
            raise UserError(f"{root!r} has no subfolder {folder.name!r}")
    classes = _classes(train_folder)
    if extra := set(_classes(test_folder)) - set(classes):
        raise UserError(
            f"{str(test_folder)!r} has classes that {str(train_folder)!r} lacks: "
            f"{', '.join(sorted(extra))}"
        )
    files = {folder: _labelled_files(folder, classes) for folder in (train_folder, test_folder)}
    if not files[train_folder] or not files[test_folder]:
        empty = test_folder if files[train_folder] else train_folder
        raise UserError(f"no .png or .jpg images in {str(empty)!r}/<class>/")
    labelled = {label for _, label in files[train_folder]}
    if empty_classes := [name for i, name in enumerate(classes) if i not in labelled]:
        raise UserError(
            f"no .png or .jpg images of class {', '.join(empty_classes)} in {str(train_folder)!r}: "
            "every subfolder is a class"
        )
    first = read_image(files[train_folder][0][0])
    channels = first.shape[-1]
    expected = (options.resize, options.resize) if options.resize else first.shape[:2]

    def read_resized(path: str) -> np.ndarray:
        image = resized(read_image(path, channels), options.resize)
        if image.shape[:2] != expected:
            raise UserError(
                f"{str(path)!r} is {image.shape[0]}x{image.shape[1]}, the first image is "
                f"{expected[0]}x{expected[1]}: set resize to a side in pixels"
            )
        return image

    def split(folder: Path) -> Split:
        # Every worker gets a copy, and a Path is several times as large.
        paths = [str(path) for path, _ in files[folder]]
        labels = np.array([label for _, label in files[folder]], np.int32)

        def read_images(positions: Sequence[int]) -> list[np.ndarray]:
            return [read_resized(paths[i]) for i in positions]

        whole = OnDemand(
            len(paths), lambda positions: [read_image(paths[i], channels) for i in positions]
        )
        images = in_memory_or_lazy(len(paths), read_images, options)
        return Split(images, labels, whole if options.whole else None)

    return split(train_folder), split(test_folder), classes


def _classes(folder: Path) -> list[str]:
    """Subfolders by name; hidden ones, such as `.ipynb_checkpoints`, are no classes."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _labelled_files(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Image files and labels, ordered by class and then by name."""
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted(folder.joinpath(name).glob("*"))
        # A pipe would be waited for.
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    ]
