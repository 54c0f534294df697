"""Checkpoints written asynchronously with Orbax and verified by a checksum.

A checkpoint has two items: `state`, one vector for each type of the arrays of a tree, and `extra`,
a small dictionary of JSON values. Its entry `arrays` lists the path in the tree, the type and the
shape of each array, in the order in which they follow each other in the vectors. With hundreds of
arrays, saving each by itself takes several times as long, and leaks memory each time (tensorstore
0.1.86). Arrays are stored from host memory, so that a run can be resumed on another number of
devices. The checksum is needed because Orbax loads some damaged array files without error.
"""

import contextlib
import copy
import json
import math
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from kdjax import processes
from kdjax.types import PyTree, UserError, first_line

_TRASH, _DAMAGED = "_trash", "_damaged"


class Checkpoints:
    """The checkpoints of one training run, in one folder: the last two and the best.

    Attributes:
      set_aside: steps whose checkpoints were found damaged and moved to `_damaged`, since Orbax
        opens no folder with one of them.
    """

    def __init__(self, folder: str | Path, *, keep_best: bool = False, read_only: bool = False):
        """Opens a folder, and creates it unless `read_only`.

        Args:
          folder: the folder of the checkpoints.
          keep_best: also keep the checkpoint with the highest `score`.
          read_only: only restore, without any change to the folder.

        Raises:
          UserError: if the checkpoints in the folder are corrupt.
        """
        self._folder = Path(folder).absolute()
        self._keep_best, self._read_only = keep_best, read_only
        if not read_only:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Left behind by an interrupted deletion.
            shutil.rmtree(self._folder / _TRASH, ignore_errors=True)
        self.set_aside = [] if read_only else self._set_aside_damaged()
        policies: list[Any] = [checkpoint_managers.LatestN(2)]
        more: dict[str, Any] = {}
        if keep_best:
            score = lambda metrics: metrics["score"]  # noqa: E731
            more = {"best_fn": score, "best_mode": "max"}
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
                )
            )
        if processes.count() > 1:
            # Orbax would wait for the others, which hold the same state and write nothing.
            me = processes.index()
            more["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
            )
        options = ocp.CheckpointManagerOptions(
            create=False,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only,
            todelete_subdir=None if read_only else _TRASH,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=not read_only,
            **more,
        )
        try:
            with _quiet():
                self._manager = ocp.CheckpointManager(self._folder, options=options)
        except Exception as error:
            # A garbled metrics file can raise any exception that parsing JSON can raise.
            raise UserError(
                f"corrupt checkpoints in {str(folder)!r}: {first_line(error)}"
            ) from None

    def _set_aside_damaged(self) -> list[int]:
        """Moves checkpoints away whose descriptions are damaged, unless no other one is left."""
        steps = sorted(int(path.name) for path in self._folder.glob("*") if path.name.isdigit())
        damaged = [step for step in steps if not _is_described(self._folder / str(step))]
        if len(damaged) == len(steps):
            return []
        for step in damaged:
            target = self._folder / _DAMAGED / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(target)
        return damaged

    def save(
        self, step: int, tree: PyTree, extra: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts writing a checkpoint in the background.

        If there is a checkpoint of this step already, it is left unchanged.

        Args:
          step: number of the step; greater than those saved so far.
          tree: a pytree of arrays, copied before this returns.
          extra: JSON values, copied before this returns.
          score: for `keep_best`.

        Raises:
          UserError: if this or the previous checkpoint cannot be written.
        """
        if step in self._manager.all_steps():
            return
        arrays = flatten(jax.device_get(tree))
        # A copy, since the caller may change it while it is written in the background.
        extra = copy.deepcopy(extra) | {"arrays": _layout(arrays)}
        try:
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_joined(arrays)),
                    extra=ocp.args.JsonSave(extra | {"crc32": _checksum(arrays, extra)}),
                ),
                metrics=None if score is None else {"score": score},
            )
        except Exception as error:
            # A save also raises the errors of the previous one, such as a full disk.
            raise UserError(
                f"cannot write checkpoints to {str(self._folder)!r}: {first_line(error)}"
            ) from None
        if not saved:
            raise UserError(f"cannot save step {step} in {str(self._folder)!r}: newer ones exist")
        self._empty_trash()

    def steps(self) -> list[int]:
        """The steps that can be restored, in ascending order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the highest score, or None without `keep_best`."""
        # Without scores, Orbax returns the latest step as the best.
        return self._manager.best_step() if self._keep_best else None

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reads a checkpoint without knowing its structure.

        Returns:
          The arrays by their path in the tree, and the extras.

        Raises:
          UserError: if the checkpoint is damaged or does not exist.
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
            # Checkpoints from before November 2026 hold each array by itself.
            if "arrays" in extra:
                arrays = _separated(arrays, extra["arrays"])
        except Exception as error:
            # A damaged file can raise many exception types; all mean the same to the user.
            raise UserError(f"corrupt {where}: {first_line(error)}") from None
        if extra.pop("crc32", None) != _checksum(arrays, extra):
            raise UserError(f"corrupt {where}: its checksum does not match")
        extra.pop("arrays", None)
        return arrays, extra

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Restores a checkpoint.

        Args:
          step: one of `steps()`.
          like: a tree with the structure, shapes and types of the one saved.

        Returns:
          The tree, as NumPy arrays in the structure of `like`, and the extras.

        Raises:
          UserError: if the checkpoint is damaged, or does not match `like`.
        """
        arrays, extra = self.read(step)
        return unflatten(arrays, like, self._name(step)), extra

    def _name(self, step: int) -> str:
        return f"checkpoint {step} in {str(self._folder)!r}"

    def delete(self, step: int) -> None:
        """Deletes a checkpoint, so that its step can be saved again."""
        self._manager.delete(step)

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
          UserError: if one cannot be written (because the disk is full, for example).
        """
        try:
            self._manager.wait_until_finished()
            self._empty_trash()
        except Exception as error:
            raise UserError(
                f"cannot write checkpoints to {str(self._folder)!r}: {first_line(error)}"
            ) from None

    def close(self) -> None:
        """Waits until all checkpoints are written and stops the background threads."""
        self.wait()
        self._manager.close()

    def _empty_trash(self) -> None:
        """Deletes superseded checkpoints from the disk.

        Orbax only moves them away, at once, so that a kill never leaves half of one among the
        others. The folder itself stays, as a thread of Orbax may be about to use it.
        """
        if self._read_only:
            return
        for superseded in self._folder.glob(f"{_TRASH}/*"):
            shutil.rmtree(superseded, ignore_errors=True)


def _is_described(folder: Path) -> bool:
    """Whether the small files are JSON by which Orbax knows a checkpoint."""
    for name in ("_CHECKPOINT_METADATA", "metrics/metrics"):
        path = folder / name
        try:
            if path.exists() and not isinstance(json.loads(path.read_bytes()), dict):
                return False
        except (ValueError, OSError, RecursionError):
            return False
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context without Orbax's warning that a folder opened as read-only is read-only."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their path in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def unflatten(arrays: dict[str, np.ndarray], like: PyTree, where: str) -> PyTree:
    """The inverse of `flatten`.

    Args:
      arrays: arrays by path.
      like: a tree with the expected structure, whose leaves have a `shape` and a `dtype`.
      where: description of the arrays, for the error message.

    Raises:
      UserError: if paths, shapes or types do not match those of `like`.
    """
    expected = {key: (tuple(x.shape), str(x.dtype)) for key, x in flatten(like).items()}
    found = {key: (x.shape, str(x.dtype)) for key, x in arrays.items()}
    if expected != found:
        differing = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        key = differing[0]
        raise UserError(
            f"{where} does not match the expected state: {len(differing)} arrays differ, e.g. "
            f"{key} is {found.get(key, 'missing')} and should be {expected.get(key, 'missing')}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[key] for key in expected])


def _layout(arrays: dict[str, np.ndarray]) -> list[list[Any]]:
    """Path, type and shape of each array."""
    return [[path, str(array.dtype), list(array.shape)] for path, array in arrays.items()]


def _joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All arrays of each type as one vector, by the type."""
    of_type: dict[str, list[np.ndarray]] = {}
    for array in arrays.values():
        of_type.setdefault(str(array.dtype), []).append(np.ravel(array))
    return {dtype: np.concatenate(parts) for dtype, parts in of_type.items()}


def _separated(vectors: dict[str, np.ndarray], layout: list[list[Any]]) -> dict[str, np.ndarray]:
    """The inverse of `_joined`. Raises any exception if the layout is not that of the vectors."""
    arrays, ends = {}, dict.fromkeys(vectors, 0)
    for path, dtype, shape in layout:
        start, ends[dtype] = ends[dtype], ends[dtype] + math.prod(shape)
        arrays[path] = vectors[dtype][start : ends[dtype]].reshape(shape)
    return arrays


def _checksum(arrays: dict[str, np.ndarray], extra: dict[str, Any]) -> int:
    crc = zlib.crc32(json.dumps(extra, sort_keys=True).encode())
    for key in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[key]).tobytes(), zlib.crc32(key.encode(), crc))
    return crc
