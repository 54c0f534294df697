"""What a run says of networks that it did not train, before it learns from them.

A wrong normalisation or file costs little when it is seen at once, and a day when it is seen in
the final table.
"""

from collections.abc import Iterator, Mapping

from experiments.evaluation import TeacherLogits, summarize, teacher_sizes
from experiments.plan import Load, Plan, Train
from kdjax.networks import WEIGHT_SUFFIXES, TrainedNetwork

# With so many times the accuracy of chance a network may still be what it is said to be.
_NEAR_CHANCE = 2


def lines(plan: Plan, loaded: Mapping[str, TrainedNetwork], known: set[str]) -> Iterator[str]:
    """A line for each network that a phase loads or takes from elsewhere, and its warnings.

    Args:
      plan: of the phase.
      loaded: networks that do not come from this run, by reference.
      known: what was described before; it is added to.
    """
    # By name: reference, network and, of a teacher, the side of what it sees.
    networks = {}
    if isinstance(plan.action, Load):
        networks = {plan.name: (plan.config.checkpoint, plan.action.trained, 0)}
    for member in plan.members:
        sizes = teacher_sizes(plan.config.augment.teacher_size, len(member.teachers))
        others = dict.fromkeys((*member.compared_with, *member.ensemble), 0)
        for one, size in (others | dict(zip(member.teachers, sizes, strict=True))).items():
            if one in loaded:
                networks[one] = (one, loaded[one], size)
    normalisation = (plan.network.mean, plan.network.std)
    if isinstance(plan.action, Train) and str(normalisation) not in known:
        known.add(str(normalisation))
        yield from implausible(plan.name, *normalisation)
    for name, given in networks.items():
        if name not in known:
            known.add(name)
            yield from _described(plan, name, *given)


def _described(
    plan: Plan, name: str, reference: str, trained: TrainedNetwork, size: int
) -> Iterator[str]:
    shown = f"{name}: {trained.name}" + (f" from {reference}" if reference != name else "")
    network, accuracy = trained.network, None
    split = next((one for one in ("test", "validation") if one in plan.data.splits), "")
    if network.module.num_classes != plan.data.num_classes:
        shown += f", of {network.module.num_classes} classes, where the data has "
        shown += f"{plan.data.num_classes}: only its features can be learned from"
    elif split:
        images = plan.data.splits[split]
        placed = trained._replace(variables=plan.devices.replicate(trained.variables))
        sees = TeacherLogits({name: placed}, plan.data.image_size, plan.devices, (size,))
        # They are known to the split from here on, and not computed again.
        (logits,) = sees.each(images)
        accuracy = summarize(logits, images.labels).get("accuracy")
    if accuracy is not None:
        shown += f", {split} accuracy {accuracy:.2%}"
    if reference.endswith(WEIGHT_SUFFIXES):
        given = plan.config.mean and plan.config.std
        how = "given" if given else "measured on the training images, as none are given"
        shown += f"; mean {_numbers(network.mean)}, std {_numbers(network.std)} ({how})"
    yield shown
    yield from implausible(name, network.mean, network.std)
    chance = 1 / plan.data.num_classes
    if accuracy is not None and accuracy < _NEAR_CHANCE * chance:
        yield (
            f"warning: {name} is right on {accuracy:.2%}, and chance is {chance:.2%}: its mean and "
            "std, the order of its classes or its file may be wrong"
        )


def implausible(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Iterator[str]:
    """A warning if a normalisation cannot be that of pixels in [0, 1]."""
    if not all(0 <= value <= 1 for value in (*mean, *std)):
        yield (
            f"warning: {name} has mean {_numbers(mean)} and std {_numbers(std)}, which are of "
            "pixels in [0, 1]: divide those of pixels in [0, 255] by 255"
        )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
