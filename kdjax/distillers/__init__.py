"""Distillation methods by name: one file a method, one line here.

Each is a factory `method(**kwargs) -> kdjax.Distiller`; `weighted_sum` adds them up.
"""

import inspect
from collections.abc import Callable
from typing import Any

from kdjax.distillers.combine import weighted_sum
from kdjax.distillers.cross_entropy import cross_entropy
from kdjax.distillers.kd import kd
from kdjax.types import Distiller, UserError

_METHODS: dict[str, Callable[..., Distiller]] = {
    "cross_entropy": cross_entropy,
    "kd": kd,
}

__all__ = [*_METHODS, "create", "names", "weighted_sum"]


def names() -> list[str]:
    """All names that `create` knows, sorted."""
    return sorted(_METHODS)


def create(name: str, **kwargs: Any) -> Distiller:
    """The method called `name`.

    Raises:
      UserError: if there is no such method, or it has no such argument.
    """
    if name not in _METHODS:
        raise UserError(f"unknown method {name!r}: choose from {', '.join(names())}")
    allowed = inspect.signature(_METHODS[name]).parameters
    if unknown := set(kwargs) - set(allowed):
        raise UserError(
            f"method {name!r} has no argument {', '.join(sorted(unknown))}: "
            f"choose from {', '.join(allowed) or 'none'}"
        )
    return _METHODS[name](**kwargs)
