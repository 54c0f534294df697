"""A phase's objective, from its config."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.length import Length
from kdjax import distillers
from kdjax.types import Array, Context, Distiller, Network, Outputs, UserError


def make_objective(config: Mapping[str, Any], length: Length) -> Distiller:
    """The weighted sum that a phase's `objective` describes.

    Each term has a name and its `weight`, and may have a `schedule` that the weight, or the
    argument that it is `of`, is multiplied by, a `method` if that is not the term's name (of
    `kdjax.distillers`, or `package.module:factory`), the part of the batch that it is `on` (`all`,
    `labelled` or `unlabelled`; the term is its mean over that part), and the method's own
    arguments.

    Raises:
      UserError: on an unknown method, argument or schedule, or an empty objective.
    """
    if not config:
        raise UserError(f"an objective needs a method: choose from {', '.join(distillers.names())}")
    terms = {}
    for name, given in config.items():
        distiller, weight, part = _read_term(name, given, length)
        terms[name] = (weight, distillers.on_part(part, distiller))
    return distillers.weighted_sum(**terms)


def trained_network(
    config: Mapping[str, Any], student: Network, teachers: Sequence[Outputs]
) -> Network:
    """The network that a phase with this `objective` trains, as `kdjax.Distiller.network`.

    Args:
      config: the phase's `objective`.
      student: the network that its `model` names.
      teachers: shapes of each teacher's outputs.

    Raises:
      UserError: on an unknown method or argument, or if a method cannot be used with the networks.
    """
    for name, given in config.items():
        student = _read_term(name, given)[0].network(student, teachers)
    return student


def _read_term(
    name: str, given: Mapping[str, Any], length: Length | None = None
) -> tuple[Distiller, Any, str]:
    """The method of a term, its weight, and the part that it is on.

    Without a length, nothing follows a schedule.
    """
    arguments: dict[str, Any] = {"weight": 1.0, **given}
    schedule = dict(arguments.pop("schedule", None) or {})
    scheduled = schedule.pop("of", "weight")
    if schedule and length:
        if scheduled not in arguments:
            raise UserError(
                f"the schedule of term {name!r} is of {scheduled!r}, which the term does not give"
            )
        arguments[scheduled] = length.schedule(peak_value=arguments[scheduled], **schedule)
    weight = arguments.pop("weight")
    method = arguments.pop("method", name)
    part = arguments.pop("on", "all")
    return distillers.create(method, **arguments), weight, part


class LogitTerms:
    """The terms of an objective that need nothing but logits and labels, on whole splits."""

    def __init__(self, config: Mapping[str, Any]):
        """Takes a phase's `objective`; weights, schedules and parts of a batch play no role."""
        self._methods = {name: _read_term(name, given)[0] for name, given in config.items()}
        # One program instead of one per operation.
        self._means = jax.jit(self._find)

    def measure(
        self, logits: np.ndarray, labels: np.ndarray, teacher_logits: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """The mean of each term, as `loss/NAME`.

        Args:
          logits: [n, k], of the student.
          labels: int [n], -1 where unknown; terms that need them are left out then.
          teacher_logits: [n, k] of each teacher.

        Returns:
          The terms that can be computed. One that needs feature maps, parameters or state of its
          own, or compares examples with each other, is left out.
        """
        known = labels if (labels >= 0).all() else None
        terms = jax.device_get(self._means(logits, known, tuple(teacher_logits)))
        return {f"loss/{name}": float(value) for name, value in terms.items()}

    def _find(
        self, logits: Array, labels: Array | None, teacher_logits: tuple[Array, ...]
    ) -> dict[str, Array]:
        # Where a label is unknown there are none, and whatever looks at them fails.
        known: Any = None if labels is None else jax.nn.one_hot(labels, logits.shape[-1])
        context = Context(
            student=Outputs(logits, {}),
            teachers=tuple(Outputs(one, {}) for one in teacher_logits),
            labels=known,
            index=jnp.arange(len(logits)),
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.key(0),
        )
        found = {}
        for name, method in self._methods.items():
            try:
                variables = jax.eval_shape(method.init, context.rng, context)
                value = method.loss(variables, context).value
            except Exception:
                # It needs more than there is, which methods say in many ways.
                continue
            if not jax.tree.leaves(variables) and value.shape == (len(logits),):
                found[name] = jnp.mean(value)
        return found
