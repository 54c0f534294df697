"""Compares processes by letting them measure in turns.

The speed of a shared machine can change by half within seconds, so measurements made one after
the other are not comparable. Here each process is started once, waits for a line on its
standard input, measures for about a second, prints one number, and waits again.

The same program can also be faster in one process than in another, from start to end. With
`--processes=N`, each is started N times, every second time in reversed order.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from absl import flags

from kdjax.types import UserError

_TURNS = flags.DEFINE_integer("turns", 20, "Turns to measure.", lower_bound=2)
_WARM = flags.DEFINE_integer("warm_turns", 5, "Turns to discard before those.", lower_bound=1)
_PROCESSES = flags.DEFINE_integer("processes", 1, "Times to start each process.", lower_bound=1)
_SERVE = flags.DEFINE_bool("serve", False, "Internal: measure once per line of standard input.")

# Seconds between turns, after which spinning threads have gone to sleep.
_PAUSE = 0.2
# Processes share a GPU's memory, which the first would otherwise allocate for itself.
_TOGETHER = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def repetitions(count: int) -> Iterator[bool]:
    """Yields, for every repetition of the process being measured, whether it counts.

    There are `count` + 1 repetitions, of which the first is a warm-up. If several processes
    take turns, there is one repetition per line of standard input, and all of them count.
    """
    if not _SERVE.value:
        yield from (i > 0 for i in range(count + 1))
        return
    for _ in sys.stdin:
        yield True


def last_line(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Runs a benchmark in a process of its own and returns the last line it prints.

    Raises:
      UserError: if it fails, with the reason on its standard error.
    """
    process = _Process(command, environment)
    try:
        return process.last_line()
    finally:
        process.kill()


def take(
    commands: Mapping[str, Sequence[str]],
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Runs commands as processes that measure in turns.

    Args:
      commands: arguments of `python -m` by name. Each is a benchmark that prints one line,
        beginning with a number, for each of its `repetitions`.
      environments: additional environment variables by name.

    Returns:
      The numbers of each command, one per turn of each of its processes, and the last line of
      its last process.

    Raises:
      UserError: if a command fails.
    """
    numbers: dict[str, list[float]] = {name: [] for name in commands}
    last: dict[str, str] = {}
    for count in range(_PROCESSES.value):
        processes: dict[str, _Process] = {}
        try:
            for name in reversed(commands) if count % 2 else commands:
                given = {**_TOGETHER, **(environments or {}).get(name, {})}
                processes[name] = _Process([*commands[name], "--serve"], given)
                for _ in range(_WARM.value):
                    processes[name].turn()
            for _ in range(_TURNS.value):
                for name, process in processes.items():
                    time.sleep(_PAUSE)
                    numbers[name].append(process.turn())
            last = {name: process.last_line() for name, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
    return numbers, last


def report(numbers: Mapping[str, Sequence[float]], unit: str, digits: int = 0) -> dict[str, float]:
    """Prints median and quartiles of each; returns the ratios of the first to the others.

    A ratio, `FIRST_over_NAME`, is the median over turns of the quotient within a turn.
    """
    first = next(iter(numbers))
    ratios = {}
    for name, values in numbers.items():
        low, median, high = (f"{q:,.{digits}f}" for q in statistics.quantiles(values, n=4))
        line = f"{name:<22} {median:>9} {unit}   (quartiles {low} and {high})"
        if name != first:
            quotients = [a / b for a, b in zip(numbers[first], values, strict=True)]
            ratio = ratios[f"{first}_over_{name}"] = statistics.median(quotients)
            line += f"   {first} / {name}: {ratio:.2f}"
        print(line)
    return ratios


class _Process:
    """`python -m command`, which configures its host itself, as a user's run does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None):
        self._command = " ".join(command)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | {"XLA_FLAGS": ""} | dict(environment or {}), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def turn(self) -> float:
        """Measures once."""
        assert self._process.stdin
        assert self._process.stdout
        # A process that has failed reads nothing, and then prints no line either.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return float(line.split()[0].replace(",", ""))

    def last_line(self) -> str:
        """Waits for the end of the process and returns the last line it printed."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            self._fail()
        return output.strip().rpartition("\n")[2]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _fail(self) -> NoReturn:
        raise UserError(f"{self._command} failed with status {self._process.wait()}")
