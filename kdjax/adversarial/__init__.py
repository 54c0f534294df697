"""Data-free knowledge transfer (Micaelli & Storkey 2019), DFQ, Fast, and their analysis.

`Adversary` has a student and a generator, which `make_step` trains without data;
`transition_curves` and `mean_transition_error` measure how alike the decision boundaries of two
networks are.
"""

from kdjax.adversarial.adversary import Adversary
from kdjax.adversarial.distances import DISTANCES, Distance
from kdjax.adversarial.fast import Fast
from kdjax.adversarial.objectives import DFQ, FAST, ZERO_SHOT, GeneratorObjective
from kdjax.adversarial.pseudo_batch import make_step
from kdjax.adversarial.state import AdversarialState, Lesson, PseudoBatchStep
from kdjax.adversarial.transition_curves import mean_transition_error, transition_curves

__all__ = [
    "DFQ",
    "DISTANCES",
    "FAST",
    "ZERO_SHOT",
    "AdversarialState",
    "Adversary",
    "Distance",
    "Fast",
    "GeneratorObjective",
    "Lesson",
    "PseudoBatchStep",
    "make_step",
    "mean_transition_error",
    "transition_curves",
]
