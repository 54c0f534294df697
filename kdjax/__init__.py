"""Knowledge distillation in JAX: pure functions for models, losses and training.

Importing kdjax changes no setting of the process. With jaxlib 0.10.2 and 0.11.0 on the CPU,
call `kdjax.host.avoid_wrong_sums()` before JAX is first used: without it, some large sums of
compiled programs are silently wrong. `kdjax.host.set_up_host()`, which `experiments` calls,
includes it and also makes the CPU backend fast.
"""

from kdjax import adversarial, distillers, host, losses, metrics, models, probes, torch_import
from kdjax.classifier import Classifier, load
from kdjax.references import trust
from kdjax.types import (
    Context,
    Distiller,
    MethodLoss,
    Network,
    Outputs,
    Separated,
    TeacherInputs,
    TrainState,
    UserError,
)

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Context",
    "Distiller",
    "MethodLoss",
    "Network",
    "Outputs",
    "Separated",
    "TeacherInputs",
    "TrainState",
    "UserError",
    "adversarial",
    "distillers",
    "host",
    "load",
    "losses",
    "metrics",
    "models",
    "probes",
    "torch_import",
    "trust",
]
