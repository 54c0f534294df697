"""BiT's published files with random weights, and its logits by NumPy alone."""

import numpy as np

# A network with a bottleneck of each kind: with and without a stride and a shortcut's convolution.
MODEL = "kdjax.models.bit:BiT"
BLOCKS, WIDTH, CLASSES = (1, 2), 32, 5
OPTIONS = {"blocks": BLOCKS, "width": WIDTH}


def published(seed=0):
    """Arrays by the names of google-research/big_transfer, random, no group norm an identity."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def kernel(name, *shape):
        # Neither the mean nor the deviation is that of a standardised kernel.
        arrays[f"resnet/{name}/kernel"] = rng.normal(0.3, 0.2, shape).astype(np.float32)

    def norm(name, channels):
        for leaf, mean in (("gamma", 1.0), ("beta", 0.0)):
            values = rng.normal(mean, 0.3, channels).astype(np.float32)
            arrays[f"resnet/{name}/{leaf}"] = values

    kernel("root_block/standardized_conv2d", 7, 7, 3, WIDTH)
    c = WIDTH
    for stage, units in enumerate(BLOCKS, start=1):
        inner = WIDTH * 2 ** (stage - 1)
        for unit in range(1, units + 1):
            name = f"block{stage}/unit{unit:02d}"
            sizes = {"a": (1, c, inner), "b": (3, inner, inner), "c": (1, inner, 4 * inner)}
            for part, (side, given, made) in sizes.items():
                norm(f"{name}/{part}/group_norm", given)
                kernel(f"{name}/{part}/standardized_conv2d", side, side, given, made)
            if unit == 1:
                kernel(f"{name}/a/proj/standardized_conv2d", 1, 1, c, 4 * inner)
            c = 4 * inner
    norm("group_norm", c)
    kernel("head/conv2d", 1, 1, c, CLASSES)
    arrays["resnet/head/conv2d/bias"] = rng.normal(0, 0.5, CLASSES).astype(np.float32)
    return arrays


def logits(arrays, images):
    """Logits [b, k] of images [b, h, w, 3], in float64."""
    weights = {key.removeprefix("resnet/"): np.float64(value) for key, value in arrays.items()}

    def conv(x, name, stride=1):
        w = weights[f"{name}/standardized_conv2d/kernel"]
        w = (w - w.mean((0, 1, 2))) / np.sqrt(w.var((0, 1, 2)) + 1e-10)
        side = len(w)
        x = _zero_padded(x, side // 2)
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], w, optimize=True)

    def norm_relu(x, name):
        b, h, w, c = x.shape
        groups = x.reshape(b, h, w, 32, c // 32)
        mean = groups.mean((1, 2, 4), keepdims=True)
        variance = groups.var((1, 2, 4), keepdims=True)
        y = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        y = y * weights[f"{name}/group_norm/gamma"] + weights[f"{name}/group_norm/beta"]
        return np.maximum(y, 0)

    x = _zero_padded(conv(np.float64(images), "root_block", 2), 1)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))
    for stage, units in enumerate(BLOCKS, start=1):
        for unit in range(1, units + 1):
            name = f"block{stage}/unit{unit:02d}"
            stride = 2 if stage > 1 and unit == 1 else 1
            activated = norm_relu(x, f"{name}/a")
            y = norm_relu(conv(activated, f"{name}/a"), f"{name}/b")
            y = norm_relu(conv(y, f"{name}/b", stride), f"{name}/c")
            shortcut = conv(activated, f"{name}/a/proj", stride) if unit == 1 else x
            x = conv(y, f"{name}/c") + shortcut
    head = weights["group_norm/gamma"], weights["group_norm/beta"]
    weights["last/group_norm/gamma"], weights["last/group_norm/beta"] = head
    pooled = norm_relu(x, "last").mean((1, 2))
    return pooled @ weights["head/conv2d/kernel"][0, 0] + weights["head/conv2d/bias"]


def _zero_padded(x, by):
    return np.pad(x, ((0, 0), (by, by), (by, by), (0, 0)))
