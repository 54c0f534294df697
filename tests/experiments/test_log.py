"""What is shown of a running phase, on a terminal of 80 columns and elsewhere."""

import io
import re

import pytest
from rich.console import Console
from small_run import small_config

from experiments import run
from experiments.log import Bar, PhaseLog

ROW = {
    "step": 157, "epoch": 251.2, "images_per_second": 1234.5, "eta_seconds": 61.0,
    "train/accuracy": 0.8795, "train/loss": 0.2712, "test/accuracy": 0.9396,
    "train/agreement": 0.9152, "test/agreement": 0.9513,
}  # fmt: skip


def printed(folder, *, terminal, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    bar = Bar("function_matching", start=0, total=157, console=console)
    log = PhaseLog(folder, name="function_matching_seed0", start=0, total=157, bar=bar)
    log.write(ROW)
    if terminal:
        bar._progress.refresh()
    log.close()
    bar.close()
    # Without what moves the cursor.
    return re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", console.file.getvalue())


def test_a_logged_row_is_folded_between_figures_on_a_terminal(tmp_path):
    rows = printed(tmp_path, terminal=True, width=80).replace("\r", "\n").splitlines()
    rows = [row for row in rows if "/accuracy" in row or "images/s" in row or "/agreement" in row]
    assert max(map(len, rows)) <= 80
    text = "\n".join(rows)
    for key in ("train/accuracy 0.8795", "test/accuracy 0.9396", "test/agreement 0.9513"):
        assert key in text
    assert "1,234 images/s" in text
    assert "ETA 61 s" in text


def test_elsewhere_it_is_one_line(tmp_path):
    (line,) = printed(tmp_path, terminal=False, width=80).splitlines()
    assert line == (
        "function_matching_seed0 step    157/157  epoch 251.20  train/accuracy 0.8795  train/loss "
        "0.2712  test/accuracy 0.9396  train/agreement 0.9152  test/agreement 0.9513  "
        "1,234 images/s  ETA 61 s"
    )


def test_nothing_compiles_when_the_bar_has_moved(tmp_path, monkeypatch):
    shown = []

    class Recorded(Bar):
        """Keeps what is beside the bar whenever it moves."""

        state = "compiling"

        def note(self, text):
            self.state = text

        def advance(self, step):
            shown.append((step, self.state))

    monkeypatch.setattr("experiments.train_loop.Bar", Recorded)
    monkeypatch.setattr("experiments.report.write", lambda *_: None)
    config = small_config()
    config.train.steps = 2
    del config.phases["scratch"], config.phases["kd"]
    console = Console(file=io.StringIO(), width=80)
    summary = run.run(run.resolve(config), tmp_path / "run", console, command="python -m x")
    assert [step for step, _ in shown] == [1, 2]
    assert "compiling" not in [state for _, state in shown]
    assert summary["command"] == "python -m x"
    # 500 images in batches of 32.
    assert summary["phases"]["teacher"]["epochs"] == pytest.approx(2 * 32 / 500)
