"""Networks by name. A family is a file with a table `MODELS`, listed below."""

import difflib
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from kdjax.models import bit, generator, lenet, mobilenet, resnet, shufflenet, vgg, wide_resnet
from kdjax.models.layers import Layers, Model
from kdjax.references import is_reference, resolve
from kdjax.types import UserError

_MODELS: dict[str, Callable[..., Layers]] = {
    **bit.MODELS,
    **generator.MODELS,
    **lenet.MODELS,
    **mobilenet.MODELS,
    **resnet.MODELS,
    **shufflenet.MODELS,
    **vgg.MODELS,
    **wide_resnet.MODELS,
}

__all__ = ["Layers", "Model", "check_name", "create", "names"]


def names() -> list[str]:
    """The names of the networks of kdjax, sorted."""
    return sorted(_MODELS)


def check_name(name: str) -> None:
    """Checks that a name is one of `names()` or has the form `package.module:factory`.

    A reference is not resolved.

    Raises:
      UserError: if it is neither; the message lists all names, the most similar ones first.
    """
    if name not in _MODELS and not is_reference(name):
        close = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"unknown model {name!r}: {hint}choose from {', '.join(names())}, "
            "or give your own as package.module:factory"
        )


def create(name: str, **attributes: Any) -> Layers:
    """Creates a network by name.

    `model.init(rng, images, train=False)` returns `{"params", "batch_stats"}`, and
    `model.apply(variables, images, train=False)` returns `kdjax.Outputs` for normalised images
    [b, h, w, in_channels]. `generator` instead maps latents [b, latent_dim] to images.

    Args:
      name: one of `names()`, or `package.module:factory` for a network of your own. The
        factory is a class derived from `kdjax.models.Model`, or a function that returns an
        instance of one. It is called with the attributes; of the four below it receives only
        those that are in its signature. If it takes no `dtype` or `axis_name`, they are set on
        the module it returns.
      **attributes: attributes of the network, and for every classifier:
        num_classes: width of the logits, required.
        in_channels: channels of the images, 3 by default.
        dtype: dtype of the computation, float32 by default; parameters and logits are float32.
        axis_name: mapped axis over which batch norm averages in training, None by default.

    Raises:
      UserError: if there is no such network, if it does not have one of the attributes, if a
        required attribute is missing or a value is of the wrong type, or if a factory does not
        return a `kdjax.models.Model` with the given `num_classes` and `in_channels`.
    """
    check_name(name)
    if is_reference(name):
        return _create_external(name, attributes)
    defaults = _defaults(_MODELS[name])
    _check_keys(name, attributes, defaults)
    for key, value in attributes.items():
        if key not in ("dtype", "axis_name"):
            _check_value(name, key, value, defaults[key])
    return _MODELS[name](**attributes)


def _create_external(reference: str, attributes: dict[str, Any]) -> Model:
    factory = resolve(reference, "model")
    expected = "it must be a class derived from kdjax.models.Model or a function that returns one"
    if not callable(factory) or isinstance(factory, nn.Module):
        raise UserError(
            f"model {reference!r} is an object of type {type(factory).__name__}: {expected}"
        )
    if inspect.isclass(factory) and not issubclass(factory, Model):
        raise UserError(f"model {reference!r} does not derive from kdjax.models.Model: {expected}")
    for key in ("num_classes", "in_channels"):
        if key in attributes:
            _check_value(reference, key, attributes[key], inspect.Parameter.empty)
    defaults = _defaults(factory)
    given = attributes
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values()):
        common = ("num_classes", "in_channels", "dtype", "axis_name")
        given = {k: v for k, v in attributes.items() if k in defaults or k not in common}
        _check_keys(reference, given, defaults)
    model = factory(**given)
    if not isinstance(model, Model):
        raise UserError(
            f"model {reference!r} returned an object of type {type(model).__name__}, "
            "which does not derive from kdjax.models.Model"
        )
    for key in ("num_classes", "in_channels"):
        if key in attributes and getattr(model, key) != attributes[key]:
            raise UserError(
                f"model {reference!r} has {key}={getattr(model, key)} instead of {attributes[key]}"
            )
    ignored = {k: attributes[k] for k in ("dtype", "axis_name") if k in attributes.keys() - given}
    return model.clone(**ignored) if ignored else model


def _defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """The keyword arguments of a factory and their defaults, without Flax's own."""
    return {
        key: p.default
        for key, p in inspect.signature(factory).parameters.items()
        if key not in ("parent", "name") and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def _check_keys(name: str, attributes: dict[str, Any], defaults: dict[str, Any]) -> None:
    if unknown := [key for key in attributes if key not in defaults]:
        raise UserError(
            f"model {name} has no attribute {', '.join(unknown)}: "
            f"choose from {', '.join(defaults) or 'none'}"
        )
    for key, default in defaults.items():
        if default is inspect.Parameter.empty and key not in attributes:
            raise UserError(f"model {name} needs {key}")


def _check_value(name: str, key: str, value: Any, default: Any) -> None:
    """Checks that a value is of the same kind as the attribute's default."""
    match default:
        case bool() | str():
            kind, fits = type(default).__name__, isinstance(value, type(default))
        case float():
            kind, fits = "positive number", _is_positive(value, numbers.Real)
        case int() | type():  # the type is Parameter.empty: num_classes has no default
            kind, fits = "positive integer", _is_positive(value)
        case tuple():
            kind = f"sequence of {len(default)} positive integers"
            fits = isinstance(value, list | tuple) and len(value) == len(default)
            fits = fits and all(map(_is_positive, value))
        case _:
            kind, fits = type(default).__name__, isinstance(value, type(default))
    if not fits:
        raise UserError(f"model {name}: {key}={value!r} is not a {kind}")


def _is_positive(value: Any, kind: Any = numbers.Integral) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value > 0
