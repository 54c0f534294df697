"""Relational knowledge distillation (Park et al. 2019)."""

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import embeddings
from kdjax.types import Context, Distiller, MethodLoss, Variables


def rkd(*, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Distiller:
    """Huber losses on the distances of pairs and the angles of triplets of the whole batch.

    Every device compares its own examples' relations to all others. The memory for
    triplets grows as the square of the batch times a device's share of it.

    Taps: `pre_logits`. Trains: the student alone. Usual weight: 1 beside 1 of
    cross-entropy (RepDistiller).

    Args:
      distance_weight: of the pairs; 0 leaves them out (RKD-A).
      angle_weight: of the triplets; 0 leaves them out (RKD-D).
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = parallel.all_gather(embeddings("rkd", context), context.axis_name)
        value = losses.rkd(
            student,
            teacher,
            distance_weight=distance_weight,
            angle_weight=angle_weight,
            anchors=parallel.places(len(context.index), context.axis_name),
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("rkd", loss)
