"""What the commands share: one line for a mistake, exit status 2, no traceback."""

import argparse
import ast
import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
import rich.console
from absl import app, flags, logging

from kdjax import host, processes
from kdjax.types import UserError, first_line


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it had.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        """Takes the number of the signal."""
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def handling_stops(receive: Callable[[int], None]) -> Iterator[None]:
    """Context in which SIGTERM and SIGINT only call `receive`, with the signal's number."""
    before = {
        number: signal.signal(number, lambda number, _: receive(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that returns which of SIGTERM and SIGINT has arrived first, or 0.

    On a terminal the first one is acknowledged at once: compiling may take a minute.
    """
    received: list[int] = []

    def receive(number: int) -> None:
        if not received and sys.stderr.isatty():
            # A handler may interrupt a print, so it must not print itself.
            os.write(sys.stderr.fileno(), b"\nstopping: what is due is finished and saved first\n")
        received.append(number)

    with handling_stops(receive):
        yield lambda: received[0] if received else 0


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are those of a user."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(message)


class Console(rich.console.Console):
    """Standard output or error; 160 columns where it is no terminal: rich would assume 80."""

    def __init__(self, *, stderr: bool = False) -> None:
        """Looks at the stream; of several processes only the first one has a console."""
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else 160
        super().__init__(stderr=stderr, width=width, quiet=not processes.is_main())

    def on_broken_pipe(self) -> NoReturn:
        """Raises UserError, where rich would end the process without a word."""
        # Otherwise Python complains when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        raise UserError("the output was closed; the same command resumes a run")


# Exit statuses: of a process that has lost another one or has failed, and of a mistake of the user.
LOST, MISTAKE = 1, 2
# Longer messages are cut; a damaged file can make one of megabytes.
_LONGEST = 4000


def fail(message: str) -> int:
    """Prints the one line of an error and returns the exit status."""
    line = " ".join(message.split())
    # What a file says must not control the terminal.
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]} ... ({len(line) - _LONGEST:,} more characters)"
    whose = f"process {processes.index()}: " if processes.count() > 1 else ""
    print(f"{whose}error: {line}", file=sys.stderr)
    return MISTAKE


def guarded(parse: Callable[[], int]) -> int:
    """Parses flags, as `parse` does, and returns its exit status, or that of a mistake in them."""
    try:
        return parse()
    except UserError as error:
        return fail(str(error))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # config_flags lets the config file's own exceptions through.
        return fail(_flag_error(error))


def start(main: Callable[..., None], argv: Sequence[str], *, arguments: bool = False) -> int:
    """Sets up the machine, parses the flags, runs `main` and returns the exit status.

    Args:
      main: the command.
      argv: of the process.
      arguments: whether `main` takes what is given beside the flags; it is refused otherwise.
    """
    logging.set_verbosity(logging.ERROR)
    # An image with an odd tag is read, and a damaged one is an error of its own.
    warnings.filterwarnings("ignore", module="PIL")
    host.set_up_host()
    host.leave_out_shardy()
    app.define_help_flags()
    # Flags may follow what is given beside them.
    flags.FLAGS.set_gnu_getopt(arguments)

    rest: list[str] = []

    def parse() -> int:
        rest.extend(flags.FLAGS(argv)[1:])
        if rest and not arguments:
            raise UserError(f"unexpected argument {rest[0]!r}: flags are --name=value")
        return 0

    if status := guarded(parse):
        return status
    try:
        status = _run(main, rest)
    except Exception:
        if processes.count() == 1:
            raise
        traceback.print_exc()
        status = LOST
    if status in (LOST, MISTAKE) and processes.count() > 1:
        # At an orderly end JAX waits for the others, which may wait for this process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(main: Callable[..., None], arguments: Sequence[str]) -> int:
    try:
        main(*arguments)
    except UserError as error:
        return fail(str(error))
    except Interrupted as error:
        if processes.is_main():
            print(f"stopped by {error}; the same command resumes from here", file=sys.stderr)
        return 128 + error.number
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            if processes.count() == 1:
                raise
            print(
                f"process {processes.index()} of {processes.count()} has lost another one, or has "
                f"failed ({first_line(error)}); the same command resumes",
                file=sys.stderr,
            )
            return LOST
        return fail(
            "out of memory on the device: lower train.batch_size or raise train.grad_accum_steps"
        )
    except OSError as error:
        # A config file that does not exist is noticed when the config is first used.
        missing = "Failed loading config file" in str(error)
        return fail(str(error).splitlines()[-1] if missing else first_line(error))
    return 0


def _flag_error(error: BaseException) -> str:
    """The line that matters in an error about flags, whose message may hold a whole traceback."""
    message = str(error.args[0])
    while message[:1] in ("'", '"') and message[:1] == message[-1:]:
        # A KeyError shows the representation of its message, and so does one made from it.
        message = ast.literal_eval(message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if isinstance(error, (AttributeError, KeyError)):
        return f"unknown config key {'; '.join(lines)}"
    if "Traceback (most recent call last):" in message:
        return lines[-1].removeprefix("kdjax.types.UserError: ")
    return " ".join(lines)
