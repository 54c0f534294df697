"""References to objects outside kdjax: `package.module:name`."""

import importlib
import re
from typing import Any

from kdjax.types import UserError, first_line

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# What files may name: modules, and references.
_trusted: set[str] = set()


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


def trust(*names: str) -> None:
    """Lets the files of runs name code of these modules, from now on and in this process.

    A run folder may come from anybody, and a model of one's own is a function that is imported
    and called. `kdjax.load` and the commands therefore refuse one that nobody has vouched for.
    What a config names that is run is trusted.

    Args:
      *names: modules, such as `my_networks`, or references, such as `my_networks:small`.
    """
    _trusted.update(names)


def check_trusted(reference: str, what: str) -> None:
    """Checks that a reference that a file holds may be imported.

    Args:
      reference: `package.module:name`.
      what: stands before it in the message.

    Raises:
      UserError: if neither it nor its module was given to `trust`.
    """
    module = reference.partition(":")[0]
    if not {module, reference} & _trusted:
        raise UserError(
            f"{what} {reference!r} is code, and a file names it: if you trust both, give "
            f"--trust={module}, or call kdjax.trust({module!r}) in a program of your own"
        )
