"""Training on the labels."""

from kdjax import losses
from kdjax.types import Context, Distiller, MethodLoss, Variables


def cross_entropy(*, label_smoothing: float = 0.0) -> Distiller:
    """Cross-entropy of the student's logits with the (possibly mixed) labels.

    Taps: logits. Trains: the student alone. Usual weight: 1; beside KD 0.1.

    Args:
      label_smoothing: share of the probability spread evenly over the classes, in [0, 1).
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        value = losses.cross_entropy(
            context.student.logits, context.labels, label_smoothing=label_smoothing
        )
        return MethodLoss(value, variables["state"], {})

    return Distiller(lambda rng, context: {"params": {}, "state": {}}, loss)
