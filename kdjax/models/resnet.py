"""Residual networks (He et al. 2016), in the three forms that the papers use.

`resnet{8..110}` and the `x4` variants are the CIFAR networks of section 4.2 as in
RepDistiller's `resnet.py` (pytorch-cifar-models has the same); `resnet{18,34,50}`
those of table 1, as in RepDistiller's `resnetv2.py` for small images and as in
torchvision with `stem="imagenet"`; `distiller_resnet*` are the variants of the
CIFAR-10 survey's repository (karanchahal/distiller, `models/cifar10/resnet.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from kdjax.models.layers import Model, flatten, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs, UserError


class ResNet(Model):
    """A residual network with projection shortcuts where the shape changes.

    Taps: `stem` (after its ReLU), `stageK_pre` (the residual sum), `stageK` (after
    its ReLU), for K = 1 ... the number of stages, and `pre_logits` (the pooled
    last stage). The first stage keeps the resolution, every other one halves it.

    Attributes:
      blocks: residual blocks of every stage.
      widths: channels of the stem and of every stage; of a bottleneck its inner
        ones, of which it puts out four times as many.
      bottleneck: whether a block is 1x1, 3x3, 1x1 instead of 3x3, 3x3.
    """

    blocks: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (16, 16, 32, 64)
    bottleneck: bool = False

    # Whether a ReLU follows every residual sum, or only the last of a stage.
    relu_within_stage: ClassVar[bool] = True

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        shortcut, head = self._names()
        x = self._stem(images, norm)
        taps = {"stem": x}
        stages = zip(self.blocks, self.widths[1:], strict=True)
        for stage, (blocks, width) in enumerate(stages, start=1):
            for block in range(blocks):
                if block > 0 and self.relu_within_stage:
                    x = relu(x)
                stride = 2 if stage > 1 and block == 0 else 1
                x = self._block(x, width, stride, norm, f"layer{stage}_{block}", shortcut)
            taps[f"stage{stage}_pre"] = x
            taps[f"stage{stage}"] = x = relu(x)
        taps["pre_logits"] = self._pool(x)
        return Outputs(self.classifier(taps["pre_logits"], name=head), taps)

    def _names(self) -> tuple[str, str]:
        """What the shortcuts and the classifier are called."""
        return "downsample", "fc"

    def _stem(self, images: Array, norm: Callable[..., Any]) -> Array:
        x = self.check_images(images)
        return relu(self.conv_norm(x, norm, ("conv1", "bn1"), self.widths[0], 3))

    def _block(
        self,
        x: Array,
        width: int,
        stride: int,
        norm: Callable[..., Any],
        name: str,
        shortcut: str,
    ) -> Array:
        """The residual sum of a block, without the ReLU that may follow it."""
        layers = [(width, 3, stride), (width, 3, 1)]
        if self.bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        y = x
        for index, (features, kernel, step) in enumerate(layers, start=1):
            y = relu(y) if index > 1 else y
            names = (f"{name}_conv{index}", f"{name}_bn{index}")
            y = self.conv_norm(y, norm, names, features, kernel, stride=step)
        if x.shape != y.shape:
            names = (f"{name}_{shortcut}_0", f"{name}_{shortcut}_1")
            x = self.conv_norm(x, norm, names, y.shape[-1], 1, stride=stride)
        return x + y

    def _pool(self, x: Array) -> Array:
        return global_average_pool(x)


class LargeResNet(ResNet):
    """A ResNet of four stages, for small images or, with `stem="imagenet"`, for large ones.

    The stem for large images is a 7x7 convolution with stride 2 and a 3x3 max pool
    with stride 2, after which the tap `stem` is taken.

    Attributes:
      stem: "cifar" (3x3, stride 1; names as in RepDistiller) or "imagenet" (names
        as in torchvision).
    """

    widths: tuple[int, ...] = (64, 64, 128, 256, 512)
    stem: str = "cifar"

    torch_aliases = ((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))

    def _names(self) -> tuple[str, str]:
        return ("downsample", "fc") if self.stem == "imagenet" else ("shortcut", "linear")

    def _stem(self, images: Array, norm: Callable[..., Any]) -> Array:
        if self.stem == "cifar":
            return super()._stem(images, norm)
        if self.stem != "imagenet":
            raise UserError(f"stem={self.stem!r}: choose 'cifar' or 'imagenet'")
        x = self.check_images(images)
        x = self.conv_norm(x, norm, ("conv1", "bn1"), self.widths[0], 7, stride=2)
        return nn.max_pool(relu(x), (3, 3), (2, 2), padding=[(1, 1), (1, 1)])


class DistillerResNet(ResNet):
    """The CIFAR-10 survey's ResNet, which differs from He et al.'s in four ways.

    Inside a stage no ReLU follows a residual sum, only at its end (the published
    block overwrites it); the networks of three stages have a stem of 64 channels
    before 16, 32, 64; the last feature map is averaged in 4x4 windows, of which
    32x32 images leave 2x2 (three stages) or one (four), and flattened: other sizes
    of images need other weights in the classifier. Convolutions start as PyTorch
    leaves them.
    """

    kernel_init = staticmethod(uniform_fan_in_kernel)
    relu_within_stage = False

    def _names(self) -> tuple[str, str]:
        return "shortcut", "linear"

    def _stem(self, images: Array, norm: Callable[..., Any]) -> Array:
        # The last stage must be 4 high and wide; every stage but the first halves, rounding up.
        self.check_images(images, at_least=3 * 2 ** (len(self.blocks) - 1) + 1)
        return super()._stem(images, norm)

    def _pool(self, x: Array) -> Array:
        return flatten(nn.avg_pool(x, (4, 4), (4, 4)))


_WIDE = (32, 64, 128, 256)
_SMALL = (64, 16, 32, 64)
_LARGE = (64, 64, 128, 256, 512)
_LARGE_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def _equal(depth: int) -> tuple[int, int, int]:
    """Blocks of the three stages of a network of `6 * blocks + 2` layers."""
    return ((depth - 2) // 6,) * 3


MODELS: dict[str, Callable[..., Model]] = {
    **{f"resnet{d}": partial(ResNet, blocks=_equal(d)) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{d}x4": partial(ResNet, blocks=_equal(d), widths=_WIDE) for d in (8, 32)},
    **{
        f"resnet{d}": partial(LargeResNet, blocks=_LARGE_BLOCKS[d], bottleneck=d == 50)
        for d in (18, 34, 50)
    },
    **{
        f"distiller_resnet{d}": partial(DistillerResNet, blocks=_equal(d), widths=_SMALL)
        for d in (8, 14, 20, 26, 32, 44, 56)
    },
    **{
        f"distiller_resnet{d}": partial(
            DistillerResNet, blocks=_LARGE_BLOCKS[d], widths=_LARGE, bottleneck=d == 50
        )
        for d in (10, 18, 34, 50)
    },
}
