"""Wide residual networks (Zagoruyko & Komodakis 2016), as in RepDistiller."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from kdjax.models.layers import Model, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs


class WideResNet(Model):
    """A pre-activation ResNet with `6 * blocks + 4` layers, widened by a factor of `width`.

    Taps: `stem` and `stageK` are the convolution and the residual sums that the network passes
    on, without activation; `stageK_pre` is stage K after the following batch norm and before
    its ReLU; `pre_logits` is the pooled last stage after norm and ReLU.

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
    """

    blocks: int = 1
    width: int = 1
    raw_shortcut: bool = False
    last_momentum: float = 0.9
    pytorch_init: bool = False

    # For the files of the CIFAR-10 survey and of the reproduction, which omits `layer`.
    torch_aliases = ((r"^layer(\d)\.(layer\.)?", r"block\1.layer."), (r"^linear\.", "fc."))

    def variant_for(self, keys: Iterable[str]) -> "WideResNet":
        raw = any("shortcut.0" in key.replace("_", ".") for key in keys)
        return self.clone(raw_shortcut=True) if raw else self

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        norm = self.batch_norm(train)
        x = self.conv(16, 3, name="conv1")(self.check_images(images))
        taps = {"stem": x}
        for stage in (1, 2, 3):
            width = 16 * self.width * 2 ** (stage - 1)
            for block in range(self.blocks):
                name = f"block{stage}_layer_{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                pre = norm(name=f"{name}_bn1")(x)
                if stage > 1 and block == 0:
                    taps[f"stage{stage - 1}_pre"] = pre
                y = relu(pre)
                z = self.conv(width, 3, stride=stride, name=f"{name}_conv1")(y)
                z = relu(norm(name=f"{name}_bn2")(z))
                z = self.conv(width, 3, name=f"{name}_conv2")(z)
                x = z + (x if x.shape == z.shape else self._project(x, y, width, stride, name))
            taps[f"stage{stage}"] = x
        taps["stage3_pre"] = norm(name="bn1", momentum=self.last_momentum)(x)
        taps["pre_logits"] = global_average_pool(relu(taps["stage3_pre"]))
        bias = {} if self.pytorch_init else {"bias_init": jax.nn.initializers.zeros}
        logits = self.classifier(taps["pre_logits"], name="fc", **bias)
        return Outputs(logits, taps)

    def conv(self, features: int, kernel: int, *, stride: int = 1, **kwargs: Any) -> nn.Conv:
        """See `Layers.conv`."""
        if self.pytorch_init:
            kwargs = {"kernel_init": uniform_fan_in_kernel} | kwargs
        return super().conv(features, kernel, stride=stride, **kwargs)

    def _project(self, raw: Array, activated: Array, width: int, stride: int, name: str) -> Array:
        raw_name = f"{name}_shortcut_0"
        if self.raw_shortcut or self.has_variable("params", raw_name):
            return self.conv(width, 1, stride=stride, name=raw_name)(raw)
        return self.conv(width, 1, stride=stride, name=f"{name}_convShortcut")(activated)


_DEPTHS, _WIDTHS = (10, 16, 22, 28, 40), (1, 2, 3, 4, 6, 8, 10)
MODELS: dict[str, Callable[..., Model]] = {
    f"wrn_{depth}_{width}": partial(WideResNet, blocks=(depth - 4) // 6, width=width)
    for depth in _DEPTHS
    for width in _WIDTHS
}
