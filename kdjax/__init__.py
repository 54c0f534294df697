"""Knowledge distillation in JAX: pure functions for models, losses and training."""

from kdjax import distillers, losses, metrics, models, torch_import
from kdjax.types import Context, Distiller, MethodLoss, Network, Outputs, TrainState, UserError

__all__ = [
    "Context",
    "Distiller",
    "MethodLoss",
    "Network",
    "Outputs",
    "TrainState",
    "UserError",
    "distillers",
    "losses",
    "metrics",
    "models",
    "torch_import",
]
