"""Relational knowledge distillation.

Park et al. 2019, "Relational knowledge distillation".
"""

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import embeddings
from kdjax.types import Context, Distiller, MethodLoss, Variables


def rkd(*, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Distiller:
    """Huber losses on pairwise distances and triplet angles in the whole batch.

    Each device compares the relations of its own examples to all others. With b examples in
    the batch and n on the device, the angles take O(b^2 n) memory.

    Taps: `pre_logits`. Trains: only the student. Usual weight: 1, with 1 for cross-entropy
    (RepDistiller).

    Args:
      distance_weight: weight of the distances; 0 omits them (RKD-A).
      angle_weight: weight of the angles; 0 omits them (RKD-D).
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = parallel.all_gather(embeddings("rkd", context), context.axis_name)
        value = losses.rkd(
            student,
            teacher,
            distance_weight=distance_weight,
            angle_weight=angle_weight,
            anchors=parallel.batch_indices(len(context.index), context.axis_name),
        )
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("rkd", loss)
