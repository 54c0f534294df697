"""Overhaul of feature distillation.

Heo et al. 2019, "A comprehensive overhaul of feature distillation".
"""

from typing import Any

import jax
import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.adapters import Adapters, Pointwise, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import maps
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables


def ofd(*, norms: tuple[str, ...] = (), taps: tuple[str, ...] = ()) -> Distiller:
    """Partial L2 distance to the teacher's margin ReLU, summed over the stages.

    Stage i of n has weight 2^(i - n). The margin of a channel is the expectation of its
    negative responses. By default it is estimated during training, as the mean over the
    batches seen so far. With `norms` it is computed from the batch norms before the
    activations, the paper's alternative and what its code does, where the last norm of a
    residual block stands in for the residual sum.

    Taps: all stages before their activations. Trains: the student, and a 1x1 convolution with
    batch norm for each tap. State: the estimated margins. Usual weight: 1e-3, with 1 for
    cross-entropy (mdistiller, CIFAR); 1e-4 on ImageNet.

    Args:
      norms: names of the teacher's batch norms before the taps, in order, as in its parameters
        (for `resnet56`: `layer1_8_bn2`, `layer2_8_bn2`, `layer3_8_bn2`).
      taps: taps to compare instead of the stages, `student:teacher` where the names differ.
    """

    def pairs(context: Context) -> dict[str, tuple[Array, Array]]:
        return maps("ofd", context, taps, suffix="_pre")

    def adapters(context: Context) -> Adapters:
        return {
            name: (Pointwise.for_input(student, context, features=teacher.shape[-1]), student)
            for name, (student, teacher) in pairs(context).items()
        }

    def init(rng: Array, context: Context) -> Variables:
        variables = init_adapters(rng, adapters(context))
        margins = {}
        if norms:
            _check_norms(norms, pairs(context), context)
        else:
            for name, (_, teacher) in pairs(context).items():
                zeros = jnp.zeros(teacher.shape[-1])
                margins[name] = {"mean": zeros, "batches": zeros}
        return {
            "params": variables["params"],
            "state": {"adapters": variables["state"], "margins": margins},
        }

    def loss(variables: Variables, context: Context) -> MethodLoss:
        own = {"params": variables["params"], "state": variables["state"]["adapters"]}
        adapted, state = apply_adapters(own, adapters(context))
        value = jnp.zeros(len(context.index))
        margins = {}
        compared = list(pairs(context).items())
        for i, (name, (_, teacher)) in enumerate(compared):
            if norms:
                norm = context.teacher_variables[0]["params"][norms[i]]
                margin = losses.ofd_margin(norm["scale"], norm["bias"])
            else:
                estimate = variables["state"]["margins"][name]
                margins[name] = _update_margin(estimate, teacher, context.axis_name)
                margin = margins[name]["mean"]
            stage_loss = losses.ofd(*losses.match_size(adapted[name], teacher), margin)
            value += stage_loss / 2 ** (len(compared) - 1 - i)
        return MethodLoss(value, {"adapters": state, "margins": margins}, {})

    return for_each_teacher("ofd", loss, init)


def _check_norms(
    norms: tuple[str, ...], compared: dict[str, tuple[Array, Array]], context: Context
) -> None:
    params = context.teacher_variables[0]["params"]
    known = {name: p["scale"].shape[0] for name, p in params.items() if "scale" in p}
    if len(norms) != len(compared):
        raise UserError(
            f"method 'ofd' needs one norm for each of {', '.join(compared)}: got {', '.join(norms)}"
        )
    for norm, (name, (_, teacher)) in zip(norms, compared.items(), strict=True):
        if known.get(norm) != teacher.shape[-1]:
            fitting = [n for n, channels in known.items() if channels == teacher.shape[-1]]
            raise UserError(
                f"method 'ofd': {norm!r} is not a batch norm of the teacher with the "
                f"{teacher.shape[-1]} channels of {name}: choose from {', '.join(fitting)}"
            )


def _update_margin(margin: Any, teacher: Array, axis_name: str | None) -> Any:
    """Updates the running mean [c] of negative responses, and the number of batches [c], by one.

    A batch in which a channel has no negative response is not counted for that channel.
    """
    below = teacher < 0
    negative = jnp.where(below, teacher, 0.0).astype(jnp.float32)
    sums = (jnp.sum(negative, (0, 1, 2)), jnp.sum(below, (0, 1, 2), dtype=jnp.float32))
    # Averaging numerator and denominator over devices leaves their quotient unchanged.
    total, count = parallel.pmean(sums, axis_name)
    batches = margin["batches"] + (count > 0)
    step = (total / jnp.maximum(count, 1e-9) - margin["mean"]) / jnp.maximum(batches, 1.0)
    mean = margin["mean"] + jnp.where(count > 0, step, 0.0)
    return jax.lax.stop_gradient({"mean": mean, "batches": batches})
