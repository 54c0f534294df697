"""The generators of zero-shot knowledge transfer (Micaelli & Storkey 2019, appendix) and of DFQ.

As in ZeroShotKnowledgeTransfer's and zju-vipa/CMI's `models/generator.py`, but for images of any
height and width that are multiples of 4; the originals generate 32x32x3.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models.layers import Layers, uniform_fan_in, uniform_fan_in_kernel
from kdjax.types import Array, UserError


class Generator(Layers):
    """Maps latents [b, latent_dim] to float32 images `[b, *image_shape]`.

    The images are in the space of normalised images, and the last layer is a batch norm, so that
    their values are unbounded. With `sigmoid` they are pixels in [0, 1].

    Attributes:
      image_shape: height, width and channels; height and width are multiples of 4.
      latent_dim: dimensions of the latents.
      features: channels of the first feature map: 128, or 256 in CMI's `LargeGenerator`, which is
        that of its DFQ.
      sigmoid: whether the last layer is a sigmoid, as in CMI, where convolutions before a batch
        norm have no bias.
      spectral_norm: whether to divide the kernel of each convolution by its largest singular
        value (Miyato et al. 2018), with one power iteration per call in training. The original
        has no spectral norm.
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    latent_dim: int = 100
    features: int = 128
    sigmoid: bool = False
    spectral_norm: bool = False

    kernel_init = staticmethod(uniform_fan_in_kernel)

    def example(self, resolution: int = 32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, self.latent_dim), jnp.float32)

    @nn.compact
    def __call__(self, latents: Array, train: bool = False) -> Array:
        """Generates images.

        Raises:
          UserError: if height or width of the images is not a multiple of 4, or if the latents
            are not [b, latent_dim].
        """
        height, width, channels = self.image_shape
        if height % 4 or width % 4 or min(self.image_shape) < 1:
            raise UserError(
                f"image_shape={tuple(self.image_shape)}: height and width must be multiples of 4"
            )
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise UserError(
                f"latents have shape {tuple(latents.shape)}; "
                f"the generator takes [batch, {self.latent_dim}]"
            )
        norm = self.batch_norm(train)
        height, width = height // 4, width // 4
        first = self.features * height * width
        x = self.dense(latents.astype(self.dtype), first, name="layers_0")
        # In PyTorch the outputs of the linear layer are laid out channels first.
        x = x.reshape(-1, self.features, height, width).transpose(0, 2, 3, 1)
        x = norm(name="layers_2")(x)
        for features, index in [(128, 4), (64, 8)]:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = self._conv(x, features, f"layers_{index}", train, use_bias=not self.sigmoid)
            x = nn.leaky_relu(norm(name=f"layers_{index + 1}")(x), 0.2)
        images: Array = self._conv(x, channels, "layers_11", train)
        if self.sigmoid:
            return nn.sigmoid(images.astype(jnp.float32))
        return norm(name="layers_12")(images).astype(jnp.float32)

    def _conv(
        self, x: Array, features: int, name: str, train: bool, *, use_bias: bool = True
    ) -> Array:
        bias_init = uniform_fan_in(9 * x.shape[-1])
        conv = self.conv(features, 3, use_bias=use_bias, bias_init=bias_init, name=name)
        if self.spectral_norm:
            y: Array = nn.SpectralNorm(conv, name=f"{name}_spectral")(x, update_stats=train)
            return y
        return conv(x)


MODELS: dict[str, Callable[..., Layers]] = {"generator": Generator}
