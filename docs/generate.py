"""Parts of the pages that are made from the code and the results, as Markdown.

A page asks for one by the directive `generated NAME ARGUMENTS` of `extension.py`; `PARTS` has the
names. Nothing here needs Sphinx.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from configs import common
from configs.methods import RECIPES
from experiments import models as model_table
from kdjax import optimizers, schedules
from kdjax.data import sources, views
from kdjax.train import make_train_step

ROOT = Path(__file__).resolve().parent.parent
# Groups of the config whose keys are arguments of a function, which describes them.
_DESCRIBED_BY: dict[str, Callable[..., Any]] = {
    "data": sources.load,
    "train": make_train_step,
    "train.augment": views.make_views,
    "train.optimizer": optimizers.create,
    "train.schedule": schedules.create,
}


def table(header: list[str], rows: list[list[str]], right: Collection[int] = ()) -> str:
    """A Markdown table; columns in `right` are numbers."""
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def models() -> str:
    """The table of `python -m experiments.models --markdown`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model_table.main(["--markdown"])
    return printed.getvalue()


def arguments_of(function: Callable[..., Any]) -> dict[str, str]:
    """What the section `Args` of a function's docstring says of each argument."""
    section = (inspect.getdoc(function) or "").partition("\nArgs:\n")[2]
    section = re.split(r"\n\S", section)[0]
    found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.M)
    return {name: " ".join(text.split()) for name, text in found}


def comments_of_config() -> dict[str, str]:
    """The comment beside or above each key in `configs.common.base`, by the key's full name."""
    source = inspect.getsource(common)
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            stands_alone = not token.line[: token.start[1]].strip()
            (alone if stands_alone else beside)[token.start[0]] = token.string.lstrip("# ")
    found = {}
    for key, line in _keys(ast.parse(source)):
        above: list[str] = []
        while line - 1 - len(above) in alone:
            above.insert(0, alone[line - 1 - len(above)])
        found[key] = beside.get(line) or " ".join(above)
    return {key: comment for key, comment in found.items() if comment}


def _keys(module: ast.Module) -> Iterator[tuple[str, int]]:
    """The keys that `base` sets, with the line that each stands on."""
    base = next(n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "base")
    for node in base.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            yield from _below(node.targets[0].attr, node.value, node.lineno)


def _below(name: str, value: ast.expr, line: int) -> Iterator[tuple[str, int]]:
    yield name, line
    while isinstance(value, ast.Call) and value.args:  # ConfigDict(dict(...))
        value = value.args[0]
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        # What is said of a group on a line of its own is not said of each of its keys.
        if keyword.lineno != line or isinstance(keyword.value, ast.Call):
            yield from _below(f"{name}.{keyword.arg}", keyword.value, keyword.lineno)


def described_keys() -> dict[str, tuple[Any, str]]:
    """Default and description of every key, by its full name; layers and groups are left out.

    The description is the comment in `configs/common.py`, or else what the function that takes
    the key says of it. It is empty where only the key's group is described.
    """
    comments = comments_of_config()
    found = {}
    for key, default in _flat(common.base().to_dict()):
        group, _, name = key.rpartition(".")
        function = _DESCRIBED_BY.get(group)
        text = comments.get(key) or (arguments_of(function).get(name) if function else "") or ""
        if function:
            text = re.sub(r"^one of `[A-Z_]+`: ", "", text)
            text = re.sub(r"one of `([A-Z_]+)`", functools.partial(_values, function), text)
        found[key] = (default, text)
    return found


def _values(function: Callable[..., Any], constant: re.Match[str]) -> str:
    return ", ".join(f"`{value}`" for value in function.__globals__[constant[1]])


# They have the keys of `train`, or none before a config adds some.
_NOT_KEYS = ("teacher", "student", "phases", "report")


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if prefix or key not in _NOT_KEYS:
            if isinstance(value, dict) and value and key != "objective":
                yield from _flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value


