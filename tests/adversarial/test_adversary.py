"""The pseudo-batch against a plain computation."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversaries import BATCH, BETA, STAGES, Run, adversary

from kdjax import adversarial, distillers, optimizers, parallel
from kdjax.types import UserError


class PlainAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) after clipping the gradient's norm at 5."""

    def __init__(self, params, adam):
        self.m = self.v = jax.tree.map(np.zeros_like, params)
        self.t, self.adam = 0, adam

    def __call__(self, params, grad, rate):
        params, grad = jax.device_get((params, grad))
        norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grad)))
        grad = jax.tree.map(lambda g: g * np.minimum(1.0, 5.0 / norm), grad)
        self.t += 1
        if not self.adam:
            return jax.tree.map(lambda p, g: p - rate * g, params, grad)
        self.m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.m, grad)
        self.v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.v, grad)
        return jax.tree.map(
            lambda p, m, v: (
                p - rate * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
            ),
            params,
            self.m,
            self.v,
        )


def plain_pseudo_batch(run, generator_steps, student_steps, adam, stale):
    """One pseudo-batch from the formulas, on one device and without compiling."""
    whole = adversary(0)
    generator, student, teacher = whole.generator, whole.student.module, whole.teachers[0].module
    state, (teacher_variables,) = run.state, run.teachers
    z = run.adversary.latents(jax.random.fold_in(run.key, 0), jnp.arange(BATCH))
    g, g_stats = state.generator["params"], state.generator["batch_stats"]
    s, s_stats = state.params, state.batch_stats
    g_adam, s_adam = PlainAdam(g, adam), PlainAdam(s, adam)

    def generate(g):
        variables = {"params": g, "batch_stats": g_stats}
        images, new = generator.apply(variables, z, train=True, mutable=["batch_stats"])
        return images, new["batch_stats"]

    def study(s, images):
        variables = {"params": s, "batch_stats": s_stats}
        outputs, new = student.apply(variables, images, train=True, mutable=["batch_stats"])
        return outputs, new["batch_stats"]

    def kl(outputs, target):
        p = jax.nn.softmax(target.logits)
        return jnp.mean(jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(outputs.logits)), -1))

    def attention_map(tap):
        flat = jnp.mean(tap**2, -1).reshape(BATCH, -1)
        return flat / jnp.sqrt(jnp.sum(flat**2, -1, keepdims=True))

    for _ in range(generator_steps):

        def generator_loss(g):
            images, new_g = generate(g)
            outputs, new_s = study(s, images)
            target = teacher.apply(teacher_variables, images)
            return -kl(outputs, target), (new_g, new_s, target)

        grad, (g_stats, s_stats, old) = jax.grad(generator_loss, has_aux=True)(g)
        g = g_adam(g, grad, 1e-3)
    images, g_stats = generate(g)
    target = teacher.apply(teacher_variables, images)
    student_losses = []
    for i in range(student_steps):
        seen = old if stale and i == 0 else target

        def student_loss(s, seen=seen):
            outputs, new_s = study(s, images)
            at = sum(
                jnp.mean((attention_map(outputs.taps[k]) - attention_map(seen.taps[k])) ** 2)
                for k in STAGES
            )
            return kl(outputs, seen) + BETA * at, new_s

        (value, s_stats), grad = jax.value_and_grad(student_loss, has_aux=True)(s)
        student_losses.append(value)
        s = s_adam(s, grad, 2e-3)
    return (g, g_stats), (s, s_stats), np.mean(student_losses), generate(g)[0]


