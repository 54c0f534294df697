"""Systems of several phases, by name, each with the arguments of its family.

    python -m experiments.main --config=configs/recipes.py:takd[,data=cifar10][,ARGUMENT=VALUE]

Each is described, with its arguments, where its family is:

- `configs/recipes_survey.py`: `takd`, `mkd`, `uda`, `uda_unlabelled`, `unlabelled`, `ab`,
  `feature_losses`, `dual`.
- `configs/recipes_properties.py`: `properties`, `properties_mnist`.
"""

from types import ModuleType

from ml_collections import ConfigDict

from configs import recipes_properties, recipes_survey
from kdjax.types import UserError

_FAMILIES: tuple[ModuleType, ...] = (recipes_survey, recipes_properties)


def get_config(arg: str | None = None) -> ConfigDict:
    families = {recipe: family for family in _FAMILIES for recipe in family.RECIPES}
    name = (arg or "takd").split(",")[0].removeprefix("recipe=")
    if name not in families:
        raise UserError(f"unknown recipe {name!r}: choose from {', '.join(families)}")
    config: ConfigDict = families[name].get_config(arg)
    return config
