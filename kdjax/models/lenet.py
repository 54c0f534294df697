"""Small networks for MNIST: LeNet-5 (LeCun et al. 1998) with ReLU, and PyTorch's example.

`lenet` is that of ZeroShotKnowledgeTransfer and of the CIFAR-10 survey, `lenet5` that of Stanton
et al. (2021; samuelstanton/gnosis), and `mnist_cnn` the network of PyTorch's MNIST example
(pytorch/examples), which Ojha et al. (2023) use.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from kdjax.models.layers import (
    Model,
    flatten,
    max_pool,
    relu,
    uniform_fan_in,
    uniform_fan_in_kernel,
)
from kdjax.types import Array, Outputs, UserError

POOLS = ("max", "average")


class _SmallNet(Model):
    """A network of convolutions with biases, all layers of which are initialised as in PyTorch."""

    kernel_init = staticmethod(uniform_fan_in_kernel)

    def _convolve(self, x: Array, width: int, kernel: int, name: str, padding: int = 0) -> Array:
        bias_init = uniform_fan_in(kernel * kernel * x.shape[-1])
        conv = self.conv(
            width, kernel, padding=[(padding, padding)] * 2, use_bias=True, bias_init=bias_init,
            name=name,
        )  # fmt: skip
        convolved: Array = conv(x)
        return convolved


class LeNet(_SmallNet):
    """Two 5x5 convolutions and two hidden linear layers.

    Taps: `stageK_pre` and `stageK`, K = 1, 2, are convolution K before and after its ReLU, before
    the pool (the original returns only the latter, because its ReLUs are in place). There
    is no separate stem: `stem` is `stage1`. `pre_logits` is the second hidden layer after its
    ReLU [b, 84].

    Images must be at least 16x16, or 12x12 if they are padded. The shapes of the weights depend
    on the size of the images.

    Attributes:
      pool: one of `POOLS`, 2x2 with stride 2 after each convolution.
      padded: whether the first convolution pads by two on all sides, so that 28x28 images have
        maps of the original's size.
    """

    pool: str = "max"
    padded: bool = False

    # The survey's LeNet is the same network under other names, and Stanton et al.'s is a sequence
    # of the same layers without a name.
    torch_aliases = (
        (r"^conv1\.", "layers.0."),
        (r"^conv2\.", "layers.3."),
        (r"^fc1\.", "layers.7."),
        (r"^fc2\.", "layers.9."),
        (r"^fc3\.", "layers.11."),
        (r"^(\d+)\.", r"layers.\1."),
    )

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        if self.pool not in POOLS:
            raise UserError(f"unknown pool {self.pool!r}: choose from {', '.join(POOLS)}")
        x = self.check_images(images, at_least=12 if self.padded else 16)
        taps: dict[str, Array] = {}
        for stage, (width, name) in enumerate([(6, "layers_0"), (16, "layers_3")], start=1):
            padding = 2 if self.padded and stage == 1 else 0
            pre = self._convolve(x, width, 5, name, padding)
            x = relu(pre)
            if stage == 1:
                taps["stem"] = x
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
            x = max_pool(x) if self.pool == "max" else nn.avg_pool(x, (2, 2), (2, 2))
        x = flatten(x)
        for width, name in [(120, "layers_7"), (84, "layers_9")]:
            x = relu(self.dense(x, width, name=name))
        taps["pre_logits"] = x
        return Outputs(self.classifier(x, name="layers_11"), taps)


class MnistCNN(_SmallNet):
    """Two unpadded 3x3 convolutions, a max pool and one hidden linear layer.

    In training, dropout with rate 0.25 follows the pool and dropout with rate 0.5 the hidden layer.

    Taps: `stageK_pre` and `stageK`, K = 1, 2, are convolution K (32 and 64 channels) before and
    after its ReLU; `stem` is `stage1`; `pre_logits` is the hidden layer after its ReLU [b, 128].

    Images must be at least 6x6. The shapes of the weights depend on the size of the images.
    """

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        x = self.check_images(images, at_least=6)
        taps: dict[str, Array] = {}
        for stage, width in enumerate([32, 64], start=1):
            pre = self._convolve(x, width, 3, f"conv{stage}")
            x = relu(pre)
            if stage == 1:
                taps["stem"] = x
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
        x = flatten(self.drop(max_pool(x), 0.25, train))
        taps["pre_logits"] = relu(self.dense(x, 128, name="fc1"))
        return Outputs(self.classifier(self.drop(taps["pre_logits"], 0.5, train), name="fc2"), taps)


MODELS: dict[str, Callable[..., Model]] = {
    "lenet": LeNet,
    "lenet5": partial(LeNet, pool="average", padded=True),
    "mnist_cnn": MnistCNN,
}
