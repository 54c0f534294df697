"""What `python -m experiments.main --help` prints: the command, the configs, the keys of one."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def configs(folder: Path) -> Iterator[tuple[str, str]]:
    """The configs in a folder, each with the first line of its description.

    Nothing is imported: a config is a file that defines `get_config`.
    """
    for path in sorted(folder.glob("*.py")):
        module = ast.parse(path.read_text())
        defined = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        # The families of `configs/recipes.py` are reached by its name.
        if "get_config" in defined and not path.stem.startswith("recipes_"):
            yield str(path), (ast.get_docstring(module) or "").partition("\n")[0]


def keys(config: ConfigDict) -> Iterator[str]:
    """The keys of a config with their values, as flags; those of phases are in `train`."""
    for key, value in _flat(config.to_dict()):
        if not key.startswith(("phases.", "report.", "teacher.", "student.")):
            yield f"  --config.{key}={value!r}"
    yield "  teacher, student: the keys of train, for the teacher and for all students"
    yield f"  phases.NAME: the same, for one of {', '.join(config.phases) or 'no phases'}"


def _flat(group: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def text(description: str, folder: Path, config: ConfigDict | None) -> str:
    """The help.

    Args:
      description: of the command.
      folder: of the configs.
      config: whose keys are listed, or None.
    """
    lines = [description.strip(), ""]
    if config is None:
        found = list(configs(folder))
        width = max((len(name) for name, _ in found), default=0)
        lines += [f"  {name:<{width}}  {first}" for name, first in found]
        lines += ["", "With --config=NAME.py[:arguments] --help, the keys of that config."]
    else:
        lines += [*keys(config), "", "What they mean is said beside them in configs/common.py."]
    return "\n".join(lines)
