"""VGG (Simonyan & Zisserman 2015), in three published forms.

`vgg{8,11,13,16,19}` are RepDistiller's and `vgg{11,13,16,19}_bn` are those of chenyaofo's
pytorch-cifar-models, both with batch norm; `vgg{11,13,16,19}_plain` are without it, as in
samuelstanton/gnosis. They have the same convolutions and different classifiers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax

from kdjax.models.layers import Model, global_average_pool, max_pool, relu
from kdjax.types import Array, Outputs

_WIDTHS = (64, 128, 256, 512, 512)
_LINEAR = {
    "kernel_init": jax.nn.initializers.normal(0.01),
    "bias_init": jax.nn.initializers.zeros,
}


class VGG(Model):
    """RepDistiller's VGG: five groups of 3x3 convolutions and one linear layer.

    Taps: `stem` is the first group after its last ReLU; `stageK_pre` and `stageK`, K = 1 ... 4,
    are group K + 1 before and after its last ReLU; all are taken before the max pool.
    `pre_pool` is the last group, `pre_logits` its mean.

    A max pool follows each of the first three groups, and the fourth only if images are 64
    pixels high, as in the original. Images must be at least 8x8.

    Attributes:
      blocks: number of convolutions per group.
    """

    blocks: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)

    min_size: ClassVar[int] = 8
    linear: ClassVar[Mapping[str, Any]] = _LINEAR

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        x = self.check_images(images, at_least=self.min_size)
        taps: dict[str, Array] = {}
        for group, (convs, width) in enumerate(zip(self.blocks, _WIDTHS, strict=True)):
            if group in self._pooled(images.shape[1]):
                x = max_pool(x)
            for conv in range(convs):
                pre = self._convolve(x, width, group, conv, train)
                x = relu(pre)
            taps |= {f"stage{group}_pre": pre, f"stage{group}": x} if group else {"stem": x}
        taps |= self._embed(x, train)
        return Outputs(self.classifier(taps["pre_logits"], name=self._head(), **self.linear), taps)

    def _pooled(self, height: int) -> tuple[int, ...]:
        """The indices of the groups whose input is max-pooled."""
        return (1, 2, 3, 4) if height == 64 else (1, 2, 3)

    def _convolve(self, x: Array, width: int, group: int, conv: int, train: bool) -> Array:
        """Applies a convolution and its norm, the `conv`-th of a group."""
        names = self._names(group, conv)
        return self.conv_norm(x, self.batch_norm(train), names, width, 3, use_bias=True)

    def _names(self, group: int, conv: int) -> tuple[str, str]:
        """The names of a convolution and its norm; the ReLU has the third index."""
        return f"block{group}_{3 * conv}", f"block{group}_{3 * conv + 1}"

    def _embed(self, x: Array, train: bool) -> dict[str, Array]:
        """The taps of the last map and of what becomes of it before the classifier."""
        return {"pre_pool": x, "pre_logits": global_average_pool(x)}

    def _head(self) -> str:
        return "classifier"


class VGGHidden(VGG):
    """pytorch-cifar-models' VGG: five max pools and two hidden linear layers.

    The taps are those of `VGG`, except that there is no `pre_pool`, and `pre_logits` is the
    second hidden layer after its ReLU [b, 512]. Dropout with rate 0.5 follows each hidden layer in
    training if `apply` is given `rngs={"dropout": key}`. Images must be at least 32x32; the maps
    of larger images, which the original does not accept, are average-pooled before the hidden
    layers.
    """

    min_size = 32

    def _pooled(self, height: int) -> tuple[int, ...]:
        return (1, 2, 3, 4)

    def _names(self, group: int, conv: int) -> tuple[str, str]:
        # All layers are numbered consecutively: three per convolution, one per pool.
        index = 3 * (sum(self.blocks[:group]) + conv) + group
        return f"features_{index}", f"features_{index + 1}"

    def _embed(self, x: Array, train: bool) -> dict[str, Array]:
        x = global_average_pool(max_pool(x))
        for name in ("classifier_0", "classifier_3"):
            x = self.drop(relu(self.dense(x, 512, name=name, **self.linear)), 0.5, train)
        return {"pre_logits": x}

    def _head(self) -> str:
        return "classifier_6"


class VGGPlain(VGGHidden):
    """Stanton et al.'s (2021) VGG, without batch norm.

    The taps are those of `VGGHidden`. In training, dropout with rate 0.5 precedes each hidden
    layer. The linear layers have PyTorch's default initialisation.
    """

    linear: ClassVar[Mapping[str, Any]] = {}

    def _convolve(self, x: Array, width: int, group: int, conv: int, train: bool) -> Array:
        # All layers are numbered consecutively: two per convolution, one per pool.
        index = 2 * (sum(self.blocks[:group]) + conv) + group
        return self.conv(width, 3, use_bias=True, name=f"features_{index}")(x)

    def _embed(self, x: Array, train: bool) -> dict[str, Array]:
        x = global_average_pool(max_pool(x))
        for name in ("classifier_1", "classifier_4"):
            x = relu(self.dense(self.drop(x, 0.5, train), 512, name=name))
        return {"pre_logits": x}


_BLOCKS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
MODELS: dict[str, Callable[..., Model]] = {
    **{f"vgg{d}": partial(VGG, blocks=blocks) for d, blocks in _BLOCKS.items()},
    **{f"vgg{d}_bn": partial(VGGHidden, blocks=_BLOCKS[d]) for d in (11, 13, 16, 19)},
    **{f"vgg{d}_plain": partial(VGGPlain, blocks=_BLOCKS[d]) for d in (11, 13, 16, 19)},
}
