"""Evaluation of networks on whole splits."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import PhaseSplit
from kdjax import losses, metrics, parallel, train
from kdjax.data import batches, views, whole
from kdjax.data.sources import Split
from kdjax.networks import TrainedNetwork
from kdjax.remembered import remembered
from kdjax.types import Array, Network, UserError, Variables

_BATCH_SIZE = 500
_WHOLE_BATCH_SIZE = 64


def teacher_sizes(given: Sequence[int], count: int) -> tuple[int, ...]:
    """The side of what each of `count` teachers sees, in pixels; 0 is the student's.

    Args:
      given: none, one for all teachers, or one for each. Those that are not 0 are the same.

    Raises:
      UserError: if it is none of these.
    """
    sizes = tuple(given) or (0,)
    sizes = sizes * count if len(sizes) == 1 else sizes
    if len(sizes) != count or min(sizes, default=0) < 0 or len(set(sizes) - {0}) > 1:
        raise UserError(
            f"augment.teacher_size is {', '.join(map(str, given))} for {count} teachers: it is one "
            "side in pixels for all, or for each 0 (the student's) or one and the same side"
        )
    return sizes


class Evaluator:
    """Computes a network's logits of whole splits, over all devices."""

    def __init__(
        self, network: Network, image_size: int, devices: parallel.Devices, resolution: int = 0
    ):
        """Prepares the step of `kdjax.train.make_eval_step`; it is compiled at its first use."""
        self._devices = devices
        self._step = _eval_step(network, image_size, resolution, devices)

    def logits(self, variables: Variables, split: PhaseSplit) -> np.ndarray:
        """float32 [n, k] for the n images of a split; `variables` are on the devices."""
        resident = split.resident(self._devices)
        parts = []
        for indices in index_batches(len(split), _BATCH_SIZE, self._devices):
            batch = batches.read(split.split, self._devices.own(indices))
            sharded = jax.tree.map(self._devices.shard, batch)
            parts.append(self._step(variables, resident, sharded))
            parallel.wait_on_cpu(parts[-1])
        return _joined(parts, self._devices)[: len(split)]


@remembered(8)
def _eval_step(
    network: Network, image_size: int, resolution: int, devices: parallel.Devices
) -> Callable[..., Any]:
    """The step of an evaluator, which all phases share that evaluate the same network."""
    step = train.make_eval_step(network, image_size, resolution)
    return devices.map(step, in_axes=(None, None, 0), out_axes=0)


class CropAverage:
    """Computes a network's mean prediction over random crops of each image of a split.

    That is the fixed teacher `fix/ic_ens` of Beyer et al. 2022, section 3.1.1, whose prediction
    is the mean over a thousand crops. A crop depends on its number and the image's position.
    """

    def __init__(
        self,
        network: Network,
        make_views: views.ViewFn,
        count: int,
        devices: parallel.Devices,
        crops: whole.Crops | None = None,
    ):
        """Prepares the step.

        Args:
          network: any network.
          make_views: its `teacher` is what the network sees.
          count: crops per image.
          devices: that share a batch.
          crops: takes the crops from whole images, if the split has them.
        """
        self._count, self._devices, self._crops = count, devices, crops

        def step(
            variables: Variables,
            data: batches.ResidentData[Array],
            number: Array,
            batch: batches.Batch[Array],
        ) -> Array:
            images, labels = batches.gather(data, batch)

            def view(index: Array, image: Array, label: Array) -> Array:
                # Positions, not places in the batch: a crop must not depend on the devices.
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), number), index)
                return make_views(key, image[None], label[None]).teacher[0]

            seen = jax.vmap(view)(batch["index"], images, labels)
            return jax.nn.softmax(network.evaluate(variables, seen).logits)

        self._step = devices.map(step, in_axes=(None, None, None, 0), out_axes=0)

    def logits(self, variables: Variables, split: PhaseSplit) -> np.ndarray:
        """float32 [n, k], logarithms of the mean probabilities; `variables` are on the devices."""
        resident = split.resident(self._devices)
        parts = []
        # The whole images of a batch are all in memory at once.
        size = _WHOLE_BATCH_SIZE if self._crops else _BATCH_SIZE
        for indices in index_batches(len(split), size, self._devices):
            total = np.zeros(())
            own = self._devices.own(indices)
            for number, batch in enumerate(self._batches(split.split, own)):
                sharded = jax.tree.map(self._devices.shard, batch)
                p = self._step(variables, resident, np.int32(number), sharded)
                total = total + np.asarray(p)
            parts.append(total / self._count)
        mean = _joined(parts, self._devices)[: len(split)]
        return np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)

    def _batches(self, split: Split, indices: np.ndarray) -> Iterator[batches.Batch[np.ndarray]]:
        """As many batches of the same examples as there are crops of each."""
        if self._crops is None or split.whole is None:
            yield from itertools.repeat(batches.read(split, indices), self._count)
            return
        images = split.whole.read(indices)
        for number in range(self._count):
            yield {"index": indices, "images": self._crops.numbered(images, indices, number)}


