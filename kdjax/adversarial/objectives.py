"""What a generator minimises."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from kdjax import losses, parallel
from kdjax.adversarial.moments import Moments, evaluate_with_moments
from kdjax.types import Array, Metrics, Network, Outputs, Variables


class GeneratorObjective(NamedTuple):
    """A generator's objective, by the weights of its terms; with several teachers, their mean.

    `ZERO_SHOT`, the distance alone, is that of Micaelli & Storkey 2019. `DFQ` (Choi et al. 2020) is
    that of zju-vipa/CMI (Fang et al. 2021). Two of its terms differ from the paper's: the batch
    norms' statistics are compared by Euclidean distances and not by the KL between Gaussians, and
    a prediction is made confident by its cross-entropy with its own class and not by its entropy.

    Attributes:
      distance: of the distance between student and teacher, which is maximised.
      batch_norm: of `kdjax.losses.batch_norm_distance`, summed over the teacher's batch norms.
      one_hot: of the cross-entropy of the teacher's prediction with its most probable class, or
        in Fast with a random label.
      balance: of `kdjax.losses.class_balance` of the teacher's predictions.
    """

    distance: float = 1.0
    batch_norm: float = 0.0
    one_hot: float = 0.0
    balance: float = 0.0

    def evaluate(
        self,
        teachers: Sequence[Network],
        variables: Sequence[Variables],
        images: Array,
        axis_name: str | None,
    ) -> tuple[tuple[Outputs, ...], tuple[tuple[Moments, ...], ...]]:
        """Each teacher's outputs for images, and the moments of its batch norms' inputs.

        Args:
          teachers: in order.
          variables: of each.
          images: [b, h, w, c].
          axis_name: the mapped axis over which the batch is sharded, or None.
        """
        found = [
            evaluate_with_moments(teacher, its, images, axis_name)
            if self.batch_norm
            else (teacher.evaluate(its, images), ())
            for teacher, its in zip(teachers, variables, strict=True)
        ]
        outputs, moments = zip(*found, strict=True)
        return outputs, moments

    def loss(
        self,
        distance: Array,
        outputs: Sequence[Outputs],
        moments: Sequence[Sequence[Moments]],
        axis_name: str | None,
        labels: Array | None = None,
    ) -> tuple[Array, Metrics]:
        """The weighted sum of the terms, and the terms.

        Args:
          distance: [], between student and teachers.
          outputs: of each teacher.
          moments: of each teacher.
          axis_name: the mapped axis over which the batch is sharded, or None. The mean over it
            is the loss of the whole batch.
          labels: int [b], classes that images should have; None for the most probable ones.
        """
        logits = [one.logits for one in outputs]
        terms = {"distance": distance}
        if self.batch_norm:
            sums = [sum(losses.batch_norm_distance(*layer) for layer in its) for its in moments]
            terms["batch_norm"] = jnp.mean(jnp.stack(sums))
        if self.one_hot:
            targets = [jnp.argmax(one, -1) if labels is None else labels for one in logits]
            found = [losses.cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
            terms["one_hot"] = jnp.mean(jnp.stack(found))
        if self.balance:
            whole = parallel.all_gather(logits, axis_name)
            terms["balance"] = jnp.mean(jnp.stack([losses.class_balance(one) for one in whole]))
        weights = self._replace(distance=-self.distance)._asdict()
        total = sum(weights[name] * value for name, value in terms.items())
        return jnp.asarray(total), terms


#: The generator's objective of zero-shot knowledge transfer.
ZERO_SHOT = GeneratorObjective()
#: The generator's objective of DFQ.
DFQ = GeneratorObjective(distance=1.0, batch_norm=1.0, one_hot=1.0, balance=20.0)
#: The generator's objective of Fast, for wide residual networks.
FAST = GeneratorObjective(distance=1.1, batch_norm=10.0, one_hot=0.4)
