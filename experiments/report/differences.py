"""A paper's tables with what ours differ by, where a number of the paper stands beside ours."""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import cells
from experiments.report.measured import Phases
from experiments.report.tables import Cells

_MINUS = "\N{MINUS SIGN}"
_NUMBER = rf"[-{_MINUS}]?\d*\.?\d+(?:e-?\d+)?"
# `84.54±0.21`, `~.725`, `93.13*`, `98.90 (98.9)`, and three seeds as `78.9 79.3 78.67`.
_PRINTED = re.compile(rf"~?((?:\s*{_NUMBER}\s*%?)+)\s*(?:±.*|\(.*\))?\*?")
_PAPER = (", paper", ", authors")
# With so many times the other number, a figure that is no share is in another unit.
_OTHER_UNIT = 20


def filled(report: Mapping[str, Any], phases: Phases) -> list[Cells]:
    """The tables of a config's `report`, filled in, with columns or rows of differences."""
    return [
        _filled(one, phases)
        for one in report.values()
        if "rows" in one and one.get("probe") is None
    ]


def printed(text: str) -> float | None:
    """The number that a paper printed in a cell, a mean if there are several; None without one."""
    found = _PRINTED.fullmatch(text.strip())
    if not found:
        return None
    numbers = re.findall(_NUMBER, found[1])
    return statistics.mean(float(number.replace(_MINUS, "-")) for number in numbers)


def _filled(described: Mapping[str, Any], phases: Phases) -> Cells:
    headings, templates = list(described["columns"]), [list(row) for row in described["rows"]]
    rows = [[cells.fill(cell, phases) for cell in row] for row in templates]
    for paper, ours in reversed(_pairs(headings, templates)):
        differences = _differences(
            [row[paper] for row in templates], [row[ours] for row in templates], phases
        )
        if any(differences):
            headings.insert(ours + 1, f"here {_MINUS} {described['columns'][paper]}")
            for row, difference in zip(rows, differences, strict=True):
                row.insert(ours + 1, difference)
    if len(headings) == len(described["columns"]):
        rows = _with_rows(templates, rows, phases)
    return Cells(described["caption"], headings, rows)


def _pairs(headings: Sequence[str], templates: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Columns of a paper's numbers with the column of ours for each, in the order of ours."""
    ours = [any(map(cells.is_figure, column)) for column in zip(*templates, strict=True)]
    theirs = [
        not mine and any(printed(cell) is not None for cell in column)
        for mine, column in zip(ours, zip(*templates, strict=True), strict=True)
    ]
    pairs = []
    for j, heading in enumerate(headings):
        if not ours[j]:
            continue
        name = heading.removesuffix(", here")
        same = [f"{name}{suffix}" for suffix in _PAPER] + ([name] if name != heading else [])
        named = [i for i in range(len(headings)) if theirs[i] and headings[i] in same]
        if named:
            pairs.append((named[0], j))
        elif heading == "last" or heading.endswith("here"):
            # Below `here, here` stand as many numbers of the paper before.
            first = j
            while heading == "here" and first and headings[first - 1] == "here" and ours[first - 1]:
                first -= 1
            last = j
            while (
                heading == "here" and headings[last + 1 : last + 2] == ["here"] and ours[last + 1]
            ):
                last += 1
            i = j - (last - first + 1)
            if i >= 0 and all(theirs[i - (j - first) : first]):
                pairs.append((i, j))
    return pairs


def _with_rows(
    templates: Sequence[Sequence[str]], rows: Sequence[list[str]], phases: Phases
) -> list[list[str]]:
    """The rows, with one of differences after each that is ours and below one of the paper."""
    result = [rows[0]] if rows else []
    for above, template, row in zip(templates, templates[1:], rows[1:], strict=False):
        result.append(row)
        if template[0] == "here" and not any(map(cells.is_figure, above)):
            differences = _differences(above[1:], template[1:], phases)
            if any(differences):
                result.append([f"here {_MINUS} {above[0]}", *differences])
    return result


def _differences(paper: Sequence[str], ours: Sequence[str], phases: Phases) -> list[str]:
    """Ours - the paper's, cell by cell; "" where there is nothing to compare."""
    numbers = [printed(cell) for cell in paper]
    # Shares are printed in percent or as fractions, throughout a column.
    percent = any(number is not None and abs(number) > 1 for number in numbers)
    percent = percent or any("%" in cell for cell in paper)
    return [
        _difference(number, cell, percent, phases) if number is not None else ""
        for number, cell in zip(numbers, ours, strict=True)
    ]


def _difference(number: float, cell: str, percent: bool, phases: Phases) -> str:
    if not cells.is_figure(cell) or "[parameters]" in cell:
        return ""
    values = cells.values(cell, phases)
    form = re.search(r":\.(\d+)[f%]\}$", cell)
    if not values or not form:
        return ""
    mean = statistics.mean(values)
    if cell.endswith("%}"):
        difference = 100 * mean - (number if percent else 100 * number)
    elif number and mean and 1 / _OTHER_UNIT < mean / number < _OTHER_UNIT:
        difference = mean - number
    else:
        return ""
    return f"{difference:+.{form[1]}f}".replace("-", _MINUS)
