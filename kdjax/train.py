"""One train step for every method, and the evaluation step.

Both are plain functions of arrays; `kdjax.parallel` maps them over devices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax import parallel
from kdjax.data import batches, views
from kdjax.types import (
    Array,
    Context,
    Distiller,
    Network,
    Outputs,
    PyTree,
    TrainState,
    UserError,
    Variables,
    first_line,
)

TEACHER_BATCH_NORMS = ("running", "batch")


def abstract_outputs(
    network: Network, image_shape: tuple[int, int, int]
) -> tuple[Outputs, Variables]:
    """A network's outputs for one image and its variables, as shapes; nothing is computed.

    Args:
      network: any.
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
        # Layers complain of maps that are too small in many exception types.
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
    num_classes: int,
    batch_size: int,
    teachers: Sequence[Network] = (),
    teacher_variables: Sequence[Variables] = (),
    train_labels: Array | None = None,
    start: Variables | None = None,
    ema: float = 0.0,
) -> TrainState:
    """The state before the first step. May be traced (`jax.jit`, `jax.eval_shape`).

    Args:
      rng: the run's key.
      student: what is trained.
      distiller: its objective; this calls its `init`.
      optimizer: as for `make_train_step`.
      image_shape: (h, w, c) as the networks see them.
      num_classes: k, width of the labels.
      batch_size: examples a step and device.
      teachers: in the order in which the distiller finds them.
      teacher_variables: theirs.
      train_labels: int32 [n], for methods that look at other examples' labels.
      start: student variables to start from, instead of the model's initialisation.
      ema: as for `make_train_step`.

    Raises:
      UserError: if a network cannot take such images or a method cannot apply.
    """
    student_key, method_key = jax.random.split(rng)

    def seen(network: Network) -> Outputs:
        outputs, _ = abstract_outputs(network, image_shape)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), outputs
        )

    shape: Any = jax.ShapeDtypeStruct
    context = Context(
        student=seen(student),
        teachers=tuple(map(seen, teachers)),
        labels=shape((batch_size, num_classes), jnp.float32),
        index=shape((batch_size,), jnp.int32),
        step=shape((), jnp.int32),
        rng=method_key,
        teacher_variables=tuple(teacher_variables),
        train_labels=train_labels,
    )
    variables = start or student.init(student_key, jnp.zeros((1, *image_shape)))
    methods = distiller.init(method_key, context)
    params = variables["params"]
    batch_stats = variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        method_params=methods["params"],
        method_state=methods["state"],
        opt_state=optimizer.init((params, methods["params"])),
        # Copies: the step donates its input, and a buffer can be donated only once.
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else {},
    )


