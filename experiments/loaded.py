"""What a run says of networks that it did not train, before it learns from them.

A wrong normalisation or file costs little when it is seen at once, and a day when it is seen in
the final table.
"""

from collections.abc import Iterator, Mapping

from experiments.evaluation import TeacherLogits, summarize
from experiments.networks import TORCH_SUFFIXES, TrainedNetwork
from experiments.plan import Load, Plan, Train

# With so many times the accuracy of chance a network may still be what it is said to be.
_NEAR_CHANCE = 2


def lines(plan: Plan, loaded: Mapping[str, TrainedNetwork], known: set[str]) -> Iterator[str]:
    """A line for each network that a phase loads or takes from elsewhere, and its warnings.

    Args:
      plan: of the phase.
      loaded: networks that do not come from this run, by reference.
      known: what was described before; it is added to.
    """
    networks = {}
    if isinstance(plan.action, Load):
        networks = {plan.name: (plan.config.checkpoint, plan.action.trained)}
    for member in plan.members:
        for one in (*member.teachers, *member.compared_with):
            if one in loaded:
                networks[one] = (one, loaded[one])
    normalisation = (plan.network.mean, plan.network.std)
    if isinstance(plan.action, Train) and str(normalisation) not in known:
        known.add(str(normalisation))
        yield from implausible(plan.name, *normalisation)
    for name, (reference, trained) in networks.items():
        if name not in known:
            known.add(name)
            yield from _described(plan, name, reference, trained)


def _described(plan: Plan, name: str, reference: str, trained: TrainedNetwork) -> Iterator[str]:
    shown = f"{name}: {trained.name}" + (f" from {reference}" if reference != name else "")
    accuracy = None
    for split in ("test", "validation"):
        if split in plan.data.splits:
            images = plan.data.splits[split]
            placed = trained._replace(variables=plan.devices.replicate(trained.variables))
            sees = TeacherLogits({name: placed}, plan.data.image_size, plan.devices)
            # It is known to the split from here on, and not computed again.
            (logits,) = sees.each(images)
            if logits.shape[-1] != plan.data.num_classes:
                shown += f", of {logits.shape[-1]} classes, where the data has "
                shown += f"{plan.data.num_classes}: only its features can be learned from"
                break
            accuracy = summarize(logits, images.labels).get("accuracy")
            if accuracy is not None:
                shown += f", {split} accuracy {accuracy:.2%}"
            break
    network = trained.network
    if reference.endswith(TORCH_SUFFIXES):
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
