"""Runs the same configs on several layouts of processes and devices and compares their figures.

    python -m benchmarks.layouts [--kinds=kd,crd]

A layout is processes x devices of each: 1x1, 1x2 and 2x1 (`experiments.launch`), here of CPU cores.
The losses in every row of every metrics.jsonl and the accuracies in summary.json are compared with
those of 1x1; the largest relative difference of a loss is printed, in the first logged rows and in
all. `resumed` is a run that is stopped on 2x1 in its student's first steps and goes on on 1x2. The
learning rate is small, so that differences of rounding grow little. Ends with status 1 if an
accuracy differs or a loss is no number.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.figures import figures, kinds
from experiments.log import read_metrics

_KINDS = flags.DEFINE_list("kinds", [], "Kinds of phases; all by default.")

_SMALL = (
    "--config.train.batch_size=32", "--config.data.train_examples=320", "--config.log_every=1",
    "--config.train.steps=10", "--config.eval_every=1",
    "--config.train.optimizer.learning_rate=1e-3",
)  # fmt: skip
_DISTILL = "--config=configs/distill.py:teacher=resnet8,student=resnet8,scratch=0"
# The arguments of a run of each kind.
KINDS: dict[str, tuple[str, ...]] = {
    "kd": (_DISTILL, *_SMALL),
    "crd": (f"{_DISTILL},methods=crd", *_SMALL),
    "rkd": (f"{_DISTILL},methods=rkd", *_SMALL),
    "function_matching": (
        "--config=configs/function_matching.py", *_SMALL, "--config.teacher.model=resnet8",
        "--config.student.model=resnet8",
    ),
    "zero_shot": (
        "--config=configs/zero_shot.py", "--config.teacher.steps=10", "--config.log_every=1",
        "--config.student.steps=2", "--config.student.batch_size=32",
        "--config.teacher.optimizer.learning_rate=1e-3",
        "--config.student.optimizer.learning_rate=1e-6",
        "--config.phases.zero_shot.adversarial.learning_rate=1e-6",
    ),
}  # fmt: skip
LAYOUTS = ((1, 1), (1, 2), (2, 1))


def start(kind: str, layout: tuple[int, int], folder: Path) -> subprocess.Popen[str]:
    """Starts a run on a layout, or resumes it."""
    processes, devices = layout
    command = ["experiments.main"]
    if processes > 1:
        command = ["experiments.launch", f"--processes={processes}", "--"]
    given = f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false"
    return subprocess.Popen(
        [sys.executable, "-m", *command, *KINDS[kind], f"--workdir={folder}"],
        env=os.environ | {"XLA_FLAGS": given},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for a run; ends this program if it fails."""
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args} ended with status {process.returncode}: {errors[-1000:]}")


def stop_in_the_middle(kind: str, layout: tuple[int, int], folder: Path) -> None:
    """Runs until the student's first step is logged, and stops."""
    process = start(kind, layout, folder)
    while process.poll() is None:
        done = [read_metrics(path) for path in folder.glob("*/metrics.jsonl")]
        if len(done) > 1 and all(rows for rows in done):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    _, errors = process.communicate()
    if process.returncode != 128 + signal.SIGTERM:
        sys.exit(f"{kind} was not stopped: status {process.returncode}: {errors[-1000:]}")


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in a tree, by their path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{path}/{i}")
    elif isinstance(value, (int, float)):
        yield path, float(value)


def difference(one: Any, other: Any, of: str = "") -> tuple[float, str]:
    """The largest relative difference of two trees' numbers, and where it is.

    Args:
      one: a tree.
      other: of the same structure.
      of: what the path of a number that counts contains.
    """
    first, second = (dict(numbers(tree)) for tree in (one, other))
    if first.keys() != second.keys():
        return math.inf, f"{sorted(first.keys() ^ second.keys())[0]} is in one only"
    found = [(abs(x - second[k]) / max(abs(x), 1e-8), k) for k, x in first.items() if of in k]
    return max(((x if math.isfinite(x) else math.inf, k) for x, k in found), default=(0.0, ""))


def main(_: Sequence[str]) -> None:
    """Prints the table."""
    chosen = kinds(_KINDS.value, KINDS)
    print(
        "| kind | layout | first rows | losses of all rows | accuracies |",
        "|---|---|---:|---:|---|",
        sep="\n",
    )
    failed = False
    for kind in chosen:
        with tempfile.TemporaryDirectory() as temporary:
            expected: Any = None
            for layout in (*LAYOUTS, None):
                folder = Path(temporary, f"{layout}")
                if layout is None:
                    stop_in_the_middle(kind, (2, 1), folder)
                    finish(start(kind, (1, 2), folder))
                else:
                    finish(start(kind, layout, folder))
                found = figures(folder)
                if expected is None:
                    expected = found
                    continue
                rows, others = expected["rows"], found["rows"]
                begun = {name: rows[name][0] for name in rows if rows[name]}
                first = difference(begun, {name: others[name][0] for name in begun}, "loss")
                losses = difference(rows, others, "loss")
                accuracies = difference(expected["summary"], found["summary"], "accuracy")
                name = f"{layout[0]}x{layout[1]}" if layout else "resumed"
                exact = accuracies[0] == 0
                failed |= not exact or losses[0] == math.inf
                said = "equal" if exact else f"differ by {accuracies[0]:.1e} at {accuracies[1]}"
                print(
                    f"| {kind} | {name} | {first[0]:.1e} | {losses[0]:.1e} | {said} |", flush=True
                )


if __name__ == "__main__":
    app.run(main)
