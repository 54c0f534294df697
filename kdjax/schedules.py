"""Schedules of the step, for learning rates and for the weights of methods."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from kdjax.types import Array, UserError

NAMES = ("constant", "cosine", "exponential", "linear", "step")
UNITS = ("epochs", "steps", "fraction")
RISES = ("linear", "cosine")


def create(
    name: str,
    peak_value: float,
    *,
    total_steps: int,
    steps_per_epoch: float,
    warmup: float = 0.0,
    boundaries: Sequence[float] = (),
    decay_rate: float = 0.1,
    unit: str = "epochs",
    num_stairs: int = 0,
    rise: str = "linear",
) -> optax.Schedule:
    """Creates a schedule with a warm-up from 0 to `peak_value`, followed by a decay.

    Args:
      name: one of `NAMES`: `constant`; `cosine` or `linear`, which decay to 0 at `total_steps`;
        `step`, which multiplies by `decay_rate` at each boundary; `exponential`, which does so
        after each epoch from the start of the run.
      peak_value: value after the warm-up.
      total_steps: length of the run, in steps.
      steps_per_epoch: need not be an integer.
      warmup: length of the warm-up, in `unit`.
      boundaries: for `step`, in `unit` from the start of the run, increasing.
      decay_rate: for `step` and `exponential`; 0 switches the value off.
      unit: one of `UNITS`: `epochs`, `steps`, or `fraction` of the run.
      num_stairs: number of equal plateaus of a stepwise warm-up, the first of them at 0; 0 for a
        continuous one.
      rise: one of `RISES`, the shape of the warm-up: a line, or half a cosine, which is flat at
        both ends.

    Returns:
      A function from the step (int, [] or [n]) to float32 of the same shape.

    Raises:
      UserError: if the name, the unit or the rise is unknown, or the boundaries do not increase.
    """
    if name not in NAMES:
        raise UserError(f"unknown schedule {name!r}: choose from {', '.join(NAMES)}")
    if unit not in UNITS:
        raise UserError(f"unknown schedule unit {unit!r}: choose from {', '.join(UNITS)}")
    if rise not in RISES:
        raise UserError(f"unknown rise {rise!r} of a schedule: choose from {', '.join(RISES)}")
    scale = {"epochs": steps_per_epoch, "steps": 1.0, "fraction": total_steps}[unit]
    warmup_steps = warmup * scale
    edges = [round(b * scale) for b in boundaries]
    if edges != sorted(edges):
        raise UserError(f"boundaries must increase, got {tuple(boundaries)}")

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        risen: Any = 1.0
        if warmup_steps:
            risen = step / warmup_steps
            if num_stairs:
                # The margin keeps rounding from delaying a stair by one step.
                risen = jnp.floor(risen * num_stairs * (1 + 1e-6)) / num_stairs
            risen = jnp.minimum(1.0, risen)
            if rise == "cosine":
                risen = 0.5 * (1 - jnp.cos(jnp.pi * risen))
        decay_steps = max(total_steps - warmup_steps, 1.0)
        progress = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
        if name == "cosine":
            decay = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        elif name == "linear":
            decay = 1 - progress
        elif name == "step":
            decay = jnp.ones(())
            for edge in edges:
                decay = decay * jnp.where(step >= edge, decay_rate, 1.0)
        elif name == "exponential":
            # Half a step, so that an epoch ends at the nearest step.
            decay = decay_rate ** jnp.floor((step + 0.5) / steps_per_epoch)
        else:
            decay = jnp.ones(())
        # A constant without warm-up has no shape of its own.
        return jnp.broadcast_to(peak_value * risen * decay, step.shape)

    return schedule


def in_parts(values: Sequence[Any], step: int, total_steps: int) -> Any:
    """The value at a step, if the run is divided into equal parts with one value each."""
    return values[min(step * len(values) // total_steps, len(values) - 1)]
