"""Parts of the pages that are made from the code and the results, as Markdown.

A page asks for one by the directive `generated NAME ARGUMENTS` of `extension.py`; `PARTS` has the
names. Nothing here needs Sphinx.
"""

import contextlib
import importlib
import inspect
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from configs import common
from configs.methods import RECIPES
from experiments import keys as config
from experiments import models as model_table
from experiments import schema

ROOT = Path(__file__).resolve().parent.parent
_GROUPS: dict[str, config.Keys] = {
    "data": config.DATA,
    "evaluation": config.EVALUATION,
    "train": config.PHASE,
    "objective": config.TERM,
    "adversarial": config.ADVERSARIAL,
    "until": config.UNTIL,
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


def config_keys(group: str = "") -> str:
    """A table of the keys of a group, such as `train.augment`, without those of inner groups."""
    keys = config.RUN
    if group:
        top, *inner = group.split(".")
        keys = _GROUPS[top]
        for name in inner:
            keys = keys[name]
    rows = [
        [f"`{name}`", f"`{key.default!r}`", str(key.rule or ""), key.meaning]
        for name, key in keys.items()
        if isinstance(key, config.Key)
    ]
    return table(["key", "default", "values", "meaning"], rows)


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
        scheduled = recipe.schedule.get("of", "weight")
        rows.append([f"schedule of the {scheduled}", _settings(recipe.schedule)])
    if recipe.first:
        rows.append(["first phase, an eighth as long, alone", _settings(recipe.first.term)])
        then = recipe.first.then
        rows.append(["then", "the labels alone" if then is None else _settings(then)])
    for view, changes in recipe.views.items():
        rows.append([f"a second view of each image, `{view}`", _settings(changes)])
    for protocol, terms in recipe.alone.items():
        what = f"alone, `protocol={protocol}`" if protocol else "as the only method"
        rows.append([what, "; ".join(f"{term}: {_settings(v)}" for term, v in terms.items())])
    return table([f"`methods={name}`", "default"], rows)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{key}={value:.3g}`" if isinstance(value, float) else f"`{key}={value}`"
        for key, value in schema.flat(values)
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
