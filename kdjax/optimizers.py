"""Optimisers by name, composed from optax transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.types import PyTree, Separated, UserError

NAMES = ("adadelta", "adafactor", "adam", "adamw", "dot", "sgd")
DECAY_MASKS = ("all", "kernels")


class DistillationOriented(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optimiser whose `update(grad, state, params, shared=...)` takes `kdjax.types.Separated`.

    `shared` has a bool for each array of `params`, or array of bools: whether both parts of the
    loss depend on it.
    """


def create(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    delta: float = 0.075,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay_mask: str = "all",
    grad_clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Creates an optimiser.

    Args:
      name: one of `NAMES`: `sgd`, `adam`, `adamw` (Adam with decoupled weight decay),
        `adafactor` (factored second moments and update clipping, without relative step sizes),
        `adadelta` (Zeiler 2012; rho 0.9 and epsilon 1e-6, as PyTorch's default; its usual learning
        rate is 1) or `dot`, which is `sgd` with a momentum buffer for cross-entropy and another
        for all other terms of the objective (Zhao et al. 2023, "DOT: A distillation-oriented
        trainer", as in mdistiller); it is `DistillationOriented`.
      learning_rate: a number or an optax schedule of the step.
      momentum: of `sgd`, `dot` and `adafactor` (0 for none); Adam's beta_1.
      nesterov: use Nesterov momentum (`sgd`, `dot`, `adam`, `adamw`).
      delta: of `dot`: the buffer of cross-entropy has momentum `momentum - delta`, the other one
        `momentum + delta`, and both `momentum` for parameters on which only one of the two
        losses depends. A decay that is not decoupled is in the first of them.
      weight_decay: coefficient of the weight decay; 0 for none.
      decoupled: if False, the decay is an L2 penalty whose gradient is added before the moments
        are computed (as in PyTorch's SGD and Adam); if True, it is added after them, times the
        learning rate (as in AdamW, which always decouples).
      decay_mask: one of `DECAY_MASKS`: decay `all` parameters (PyTorch's default) or `kernels`
        only (parameters of two or more dimensions, so neither biases nor normalisation).
      grad_clip_norm: global norm to which gradients are clipped; 0 disables clipping. `dot`
        multiplies both of its gradients by what clips their sum.

    Raises:
      UserError: if the name or the mask is unknown, or a momentum of `dot` is not in [0, 1).
    """
    if name not in NAMES:
        raise UserError(f"unknown optimizer {name!r}: choose from {', '.join(NAMES)}")
    if decay_mask not in DECAY_MASKS:
        raise UserError(f"unknown decay_mask {decay_mask!r}: choose from {', '.join(DECAY_MASKS)}")

    def is_kernel(params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    decay = optax.add_decayed_weights(weight_decay, is_kernel if decay_mask == "kernels" else None)
    if name == "dot":
        return DistillationOriented(
            *optax.chain(
                _separate_momenta(
                    momentum, delta, nesterov=nesterov, grad_clip_norm=grad_clip_norm,
                    decay=optax.identity() if decoupled or not weight_decay else decay,
                ),
                decay if decoupled and weight_decay else optax.identity(),
                optax.scale_by_learning_rate(learning_rate),
            )
        )  # fmt: skip
    if name == "sgd":
        moments = optax.trace(momentum, nesterov) if momentum else optax.identity()
    elif name == "adadelta":
        moments = optax.scale_by_adadelta(rho=0.9, eps=1e-6)
    elif name == "adafactor":
        moments = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.ema(momentum, debias=False) if momentum else optax.identity(),
        )
    else:
        moments = optax.scale_by_adam(b1=momentum, nesterov=nesterov)
    decoupled = decoupled or name == "adamw"
    return optax.chain(
        optax.clip_by_global_norm(grad_clip_norm) if grad_clip_norm else optax.identity(),
        optax.identity() if decoupled or not weight_decay else decay,
        moments,
        decay if decoupled and weight_decay else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def _separate_momenta(
    momentum: float,
    delta: float,
    *,
    nesterov: bool,
    grad_clip_norm: float,
    decay: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The moments of `dot`, with what comes before them."""
    if not (0 <= momentum - delta < 1 and 0 <= momentum + delta < 1):
        raise UserError(
            f"delta of dot is {delta} and its momentum {momentum}: "
            "momentum - delta and momentum + delta must be in [0, 1)"
        )

    def init(params: PyTree) -> Separated:
        return Separated(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))

    def update(
        grad: Separated, state: Separated, params: PyTree, *, shared: PyTree, **_: Any
    ) -> tuple[PyTree, Separated]:
        if grad_clip_norm:
            factor = grad_clip_norm / optax.tree.norm(optax.tree.add(*grad))
            grad = optax.tree.scale(jnp.minimum(1, factor), grad)
        task, _ = decay.update(grad.task, decay.init(params), params)
        grad = grad._replace(task=task)

        def momenta(of_shared: float) -> PyTree:
            return jax.tree.map(lambda both: jnp.where(both, of_shared, momentum), shared)

        def add(g: Any, decay_rate: Any, buffer: Any) -> Any:
            return g + decay_rate * buffer

        rates = Separated(momenta(momentum - delta), momenta(momentum + delta))
        state = jax.tree.map(add, grad, rates, state)
        directions = jax.tree.map(add, grad, rates, state) if nesterov else state
        return optax.tree.add(*directions), state

    return optax.GradientTransformationExtraArgs(init, update)


def is_elementwise(name: str, decay_mask: str) -> bool:
    """Whether an optimiser of `create` treats every element alike, whatever array it is in."""
    return name != "adafactor" and decay_mask == "all"


def schedule_position(opt_state: PyTree) -> int | None:
    """The position in the learning rate's schedule of the next update; None without one."""

    def is_schedule(node: PyTree) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    nodes = filter(is_schedule, jax.tree.leaves(opt_state, is_leaf=is_schedule))
    return next((int(node.count) for node in nodes), None)