def config_keys(group: str = "") -> str:
    """What a group is, and a table of its keys, without those of groups within it."""
    rows = [
        [f"`{key}`", f"`{default!r}`", text]
        for key, (default, text) in described_keys().items()
        if key.rpartition(".")[0] == group
    ]
    about = comments_of_config().get(group, "")
    return f"{about}\n\n{table(['key', 'default', 'meaning'], rows)}"


def config_files() -> str:
    """A section for each config: its arguments with their defaults, and what it says of itself."""
    sections = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        if hasattr(module, "get_config"):
            shown = [
                f"Arguments{f' of `{recipe}`' if recipe else ''}: "
                + ", ".join(f"`{key}={value}`" for key, value in given.items() if key != "recipe")
                for recipe, given in config_arguments(module).items()
            ]
            text = inspect.getdoc(module) or ""
            sections.append("\n\n".join([f"### {path.name}", *shown, text]))
    return "\n\n".join(sections)


class _Given(Exception):
    """Carries the arguments that a config has out of it."""


def config_arguments(module: ModuleType) -> dict[str, dict[str, Any]]:
    """The arguments of a config with their defaults, by recipe; "" where it has no recipes."""

    def stop(arg: str | None, **defaults: Any) -> None:
        raise _Given(defaults)

    found = {}
    if "common.arguments(" in inspect.getsource(module):
        with mock.patch.object(common, "arguments", stop):
            for recipe in getattr(module, "RECIPES", [""]):
                try:
                    module.get_config(recipe)
                except _Given as given:
                    found[recipe] = given.args[0]
    return found


def method(name: str) -> str:
    """How a method is usually used, from `configs/methods.py`."""
    recipe = RECIPES[name]
    rows = [["weight, beside cross-entropy at 1", f"{recipe.weight:g}"]]
    if callable(recipe.arguments):
        some = recipe.arguments("wrn_40_2", "wrn_16_2")
        rows.append(["depends on the pair; `wrn_40_2` to `wrn_16_2`", _settings(some)])
    elif recipe.arguments:
        rows.append(["arguments", _settings(recipe.arguments)])
    if recipe.schedule:
        rows.append(["schedule of the weight", _settings(recipe.schedule)])
    if recipe.first:
        rows.append(["first phase, an eighth as long, alone", _settings(recipe.first.term)])
        then = recipe.first.then
        rows.append(["then", "the labels alone" if then is None else _settings(then)])
    for protocol, terms in recipe.alone.items():
        what = f"alone, `protocol={protocol}`" if protocol else "as the only method"
        rows.append([what, "; ".join(f"{term}: {_settings(v)}" for term, v in terms.items())])
    return table([f"`methods={name}`", "default"], rows)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{key}={value:.3g}`" if isinstance(value, float) else f"`{key}={value}`"
        for key, value in values.items()
    )


def measured(page: str, *names: str, only: str = "") -> str:
    """Rows of the tables of a page of results: the teacher, scratch and some phases or methods.

    Args:
      page: path from the root.
      *names: first cells of the rows; a table without the first of them is left out.
      only: the heading whose first table is meant; all tables of all headings by default.
    """
    shown = []
    for heading, header, rows in _tables((ROOT / page).read_text()):
        named = {_name(cells[0]): cells for cells in rows}
        if names[0] in named and only in ("", heading):
            chosen = [named[one] for one in ("teacher", "scratch", *names) if one in named]
            right = {i for i, title in enumerate(header) if i and title != "model"}
            shown.append(f"{heading}:\n\n{table(header, chosen, right)}")
    return "\n\n".join(shown[:1] if only else shown)


def _name(cell: str) -> str:
    return cell.partition(",")[0].strip("` ")


def _tables(text: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The tables of a page: the heading above, the header and the rows."""
    heading, lines = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            yield heading, lines[0], lines[2:]
            lines = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


PARTS: dict[str, Callable[..., str]] = {
    "config_files": config_files,
    "config_keys": config_keys,
    "measured": measured,
    "method": method,
    "models": models,
}
