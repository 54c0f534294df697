"""Types shared by models, losses, methods and training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Variables = dict[str, PyTree]  # Flax collections by name: `params` and `batch_stats`.
Metrics = dict[str, Array]  # Scalars by name.


class UserError(ValueError):
    """A mistake that the user can correct.

    The message is a single line naming what was given and what is allowed. The
    command line prints it as `error: ...` and exits with status 2.
    """


def first_line(error: Exception) -> str:
    """The first line of an exception's message, for use inside a `UserError`."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Outputs(NamedTuple):
    """A network's outputs for a batch of images.

    Attributes:
      logits: float32 [b, k].
      taps: feature maps by name, in the order in which they are computed:
        `stem`, `stageK_pre` and `stageK` (before and after the final activation
        of stage K), `pre_pool`, each [b, h, w, c], and `pre_logits` [b, d]. `pre_pool` is
        there where `pre_logits` is its mean over positions and the logits are a linear
        function of that, as in networks that end in global average pooling.
    """

    logits: Array
    taps: Mapping[str, Array]


class Network(NamedTuple):
    """A model together with the input normalisation it was trained with.

    Teacher and student may have been trained with different normalisations, so
    each carries its own and all of them take the same pixels.

    Attributes:
      module: a model of `kdjax.models`.
      mean: mean of each channel, [c], for pixels in [0, 1].
      std: standard deviation of each channel, [c], for pixels in [0, 1].
    """

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: Array) -> Array:
        """Standardises pixels in [0, 1], [b, h, w, c], channel by channel."""
        mean = jnp.asarray(self.mean, images.dtype)[None, None, None]
        std = jnp.asarray(self.std, images.dtype)[None, None, None]
        return (images - mean) / std

    def pixels(self, normalized: Array) -> Array:
        """The inverse of `normalize`."""
        mean = jnp.asarray(self.mean, normalized.dtype)[None, None, None]
        std = jnp.asarray(self.std, normalized.dtype)[None, None, None]
        return normalized * std + mean

    def init(self, rng: Array, images: Array) -> Variables:
        """Initial variables; only the shape of `images` matters."""
        return dict(self.module.init(rng, self.normalize(images), train=False))

    def evaluate(self, variables: Variables, images: Array) -> Outputs:
        """Outputs in evaluation mode (batch norm uses its running averages)."""
        outputs: Any = self.module.apply(variables, self.normalize(images), train=False)
        return outputs

    def prepare(self, variables: Variables, images: Array) -> Variables:
        """What `evaluate` takes in place of the variables, for many calls with the same ones.

        Batch norm is part of the convolution before it, where there is one (`Layers.conv_norm`),
        and the kernels of other layers have the dtype in which these compute. Compile this: the
        outputs, which it does not need, are not computed then.

        Args:
          variables: `{"params", "batch_stats"}`.
          images: [b, h, w, c]; only the shape matters.
        """
        dtypes: dict[tuple[str, ...], Any] = {}

        def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            layer = context.module
            if isinstance(layer, nn.Conv | nn.Dense) and layer.dtype is not None:
                dtypes[layer.path] = layer.dtype
            return call(*args, **kwargs)

        def cast(path: Any, leaf: Array) -> Array:
            dtype = dtypes.get(tuple(key.key for key in path[:-1]))
            return leaf if dtype is None else leaf.astype(dtype)

        with nn.intercept_methods(note):
            _, new = self.module.apply(
                variables, self.normalize(images), train=False, mutable=["folded"]
            )
        params = jax.tree_util.tree_map_with_path(cast, variables["params"])
        return {**variables, **new, "params": params}

    def train(self, variables: Variables, images: Array, rng: Array) -> tuple[Outputs, PyTree]:
        """Outputs in training mode and the new batch statistics; `rng` is the dropout key."""
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
    """Everything a distillation method may use in one step.

    In `Distiller.init` the arrays that depend on the batch are
    `jax.ShapeDtypeStruct`s; in `Distiller.loss` they hold this device's shard.

    Attributes:
      student: the student's outputs in training mode.
      teachers: each teacher's outputs, in the order of the teachers given to the
        train step; no gradient flows into them.
      labels: float32 [b, k], class probabilities (one-hot unless mixed).
      index: int32 [b], the examples' positions in the training split.
      step: int32 [], the number of updates made so far.
      rng: a key for this step, the same on every device.
      student_variables: the student's variables; gradients reach its parameters (SDD applies its
        classifier to parts of its last map).
      teacher_variables: each teacher's variables (OFD reads batch-norm parameters); to a loss they
        are constants.
      train_labels: int32 [n], the labels of the training split, or None if there is none.
      axis_name: the mapped axis over which a batch is sharded, or None.
      labelled: the rows [start, stop) of this shard that come from a source with labels, where
        another source has none; None if all do.
      view: which of the step's views of the images this is, counted from 0.
    """

    student: Outputs
    teachers: tuple[Outputs, ...]
    labels: Array
    index: Array
    step: Array
    rng: Array
    student_variables: Variables = flax.struct.field(default_factory=dict)
    teacher_variables: tuple[Variables, ...] = ()
    train_labels: Array | None = None
    axis_name: str | None = flax.struct.field(pytree_node=False, default=None)
    labelled: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)
    view: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def teacher(self) -> Outputs:
        """The outputs of the only teacher, for methods defined for a single one."""
        (teacher,) = self.teachers
        return teacher


