"""Checkpoints by Orbax: asynchronous, checked, the last and the best.

A checkpoint holds a tree of arrays under the tree's own paths, and a small
dictionary beside it. Arrays are stored from host memory, so that a run may go on
with another number of devices, and with a checksum, because Orbax loads some
damaged array files without a word.
"""

import copy
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from kdjax.types import PyTree, UserError, first_line

_TRASH = "_trash"


class Checkpoints:
    """The checkpoints of one phase, in one folder."""

    def __init__(self, folder: str | Path, *, keep_best: bool = False, read_only: bool = False):
        """Opens a folder, making it unless `read_only`.

        Args:
          folder: where they are.
          keep_best: keep the one saved with the highest `score` beside the last.
          read_only: only restore; leaves the folder as it is.

        Raises:
          UserError: if the folder cannot be read as checkpoints.
        """
        self._folder = Path(folder).absolute()
        self._keep_best = keep_best
        if not read_only:
            # What an interrupted deletion left behind.
            shutil.rmtree(self._folder / _TRASH, ignore_errors=True)
        policies: list[Any] = [checkpoint_managers.LatestN(2)]
        best: dict[str, Any] = {}
        if keep_best:
            score = lambda metrics: metrics["score"]  # noqa: E731
            best = {"best_fn": score, "best_mode": "max"}
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            todelete_subdir=None if read_only else _TRASH,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=not read_only,
            **best,
        )
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except Exception as error:
            # A garbled metrics file breaks the manager in whatever way JSON breaks.
            raise UserError(
                f"corrupt checkpoints in {str(folder)!r}: {first_line(error)}"
            ) from None

    def save(
        self, step: int, tree: PyTree, extra: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts writing `tree` and `extra` (plain JSON) as of `step`; returns before it is done.

        A step that is there already is left as it is.

        Raises:
          UserError: if this or the save before it could not be written.
        """
        if step in self._manager.all_steps():
            return
        arrays = flatten(jax.device_get(tree))
        # It is written in the background, when the caller may have changed what it gave.
        extra = copy.deepcopy(extra)
        try:
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    extra=ocp.args.JsonSave(extra | {"crc32": _checksum(arrays, extra)}),
                ),
                metrics=None if score is None else {"score": score},
            )
        except Exception as error:
            # A save also reports what became of the one before it, such as a full disk.
            raise UserError(
                f"cannot write checkpoints to {str(self._folder)!r}: {first_line(error)}"
            ) from None
        if not saved:
            raise UserError(f"cannot save step {step} in {str(self._folder)!r}: newer ones exist")

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the highest score, or None where no scores are kept."""
        # Without scores, Orbax's own best is the latest.
        return self._manager.best_step() if self._keep_best else None

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays saved at `step` by their path in the tree, and the extras.

        Raises:
          UserError: if it is damaged or not there.
        """
        where = self._name(step)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), extra=ocp.args.JsonRestore()
                ),
            )
            arrays = {key: np.asarray(value) for key, value in restored.state.items()}
            extra = dict(restored.extra)
        except Exception as error:
            # Damage shows in many exception types; all mean the same to the user.
            raise UserError(f"corrupt {where}: {first_line(error)}") from None
        if extra.pop("crc32", None) != _checksum(arrays, extra):
            raise UserError(f"corrupt {where}: its checksum does not match")
        return arrays, extra

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The tree saved at `step`, as NumPy arrays in the structure of `like`, and the extras.

        Raises:
          UserError: if it is damaged, or of another structure or shape than `like`.
        """
        arrays, extra = self.read(step)
        return unflatten(arrays, like, self._name(step)), extra

    def _name(self, step: int) -> str:
        return f"checkpoint {step} in {str(self._folder)!r}"

    def delete(self, step: int) -> None:
        """Removes a checkpoint, so that its step can be saved again."""
        self._manager.delete(step)

    def wait(self) -> None:
        """Returns when everything saved is on disk.

        Raises:
          UserError: if it could not be written (a full disk, for one).
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise UserError(
                f"cannot write checkpoints to {str(self._folder)!r}: {first_line(error)}"
            ) from None

    def close(self) -> None:
        """Waits, and ends the manager's threads."""
        self.wait()
        self._manager.close()


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their path in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def unflatten(arrays: dict[str, np.ndarray], like: PyTree, where: str) -> PyTree:
    """The inverse of `flatten`, given the tree's structure, shapes and types.

    Args:
      arrays: by path.
      like: a tree of anything with `shape` and `dtype`.
      where: what the arrays are, for the error.

    Raises:
      UserError: if the paths, shapes or types differ.
    """
    expected = {key: (tuple(x.shape), str(x.dtype)) for key, x in flatten(like).items()}
    found = {key: (x.shape, str(x.dtype)) for key, x in arrays.items()}
    if expected != found:
        differing = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        key = differing[0]
        raise UserError(
            f"{where} does not fit the configuration: {len(differing)} arrays differ, e.g. {key} "
            f"is {found.get(key, 'missing')} and should be {expected.get(key, 'missing')}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[key] for key in expected])


def _checksum(arrays: dict[str, np.ndarray], extra: dict[str, Any]) -> int:
    crc = zlib.crc32(json.dumps(extra, sort_keys=True).encode())
    for key in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[key]).tobytes(), zlib.crc32(key.encode(), crc))
    return crc
