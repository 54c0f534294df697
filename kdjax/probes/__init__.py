"""What a student has of its teacher beside its accuracy (Ojha et al. 2023).

"What knowledge gets distilled in knowledge distillation?", NeurIPS 2023. Each probe is a pure
function of networks and arrays: attacks that transfer, agreement under changes of an image, made
domains, maps of where a network looks, similarity of features, and planes through three images.
"""

from kdjax.probes.attack import fgsm_step, fooling_rate
from kdjax.probes.cam import cosine, grad_cam
from kdjax.probes.cka import cka, taps_of
from kdjax.probes.domains import DOMAINS
from kdjax.probes.planes import Plane, plane_through
from kdjax.probes.views import VIEWS

__all__ = [
    "DOMAINS",
    "VIEWS",
    "Plane",
    "cka",
    "cosine",
    "fgsm_step",
    "fooling_rate",
    "grad_cam",
    "plane_through",
    "taps_of",
]
