"""Results of functions that are kept for equal arguments."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def remembered(size: int) -> Callable[[F], F]:
    """`functools.lru_cache` for functions of networks, which need not be hashable.

    A network whose model has an array among its attributes, for instance, is not; the function
    is called for it every time.

    Args:
      size: results that are kept, the most recent ones.
    """

    def decorate(function: F) -> F:
        kept = functools.lru_cache(size)(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                hash((args, tuple(kwargs.values())))
            except TypeError:
                return function(*args, **kwargs)
            return kept(*args, **kwargs)

        return cast(F, call)

    return decorate
