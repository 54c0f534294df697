"""From the config to plans: everything that phases need, built and checked before any work."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from experiments import checks, data, earlier, members, profile, teacher_cache, trackers
from experiments import workdir as workdirs
from experiments.data import PhaseData, PhaseSplit, RunData, Subset
from experiments.evaluation import teacher_sizes
from experiments.length import EndCondition, make_length
from experiments.members import Member
from experiments.objective import trained_network
from experiments.tasks import DataFree, Setup, Supervised, Task, batch_parts
from kdjax import checkpoint, networks, parallel, references, train
from kdjax.data import batches
from kdjax.networks import TrainedNetwork
from kdjax.types import Network, Outputs, TrainState, UserError, Variables


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """A phase that takes a trained network and only evaluates it."""

    trained: TrainedNetwork


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """A phase that only evaluates the mean probability of earlier phases' networks."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Train:
    """A phase that trains its network.

    Attributes:
      task: computes its steps.
      learning_rate: of the student, for the log.
      end: when the phase ends.
      steps_per_epoch: 0 in a phase without data, which has no epochs.
      init_variables: of the student, where they come from a file or another run.
      state: shapes of a member's state.
      keep: after how many steps the network is kept, by the epoch as others name it.
      evaluated: what evaluations during training are on, by name.
    """

    task: Task
    learning_rate: optax.Schedule
    end: EndCondition
    steps_per_epoch: float
    init_variables: Variables | None
    state: TrainState
    keep: Mapping[str, int]
    evaluated: Mapping[str, PhaseSplit]


