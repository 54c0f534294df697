"""Residual networks (He et al. 2016), in the three forms that the distillation papers use.

`resnet{8..110}` and the `x4` variants are the CIFAR networks of section 4.2 as in RepDistiller's
`resnet.py` (those of pytorch-cifar-models are equal). `resnet{18,34,50}` are the networks of
table 1, as in RepDistiller's `resnetv2.py` for small images and, with `stem="imagenet"`, as in
torchvision. `distiller_resnet*` are the variants of the CIFAR-10 survey's repository
(karanchahal/distiller, `models/cifar10/resnet.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from kdjax.models.layers import Model, flatten, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs, UserError


class ResNet(Model):
    """A residual network with projection shortcuts where the shape changes.

    Taps: `stem` (after its ReLU); for each stage K, `stageK_pre` (the last residual sum) and
    `stageK` (after its ReLU); `pre_pool` (the last stage) and `pre_logits` (its mean). The
    first stage keeps the resolution, all others halve it.

    Attributes:
      blocks: number of residual blocks per stage.
      widths: channels of the stem and of each stage; with bottlenecks, their inner channels, a
        quarter of those of their output.
      bottleneck: whether a block has 1x1, 3x3 and 1x1 instead of two 3x3 convolutions.
    """

    blocks: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (16, 16, 32, 64)
    bottleneck: bool = False

    # Whether a ReLU follows each residual sum, or only the last of each stage.
    relu_within_stage: ClassVar[bool] = True

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        shortcut, head = self._names()
        taps = self._stem(images, norm)
        x = taps["stem"]
        stages = zip(self.blocks, self.widths[1:], strict=True)
        for stage, (blocks, width) in enumerate(stages, start=1):
            for block in range(blocks):
                if block > 0 and self.relu_within_stage:
                    x = relu(x)
                stride = 2 if stage > 1 and block == 0 else 1
                x = self._block(x, width, stride, norm, f"layer{stage}_{block}", shortcut)
            taps[f"stage{stage}_pre"] = x
            taps[f"stage{stage}"] = x = relu(x)
        taps |= self._pool(x)
        return Outputs(self.classifier(taps["pre_logits"], name=head), taps)

    def _names(self) -> tuple[str, str]:
        """The names of the shortcuts and of the classifier."""
        return "downsample", "fc"

    def _stem(self, images: Array, norm: Callable[..., Any]) -> dict[str, Array]:
        """The taps of the stem."""
        x = self.check_images(images)
        return {"stem": relu(self.conv_norm(x, norm, ("conv1", "bn1"), self.widths[0], 3))}

    def _block(
        self,
        x: Array,
        width: int,
        stride: int,
        norm: Callable[..., Any],
        name: str,
        shortcut: str,
    ) -> Array:
        """The residual sum of a block, without a ReLU after it."""
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

    def _pool(self, x: Array) -> dict[str, Array]:
        """The taps of the last map and of what becomes of it before the classifier."""
        return {"pre_pool": x, "pre_logits": global_average_pool(x)}


class LargeResNet(ResNet):
    """A ResNet with four stages, for small images or, with `stem="imagenet"`, for large ones.

    The stem for large images is a 7x7 convolution with stride 2 and a 3x3 max pool with stride
    2, after which the tap `stem` is taken.

    Attributes:
      stem: "cifar" (3x3 with stride 1; RepDistiller's names) or "imagenet" (torchvision's
        names).
    """

    widths: tuple[int, ...] = (64, 64, 128, 256, 512)
    stem: str = "cifar"

    torch_aliases = ((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))

    def _names(self) -> tuple[str, str]:
        return ("downsample", "fc") if self.stem == "imagenet" else ("shortcut", "linear")

    def _stem(self, images: Array, norm: Callable[..., Any]) -> dict[str, Array]:
        if self.stem == "cifar":
            return super()._stem(images, norm)
        if self.stem != "imagenet":
            raise UserError(f"unknown stem={self.stem!r}: choose 'cifar' or 'imagenet'")
        x = self.check_images(images)
        x = self.conv_norm(x, norm, ("conv1", "bn1"), self.widths[0], 7, stride=2)
        return {"stem": nn.max_pool(relu(x), (3, 3), (2, 2), padding=[(1, 1), (1, 1)])}


class DistillerResNet(ResNet):
    """The CIFAR-10 survey's ResNet, which differs from He et al.'s in four ways.

    - A ReLU follows only the last residual sum of each stage (the published block overwrites
      the others).
    - The networks with three stages have a stem of 64 channels before 16, 32 and 64.
    - The last feature map is average-pooled in 4x4 windows, which for 32x32 images gives 2x2
      (three stages) or 1x1 (four stages), and flattened. The shape of the classifier's weight
      therefore depends on the size of the images.
    - Convolutions have PyTorch's default initialisation.

    Two more taps are what the survey's SFD compares of the stem: `stem_conv`, before the batch
    norm, and `stem_pre`, before the ReLU.
    """

    kernel_init = staticmethod(uniform_fan_in_kernel)
    relu_within_stage = False

    def _names(self) -> tuple[str, str]:
        return "shortcut", "linear"

    def _stem(self, images: Array, norm: Callable[..., Any]) -> dict[str, Array]:
        # The last stage must be at least 4x4; each stage but the first halves, rounding up.
        x = self.check_images(images, at_least=3 * 2 ** (len(self.blocks) - 1) + 1)
        x = self.conv(self.widths[0], 3, name="conv1")(x)
        pre = norm(name="bn1")(x)
        return {"stem_conv": x, "stem_pre": pre, "stem": relu(pre)}

    def _pool(self, x: Array) -> dict[str, Array]:
        return {"pre_logits": flatten(nn.avg_pool(x, (4, 4), (4, 4)))}


_WIDE = (32, 64, 128, 256)
_SMALL = (64, 16, 32, 64)
_LARGE = (64, 64, 128, 256, 512)
_LARGE_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def _equal(depth: int) -> tuple[int, int, int]:
    """Blocks per stage of a network with three stages and `6 * blocks + 2` layers."""
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
