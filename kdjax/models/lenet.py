"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, as in ZeroShotKnowledgeTransfer."""

from collections.abc import Callable

import flax.linen as nn

from kdjax.models.layers import (
    Model,
    flatten,
    max_pool,
    relu,
    uniform_fan_in,
    uniform_fan_in_kernel,
)
from kdjax.types import Array, Outputs


class LeNet(Model):
    """Two unpadded 5x5 convolutions and two hidden linear layers.

    Taps: `stageK_pre` and `stageK`, K = 1, 2, are convolution K before and after its ReLU, before
    the max pool (the original returns only the latter, because its ReLUs are in place). There
    is no separate stem: `stem` is `stage1`. `pre_logits` is the second hidden layer after its
    ReLU [b, 84].

    Images must be at least 16x16. The shapes of the weights depend on the size of the images.
    """

    kernel_init = staticmethod(uniform_fan_in_kernel)
    # The CIFAR-10 survey's LeNet is the same network under other names.
    torch_aliases = (
        (r"^conv1\.", "layers.0."),
        (r"^conv2\.", "layers.3."),
        (r"^fc1\.", "layers.7."),
        (r"^fc2\.", "layers.9."),
        (r"^fc3\.", "layers.11."),
    )

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        x = self.check_images(images, at_least=16)
        taps: dict[str, Array] = {}
        for stage, (width, name) in enumerate([(6, "layers_0"), (16, "layers_3")], start=1):
            bias_init = uniform_fan_in(25 * x.shape[-1])
            conv = self.conv(
                width, 5, padding="VALID", use_bias=True, bias_init=bias_init, name=name
            )
            pre = conv(x)
            x = relu(pre)
            if stage == 1:
                taps["stem"] = x
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
            x = max_pool(x)
        x = flatten(x)
        for width, name in [(120, "layers_7"), (84, "layers_9")]:
            x = relu(self.dense(x, width, name=name))
        taps["pre_logits"] = x
        return Outputs(self.classifier(x, name="layers_11"), taps)


MODELS: dict[str, Callable[..., Model]] = {"lenet": LeNet}
