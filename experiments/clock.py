"""The time that a phase takes, over all of its interruptions."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any


class Clock:
    """Seconds and images of a phase.

    The members of a phase that are trained together are each charged an equal share of
    the time.

    Attributes:
      training: seconds of steps and what they waited for, without compilation, evaluation or
        writing.
      waited: those of these seconds in which the devices waited for the next batch.
      images: images that each member has seen in the seconds of `training`.
    """

    def __init__(
        self,
        members: int = 1,
        *,
        seconds: float = 0.0,
        training: float = 0.0,
        waited: float = 0.0,
        images: int = 0,
        spent: dict[str, float] | None = None,
    ):
        """Starts at what `saved` returned before an interruption."""
        self._members = members
        self._before, self._start = seconds, self._now()
        self.training, self.waited, self.images = training, waited, images
        self._spent = dict(spent or {})
        self._lap: float | None = None

    def _now(self) -> float:
        return time.perf_counter() / self._members

    @property
    def seconds(self) -> float:
        """Seconds since the phase began, while it was running."""
        return self._before + self._now() - self._start

    @property
    def images_per_second(self) -> float:
        """Throughput of the steps, with what they waited for; 0 before the first lap."""
        return self.images / self.training if self.training else 0.0

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by what they were spent on; the rest is mostly compilation."""
        return {"steps": self.training - self.waited, "data": self.waited, **self._spent}

    def start_lap(self) -> None:
        """Starts a lap of steps."""
        self._lap = self._now()

    def end_lap(self, images: int) -> float:
        """Ends a lap in which each member saw `images`; returns images per second.

        Returns 0 if no lap was started.
        """
        now = self._now()
        if self._lap is None:
            return 0.0
        lap, self._lap = now - self._lap, None
        self.training += lap
        self.images += images
        return images / lap

    @contextlib.contextmanager
    def wait(self, busy: Callable[[], bool]) -> Iterator[None]:
        """Counts the seconds inside the context as waited for data, if they are in a lap.

        Args:
          busy: whether the devices are still making earlier steps. If so at the end of the
            context, nothing was waited for.
        """
        start = self._now()
        yield
        if self._lap is not None and not busy():
            self.waited += self._now() - start

    @contextlib.contextmanager
    def spend(self, what: str) -> Iterator[None]:
        """Counts the seconds inside the context as spent on something other than steps."""
        start = self._now()
        yield
        self._spent[what] = self._spent.get(what, 0.0) + self._now() - start

    def saved(self) -> dict[str, Any]:
        """The arguments that resume the clock after an interruption."""
        return {
            "seconds": self.seconds,
            "training": self.training,
            "waited": self.waited,
            "images": self.images,
            "spent": self._spent,
        }
