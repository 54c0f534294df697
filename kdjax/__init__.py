"""Knowledge distillation in JAX: pure functions for models, losses and training."""

from kdjax import adversarial, distillers, losses, metrics, models, torch_import
from kdjax.types import (
    Context,
    Distiller,
    MethodLoss,
    Network,
    Outputs,
    TeacherInputs,
    TrainState,
    UserError,
)

__all__ = [
    "Context",
    "Distiller",
    "MethodLoss",
    "Network",
    "Outputs",
    "TeacherInputs",
    "TrainState",
    "UserError",
    "adversarial",
    "distillers",
    "losses",
    "metrics",
    "models",
    "torch_import",
]
