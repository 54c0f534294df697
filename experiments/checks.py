"""Checks of a phase's keys that nothing which reads them makes."""

from typing import Any

from ml_collections import ConfigDict

from experiments.tasks import Setup
from kdjax import train
from kdjax.types import UserError

SELECT = ("last", "best")


def is_data_free(config: ConfigDict) -> bool:
    """Whether a phase learns from a generator."""
    return bool(config.adversarial) and not config.checkpoint


def check_choices(setup: Setup) -> None:
    """Checks the keys of a phase that nothing else checks."""
    config = setup.config
    for key, allowed in (("select", SELECT), ("teacher_batch_norm", train.TEACHER_BATCH_NORMS)):
        if config[key] not in allowed:
            raise UserError(f"unknown {key} {config[key]!r}: choose from {', '.join(allowed)}")
    if is_data_free(config) and any(config.augment.teacher_size):
        raise UserError(
            f"phase {setup.name!r} has augment.teacher_size {config.augment.teacher_size}, but it "
            "learns without data: its teacher sees what the generator makes"
        )
    if not 0 <= config.init_mix <= 1 or (config.init_mix < 1 and not config.init_from):
        raise UserError(
            f"phase {setup.name!r} has init_mix {config.init_mix} and init_from "
            f"{config.init_from!r}: init_mix is in [0, 1], and below 1 only with init_from"
        )
    if config.new_head and not config.init_from:
        raise UserError(f"phase {setup.name!r} has new_head, but no init_from")
    if config.train_eval_images < 0:
        raise UserError(f"train_eval_images is {config.train_eval_images}: it is not negative")
    if config.early_stopping < 0:
        raise UserError(
            f"early_stopping is {config.early_stopping}: it is a number of evaluations, 0 for none"
        )
    curves = config.transition_curves
    if curves.images < 0 or curves.steps < 1 or curves.step_size <= 0:
        raise UserError(
            f"transition_curves has images {curves.images}, steps {curves.steps} and step_size "
            f"{curves.step_size}: the first is not negative, the others are positive"
        )
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


def _shown(value: Any) -> str:
    """A value of a config on one line; of a group, its names."""
    return ", ".join(value) if isinstance(value, ConfigDict) else repr(value)
