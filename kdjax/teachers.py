"""The teachers' forward passes, in a train step and before it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kdjax import parallel
from kdjax.data import batches, seen
from kdjax.data.views import ViewFn, Views
from kdjax.types import Array, Network, Outputs, TeacherInputs

BATCH_NORMS = ("running", "batch")
# What an objective's program calls the teachers' logits.
LOGITS = "teacher_logits"


class Teachers(NamedTuple):
    """Networks that are applied and never change.

    Attributes:
      networks: in order.
      batch_norm: one of `BATCH_NORMS`, as for `kdjax.train.make_train_step`.
      at_student_size: for each whether it sees the student's view.
    """

    networks: Sequence[Network]
    batch_norm: str
    at_student_size: Sequence[bool]

    def outputs(
        self, inputs: TeacherInputs, view: Views, index: Array, dropout_key: Array
    ) -> tuple[Outputs, ...]:
        """What each of them makes of a view, without a gradient.

        Args:
          inputs: their part of the step's arguments.
          view: of the batch.
          index: int32 [b], the examples' positions.
          dropout_key: for batch norms by the batch.
        """
        found = []
        for i, (teacher, images) in enumerate(zip(self.networks, self._images(view), strict=True)):
            variables = (inputs.prepared or inputs.variables)[i]
            if self.batch_norm == "batch":
                outputs = teacher.train(variables, images, dropout_key)[0]
            else:
                outputs = teacher.evaluate(variables, images)
            if view.teacher_logits:
                known = view.teacher_logits[i].astype(jnp.float32)
                outputs = outputs._replace(logits=known)
            elif inputs.logits:
                outputs = outputs._replace(logits=jnp.take(inputs.logits[i], index, axis=0))
            named = checkpoint_name(outputs.logits, LOGITS)
            found.append(jax.lax.stop_gradient(outputs._replace(logits=named)))
        return tuple(found)

    def prepare(self, inputs: TeacherInputs, see: Callable[[], Views]) -> TeacherInputs:
        """The inputs with what can be computed once for all steps of a call.

        On the CPU a call makes one step, and nothing is.

        Args:
          inputs: their part of the step's arguments.
          see: a view of a batch, of which only the shapes are looked at.
        """
        if self.batch_norm == "batch" or parallel.on_cpu():
            return inputs
        images = self._images(jax.eval_shape(see))
        prepared = tuple(
            teacher.prepare(variables, jnp.zeros(image.shape, image.dtype))
            for teacher, variables, image in zip(
                self.networks, inputs.variables, images, strict=True
            )
        )
        return inputs._replace(prepared=prepared)

    def _images(self, view: Views) -> list[Array]:
        return [view.student if own else view.teacher for own in self.at_student_size]


def make_step(
    *,
    views: ViewFn,
    teachers: Sequence[Network],
    axis_name: str | None = None,
    at_student_size: Sequence[bool] = (),
) -> Callable[..., tuple[Array, ...]]:
    """What teachers make of the views of a train step, to be kept.

    Args:
      views: as for `kdjax.train.make_train_step`, of which there is one.
      teachers: applied in evaluation mode.
      axis_name: the mapped axis over which batches are sharded, or None.
      at_student_size: as for `kdjax.train.make_train_step`.

    Returns:
      `step(inputs, data, batch, rng, first) -> logits`, float16 [steps, b, k] of each teacher, for
      the steps from `first` on. The other arguments are those of the train step, for one student,
      whose batches they can be given to as `logits`.
    """
    taught = Teachers(teachers, "running", at_student_size or [False] * len(teachers))

    def step(
        inputs: TeacherInputs, data: batches.ResidentData[Array], batch: Any, rng: Array, first: Any
    ) -> tuple[Array, ...]:
        def see(one: Any, number: Any) -> seen.Part:
            view_key, _ = seen.step_keys(rng, number)
            return seen.joined(seen.see((views,), data, one, view_key, axis_name)[0])

        inputs = taught.prepare(inputs, lambda: see(jax.tree.map(lambda x: x[0], batch), 0)[0])

        def body(number: Array, one: Any) -> tuple[Array, tuple[Array, ...]]:
            view, index = see(one, number)
            outputs = taught.outputs(inputs, view, index, rng)
            return number + 1, tuple(found.logits.astype(jnp.float16) for found in outputs)

        logits: tuple[Array, ...] = parallel.loop(body, jnp.asarray(first, jnp.int32), batch)[1]
        return logits

    return step
