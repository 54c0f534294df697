"""Weighted sums of methods, and the checks that methods share."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables


def require_teachers(method: str, context: Context) -> None:
    """Raises UserError unless there is a teacher, with as many classes as the student."""
    if not context.teachers:
        raise UserError(f"method {method!r} needs a teacher, and the phase names none")
    for teacher in context.teachers:
        if teacher.logits.shape[-1] != context.student.logits.shape[-1]:
            raise UserError(
                f"method {method!r}: the teacher has {teacher.logits.shape[-1]} classes, "
                f"the student {context.student.logits.shape[-1]}"
            )


def weighted_sum(**terms: tuple[float | optax.Schedule, Distiller]) -> Distiller:
    """The sum of methods, each times its weight.

    Args:
      **terms: `name=(weight, distiller)`; a weight is a number or an optax
        schedule of the step. The name is that of its variables and metrics, so
        one method may appear twice under two names.

    Returns:
      A Distiller whose loss is the scalar sum of `weight * mean(value)`, and whose
      metrics are each term's unweighted mean under its name, a scheduled weight
      under `name/weight`, and the term's own metrics under `name/metric`.
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
            state[name] = term.state
            metrics[name] = value
            metrics |= {f"{name}/{key}": v for key, v in term.metrics.items()}
        return MethodLoss(total, state, metrics)

    return Distiller(init, loss)
