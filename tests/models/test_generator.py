import jax
import jax.numpy as jnp
import pytest

from kdjax import UserError, models


@pytest.mark.parametrize("image_shape", [(32, 32, 3), (28, 28, 1), (12, 20, 2)])
def test_shapes_of_images_and_statistics(image_shape):
    generator = models.create("generator", image_shape=image_shape, latent_dim=10)
    latents = jax.ShapeDtypeStruct((5, 10), jnp.float32)
    variables = jax.eval_shape(lambda z: generator.init(jax.random.key(0), z, train=False), latents)
    images, updates = jax.eval_shape(
        lambda v, z: generator.apply(v, z, train=True, mutable=["batch_stats"]), variables, latents
    )
    assert images.shape == (5, *image_shape)
    assert images.dtype == jnp.float32
    assert updates["batch_stats"] == variables["batch_stats"]


def test_bfloat16_gives_float32_images():
    generator = models.create("generator", dtype=jnp.bfloat16)
    images, _ = jax.eval_shape(
        lambda z: generator.init_with_output(jax.random.key(0), z), generator.example()
    )
    assert images.dtype == jnp.float32


def test_a_generator_of_pixels_is_that_of_dfq():
    """As many parameters as CMI's `LargeGenerator(nz=256)`, and pixels whatever the latents."""
    generator = models.create("generator", latent_dim=256, features=256, sigmoid=True)
    variables = jax.eval_shape(generator.init, jax.random.key(0), generator.example())
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    layers = 257 * 256 * 64 + 9 * (256 * 128 + 128 * 64) + (9 * 64 + 1) * 3
    assert count == layers + 2 * (256 + 128 + 64)
    small = models.create("generator", image_shape=(4, 4, 1), latent_dim=3, sigmoid=True)
    latents = 1e3 * jax.random.normal(jax.random.key(1), (4, 3))
    images = small.apply(small.init(jax.random.key(0), latents), latents)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize(
    ("attributes", "latents", "message"),
    [
        ({"image_shape": (30, 32, 3)}, (2, 100), "must be multiples of 4"),
        ({"latent_dim": 10}, (2, 100), r"latents have shape \(2, 100\); .* \[batch, 10\]"),
    ],
)
def test_wrong_shapes_are_refused(attributes, latents, message):
    generator = models.create("generator", **attributes)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(
            lambda z: generator.init(jax.random.key(0), z), jax.ShapeDtypeStruct(latents, "f4")
        )


def test_spectral_norm_estimates_the_largest_singular_value():
    """After enough power iterations, sigma is the largest singular value of the kernel."""
    generator = models.create("generator", image_shape=(4, 4, 1), latent_dim=3, spectral_norm=True)
    latents = jax.random.normal(jax.random.key(1), (4, 3))
    variables = jax.jit(generator.init)(jax.random.key(0), latents)
    train = jax.jit(lambda v: generator.apply(v, latents, train=True, mutable=["batch_stats"])[1])
    for _ in range(60):
        variables = {**variables, **train(variables)}
    for name in ("layers_4", "layers_8", "layers_11"):
        kernel = variables["params"][name]["kernel"].reshape(
            -1, variables["params"][name]["kernel"].shape[-1]
        )
        (sigma,) = (
            value
            for key, value in variables["batch_stats"][f"{name}_spectral"].items()
            if key.endswith("sigma")
        )
        largest = jnp.linalg.svd(kernel, compute_uv=False)[0]
        assert float(sigma) == pytest.approx(float(largest), rel=0.02)
