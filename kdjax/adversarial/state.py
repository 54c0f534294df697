"""What data-free transfer carries from update to update, and the contract of its step."""

from typing import Any, NamedTuple, Protocol

import flax.struct
import numpy as np

from kdjax.types import Array, Outputs, PyTree, TrainState, Variables


@flax.struct.dataclass
class AdversarialState(TrainState):
    """A `TrainState` whose `step` counts pseudo-batches, extended by the generator.

    Attributes:
      generator: the generator's variables.
      generator_opt_state: the state of the generator's optimiser.
      kept: the pool of images and the moments of `kdjax.adversarial.fast.Fast`, or `{}`.
    """

    generator: PyTree
    generator_opt_state: PyTree
    kept: PyTree = flax.struct.field(default_factory=dict)


class Lesson(NamedTuple):
    """The inputs and targets of a student update.

    Attributes:
      images: generated images in units of pixels, [b, h, w, c].
      teachers: each teacher's outputs for these images.
    """

    images: Array
    teachers: tuple[Outputs, ...]


class PseudoBatchStep(Protocol):
    """The contract of what `make_step` returns, where the arguments are described."""

    def __call__(
        self,
        state: AdversarialState,
        teacher_variables: tuple[Variables, ...],
        indices: np.ndarray,
        rng: Array,
        *,
        generator_steps: int,
        student_steps: int,
    ) -> tuple[AdversarialState, dict[str, Any]]: ...
