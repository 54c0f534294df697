"""What a run folder holds, read and checked: files may be damaged, or of an earlier version."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import legacy
from experiments.members import Member, expand
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
        expand(upgraded["phases"])
    except UserError:
        raise
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
    problem = ""
    if not isinstance(found, dict):
        problem = "is no object"
    elif not isinstance(found.get("model"), str):
        problem = "has no model"
    elif any(
        not isinstance(found.get(key), (int, float)) for key in ("parameters", "steps", "seconds")
    ):
        problem = "lacks parameters, steps or seconds"
    elif any(not isinstance(found.get(key, {}), dict) for key in ("test", "train", "validation")):
        problem = "has figures of a split that are no object"
    if problem:
        raise UserError(f"{str(path)!r} is damaged: {where} {problem}")
