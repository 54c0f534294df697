"""Checks of a phase's keys that nothing which reads them makes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import models
from experiments.tasks import Setup
from kdjax import train
from kdjax.types import UserError


def is_data_free(config: ConfigDict) -> bool:
    """Whether a phase learns from a generator."""
    return bool(config.adversarial) and not config.checkpoint


def check_choices(setup: Setup) -> None:
    """Checks the keys of a phase that nothing else checks."""
    config = setup.config
    if is_data_free(config) and any(config.augment.teacher_size):
        raise UserError(
            f"phase {setup.name!r} has augment.teacher_size {config.augment.teacher_size}, but it "
            "learns without data: its teacher sees what the generator makes"
        )
    if config.init_mix < 1 and not config.init_from:
        raise UserError(f"phase {setup.name!r} has init_mix {config.init_mix}, but no init_from")
    if config.new_head and not config.init_from:
        raise UserError(f"phase {setup.name!r} has new_head, but no init_from")
    selects = {
        "select": config.select == "best",
        "early_stopping": config.early_stopping > 0,
        "until": len(config.until) > 0,
    }
    for key, used in selects.items():
        if used and "validation" not in setup.data.splits:
            raise UserError(
                f"phase {setup.name!r} has {key} {_shown(config[key])}, but there is no validation "
                "split: set data.validation"
            )


# Values of a part of a batch below which memory is not looked at: tracing a network takes time.
_SMALL = 2**24


def check_memory(setup: Setup) -> None:
    """Checks that what a step keeps for its backward pass is no more than the devices have.

    Those are at least the outputs of the student's convolutions and linear layers.

    Raises:
      UserError: if it is more; the process would be killed, or the step would fail after a while.
    """
    config, shape = setup.config, setup.data.image_shape
    examples = config.batch_size // config.grad_accum_steps
    if examples * math.prod(shape) < _SMALL:
        return
    variables = train.abstract_outputs(setup.network, shape)[1]
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, outputs = models.count_flops(setup.network.evaluate, variables, image)
    needed = examples * outputs * jnp.dtype(config.dtype).itemsize
    there = setup.devices.memory
    if needed > there:
        raise UserError(
            f"phase {setup.name!r} keeps at least {needed / 1e9:.0f} GB in a step, and "
            f"{setup.devices.description} has {there / 1e9:.0f} GB: lower batch_size "
            f"({config.batch_size}) or raise grad_accum_steps ({config.grad_accum_steps})"
        )


def _shown(value: Any) -> str:
    """A value of a config on one line; of a group, its names."""
    return ", ".join(value) if isinstance(value, ConfigDict) else repr(value)
