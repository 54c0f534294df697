"""What `python -m experiments.main --help` prints: the command, the configs, the keys of one."""

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from experiments.schema import flat

# The folder of kdjax's own configs, beside `experiments` in a checkout and where it is installed.
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def is_ours(file: Path) -> bool:
    """Whether `configs/NAME.py` is one of kdjax's own configs."""
    return file.parent == Path("configs") and (CONFIGS / file.name).is_file()


def configs() -> Iterator[tuple[str, str]]:
    """kdjax's own configs, each with the first line of its description.

    Nothing is imported: a config is a file that defines `get_config`.
    """
    for path in sorted(CONFIGS.glob("*.py")):
        module = ast.parse(path.read_text())
        defined = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        # The families of `configs/recipes.py` are reached by its name.
        if "get_config" in defined and not path.stem.startswith("recipes_"):
            yield f"configs/{path.name}", (ast.get_docstring(module) or "").partition("\n")[0]


def keys(config: ConfigDict) -> Iterator[str]:
    """The keys of a config with their values, as flags; those of phases are in `train`."""
    for key, value in flat(config.to_dict()):
        if not key.startswith(("phases.", "report.", "teacher.", "student.")):
            yield f"  --config.{key}={value!r}"
    yield "  teacher, student: the keys of train, for the teacher and for all students"
    yield f"  phases.NAME: the same, for one of {', '.join(config.phases) or 'no phases'}"


# What a config sets for its data.
_OF_DATA = (
    "data.resize", "data.image_size", "data.train_examples", "train.mean", "train.std",
    "train.batch_size", "train.augment.flip", "train.augment.padding", "teacher.epochs",
    "student.epochs", "student.shots",
)  # fmt: skip


def what_stays(config: ConfigDict, overrides: Collection[str]) -> str:
    """A line on settings for other data, where `data.name` was set on the command line; or "".

    Args:
      config: with the overrides.
      overrides: the keys that were set on the command line.
    """
    if "data.name" not in overrides:
        return ""
    values = dict(flat(config.to_dict()))
    stays = [
        f"{key}={values[key]!r}"
        for key in _OF_DATA
        if key not in overrides and (values[key] or key == "train.augment.flip")
    ]
    return (
        f"note: data.name={config.data.name} changes the data alone; as the config has it stay "
        f"{', '.join(stays)}. Most configs set them for data=NAME, --config=FILE.py:data=NAME"
    )


def text(description: str, config: ConfigDict | None) -> str:
    """The help.

    Args:
      description: of the command.
      config: whose keys are listed, or None.
    """
    lines = [description.strip(), ""]
    if config is None:
        found = list(configs())
        width = max((len(name) for name, _ in found), default=0)
        lines += [f"  {name:<{width}}  {first}" for name, first in found]
        lines += ["", "With --config=NAME.py[:arguments] --help, the keys of that config."]
    else:
        lines += [*keys(config), "", "What they mean, and may be, is in docs/configuration.md."]
    return "\n".join(lines)
