"""Scale decoupled distillation.

Wei et al. 2024, "Scale decoupled distillation".
"""

import jax.numpy as jnp

from kdjax import heads, losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables

FORMS = ("kd", "dkd")


def sdd(
    *,
    form: str = "kd",
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    scales: tuple[int, ...] = (1, 2, 4),
) -> Distiller:
    """KD or DKD of the logits of parts of the image.

    Both classifiers are applied to the means of the cells of the networks' last maps, cut into
    1x1, 2x2 and 4x4 of them: 21 vectors of logits, of which the first are the network's own. If
    labels are mixed, the target is the most probable class.

    The authors pool coarse cells from the 4x4 ones, which makes a difference where a map's side is
    no multiple of four (7x7 on ImageNet); here each is the mean of what it covers, as in the paper.

    Taps: `pre_pool`. Trains: only the student. Usual weight: 0.9, with 0.1 for cross-entropy; as
    DKD 1, with 1 for cross-entropy, warmed up over 20 epochs.

    Args:
      form: one of `FORMS`: the loss of a cell.
      temperature: T > 0, by which all logits are divided.
      alpha: of DKD, weight of target class knowledge distillation.
      beta: of DKD, weight of non-target class knowledge distillation.
      scales: cells on a side (M); the first is 1, to which the others are compared.

    Raises:
      UserError: on an unknown form or other scales. `init` and `loss` raise it if a network does
        not end in global average pooling and a linear layer.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r} of sdd: choose from {', '.join(FORMS)}")
    if min(scales, default=0) < 1 or scales[0] != 1:
        raise UserError(
            f"scales of sdd are {tuple(scales)}: positive integers, the first of them 1"
        )
    weights = {"alpha": alpha, "beta": beta} if form == "dkd" else {}

    def cell_logits(head: heads.LinearHead) -> Array:
        """[b, k, cells]."""
        x = head.feature_map.astype(jnp.float32)
        cells = jnp.concatenate(
            [
                losses.adaptive_average_pool(x, (side, side)).reshape(len(x), -1, x.shape[-1])
                for side in scales
            ],
            axis=1,
        )
        logits = jnp.matmul(cells, head.kernel, precision=losses.PRECISION)
        return jnp.swapaxes(logits + head.bias[None, None], 1, 2)

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = map(cell_logits, heads.linear_heads("sdd", context))
        labels = jnp.argmax(context.labels, axis=-1)
        value = losses.sdd(student, teacher, labels, temperature=temperature, **weights)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("sdd", loss, same_classes=True)