def make_train_step(
    *,
    student: Network,
    distiller: Distiller,
    optimizer: optax.GradientTransformation,
    views: Callable[..., views.Views],
    teachers: Sequence[Network] = (),
    accumulate: int = 1,
    ema: float = 0.0,
    teacher_batch_norm: str = "running",
    axis_name: str | None = None,
    several_seeds: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """The train step.

    Differentiates the objective with respect to the student's and the methods'
    parameters; the teachers' variables are an argument and never change.

    Args:
      student: trained in training mode.
      distiller: the objective.
      optimizer: over `(student params, method params)`.
      views: who sees what, from `kdjax.data.views.make_views`.
      teachers: run in evaluation mode, unless `teacher_batch_norm` says otherwise.
      accumulate: parts into which the batch is cut; their gradients are averaged
        before the one update. Batch norm and methods between examples see a part.
      ema: decay of an average of the student's variables, rising from 0.1 as
        (1 + step) / (10 + step) until it reaches this; 0 keeps none.
      teacher_batch_norm: one of `TEACHER_BATCH_NORMS`: normalise by the `running`
        averages, as in evaluation, or by the `batch`, dropout included, as some published
        code does that never switches the teacher to evaluation. Its averages do not move.
      axis_name: the mapped axis over which batches are spread, or None.
      several_seeds: train several students in one program: `state` and `metrics` are then
        tuples with one for each, all at the same step; `teacher_variables`, `batch` and
        `rng` are tuples with one for each or one for all. With one for all of all three,
        the seeds see the same views and the teacher's forward pass is computed once.

    Returns:
      `step(state, teacher_variables, data, batch, rng) -> (state, metrics)`, where
      `data` and `batch` are what `kdjax.data.batches` gives, `batch` with a leading
      axis of steps made in this one call, `rng` is the run's key, and `metrics` are
      the means over those steps. `data` may also hold `teacher_logits`, for each
      teacher float32 [n, k] for the n training images (with several seeds a tuple of
      those, one for each or one for all): they stand for what the teachers would say, and
      what nothing else needs of the teachers' forward passes is not computed.
    """

    def teach(teacher: Network, variables: Variables, images: Array, rng: Array) -> Outputs:
        if teacher_batch_norm == "batch":
            return teacher.train(variables, images, rng)[0]
        return teacher.evaluate(variables, images)

    def gradients(
        state: TrainState, teacher_variables: Any, data: Any, rng: Array, part: Any
    ) -> tuple[PyTree, TrainState, dict[str, Array]]:
        seen, index = part
        known = data.get("teacher_logits", [None] * len(teachers))

        def objective(trained: tuple[PyTree, PyTree]) -> tuple[Array, Any]:
            params, method_params = trained
            variables = {"params": params, "batch_stats": state.batch_stats}
            # Dropout is the one thing that depends on the shards: each draws its own.
            dropout_key = jax.random.fold_in(rng, parallel.index(axis_name))
            outputs, batch_stats = student.train(variables, seen.student, dropout_key)
            context = Context(
                student=outputs,
                teachers=tuple(
                    jax.lax.stop_gradient(
                        _told(teach(teacher, v, seen.teacher, dropout_key), logits, index)
                    )
                    for teacher, v, logits in zip(teachers, teacher_variables, known, strict=True)
                ),
                labels=seen.labels,
                index=index,
                step=state.step,
                rng=rng,
                teacher_variables=teacher_variables,
                train_labels=data["labels"],
                axis_name=axis_name,
            )
            method_variables = {"params": method_params, "state": state.method_state}
            term = distiller.loss(method_variables, context)
            loss = jnp.mean(term.value)
            hit = jnp.argmax(outputs.logits, -1) == jnp.argmax(seen.labels, -1)
            metrics = {"loss": loss, "accuracy": jnp.mean(hit, dtype=jnp.float32)}
            return loss, (metrics | term.metrics, batch_stats, term.state)

        grad, (metrics, batch_stats, method_state) = jax.grad(objective, has_aux=True)(
            (state.params, state.method_params)
        )
        state = dataclasses.replace(state, batch_stats=batch_stats, method_state=method_state)
        return grad, state, metrics

    def update(
        state: TrainState, teacher_variables: Any, data: Any, batch: Any, rng: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        rng = jax.random.fold_in(rng, state.step)
        view_key, method_key = jax.random.split(rng)
        images, labels = batches.gather(data, batch)
        parts = (views(view_key, images, labels, axis_name), batch["index"])
        if accumulate == 1:
            grad, state, metrics = gradients(state, teacher_variables, data, method_key, parts)
        else:

            def add(carry: Any, xs: Any) -> tuple[Any, dict[str, Array]]:
                total, state = carry
                i, part = xs
                key = jax.random.fold_in(method_key, i)
                grad, state, metrics = gradients(state, teacher_variables, data, key, part)
                return (jax.tree.map(jnp.add, total, grad), state), metrics

            cut = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), parts)
            zeros = jax.tree.map(jnp.zeros_like, (state.params, state.method_params))
            (total, state), metrics = parallel.loop(
                add, (zeros, state), (jnp.arange(accumulate), cut)
            )
            grad, metrics = jax.tree.map(lambda x: x / accumulate, total), _mean(metrics)
        # Batch statistics too: without synchronised batch norm they differ between devices.
        grad, metrics, batch_stats = parallel.pmean((grad, metrics, state.batch_stats), axis_name)
        trained = (state.params, state.method_params)
        updates, opt_state = optimizer.update(grad, state.opt_state, trained)
        params, method_params = optax.apply_updates(trained, updates)
        average = state.ema
        if ema:
            rate = 1 - jnp.minimum(ema, (1 + state.step) / (10 + state.step))
            new = {"params": params, "batch_stats": batch_stats}
            average = optax.incremental_update(new, state.ema, rate)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            method_params=method_params,
            opt_state=opt_state,
            ema=average,
        )
        return state, metrics | {"gradient_norm": optax.tree.norm(grad)}

    def update_all(
        states: Any, teacher_variables: Any, data: Any, batch: Any, rng: Any
    ) -> tuple[Any, Any]:
        # Written out: vmap makes grouped convolutions of the students', which are slow. What
        # is the same for all seeds XLA computes once, if it can see that it is the same.
        own = parallel.own
        together = [dataclasses.replace(state, step=states[0].step) for state in states]

        def data_of(seed: int) -> Any:
            if "teacher_logits" not in data:
                return data
            return data | {"teacher_logits": own(data["teacher_logits"], seed)}

        results = [
            update(state, own(teacher_variables, i), data_of(i), own(batch, i), own(rng, i))
            for i, state in enumerate(together)
        ]
        states, metrics = zip(*results, strict=True)
        return states, metrics

    def step(
        state: Any, teacher_variables: Any, data: Any, batch: Any, rng: Any
    ) -> tuple[Any, Any]:
        change = update_all if several_seeds else update
        state, metrics = parallel.loop(
            lambda state, one: change(state, teacher_variables, data, one, rng), state, batch
        )
        return state, _mean(metrics)

    return step


def make_eval_step(network: Network, image_size: int) -> Callable[..., Array]:
    """The evaluation step: `step(variables, data, batch) -> logits` float32 [b, k].

    `data` and `batch` are what `kdjax.data.batches` gives; the network sees the
    middle [image_size, image_size] of each image and is in evaluation mode.
    """

    def step(variables: Variables, data: Any, batch: Any) -> Array:
        images, _ = batches.gather(data, batch)
        return network.evaluate(variables, views.evaluation_view(images, image_size)).logits

    return step


def _told(outputs: Outputs, known: Array | None, index: Array) -> Outputs:
    """A teacher's outputs, with the logits that are known of the examples in place of its own."""
    if known is None:
        return outputs
    return outputs._replace(logits=jnp.take(known, index, axis=0))


def _mean(metrics: PyTree) -> PyTree:
    """Mean over the leading axis, that of steps or of parts."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
