"""The log of a running phase: metrics.jsonl, trackers, pictures and the terminal."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import lines
from experiments.trackers import Tracker
from kdjax import files, processes


class Bar:
    """The progress bar of a phase, shared by its members; shown only on a terminal."""

    def __init__(self, name: str, *, start: int, total: int, console: Console):
        """Shows the bar at step `start` of `total`."""
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
        """Whether there is a terminal to show it on."""
        return self._progress is not None

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._progress:
            self._progress.update(self._task, completed=step)

    def note(self, text: str) -> None:
        """Replaces the text beside the bar."""
        if self._progress:
            self._progress.update(self._task, state=text)

    def close(self) -> None:
        """Removes the bar."""
        if self._progress:
            self._progress.stop()


class PhaseLog:
    """The log of one member of a phase, on disk and on the terminal.

    Attributes:
      evaluations: the logged rows of all evaluations so far, in order.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        start: int,
        total: int,
        bar: Bar,
        trackers: Sequence[Tracker] = (),
    ):
        """Opens the log at step `start` and drops what an interrupted run logged after it."""
        self._folder, self._path = folder, folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self._path) if row["step"] <= start]
        self.evaluations = [row for row in kept if _is_evaluation(row)]
        files.write(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        # Of several processes only the first one writes.
        self._file = open(self._path if processes.is_main() else os.devnull, "a")  # noqa: SIM115
        self._trackers = trackers
        self._name, self._total, self._bar = name, total, bar

    def write(self, row: dict[str, Any]) -> None:
        """Logs one row; it is on disk when this returns."""
        if _is_evaluation(row):
            self.evaluations.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        figures = {key: value for key, value in row.items() if key != "step"}
        for tracker in self._trackers:
            tracker.log(figures, row["step"])
        speed = f"{row['images_per_second']:,.0f} images/s" if row.get("images_per_second") else ""
        self._bar.note(speed)
        # On a terminal the bar shows the progress, and only evaluations stay on the screen.
        if not self._bar.shown or _is_evaluation(row):
            for line in self._lines(row, speed):
                lines.show(line, self._bar.console)

    def _lines(self, row: dict[str, Any], speed: str) -> list[str]:
        """A row as one line, or on a terminal as many as whole words and numbers need."""
        shown = [f"{key} {row[key]:.4g}" for key in row if key in ("train/loss", "train/accuracy")]
        for figure in ("accuracy", "agreement"):
            shown += [
                f"{key} {row[key]:.4f}"
                for key in row
                if key.endswith(f"/{figure}") and key != "train/accuracy"
            ]
        name = f"{self._name:<18} "
        step = f"step {row['step']:>6}/{self._total}"
        epoch = f"epoch {row['epoch']:6.2f}" if "epoch" in row else ""
        eta = f"ETA {row['eta_seconds']:.0f} s" if row.get("eta_seconds") else ""
        chunks = list(filter(None, [step, epoch, *shown, speed, eta]))
        if not self._bar.shown:
            return [name + "  ".join(chunks)]
        indent = " " * min(len(name), 19)
        first, *rest = lines.fold(chunks, self._bar.console.width - len(name), "  ")
        return [name + first, *(indent + line for line in rest)]

    def picture(self, step: int, image: np.ndarray) -> None:
        """Keeps a picture, uint8 [h, w, c], and shows all that are kept below each other."""
        if not processes.is_main():
            return
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        files.write(folder / f"{step:08d}.png", _png(image))
        kept = sorted(path for path in folder.glob("*.png") if int(path.stem) <= step)
        rows = [np.asarray(Image.open(path)).reshape(image.shape) for path in kept]
        files.write(self._folder / "pictures.png", _png(np.concatenate(rows)))
        for tracker in self._trackers:
            tracker.picture(image, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _is_evaluation(row: dict[str, Any]) -> bool:
    return any(key.startswith(("validation/", "test/")) for key in row)


def _png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "png")
    return content.getvalue()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without lines that a kill has cut short or that are damaged."""
    rows = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError):
                continue
            if (
                isinstance(row, dict)
                and isinstance(row.get("step"), int)
                and all(isinstance(value, (int, float)) for value in row.values())
            ):
                rows.append(row)
    return rows
