"""Compiled losses: products in full precision, and sums that are right at every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses


def _normal(*shape):
    """Two arrays, as student and teacher would have them."""
    return tuple(jax.random.normal(jax.random.key(0), (2, *shape)))


def _positive(*shape):
    return jnp.exp(_normal(*shape)[0])


# Each loss with arguments of which the first is differentiated, for n examples with maps of
# h x 3 pixels and 3 channels.
LOSSES = {
    "activation_boundary": lambda n, h: _normal(n, h, 3, 3),
    "attention_transfer": lambda n, h: _normal(n, h, 3, 3),
    "batch_correlation": lambda n, h: _normal(n, 3),
    "batch_norm_distance": lambda n, h: (*_normal(n), *_normal(n)[::-1]),
    "class_attention_transfer": lambda n, h: _normal(n, h, 3, 3),
    "class_balance": lambda n, h: (_normal(n, 3)[0],),
    "class_correlation": lambda n, h: _normal(3, n),
    "correlation_congruence": lambda n, h: _normal(n, 3),
    "crd_nce": lambda n, h: (_positive(n, 4), 100),
    "cross_entropy": lambda n, h: (_normal(n, 3)[0], jnp.arange(n) % 3),
    "dist": lambda n, h: _normal(n, 3),
    "dkd": lambda n, h: (*_normal(n, 3), jnp.arange(n) % 3),
    "euclidean": lambda n, h: _normal(n, 3),
    "factor_transfer": lambda n, h: _normal(n, h, 3, 3),
    "fitnet": lambda n, h: _normal(n, h, 3, 3),
    "fsp": lambda n, h: tuple(jnp.concatenate(_normal(2, n, h, 3, 3))),
    "hard_kd": lambda n, h: _normal(n, 3),
    "hcl": lambda n, h: _normal(n, h, 3, 3),
    "kd": lambda n, h: _normal(n, 3),
    "nkd": lambda n, h: (*_normal(n, 3), jnp.arange(n) % 3),
    "nst": lambda n, h: _normal(n, h, 3, 3),
    "ofd": lambda n, h: (*_normal(n, h, 3, 3), -jnp.ones(3)),
    "pkt": lambda n, h: _normal(n, 3),
    "rkd": lambda n, h: _normal(n, 3),
    "rld": lambda n, h: (*_normal(n, 3), jnp.arange(n) % 3),
    "sdd": lambda n, h: (*_normal(n, 3, 2), jnp.arange(n) % 3),
    "sfd": lambda n, h: _normal(n, h, 3, 3),
    "similarity_preserving": lambda n, h: _normal(n, h, 3, 3),
    "ttm": lambda n, h: _normal(n, 3),
    "vid": lambda n, h: (*_normal(n, h, 3, 3), jnp.zeros(3)),
    "wttm": lambda n, h: _normal(n, 3),
}
# Not losses, but what they and the methods are built of.
PARTS = {
    "PRECISION",
    "SFD_DISTANCES",
    "SFD_POOLS",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "ensemble",
    "l2_normalize",
    "level_size",
    "match_size",
    "nearest_resize",
    "ofd_margin",
    "smaller_size",
}
# Losses of all pairs of examples or, of the second, of classes.
PAIRS = {"batch_correlation", "class_correlation", "pkt", "rkd", "similarity_preserving"}
# Losses that contain products of matrices.
PRODUCTS = {"class_attention_transfer", "fsp", "hcl", "nst", *PAIRS}

every_loss = pytest.mark.parametrize("name", LOSSES)


def _value_and_gradient(name):
    def total(*args):
        values = getattr(losses, name)(*args)
        # Weights of both signs, lest the errors of some examples make up for those of others.
        return jnp.sum(values * jnp.cos(jnp.arange(values.size)).reshape(values.shape))

    return jax.value_and_grad(total)


def test_every_loss_is_tested():
    assert set(losses.__all__) == LOSSES.keys() | PARTS


def _products(jaxpr):
    """The dot_general equations of a jaxpr and of all that it calls."""
    inner = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")  # noqa: E731
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=inner):
            if inner(value):
                yield from _products(getattr(value, "jaxpr", value))


@every_loss
def test_products_are_in_full_precision(name):
    arguments = LOSSES[name](4, 8)
    precisions = [
        equation.params["precision"]
        for equation in _products(jax.make_jaxpr(_value_and_gradient(name))(*arguments).jaxpr)
    ]
    assert set(precisions) <= {(losses.PRECISION, losses.PRECISION)}
    assert bool(precisions) == (name in PRODUCTS)


@every_loss
def test_compiled_equals_eager_where_sums_have_many_results(name):
    """More than 32,768 and not a multiple of 4,096, where jaxlib 0.10.2 errs (jax-ml/jax#39103)."""
    # 201^2 pairs.
    arguments = LOSSES[name](201 if name in PAIRS else 40_001, 2)
    both = _value_and_gradient(name)
    value, gradient = jax.jit(both)(*arguments)
    expected_value, expected_gradient = both(*arguments)
    np.testing.assert_allclose(value, expected_value, rtol=1e-3)
    np.testing.assert_allclose(
        gradient, expected_gradient, rtol=1e-3, atol=1e-4 * np.abs(expected_gradient).max()
    )
