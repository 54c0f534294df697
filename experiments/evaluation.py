"""Evaluation of networks on whole splits."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import PhaseSplit
from experiments.networks import TrainedNetwork
from kdjax import metrics, parallel, train
from kdjax.data import batches
from kdjax.types import Network, Variables

_BATCH_SIZE = 500


class Evaluator:
    """Computes a network's logits of whole splits, over all devices."""

    def __init__(self, network: Network, image_size: int, devices: parallel.Devices):
        """Prepares the evaluation step of `network`; it is compiled at its first use."""
        self._devices = devices
        step = train.make_eval_step(network, image_size)
        self._step = devices.map(step, in_axes=(None, None, 0), out_axes=0)

    def logits(self, variables: Variables, split: PhaseSplit) -> np.ndarray:
        """float32 [n, k] for the n images of a split; `variables` are on the devices."""
        resident = split.resident(self._devices)
        n, count = len(split), len(self._devices)
        size = min(_BATCH_SIZE, math.ceil(n / count) * count)
        size -= size % count
        parts = []
        for first in range(0, n, size):
            # The last batch is padded with the first image, whose logits are dropped.
            indices = np.arange(first, first + size, dtype=np.int32)
            batch = batches.read(split.split, np.where(indices < n, indices, 0).astype(np.int32))
            sharded = jax.tree.map(self._devices.shard, batch)
            parts.append(self._step(variables, resident, sharded))
            parallel.wait_on_cpu(parts[-1])
        return np.concatenate([np.asarray(p).reshape(size, -1) for p in parts])[:n]


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
    outputs, targets = jnp.asarray(logits), jnp.asarray(labels)

    def exact(fraction: jax.Array) -> float:
        return round(float(fraction) * n) / n

    result = {}
    if known:
        result = {
            "accuracy": exact(metrics.accuracy(outputs, targets)),
            "top5": exact(metrics.top_k(outputs, targets, 5)),
            "nll": float(metrics.nll(outputs, targets)),
            "ece": float(metrics.ece(outputs, targets)),
        }
    if teacher_logits is not None:
        reference = jnp.asarray(teacher_logits)
        result["agreement"] = exact(metrics.agreement(outputs, reference))
        result["agreement_top5"] = exact(metrics.agreement_top_k(outputs, reference, 5))
        result["kl"] = float(metrics.predictive_kl(outputs, reference))
        if known:
            result["teacher_accuracy"] = exact(metrics.accuracy(reference, targets))
    return result


def ensemble(logits: list[np.ndarray]) -> np.ndarray:
    """Logits whose softmax is the mean of the given networks' softmax."""
    if len(logits) == 1:
        return logits[0]
    log_p = np.stack([np.asarray(jax.nn.log_softmax(one)) for one in logits])
    return np.asarray(jax.nn.logsumexp(log_p, axis=0)) - np.log(len(logits))


class TeacherLogits:
    """Logits of a student's teachers on whole splits, computed at their first use."""

    def __init__(
        self, teachers: Mapping[str, TrainedNetwork], image_size: int, devices: parallel.Devices
    ):
        """Takes the teachers by their names in this run, with variables on the devices."""
        self._teachers = teachers
        self._evaluators = {
            name: Evaluator(teacher.network, image_size, devices)
            for name, teacher in teachers.items()
        }

    def each(self, split: PhaseSplit) -> tuple[np.ndarray, ...]:
        """float32 [n, k] of every teacher, in order."""
        known = split.teacher_logits
        for name, teacher in self._teachers.items():
            if name not in known:
                known[name] = self._evaluators[name].logits(teacher.variables, split)
        return tuple(known[name] for name in self._teachers)

    def joint(self, split: PhaseSplit) -> np.ndarray | None:
        """float32 [n, k] of the teachers' ensemble, or None without teachers."""
        return ensemble(list(self.each(split))) if self._teachers else None
