import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models


def test_the_names_of_the_variables_determine_the_input_of_the_shortcut(compiled, random_variables):
    """The same weights under the reproduction's names give a different function."""
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    model = models.create("wrn_10_1", num_classes=10)
    raw_model = models.create("wrn_10_1", num_classes=10, raw_shortcut=True)
    variables = random_variables(model)
    raw_variables = {
        "params": {
            name.replace("convShortcut", "shortcut_0"): leaf
            for name, leaf in variables["params"].items()
        },
        "batch_stats": variables["batch_stats"],
    }
    raw = compiled(model.apply, raw_variables, images).logits
    same = compiled(raw_model.apply, raw_variables, images).logits
    np.testing.assert_allclose(same, raw, rtol=1e-6)
    assert np.abs(compiled(model.apply, variables, images).logits - raw).max() > 1e-3


@pytest.mark.parametrize("raw_shortcut", [False, True])
def test_names_of_the_shortcuts(raw_shortcut):
    model = models.create("wrn_10_1", num_classes=10, raw_shortcut=raw_shortcut)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), model.example())["params"]
    expected = "shortcut_0" if raw_shortcut else "convShortcut"
    assert [name for name in params if "hortcut" in name] == [
        f"block{stage}_layer_0_{expected}" for stage in (2, 3)
    ]


@pytest.mark.parametrize(
    ("key", "raw_shortcut"),
    [
        ("block2.0.shortcut.0.weight", True),
        (".params['block2_layer_0_shortcut_0']['kernel']", True),
        ("block2.layer.0.convShortcut.weight", False),
        (".params['block2_layer_0_convShortcut']['kernel']", False),
    ],
)
def test_variant_for_keys(key, raw_shortcut):
    """Keys of a state dict and paths of a checkpoint."""
    model = models.create("wrn_10_1", num_classes=10)
    assert model.variant_for(["conv1.weight", key]).raw_shortcut == raw_shortcut


@pytest.mark.parametrize("momentum", [0.9, 0.1])
def test_momentum_of_the_last_batch_norm(momentum):
    model = models.create("wrn_10_1", num_classes=3, in_channels=1, last_momentum=momentum)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    outputs, updates = jax.jit(
        lambda v: model.apply(v, images, train=True, mutable=["batch_stats"])
    )(variables)
    mean = outputs.taps["stage3"].mean((0, 1, 2))
    np.testing.assert_allclose(
        updates["batch_stats"]["bn1"]["mean"], (1 - momentum) * mean, rtol=1e-4, atol=1e-5
    )


def test_with_layer_norm_an_image_does_not_depend_on_its_batch(compiled, random_variables):
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

    def difference(norm):
        """Of the logits of two images in training mode, from those in a batch with two others."""
        model = models.create("preresnet56", num_classes=10, blocks=1, norm=norm)
        variables = random_variables(model)

        def logits(variables, images):
            return model.apply(variables, images, train=True, mutable=["batch_stats"])[0].logits

        two, four = (compiled(logits, variables, x) for x in (images[:2], images))
        return np.abs(two - four[:2]).max() / np.abs(four).max()

    assert difference("layer") < 1e-5
    assert difference("batch") > 1e-2


def test_layer_norm_is_over_positions_and_channels(compiled, random_variables):
    model = models.create("preresnet20", num_classes=10, blocks=1, norm="layer")
    variables = random_variables(model)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    taps = compiled(model.apply, variables, images).taps
    for tap, name in {"stage1": "layer2_0_bn1", "stage2": "layer3_0_bn1", "stage3": "bn"}.items():
        x, norm = np.asarray(taps[tap], np.float64), variables["params"][name]
        mean, variance = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
        normalised = (x - mean) / np.sqrt(variance + 1e-5)
        expected = normalised * norm["scale"].reshape(1, 1, 1, -1)
        expected += norm["bias"].reshape(1, 1, 1, -1)
        np.testing.assert_allclose(taps[f"{tap}_pre"], expected, rtol=1e-4, atol=1e-5)


def test_initialisation_as_in_the_paper_and_as_pytorch_does_by_default():
    """Standard deviations: He's over the outputs, or that of U(-1/sqrt(n), 1/sqrt(n))."""
    for pytorch_init in (False, True):
        model = models.create("wrn_10_2", num_classes=10, pytorch_init=pytorch_init)
        params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
        for name, layer in params.items():
            if "kernel" not in layer:
                continue
            kernel = np.asarray(layer["kernel"])
            fan_in = kernel[..., 0].size
            bound = fan_in**-0.5
            if pytorch_init or name == "fc":
                assert 0.9 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
                wanted = bound / 3**0.5
            else:
                wanted = (2 / kernel[..., 0, :].size) ** 0.5
            assert kernel.std() == pytest.approx(wanted, rel=0.1)
        bias = np.asarray(params["fc"]["bias"])
        assert np.any(bias != 0) == pytorch_init
        assert np.abs(bias).max() <= 128**-0.5
