"""What a phase takes from earlier phases and from other runs, beside their networks."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from kdjax import checkpoint, networks
from kdjax.types import TrainState, UserError


def check_phase(reference: str, earlier: Collection[str]) -> None:
    """Raises UserError unless `reference` is "", an earlier phase or the folder of a phase."""
    if reference and reference not in earlier and not (Path(reference) / "network.json").exists():
        raise UserError(
            f"init_methods_from is {reference!r}, which is neither an earlier phase "
            f"({', '.join(earlier) or 'there is none'}) nor the folder of a phase"
        )


def folder(reference: str, phase: Path) -> Path:
    """The folder of the phase that another one, whose folder is `phase`, calls `reference`."""
    return phase.parent / reference if "/" not in reference else Path(reference)


def init_methods(state: TrainState, source: Path) -> TrainState:
    """Replaces the methods' variables that a finished phase, in `source`, has too.

    Variables are matched by method and name, whether they are parameters or state:
    what was trained there may be constant here.

    Raises:
      UserError: if none matches.
    """
    arrays = networks.read_arrays(source)
    flat = checkpoint.flatten(state)
    found = {}
    for key, value in flat.items():
        collection, bracket, rest = key.partition("[")
        if collection in _METHODS:
            for there in (f"{c}{bracket}{rest}" for c in _METHODS):
                if there in arrays and arrays[there].shape == value.shape:
                    found[key] = arrays[there]
    if not found:
        raise UserError(
            f"init_methods_from: {str(source)!r} has nothing for the methods of this phase"
        )
    return checkpoint.unflatten(flat | found, state, str(source))


def continued(source: Path, like: TrainState) -> TrainState:
    """The state with which a finished phase, in `source`, ended, as that of a step 0.

    Args:
      source: the folder of the phase.
      like: a state of the same structure.

    Raises:
      UserError: if it has no such state.
    """
    stored = checkpoint.Checkpoints(source / "checkpoints", read_only=True)
    steps = stored.steps()
    if not steps:
        raise UserError(f"{str(source)!r} has no checkpoint yet")
    state: TrainState = stored.restore(steps[-1], like)[0]
    return dataclasses.replace(state, step=like.step)


_METHODS = (".method_params", ".method_state")
