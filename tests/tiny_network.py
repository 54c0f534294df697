"""A network that is compiled in a second, for runs of configs of many phases."""

import flax.linen as nn

from kdjax import Outputs
from kdjax.models import Model


class Tiny(Model):
    """One convolution, a norm, and a linear layer; named `tiny_network:Tiny`.

    Attributes:
      norm: batch or layer.
      width: channels.
    """

    norm: str = "batch"
    width: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        x = self.check_images(images)
        norm = self.layer_norm() if self.norm == "layer" else self.batch_norm(train)
        x = nn.relu(self.conv_norm(x, norm, ("conv", "norm"), self.width, 3, stride=2))
        taps = {"pre_pool": x, "pre_logits": x.mean((1, 2))}
        return Outputs(self.classifier(taps["pre_logits"], name="fc"), taps)
