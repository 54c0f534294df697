"""Starts several processes on this machine that train together, and supervises them.

    python -m experiments.launch --processes=N -- --config=configs/NAME.py[:arguments] ...

What follows `--` is as for `python -m experiments.main`. Each process has its part of the cores, or
of the GPUs. If one ends before its time, the others are ended; the same command resumes.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from experiments import cli
from kdjax import host
from kdjax.types import UserError

# Seconds that the others have to end by themselves, and then to end when asked.
_GRACE = 2.0
_POLL = 0.1
# Exit statuses of a process that was asked to stop, and has.
_STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}
_PR_SET_PDEATHSIG = 1


class Process(NamedTuple):
    """A process of a run.

    Attributes:
      running: the process.
      errors: what it writes to standard error; None for the first one, which has the terminal.
    """

    running: subprocess.Popen[bytes]
    errors: IO[bytes] | None

    @property
    def last_line(self) -> str:
        """The last line of `errors`, or ""."""
        if self.errors is None:
            return ""
        self.errors.seek(0)
        return (self.errors.read().decode(errors="replace").strip().splitlines() or [""])[-1]


def parts(items: Sequence[int], n: int) -> list[list[int]]:
    """Cuts items into n equal parts, the rest left over; fewer than n are shared."""
    if items and len(items) < n:
        return [[items[i % len(items)]] for i in range(n)]
    size = len(items) // n
    return [list(items[i * size : (i + 1) * size]) for i in range(n)]


def start(arguments: Sequence[str], n: int) -> list[Process]:
    """Starts n processes of `experiments.main` that find each other.

    Args:
      arguments: of each of them.
      n: how many.

    Raises:
      UserError: if there are GPUs, but not one for each.
    """
    gpus = host.visible_gpus()
    if 0 < len(gpus) < n:
        raise UserError(f"processes is {n}: there are {len(gpus)} GPUs, and each needs one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cores = parts(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], n)
    gpus_of = parts(range(len(gpus)), n)
    processes = []
    for i in range(n):
        environment = dict(os.environ)
        if gpus_of[i]:
            # Numbers among those that are visible.
            environment["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, gpus_of[i]))
        errors = tempfile.TemporaryFile() if i else None  # noqa: SIM115
        running = subprocess.Popen(
            [
                sys.executable, "-m", "experiments.main", *arguments,
                f"--coordinator_address={address}", f"--num_processes={n}", f"--process_id={i}",
            ],
            env=environment,
            stdout=subprocess.DEVNULL if i else None,
            stderr=errors,
            # Ctrl-C reaches them through this process alone.
            start_new_session=True,
            preexec_fn=_prepare(cores[i]),
        )  # fmt: skip
        processes.append(Process(running, errors))
    return processes


def _prepare(cores: Sequence[int]) -> Callable[[], None]:
    """What a new process does first: it keeps to its cores, and stops if this process is killed."""

    def prepare() -> None:
        if cores:
            os.sched_setaffinity(0, cores)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


def _signal(processes: Sequence[Process], number: int) -> None:
    for one in processes:
        if one.running.poll() is None:
            one.running.send_signal(number)


def _wait(processes: Sequence[Process], seconds: float) -> None:
    """Waits until all have ended, for so long at most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(one.running.poll() is None for one in processes):
        time.sleep(_POLL)


def supervise(processes: Sequence[Process]) -> int:
    """Waits for processes, and ends all of them soon after one has failed.

    Returns:
      The exit status of the run, which is that of the first one that failed, if one has.
    """
    while True:
        statuses = [one.running.poll() for one in processes]
        failed = [i for i, status in enumerate(statuses) if status and status not in _STOPPED]
        if failed or None not in statuses:
            break
        time.sleep(_POLL)
    if not failed:
        return max(status or 0 for status in statuses)
    _wait(processes, _GRACE)
    # One that has lost another may have ended before that one was seen to have.
    ended = {i: status for i, one in enumerate(processes) if (status := one.running.poll())}
    first = min(ended, key=lambda i: (ended[i] > 0, ended[i] in (cli.LOST, *_STOPPED)))
    status = ended[first]
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(processes, number)
        _wait(processes, _GRACE)
    for one in processes:
        one.running.wait()
    if {one.running.returncode for one in processes} == {status} and status > 0:
        # All failed alike, and process 0 has printed why.
        return status
    if first == 0 and status == cli.MISTAKE:
        # It has printed it, and the others have lost it.
        return status
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    said = processes[first].last_line
    print(
        f"error: process {first} of {len(processes)} {how}{f' ({said})' if said else ''}, and so "
        "all were ended; the same command resumes",
        file=sys.stderr,
    )
    return status if status > 0 else 128 - status


def main(argv: Sequence[str]) -> int:
    """Starts and supervises the processes that the arguments ask for."""
    parser = cli.ArgumentParser(
        prog="python -m experiments.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("arguments", nargs="+", help="of experiments.main, after --")
    given = parser.parse_args(argv)
    if given.processes < 1:
        raise UserError(f"processes is {given.processes}: it is a positive number")
    processes = start(given.arguments, given.processes)
    try:
        with cli.handling_stops(lambda number: _signal(processes, number)):
            return supervise(processes)
    finally:
        _signal(processes, signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(cli.fail(str(error)))
