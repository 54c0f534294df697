"""Networks by name. A family is a file with a `MODELS` table and a line here."""

import difflib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kdjax.models import resnet, wide_resnet
from kdjax.types import UserError

_MODELS = {**resnet.MODELS, **wide_resnet.MODELS}


def names() -> list[str]:
    """All names that `create` knows, sorted."""
    return sorted(_MODELS)


def create(
    name: str, *, num_classes: int, in_channels: int = 3, dtype: Any = jnp.float32, **kwargs: Any
) -> nn.Module:
    """The network called `name`, as a Flax module.

    `model.init(rng, images, train=False)` gives `{"params", "batch_stats"}`;
    `model.apply(variables, images, train=False)` gives `kdjax.Outputs` for
    normalised images [b, h, w, in_channels].

    Args:
      name: one of `names()`.
      num_classes: width of the logits.
      in_channels: channels of the images.
      dtype: of the computation; parameters and logits are float32.
      **kwargs: the family's own attributes; `axis_name` synchronises batch norm.

    Raises:
      UserError: if there is no such model.
    """
    if name not in _MODELS:
        close = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"unknown model {name!r}: {hint}choose from {', '.join(names())}")
    return _MODELS[name](num_classes=num_classes, in_channels=in_channels, dtype=dtype, **kwargs)
