"""The page about runs: one HTML file that needs nothing else, and the same in Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from experiments.report import charts, differences, predictions, sections
from experiments.report.curves import read_curves
from experiments.report.runs import Run
from experiments.report.sections import Student
from experiments.report.tables import Cells, markdown_table, phase_table
from kdjax.types import UserError

# Figures over time: key, title, whether it is a share.
_CURVES = (
    ("train/loss", "Training loss", False),
    ("test/nll", "Test loss (NLL)", False),
    ("test/accuracy", "Test accuracy", True),
    ("test/agreement", "Agreement with the teacher", True),
    ("test/kl", "KL to the teacher", False),
)
_FIDELITY = (
    ("agreement", "Accuracy over agreement", "agreement with the teacher", True),
    ("kl", "Accuracy over KL", "KL to the teacher", False),
)
TABLES_ONLY = "They were not asked for (--tables_only)."


class Described(NamedTuple):
    """A run as a page shows it.

    Attributes:
      run: which one.
      facts: pairs of words: what was run, on what, by which code.
      legend: by phase, the line that charts draw it with.
      results: the table of phases.
      papers: the tables of papers, with differences.
      curves: charts over time.
      fidelity: charts of accuracy over fidelity.
      figures: charts that the config asks for.
      students: phases beside their teachers.
      outcomes: who is right.
      per_class: accuracy by class.
      class_names: of the data.
      left_out: why there is nothing about predictions; "" if there is.
      remark: on predictions that are not those of the summary; "" if all is well.
    """

    run: Run
    facts: list[tuple[str, str]]
    legend: Mapping[str, Markup]
    results: Cells
    papers: list[Cells]
    curves: list[charts.Chart]
    fidelity: list[charts.Chart]
    figures: list[charts.Chart]
    students: list[Student]
    outcomes: Cells | None
    per_class: Cells | None
    class_names: Sequence[str]
    left_out: str
    remark: str


def describe(run: Run, *, tables_only: bool = False) -> Described:
    """Draws, and unless `tables_only` measures, what a page shows of a run.

    Raises:
      UserError: if nothing of the run is finished.
    """
    if not run.summary["phases"]:
        raise UserError(f"{str(run.folder)!r} has no finished phase yet")
    phases, look = run.phases, charts.styles(list(run.members))
    report = run.config["report"]
    shares = {figure: (title, percent) for figure, title, percent in _CURVES}
    curves = []
    for one in read_curves(run.folder, run.members, list(shares)):
        title, percent = shares[one.figure]
        title += ", learned without data" if one.unit == "step" else ""
        curves.append(charts.line_chart(title, one, look, percent))
    fidelity = [
        charts.scatter_chart(title, phases, figure, label, look, percent)
        for figure, title, label, percent in _FIDELITY
    ]
    asked_for = [charts.config_chart(one, phases) for one in report.values() if "series" in one]
    found, left_out = None, TABLES_ONLY if tables_only else ""
    if not tables_only:
        try:
            found = predictions.predict(run)
        except UserError as error:
            left_out = f"The networks could not be evaluated: {error}."
    students = sections.students(found) if found else []
    by_class = sections.per_class(found) if found else None
    return Described(
        run=run,
        facts=_facts(run),
        legend={phase: charts.key(look[phase]) for phase in run.members},
        results=phase_table(phases),
        papers=differences.filled(report, phases),
        curves=curves,
        fidelity=[chart for chart in fidelity if chart],
        figures=[chart for chart in asked_for if chart],
        students=students,
        outcomes=sections.outcome_table(students) if students else None,
        per_class=by_class if by_class and by_class.rows else None,
        class_names=found.class_names if found else (),
        left_out=left_out,
        remark=_remark(run, found) if found else "",
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was run; without what is not known."""
    config, summary = run.config, run.summary
    versions = dict(summary.get("versions", {}))
    commit = versions.pop("kdjax", "")
    models: dict[str, list[str]] = {}
    for phase, figures in run.phases.items():
        models.setdefault(figures.values[0]["model"], []).append(phase)
    seconds = sum(result["seconds"] for result in summary["phases"].values())
    seeds = sorted({result["seed"] for result in summary["phases"].values()})
    facts = [
        ("Command", summary.get("command", "")),
        ("Data", _data(config)),
        ("Models", "; ".join(f"{one} ({', '.join(used)})" for one, used in models.items())),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Time", _duration(seconds)),
        ("Device", summary.get("device", "")),
        ("Commit", commit),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Folder", str(run.folder)),
    ]
    if not run.finished:
        facts.insert(0, ("State", "not finished: phases without a result are left out"))
    return [(name, value) for name, value in facts if value]