@pytest.mark.parametrize(("adam", "stale"), [(False, False), (False, True), (True, False)])
def test_a_pseudo_batch_matches_the_plain_computation(adam, stale):
    run = Run(stale_teacher=stale, adam=adam)
    state, metrics = run(1, generator_steps=2, student_steps=3)
    (g, g_stats), (s, s_stats), loss, images = plain_pseudo_batch(run, 2, 3, adam, stale)
    assert state.step == 1
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    if not adam:
        chex.assert_trees_all_close(
            state.generator, {"params": g, "batch_stats": g_stats}, rtol=1e-3, atol=1e-5
        )
        chex.assert_trees_all_close(
            state.variables, {"params": s, "batch_stats": s_stats}, rtol=1e-3, atol=1e-5
        )
    else:
        # The gradient of a bias before a batch norm is only rounding error, which Adam turns
        # into a full step, so the networks' outputs are compared and not their parameters.
        whole = adversary(0)
        z = whole.latents(jax.random.fold_in(run.key, 0), jnp.arange(BATCH))
        pixels, _ = whole.images(state.generator, z)
        np.testing.assert_allclose((pixels - 0.4) / 0.3, images, atol=2e-2)
        after = {"params": state.params, "batch_stats": s_stats}
        ours, _ = whole.student.train(after, pixels, jax.random.key(0))
        theirs, _ = whole.student.train(
            {"params": s, "batch_stats": s_stats}, pixels, jax.random.key(0)
        )
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-2)


@pytest.fixture(scope="module")
def two_batches():
    """A run, and its state and metrics after two pseudo-batches on two devices."""
    run = Run(adam=False)
    return run, *run(2)


def close(ours, theirs):
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_number_of_devices_changes_only_rounding(two_batches):
    _, state, metrics = two_batches
    close((state, metrics), Run(1, adam=False)(2))


@pytest.mark.parametrize("elementwise", [False, True])
def test_both_forms_of_the_step_agree(two_batches, monkeypatch, elementwise):
    """One scanned program, as on accelerators, and one program per update, as on the CPU."""
    run, state, metrics = two_batches
    monkeypatch.setattr(parallel, "on_cpu", lambda: False)
    monkeypatch.setattr(parallel.Devices, "on_cpu", False)
    adversary = dataclasses.replace(run.adversary, elementwise=elementwise)
    monkeypatch.setattr(run, "step", adversarial.make_step(adversary, run.devices))
    close((state, metrics), run(2))


def test_latents_depend_on_the_key_and_the_index():
    whole = adversary(0)
    key = jax.random.key(0)
    z = whole.latents(key, jnp.arange(2000))
    np.testing.assert_allclose((z.mean(), z.std()), (0, 1), atol=0.02)
    np.testing.assert_array_equal(whole.latents(key, jnp.arange(4, 8)), z[4:8])
    assert not np.any(whole.latents(jax.random.fold_in(key, 1), jnp.arange(8)) == z[:8])


def test_the_generator_maximises_what_the_student_minimises():
    """If only one of the two is trained, the distance grows or shrinks."""
    no_updates = optimizers.create("sgd", 0.0)
    for frozen, sign in (("optimizer", 1), ("generator_optimizer", -1)):
        run = Run(distiller=distillers.weighted_sum(), **{frozen: no_updates})
        histories = []
        for _ in range(6):
            # So that the latents are the same each time.
            run.state = dataclasses.replace(run.state, step=np.int32(0))
            run.state, metrics = run(1)
            histories.append(metrics["distance"])
        assert sign * (histories[-1] - histories[0]) > 0


def test_several_teachers_are_averaged():
    twice = Run(teachers=(8, 8), adam=False, distiller=distillers.weighted_sum())
    once = Run(adam=False, distiller=distillers.weighted_sum())
    twice.state, twice.teachers = once.state, once.teachers * 2
    close(twice(1), once(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distance": "js"},
            "unknown distance 'js': choose from kl, kl_class_mean, l2, wasserstein",
        ),
        ({"teachers": ()}, "needs at least one teacher, got none"),
        ({"optimizer": optimizers.create("dot", 1.0)}, "optimizer dot needs labels"),
        ({"generator_optimizer": optimizers.create("dot", 1.0)}, "optimizer dot needs labels"),
    ],
)
def test_a_mistake_is_named(options, message):
    with pytest.raises(UserError, match=message):
        adversary(**options)
