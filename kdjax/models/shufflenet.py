"""ShuffleNets V1 (Zhang et al. 2018) and V2 (Ma et al. 2018), in their published forms.

`shufflenetv1` and `shufflenetv2` are RepDistiller's; `shufflenetv2_x*` are those of chenyaofo's
pytorch-cifar-models. The two forms of V2 differ in the kernel of the stem and in the names of
their layers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.layers import Model, Names, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs


def channel_shuffle(x: Array, groups: int) -> Array:
    """Interleaves the channels of `groups` equal parts of [b, h, w, c]."""
    *rest, channels = x.shape
    return x.reshape(*rest, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)


class ShuffleNetV1(Model):
    """ShuffleNet with three groups and stages of 240, 480 and 960 channels.

    Taps: `stem` (after its ReLU); `stageK_pre` and `stageK`, K = 1, 2, 3 (the last block's
    output before and after its ReLU); `pre_pool` (the last stage) and `pre_logits` (its mean).
    Each stage halves the resolution, the stem keeps it.
    """

    kernel_init = staticmethod(uniform_fan_in_kernel)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        x = self.check_images(images)
        x = relu(self.conv_norm(x, norm, ("conv1", "bn1"), 24, 1))
        taps = {"stem": x}
        for stage, (width, blocks) in enumerate([(240, 4), (480, 8), (960, 4)], start=1):
            for block in range(blocks):
                pre = self._block(x, width, block == 0, norm, f"layer{stage}_{block}")
                x = relu(pre)
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
        taps |= {"pre_pool": x, "pre_logits": global_average_pool(x)}
        return Outputs(self.classifier(taps["pre_logits"], name="linear"), taps)

    def _block(
        self, x: Array, width: int, down: bool, norm: Callable[..., Any], name: str
    ) -> Array:
        """A block without its last ReLU; a downsampling block concatenates instead of adding."""
        layer = [(f"{name}_conv{i}", f"{name}_bn{i}") for i in (1, 2, 3)]
        features = width - x.shape[-1] if down else width
        inner = features // 4
        # The 24 channels of the stem are not divided into groups.
        groups = 1 if x.shape[-1] == 24 else 3
        y = self.conv_norm(x, norm, layer[0], inner, 1, feature_group_count=groups)
        y = channel_shuffle(relu(y), groups)
        stride = 2 if down else 1
        y = self.conv_norm(y, norm, layer[1], inner, 3, stride=stride, feature_group_count=inner)
        y = self.conv_norm(relu(y), norm, layer[2], features, 1, feature_group_count=3)
        if not down:
            return x + y
        pooled = nn.avg_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])
        return jnp.concatenate([y, pooled], axis=-1)


@dataclasses.dataclass(frozen=True)
class LayerNames:
    """The names of the layers of ShuffleNetV2 in a code base, in order of computation."""

    stem: Names
    stages: tuple[str, str, str]
    left: tuple[Names, Names]
    right_down: tuple[Names, Names, Names]
    right: tuple[Names, Names, Names]
    last: Names
    head: str


_REPDISTILLER = LayerNames(
    stem=("conv1", "bn1"),
    stages=("layer1", "layer2", "layer3"),
    left=(("conv1", "bn1"), ("conv2", "bn2")),
    right_down=(("conv3", "bn3"), ("conv4", "bn4"), ("conv5", "bn5")),
    right=(("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    last=("conv2", "bn2"),
    head="linear",
)
_BRANCH2 = (("branch2_0", "branch2_1"), ("branch2_3", "branch2_4"), ("branch2_5", "branch2_6"))
_CIFAR_MODELS = LayerNames(
    stem=("conv1_0", "conv1_1"),
    stages=("stage2", "stage3", "stage4"),
    left=(("branch1_0", "branch1_1"), ("branch1_2", "branch1_3")),
    right_down=_BRANCH2,
    right=_BRANCH2,
    last=("conv5_0", "conv5_1"),
    head="fc",
)


class ShuffleNetV2(Model):
    """ShuffleNetV2 with stages of 4, 8 and 4 blocks.

    Taps: `stem` (after its ReLU); for K = 1, 2, 3 `stageK` (the last block's output after the
    shuffle) and `stageK_pre` (before the shuffle and before the ReLU of the right half, as in
    RepDistiller; its channels are therefore in a different order); `pre_pool` (the last
    convolution after its ReLU) and `pre_logits` (its mean). Each stage halves the resolution,
    the stem keeps it.

    Attributes:
      widths: channels of the three stages and of the last convolution.
      stem_kernel: kernel size of the first convolution.
      names: names of the layers.
    """

    widths: tuple[int, int, int, int] = (116, 232, 464, 1024)
    stem_kernel: int = 1
    names: LayerNames = _REPDISTILLER

    kernel_init = staticmethod(uniform_fan_in_kernel)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        x = self.check_images(images)
        x = relu(self.conv_norm(x, norm, self.names.stem, 24, self.stem_kernel))
        taps = {"stem": x}
        *widths, last = self.widths
        stages = zip(widths, (4, 8, 4), self.names.stages, strict=True)
        for stage, (width, blocks, name) in enumerate(stages, start=1):
            for block in range(blocks):
                left, right = self._block(x, width // 2, block == 0, norm, f"{name}_{block}")
                x = channel_shuffle(jnp.concatenate([left, relu(right)], axis=-1), 2)
            pre = jnp.concatenate([left, right], axis=-1)
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
        x = relu(self.conv_norm(x, norm, self.names.last, last, 1))
        taps |= {"pre_pool": x, "pre_logits": global_average_pool(x)}
        return Outputs(self.classifier(taps["pre_logits"], name=self.names.head), taps)

    def _block(
        self, x: Array, width: int, down: bool, norm: Callable[..., Any], name: str
    ) -> tuple[Array, Array]:
        """The two halves of a block [b, h, w, width], the right one without its last ReLU."""

        def layer(x: Array, names: Names, features: int, *, depthwise: bool = False) -> Array:
            names = (f"{name}_{names[0]}", f"{name}_{names[1]}")
            if not depthwise:
                return self.conv_norm(x, norm, names, features, 1)
            stride = 2 if down else 1
            return self.conv_norm(
                x, norm, names, features, 3, stride=stride, feature_group_count=features
            )

        if down:
            left, right = x, x
            left = layer(left, self.names.left[0], x.shape[-1], depthwise=True)
            left = relu(layer(left, self.names.left[1], width))
            first, second, third = self.names.right_down
        else:
            left, right = jnp.split(x, 2, axis=-1)
            first, second, third = self.names.right
        right = relu(layer(right, first, width))
        right = layer(right, second, width, depthwise=True)
        return left, layer(right, third, width)


_CIFAR_WIDTHS = {
    "0_5": (48, 96, 192, 1024),
    "1_0": (116, 232, 464, 1024),
    "1_5": (176, 352, 704, 1024),
    "2_0": (244, 488, 976, 2048),
}
MODELS: dict[str, Callable[..., Model]] = {
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
    **{
        f"shufflenetv2_x{size}": partial(
            ShuffleNetV2, widths=widths, stem_kernel=3, names=_CIFAR_MODELS
        )
        for size, widths in _CIFAR_WIDTHS.items()
    },
}
