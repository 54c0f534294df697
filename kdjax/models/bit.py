"""BiT: pre-activation ResNets with group norm and standardised weights (Kolesnikov et al. 2020).

The networks of "Big Transfer (BiT)", as in google-research/big_transfer (`bit_pytorch/models.py`),
which Beyer et al. 2022 distil. Submodules are named as there. Pixels are expected in [-1, 1], so
that mean and std are 0.5.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.batch_norm import FOLDED
from kdjax.models.convolution import convolve
from kdjax.models.layers import Model, global_average_pool, relu
from kdjax.types import Array, Outputs

_GROUPS = 32
_UNIT = (r"^body_(block\d+)_(unit\d+)_", r"\1/\2/")
# Names of arrays in the files of google-research/big_transfer.
_BIG_TRANSFER = (
    (r"^root_conv/", "root_block/standardized_conv2d/"),
    (r"^head_conv/", "head/conv2d/"),
    (r"^head_gn/", "group_norm/"),
    _UNIT,
    ("/downsample/", "/a/proj/standardized_conv2d/"),
    *((f"/conv{i}/", f"/{part}/standardized_conv2d/") for i, part in enumerate("abc", 1)),
    *((f"/gn{i}/", f"/{part}/group_norm/") for i, part in enumerate("abc", 1)),
    ("group_norm/scale$", "group_norm/gamma"),
    ("group_norm/bias$", "group_norm/beta"),
    ("^", "resnet/"),
)
# Those of google-research/big_vision (`models/bit_paper.py`).
_BIG_VISION = (
    (r"^root_conv/", "root_block/conv_root/"),
    (r"^head_conv/", "head/"),
    (r"^head_gn/", "norm-pre-head/"),
    _UNIT,
    ("/downsample/", "/conv_proj/"),
)
# Beside the variance of a kernel; that of group norm is 1e-5.
_EPSILON = 1e-10


class StandardizedConv(nn.Module):
    """A square convolution whose kernel has mean 0 and variance 1 for each output channel.

    Mean and biased variance are those of the kernel as it is used, over height, width and input
    channels (Qiao et al. 2019), in float32. Padded by half the kernel size on all sides.

    Attributes:
      features: channels of the output.
      size: height and width of the kernel.
      stride: stride in both dimensions.
      dtype: dtype of the computation.
    """

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h', w', features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        raw = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.has_variable(FOLDED, "kernel"):
            kernel: Any = self.get_variable(FOLDED, "kernel")
        else:
            centred = raw - jnp.mean(raw, axis=(0, 1, 2), keepdims=True)
            variance = jnp.mean(jnp.square(centred), axis=(0, 1, 2), keepdims=True)
            kernel = (centred * jax.lax.rsqrt(variance + _EPSILON)).astype(self.dtype)
            if self.is_mutable_collection(FOLDED) and not self.is_initializing():
                self.put_variable(FOLDED, "kernel", kernel)
        return convolve(
            x.astype(self.dtype), kernel, (self.stride, self.stride),
            [(self.size // 2, self.size // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip


class BiT(Model):
    """A ResNet v2 of four stages of bottlenecks, each after a group norm and a ReLU.

    The stem is a 7x7 convolution with stride 2 and a 3x3 max pool with stride 2. The pool's padding
    is zeros, as in big_transfer; big_vision's `bit_paper.py` pads with minus infinity. Shortcuts
    where the shape changes are convolutions of the activated input; the stride is in the 3x3
    convolution. The classifier starts at zero.

    Taps: `stem` and `stageK` are the pooled convolution and the residual sums that the network
    passes on, without activation; `stageK_pre` is stage K after the following norm and before its
    ReLU; `pre_pool` is the last stage after norm and ReLU, `pre_logits` its mean.

    Attributes:
      blocks: number of bottlenecks per stage.
      width: channels of the stem and inside the first stage, a multiple of 32. They double with
        each stage, and a stage's output has four times as many.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    npz_layouts = (_BIG_TRANSFER, _BIG_VISION)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        x = self._standardized(self.width, 7, "root_conv", stride=2)(self.check_images(images))
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.max_pool(padded, (3, 3), (2, 2))
        taps = {"stem": x}
        for stage, blocks in enumerate(self.blocks, start=1):
            for block in range(1, blocks + 1):
                name = f"body_block{stage}_unit{block:02d}"
                normed = self._norm(f"{name}_gn1")(x)
                if stage > 1 and block == 1:
                    taps[f"stage{stage - 1}_pre"] = normed
                stride = 2 if stage > 1 and block == 1 else 1
                x = self._block(x, relu(normed), self.width * 2 ** (stage - 1), stride, name)
            taps[f"stage{stage}"] = x
        taps[f"stage{len(self.blocks)}_pre"] = normed = self._norm("head_gn")(x)
        taps["pre_pool"] = relu(normed)
        taps["pre_logits"] = global_average_pool(taps["pre_pool"])
        zeros = {"kernel_init": nn.initializers.zeros, "bias_init": nn.initializers.zeros}
        return Outputs(self.classifier(taps["pre_logits"], name="head_conv", **zeros), taps)

    def _standardized(
        self, features: int, size: int, name: str, *, stride: int = 1
    ) -> StandardizedConv:
        return StandardizedConv(features, size, stride, self.dtype, name=name)

    def _norm(self, name: str) -> nn.GroupNorm:
        # The fast variance is a difference of two large numbers where a group's mean is large.
        return nn.GroupNorm(
            _GROUPS, epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name
        )

    def _block(self, x: Array, activated: Array, width: int, stride: int, name: str) -> Array:
        """The residual sum of a bottleneck, whose first norm and ReLU have been applied."""
        y = self._standardized(width, 1, f"{name}_conv1")(activated)
        y = relu(self._norm(f"{name}_gn2")(y))
        y = self._standardized(width, 3, f"{name}_conv2", stride=stride)(y)
        y = relu(self._norm(f"{name}_gn3")(y))
        y = self._standardized(4 * width, 1, f"{name}_conv3")(y)
        if x.shape != y.shape:
            shortcut = self._standardized(4 * width, 1, f"{name}_downsample", stride=stride)
            x = shortcut(activated)
        return x + y


# Bottlenecks per stage by depth. A name is of the depth and of the factor of the width.
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
MODELS: dict[str, Callable[..., Model]] = {
    f"bit_r{depth}x{factor}": partial(BiT, blocks=_BLOCKS[depth], width=64 * factor)
    for depth, factor in ((50, 1), (101, 1), (152, 2))
}
