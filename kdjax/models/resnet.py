"""CIFAR residual networks (He et al. 2016, section 4.2), as in RepDistiller.

`resnetD` has widths 16, 16, 32, 64; the `x4` variants have 32, 64, 128, 256.
Projection shortcuts (a 1x1 convolution and batch norm) where the shape changes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from kdjax.models.layers import Model, global_average_pool
from kdjax.types import Array, Outputs


class ResNet(Model):
    """A CIFAR ResNet of `6 * blocks + 2` layers.

    Taps: `stem` (after its ReLU), `stageK_pre` (the residual sum), `stageK` (after
    its ReLU), for K = 1, 2, 3, and `pre_logits` (the pooled last stage).

    Attributes:
      blocks: residual blocks a stage.
      widths: channels of the stem and of the three stages.
    """

    blocks: int = 1
    widths: tuple[int, int, int, int] = (16, 16, 32, 64)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        x = self.check_images(images)
        x = nn.relu(norm(name="bn1")(self.conv(self.widths[0], 3, name="conv1")(x)))
        taps = {"stem": x}
        for stage, width in enumerate(self.widths[1:], start=1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                pre = self._block(x, width, stride, norm, f"layer{stage}_{block}")
                x = nn.relu(pre)
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
        taps["pre_logits"] = global_average_pool(x)
        return Outputs(self.classifier(taps["pre_logits"], name="fc"), taps)

    def _block(
        self, x: Array, width: int, stride: int, norm: Callable[..., Any], name: str
    ) -> Array:
        """Basic block, without the ReLU that follows the sum."""
        y = self.conv(width, 3, stride=stride, name=f"{name}_conv1")(x)
        y = nn.relu(norm(name=f"{name}_bn1")(y))
        y = norm(name=f"{name}_bn2")(self.conv(width, 3, name=f"{name}_conv2")(y))
        if x.shape != y.shape:
            x = self.conv(width, 1, stride=stride, name=f"{name}_downsample_0")(x)
            x = norm(name=f"{name}_downsample_1")(x)
        return x + y


_WIDE = (32, 64, 128, 256)
MODELS: dict[str, Callable[..., Model]] = {
    **{f"resnet{d}": partial(ResNet, blocks=(d - 2) // 6) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{d}x4": partial(ResNet, blocks=(d - 2) // 6, widths=_WIDE) for d in (8, 32)},
}
