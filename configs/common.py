"""What every config starts from, and how its parts inherit from each other.

A config has groups for the data, a few keys for the run, and three layers of the same
keys: `train` holds what all phases share, `teacher` and `student` inherit from it, and each
of the `phases` inherits from one of those two. A key that is set on the command line is set
for everything below it: `--config.train.batch_size=64` for all phases,
`--config.student.epochs=5` for all students, `--config.phases.kd.epochs=5` for one.

A config of one's own is a file anywhere that starts from `base` (or from `pair` of
`configs.protocols`) and adds phases with `inherit`.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import legacy, schema
from kdjax.types import UserError


def base() -> ConfigDict:
    """A config without phases that has every key of a run, with its default."""
    config = schema.base()
    # One teacher for all students; `--config.teacher.seeds` trains one for each.
    config.teacher = inherit(config.train, seeds=())
    config.student = inherit(config.train)
    config.phases = ConfigDict(sort_keys=False)
    # Tables and figures that the run ends in, by name (`configs.tables`).
    config.report = ConfigDict(sort_keys=False)
    return config


def inherit(parent: ConfigDict, **changes: Any) -> ConfigDict:
    """A copy of `parent` whose keys follow the parent's unless they are changed.

    Args:
      parent: a layer, or a group of one.
      **changes: new values. A change to a group is a dict of what differs in it, except
        that `objective`, `adversarial`, `model_options`, `until` and `extra_views` are
        replaced as a whole.

    Raises:
      UserError: on an unknown key; one that was renamed is named.
    """
    child = ConfigDict(sort_keys=False)
    for key in parent:
        value = parent[key]
        if key == "model_options":
            child[key] = parent.get_oneway_ref(key)
            if key in changes:
                child[key] = ConfigDict(changes.pop(key))
        elif key in ("objective", "adversarial", "until", "extra_views"):
            child[key] = ConfigDict(changes.pop(key, value.to_dict()), sort_keys=False)
        elif isinstance(value, ConfigDict):
            child[key] = inherit(value, **changes.pop(key, {}))
        else:
            child[key] = parent.get_oneway_ref(key)
    for key, value in changes.items():
        legacy.check_renamed([f"train.{key}"])
        if key not in child:
            raise UserError(f"unknown config key {key!r}: choose from {', '.join(child)}")
        child[key] = value
    return child


def arguments(arg: str | None, **defaults: Any) -> ConfigDict:
    """Parses what follows the colon in `configs/file.py:a=1,b=x`.

    Args:
      arg: the text after the colon, or None. A first item without `=` is the value of the
        first default.
      **defaults: the arguments that there are; values have the types of these.

    Raises:
      UserError: on an unknown argument or a value of another type.
    """
    parsed = dict(defaults)
    for i, item in enumerate(filter(None, (arg or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals and i == 0:
            key, value = next(iter(defaults)), key
        if key not in defaults:
            raise UserError(f"unknown config argument {key!r}: choose from {', '.join(defaults)}")
        kind = type(defaults[key])
        try:
            parsed[key] = kind(value)
        except ValueError:
            raise UserError(f"config argument {key}={value!r} is not {kind.__name__}") from None
    return ConfigDict(parsed)
