"""Probabilistic knowledge transfer (Passalis & Tefas 2018)."""

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import embeddings
from kdjax.types import Context, Distiller, MethodLoss, Variables


def pkt() -> Distiller:
    """KL between the probabilities that cosine similarities in the whole batch define.

    Taps: `pre_logits`. Trains: the student alone. Usual weight: 30000 beside 1 of
    cross-entropy (RepDistiller).
    """

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = parallel.all_gather(embeddings("pkt", context), context.axis_name)
        return MethodLoss(losses.pkt(student, teacher), variables["state"], {})

    return for_each_teacher("pkt", loss)
