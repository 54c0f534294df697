"""A trace of some steps of a phase, for TensorBoard and Perfetto."""

import re
from pathlib import Path
from typing import Any

import jax

from kdjax.types import UserError


def parse(text: str) -> tuple[int, int] | None:
    """`FIRST:LAST` as two numbers of steps; None for an empty text.

    Raises:
      UserError: if it is neither, or LAST is not after FIRST.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"profile is {text!r}: give FIRST:LAST, two step numbers such as 100:110")
    return int(match[1]), int(match[2])


class Profiler:
    """Traces what happens between two steps into `FOLDER/profile`.

    With several steps in a call the trace begins and ends with a call. A phase that ends
    earlier, or goes on from between the two, gives what there is.
    """

    def __init__(self, text: str, folder: Path):
        """Takes `FIRST:LAST`, or an empty text for no trace, and the phase's folder."""
        self._steps = parse(text)
        self._folder = folder / "profile"
        self._running = False

    def before(self, step: int) -> None:
        """Says that the step with this number (the first is 0) comes next."""
        if self._steps and not self._running and self._steps[0] <= step < self._steps[1]:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, values: Any) -> None:
        """Says that so many steps are made, the last of which gives `values`."""
        if self._running and self._steps and step >= self._steps[1]:
            jax.block_until_ready(values)
            self.close()

    def close(self) -> None:
        """Ends a trace that is not ended yet."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