class LoopSettings(NamedTuple):
    """The keys of a run that its training loops need.

    Attributes:
      steps_per_call: 0 is the platform's default.
      log_every: steps.
      checkpoint_every: minutes.
      profile: `FIRST:LAST`, or "" for no trace.
      share_views: whether members see the same batches and views.
      trackers: names of `experiments.trackers`.
      teacher_cache: folder, or "".
    """

    steps_per_call: int
    log_every: int
    checkpoint_every: float
    profile: str
    share_views: bool
    trackers: tuple[str, ...]
    teacher_cache: str

    @classmethod
    def of(cls, config: ConfigDict) -> "LoopSettings":
        """Reads them from the config of a run."""
        return cls(*(config[key] for key in cls._fields))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A phase, ready to run.

    Attributes:
      name: of the phase.
      config: of the phase.
      data: all that the phase may look at.
      network: what it trains or loads; the first one of an ensemble.
      devices: that share its batches.
      members: one per seed.
      action: what it does.
      settings: of the run, for the training loop.
    """

    name: str
    config: ConfigDict
    data: PhaseData
    network: Network
    devices: parallel.Devices
    members: tuple[Member, ...]
    action: Load | Train | Ensemble
    settings: LoopSettings


def plan_all(config: ConfigDict) -> tuple[list[Plan], dict[str, TrainedNetwork]]:
    """Plans all phases of a run.

    Args:
      config: of the run, resolved.

    Returns:
      The plans in order, one per phase, or one per member if each has images of its own;
      and the teachers that do not come from this run, by reference.

    Raises:
      UserError: for every mistake in the config; what it names is trusted from then on.
    """
    references.trust(*workdirs.named(config.to_dict()))
    profile.parse(config.profile)
    trackers.check(config.trackers)
    teacher_cache.check(config.teacher_cache)
    run_data = data.read_run(config.data.to_dict(), config.evaluation.to_dict())
    if config.debug:
        run_data = run_data.few()
    plans: list[Plan] = []
    known: dict[str, Network] = {}
    loaded: dict[str, TrainedNetwork] = {}
    for name, phase_members in members.expand(config.phases.to_dict()).items():
        phase = config.phases[name]
        sizes = teacher_sizes(phase.augment.teacher_size, len(phase.teachers))
        others = dict.fromkeys((*phase.compared_with, *phase.ensemble), 0)
        others |= dict(zip(phase.teachers, sizes, strict=True))
        for other, size in others.items():
            if other not in known and ("/" in other or "=" in other):
                loaded[other] = load_network(other, phase, run_data.data, size)
                known[other] = loaded[other].network
        # Members with training images of their own cannot share a program's arrays.
        separate = config.phases[name].shots_per_seed and config.phases[name].shots
        for group in [(one,) for one in phase_members] if separate else [phase_members]:
            plan = make_plan(name, config, run_data, group, known)
            _check_continuation(plan, plans)
            plans.append(plan)
            known |= {name: plan.network for member in group for name in _named(plan, member)}
    return plans, loaded


def _named(plan: Plan, member: Member) -> list[str]:
    """What later phases may call the networks that a member has."""
    if isinstance(plan.action, Ensemble):
        return []
    epochs = plan.action.keep if isinstance(plan.action, Train) else ()
    return [member.name, *(members.kept(member.name, epoch) for epoch in epochs)]


def make_plan(
    name: str,
    run: ConfigDict,
    run_data: RunData,
    phase_members: tuple[Member, ...],
    known: Mapping[str, Network],
) -> Plan:
    """Builds and checks a phase without computing anything.

    Args:
      name: of the phase.
      run: the config of the run.
      run_data: its data.
      phase_members: of the phase.
      known: the networks of members of earlier phases and of loaded teachers, by name.

    Raises:
      UserError: if anything in its config is invalid.
    """
    config = run.phases[name]
    batches.check_batch_size(config.batch_size, config.grad_accum_steps)
    devices = parallel.Devices.dividing(math.gcd(*batch_parts(config)), run.devices)
    teachers = _teachers(name, phase_members, known, checks.is_data_free(config))
    phase_data = _data(config, run_data, phase_members[0].seed)
    attributes = _network_attributes(config, phase_data, teachers)
    if source := known.get(phase_members[0].continue_from):
        # What goes on is one network, whatever the phase could measure.
        attributes |= {"mean": source.mean, "std": source.std}
    phase_data = _with_images(name, config, run_data, phase_data)
    action: Load | Train | Ensemble
    if config.ensemble:
        if config.checkpoint or config.adversarial:
            raise UserError(f"phase {name!r} is an ensemble and has a checkpoint or is adversarial")
        network, action = known[phase_members[0].ensemble[0]], Ensemble()
    elif config.checkpoint:
        # A phase knows its own classes, and features can be distilled from a network with others.
        trained = networks.load(
            config.checkpoint, model=config.model, image_size=phase_data.image_size,
            **attributes | {"num_classes": 0},
        )  # fmt: skip
        train.abstract_outputs(trained.network, phase_data.image_shape)
        network, action = trained.network, Load(trained=trained)
    else:
        axis_name = parallel.AXIS if config.sync_batch_norm else None
        network = networks.create(config.model, **attributes, axis_name=axis_name)
        shapes = [outputs for outputs, _ in _of_teachers(config, teachers, phase_data)]
        network = trained_network(config.objective, network, shapes)
        setup = Setup(name, config, network, teachers, phase_data, devices, run.debug)
        action = _train(setup, phase_members[0], known, attributes)
    return Plan(
        name=name, config=config, data=phase_data, network=network, devices=devices,
        members=phase_members, action=action, settings=LoopSettings.of(run),
    )  # fmt: skip


def load_network(
    reference: str, config: ConfigDict, phase_data: PhaseData, size: int
) -> TrainedNetwork:
    """A network that does not come from the run, by its reference.

    Args:
      reference: as for `networks.load`.
      config: of the phase that needs it.
      phase_data: of the run; normalisation is measured on it where none is given.
      size: side of what the network sees, in pixels; 0 is that of the data.

    Raises:
      UserError: as `networks.load`.
    """
    mean, std = ((), ()) if config.mean and config.std else phase_data.statistics
    return networks.load(
        reference,
        num_classes=0,
        in_channels=phase_data.channels,
        mean=config.mean or mean,
        std=config.std or std,
        dtype=config.dtype,
        image_size=size or phase_data.image_size,
    )


def _teachers(
    name: str, phase_members: tuple[Member, ...], known: Mapping[str, Network], data_free: bool
) -> list[Network]:
    """The teachers of the first member; those of the others have the same architectures."""
    if data_free and not phase_members[0].teachers:
        raise UserError(f"phase {name!r} learns without data, so it needs a teacher")
    for member in phase_members:
        for what, others in (
            ("has teacher", member.teachers),
            ("is compared with", member.compared_with),
            ("is an ensemble of", member.ensemble),
        ):
            for other in others:
                if other not in known:
                    raise UserError(
                        f"phase {name!r} {what} {other!r}, which is neither an earlier phase "
                        f"({', '.join(known) or 'there is none'}) nor the folder of a phase"
                    )
    return [known[teacher] for teacher in phase_members[0].teachers]


def _data(config: ConfigDict, run_data: RunData, seed: int) -> PhaseData:
    if checks.is_data_free(config) or not run_data.data.splits:
        return run_data.evaluation
    subset = _subset(config)
    data = run_data.data if subset == Subset() else run_data.data.subset(subset)
    return data.shots(config.shots, seed if config.shots_per_seed else 0) if config.shots else data


def _has_few(config: ConfigDict) -> bool:
    return config.shots > 0 or _subset(config) != Subset()


def _subset(config: ConfigDict) -> Subset:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, (tuple, list)) else value
        for key, value in config.subset.items()
    }
    return Subset(**given)


def _with_images(
    name: str, config: ConfigDict, run_data: RunData, phase_data: PhaseData
) -> PhaseData:
    """The phase's data with the images of its own; its normalisation is that of the run's data."""
    more = config.more_images.to_dict()
    del more["share"]
    own_images, more_images = (
        run_data.images(**given) for given in (config.images.to_dict(), more)
    )
    if not own_images and not more_images:
        return phase_data
    if checks.is_data_free(config) or (own_images and _has_few(config)):
        raise UserError(
            f"phase {name!r} has images or more_images: without data there are none, and with "
            "shots or a subset only more_images"
        )
    return phase_data.with_images(own_images, more_images)


def _network_attributes(
    config: ConfigDict, phase_data: PhaseData, teachers: list[Network]
) -> dict[str, Any]:
    """What the phase's network is made for, normalisation included."""
    mean, std = config.mean, config.std
    if (checks.is_data_free(config) or _has_few(config)) and teachers:
        # There is too little data to measure, and the teacher's normalisation is known.
        mean, std = mean or teachers[0].mean, std or teachers[0].std
    elif not mean or not std:
        measured = phase_data.statistics
        mean, std = mean or measured[0], std or measured[1]
    return dict(
        num_classes=phase_data.num_classes,
        in_channels=phase_data.channels,
        mean=tuple(mean),
        std=tuple(std),
        dtype=config.dtype,
        options=config.model_options.to_dict(),
    )


