import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def compiled():
    """`compiled(function, *arguments)`: calls a jitted function compiled without optimisation."""

    def call(function, *arguments):
        options = {"xla_backend_optimization_level": 0}
        return jax.jit(function).lower(*arguments).compile(compiler_options=options)(*arguments)

    return call


@pytest.fixture(scope="session")
def random_variables():
    """`random_variables(model)`: random positive variables of the model's shapes."""

    def draw(model):
        random = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), model.example())
        return jax.tree.map(
            lambda leaf: random.uniform(0.1, 0.2, leaf.shape).astype(np.float32), shapes
        )

    return draw
