"""Class attention transfer.

Guo et al. 2023, "Class attention transfer based knowledge distillation".
"""

import jax.numpy as jnp

from kdjax import heads, losses
from kdjax.distillers.combine import for_each_teacher
from kdjax.types import Array, Context, Distiller, MethodLoss, UserError, Variables


def cat(*, size: int = 2, normalize: bool = False) -> Distiller:
    """Mean squared difference of class activation maps, average-pooled to a few positions.

    A class activation map is what the classifier's kernel makes of the last map at each position.
    The bias is left out: the authors' networks have none.

    Taps: `pre_pool`. Trains: only the student. Usual weight: from 0.7 to 15 for networks of one
    family, and from 15 to 600 for others, whose maps are normalised, with 1 for cross-entropy; by
    pair in `configs/methods.py`.

    Args:
      size: side to which the maps are pooled: 2, or 4 to ShuffleNets and on ImageNet.
      normalize: whether each pooled map is divided by its norm over positions, as in the authors'
        code between networks of different families.

    Raises:
      UserError: if the size is not positive. `init` and `loss` raise it if a network does not end
        in global average pooling and a linear layer.
    """
    if size < 1:
        raise UserError(f"size of cat is {size}: it must be positive")

    def class_maps(head: heads.LinearHead) -> Array:
        """[b, h, w, k]."""
        x = head.feature_map.astype(jnp.float32)
        return jnp.matmul(x, head.kernel, precision=losses.PRECISION)

    def loss(variables: Variables, context: Context) -> MethodLoss:
        student, teacher = map(class_maps, heads.linear_heads("cat", context))
        value = losses.class_attention_transfer(student, teacher, size=size, normalize=normalize)
        return MethodLoss(value, variables["state"], {})

    return for_each_teacher("cat", loss, same_classes=True)
