"""Files that are written as a whole: neither a reader nor a killed run leaves half of one.

Of several processes only the first one writes (`kdjax.processes`).
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from kdjax import processes
from kdjax.types import UserError, first_line


def write(path: Path, content: bytes) -> None:
    """Replaces a file as a whole; in a process that is not the first one, does nothing.

    Raises:
      UserError: if it cannot be written.
    """
    if not processes.is_main():
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {first_line(error)}") from None


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file as a whole. A number that is not finite, which JSON has not, is null."""
    text = json.dumps(_strict(value), indent=2, allow_nan=False)
    write(path, (text + "\n").encode())


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, **expected: type) -> Any:
    """Reads a JSON file that holds an object.

    Args:
      path: of the file.
      **expected: keys that the object must have, with the types of their values.

    Raises:
      UserError: if it is missing, not JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {first_line(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not JSON: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{str(path)!r} is damaged: it holds no object")
    for key, kind in expected.items():
        if not isinstance(found.get(key), kind):
            raise UserError(f"{str(path)!r} is damaged: its {key} is missing or no {kind.__name__}")
    return found