def index_batches(n: int, at_most: int, devices: parallel.Devices) -> Iterator[np.ndarray]:
    """Positions int32 [b] of n examples, in order, in batches of one size that devices can share.

    The last batch is filled up with the first example, whose results are to be dropped.
    """
    count = len(devices)
    size = min(at_most, math.ceil(n / count) * count)
    size = max(size - size % count, count)
    for first in range(0, n, size):
        indices = np.arange(first, first + size, dtype=np.int32)
        yield np.where(indices < n, indices, 0).astype(np.int32)


def _joined(parts: Sequence[Array | np.ndarray], devices: parallel.Devices) -> np.ndarray:
    """The rows of all batches, whose shards are [devices, b / devices, k] each, as [n, k]."""
    rows = np.stack([np.asarray(part).reshape(-1, part.shape[-1]) for part in parts])
    return devices.gather(rows, axis=1).reshape(-1, rows.shape[-1])


def summarize(
    logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None
) -> dict[str, float]:
    """All metrics of a split as plain numbers; fractions are exact.

    Args:
      logits: [n, k].
      labels: int [n]. If any is -1 (unknown), metrics that need labels are left out.
      teacher_logits: [n, k], for agreement, top-1 and of the teacher's class with the five best
        of `logits`, and KL.
    """
    n = len(labels)
    known = bool((labels >= 0).all())
    fractions, others = jax.device_get(_figures(logits, labels if known else None, teacher_logits))
    exact = {name: round(float(value) * n) / n for name, value in fractions.items()}
    found = exact | {name: float(value) for name, value in others.items()}
    return {name: found[name] for name in _ORDER if name in found}


_ORDER = (
    "accuracy", "top5", "nll", "ece", "agreement", "agreement_top5", "kl", "teacher_accuracy",
)  # fmt: skip


