"""Traces some steps of a phase for TensorBoard and Perfetto."""

import re
from pathlib import Path
from typing import Any

import jax

from kdjax.types import UserError


def parse(text: str) -> tuple[int, int] | None:
    """Parses `FIRST:LAST` into two step numbers; None for an empty text.

    Raises:
      UserError: if it is neither, or if LAST is not after FIRST.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"profile is {text!r}: give FIRST:LAST, two step numbers such as 100:110")
    return int(match[1]), int(match[2])


class Profiler:
    """Traces what happens between two steps into `FOLDER/profile`.

    With several steps per call, the trace begins and ends with a call. If a phase ends
    earlier or is resumed between the two steps, the trace is shorter.
    """

    def __init__(self, text: str, folder: Path):
        """Takes `FIRST:LAST`, or an empty text for no trace, and the phase's folder."""
        self._steps = parse(text)
        self._folder = folder / "profile"
        self._running = False

    def before(self, step: int) -> None:
        """Must be called before the step with this number; the first step is 0."""
        if self._steps and not self._running and self._steps[0] <= step < self._steps[1]:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, values: Any) -> None:
        """Must be called after `step` steps; `values` are outputs of the last one."""
        if self._running and self._steps and step >= self._steps[1]:
            jax.block_until_ready(values)
            self.close()

    def close(self) -> None:
        """Ends the trace if it is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