def _train(
    setup: Setup, member: Member, known: Mapping[str, Network], attributes: dict[str, Any]
) -> Train:
    """What a phase needs that trains its network; `member` is its first one."""
    config, phase_data = setup.config, setup.data
    checks.check_choices(setup)
    checks.check_memory(setup)
    init_variables, source = None, known.get(member.init_from)
    if member.init_from and not source:
        if config.new_head:
            attributes = attributes | {"num_classes": 0}
        loaded = networks.load(
            member.init_from, model=config.model, image_size=phase_data.image_size, **attributes
        )
        init_variables, source = loaded.variables, loaded.network
    if source:
        _check_source(setup, source)
    earlier.check_phase(member.init_methods_from, known)
    data_free = checks.is_data_free(config)
    # Without data there are no epochs; a pseudo-batch takes their place.
    own = config.batch_size if data_free else batch_parts(config)[0] * config.grad_accum_steps
    steps_per_epoch = 1.0 if data_free else len(phase_data.train) / own
    length = make_length(setup.name, config, steps_per_epoch)
    kind: type[DataFree] | type[Supervised] = DataFree if data_free else Supervised
    task = kind.create(setup, length)
    state = jax.eval_shape(
        task.init,
        jax.random.key(0),
        tuple(variables for _, variables in _of_teachers(config, setup.teachers, phase_data)),
        None,
    )
    return Train(
        task=task,
        learning_rate=length.learning_rate(config),
        end=length.end,
        steps_per_epoch=0 if data_free else length.steps_per_epoch,
        init_variables=init_variables,
        state=state,
        keep=length.kept(setup.name, config.keep, debug=setup.debug),
        evaluated=_evaluated(config, phase_data),
    )


def _check_source(setup: Setup, source: Network) -> None:
    """Checks that a phase can be initialised from a network."""
    if setup.config.new_head:
        classes = setup.network.module.num_classes
        source = source._replace(module=source.module.clone(num_classes=classes))
    ours, theirs = (_flat_shapes(_shapes_of(one, setup.data)) for one in (setup.network, source))
    if ours != theirs:
        raise UserError(
            f"phase {setup.name!r} is initialised from {setup.config.init_from!r}, another network"
        )


def _evaluated(config: ConfigDict, phase_data: PhaseData) -> dict[str, PhaseSplit]:
    """What evaluations during training are on, by name."""
    splits = {
        name: phase_data.splits[name]
        for name in ("validation", "test")
        if name in phase_data.splits
    }
    if config.train_eval_images:
        count = min(config.train_eval_images, len(phase_data.train))
        splits["train_eval"] = phase_data.subset(Subset(examples=count)).train
    return splits


def _check_continuation(plan: Plan, earlier: list[Plan]) -> None:
    """Checks that what its members go on from was trained before and has the same state."""
    trained = {
        member.name: one.action.state
        for one in earlier
        if isinstance(one.action, Train)
        for member in one.members
    }
    for member in plan.members:
        source = member.continue_from
        if not source:
            continue
        if member.init_from or member.init_methods_from:
            raise UserError(
                f"phase {plan.name!r} has continue_from {source!r} and init_from or "
                "init_methods_from: continue_from includes both"
            )
        if source not in trained or not isinstance(plan.action, Train):
            raise UserError(
                f"phase {plan.name!r} goes on from {source!r}, which is not an earlier phase that "
                f"is trained ({', '.join(trained) or 'there is none'})"
            )
        ours, theirs = (_flat_shapes(state) for state in (plan.action.state, trained[source]))
        differing = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        if differing:
            raise UserError(
                f"phase {plan.name!r} goes on from {source!r}, which has another student, other "
                f"methods or another optimizer: {differing[0]}"
            )


def _of_teachers(
    config: ConfigDict, teachers: list[Network], phase_data: PhaseData
) -> list[tuple[Outputs, Variables]]:
    """Shapes of each teacher's outputs, for one image as it sees it, and of its variables."""
    sizes = teacher_sizes(config.augment.teacher_size, len(teachers))
    return [
        train.abstract_outputs(
            teacher, (size, size, phase_data.channels) if size else phase_data.image_shape
        )
        for teacher, size in zip(teachers, sizes, strict=True)
    ]


def _shapes_of(network: Network, phase_data: PhaseData) -> Variables:
    return train.abstract_outputs(network, phase_data.image_shape)[1]


def _flat_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in checkpoint.flatten(tree).items()}
