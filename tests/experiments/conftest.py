"""A finished run that several tests look at, and shapes that several plans have in common."""

import functools

import jax
import jax.numpy as jnp
import pytest
from small_run import execute, small_config

from kdjax.types import Network


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished small run."""
    workdir = tmp_path_factory.mktemp("run") / "finished"
    execute(small_config(), workdir, curves=True)
    return workdir


_init = Network.init


@functools.cache
def _shapes(network, shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(functools.partial(_init, network), jax.random.key(0), images)


def _zeros(network, rng, images):
    """Variables of the shapes that `Network.init` gives them: a plan looks at nothing else."""
    variables = _shapes(network, images.shape)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)


@pytest.fixture
def shapes_known(monkeypatch):
    """Plans have networks in common: each is traced once, whatever is taught with it."""
    monkeypatch.setattr(Network, "init", _zeros)
