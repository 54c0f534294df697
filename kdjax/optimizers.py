"""Optimisers by name, composed from optax transformations."""

import jax
import optax

from kdjax.types import PyTree, UserError

NAMES = ("adadelta", "adafactor", "adam", "adamw", "sgd")
DECAY_MASKS = ("all", "kernels")


def create(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay_mask: str = "all",
    grad_clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Creates an optimiser.

    Args:
      name: one of `NAMES`: `sgd`, `adam`, `adamw` (Adam with decoupled weight decay),
        `adafactor` (factored second moments and update clipping, without relative step sizes) or
        `adadelta` (Zeiler 2012; rho 0.9 and epsilon 1e-6, as PyTorch's default; its usual learning
        rate is 1).
      learning_rate: a number or an optax schedule of the step.
      momentum: of `sgd` and `adafactor` (0 for none); Adam's beta_1.
      nesterov: use Nesterov momentum (`sgd`, `adam`, `adamw`).
      weight_decay: coefficient of the weight decay; 0 for none.
      decoupled: if False, the decay is an L2 penalty whose gradient is added before the moments
        are computed (as in PyTorch's SGD and Adam); if True, it is added after them, times the
        learning rate (as in AdamW, which always decouples).
      decay_mask: one of `DECAY_MASKS`: decay `all` parameters (PyTorch's default) or `kernels`
        only (parameters of two or more dimensions, so neither biases nor normalisation).
      grad_clip_norm: global norm to which gradients are clipped; 0 disables clipping.

    Raises:
      UserError: if the name or the mask is unknown.
    """
    if name not in NAMES:
        raise UserError(f"unknown optimizer {name!r}: choose from {', '.join(NAMES)}")
    if decay_mask not in DECAY_MASKS:
        raise UserError(f"unknown decay_mask {decay_mask!r}: choose from {', '.join(DECAY_MASKS)}")

    def is_kernel(params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    decay = optax.add_decayed_weights(weight_decay, is_kernel if decay_mask == "kernels" else None)
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


def is_elementwise(name: str, decay_mask: str) -> bool:
    """Whether an optimiser of `create` treats every element alike, whatever array it is in."""
    return name != "adafactor" and decay_mask == "all"


def schedule_position(opt_state: PyTree) -> int | None:
    """The position in the learning rate's schedule of the next update; None without one."""

    def is_schedule(node: PyTree) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    nodes = filter(is_schedule, jax.tree.leaves(opt_state, is_leaf=is_schedule))
    return next((int(node.count) for node in nodes), None)
