"""MobileNets V1 (Howard et al. 2017), V2 (Sandler et al. 2018) and V3 (Howard et al. 2019).

`mobilenetv1` is the network that papers distil on ImageNet, as in ReviewKD and mdistiller;
`mobilenetv2_half` is RepDistiller's `mobile_half`; `mobilenetv2_x*` are those of chenyaofo's
pytorch-cifar-models; `mobilenetv3_small` is torchvision's. A single class implements all of V2
and V3, given a plan of their layers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from kdjax.models.layers import Model, Names, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs, UserError

_LINEAR = {
    "kernel_init": jax.nn.initializers.normal(0.01),
    "bias_init": jax.nn.initializers.zeros,
}


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual block: expand (1x1), depthwise, squeeze-and-excite, project (1x1).

    Attributes:
      expanded: channels after the expansion.
      features: channels of the output.
      stride: stride of the depthwise convolution.
      expand: names of the expansion's layers, or None if there is no expansion.
      depthwise: names of the depthwise convolution and its norm.
      project: names of the projection and its norm.
      kernel: kernel size of the depthwise convolution.
      activation: activation after the expansion and the depthwise convolution.
      squeeze: name of the squeeze-and-excite module, or None if there is none.
    """

    expanded: int
    features: int
    stride: int
    expand: Names | None
    depthwise: Names
    project: Names
    kernel: int = 3
    activation: Callable[[Array], Array] = relu
    squeeze: str | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layers of a MobileNet.

    Attributes:
      stem: names, channels and stride of the first convolution.
      stages: the blocks, grouped into the stages that are tapped.
      last: names and channels of the 1x1 convolution before the pooling.
      head: name of the classifier.
      hidden: name and width of the linear layer before the classifier, or None.
      activation: activation of the first and last convolution and of the hidden layer.
      dropout: dropout rate before the classifier.
      momentum: momentum of batch norm, as defined by Flax.
      epsilon: epsilon of batch norm.
    """

    stem: tuple[Names, int, int]
    stages: tuple[tuple[Block, ...], ...]
    last: tuple[Names, int]
    head: str
    hidden: tuple[str, int] | None = None
    activation: Callable[[Array], Array] = relu
    dropout: float = 0.0
    momentum: float = 0.9
    epsilon: float = 1e-5


class MobileNet(Model):
    """A MobileNet with four stages.

    Taps: `stem` (after its activation); `stageK`, K = 1 ... 4, the output of the last block
    before the resolution is halved, or before the last convolution. These are linear
    bottlenecks, so that `stageK_pre` is the same array. For V2 they are the ends of the groups
    with 24, 32, 96 and 320 channels (before the width multiplier), as in RepDistiller.
    `pre_pool` is the last convolution, `pre_logits` its mean; in V3 there is no `pre_pool`, and
    `pre_logits` is the hidden layer after the mean.

    All but RepDistiller's network have dropout before the classifier. It is active in training
    if `apply` is given `rngs={"dropout": key}`.
    """

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        plan = self.plan()
        norm = partial(self.batch_norm(train), momentum=plan.momentum, epsilon=plan.epsilon)
        names, width, stride = plan.stem
        x = self.check_images(images)
        x = plan.activation(self.conv_norm(x, norm, names, width, 3, stride=stride))
        taps = {"stem": x}
        for stage, blocks in enumerate(plan.stages, start=1):
            for block in blocks:
                x = self._inverted_residual(x, block, norm)
            taps |= {f"stage{stage}_pre": x, f"stage{stage}": x}
        names, width = plan.last
        last = plan.activation(self.conv_norm(x, norm, names, width, 1))
        x = global_average_pool(last)
        if plan.hidden:
            name, width = plan.hidden
            x = plan.activation(self.dense(x, width, name=name, **_LINEAR))
        else:
            taps["pre_pool"] = last
        taps["pre_logits"] = x
        x = self.drop(x, plan.dropout, train)
        return Outputs(self.classifier(x, name=plan.head, **_LINEAR), taps)

    def plan(self) -> Plan:
        """The plan of the network's layers."""
        raise NotImplementedError

    def _inverted_residual(self, x: Array, block: Block, norm: Callable[..., Any]) -> Array:
        y = x
        if block.expand:
            y = block.activation(self.conv_norm(y, norm, block.expand, block.expanded, 1))
        y = self.conv_norm(
            y,
            norm,
            block.depthwise,
            block.expanded,
            block.kernel,
            stride=block.stride,
            feature_group_count=block.expanded,
        )
        y = block.activation(y)
        if block.squeeze:
            y = y * self._excitation(y, block.squeeze)
        y = self.conv_norm(y, norm, block.project, block.features, 1)
        return x + y if block.stride == 1 and x.shape == y.shape else y

    def _excitation(self, x: Array, name: str) -> Array:
        """The channel weights of squeeze-and-excite, [b, 1, 1, c] in [0, 1]."""
        channels = x.shape[-1]
        scale = global_average_pool(x)[:, None, None, :]
        scale = self.conv(_rounded(channels // 4), 1, use_bias=True, name=f"{name}_fc1")(scale)
        scale = self.conv(channels, 1, use_bias=True, name=f"{name}_fc2")(relu(scale))
        return jax.nn.hard_sigmoid(scale)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and at least 90 % of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


# Table 2 of the V2 paper, with the strides of both code bases for small images: expansion,
# channels, number of blocks, stride of the first block.
_V2_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _v2_stages(
    stem: int,
    width: Callable[[int], int],
    block: Callable[[int, int, int], partial[Block]],
) -> tuple[tuple[Block, ...], ...]:
    """The four stages of a MobileNet V2.

    Args:
      stem: input channels of the first block.
      width: maps the paper's channels to those of this network.
      block: maps (group, index in the group, expansion) to a partial `Block` that still needs
        its channels and stride.
    """
    groups = []
    channels = stem
    for group, (expansion, features, count, stride) in enumerate(_V2_GROUPS):
        blocks = []
        for index in range(count):
            make = block(group, index, expansion)
            step = stride if index == 0 else 1
            blocks.append(make(expansion * channels, width(features), step))
            channels = width(features)
        groups.append(tuple(blocks))
    return groups[0] + groups[1], groups[2], groups[3] + groups[4], groups[5] + groups[6]


class MobileNetV2Half(MobileNet):
    """RepDistiller's MobileNet V2: ReLU, stem with stride 2, channels rounded down.

    Attributes:
      factor: the width multiplier.
    """

    factor: float = 0.5

    def plan(self) -> Plan:
        def block(group: int, index: int, expansion: int) -> partial[Block]:
            name = f"blocks_{group}_{index}_conv"
            pairs = [(f"{name}_{i}", f"{name}_{i + 1}") for i in (0, 3, 6)]
            return partial(Block, expand=pairs[0], depthwise=pairs[1], project=pairs[2])

        stem = int(32 * self.factor)
        return Plan(
            stem=(("conv1_0", "conv1_1"), stem, 2),
            stages=_v2_stages(stem, lambda channels: int(channels * self.factor), block),
            last=(("conv2_0", "conv2_1"), int(1280 * max(1.0, self.factor))),
            head="classifier_0",
        )


class MobileNetV2(MobileNet):
    """pytorch-cifar-models' MobileNet V2: ReLU6, stem with stride 1, multiples of 8 channels.

    Attributes:
      factor: the width multiplier.
    """

    factor: float = 1.0

    def plan(self) -> Plan:
        def block(group: int, index: int, expansion: int) -> partial[Block]:
            # Stem, blocks and last convolution are numbered consecutively.
            number = 1 + sum(count for _, _, count, _ in _V2_GROUPS[:group]) + index
            name = f"features_{number}_conv"
            pairs = [(f"{name}_{i}_0", f"{name}_{i}_1") for i in (0, 1)]
            last = 2 if expansion > 1 else 1
            return partial(
                Block,
                expand=pairs[0] if expansion > 1 else None,
                depthwise=pairs[last - 1],
                project=(f"{name}_{last}", f"{name}_{last + 1}"),
                activation=nn.relu6,
            )

        stem = _rounded(32 * self.factor)
        return Plan(
            stem=(("features_0_0", "features_0_1"), stem, 1),
            stages=_v2_stages(stem, lambda channels: _rounded(channels * self.factor), block),
            last=(("features_18_0", "features_18_1"), _rounded(1280 * max(1.0, self.factor))),
            head="classifier_1",
            activation=nn.relu6,
            dropout=0.2,
        )


# Table 2 of the V3 paper: kernel, expanded, features, squeeze-and-excite, activation, stride.
_V3_SMALL = (
    ((3, 16, 16, True, relu, 2),),
    ((3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1)),
    (
        (5, 96, 40, True, nn.hard_swish, 2),
        (5, 240, 40, True, nn.hard_swish, 1),
        (5, 240, 40, True, nn.hard_swish, 1),
        (5, 120, 48, True, nn.hard_swish, 1),
        (5, 144, 48, True, nn.hard_swish, 1),
    ),
    (
        (5, 288, 96, True, nn.hard_swish, 2),
        (5, 576, 96, True, nn.hard_swish, 1),
        (5, 576, 96, True, nn.hard_swish, 1),
    ),
)


class MobileNetV3Small(MobileNet):
    """torchvision's MobileNet V3 small.

    Attributes:
      stem: "imagenet", or "cifar" for stride 1 in the stem and the first block, so that a 32x32
        image ends as a 4x4 instead of a 1x1 map. Both have the same weights.
    """

    stem: str = "imagenet"

    def plan(self) -> Plan:
        if self.stem not in ("imagenet", "cifar"):
            raise UserError(f"unknown stem={self.stem!r}: choose 'imagenet' or 'cifar'")
        first_stride = 2 if self.stem == "imagenet" else 1
        stages = []
        channels, number = 16, 0
        for rows in _V3_SMALL:
            stage = []
            for kernel, expanded, features, squeeze, activation, stride in rows:
                number += 1
                # A block's parts are numbered consecutively, without the absent ones.
                parts = ["expand"] * (expanded != channels) + ["depthwise"]
                parts += ["squeeze"] * squeeze + ["project"]
                name = {part: f"features_{number}_block_{i}" for i, part in enumerate(parts)}
                pair = {part: (f"{prefix}_0", f"{prefix}_1") for part, prefix in name.items()}
                stage.append(
                    Block(
                        expanded=expanded,
                        features=features,
                        stride=first_stride if number == 1 else stride,
                        expand=pair.get("expand"),
                        depthwise=pair["depthwise"],
                        project=pair["project"],
                        kernel=kernel,
                        activation=activation,
                        squeeze=name.get("squeeze"),
                    )
                )
                channels = features
            stages.append(tuple(stage))
        return Plan(
            stem=(("features_0_0", "features_0_1"), 16, first_stride),
            stages=tuple(stages),
            last=(("features_12_0", "features_12_1"), 576),
            head="classifier_3",
            hidden=("classifier_0", 1024),
            activation=nn.hard_swish,
            dropout=0.2,
            momentum=0.99,
            epsilon=1e-3,
        )


# Table 1 of the V1 paper, cut as ReviewKD taps it: channels and stride of each block.
_V1_STAGES = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)


class MobileNetV1(Model):
    """The MobileNet of depthwise separable convolutions, without shortcuts, for large images.

    Taps: `stem` (after its ReLU); for K = 1 ... 4, `stageK_pre` and `stageK`, the last 1x1
    convolution of a resolution before and after its ReLU, with 128, 256, 512 and 1024 channels;
    `pre_pool` (the last stage) and `pre_logits` (its mean). The first stage halves the resolution
    of the stem, which has half that of the images.
    """

    kernel_init = staticmethod(uniform_fan_in_kernel)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        x = self.check_images(images)
        x = relu(self.conv_norm(x, norm, ("model_0_0", "model_0_1"), 32, 3, stride=2))
        taps = {"stem": x}
        number = 0
        for stage, blocks in enumerate(_V1_STAGES, start=1):
            for features, stride in blocks:
                number += 1
                depthwise, pointwise = (
                    (f"model_{number}_{i}", f"model_{number}_{i + 1}") for i in (0, 3)
                )
                c = x.shape[-1]
                x = self.conv_norm(x, norm, depthwise, c, 3, stride=stride, feature_group_count=c)
                pre = self.conv_norm(relu(x), norm, pointwise, features, 1)
                x = relu(pre)
            taps |= {f"stage{stage}_pre": pre, f"stage{stage}": x}
        taps |= {"pre_pool": x, "pre_logits": global_average_pool(x)}
        return Outputs(self.classifier(taps["pre_logits"], name="fc"), taps)


MODELS: dict[str, Callable[..., Model]] = {
    "mobilenetv1": MobileNetV1,
    "mobilenetv2_half": MobileNetV2Half,
    "mobilenetv2_x0_5": partial(MobileNetV2, factor=0.5),
    "mobilenetv2_x0_75": partial(MobileNetV2, factor=0.75),
    "mobilenetv2_x1_0": partial(MobileNetV2, factor=1.0),
    "mobilenetv2_x1_4": partial(MobileNetV2, factor=1.4),
    "mobilenetv3_small": MobileNetV3Small,
}
