"""Pure maths on arrays: no parameters, no models, nothing else of kdjax.

A loss whose value belongs to an example returns one value an example; the train
step takes the mean. A loss between examples returns a scalar.
"""

from kdjax.losses.logits import cross_entropy, kd

__all__ = ["cross_entropy", "kd"]
