"""Systems of several phases, by name, each with the arguments of its family.

    python -m experiments.main --config=configs/recipes.py:takd[,data=cifar10][,ARGUMENT=VALUE]

Each is described, with its arguments, where its family is:

- `configs/recipes_survey.py`: `takd`, `mkd`, `uda`, `uda_unlabelled`, `unlabelled`, `ab`,
  `feature_losses`, `dual`.
- `configs/recipes_properties.py`: `properties`, `properties_mnist`.
- `configs/recipes_fidelity.py`: `fidelity_data`, `fidelity_augmentation`, `fidelity_split`,
  `fidelity_mnist`.
- `configs/recipes_fidelity_teachers.py`: `fidelity_temperature`, `fidelity_ensemble`,
  `fidelity_labels`, `fidelity_capacity`.
- `configs/recipes_fidelity_start.py`: `fidelity_init`, `fidelity_optimizer`, `fidelity_start`.
- `configs/recipes_capacity.py`: `capacity`, `born_again`, `chain`.
- `configs/recipes_early.py`: `eskd`, `early_teacher`.
"""

from types import ModuleType

from ml_collections import ConfigDict

from configs import (
    recipes_capacity,
    recipes_early,
    recipes_fidelity,
    recipes_fidelity_start,
    recipes_fidelity_teachers,
    recipes_properties,
    recipes_survey,
)
from kdjax.types import UserError

_FAMILIES: tuple[ModuleType, ...] = (
    recipes_survey,
    recipes_properties,
    recipes_fidelity,
    recipes_fidelity_teachers,
    recipes_fidelity_start,
    recipes_capacity,
    recipes_early,
)


def get_config(arg: str | None = None) -> ConfigDict:
    families = {recipe: family for family in _FAMILIES for recipe in family.RECIPES}
    name = (arg or "takd").split(",")[0].removeprefix("recipe=")
    if name not in families:
        raise UserError(f"unknown recipe {name!r}: choose from {', '.join(families)}")
    config: ConfigDict = families[name].get_config(arg)
    return config
