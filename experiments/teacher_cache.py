"""Logits of teachers, kept on disk for views that are a function of seed and step."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import checkpoint, files, processes
from kdjax.types import Network, UserError, Variables, first_line

# A file holds so many steps.
STEPS = 64
Rows = tuple[np.ndarray, ...]


def check(folder: str) -> None:
    """Raises UserError if a cache cannot be in a folder, or there are several processes."""
    if folder and processes.count() > 1:
        raise UserError(f"teacher_cache works in one process, and there are {processes.count()}")
    first = next((one for one in (Path(folder), *Path(folder).parents) if one.exists()), None)
    if folder and first is not None and not first.is_dir():
        raise UserError(f"teacher_cache is {folder!r}: {str(first)!r} is not a folder")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of named arrays."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return found.hexdigest()


def describe(teachers: Sequence[Network], variables: Sequence[Variables]) -> list[dict[str, Any]]:
    """What identifies teachers: their networks and a digest of their variables."""
    return [
        {
            "network": repr(teacher.module),
            "mean": list(teacher.mean),
            "std": list(teacher.std),
            "variables": digest(checkpoint.flatten(jax.device_get(one))),
        }
        for teacher, one in zip(teachers, variables, strict=True)
    ]


class TeacherCache:
    """The logits of a phase's teachers for the batches of one seed, by step.

    They lie in a folder that is named by a digest of all that they depend on, so that another
    teacher, other data or other views have another folder. A file holds `STEPS` steps, and one that
    cannot be read is made again.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], steps: int):
        """Opens a cache, or makes one.

        Args:
          folder: of all caches.
          identity: what the logits depend on, of values that JSON has.
          steps: of the phase.

        Raises:
          UserError: if the folder cannot be made.
        """
        text = json.dumps(identity, sort_keys=True)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._steps = steps
        self._rows: dict[int, Rows] = {}
        self._stored: dict[int, int] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"teacher_cache is {str(folder)!r}: {first_line(error)}") from None
        files.write_json(self._folder / "identity.json", dict(identity))

    def logits(self, step: int, count: int, compute: Callable[[], Rows]) -> Rows:
        """float16 [count, b, k] of each teacher, for the steps from `step` on.

        Args:
          step: the first.
          count: how many.
          compute: returns them where they are not known.
        """
        wanted = range(step, step + count)
        for chunk in sorted({one // STEPS for one in wanted}):
            if chunk not in self._stored:
                self._open(chunk)
        if any(one not in self._rows for one in wanted):
            computed = compute()
            for i, one in enumerate(wanted):
                self._rows[one] = tuple(array[i] for array in computed)
            for chunk in sorted({one // STEPS for one in wanted}):
                self._store(chunk)
        return tuple(map(np.stack, zip(*(self._rows[one] for one in wanted), strict=True)))

    def _open(self, chunk: int) -> None:
        """Reads a file, and forgets those before the one before it."""
        for old in [one for one in self._rows if one // STEPS < chunk - 1]:
            del self._rows[old]
        self._stored = {k: n for k, n in self._stored.items() if k >= chunk - 1} | {chunk: 0}
        try:
            content = io.BytesIO(self._file(chunk).read_bytes())
            with np.load(content, allow_pickle=False) as found:
                arrays = [found[f"arr_{i}"] for i in range(len(found.files))]
            rows = list(zip(*arrays, strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # There is none, or it is damaged: archives have a checksum of each array.
            return
        self._stored[chunk] = len(rows)
        self._rows |= {chunk * STEPS + i: row for i, row in enumerate(rows)}

    def _store(self, chunk: int) -> None:
        """Writes a file if all of its steps are known and not all of them are in it."""
        first = chunk * STEPS
        wanted = range(first, min(first + STEPS, self._steps))
        if len(wanted) <= self._stored[chunk] or any(one not in self._rows for one in wanted):
            return
        arrays = [np.stack(rows) for rows in zip(*(self._rows[one] for one in wanted), strict=True)]
        content = io.BytesIO()
        np.savez(content, *arrays)
        files.write(self._file(chunk), content.getvalue())
        self._stored[chunk] = len(wanted)

    def _file(self, chunk: int) -> Path:
        return self._folder / f"{chunk * STEPS:08d}.npz"
