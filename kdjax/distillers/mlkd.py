"""Multi-level logit distillation.

Jin et al. 2023, "Multi-level logit distillation".
"""

import jax
import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

FORMS = ("code", "paper")


def mlkd(*, temperature: float = 4.0, form: str = "code", standardize: bool = False) -> Distiller:
    """KD, class correlations and batch correlations, each a sum over five temperatures.

    Every image is seen in two views, a weak one and a strong one (RandAugment), which are the first
    and the second of the step (`extra_views`). Correlations are between the examples of the whole
    batch. The `paper` sums all three terms over both views. In the authors' `code`, with which the
    printed numbers were made, they differ:

    - Of the weak view, each term is multiplied by the share of examples (KD, batch correlations) or
      of classes (class correlations) of which the teacher is no surer than of the median one. That
      is about one half; it was meant to select these examples, but multiplies their mean.
    - Of the strong view, only KD at three temperatures is learned. At the other two, 2 and 6, its
      place is taken by the weak view's; correlations are computed and not added.

    Without a strong view, `code` is the weak view's part.

    Taps: logits. Trains: only the student. Usual weight: 1.8, with 0.2 for cross-entropy: the
    authors' 0.9 and 0.1 are of the sum over both views, of which the step takes the mean. With
    `standardize` ten times that, and T = 2 (S. Sun et al. 2024).

    Args:
      temperature: one of the five temperatures; the others are 3, 5, 2 and 6.
      form: one of `FORMS`.
      standardize: whether each example's logits are standardised first (S. Sun et al. 2024, "Logit
        standardization in knowledge distillation"); only of KD, as in their code.

    Raises:
      UserError: on an unknown form.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")
    temperatures = (temperature, 3.0, 5.0, 2.0, 6.0)

    def loss(variables: Variables, context: Context) -> MethodLoss:
        logits = (context.student.logits, context.teacher.logits)
        student, teacher = parallel.all_gather(logits, context.axis_name)
        kd = [
            jnp.mean(losses.kd(*logits, temperature=t, standardize=standardize))
            for t in temperatures
        ]
        classes, examples = (
            sum(correlation(student, teacher, temperature=t) for t in temperatures)
            for correlation in (losses.class_correlation, losses.batch_correlation)
        )
        if form == "paper":
            value = sum(kd) + classes + examples
        elif context.view == 0:
            probabilities = jax.nn.softmax(teacher.astype(jnp.float32))
            of_examples = _share_up_to_median(jnp.max(probabilities, axis=1))
            of_classes = _share_up_to_median(jnp.sum(probabilities, axis=0))
            value = of_examples * (sum(kd) + examples) + of_classes * classes + sum(kd[3:])
        else:
            value = sum(kd[:3])
        return MethodLoss(jnp.asarray(value), variables["state"], {})

    return for_each_teacher("mlkd", loss, same_classes=True)


def _share_up_to_median(x: Array) -> Array:
    """The share of the values [n] that are not above their median."""
    return jnp.mean(x <= jnp.median(x))