class TeacherInputs(NamedTuple):
    """The teachers' part of a train step's arguments.

    Attributes:
      variables: each teacher's variables.
      logits: float32 [n, k] for each teacher, its logits for the n training images,
        or None to compute them in the step. Where they are given they replace the
        computed ones, and the compiled step leaves out whatever part of the
        teachers' forward passes nothing else needs.
      prepared: of each teacher what `Network.prepare` makes of its variables, or None; the train
        step fills it in.
    """

    variables: tuple[Variables, ...]
    logits: tuple[Array, ...] | None = None
    prepared: tuple[Variables, ...] | None = None


class Separated(NamedTuple):
    """A loss or its gradient as a sum of two, which some optimisers treat differently.

    Attributes:
      task: of what is learned without teachers, which is cross-entropy with the labels.
      distillation: all the rest.
    """

    task: PyTree
    distillation: PyTree


class MethodLoss(NamedTuple):
    """What a method's `loss` returns.

    Attributes:
      value: [b] where the loss is defined per example, otherwise []; the train step
        averages it.
      state: the method's new state, with the structure of the old one.
      metrics: scalars to log, by name.
      separated: the same value as a sum, each of its two [b] or []; None if all of it is
        distillation.
    """

    value: Array
    state: PyTree
    metrics: Metrics
    separated: Separated | None = None

    def separate(self) -> Separated:
        """The value as a sum."""
        return self.separated or Separated(jnp.zeros(()), self.value)


def _same_network(student: Network, teachers: Sequence[Outputs]) -> Network:
    return student


def _same_variables(variables: Variables, teacher_variables: Sequence[Variables]) -> Variables:
    return variables


class Distiller(NamedTuple):
    """A distillation method: a pair of pure functions, and two more where the network changes.

    Attributes:
      init: `init(rng, context) -> {"params": ..., "state": ...}`: the method's own
        parameters, trained jointly with the student's, and its state, carried from
        step to step. Both are `{}` for most methods.
      loss: `loss(variables, context) -> MethodLoss`.
      network: `network(student, teachers) -> Network`: the network that is trained, evaluated,
        saved and exported in place of the student, which it is for most methods. `teachers` are
        the shapes of each teacher's outputs. Whoever trains calls this first.
      adopt: `adopt(variables, teacher_variables) -> variables`: that network's initial variables
        with those that it takes from teachers. `kdjax.train.init_state` calls it.
    """

    init: Callable[[Array, Context], Variables]
    loss: Callable[[Variables, Context], MethodLoss]
    network: Callable[[Network, Sequence[Outputs]], Network] = _same_network
    adopt: Callable[[Variables, Sequence[Variables]], Variables] = _same_variables


@flax.struct.dataclass
class TrainState:
    """What a training run carries from step to step, and what a checkpoint holds.

    Attributes:
      step: int32 [], the number of updates made so far.
      params: the student's parameters.
      batch_stats: the running averages of the student's batch norm.
      method_params: the methods' own parameters.
      method_state: the methods' own state.
      opt_state: the optimiser's state over `(params, method_params)`.
      ema: exponential moving average of the student's variables, or `{}` if none is kept.
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
        """A state holding the variables of a network that is not being trained."""
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
        """The variables being trained: parameters and batch statistics."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> Variables:
        """The variables to evaluate: the moving average where one is kept."""
        return self.ema or self.variables
