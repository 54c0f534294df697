"""Data-free knowledge transfer (Micaelli & Storkey 2019) and its analysis.

`Adversary` trains a student with a generator and no data; `transition_curves` and
`mean_transition_error` measure how alike the decision boundaries of two networks are.
"""

from kdjax.adversarial.adversary import Adversary
from kdjax.adversarial.distances import DISTANCES, Distance
from kdjax.adversarial.state import AdversarialState, Lesson, PseudoBatchStep
from kdjax.adversarial.transition_curves import mean_transition_error, transition_curves

__all__ = [
    "DISTANCES",
    "AdversarialState",
    "Adversary",
    "Distance",
    "Lesson",
    "PseudoBatchStep",
    "mean_transition_error",
    "transition_curves",
]
