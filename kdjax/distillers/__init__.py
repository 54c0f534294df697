"""Distillation methods by name: one file a method, one line here.

Each is a factory `method(**kwargs) -> kdjax.Distiller`; `weighted_sum` adds them up.
"""

import inspect
from collections.abc import Callable
from typing import Any

from kdjax.distillers.ab import ab
from kdjax.distillers.at import at
from kdjax.distillers.cc import cc
from kdjax.distillers.combine import for_each_teacher, weighted_sum
from kdjax.distillers.crd import crd
from kdjax.distillers.cross_entropy import cross_entropy
from kdjax.distillers.dkd import dkd
from kdjax.distillers.fitnet import fitnet
from kdjax.distillers.fsp import fsp
from kdjax.distillers.ft import ft
from kdjax.distillers.kd import kd
from kdjax.distillers.nst import nst
from kdjax.distillers.ofd import ofd
from kdjax.distillers.pkt import pkt
from kdjax.distillers.rkd import rkd
from kdjax.distillers.sfd import sfd
from kdjax.distillers.sp import sp
from kdjax.distillers.vid import vid
from kdjax.types import Distiller, UserError

_METHODS: dict[str, Callable[..., Distiller]] = {
    "ab": ab,
    "at": at,
    "cc": cc,
    "crd": crd,
    "cross_entropy": cross_entropy,
    "dkd": dkd,
    "fitnet": fitnet,
    "fsp": fsp,
    "ft": ft,
    "kd": kd,
    "nst": nst,
    "ofd": ofd,
    "pkt": pkt,
    "rkd": rkd,
    "sfd": sfd,
    "sp": sp,
    "vid": vid,
}

__all__ = [*_METHODS, "create", "for_each_teacher", "names", "weighted_sum"]


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
