"""The members of a phase: one for each of its seeds.

A phase with `seeds` has one member per seed, each with a folder of its own (`kd_seed0`,
`kd_seed1`); any other phase has one member, whose folder is the phase's name. Members are
trained together and differ in nothing but their seed and in what they take from other
phases.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.types import UserError


def kept(member: str, epoch: str) -> str:
    """What the network is called that a member had after an epoch; also its folder."""
    return f"{member}@{epoch}"


class Member(NamedTuple):
    """One seed of a phase.

    Attributes:
      phase: name of the phase.
      name: name of the member in this run, which is also its folder.
      seed: of initialisation and, unless views are shared, of data order and views.
      teachers: names of earlier members, or references to trained networks.
      init_from: the same for the initial variables; "" for the model's own initialisation.
      init_methods_from: the same for the variables of the methods.
      continue_from: the same for everything that is trained, and the optimiser's state.
      compared_with: the same for networks that it is measured against, in order.
      ensemble: the same for networks whose mean probability it is.
    """

    phase: str
    name: str
    seed: int
    teachers: tuple[str, ...] = ()
    init_from: str = ""
    init_methods_from: str = ""
    continue_from: str = ""
    compared_with: tuple[str, ...] = ()
    ensemble: tuple[str, ...] = ()

    @property
    def needs(self) -> set[str]:
        """The names and references that this member takes something from."""
        sources = {self.init_from, self.init_methods_from, self.continue_from}
        return {*self.teachers, *self.compared_with, *self.ensemble, *sources} - {""}


def expand(phases: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Member, ...]]:
    """The members of each phase.

    A member takes what it needs from the members of the same seed in other phases with
    seeds. A phase that loads its network from a checkpoint has one member.

    Args:
      phases: each phase's config by name, in order.

    Raises:
      UserError: if a member would have the name of another phase, or if a phase needs a seed that
        another phase lacks.
    """
    seeds = {
        name: () if phase["checkpoint"] else tuple(phase["seeds"]) for name, phase in phases.items()
    }

    def of_seed(name: str, seed: int | None, other: str) -> str:
        """The member of `other` that the member of phase `name` with `seed` needs."""
        phase, at, epoch = other.partition("@")
        there = seeds.get(phase, ())
        if not there:
            return other
        if seed not in there:
            which = "without seeds" if seed is None else f"of seed {seed}"
            raise UserError(
                f"phase {name!r} {which} needs {other!r}, which has seeds "
                f"{', '.join(map(str, there))}"
            )
        return f"{phase}_seed{seed}{at}{epoch}"

    expanded = {}
    for name, phase in phases.items():
        expanded[name] = tuple(
            Member(
                phase=name,
                name=name if seed is None else f"{name}_seed{seed}",
                seed=phase["seed"] if seed is None else seed,
                teachers=tuple(of_seed(name, seed, teacher) for teacher in phase["teachers"]),
                init_from=of_seed(name, seed, phase["init_from"]),
                init_methods_from=of_seed(name, seed, phase["init_methods_from"]),
                continue_from=of_seed(name, seed, phase["continue_from"]),
                compared_with=tuple(of_seed(name, seed, one) for one in phase["compared_with"]),
                ensemble=tuple(of_seed(name, seed, one) for one in phase["ensemble"]),
            )
            for seed in seeds[name] or (None,)
        )
        for member in expanded[name]:
            if member.name != name and member.name in phases:
                raise UserError(f"phase {member.name!r} has the name of a seed of phase {name!r}")
    return expanded
