"""Schedules of the step, for learning rates and for the weights of methods."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from kdjax.types import Array, UserError

NAMES = ("constant", "cosine", "linear", "step")
UNITS = ("epochs", "steps", "fraction")


def create(
    name: str,
    peak: float,
    *,
    total_steps: int,
    steps_per_epoch: float,
    warmup: float = 0.0,
    boundaries: Sequence[float] = (),
    factor: float = 0.1,
    unit: str = "epochs",
    stairs: int = 0,
) -> optax.Schedule:
    """A schedule that rises linearly from 0 to `peak`, then decays as `name` says.

    Args:
      name: `constant`; `cosine` or `linear`, to 0 at `total_steps`; `step`, times
        `factor` at each boundary.
      peak: the value after the warm-up.
      total_steps: length of the run.
      steps_per_epoch: need not be whole.
      warmup: length of the rise.
      boundaries: for `step`, counted from the start of the run.
      factor: for `step`; 0 switches off.
      unit: of `warmup` and `boundaries`: `epochs`, `steps`, or `fraction` of the run.
      stairs: into how many equal steps the rise is cut, the first at 0; 0 is a smooth one.

    Returns:
      A function of the step (int, [] or [n]) to float32 of the same shape.

    Raises:
      UserError: on an unknown name or unit, or boundaries that do not increase.
    """
    if name not in NAMES:
        raise UserError(f"unknown schedule {name!r}: choose from {', '.join(NAMES)}")
    if unit not in UNITS:
        raise UserError(f"unknown unit {unit!r} of a schedule: choose from {', '.join(UNITS)}")
    scale = {"epochs": steps_per_epoch, "steps": 1.0, "fraction": total_steps}[unit]
    warmup_steps = warmup * scale
    edges = [round(b * scale) for b in boundaries]
    if edges != sorted(edges):
        raise UserError(f"a schedule's boundaries must increase, got {tuple(boundaries)}")

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        rise: Any = 1.0
        if warmup_steps:
            rise = step / warmup_steps
            if stairs:
                # Rounding must not delay the step that falls on a stair.
                rise = jnp.floor(rise * stairs * (1 + 1e-6)) / stairs
            rise = jnp.minimum(1.0, rise)
        left = max(total_steps - warmup_steps, 1.0)
        progress = jnp.clip((step - warmup_steps) / left, 0.0, 1.0)
        if name == "cosine":
            decay = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        elif name == "linear":
            decay = 1 - progress
        elif name == "step":
            decay = jnp.ones(())
            for edge in edges:
                decay = decay * jnp.where(step >= edge, factor, 1.0)
        else:
            decay = jnp.ones(())
        # A constant without warm-up is still as long as the steps.
        return jnp.broadcast_to(peak * rise * decay, step.shape)

    return schedule


def in_parts(values: Sequence[Any], step: int, total_steps: int) -> Any:
    """The value at a step, where several values share the steps in equal parts, in order."""
    return values[min(step * len(values) // total_steps, len(values) - 1)]
