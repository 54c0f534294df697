"""Gradients and compilation of the shared layers."""

import chex
import jax
import jax.numpy as jnp

from kdjax import models
from kdjax.models.layers import relu


def test_relu_has_gradient_zero_at_zero():
    x = jnp.array([-jnp.inf, -1.0, -0.0, 0.0, 1e-30, 2.0, jnp.inf, jnp.nan])
    chex.assert_trees_all_equal(relu(x), jax.nn.relu(x))
    slope = jax.vmap(jax.grad(relu))(x[:-1])
    chex.assert_trees_all_equal(slope, jnp.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    assert relu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_compiled_gradient_grows_linearly_with_depth():
    """XLA's CPU backend must not fuse a stage's chain of sums into each weight gradient."""

    def sums(depth):
        model = models.create(f"resnet{depth}", num_classes=4)
        images = jnp.zeros((2, 8, 8, 3))
        variables = model.init(jax.random.key(0), images)

        def loss(params):
            trained = variables | {"params": params}
            outputs, _ = model.apply(trained, images, train=True, mutable=["batch_stats"])
            return jnp.mean(outputs.logits**2)

        compiled = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
        return compiled.as_text().count(" add(")

    shallow, middle, deep = map(sums, (14, 20, 32))
    # From 20 to 32 layers twice as many blocks are added as from 14 to 20. (Depth 8 is not used:
    # a stage with a single block compiles differently.)
    assert deep - middle <= 2 * (middle - shallow)
