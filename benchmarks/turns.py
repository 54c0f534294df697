"""Processes that are compared: each stays alive, and they take turns.

A shared machine drifts by half within seconds: what is measured one after the other is
measured on two machines. Here each process starts once, waits for a line on its standard
input, measures for about a second, prints one number, and waits again.
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

_TURNS = flags.DEFINE_integer("turns", 20, "Turns that count.", lower_bound=2)
_WARM = flags.DEFINE_integer("warm_turns", 5, "Turns before those, which do not.", lower_bound=1)
_SERVE = flags.DEFINE_bool("serve", False, "For the benchmarks' own use: measure once a line.")

# Between turns, so that threads that spin while they wait have gone to sleep.
_PAUSE = 0.2  # seconds
# They share a GPU's memory, which by default the first takes for itself.
_TOGETHER = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def repetitions(count: int) -> Iterator[bool]:
    """In the process that is measured: for every repetition, whether it counts.

    Of `count` + 1 all but the first, which warms up; where others take turns, one a line of
    standard input.
    """
    if not _SERVE.value:
        yield from (i > 0 for i in range(count + 1))
        return
    for _ in sys.stdin:
        yield True


def last_line(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a benchmark prints last, in a process of its own.

    Raises:
      UserError: if it fails; why, it has said on standard error.
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
    """Runs every command as a process, in turns.

    Args:
      commands: by name, what follows `python -m`: benchmarks that print one line for each of
        their `repetitions`, which begins with a number.
      environments: what is set for some of them.

    Returns:
      The numbers of each, as many as there are turns, and what each printed last.

    Raises:
      UserError: if one fails.
    """
    processes: dict[str, _Process] = {}
    numbers: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for name, command in commands.items():
            given = {**_TOGETHER, **(environments or {}).get(name, {})}
            processes[name] = _Process([*command, "--serve"], given)
            for _ in range(_WARM.value):
                processes[name].turn()
        for _ in range(_TURNS.value):
            for name, process in processes.items():
                time.sleep(_PAUSE)
                numbers[name].append(process.turn())
        return numbers, {name: process.last_line() for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()


def report(numbers: Mapping[str, Sequence[float]], unit: str, digits: int = 0) -> dict[str, float]:
    """Prints the median and quartiles of each; returns how the first compares with the others.

    That is the median of the quotients of one turn, `FIRST_over_NAME`.
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
    """`python -m command`, which decides about its host itself, as a user's run would."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None):
        self._command = " ".join(command)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | {"XLA_FLAGS": ""} | dict(environment or {}), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def turn(self) -> float:
        """Lets it measure once."""
        assert self._process.stdin
        assert self._process.stdout
        # One that has failed reads nothing; then there is no line to be read either.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return float(line.split()[0].replace(",", ""))

    def last_line(self) -> str:
        """Lets it come to its end."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            self._fail()
        return output.strip().rpartition("\n")[2]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _fail(self) -> NoReturn:
        raise UserError(f"{self._command} failed with status {self._process.wait()}")
