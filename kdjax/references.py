"""References to objects outside kdjax: `package.module:name`."""

import importlib
import re
from typing import Any

from kdjax.types import UserError, first_line

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(name: str) -> bool:
    """Whether `name` has the form `package.module:name`."""
    return _REFERENCE.fullmatch(name) is not None


def resolve(reference: str, kind: str) -> Any:
    """Imports the object that a reference names.

    Args:
      reference: `package.module:name`; the module must be importable.
      kind: the kind of object, for the error message: `method`, `model` or `data set`.

    Raises:
      UserError: if the module cannot be imported or does not define the name.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # A user's module can raise any exception when it is imported.
        raise UserError(
            f"cannot import {module_name!r} for {kind} {reference!r}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from None
    if not hasattr(module, name):
        raise UserError(f"{kind} {reference!r}: module {module_name!r} has no {name!r}")
    return getattr(module, name)
