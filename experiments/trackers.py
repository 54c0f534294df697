"""Experiment trackers: where the rows of metrics.jsonl go besides, for people to look at.

A tracker is a name of `TRACKERS`, or a function of the user's own, `module:function`, with the
signature of `Factory`. `--config.trackers=` takes any number of them.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdjax import references
from kdjax.types import UserError


class Tracker(Protocol):
    """The tracker of one member of a phase."""

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Takes a logged row: numbers by name, such as `test/accuracy`."""

    def picture(self, image: np.ndarray, step: int) -> None:
        """Takes a picture, uint8 [h, w, c]."""

    def close(self) -> None:
        """Writes what is left."""


class Factory(Protocol):
    """Opens a tracker.

    Args:
      folder: of the member, in its run folder. A tracker that keeps files keeps them there.
      step: at which the member is; an interrupted run may have logged rows after it.
      config: of the phase.
    """

    def __call__(self, folder: Path, step: int, config: Mapping[str, Any]) -> Tracker: ...


class TensorBoard:
    """Event files in `PHASE/tensorboard`."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]):
        """See `Factory`."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """See `Tracker`."""
        for key, value in row.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def picture(self, image: np.ndarray, step: int) -> None:
        """See `Tracker`."""
        self._writer.add_image("pictures", image, step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """Weights & Biases, offline in `PHASE/wandb` unless WANDB_MODE says otherwise.

    `wandb sync PHASE/wandb/offline-run-*` uploads it. WANDB_PROJECT is `kdjax` by default, the
    group is the run folder and the name the member's.
    """

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]):
        """See `Factory`."""
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kdjax"),
            group=folder.resolve().parent.name,
            name=folder.name,
            # A resumed run goes on under the same identity.
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            dir=folder,
            config=dict(config),
            reinit="create_new",  # The members of a phase are logged at the same time.
            settings=wandb.Settings(silent=True, console="off"),
        )
        # A resumed run repeats steps, which its own counter must not.
        self._run.define_metric("*", step_metric="step")

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """See `Tracker`."""
        self._run.log({**row, "step": step})

    def picture(self, image: np.ndarray, step: int) -> None:
        """See `Tracker`."""
        self._run.log({"pictures": self._wandb.Image(image), "step": step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
}


def check(names: Sequence[str]) -> None:
    """Raises UserError unless there are trackers with these names, and their packages."""
    for name in names:
        if references.is_reference(name):
            references.resolve(name, "tracker")
        elif name not in TRACKERS:
            raise UserError(
                f"unknown tracker {name!r}: choose from {', '.join(TRACKERS)}, or module:function"
            )
        elif name == "wandb":
            _import_wandb()


def _import_wandb() -> None:
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError("the tracker wandb needs its package: pip install wandb") from None


def start(
    names: Sequence[str], folder: Path, step: int, config: Mapping[str, Any]
) -> list[Tracker]:
    """Opens the trackers of a member; arguments as for `Factory`."""
    return [
        (TRACKERS.get(name) or references.resolve(name, "tracker"))(folder, step, config)
        for name in names
    ]
