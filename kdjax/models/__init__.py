"""Networks by name. A family is a file with a `MODELS` table and a line here."""

import difflib
import inspect
import numbers
from typing import Any

from kdjax.models import (
    generator,
    lenet,
    mobilenet,
    resnet,
    shufflenet,
    vgg,
    wide_resnet,
)
from kdjax.models.layers import Layers
from kdjax.types import UserError

_MODELS = {
    **resnet.MODELS,
    **wide_resnet.MODELS,
    **vgg.MODELS,
    **mobilenet.MODELS,
    **shufflenet.MODELS,
    **lenet.MODELS,
    **generator.MODELS,
}


def names() -> list[str]:
    """All names that `create` knows, sorted."""
    return sorted(_MODELS)


def check_name(name: str) -> None:
    """Raises a UserError that names the closest and all models if `name` is none of them."""
    if name not in _MODELS:
        close = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"unknown model {name!r}: {hint}choose from {', '.join(names())}")


def create(name: str, **attributes: Any) -> Layers:
    """The network called `name`, as a Flax module.

    `model.init(rng, images, train=False)` gives `{"params", "batch_stats"}`;
    `model.apply(variables, images, train=False)` gives `kdjax.Outputs` for
    normalised images [b, h, w, in_channels]. For `generator` it is latents
    [b, latent_dim] in and images out.

    Args:
      name: one of `names()`.
      **attributes: the network's own, and:
        num_classes: width of the logits; every classifier needs it.
        in_channels: channels of the images, 3 unless given.
        dtype: of the computation; parameters and logits are float32.
        axis_name: mapped axis over which batch norm averages in training.

    Raises:
      UserError: if there is no such model, or it has no such attribute, or one
        that it needs is missing or no positive integer.
    """
    check_name(name)
    known = inspect.signature(_MODELS[name]).parameters
    defaults = {key: p.default for key, p in known.items() if key not in ("parent", "name")}
    unknown = [key for key in attributes if key not in defaults]
    if unknown:
        raise UserError(
            f"model {name} has no attribute {', '.join(unknown)}: choose from {', '.join(defaults)}"
        )
    for key, default in defaults.items():
        if default is inspect.Parameter.empty and key not in attributes:
            raise UserError(f"model {name} needs {key}")
    for key, value in attributes.items():
        if key not in ("dtype", "axis_name"):
            kind, fits = _compare(value, defaults[key])
            if not fits:
                raise UserError(f"model {name}: {key}={value!r} is no {kind}")
    return _MODELS[name](**attributes)


def _compare(value: Any, default: Any) -> tuple[str, bool]:
    """What may stand in for an attribute's `default`, and whether `value` does."""
    match default:
        case bool() | str():
            return type(default).__name__, isinstance(value, type(default))
        case float():
            return "positive number", _is_positive(value, numbers.Real)
        case int() | type():  # the type that stands for no default: num_classes
            return "positive integer", _is_positive(value)
        case tuple():
            fits = isinstance(value, list | tuple) and len(value) == len(default)
            kind = f"sequence of {len(default)} positive integers"
            return kind, fits and all(map(_is_positive, value))
    return type(default).__name__, isinstance(value, type(default))


def _is_positive(value: Any, kind: Any = numbers.Integral) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value > 0
