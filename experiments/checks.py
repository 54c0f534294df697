"""Checks of a phase's keys that nothing which reads them makes."""

from typing import Any

from ml_collections import ConfigDict

from experiments.tasks import Setup
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


def _shown(value: Any) -> str:
    """A value of a config on one line; of a group, its names."""
    return ", ".join(value) if isinstance(value, ConfigDict) else repr(value)
