"""Adversarial images of one network, and how often they fool another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.types import Array


def fgsm_step(
    apply: Callable[[Array], Array],
    images: Array,
    clean: Array,
    labels: Array,
    *,
    eps: float,
    alpha: float,
) -> Array:
    """One step of iterative FGSM (Kurakin et al. 2017, section 2.2).

    x <- clip_{clean, eps}(x + alpha sign(grad_x CE(apply(x), label))), which Ojha et al. 2023
    repeat five times (Table 2).

    Args:
      apply: from images to the attacked network's logits [b, k].
      images: [b, h, w, c], pixels in [0, 1].
      clean: [b, h, w, c], the images before the first step.
      labels: int [b].
      eps: largest change of a pixel, at least 0.
      alpha: size of the step.

    Returns:
      [b, h, w, c], pixels in [0, 1] and within eps of `clean`.
    """
    grad = jax.grad(lambda x: jnp.sum(losses.cross_entropy(apply(x), labels)))(images)
    moved = images + alpha * jnp.sign(grad)
    return jnp.clip(jnp.clip(moved, clean - eps, clean + eps), 0, 1)


def fooling_rate(clean_logits: Array, attacked_logits: Array) -> Array:
    """Fraction of images whose attack changes a network's own prediction, in [0, 1].

    Args:
      clean_logits: [n, k] of the images.
      attacked_logits: [n, k] of their attacks.
    """
    changed = jnp.argmax(clean_logits, -1) != jnp.argmax(attacked_logits, -1)
    return jnp.mean(changed, dtype=jnp.float32)
