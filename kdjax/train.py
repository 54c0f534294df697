"""The train step, one for every method, and the evaluation step.

Both are plain functions of arrays; `kdjax.parallel` maps them over devices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from kdjax import metrics as batch_metrics
from kdjax import optimizers, parallel, updates
from kdjax.batch_stats import equal_on_devices
from kdjax.data import batches, seen, views
from kdjax.data.views import Views
from kdjax.jaxprs import dependencies
from kdjax.remembered import remembered
from kdjax.teachers import LOGITS, Teachers
from kdjax.types import (
    Array,
    Context,
    Distiller,
    Metrics,
    Network,
    Outputs,
    PyTree,
    Separated,
    TeacherInputs,
    TrainState,
    UserError,
    Variables,
    first_line,
)


class TrainStep(Protocol):
    """The contract of what `make_train_step` returns, where the arguments are described."""

    def __call__(
        self, state: Any, teachers: Any, data: batches.ResidentData[Array], batch: Any, rng: Any
    ) -> tuple[Any, Any]: ...


class EvalStep(Protocol):
    """The contract of what `make_eval_step` returns, where the arguments are described."""

    def __call__(
        self, variables: Variables, data: batches.ResidentData[Array], batch: batches.Batch[Array]
    ) -> Array: ...


@remembered(32)
def abstract_outputs(
    network: Network, image_shape: tuple[int, int, int]
) -> tuple[Outputs, Variables]:
    """Shapes of a network's outputs for one image and of its variables; computes nothing.

    The result is remembered, and is not to be changed.

    Args:
      network: any network.
      image_shape: (h, w, c).

    Raises:
      UserError: if the network cannot take such images.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    try:
        variables = jax.eval_shape(network.init, rng, images)
        outputs = jax.eval_shape(network.evaluate, variables, images)
        if 0 not in jax.tree.leaves(jax.tree.map(lambda x: min(x.shape), outputs)):
            return outputs, variables
        reason = "a feature map would be empty"
    except UserError:
        raise
    except Exception as error:
        # Layers reject feature maps that are too small with many exception types.
        reason = first_line(error)
    raise UserError(
        f"{type(network.module).__name__} cannot take images of shape {image_shape}: {reason}"
    )


def init_state(
    rng: Array,
    *,
    student: Network,
    distiller: Distiller,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    teacher_image_shapes: Sequence[tuple[int, int, int]] = (),
    num_classes: int,
    batch_size: int,
    teachers: Sequence[Network] = (),
    teacher_variables: Sequence[Variables] = (),
    train_labels: Array | None = None,
    labelled: tuple[int, int] | None = None,
    init_variables: Variables | None = None,
    ema_decay: float = 0.0,
) -> TrainState:
    """The state before the first step. May be traced (`jax.jit`, `jax.eval_shape`).

    Args:
      rng: the run's key.
      student: the network to train, as `distiller.network` returns it.
      distiller: the objective; its `init` and `adopt` are called here.
      optimizer: as for `make_train_step`.
      image_shape: (h, w, c) of the images as the networks see them.
      teacher_image_shapes: the same for each teacher, if any sees another size.
      num_classes: k, the width of the labels.
      batch_size: examples per step and device.
      teachers: in the order in which the distiller expects them.
      teacher_variables: the variables of each teacher.
      train_labels: int32 [n], for methods that use the labels of other examples.
      labelled: the rows [start, stop) of a batch that have labels; None if all have.
      init_variables: initial variables of the student, instead of a random initialisation.
      ema_decay: as for `make_train_step`.

    Raises:
      UserError: if a network cannot take such images or a method does not apply.
    """
    student_key, method_key = jax.random.split(rng)

    def batch_outputs(network: Network, shape: tuple[int, int, int]) -> Outputs:
        outputs, _ = abstract_outputs(network, shape)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), outputs
        )

    shape: Any = jax.ShapeDtypeStruct
    context = Context(
        student=batch_outputs(student, image_shape),
        teachers=tuple(
            map(batch_outputs, teachers, teacher_image_shapes or [image_shape] * len(teachers))
        ),
        labels=shape((batch_size, num_classes), jnp.float32),
        index=shape((batch_size,), jnp.int32),
        step=shape((), jnp.int32),
        rng=method_key,
        student_variables=abstract_outputs(student, image_shape)[1],
        teacher_variables=tuple(teacher_variables),
        train_labels=train_labels,
        labelled=labelled,
    )
    variables = init_variables or student.init(student_key, jnp.zeros((1, *image_shape)))
    variables = distiller.adopt(variables, teacher_variables)
    methods = distiller.init(method_key, context)
    params = variables["params"]
    batch_stats = variables.get("batch_stats", {})
    ema = {}
    if ema_decay:
        # Copies, because the step donates its input and a buffer can be donated only once.
        ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        method_params=methods["params"],
        method_state=methods["state"],
        opt_state=optimizer.init((params, methods["params"])),
        ema=ema,
    )


