"""Correlation congruence.

Peng et al. 2019, "Correlation congruence for knowledge distillation".
"""

from kdjax import losses, parallel
from kdjax.distillers.adapters import Adapters, Embedding, apply_adapters, init_adapters
from kdjax.distillers.combine import for_each_teacher
from kdjax.distillers.taps import embeddings
from kdjax.types import Array, Context, Distiller, MethodLoss, Variables


def cc(*, features: int = 128) -> Distiller:
    """Correlation congruence of the embeddings of the whole batch, as in the authors' code.

    Averages the products of neighbouring examples' embedding differences
    (`losses.correlation_congruence`); the paper compares kernel matrices of the batch instead.

    Taps: `pre_logits`. Trains: the student, and a linear embedding of each network. Usual
    weight: 0.02, with 1 for cross-entropy (RepDistiller).

    Args:
      features: dimensions of the embeddings.
    """

    def adapters(context: Context) -> Adapters:
        student, teacher = embeddings("cc", context)
        return {
            "student": (Embedding.for_input(student, context, features=features), student),
            "teacher": (Embedding.for_input(teacher, context, features=features), teacher),
        }

    def init(rng: Array, context: Context) -> Variables:
        return init_adapters(rng, adapters(context))

    def loss(variables: Variables, context: Context) -> MethodLoss:
        embedded, state = apply_adapters(variables, adapters(context))
        embedded = parallel.all_gather(embedded, context.axis_name)
        value = losses.correlation_congruence(embedded["student"], embedded["teacher"])
        return MethodLoss(value, state, {})

    return for_each_teacher("cc", loss, init)
