"""What a run says: metrics.jsonl, TensorBoard events, the terminal, curves and the table."""

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import files, seeds

_TABLE = (
    ("test accuracy", "accuracy", ".2%"),
    ("nll", "nll", ".3f"),
    ("ece", "ece", ".3f"),
    ("agreement", "agreement", ".2%"),
    ("KL to teacher", "kl", ".4f"),
)


class Bar:
    """The progress bar of a phase, all seeds together; where there is no terminal, none."""

    def __init__(self, name: str, *, start: int, total: int, console: Console):
        """Shows it at step `start` of `total`."""
        self.name, self.console = name, console
        self._progress = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[state]}"),
                TimeRemainingColumn(),
            )  # fmt: skip
            self._progress = Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task(
                name, total=total, completed=start, state="compiling"
            )
            self._progress.start()

    @property
    def shown(self) -> bool:
        """Whether there is a terminal."""
        return self._progress is not None

    def advance(self, step: int) -> None:
        """Moves it."""
        if self._progress:
            self._progress.update(self._task, completed=step)

    def note(self, text: str) -> None:
        """Sets what stands beside it."""
        if self._progress:
            self._progress.update(self._task, state=text)

    def close(self) -> None:
        """Removes it."""
        if self._progress:
            self._progress.stop()


class PhaseLog:
    """The log of one phase, on disk and on the terminal."""

    def __init__(self, folder: Path, *, name: str, start: int, total: int, bar: "Bar"):
        """Opens the log at step `start`, forgetting what an interrupted run logged beyond it."""
        from tensorboardX import SummaryWriter

        self._folder, self._path = folder, folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self._path) if row["step"] <= start]
        files.write(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(self._path, "a")  # noqa: SIM115
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._name, self._total, self._bar = name, total, bar

    def write(self, row: dict[str, Any]) -> None:
        """Logs one object; it is on disk when this returns."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in row.items():
            if key != "step":
                self._events.add_scalar(key, value, row["step"])
        self._events.flush()
        speed = f"{row['images_per_second']:,.0f} images/s" if row.get("images_per_second") else ""
        self._bar.note(speed)
        shown = [f"{key} {row[key]:.4g}" for key in row if key in ("train/loss", "train/accuracy")]
        shown += [
            f"{key} {row[key]:.4f}"
            for key in row
            if key.endswith("/accuracy") and "train" not in key
        ]
        shown += [f"{key} {row[key]:.4f}" for key in row if key.endswith("/agreement")]
        line = f"{self._name:<18} step {row['step']:>6}/{self._total}  "
        if "epoch" in row:
            line += f"epoch {row['epoch']:6.2f}  "
        # On a terminal the bar shows the progress; only evaluations stay on the screen.
        if not self._bar.shown or any(key.startswith("test/") for key in row):
            eta = f"  ETA {row['eta_seconds']:.0f} s" if row.get("eta_seconds") else ""
            self._bar.console.print(
                line + "  ".join([*shown, speed]).strip() + eta, highlight=False, soft_wrap=True
            )

    def picture(self, step: int, image: np.ndarray) -> None:
        """Keeps a picture, uint8 [h, w, c], and shows all kept so far below each other."""
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        files.write(folder / f"{step:08d}.png", _png(image))
        kept = sorted(path for path in folder.glob("*.png") if int(path.stem) <= step)
        rows = [np.asarray(Image.open(path)).reshape(image.shape) for path in kept]
        files.write(self._folder / "pictures.png", _png(np.concatenate(rows)))
        self._events.add_image("pictures", image, step, dataformats="HWC")

    def close(self) -> None:
        """Ends the log."""
        self._file.close()
        self._events.close()


def _png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "png")
    return content.getvalue()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a metrics.jsonl; a line cut short by a kill is left out."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


_HEADINGS = ("phase", "model", "parameters", *(heading for heading, _, _ in _TABLE))
_HEADINGS += ("images/s", "seconds")


class Cells(NamedTuple):
    """A table, before it is drawn: words in the first two columns, figures in the others.

    Attributes:
      caption: may be "".
      headings: of the columns.
      rows: of cells.
    """

    caption: str
    headings: Sequence[str]
    rows: list[list[str]]


def tables(summary: Mapping[str, Any]) -> list[Cells]:
    """The phases of a summary, and the tables of its config's `report`, filled in.

    Phases that differ in the number after `_seed` alone are one: mean and deviation, of
    those that did not diverge. A cell
    of `report` is a format string of the phases, `{kd[test][accuracy]:.2%}`, and empty where
    there is no such figure.
    """
    groups: dict[str, list[Any]] = {}
    for name, phase in summary["phases"].items():
        groups.setdefault(seeds.base(name), []).append(phase)
    figures = _Phases({name: _Figures(phases) for name, phases in groups.items()})
    rows = []
    for name, phases in groups.items():
        cells = [format(figures[name]["test"][key], form) for _, key, form in _TABLE]
        rows.append(
            [
                name + _remark(phases),
                phases[0]["model"],
                f"{phases[0]['parameters']:,}",
                *cells,
                f"{figures[name]['images_per_second']:,.0f}" if phases[0]["steps"] else "",
                f"{sum(phase['seconds'] for phase in phases):.0f}",
            ]
        )
    papers = [
        Cells(
            one["caption"],
            one["columns"],
            [[cell.format_map(figures) for cell in row] for row in one["rows"]],
        )
        for one in summary["config"]["report"].values()
    ]
    return [Cells("", _HEADINGS, rows), *papers]


def _remark(phases: list[Any]) -> str:
    """How many seeds a row stands for, and how many of them its figures leave out."""
    diverged = sum("diverged" in phase for phase in phases)
    if len(phases) == 1:
        return " (diverged)" if diverged else ""
    return f" ({len(phases)} seeds{f', {diverged} diverged' if diverged else ''})"


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the tables of a summary."""
    for caption, headings, rows in tables(summary):
        view = Table(title=caption or None, title_justify="left")
        for i, heading in enumerate(headings):
            view.add_column(heading, justify="left" if i < 2 else "right")
        for row in rows:
            view.add_row(*row)
        console.print(view)


def markdown(summary: Mapping[str, Any]) -> str:
    """The same tables, ready for a document."""
    parts = []
    for caption, headings, rows in tables(summary):
        rules = ["---" if i < 2 else "---:" for i in range(len(headings))]
        lines = "".join("| " + " | ".join(line) + " |\n" for line in (headings, rules, *rows))
        parts.append(f"{caption}\n\n{lines}" if caption else lines)
    return "\n".join(parts)


def write(summary: Mapping[str, Any], workdir: Path) -> None:
    """Writes table.md and curves.png of the phases that a summary has so far."""
    files.write(workdir / "table.md", markdown(summary).encode())
    draw_curves(workdir, list(summary["phases"]))


class _Figures:
    """One figure of all seeds of a phase: formatted, their mean and sample deviation."""

    def __init__(self, values: Sequence[Any]):
        self._values = values

    def __getitem__(self, key: str) -> "_Figures":
        return _Figures([value[key] for value in self._values if key in value])

    def __format__(self, form: str) -> str:
        if not self._values:
            return ""
        mean = format(statistics.mean(self._values), form)
        if len(self._values) == 1:
            return mean
        return f"{mean} ± {format(statistics.stdev(self._values), form)}"


class _Phases(dict[str, _Figures]):
    """Figures by phase; of a phase that is not there, none."""

    def __missing__(self, name: str) -> _Figures:
        return _Figures([])


def draw_curves(workdir: Path, phases: list[str]) -> None:
    """Writes curves.png: the test accuracy of each phase, and the agreement with its teacher."""
    from matplotlib.figure import Figure

    rows = {phase: read_metrics(workdir / phase / "metrics.jsonl") for phase in phases}
    # A phase without data has pseudo-batches instead of epochs.
    units = {phase: "epoch" if any("epoch" in r for r in rows[phase]) else "step" for phase in rows}
    panels = [
        (key, title, unit)
        for key, title in (
            ("accuracy", "test accuracy"), ("agreement", "test agreement with the teacher")
        )
        for unit in ("epoch", "step")
        if any(units[phase] == unit and f"test/{key}" in r for phase in phases for r in rows[phase])
    ]  # fmt: skip
    if not panels:
        return
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    # The seeds of a phase have one colour and one entry in the legend.
    first = {seeds.base(phase): phase for phase in reversed(phases)}
    colors = {name: f"C{number}" for number, name in enumerate(reversed(first))}
    for i, (key, title, unit) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        late: list[float] = []
        for phase in phases:
            points = (
                [(row[unit], row[f"test/{key}"]) for row in rows[phase] if f"test/{key}" in row]
                if units[phase] == unit
                else []
            )
            if points:
                base = seeds.base(phase)
                label = base if first[base] == phase else None
                axes.plot(*zip(*points, strict=True), label=label, marker=".", color=colors[base])
                late += [value for _, value in points[len(points) // 4 :]]
        # The first rise would press everything that matters into the top of the picture.
        axes.set(title=title, ylim=(min(late) - 0.01, max(late) + 0.01))
        axes.set_xlabel(unit.replace("step", "pseudo-batch"))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    files.write(workdir / "curves.png", png.getvalue())