def make_train_step(
    *,
    student: Network,
    distiller: Distiller,
    optimizer: optax.GradientTransformation,
    views: views.ViewFn | Sequence[views.ViewFn],
    teachers: Sequence[Network] = (),
    grad_accum_steps: int = 1,
    ema_decay: float = 0.0,
    teacher_batch_norm: str = "running",
    axis_name: str | None = None,
    several_seeds: bool = False,
    labelled: Sequence[bool] = (True,),
    at_student_size: Sequence[bool] = (),
    elementwise: bool = False,
) -> TrainStep:
    """The train step.

    Differentiates the objective with respect to the parameters of the student and of the
    methods. The teachers' variables are an argument and never change.

    Args:
      student: the network to train, as for `init_state`, applied in training mode.
      distiller: the objective.
      optimizer: over `(student params, method params)`. Parameters that the objective does not
        depend on, as AB's does not on the classifier, stay as they are: no weight decay. One
        that is `kdjax.optimizers.DistillationOriented` takes a gradient of each part of the loss.
      views: the views of student and teachers, from `kdjax.data.views.make_views`. With
        several, the loss is the mean over them; each has a forward pass and batch statistics of
        its own, and the running averages take one after the other.
      teachers: applied in evaluation mode, unless `teacher_batch_norm` is `batch`.
      grad_accum_steps: number of equal parts into which the batch is split; their gradients
        are averaged before the single update. Batch norm and methods defined between examples
        see one part at a time.
      ema_decay: decay of an exponential moving average of the student's variables, in [0, 1).
        It rises from 0.1 as (1 + step) / (10 + step) until it reaches this value. 0 keeps no
        average.
      teacher_batch_norm: one of `kdjax.teachers.BATCH_NORMS`. With `running` the teachers
        normalise by their running averages, as in evaluation. With `batch` they are applied in
        training mode, with the statistics of the batch and with dropout, like published code
        that never switches the teacher to evaluation mode; their running averages are not updated.
      axis_name: the mapped axis over which batches are sharded, or None.
      several_seeds: train several students in one program. `state` and `metrics` are then
        tuples with one entry per student, all at the same step, and `teachers`, `batch` and
        `rng` are tuples with one entry per student or a single entry for all. With a single
        entry in all three, the students see the same views and the teachers' forward passes
        are computed once.
      labelled: whether each source of images has labels; a second one is under `more` in
        `data` and `batch`. Its images are seen in the same forward pass.
      at_student_size: for each teacher whether it sees the student's view, where the teacher's
        view has another resolution; () if none does.
      elementwise: whether the optimiser treats every element alike, whatever array it is in
        (`kdjax.optimizers.is_elementwise`). On accelerators all arrays are updated as one vector.

    Returns:
      `step(state, teachers, data, batch, rng) -> (state, metrics)`:

      - `state`: a `TrainState` from `init_state`.
      - `teachers`: a `kdjax.TeacherInputs`: the teachers' variables, and optionally their
        logits for the whole training split, so that they are not computed again.
      - `data`, `batch`: as `kdjax.data.batches` provides them, the arrays of `batch` with a
        leading axis of steps, all of which are made in this one call.
      - `rng`: the run's key.
      - `metrics`: scalars by name, averaged over the steps of the call. Agreement and KL are
        among them if the objective depends on the teachers' logits; otherwise these may not
        even be computed.
    """

    def uses_vectors(state: TrainState) -> bool:
        return elementwise and not parallel.on_cpu() and updates.can_pack(state)

    taught = Teachers(teachers, teacher_batch_norm, at_student_size or [False] * len(teachers))
    view_fns = (views,) if callable(views) else tuple(views)
    separate = isinstance(optimizer, optimizers.DistillationOriented)

    def make_objective(
        state: TrainState,
        teacher_inputs: TeacherInputs,
        data: batches.ResidentData[Array],
        rng: Array,
        parts: seen.Seen,
        compare: bool,
    ) -> updates.Objective:
        # Only dropout depends on the sharding: each shard draws its own mask.
        dropout_key = jax.random.fold_in(rng, parallel.index(axis_name))

        def of_view(
            trained: tuple[PyTree, PyTree],
            carried: tuple[PyTree, PyTree],
            sources: tuple[seen.Part, ...],
            number: int,
        ) -> tuple[PyTree, tuple[PyTree, PyTree], Metrics]:
            (params, method_params), (batch_stats, method_state) = trained, carried
            view, index = seen.joined(sources)
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, batch_stats = student.train(variables, view.student, dropout_key)
            context = Context(
                student=outputs,
                teachers=taught.outputs(teacher_inputs, view, index, dropout_key),
                labels=view.labels,
                index=index,
                step=state.step,
                rng=rng,
                student_variables=variables,
                teacher_variables=teacher_inputs.variables,
                train_labels=seen.train_labels(data),
                axis_name=axis_name,
                labelled=seen.labelled_rows([len(index) for _, index in sources], labelled),
                view=number,
            )
            term = distiller.loss({"params": method_params, "state": method_state}, context)
            loss = jnp.mean(term.value)
            metrics = {"loss": loss, **batch_metrics.of_batch(context, compare), **term.metrics}
            parts = jax.tree.map(jnp.mean, term.separate()) if separate else loss
            return parts, (batch_stats, term.state), metrics

        def objective(trained: tuple[PyTree, PyTree]) -> tuple[PyTree, Any]:
            carried = (state.batch_stats, state.method_state)
            losses, metrics = [], []
            for number, sources in enumerate(parts):
                loss, carried, of_this = of_view(trained, carried, sources, number)
                losses.append(loss)
                metrics.append(of_this)
            means = jax.tree.map(lambda *x: sum(x) / len(x), *metrics)
            loss = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x)), *losses)
            return loss, (means, *carried)

        return objective

    def gradients(
        state: TrainState, objective: updates.Objective
    ) -> tuple[PyTree, TrainState, Metrics]:
        grad, (metrics, batch_stats, method_state) = updates.gradient(
            objective, (state.params, state.method_params), separate=separate
        )
        state = dataclasses.replace(state, batch_stats=batch_stats, method_state=method_state)
        return grad, state, metrics

    def find_reached(
        state: TrainState,
        teacher_inputs: TeacherInputs,
        data: batches.ResidentData[Array],
        batch: batches.Batch[Array],
        rng: Array,
    ) -> tuple[PyTree, bool]:
        def loss(trained: tuple[PyTree, PyTree]) -> PyTree:
            first: batches.Batch[Array] = jax.tree.map(lambda x: x[0], batch)
            whole = seen.see(view_fns, data, first, rng, axis_name)
            parts = jax.tree.map(lambda x: x[: len(x) // grad_accum_steps], whole)
            return make_objective(state, teacher_inputs, data, rng, parts, False)(trained)[0]

        trained, names = dependencies(loss, (state.params, state.method_params))
        return trained, LOGITS in names

    def update(
        state: TrainState,
        teacher_inputs: TeacherInputs,
        data: batches.ResidentData[Array],
        batch: batches.Batch[Array],
        rng: Array,
        reached: tuple[PyTree, bool],
    ) -> tuple[TrainState, Metrics]:
        trains, compare = reached
        view_key, method_key = seen.step_keys(rng, state.step)
        whole = seen.see(view_fns, data, batch, view_key, axis_name)
        if grad_accum_steps == 1:
            objective = make_objective(state, teacher_inputs, data, method_key, whole, compare)
            grad, state, metrics = gradients(state, objective)
        else:

            def accumulate(carry: Any, xs: Any) -> tuple[Any, Metrics]:
                total, state = carry
                i, part = xs
                key = jax.random.fold_in(method_key, i)
                objective = make_objective(state, teacher_inputs, data, key, part, compare)
                grad, state, metrics = gradients(state, objective)
                return (jax.tree.map(jnp.add, total, grad), state), metrics

            parts = jax.tree.map(lambda x: x.reshape(grad_accum_steps, -1, *x.shape[1:]), whole)
            both = (state.params, state.method_params)
            zeros = jax.tree.map(jnp.zeros_like, Separated(both, both) if separate else both)
            (total, state), metrics = parallel.loop(
                accumulate, (zeros, state), (jnp.arange(grad_accum_steps), parts)
            )
            grad = jax.tree.map(lambda x: x / grad_accum_steps, total)
            metrics = _mean(metrics)
        grad, metrics = parallel.pmean((grad, metrics), axis_name)
        batch_stats = equal_on_devices(student, state.batch_stats, axis_name)
        state, norm = updates.apply(
            optimizer, grad, dataclasses.replace(state, batch_stats=batch_stats), trains,
            ema_decay=ema_decay, as_vectors=uses_vectors(state),
        )  # fmt: skip
        return state, metrics | {"gradient_norm": norm}

    def update_all(
        states: tuple[TrainState, ...],
        teacher_inputs: tuple[TeacherInputs, ...],
        data: batches.ResidentData[Array],
        batch: tuple[batches.Batch[Array], ...],
        rng: tuple[Array, ...],
        reached: tuple[PyTree, bool],
    ) -> tuple[tuple[TrainState, ...], tuple[Metrics, ...]]:
        # A Python loop: vmap would turn the students' convolutions into grouped ones, which
        # are slow. XLA computes what all seeds share once, if it can see that it is the same.
        for_member = parallel.for_member
        in_step = [dataclasses.replace(state, step=states[0].step) for state in states]
        results = [
            update(
                state,
                for_member(teacher_inputs, i),
                data,
                for_member(batch, i),
                for_member(rng, i),
                reached,
            )
            for i, state in enumerate(in_step)
        ]
        new_states, metrics = zip(*results, strict=True)
        return new_states, metrics

    def step(
        state: Any, teachers: Any, data: batches.ResidentData[Array], batch: Any, rng: Any
    ) -> tuple[Any, Any]:
        update_once: Callable[..., tuple[Any, Any]] = update_all if several_seeds else update

        def of_one(values: Any) -> Any:
            return values[0] if several_seeds else values

        # Students of several seeds have the same networks and the same objective.
        one_student = (of_one(state), of_one(teachers), data, of_one(batch), of_one(rng))
        reached = find_reached(*one_student)

        def see() -> Views:
            first = jax.tree.map(lambda x: x[0], of_one(batch))
            return seen.joined(seen.see(view_fns, data, first, of_one(rng), axis_name)[0])[0]

        inputs = tuple(
            taught.prepare(one, see) for one in (teachers if several_seeds else [teachers])
        )
        teachers = inputs if several_seeds else inputs[0]

        def of_each(change: Callable[[TrainState], TrainState], states: Any) -> Any:
            if not uses_vectors(of_one(states)):
                return states
            return tuple(map(change, states)) if several_seeds else change(states)

        def body(packed: Any, one: Any) -> tuple[Any, Metrics]:
            state = of_each(updates.unpack, packed)
            state, metrics = update_once(state, teachers, data, one, rng, reached)
            return of_each(updates.pack, state), metrics

        packed, metrics = parallel.loop(body, of_each(updates.pack, state), batch)
        return of_each(updates.unpack, packed), _mean(metrics)

    return step


def make_eval_step(network: Network, image_size: int, resolution: int = 0) -> EvalStep:
    """The evaluation step: `step(variables, data, batch) -> logits`, float32 [b, k].

    Args:
      network: the network to evaluate, applied in evaluation mode.
      image_size: side of the central square of each image that the network sees, in pixels.
      resolution: side to which that square is resized; 0 leaves it.

    Returns:
      The step; its `data` and `batch` are as `kdjax.data.batches` provides them.
    """

    def step(
        variables: Variables, data: batches.ResidentData[Array], batch: batches.Batch[Array]
    ) -> Array:
        images, _ = batches.gather(data, batch)
        view = views.evaluation_view(images, image_size, resolution)
        return network.evaluate(variables, view).logits

    return step


def _mean(metrics: PyTree) -> PyTree:
    """Mean over the leading axis, that of steps or of parts of a batch."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
