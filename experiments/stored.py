"""What a run folder holds, read and checked: files may be damaged, or of an earlier version."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments import legacy, schema
from experiments.members import Member, expand
from experiments.rules import Number
from kdjax import files
from kdjax.types import UserError, first_line


def config(run: Path) -> dict[str, Any]:
    """The resolved config of a run, with the keys of this version.

    Raises:
      UserError: if `config.json` is missing or damaged.
    """
    path = run / "config.json"
    return _upgraded(path, files.read_json(path, data=dict, phases=dict, train=dict))


def _upgraded(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    try:
        upgraded = legacy.upgrade(found)
        schema.check_complete(upgraded)
        expand(upgraded["phases"])
    except UserError as error:
        raise UserError(f"{str(path)!r} is not the config of a run: {error}") from None
    except Exception as error:
        # A config of another shape can fail in any way.
        raise UserError(
            f"{str(path)!r} is not the config of a run: {type(error).__name__} {first_line(error)}"
        ) from None
    return upgraded


def members(config: Mapping[str, Any]) -> list[Member]:
    """The members of all phases of a run's config, in order."""
    return [member for of in expand(config["phases"]).values() for member in of]


def summary(run: Path) -> dict[str, Any]:
    """The content of a run's `summary.json`, its config with the keys of this version.

    Raises:
      UserError: if it is missing or damaged.
    """
    path = run / "summary.json"
    found: dict[str, Any] = files.read_json(path, config=dict, phases=dict)
    found["config"] = _upgraded(path, found["config"])
    for name, phase in found["phases"].items():
        _check_result(path, f"phases.{name}", phase)
    return found


def result(folder: Path) -> dict[str, Any]:
    """What `summary.json` holds of a finished member, from the `result.json` in its folder.

    Raises:
      UserError: if that is missing or damaged.
    """
    path = folder / "result.json"
    found: dict[str, Any] = files.read_json(path, step=int, summary=dict)["summary"]
    _check_result(path, "summary", found)
    return found


def _check_result(path: Path, where: str, found: Any) -> None:
    """Checks that a member's figures have the shape that tables expect."""
    for problem in _problems(found):
        raise UserError(f"{str(path)!r} is damaged: {where} {problem}")


# What is no figure among the results of a member.
_WORDS = ("phase", "model", "ended")
# What holds figures, none of which need be there.
_GROUPS = ("test", "train", "validation", "seconds_of")


def _problems(found: Any) -> Iterator[str]:
    if not isinstance(found, dict):
        yield "is no object"
        return
    if not isinstance(found.get("model"), str):
        yield "has no model"
    if lacking := [key for key in ("parameters", "steps", "seconds") if found.get(key) is None]:
        yield f"has no {lacking[0]}"
    for key, value in found.items():
        if key in _GROUPS:
            fits = isinstance(value, dict) and all(map(_is_figure, value.values()))
        else:
            fits = isinstance(value, str) if key in _WORDS else _is_figure(value)
        if not fits:
            yield f"has no figures as its {key}"


def _is_figure(value: Any) -> bool:
    """Whether a value is a number, or null, which stands for one that is not finite."""
    return value is None or Number(-(2.0**63), 2.0**63).fits(value)
