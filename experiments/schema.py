"""Configs made of the declared keys, and checked against them before anything is done."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.keys import (
    ADVERSARIAL,
    AUGMENT,
    DATA,
    EVALUATION,
    NOT_NEGATIVE,
    PHASE,
    PLOT,
    POSITIVE,
    RUN,
    SCATTER,
    SHARE,
    TABLE,
    TERM,
    UNTIL,
    Key,
    Keys,
)
from experiments.rules import Anything, Number, Rule, Whole, like, problem
from kdjax import distillers, references
from kdjax.types import UserError

# Arguments of methods whose range is narrower than their type.
_ARGUMENTS: dict[str, Rule] = {
    "temperature": POSITIVE,
    "label_smoothing": Number(0, 1, below=True),
    "momentum": SHARE,
    "features": Whole(1),
    "negatives": Whole(1),
    "mid_channels": Whole(1),
    "rate": POSITIVE,
    "margin": NOT_NEGATIVE,
}


def defaults(keys: Keys) -> dict[str, Any]:
    """The defaults of keys and groups."""
    return {
        name: defaults(key) if isinstance(key, dict) else key.default for name, key in keys.items()
    }


def check(config: Mapping[str, Any]) -> None:
    """Checks every value of a config.

    Args:
      config: as a dict, with inherited values in place.

    Raises:
      UserError: names the first key whose value is not allowed. Of a value that was inherited, the
        layer is named that it comes from.
    """
    for line in _problems(config):
        raise UserError(line)


def check_complete(config: Mapping[str, Any]) -> None:
    """Checks that a config that was stored has every key, and allowed values.

    Raises:
      UserError: names the first key that is missing, or whose value is not allowed.
    """
    layers = [(f"{name}.", config[name]) for name in ("train", "teacher", "student")]
    phases = [(f"phases.{name}.", phase) for name, phase in config["phases"].items()]
    for prefix, keys, given in (
        ("", RUN | {"report": Key({}, None, "")}, config),
        ("data.", DATA, config["data"]),
        ("evaluation.", EVALUATION, config["evaluation"]),
        *((prefix, PHASE, phase) for prefix, phase in layers + phases),
    ):
        for line in _missing(prefix, keys, given):
            raise UserError(line)
    check(config)


def _missing(prefix: str, keys: Keys, given: Any) -> Iterator[str]:
    for name, key in keys.items():
        if not isinstance(given, Mapping) or name not in given:
            yield f"{prefix}{name} is missing"
        elif isinstance(key, dict):
            yield from _missing(f"{prefix}{name}.", key, given[name])


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    yield from _group("", RUN, config)
    yield from _group("data", DATA, config["data"])
    yield from _group("evaluation", EVALUATION, config["evaluation"])
    for layer in ("train", "teacher", "student"):
        yield from _phase(layer, config[layer])
    for name, phase in config["phases"].items():
        yield from _phase(f"phases.{name}", phase)
    report = config.get("report", {})
    yield from _group("report", {}, report)
    for name, one in report.items():
        yield from _entry(f"report.{name}", one)


def _entry(path: str, one: Any) -> Iterator[str]:
    """The problems of a table, or of a plot, which has lines or points."""
    keys = TABLE
    if isinstance(one, Mapping) and "series" in one:
        keys = SCATTER if "y_label" in one else PLOT
    yield from _group(path, keys, one)
    needed = {name: key for name, key in keys.items() if name != "probe"}
    yield from _missing(f"{path}.", needed, one)
    if keys is TABLE and any(len(row) != len(one["columns"]) for row in one["rows"]):
        yield f"{path}.rows has a row of another length than its columns"


def _phase(prefix: str, phase: Mapping[str, Any]) -> Iterator[str]:
    yield from _group(prefix, PHASE, phase)
    for name, term in phase["objective"].items():
        yield from _term(f"{prefix}.objective.{name}", name, term)
    yield from _group(f"{prefix}.adversarial", ADVERSARIAL, phase["adversarial"])
    for name, condition in phase["until"].items():
        yield from _group(f"{prefix}.until.{name}", UNTIL, condition)
    for name, view in phase["extra_views"].items():
        yield from _group(f"{prefix}.extra_views.{name}", AUGMENT, view)


def _group(prefix: str, keys: Keys, given: Any) -> Iterator[str]:
    """The problems of the keys that are given; which these may be is checked elsewhere."""
    if not isinstance(given, Mapping):
        yield f"{prefix} is {given!r}: it must be a group of keys"
        return
    for name, value in given.items():
        key, path = keys.get(name), f"{prefix}.{name}" if prefix else name
        if isinstance(key, dict):
            yield from _group(path, key, value)
        elif key and (rule := key.rule or Anything()) and (line := problem(path, value, rule)):
            yield line


def _term(path: str, name: str, term: Any) -> Iterator[str]:
    yield from _group(path, TERM, term)
    if not isinstance(term, Mapping):
        return
    method = term.get("method", name)
    expected: Mapping[str, Any] = {}
    if isinstance(method, str) and not references.is_reference(method):
        if method not in distillers.names():
            return
        parameters = inspect.signature(getattr(distillers, method)).parameters
        expected = {name: parameter.default for name, parameter in parameters.items()}
    for argument, value in term.items():
        if argument in TERM:
            continue
        rule = like(expected.get(argument))
        if argument in expected:
            rule = _ARGUMENTS.get(argument, rule)
        if line := problem(f"{path}.{argument}", value, rule):
            yield line


def flat(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a config, or of a group of one, joined by dots, with their values."""
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def base() -> ConfigDict:
    """A config without phases that has every key of a run, with its default."""
    config = ConfigDict(defaults(RUN), sort_keys=False)
    config.data = ConfigDict(defaults(DATA), sort_keys=False)
    config.evaluation = ConfigDict(defaults(EVALUATION), sort_keys=False)
    layer = ConfigDict(defaults(PHASE), sort_keys=False)
    for key in ("objective", "adversarial", "until", "extra_views"):
        layer[key] = ConfigDict(PHASE[key].default, sort_keys=False)  # type: ignore[union-attr]
    # They are set as a whole: a layer shares its options with what inherits from it.
    layer.model_options = ConfigDict().lock()
    for key in ("seed", "seeds", "eval_every"):
        layer[key] = config.get_oneway_ref(key)
    config.train = layer
    return config
