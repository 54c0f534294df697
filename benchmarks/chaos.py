"""Kills runs at random moments and compares what they end with to the undisturbed run.

    python -m benchmarks.chaos [--kinds=kd,seeds] [--kills=20] [--signals=20] [--seed=0]

For each kind of phase, a small run on the digits is made twice without disturbance. `processes` is
`kd` on two processes (`experiments.launch`), one of which is killed, at random. Then runs of
the same config are started, killed after a random time (SIGKILL, or SIGTERM and SIGINT in turn),
started again and so on until they finish, until there were as many kills and signals as were asked
for. Every figure of summary.json and every row of every metrics.jsonl must be that of the
undisturbed run; times are not compared. Prints a table, and ends with status 1 if anything differs.
"""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.figures import figures, kinds

_KINDS = flags.DEFINE_list("kinds", [], "Kinds of phases; all by default.")
_KILLS = flags.DEFINE_integer("kills", 20, "Times that a run of each kind gets SIGKILL.")
_SIGNALS = flags.DEFINE_integer("signals", 20, "Times that a run of each kind gets a signal.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")

_SMALL = (
    "--config.train.batch_size=16", "--config.data.train_examples=80", "--config.log_every=2",
    "--config.train.steps=60", "--config.eval_every=2",
)  # fmt: skip
_DISTILL = "--config=configs/distill.py:teacher=resnet8,student=resnet8"
# The arguments of a run of each kind.
KINDS: dict[str, tuple[str, ...]] = {
    "kd": (_DISTILL, *_SMALL),
    "crd": (f"{_DISTILL},methods=crd+kd", *_SMALL),
    "ab": (f"{_DISTILL},methods=ab", *_SMALL),
    "ft": (f"{_DISTILL},methods=ft", *_SMALL),
    "seeds": (_DISTILL, *_SMALL, "--config.seeds=0,1"),
    "best": (
        _DISTILL, *_SMALL, "--config.data.validation=0.2", "--config.train.select=best",
        "--config.train.ema_decay=0.9", "--config.student.shots=3",
    ),
    "processes": (_DISTILL, *_SMALL),
    "zero_shot": (
        "--config=configs/zero_shot.py", "--config.teacher.steps=20", "--config.log_every=2",
        "--config.student.steps=8", "--config.student.batch_size=16",
    ),
}  # fmt: skip
# How many processes a run of a kind has, where it is more than one.
PROCESSES = {"processes": 2}


def start(kind: str, folder: Path) -> subprocess.Popen[str]:
    """Starts a run, or resumes it."""
    command = ["experiments.main"]
    if kind in PROCESSES:
        command = ["experiments.launch", f"--processes={PROCESSES[kind]}", "--"]
    return subprocess.Popen(
        [sys.executable, "-m", *command, *KINDS[kind], f"--workdir={folder}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def victim(process: subprocess.Popen[str], number: signal.Signals, rng: random.Random) -> int:
    """Which process gets a signal: of several that train together, SIGKILL is for one of them."""
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if number == signal.SIGKILL and "experiments.launch" in process.args and workers:
        return int(rng.choice(workers))
    return process.pid


def disturb(
    kind: str, folder: Path, numbers: Iterator[signal.Signals], longest: float, rng: random.Random
) -> int:
    """Runs a kind to its end in spite of signals; returns how many arrived before it.

    Args:
      kind: of `KINDS`.
      folder: of the run.
      numbers: the signals, of which one is taken for each start; without another, the run is left
        alone.
      longest: seconds after which a signal is sent, at most.
      rng: of the moments.

    Raises:
      RuntimeError: if a run ends in another way than it should.
    """
    arrived = 0
    while True:
        number = next(numbers, None)
        process = start(kind, folder)
        if number is not None:
            try:
                process.wait(timeout=rng.uniform(0, longest))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim(process, number, rng), number)
                    arrived += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            return arrived
        allowed = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + 15, 128 + 2, 128 + 9)
        if number is None or process.returncode not in allowed:
            raise RuntimeError(f"{kind} ended with status {process.returncode}: {errors[-500:]}")


def main(_: Sequence[str]) -> None:
    """Prints the table."""
    chosen = kinds(_KINDS.value, KINDS)
    print(
        "| kind | SIGKILL | SIGTERM, SIGINT | runs | figures and rows |",
        "|---|---:|---:|---:|---|",
        sep="\n",
    )
    different = False
    for kind in chosen:
        rng = random.Random(f"{kind}{_SEED.value}")
        with tempfile.TemporaryDirectory() as temporary:
            undisturbed = Path(temporary, "undisturbed")
            # The first run compiles what all others find in the cache; the second is timed.
            for folder in (undisturbed, Path(temporary, "again")):
                began = time.perf_counter()
                _, errors = (process := start(kind, folder)).communicate()
                if process.returncode:
                    sys.exit(f"{kind} ended with status {process.returncode}: {errors[-500:]}")
            longest = time.perf_counter() - began
            expected = figures(undisturbed)
            runs, equal = 0, 0
            if figures(folder) != expected:
                sys.exit(f"{kind}: two undisturbed runs differ")
            counts = {}
            for what, wanted, cycle in (
                ("kills", _KILLS.value, (signal.SIGKILL,)),
                ("signals", _SIGNALS.value, (signal.SIGTERM, signal.SIGINT)),
            ):
                counts[what] = 0
                while counts[what] < wanted:
                    folder = Path(temporary, f"{what}{runs}")
                    numbers = itertools.islice(itertools.cycle(cycle), wanted - counts[what])
                    counts[what] += disturb(kind, folder, numbers, longest, rng)
                    runs += 1
                    equal += figures(folder) == expected
        different |= equal < runs
        verdict = "equal" if equal == runs else f"{runs - equal} runs differ"
        print(
            f"| {kind} | {counts['kills']} | {counts['signals']} | {runs} | {verdict} |", flush=True
        )
    sys.exit(int(different))


if __name__ == "__main__":
    app.run(main)
