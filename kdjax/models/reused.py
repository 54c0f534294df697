"""Networks that predict with the classifier of another one (Chen et al. 2022)."""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.models.layers import Layers, Model, global_average_pool, relu, uniform_fan_in_kernel
from kdjax.types import Array, Outputs


class ReusedClassifier(Model, kw_only=True):
    """A student's backbone, a trained projector, and the classifier of its teacher.

    The projector maps the backbone's last stage to the map that the teacher's classifier takes the
    mean of: convolutions of 1x1, 3x3 and 1x1, each with batch norm and a ReLU, the first two of
    them with `features // factor` channels. A stage that is larger than the teacher's map is
    average-pooled before. The classifier is constant: no gradient reaches it.

    Taps: those of the backbone up to its last stage; `projected` and `pre_pool`, the projected
    map; and `pre_logits`, its mean.

    The backbone's own classifier is left out if it is made by `Model.classifier`. Layers between
    its last stage and that, such as the last convolution of a ShuffleNetV2, are kept, and are not
    used, as in the authors' code.

    Attributes:
      backbone: the student.
      features: channels of the teacher's map.
      size: height and width of the teacher's map.
      factor: by which the projector is narrower inside.
    """

    backbone: nn.Module
    features: int
    size: tuple[int, int]
    factor: int = 2

    kernel_init = staticmethod(uniform_fan_in_kernel)

    @classmethod
    def around(cls, backbone: nn.Module, **attributes: Any) -> "ReusedClassifier":
        """The network around a student, with its dtype and the mapped axis of its batch norm."""
        if isinstance(backbone, Layers):
            attributes = {"dtype": backbone.dtype, "axis_name": backbone.axis_name} | attributes
        return cls(backbone=backbone, **attributes)

    @nn.nowrap
    def clone(self, **changes: Any) -> Any:
        """A copy with other attributes; dtype and mapped axis are also those of the backbone."""
        own = {key: changes[key] for key in ("dtype", "axis_name") if key in changes}
        if own and isinstance(self.backbone, Layers):
            changes["backbone"] = self.backbone.clone(**own)
        return super().clone(**changes)

    @nn.nowrap
    def variant_for(self, keys: Iterable[str]) -> "ReusedClassifier":
        if not isinstance(self.backbone, Layers):
            return self
        variant = self.backbone.variant_for(keys)
        return self if variant is self.backbone else self.clone(backbone=variant)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Outputs:
        taps = self._backbone_taps(images, train)
        x = taps[_last_map(taps)]
        smaller = min(x.shape[1], self.size[0]), min(x.shape[2], self.size[1])
        x = losses.adaptive_average_pool(x, smaller)
        inner, norm = max(1, self.features // self.factor), self.batch_norm(train)
        for i, (features, side) in enumerate([(inner, 1), (inner, 3), (self.features, 1)], 1):
            names = (f"projector_conv{i}", f"projector_bn{i}")
            x = relu(self.conv_norm(x, norm, names, features, side))
        taps = {name: tap for name, tap in taps.items() if name not in ("pre_pool", "pre_logits")}
        taps |= {"projected": x, "pre_pool": x, "pre_logits": global_average_pool(x)}
        kernel, bias = self._classifier()
        logits = taps["pre_logits"] @ kernel + bias[None]
        return Outputs(logits.astype(jnp.float32), taps)

    def _backbone_taps(self, images: Array, train: bool) -> dict[str, Array]:
        def without_classifier(
            call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
        ) -> Any:
            # Neither its parameters nor its logits exist.
            left_out = context.method_name == "classifier"
            return args[0] if left_out else call(*args, **kwargs)

        with nn.intercept_methods(without_classifier):
            return dict(self.backbone(images, train=train).taps)

    def _classifier(self) -> tuple[Array, Array]:
        """The teacher's kernel [features, k] and bias [k], zero until they are copied."""

        def zeros(rng: Array) -> dict[str, Array]:
            shape = (self.features, self.num_classes)
            return {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])}

        # The backbone's own, if any, has its own name inside the backbone.
        found = jax.lax.stop_gradient(self.param("teacher_classifier", zeros))
        return found["kernel"].astype(self.dtype), found["bias"].astype(self.dtype)


def _last_map(taps: dict[str, Array]) -> str:
    """The name of the last stage's map; of the last map in a network without stages."""
    maps = [name for name, tap in taps.items() if tap.ndim == 4 and not name.endswith("_pre")]
    numbered = [name for name in maps if name.startswith("stage")]
    return (numbered or maps)[-1]
