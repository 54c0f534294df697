"""Several seeds of a phase: `--config.seeds=0,1,2`.

A phase that has seeds becomes one phase a seed, `kd_seed0`, `kd_seed1`, `kd_seed2`, each with
its folder and its checkpoints like any other; they are trained together, and tables show
their mean and deviation.
"""

import re
from typing import Any

from kdjax.types import UserError

_SUFFIX = re.compile(r"_seed\d+$")


def base(name: str) -> str:
    """The name that the seeds of a phase share: `kd` of `kd_seed1`, and of `kd`."""
    return _SUFFIX.sub("", name)


def expand(phases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Replaces each phase that has `seeds` by one for each of them.

    What such a phase takes from another one that has seeds it takes from the same seed's.
    A phase that takes its network from a checkpoint remains one.

    Args:
      phases: each phase's config by name, in order.

    Raises:
      UserError: if a seed is no number or given twice, a name looks like a seed's, or a
        phase takes something from a phase that lacks its seed.
    """
    seeds = {
        name: _checked(name, phase["seeds"]) for name, phase in phases.items()
        if not phase["checkpoint"]
    }  # fmt: skip
    expanded = {}
    for name, phase in phases.items():
        if base(name) != name:
            raise UserError(f"phase {name!r} has a name that only seeds have: set seeds instead")

        def of_seed(other: str, seed: int | None, name: str = name) -> str:
            there = seeds.get(other, ())
            if there and seed not in there:
                which = "without seeds" if seed is None else f"of seed {seed}"
                raise UserError(
                    f"phase {name!r} {which} needs {other!r}, which has seeds "
                    f"{', '.join(map(str, there))}"
                )
            return f"{other}_seed{seed}" if there else other

        for seed in seeds.get(name, ()) or (None,):
            expanded[name if seed is None else f"{name}_seed{seed}"] = phase | {
                "seed": phase["seed"] if seed is None else seed,
                "teachers": tuple(of_seed(teacher, seed) for teacher in phase["teachers"]),
                "start": of_seed(phase["start"], seed),
                "start_methods": of_seed(phase["start_methods"], seed),
            }
    return expanded


def _checked(name: str, given: Any) -> tuple[int, ...]:
    seeds = tuple(given)
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
        raise UserError(
            f"phase {name!r} has seeds {', '.join(map(str, seeds))}: they are different whole "
            "numbers from 0 on"
        )
    return seeds
