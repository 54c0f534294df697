"""Curriculum temperature for knowledge distillation.

Li et al. 2023, "Curriculum temperature for knowledge distillation".
"""

import jax
import jax.numpy as jnp
import optax

from kdjax import losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables

# The temperature at theta = -infinity and what is added to it until theta = infinity.
_LOW, _RANGE = 1.0, 20.0


def ctkd(*, reversal: float | optax.Schedule = 1.0) -> Distiller:
    """KD at a temperature that is trained against the student.

    T = 1 + 20 sigmoid(theta), theta = 1 at first, so that T is 15.6. The student descends the loss
    and theta ascends it: theta's gradient is reversed and multiplied by lambda, which grows in the
    first epochs, so that the task becomes harder. This is the paper's global temperature;
    its instance-wise one is a network.

    The authors' lambda is constant in an epoch; a schedule here is one of the step. theta is
    updated by the student's optimiser, weight decay included, as in their code.

    Taps: logits. Trains: the student, and theta. Metrics: `temperature`. Usual weight: 0.9, with
    0.1 for cross-entropy.

    Args:
      reversal: lambda, not negative: a number or a schedule of the step. In the paper it rises
        from 0 to 1 as half a cosine over 10 epochs of 240.
    """

    def init(rng: Array, context: Context) -> Variables:
        return {"params": {"theta": jnp.ones(())}, "state": {}}

    def loss(variables: Variables, context: Context) -> MethodLoss:
        theta = variables["params"]["theta"]
        strength = reversal(context.step) if callable(reversal) else reversal
        constant = jax.lax.stop_gradient(theta)
        # The value of theta, and minus lambda times its gradient.
        theta = constant - strength * (theta - constant)
        temperature = _LOW + _RANGE * jax.nn.sigmoid(theta)
        value = losses.kd(context.student.logits, context.teacher.logits, temperature=temperature)
        return MethodLoss(value, variables["state"], {"temperature": temperature})

    return for_each_teacher("ctkd", loss, init, same_classes=True)