def _data(config: Mapping[str, Any]) -> str:
    data = config["data"]
    if not data["name"]:
        return f"none; evaluated on {config['evaluation']['name'] or 'nothing'}"
    parts = [data["name"]]
    if size := data.get("image_size") or data.get("resize"):
        parts.append(f"{size}x{size} pixels")
    if data.get("train_examples"):
        parts.append(f"{data['train_examples']:,} training images")
    if data.get("validation"):
        parts.append(f"validation {data['validation']:g}")
    return ", ".join(parts) + ("; debug: a few images" if config.get("debug") else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _remark(run: Run, found: predictions.Predictions) -> str:
    """Says so if networks are not as good here as in the summary."""
    if (found.labels < 0).any():
        return ""
    for members in found.phases.values():
        for one in members:
            here = float((one.own.classes == found.labels).mean())
            there = run.summary["phases"][one.member].get("test", {}).get("accuracy", here)
            # Other devices may round one image differently.
            if abs(here - there) > max(0.001, 1.5 / len(found.labels)):
                return (
                    f"{one.member} is right on {here:.2%} of the images here, and on {there:.2%} "
                    "in the summary: the data or the code may have changed since."
                )
    return ""


def compared(runs: Sequence[Run]) -> Cells:
    """A table of all phases of several runs."""
    rows = []
    for run in runs:
        table = phase_table(run.phases)
        names = list(table.headings)
        kept = [i for i, name in enumerate(names) if name not in ("parameters", "images/s")]
        rows += [[run.name, *(row[i] for i in kept)] for row in table.rows]
    return Cells("", ["run", *(names[i] for i in kept)], rows)


def html(described: Sequence[Described]) -> str:
    """The page."""
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(runs=described, comparison=_comparison(described), title=_title(described))
    )


def markdown(described: Sequence[Described]) -> str:
    """The same without charts and images."""
    parts = [f"# {_title(described)}\n"]
    if comparison := _comparison(described):
        parts += ["## Comparison\n", markdown_table(comparison)]
    for one in described:
        parts += [f"## {one.run.name}\n"] if len(described) > 1 else []
        parts.append("".join(f"- {name}: {_code(name, value)}\n" for name, value in one.facts))
        parts += ["### Results\n", markdown_table(one.results), *map(markdown_table, one.papers)]
        if one.outcomes:
            parts += ["### Teacher and student\n", markdown_table(one.outcomes)]
        for student in one.students:
            parts.append(markdown_table(_pairs(student, one.class_names)))
        if one.per_class:
            parts += ["### Accuracy by class\n", markdown_table(one.per_class)]
        parts += [f"{text}\n" for text in (one.left_out, one.remark) if text]
    return "\n".join(parts)


def _code(name: str, value: str) -> str:
    return f"`{value}`" if name in ("Command", "Commit", "Folder") else value


def _title(described: Sequence[Described]) -> str:
    if len(described) == 1:
        return described[0].run.name
    return f"{len(described)} runs"


def _comparison(described: Sequence[Described]) -> Cells | None:
    return compared([one.run for one in described]) if len(described) > 1 else None


def _pairs(student: Student, names: Sequence[str]) -> Cells:
    """The most frequent confusions of a phase."""
    rows = [
        [names[pair.teacher], names[pair.student], f"{pair.images:,}"]
        for pair in student.confusion.pairs
    ]
    caption = f"Where {student.phase} most often disagrees with {student.teachers}"
    caption += f", summed over {student.seeds} seeds." if student.seeds > 1 else "."
    return Cells(caption, ["teacher's class", "student's class", "images"], rows)


_FIGURE = re.compile(r"[-+\N{MINUS SIGN}~.]?\d")


def _numeric(table: Cells) -> list[bool]:
    """Whether a column has figures, which are aligned at the right."""
    columns = [[cell for cell in column if cell] for column in zip(*table.rows, strict=True)]
    return [
        bool(cells) and all(_FIGURE.match(cell) for cell in cells) and i > 0
        for i, cells in enumerate(columns or [[]] * len(table.headings))
    ]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.report", "templates"),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"numeric": _numeric, "percent": lambda share: f"{share:.1%}"}
    environment.globals |= {"pairs": _pairs}
    return environment
