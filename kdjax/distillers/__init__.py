"""Distillation methods: one file and one line of export each.

A method is a factory `method(**kwargs) -> kdjax.Distiller`. `weighted_sum` combines several
methods into a training objective.
"""

import inspect
from collections.abc import Callable
from typing import Any

from kdjax.distillers.ab import ab as ab
from kdjax.distillers.at import at as at
from kdjax.distillers.cat import cat as cat
from kdjax.distillers.cc import cc as cc
from kdjax.distillers.combine import for_each_teacher, on_part, weighted_sum
from kdjax.distillers.crd import crd as crd
from kdjax.distillers.cross_entropy import cross_entropy as cross_entropy
from kdjax.distillers.ctkd import ctkd as ctkd
from kdjax.distillers.dist import dist as dist
from kdjax.distillers.dkd import dkd as dkd
from kdjax.distillers.fitnet import fitnet as fitnet
from kdjax.distillers.fsp import fsp as fsp
from kdjax.distillers.ft import ft as ft
from kdjax.distillers.kd import kd as kd
from kdjax.distillers.mlkd import mlkd as mlkd
from kdjax.distillers.nkd import nkd as nkd
from kdjax.distillers.nst import nst as nst
from kdjax.distillers.ofd import ofd as ofd
from kdjax.distillers.pkt import pkt as pkt
from kdjax.distillers.review import review as review
from kdjax.distillers.rkd import rkd as rkd
from kdjax.distillers.rld import rld as rld
from kdjax.distillers.sdd import sdd as sdd
from kdjax.distillers.sfd import sfd as sfd
from kdjax.distillers.simkd import simkd as simkd
from kdjax.distillers.sp import sp as sp
from kdjax.distillers.ttm import ttm as ttm
from kdjax.distillers.vid import vid as vid
from kdjax.distillers.wttm import wttm as wttm
from kdjax.references import is_reference, resolve
from kdjax.types import Distiller, UserError

# The methods are the functions imported above from the module of the same name.
_METHODS: dict[str, Callable[..., Distiller]] = {
    name: value
    for name, value in list(globals().items())
    if getattr(value, "__module__", None) == f"{__name__}.{name}"
}

__all__ = [*_METHODS, "create", "for_each_teacher", "names", "on_part", "weighted_sum"]


def names() -> list[str]:
    """The names of the methods of kdjax, sorted."""
    return sorted(_METHODS)


def create(name: str, **kwargs: Any) -> Distiller:
    """Creates a distillation method by name.

    Args:
      name: one of `names()`, or `package.module:factory` for a factory of your own, which is
        called with `kwargs` and returns a `kdjax.Distiller`.
      **kwargs: the method's arguments.

    Raises:
      UserError: if there is no such method, if it does not take one of the arguments or lacks
        a required one, or if a factory does not return a `kdjax.Distiller`.
    """
    if not is_reference(name):
        if name not in _METHODS:
            raise UserError(
                f"unknown method {name!r}: choose from {', '.join(names())}, "
                "or give your own as package.module:factory"
            )
        factory = _METHODS[name]
    else:
        factory = resolve(name, "method")
        if not callable(factory):
            raise UserError(
                f"method {name!r} is of type {type(factory).__name__}: "
                "it must be a function that returns a kdjax.Distiller"
            )
    _check_arguments(name, factory, kwargs)
    distiller = factory(**kwargs)
    if not isinstance(distiller, Distiller):
        raise UserError(
            f"method {name!r} returned an object of type {type(distiller).__name__}: "
            "it must return a kdjax.Distiller"
        )
    return distiller


def _check_arguments(name: str, factory: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    for p in parameters:
        if p.annotation in (int, float) and callable(kwargs.get(p.name)):
            raise UserError(f"argument {p.name} of method {name!r} cannot follow a schedule")
    allowed = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any and (unknown := set(kwargs) - set(allowed)):
        raise UserError(
            f"method {name!r} has no argument {', '.join(sorted(unknown))}: "
            f"choose from {', '.join(allowed) or 'none'}"
        )
    required = [p.name for p in parameters if p.name in allowed and p.default is p.empty]
    if missing := [key for key in required if key not in kwargs]:
        raise UserError(f"method {name!r} needs the argument {', '.join(missing)}")
