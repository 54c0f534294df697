"""Probabilistic knowledge transfer.

Passalis & Tefas 2018, "Learning deep representations with probabilistic knowledge transfer".
"""

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import embeddings
from kdjax.types import Context, Distiller, MethodLoss, Variables


def pkt() -> Distiller:
    """KL between the conditional probabilities given by cosine similarities in the whole batch.

    Taps: `pre_logits`. Trains: only the student. Usual weight: 30000, with 1 for cross-entropy
    (RepDistiller).
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = parallel.all_gather(embeddings("pkt", context), context.axis_name)
        return MethodLoss(losses.pkt(student, teacher), variables["state"], {})

    return for_each_teacher("pkt", loss)
