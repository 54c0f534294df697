"""The few types that everything else speaks in."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Variables = dict[str, PyTree]


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend.

    The message is one line that says what was given and what is allowed. The
    command line prints it as `error: ...` and exits with status 2.
    """


def first_line(error: Exception) -> str:
    """The first line of what an exception says, for use inside a UserError."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Outputs(NamedTuple):
    """What a network gives for a batch of images.

    Attributes:
      logits: float32 [b, k].
      taps: feature maps by name, in the order in which they are computed:
        `stem`, `stageK_pre` and `stageK` (before and after the activation that
        ends stage K; [b, h, w, c]) and `pre_logits` [b, d].
    """

    logits: Array
    taps: Mapping[str, Array]


class Network(NamedTuple):
    """A model together with the normalisation it was trained with.

    Teacher and student may have been trained under different normalisations,
    so each carries its own and all of them are fed the same pixels.

    Attributes:
      module: a model of `kdjax.models`.
      mean: per channel, in units of pixels in [0, 1].
      std: per channel, in the same units.
    """

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: Array) -> Array:
        """Maps pixels in [0, 1], [b, h, w, c], to what the model was trained on."""
        mean = jnp.asarray(self.mean, images.dtype)[None, None, None]
        std = jnp.asarray(self.std, images.dtype)[None, None, None]
        return (images - mean) / std

    def init(self, rng: Array, images: Array) -> Variables:
        """Fresh variables; of the images only the shape matters."""
        return dict(self.module.init(rng, self.normalize(images), train=False))

    def evaluate(self, variables: Variables, images: Array) -> Outputs:
        """Outputs in evaluation mode (running averages in batch norm)."""
        outputs: Any = self.module.apply(variables, self.normalize(images), train=False)
        return outputs

    def train(self, variables: Variables, images: Array, rng: Array) -> tuple[Outputs, PyTree]:
        """Outputs in training mode, and the new batch statistics; `rng` is for dropout."""
        result: Any = self.module.apply(
            variables,
            self.normalize(images),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        outputs, updates = result
        return outputs, updates.get("batch_stats", {})


@flax.struct.dataclass
class Context:
    """All that a distillation method may look at in one step.

    In `Distiller.init` the arrays that depend on the batch are
    `jax.ShapeDtypeStruct`s; in `Distiller.loss` they are this device's shard.

    Attributes:
      student: the student's outputs in training mode.
      teachers: each teacher's outputs, in the order of the phase's `teachers`;
        no gradient flows into them.
      labels: float32 [b, k], class probabilities (one-hot unless mixed).
      index: int32 [b], the examples' positions in the training split.
      step: int32 [], counts from 0.
      rng: a key for this step, the same on every device.
      teacher_variables: each teacher's variables (OFD reads batch-norm parameters).
      train_labels: int32 [n], the training split's labels, where it has them.
      axis_name: the mapped axis over which a batch is spread, or None.
    """

    student: Outputs
    teachers: tuple[Outputs, ...]
    labels: Array
    index: Array
    step: Array
    rng: Array
    teacher_variables: tuple[Variables, ...] = ()
    train_labels: Array | None = None
    axis_name: str | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def teacher(self) -> Outputs:
        """The only teacher's outputs, for methods that are written for one."""
        (teacher,) = self.teachers
        return teacher


class MethodLoss(NamedTuple):
    """What a method's `loss` returns.

    Attributes:
      value: [b] where a value belongs to an example, otherwise []; the train
        step takes the one mean.
      state: the method's new state (the same structure as it was given).
      metrics: scalars to log, by name.
    """

    value: Array
    state: PyTree
    metrics: dict[str, Array]


class Distiller(NamedTuple):
    """A distillation method: a pair of pure functions.

    Attributes:
      init: `init(rng, context) -> {"params": ..., "state": ...}`, the method's own
        parameters (trained together with the student's) and state (carried from
        step to step); both `{}` for most methods.
      loss: `loss(variables, context) -> MethodLoss`.
    """

    init: Callable[[Array, Context], Variables]
    loss: Callable[[Variables, Context], MethodLoss]


@flax.struct.dataclass
class TrainState:
    """What a training run carries from step to step, and what a checkpoint holds.

    Attributes:
      step: int32 [], how many updates were made.
      params: the student's parameters.
      batch_stats: the student's running averages.
      method_params: the methods' own parameters.
      method_state: the methods' own state.
      opt_state: the optimiser's state, over `(params, method_params)`.
      ema: averaged student variables, or `{}` where no average is kept.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    method_params: PyTree
    method_state: PyTree
    opt_state: PyTree
    ema: PyTree

    @classmethod
    def of_variables(cls, variables: Variables) -> "TrainState":
        """A state that holds a network which is not being trained."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            method_params={},
            method_state={},
            opt_state={},
            ema={},
        )

    @property
    def variables(self) -> Variables:
        """The student as trained: parameters and running averages."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> Variables:
        """The student as evaluated: its average where one is kept."""
        return self.ema or self.variables
