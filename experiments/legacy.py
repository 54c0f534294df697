"""Configs of earlier versions: renamed keys, and run folders made before they were renamed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdjax.types import UserError

# Keys of a phase, and of its groups, by what they were called before.
_RENAMED = {
    "accumulate": "grad_accum_steps",
    "ema": "ema_decay",
    "start": "init_from",
    "start_methods": "init_methods_from",
    "optimizer.clip": "optimizer.grad_clip_norm",
    "augment.area": "augment.scale",
    "schedule.factor": "schedule.decay_rate",
    "schedule.stairs": "schedule.num_stairs",
}
# Keys of a phase, or of its groups, that were added since, with the value that does what was done
# before.
_ADDED: dict[str, Any] = {
    "early_stopping": 0,
    "until": {},
    "extra_views": {},
    "images": {"name": "", "dir": "", "split": "train", "resize": 0, "examples": 0, "labels": True},
    "more_images": {
        "name": "",
        "dir": "",
        "split": "train",
        "resize": 0,
        "examples": 0,
        "labels": False,
        "share": 0.5,
    },
    "continue_from": "",
    "ensemble": [],
    "init_mix": 1.0,
    "new_head": False,
    "reestimate_batch_norm": False,
    "keep": [],
    "train_eval_images": 0,
    "compared_with": [],
    "optimizer": {"delta": 0.075},
    "schedule": {"horizon": 0.0, "num_stairs": 0},
    "shots_per_seed": False,
    "subset": {"parts": 1, "part": [], "seed": 0, "examples": 0, "per_class": []},
    "transition_curves": {"images": 0, "steps": 100, "step_size": 1.0},
    "augment": {
        "teacher_crops": 0,
        "teacher_size": [],
        "rotation": 0.0,
        "vertical_flip": False,
        "jitter": 0.0,
        "noise": 0.0,
        "crop_last": False,
        "policy": "",
        "policy_ops": 3,
        "policy_magnitude": 5.0,
    },
}
_ADDED_TO_DATA = {"whole": False}
_LAYERS = ("train", "teacher", "student")
_SEED_SUFFIX = re.compile(r"_seed\d+$")


def new_name(key: str) -> str:
    """What a config key such as `student.optimizer.clip` is called today; itself if the same."""
    parts = key.split(".")
    depth = 2 if parts[0] == "phases" else 1
    if parts[0] not in (*_LAYERS, "phases") or len(parts) <= depth:
        return key
    layer, rest = parts[:depth], parts[depth:]
    if rest[0] == "objective":
        # A method may have arguments of any name; only the schedule of its weight is ours.
        layer, rest = [*layer, *rest[:2]], rest[2:]
        if rest[:1] != ["schedule"]:
            return key
    return ".".join([*layer, _RENAMED.get(".".join(rest), ".".join(rest))])


def check_renamed(keys: Sequence[str]) -> None:
    """Raises UserError with today's name of a key that was renamed, if any of `keys` was."""
    for key in keys:
        if new_name(key) != key:
            raise UserError(f"config key {key} is now {new_name(key)}")


def flat_keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys of a nested config, joined by dots, groups included."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat_keys(value, f"{prefix}{key}.")


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an earlier version as this version would have written it.

    A config of this version is returned as it is.
    """
    renamed = any("start_methods" in phase for phase in config["phases"].values())
    if renamed:
        config = _rename(config)
    config.setdefault("trackers", ["tensorboard"])
    config.setdefault("teacher_cache", "")
    config |= {"data": _filled(config["data"], _ADDED_TO_DATA)}
    added = {"eval_every": config["eval_every"], **_ADDED}
    config |= {name: _filled(config[name], added) for name in _LAYERS if name in config}
    config["phases"] = {name: _filled(phase, added) for name, phase in config["phases"].items()}
    if renamed:
        config["phases"] = _collapse_seeds(config["phases"])
    return config


def _filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A group of a config with the keys that it lacks; those of its own groups, too."""
    filled = {**defaults, **given}
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            filled[key] = _filled(given.get(key, {}), value)
    return filled


def _rename(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    renamed = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = _rename(value, f"{prefix}{key}.")
        renamed[new_name(f"{prefix}{key}").rpartition(".")[2]] = value
    return renamed


def _collapse_seeds(phases: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One phase of several seeds for what were phases `kd_seed0`, `kd_seed1`, ..."""

    def base(name: str) -> str:
        return _SEED_SUFFIX.sub("", name) if name in phases else name

    return {
        base(name): phase
        | {
            "teachers": [base(teacher) for teacher in phase["teachers"]],
            "init_from": base(phase["init_from"]),
            "init_methods_from": base(phase["init_methods_from"]),
        }
        for name, phase in phases.items()
    }
