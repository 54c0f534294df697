"""A phase's objective, from its config."""

from collections.abc import Mapping
from typing import Any

from experiments.length import Length
from kdjax import distillers
from kdjax.types import Distiller, UserError


def make_objective(config: Mapping[str, Any], length: Length) -> Distiller:
    """The weighted sum that a phase's `objective` describes.

    Each term has a name and its `weight`, and may have a `schedule` that the weight is
    multiplied by, a `method` if that is not the term's name (of `kdjax.distillers`, or
    `package.module:factory`), the part of the batch that it is `on` (`all`, `labelled` or
    `unlabelled`; the term is its mean over that part), and the method's own arguments.

    Raises:
      UserError: on an unknown method, argument or schedule, or an empty objective.
    """
    if not config:
        raise UserError(f"an objective needs a method: choose from {', '.join(distillers.names())}")
    terms = {}
    for name, given in config.items():
        arguments = dict(given)
        weight = arguments.pop("weight", 1.0)
        schedule = arguments.pop("schedule", None)
        method = arguments.pop("method", name)
        part = arguments.pop("on", "all")
        if schedule:
            weight = length.schedule(peak_value=weight, **schedule)
        terms[name] = (weight, distillers.on_part(part, distillers.create(method, **arguments)))
    return distillers.weighted_sum(**terms)
