"""The run folder: which config it belongs to, and who may write to it."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import kdjax
from experiments import stored
from kdjax import references
from kdjax.types import UserError

# Phases in the name of a run folder; of more, the number is given.
_SHOWN_PHASES = 2
_OURS = ("kdjax", "experiments", "configs")
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
# Keys on which no result depends: they may differ between a run and its continuation.
_NEUTRAL = (
    "devices", "checkpoint_every", "data.dir", "data.memory", "data.workers",
    "evaluation.dir", "evaluation.memory", "profile", "report", "trackers",
)  # fmt: skip


def default(config_name: str, config: ConfigDict) -> Path:
    """`runs/NAME-PHASES-DATA-HASH`, such as `runs/distill-crd_kd-cifar10-3fa1b2`.

    The same command finds its run again, another config has another.
    """
    described = json.dumps(identity(config.to_dict()), sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:6]
    # The teacher and the student from scratch are in most runs.
    phases = [name for name in config.phases if name not in ("teacher", "scratch")]
    shown = "+".join(phases[:_SHOWN_PHASES])
    if len(phases) > _SHOWN_PHASES:
        shown += f"+{len(phases) - _SHOWN_PHASES}"
    data = re.sub(r"\W+", "_", config.data.name.rpartition(":")[2])[-20:].strip("_")
    return Path("runs", "-".join(filter(None, (config_name, shown, data, digest))))


def code(config: dict[str, Any]) -> dict[str, str]:
    """A digest of each module of the user's own that a config names as `module:name`, by its path.

    A changed loss, model or reader makes another run. What these modules import is not looked at.
    """
    digests = {}
    for reference in named(config):
        module = reference.partition(":")[0]
        if module.split(".")[0] in _OURS:
            continue
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        # Kinds of data, such as `tfds:mnist`, have the form of a reference.
        if spec and spec.origin and Path(spec.origin).is_file():
            # Keys of a config have no dots.
            name = module.replace(".", "/")
            digests[name] = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]
    return digests


def named(config: dict[str, Any]) -> list[str]:
    """All that has the form `module:name` in a config, sorted; it may be a kind of data."""
    texts = set(_texts({key: value for key, value in config.items() if key != "report"}))
    return sorted(filter(references.is_reference, texts))


def _texts(value: Any) -> Iterator[str]:
    """All strings in a config, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def check(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError if the folder belongs to another config or is not a run folder."""
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise UserError(f"{str(workdir)!r} is not a folder")
    if not (workdir / "config.json").exists():
        if any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise UserError(f"{str(workdir)!r} is not empty and not a run folder")
        return
    ours = identity(config.to_dict())
    earlier = stored.config(workdir)
    theirs = identity(earlier)
    if "code" not in earlier:
        # An earlier version did not look at it.
        ours = {key: value for key, value in ours.items() if not key.startswith("code")}
    differing = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
    # The three layers only repeat what the phases, which are run, inherit from them.
    differing = [k for k in differing if not k.startswith(("train.", "teacher.", "student."))]
    if differing:
        shown = ", ".join(
            f"{k} ({theirs.get(k, 'absent')} there, {ours.get(k, 'absent')} here)"
            for k in differing[:5]
        )
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{str(workdir)!r} belongs to another config: {shown}{more}; choose another --workdir"
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps a second run out of the folder.

    The lock ends with the process, however that ends.

    Raises:
      UserError: if another run has the lock.
    """
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is working in {str(workdir)!r}") from None
        yield


def versions() -> dict[str, str]:
    """The versions on which a run's figures depend, of kdjax as a commit where git knows it."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found["python"] = platform.python_version()
    found["kdjax"] = _commit() or kdjax.__version__
    return found


def _commit() -> str:
    """What git calls this checkout, or "" if this is none."""
    root = Path(__file__).resolve().parents[1]
    # Where kdjax is installed, git may describe the project of its user.
    if not (root / "pyproject.toml").exists() or not (git := shutil.which("git")):
        return ""
    described = subprocess.run(
        [git, "describe", "--always", "--dirty"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() if described.returncode == 0 else ""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON holds it, flat, without keys on which no result depends."""

    def flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(inner, f"{prefix}.{key}" if prefix else key)
        else:
            yield prefix, value

    plain = json.loads(json.dumps(config))
    for phase in plain["phases"].values():
        if phase["seeds"] and not phase["checkpoint"]:
            # Each member has a seed of `seeds`, and the phase's own is not used.
            del phase["seed"]
    # What is kept there is computed again where it is missing.
    plain["teacher_cache"] = bool(plain["teacher_cache"])
    neutral = tuple(f"{key}." for key in _NEUTRAL)
    return {k: v for k, v in flat(plain, "") if not f"{k}.".startswith(neutral)}
