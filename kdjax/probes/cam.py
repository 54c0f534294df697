"""Where a network looks: Grad-CAM (Selvaraju et al. 2017)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdjax import jaxprs
from kdjax.distillers.taps import stages
from kdjax.types import Array, Network, UserError, Variables


def _last_stage(taps: Mapping[str, Array]) -> str:
    """The name of the last stage's tap, after its activation.

    Raises:
      UserError: if there are no stages.
    """
    found = stages(taps)
    if not found:
        raise UserError(f"Grad-CAM needs the feature map of a stage: there are {', '.join(taps)}")
    return found[-1]


def grad_cam(
    network: Network, variables: Variables, images: Array, labels: Array, tap: str = ""
) -> Array:
    """Grad-CAM of each image's class (Selvaraju et al. 2017, equations 1 and 2).

    relu(sum_k w_k A^k), where A^k is channel k of a feature map and w_k the mean over positions of
    the gradient of the class's logit with respect to it.

    Args:
      network: evaluated with running averages, so that examples do not depend on each other.
      variables: of the network.
      images: [b, h, w, c], pixels in [0, 1].
      labels: int [b], the class of each image.
      tap: name of the feature map; "" is the last stage.

    Returns:
      float32 [b, h', w'], not negative, of the size of the feature map.

    Raises:
      UserError: if the network has no such feature map, or its logits do not depend on it.
    """
    known = jax.eval_shape(network.evaluate, variables, images).taps
    tap = tap or _last_stage(known)
    if tap not in known or known[tap].ndim != 4:
        raise UserError(f"no feature map {tap!r}: the taps are {', '.join(known)}")

    def forward(inputs: tuple[Variables, Array]) -> tuple[Array, Array]:
        outputs = network.evaluate(*inputs)
        return outputs.logits, outputs.taps[tap]

    features, rest = jaxprs.split_at(forward, (variables, images))

    def score(features: Array) -> Array:
        return jnp.sum(jnp.take_along_axis(rest(features), labels[:, None], axis=-1))

    weights = jnp.mean(jax.grad(score)(features), axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * features, axis=-1)).astype(jnp.float32)


def cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle between two maps of each image; 0 if one of them is zero.

    The smaller maps are resized to the size of the larger ones, bilinearly.

    Args:
      a: [b, h, w].
      b: [b, h', w'].

    Returns:
      float32 [b], in [0, 1] for maps that are not negative.
    """
    height, width = (max(a.shape[i], b.shape[i]) for i in (1, 2))

    def flat(maps: Array) -> Array:
        resized = jax.image.resize(maps, (len(maps), height, width), "linear", antialias=False)
        vectors = resized.reshape(len(maps), -1)
        # A division by the largest value, so that the squares of small ones do not vanish.
        largest = jnp.max(jnp.abs(vectors), axis=1, keepdims=True)
        vectors = vectors / jnp.where(largest > 0, largest, 1)
        norm = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / jnp.where(norm > 0, norm, 1)

    return jnp.sum(flat(a) * flat(b), axis=1)
