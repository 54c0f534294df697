"""The update of a state as trees and as vectors."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import optimizers, updates
from kdjax.types import Separated, TrainState
from kdjax.updates import Flat

SHAPES = [(), (3,), (2, 3), (1, 2, 3), (3, 3, 2, 4), (2, 1, 2, 1, 2), (0, 2)]


def tree(seed):
    rng = np.random.default_rng(seed)
    arrays = {f"of_{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(SHAPES)}
    return {"inner": arrays, "scale": rng.normal(size=3).astype(np.float32)}


def make_state(optimizer, ema_decay=0.0):
    params, method_params, stats = tree(0), {"kd": tree(1)}, tree(2)
    ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": stats}) if ema_decay else {}
    return TrainState(
        step=jnp.int32(3), params=params, batch_stats=stats, method_params=method_params,
        method_state={}, opt_state=optimizer.init((params, method_params)), ema=ema,
    )  # fmt: skip


def test_a_vector_is_the_tree_again_and_has_its_elements_once():
    given = tree(0)
    flat = Flat.of(given)
    chex.assert_trees_all_equal(flat.tree(), given)
    elements = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(given)])
    np.testing.assert_array_equal(np.sort(flat.vector), np.sort(elements))
    assert len(jax.tree.leaves(flat)) == 1


def test_a_tree_without_arrays_is_an_empty_vector():
    assert Flat.of({}).vector.shape == (0,)
    assert Flat.of({"a": {}}).tree() == {"a": {}}


@pytest.mark.parametrize("name", ["sgd", "adam", "dot"])
def test_a_packed_state_is_unpacked_to_itself(name):
    optimizer = optimizers.create(name, 0.1)
    state = make_state(optimizer, ema_decay=0.9)
    packed = updates.pack(state)
    # Parameters, averages, statistics, and what the optimiser keeps of each parameter.
    kept = {"sgd": 1, "adam": 3, "dot": 2}[name]
    assert len(jax.tree.leaves(packed)) == 1 + 3 + kept
    chex.assert_trees_all_equal(updates.unpack(packed), state)
    assert updates.can_pack(packed)


@pytest.mark.parametrize("reached", ["all", "some"])
def test_a_vector_is_updated_by_separate_gradients_as_the_tree_is(reached):
    optimizer = optimizers.create(
        "dot", lambda step: 0.1 / (1 + step), weight_decay=1e-2, nesterov=True, grad_clip_norm=5.0
    )
    trained = (tree(0), {"kd": tree(1)})
    leaves, structure = jax.tree.flatten(trained)
    # By the task, by distillation, by both or by none.
    kinds = {"all": [(True, True)], "some": [(1, 0), (0, 1), (1, 1), (0, 0)]}[reached]
    each = [[bool(kinds[i % len(kinds)][part]) for i in range(len(leaves))] for part in (0, 1)]
    trains = Separated(*map(structure.unflatten, each))
    found = []
    for as_vectors in (False, True):
        state = make_state(optimizer)
        for seed in range(3):
            grad = Separated(*((tree(seed + i), {"kd": tree(seed + i + 1)}) for i in (10, 20)))
            state, norm = updates.apply(
                optimizer, grad, state, trains, ema_decay=0.0, as_vectors=as_vectors
            )
        found.append((state, norm))
    chex.assert_trees_all_close(*found, rtol=2e-6, atol=1e-6)
    squares = [np.sum(np.square(g)) for g in jax.tree.leaves(jax.tree.map(jnp.add, *grad))]
    np.testing.assert_allclose(norm, np.sqrt(sum(squares)), rtol=1e-5)
    after = jax.tree.leaves((state.params, state.method_params))
    for leaf, before, *reaches in zip(after, leaves, *each, strict=True):
        assert np.array_equal(leaf, before) == (not any(reaches) or not before.size)


def test_only_float32_is_packed():
    state = make_state(optimizers.create("sgd", 0.1))
    assert updates.can_pack(state)
    half = {"a": jnp.zeros(2, jnp.bfloat16)}
    assert not updates.can_pack(dataclasses.replace(state, params=half))


@pytest.mark.parametrize("reached", ["all", "some", "none"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"weight_decay": 1e-2, "nesterov": True}),
        ("sgd", {"momentum": 0.0, "grad_clip_norm": 0.1}),
        ("adam", {"weight_decay": 1e-2}),
        ("adamw", {"weight_decay": 1e-2}),
        ("adadelta", {}),
    ],
)
def test_a_vector_is_updated_as_the_tree_is(name, options, reached):
    optimizer = optimizers.create(name, lambda step: 0.1 / (1 + step), **options)
    assert optimizers.is_elementwise(name, "all")
    trained = (tree(0), {"kd": tree(1)})
    kinds = {"all": [True], "some": [True, False, False], "none": [False]}[reached]
    leaves, structure = jax.tree.flatten(trained)
    trains = structure.unflatten([kinds[i % len(kinds)] for i in range(len(leaves))])
    found = []
    for as_vectors in (False, True):
        state = make_state(optimizer, ema_decay=0.9)
        for seed in range(3):
            grad = (tree(10 + seed), {"kd": tree(20 + seed)})
            state, norm = updates.apply(
                optimizer, grad, state, trains, ema_decay=0.9, as_vectors=as_vectors
            )
        found.append((state, norm))
    chex.assert_trees_all_close(*found, rtol=2e-6, atol=1e-7)
    assert int(state.step) == 6
    for leaf, before, used in zip(
        jax.tree.leaves((state.params, state.method_params)), leaves, jax.tree.leaves(trains),
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(leaf, before) == (not used or not before.size)


@pytest.mark.parametrize(("name", "mask"), [("adafactor", "all"), ("sgd", "kernels")])
def test_an_optimizer_that_looks_at_arrays_is_not_elementwise(name, mask):
    assert not optimizers.is_elementwise(name, mask)


def test_the_norm_of_the_gradient_is_one_sum_however_many_arrays_there_are():
    optimizer = optimizers.create("sgd", 0.1)
    state = make_state(optimizer)
    trained = (state.params, state.method_params)
    trains = jax.tree.map(lambda _: True, trained)

    def apply(grad):
        return updates.apply(optimizer, grad, state, trains, ema_decay=0.0, as_vectors=False)

    assert jax.jit(apply).lower(trained).as_text().count("stablehlo.reduce(") == 1
    np.testing.assert_allclose(apply(trained)[1], optax.tree.norm(trained), rtol=1e-6)