@jax.jit
def _figures(
    logits: Array, labels: Array | None, teacher_logits: Array | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Fractions of the examples, and other figures; one program instead of one per operation."""
    fractions, others = {}, {}
    if labels is not None:
        fractions["accuracy"] = metrics.accuracy(logits, labels)
        fractions["top5"] = metrics.top_k(logits, labels, 5)
        others["nll"] = metrics.nll(logits, labels)
        others["ece"] = metrics.ece(logits, labels)
    if teacher_logits is not None:
        fractions["agreement"] = metrics.agreement(logits, teacher_logits)
        fractions["agreement_top5"] = metrics.agreement_top_k(logits, teacher_logits, 5)
        others["kl"] = metrics.predictive_kl(logits, teacher_logits)
        if labels is not None:
            fractions["teacher_accuracy"] = metrics.accuracy(teacher_logits, labels)
    return fractions, others


class Comparison(NamedTuple):
    """The networks that a member is measured against.

    Attributes:
      teachers: of the member.
      others: networks that do not teach it, in the order of `names`.
      names: what the config calls these.
    """

    teachers: "TeacherLogits"
    others: "TeacherLogits"
    names: tuple[str, ...]

    def measure(self, logits: np.ndarray, split: PhaseSplit) -> dict[str, float]:
        """All metrics of a member's logits [n, k] of a split.

        Networks of other classes are not compared.
        """
        teacher = self.teachers.joint(split)
        if teacher is not None and teacher.shape != logits.shape:
            teacher = None
        result = summarize(logits, split.labels, teacher)
        for name, other in zip(self.names, self.others.each(split), strict=True):
            if other.shape != logits.shape:
                continue
            compared = summarize(logits, split.labels, other)
            for key, figure in _COMPARED.items():
                if figure in compared:
                    result[f"{key}_{name}"] = compared[figure]
        return result


# Keys of an evaluation before the name of a network that the phase is measured against, and what
# they are called where that network is the teacher.
_COMPARED = {"agreement_with": "agreement", "kl_from": "kl", "accuracy_of": "teacher_accuracy"}


class TeacherLogits:
    """Logits of a student's teachers on whole splits, computed at their first use."""

    def __init__(
        self,
        teachers: Mapping[str, TrainedNetwork],
        image_size: int,
        devices: parallel.Devices,
        sizes: Sequence[int] = (),
    ):
        """Takes the teachers by their names in this run, with variables on the devices.

        Their views are those of `kdjax.train.make_eval_step`, at the resolutions that
        `teacher_sizes` makes of `sizes`; with another resolution, if there are whole images, made
        from these.
        """
        self._teachers, self._devices, self._image_size = teachers, devices, image_size
        self._sizes = dict(zip(teachers, teacher_sizes(sizes, len(teachers)), strict=True))
        self._evaluators: dict[tuple[str, int], Evaluator] = {}

    def each(self, split: PhaseSplit) -> tuple[np.ndarray, ...]:
        """float32 [n, k] of every teacher, in order."""
        known = split.teacher_logits
        for name, resolution in self._sizes.items():
            if (name, resolution) not in known:
                known[name, resolution] = self._logits(name, resolution, split)
        return tuple(known[key] for key in self._sizes.items())

    def _logits(self, name: str, resolution: int, split: PhaseSplit) -> np.ndarray:
        teacher, size = self._teachers[name], self._image_size
        if resolution not in (0, size) and split.split.whole is not None:
            side = whole.squares_side(split.split, size, resolution)
            split, size = PhaseSplit(whole.squares(split.split, side)), resolution
        # It is compiled once for all splits.
        key = name, size
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(teacher.network, size, self._devices, resolution)
        return self._evaluators[key].logits(teacher.variables, split)

    def averaged(
        self,
        split: PhaseSplit,
        make_views: views.ViewFn,
        count: int,
        crops: whole.Crops | None = None,
    ) -> tuple[np.ndarray, ...]:
        """float32 [n, k] of every teacher, in order, by `CropAverage`."""
        return tuple(
            CropAverage(teacher.network, make_views, count, self._devices, crops).logits(
                teacher.variables, split
            )
            for teacher in self._teachers.values()
        )

    def joint(self, split: PhaseSplit) -> np.ndarray | None:
        """float32 [n, k] of the teachers' ensemble, or None without one: their classes differ."""
        each = self.each(split)
        if len({one.shape for one in each}) > 1:
            return None
        if len(each) < 2:
            return each[0] if each else None
        # In batches, as the logits of all teachers together may be too large for a device.
        firsts = range(0, len(split), _BATCH_SIZE)
        parts = [[one[first : first + _BATCH_SIZE] for one in each] for first in firsts]
        return np.concatenate([np.asarray(losses.ensemble(jnp.stack(part))) for part in parts])
