"""Combines methods into objectives, and extends methods for one teacher to several."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.types import (
    Array,
    Context,
    Distiller,
    MethodLoss,
    Network,
    Outputs,
    Separated,
    UserError,
    Variables,
)


def weighted_sum(**terms: tuple[float | optax.Schedule, Distiller]) -> Distiller:
    """Weighted sum of methods.

    Args:
      **terms: `name=(weight, distiller)`; a weight is a number or an optax schedule of the
        step. Variables and metrics of a term are stored under its name, so that a method may
        appear more than once under different names.

    Returns:
      A `Distiller` whose loss is the scalar sum of `weight * mean(value)`. Its metrics are each
      term's unweighted mean under `name`, scheduled weights under `name/weight`, and the
      terms' own metrics under `name/metric`. The network that is trained is what all terms make
      of the student, one after the other.
    """

    def init(rng: Array, context: Context) -> Variables:
        variables = {
            name: distiller.init(key, context)
            for key, (name, (_, distiller)) in zip(
                jax.random.split(rng, len(terms)), terms.items(), strict=True
            )
        }
        return {
            kind: {name: v[kind] for name, v in variables.items()} for kind in ("params", "state")
        }

    def loss(variables: Variables, context: Context) -> MethodLoss:
        total = jnp.zeros(())
        separated = Separated(jnp.zeros(()), jnp.zeros(()))
        state, metrics = {}, {}
        for i, (name, (weight, distiller)) in enumerate(terms.items()):
            own = {kind: variables[kind][name] for kind in ("params", "state")}
            key = jax.random.fold_in(context.rng, i)
            term = distiller.loss(own, dataclasses.replace(context, rng=key))
            value = jnp.mean(term.value)
            if callable(weight):
                weight = weight(context.step)
                metrics[f"{name}/weight"] = jnp.asarray(weight)
            total += weight * value
            separated = Separated(
                *(x + weight * jnp.mean(y) for x, y in zip(separated, term.separate(), strict=True))
            )
            state[name] = term.state
            metrics[name] = value
            metrics |= {f"{name}/{key}": v for key, v in term.metrics.items()}
        return MethodLoss(total, state, metrics, separated)

    def network(student: Network, teachers: Sequence[Outputs]) -> Network:
        for _, distiller in terms.values():
            student = distiller.network(student, teachers)
        return student

    def adopt(variables: Variables, teacher_variables: Sequence[Variables]) -> Variables:
        for _, distiller in terms.values():
            variables = distiller.adopt(variables, teacher_variables)
        return variables

    return Distiller(init, loss, network, adopt)


PARTS = ("all", "labelled", "unlabelled")


def on_part(part: str, distiller: Distiller) -> Distiller:
    """A method on a part of the batch, as if the rest were not there.

    The networks have seen the whole batch, whose statistics batch norm normalises by.

    Args:
      part: one of `PARTS`: the images of sources with labels, those of sources without, or all.
      distiller: the method.

    Returns:
      A `Distiller` whose loss is the mean over the part. Its `init` and `loss` raise UserError
      if no image of the batch is in it.

    Raises:
      UserError: on an unknown part.
    """
    if part not in PARTS:
        raise UserError(f"unknown part {part!r} of a batch: choose from {', '.join(PARTS)}")
    if part == "all":
        return distiller

    def cut(context: Context) -> Context:
        start, stop = _rows(part, context)
        if start == stop:
            raise UserError(f"a term of the objective is on {part} images, and there are none")

        def rows(x: Any) -> Any:
            if isinstance(x, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct((stop - start, *x.shape[1:]), x.dtype)
            return x[start:stop]

        of_batch = ("student", "teachers", "labels", "index")
        return dataclasses.replace(
            context,
            labelled=None if part == "labelled" else (0, 0),
            **{key: jax.tree.map(rows, getattr(context, key)) for key in of_batch},
        )

    def loss(variables: Variables, context: Context) -> MethodLoss:
        term = distiller.loss(variables, cut(context))
        separated = jax.tree.map(jnp.mean, term.separated)
        return term._replace(value=jnp.mean(term.value), separated=separated)

    return distiller._replace(
        init=lambda rng, context: distiller.init(rng, cut(context)), loss=loss
    )


def _rows(part: str, context: Context) -> tuple[int, int]:
    """The rows [start, stop) of a part; there are at most two parts, one after the other."""
    size = context.index.shape[0]
    start, stop = context.labelled or (0, size)
    if part == "labelled":
        return start, stop
    return (stop, size) if start == 0 else (0, start)


def for_each_teacher(
    method: str,
    loss: Callable[[Variables, Context], MethodLoss],
    init: Callable[[Array, Context], Variables] | None = None,
    *,
    same_classes: bool = False,
) -> Distiller:
    """Averages a method for one teacher over all teachers.

    Each teacher has parameters and state of its own, under `teacher0`, `teacher1`, ...

    Args:
      method: name of the method, for error messages.
      loss: a `Distiller.loss` for a context with one teacher (`context.teacher`).
      init: the matching `Distiller.init`. By default the method has no parameters and no
        state, and `init` only traces the loss, so that networks which it cannot compare are
        reported before the first step.
      same_classes: whether the teachers must have as many classes as the student.

    Returns:
      A `Distiller` whose `init` and `loss` raise UserError if there is no teacher, or if
      `same_classes` is set and the numbers of classes differ.
    """

    def split(context: Context) -> dict[str, Context]:
        if not context.teachers:
            raise UserError(f"method {method!r} needs a teacher: the context has none")
        parts = {}
        for i, teacher in enumerate(context.teachers):
            if same_classes and teacher.logits.shape[-1] != context.student.logits.shape[-1]:
                raise UserError(
                    f"method {method!r}: the teacher has {teacher.logits.shape[-1]} classes, "
                    f"the student {context.student.logits.shape[-1]}"
                )
            parts[f"teacher{i}"] = dataclasses.replace(
                context,
                teachers=(teacher,),
                teacher_variables=context.teacher_variables[i : i + 1],
            )
        return parts

    def init_one(rng: Array, context: Context) -> Variables:
        if init is not None:
            return init(rng, context)
        nothing: Variables = {"params": {}, "state": {}}
        jax.eval_shape(lambda context: loss(nothing, context).value, context)
        return nothing

    def init_all(rng: Array, context: Context) -> Variables:
        variables = {
            name: init_one(jax.random.fold_in(rng, i), part)
            for i, (name, part) in enumerate(split(context).items())
        }
        return {kind: {n: v[kind] for n, v in variables.items()} for kind in ("params", "state")}

    def loss_all(variables: Variables, context: Context) -> MethodLoss:
        terms = {}
        for i, (name, part) in enumerate(split(context).items()):
            own = {kind: variables[kind][name] for kind in ("params", "state")}
            key = jax.random.fold_in(context.rng, i)
            terms[name] = loss(own, dataclasses.replace(part, rng=key))
        return MethodLoss(
            jnp.mean(jnp.stack([term.value for term in terms.values()]), axis=0),
            {name: term.state for name, term in terms.items()},
            {f"{n}/{key}": v for n, term in terms.items() for key, v in term.metrics.items()},
        )

    return Distiller(init_all, loss_all)
