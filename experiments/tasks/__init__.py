"""What a phase does in its steps: `base` is the contract, each other file an implementation."""

from experiments.tasks.base import Ahead, RunSteps, Setup, StepInputs, Task
from experiments.tasks.data_free import DataFree
from experiments.tasks.supervised import Supervised, batch_parts

__all__ = [
    "Ahead",
    "DataFree",
    "RunSteps",
    "Setup",
    "StepInputs",
    "Supervised",
    "Task",
    "batch_parts",
]
