"""Pre-activation residual networks (He et al. 2016, "Identity mappings").

`wrn_*` are the wide residual networks of Zagoruyko & Komodakis (2016), as in RepDistiller;
`preresnet*` are the networks of Stanton et al. (2021), "Does knowledge distillation really
work?" (samuelstanton/gnosis, `models/preresnet.py`).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax

from kdjax.models.layers import Model, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs, UserError

NORMS = ("batch", "layer")


class WideResNet(Model):
    """A pre-activation ResNet, widened by a factor of `width`.

    It has `6 * blocks + 4` layers with basic blocks, `9 * blocks + 2` with bottlenecks.

    Taps: `stem` and `stageK` are the convolution and the residual sums that the network passes
    on, without activation; `stageK_pre` is stage K after the following norm and before its
    ReLU; `pre_pool` is the last stage after norm and ReLU, `pre_logits` its mean.

    Where the shape changes, a 1x1 convolution replaces the identity shortcut. In the paper and
    most code its input is the activated input of the block (`convShortcut`); in the
    reproduction of the zero-shot paper (SZamboni/advanceddeep) it is the raw input
    (`shortcut.0`). Because that reproduction's files are distributed as plain WRNs, variables
    with `shortcut_0` are always applied to the raw input, whatever the value of `raw_shortcut`.

    Attributes:
      blocks: residual blocks per stage.
      width: the widening factor.
      raw_shortcut: whether to initialise `shortcut_0`, applied to the raw input.
      last_momentum: momentum of the last batch norm, as defined by Flax: 0.1 in that
        reproduction, which passes 0.9 as PyTorch's momentum.
      pytorch_init: whether all layers are initialised by PyTorch's default, as in that
        reproduction, and not by the paper's He initialisation with a zero bias.
      bottleneck: whether a block has 1x1, 3x3 and 1x1 instead of two 3x3 convolutions. The last
        one then has four times the channels of the others.
      norm: one of `NORMS`: `batch`, or `layer`, which normalises each image over all positions
        and channels, and neither depends on the batch nor has statistics.
    """

    blocks: int = 1
    width: int = 1
    raw_shortcut: bool = False
    last_momentum: float = 0.9
    pytorch_init: bool = False
    bottleneck: bool = False
    norm: str = "batch"

    # For the files of the CIFAR-10 survey and of the reproduction, which omits `layer`.
    torch_aliases: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^layer(\d)\.(layer\.)?", r"block\1.layer."),
        (r"^linear\.", "fc."),
    )
    # The names of a block, of the shortcut of its raw input, and of the last norm.
    block_name: ClassVar[str] = "block{}_layer_{}"
    raw_shortcut_name: ClassVar[str] = "shortcut_0"
    last_norm: ClassVar[str] = "bn1"

    def variant_for(self, keys: Iterable[str]) -> "WideResNet":
        raw = any("shortcut.0" in key.replace("_", ".") for key in keys)
        return self.clone(raw_shortcut=True) if raw else self

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self._norm(train)
        x = self.conv(16, 3, name="conv1")(self.check_images(images))
        taps = {"stem": x}
        for stage in (1, 2, 3):
            width = 16 * self.width * 2 ** (stage - 1)
            for block in range(self.blocks):
                name = self.block_name.format(stage, block)
                stride = 2 if stage > 1 and block == 0 else 1
                pre = norm(name=f"{name}_bn1")(x)
                if stage > 1 and block == 0:
                    taps[f"stage{stage - 1}_pre"] = pre
                x = self._block(x, relu(pre), width, stride, norm, name)
            taps[f"stage{stage}"] = x
        momentum = {"momentum": self.last_momentum} if self.norm == "batch" else {}
        taps["stage3_pre"] = norm(name=self.last_norm, **momentum)(x)
        taps["pre_pool"] = relu(taps["stage3_pre"])
        taps["pre_logits"] = global_average_pool(taps["pre_pool"])
        return Outputs(self._logits(taps["pre_logits"]), taps)

    def conv(self, features: int, kernel: int, *, stride: int = 1, **kwargs: Any) -> nn.Conv:
        """See `Layers.conv`."""
        if self.pytorch_init:
            kwargs = {"kernel_init": uniform_fan_in_kernel} | kwargs
        return super().conv(features, kernel, stride=stride, **kwargs)

    def _norm(self, train: bool) -> Callable[..., Any]:
        if self.norm not in NORMS:
            raise UserError(f"unknown norm {self.norm!r}: choose from {', '.join(NORMS)}")
        return self.batch_norm(train) if self.norm == "batch" else self.layer_norm()

    def _block(
        self,
        x: Array,
        activated: Array,
        width: int,
        stride: int,
        norm: Callable[..., Any],
        name: str,
    ) -> Array:
        """The residual sum of a block, whose first norm and ReLU have been applied."""
        layers = [(width, 3, stride), (width, 3, 1)]
        if self.bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        y = activated
        for index, (features, kernel, step) in enumerate(layers[:-1], start=1):
            names = (f"{name}_conv{index}", f"{name}_bn{index + 1}")
            y = relu(self.conv_norm(y, norm, names, features, kernel, stride=step))
        features, kernel, step = layers[-1]
        y = self.conv(features, kernel, stride=step, name=f"{name}_conv{len(layers)}")(y)
        if x.shape != y.shape:
            x = self._project(x, activated, y.shape[-1], stride, name)
        return y + x

    def _project(self, raw: Array, activated: Array, width: int, stride: int, name: str) -> Array:
        raw_name = f"{name}_{self.raw_shortcut_name}"
        if self.raw_shortcut or self.has_variable("params", raw_name):
            return self.conv(width, 1, stride=stride, name=raw_name)(raw)
        return self.conv(width, 1, stride=stride, name=f"{name}_convShortcut")(activated)

    def _logits(self, features: Array) -> Array:
        bias = {} if self.pytorch_init else {"bias_init": jax.nn.initializers.zeros}
        return self.classifier(features, name="fc", **bias)


class PreResNet(WideResNet):
    """Stanton et al.'s pre-activation ResNet: shortcuts of the raw input, PyTorch's classifier.

    The layer norm of their experiments on optimisation, `norm="layer"`, is PyTorch's
    `GroupNorm(1, channels)`.
    """

    raw_shortcut: bool = True

    torch_aliases = ()
    block_name = "layer{}_{}"
    raw_shortcut_name = "downsample_0"
    last_norm = "bn"

    def _logits(self, features: Array) -> Array:
        return self.classifier(features, name="fc")


_DEPTHS, _WIDTHS = (10, 16, 22, 28, 34, 40), (1, 2, 3, 4, 6, 8, 10)
MODELS: dict[str, Callable[..., Model]] = {
    **{
        f"wrn_{depth}_{width}": partial(WideResNet, blocks=(depth - 4) // 6, width=width)
        for depth in _DEPTHS
        for width in _WIDTHS
    },
    "preresnet20": partial(PreResNet, blocks=3),
    "preresnet56": partial(PreResNet, blocks=6, bottleneck=True),
    "preresnet110": partial(PreResNet, blocks=12, bottleneck=True),
}
