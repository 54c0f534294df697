"""MobileNet V1 with a state dict as ReviewKD and mdistiller name it, against NumPy."""

import jax
import numpy as np
import pytest

from kdjax import UserError, models, torch_import

# Channels and stride of each block, as both list them.
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
BLOCKS += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]


def random_state_dict(classes):
    rng = np.random.default_rng(0)
    arrays = {}

    def conv_norm(block, number, *shape):
        fan_in = np.prod(shape[1:])
        arrays[f"model.{block}.{number}.weight"] = rng.normal(0, (2 / fan_in) ** 0.5, shape)
        norm = f"model.{block}.{number + 1}"
        arrays[f"{norm}.weight"] = rng.uniform(0.5, 1.5, shape[0])
        arrays[f"{norm}.bias"] = rng.normal(0, 0.3, shape[0])
        arrays[f"{norm}.running_mean"] = rng.normal(0, 0.3, shape[0])
        arrays[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0])
        arrays[f"{norm}.num_batches_tracked"] = np.array(7)

    conv_norm(0, 0, 32, 3, 3, 3)
    c = 32
    for block, (features, _) in enumerate(BLOCKS, start=1):
        conv_norm(block, 0, c, 1, 3, 3)
        conv_norm(block, 3, features, c, 1, 1)
        c = features
    arrays["fc.weight"] = rng.normal(0, c**-0.5, (classes, c))
    arrays["fc.bias"] = rng.normal(0, 0.3, classes)
    return {key: np.asarray(value, np.float32) for key, value in arrays.items()}


def outputs(arrays, x):
    """Logits and the last map of each resolution before its ReLU, by layers of [b, c, h, w]."""

    def layer(x, block, number, stride=1):
        w = np.float64(arrays[f"model.{block}.{number}.weight"])
        side = w.shape[-1]
        x = np.pad(x, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        depthwise = w.shape[1] == 1 and side == 3
        equation = "bchwij,cij->bchw" if depthwise else "bchwij,ocij->bohw"
        y = np.einsum(equation, windows, w[:, 0] if depthwise else w, optimize=True)
        scale, bias, mean, var = (
            np.float64(arrays[f"model.{block}.{number + 1}.{leaf}"])[:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = np.maximum(layer(x, 0, 0, 2), 0)
    maps = {}
    for block, (_, stride) in enumerate(BLOCKS, start=1):
        x = np.maximum(layer(x, block, 0, stride), 0)
        maps[block] = layer(x, block, 3)
        x = np.maximum(maps[block], 0)
    pooled = x.mean((2, 3))
    return pooled @ arrays["fc.weight"].T + arrays["fc.bias"], [maps[i] for i in (3, 5, 11, 13)]


def test_logits_and_taps_equal_those_of_numpy():
    arrays = random_state_dict(classes=6)
    images = np.random.default_rng(1).normal(size=(1, 33, 20, 3)).astype(np.float32)
    variables = torch_import.convert("mobilenetv1", arrays, num_classes=6)
    found = jax.jit(models.create("mobilenetv1", num_classes=6).apply)(variables, images)
    expected, maps = outputs(arrays, np.float64(images).transpose(0, 3, 1, 2))
    assert np.abs(found.logits - expected).max() <= 1e-5 * np.abs(expected).max()
    for stage, one in enumerate(maps, start=1):
        ours = np.asarray(found.taps[f"stage{stage}_pre"]).transpose(0, 3, 1, 2)
        assert np.abs(ours - one).max() <= 1e-5 * np.abs(one).max()


def test_mobilenetv1_needs_all_its_arrays():
    arrays = random_state_dict(classes=6)
    del arrays["model.13.3.weight"]
    with pytest.raises(UserError, match=r"missing: model\.13\.3\.weight"):
        torch_import.convert("mobilenetv1", arrays, num_classes=6)
