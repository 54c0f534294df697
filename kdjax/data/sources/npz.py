"""Arrays in an npz file."""

import numpy as np

from kdjax.data.sources.base import Classes, SourceOptions, Split, from_arrays
from kdjax.types import UserError, first_line

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_NAMES = "class_names"


def read(argument: str, options: SourceOptions) -> tuple[Split, Split, Classes]:
    """Reads `train_images`, `train_labels`, `test_images` and `test_labels` from a file.

    `class_names`, strings [k], may be there, too; without them the number of classes is one more
    than the largest label. Pickled objects are not loaded.
    """
    file = argument
    try:
        with np.load(file, allow_pickle=False) as stored:
            missing = [key for key in _KEYS if key not in stored]
            if missing:
                raise UserError(
                    f"{file!r} lacks {', '.join(missing)}: it must hold {', '.join(_KEYS)}"
                )
            arrays = {key: stored[key] for key in _KEYS}
            # NumPy returns the bytes of a member that is not in its format.
            if damaged := [key for key, array in arrays.items() if isinstance(array, bytes)]:
                raise UserError(f"{file!r} is damaged: {damaged[0]} is no array")
            names = [str(name) for name in stored[_NAMES]] if _NAMES in stored else []
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no such file: {file!r}") from None
    except Exception as error:
        # Everything else (zip, header, pickle, permission) raises many exception types.
        raise UserError(f"cannot read {file!r} as npz: {first_line(error)}") from None
    try:
        return from_arrays(**arrays, options=options, classes=names or 0)
    except UserError as error:
        raise UserError(f"{file!r}: {error}") from None
