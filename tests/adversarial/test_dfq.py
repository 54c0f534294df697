"""The pseudo-batch of DFQ: its terms, its latents, and what it leaves as it is."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversaries import BATCH, CLASSES, SHAPE, STAGES, Pixels, Run, adversary, variables_of

from kdjax import adversarial, distillers, parallel
from kdjax.adversarial import pseudo_batch
from kdjax.types import Network, Outputs, UserError

TEMPERATURE = 20.0


def options(count=2):
    axis = parallel.AXIS if count else None
    return dict(
        generator=Pixels(axis_name=axis),
        distiller=distillers.weighted_sum(kd=(1.0, distillers.kd(temperature=TEMPERATURE))),
        objective=adversarial.DFQ,
        student_distance=False,
        student_eval=True,
        fresh_images=True,
    )


def dfq(count=2, **changes):
    return Run(count, adam=False, **options(count) | changes)


@pytest.fixture(scope="module")
def two_batches():
    """A run of DFQ, and its state and metrics after two pseudo-batches on two devices."""
    run = dfq()
    return run, *run(2)


def close(ours, theirs):
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-5)


def plain_pseudo_batch(run, generator_steps, student_steps):
    """One pseudo-batch from the formulas, on one device."""
    whole = adversary(0, **options(0))
    generator, student, teacher = whole.generator, whole.student, whole.teachers[0]
    state, (teacher_variables,) = run.state, run.teachers
    g, g_stats = state.generator["params"], state.generator["batch_stats"]
    s, s_stats = state.params, state.batch_stats
    step_key = jax.random.fold_in(run.key, 0)

    def latents(i, whose):
        key = jax.random.fold_in(jax.random.fold_in(step_key, i + 1), whose)
        return whole.latents(key, jnp.arange(BATCH))

    def descend(params, grad, rate):
        norm = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(grad)))
        return jax.tree.map(lambda p, x: p - rate * x * min(1.0, 5.0 / norm), params, grad)

    def kl(outputs, target, temperature):
        p, q = (jax.nn.log_softmax(x.logits / temperature) for x in (target, outputs))
        return temperature**2 * jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1))

    @jax.jit
    def generator_gradient(g, g_stats, z):
        def objective(g):
            images, new = generator.apply(
                {"params": g, "batch_stats": g_stats}, z, train=True, mutable=["batch_stats"]
            )
            target = teacher.evaluate(teacher_variables, images)
            outputs = student.evaluate({"params": s, "batch_stats": s_stats}, images)
            p = jax.nn.softmax(target.logits)
            mean = p.mean(0)
            far = 0
            for layer, stage in enumerate(STAGES):
                # What enters the batch norms of these networks are their taps.
                tap = target.taps[stage]
                averages = teacher_variables["batch_stats"][f"BatchNorm_{layer}"]
                far += jnp.linalg.norm(tap.mean((0, 1, 2)) - averages["mean"])
                far += jnp.linalg.norm(tap.var((0, 1, 2)) - averages["var"])
            terms = {
                "distance": kl(outputs, target, 1.0),
                "batch_norm": far,
                "one_hot": -jnp.mean(jnp.log(p.max(-1))),
                "balance": jnp.sum(mean * jnp.log(mean)),
            }
            loss = far + terms["one_hot"] - terms["distance"] + 20 * terms["balance"]
            return loss, (new["batch_stats"], terms)

        return jax.grad(objective, has_aux=True)(g)

    @jax.jit
    def student_gradient(s, s_stats, z):
        images = generator.apply({"params": g, "batch_stats": g_stats}, z)
        target = teacher.evaluate(teacher_variables, images)

        def objective(s):
            variables = {"params": s, "batch_stats": s_stats}
            outputs, new = student.train(variables, images, jax.random.key(0))
            return kl(outputs, target, TEMPERATURE), new

        return jax.value_and_grad(objective, has_aux=True)(s)

    history, student_losses = [], []
    for i in range(generator_steps):
        z = latents(i, pseudo_batch._OF_GENERATOR)
        grad, (g_stats, terms) = generator_gradient(g, g_stats, z)
        g = descend(g, grad, 1e-3)
        history.append(terms)
    for i in range(student_steps):
        z = latents(i, pseudo_batch._OF_STUDENT)
        (loss, s_stats), grad = student_gradient(s, s_stats, z)
        s = descend(s, grad, 2e-3)
        student_losses.append(loss)
    means = jax.tree.map(lambda *x: np.mean(x), *history)
    return (
        {"params": g, "batch_stats": g_stats},
        {"params": s, "batch_stats": s_stats},
        means,
        np.mean(student_losses),
    )


def test_a_pseudo_batch_matches_the_plain_computation(two_batches):
    run, *_ = two_batches
    state, metrics = run(1, generator_steps=2, student_steps=2)
    generator, student, terms, loss = plain_pseudo_batch(run, 2, 2)
    close({name: metrics[f"generator/{name}"] for name in terms}, terms)
    # At this temperature the KL is a small difference times 400.
    np.testing.assert_allclose(metrics["loss"], loss, atol=1e-4)
    close((state.generator, state.variables), (generator, student))


def test_the_number_of_devices_changes_only_rounding(two_batches):
    _, state, metrics = two_batches
    close((state, metrics), dfq(1)(2))


def test_both_forms_of_the_step_agree(two_batches, monkeypatch):
    """One scanned program, as on accelerators, and one program per update, as on the CPU."""
    run, state, metrics = two_batches
    monkeypatch.setattr(parallel, "on_cpu", lambda: False)
    monkeypatch.setattr(parallel.Devices, "on_cpu", False)
    monkeypatch.setattr(run, "step", adversarial.make_step(run.adversary, run.devices))
    close((state, metrics), run(2))


def test_a_run_that_goes_on_from_its_state_is_the_same_to_the_bit(two_batches, monkeypatch):
    run, state, _ = two_batches
    monkeypatch.setattr(run, "state", run(1)[0])
    resumed, _ = run(1)
    chex.assert_trees_all_equal(resumed, state)


def test_an_update_changes_one_network_and_leaves_the_other(two_batches):
    """Not even the student's batch statistics, as it is in evaluation mode."""
    run, _, _ = two_batches
    state, teachers = run.state, run.teachers
    latents = adversary(0).latents(run.key, jnp.arange(BATCH))
    whole = adversary(0, adam=False, **options(0))
    after, _, _ = jax.jit(whole.update_generator)(state, teachers, latents, run.key)
    chex.assert_trees_all_equal(after.variables, state.variables)
    assert_all_differ(after.generator["params"], state.generator["params"])
    assert_all_differ(after.generator["batch_stats"], state.generator["batch_stats"])


def assert_all_differ(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.any(np.asarray(one) != np.asarray(other))


@pytest.mark.parametrize("term", ["batch_norm", "one_hot", "balance"])
def test_a_term_falls_when_the_generator_minimises_it_alone(term):
    weights = dict.fromkeys(adversarial.DFQ._fields, 0.0) | {term: 1.0}
    run = dfq(1, objective=adversarial.GeneratorObjective(**weights), fresh_images=False)
    found = []
    for _ in range(6):
        # So that the latents are the same each time.
        run.state = dataclasses.replace(run.state, step=np.int32(0))
        run.state, metrics = run(1, student_steps=1)
        found.append(metrics[f"generator/{term}"])
    assert found[-1] < found[0]


class Plain(nn.Module):
    """A network without batch norm."""

    @nn.compact
    def __call__(self, images, train=False):
        return Outputs(nn.Dense(CLASSES)(images.mean((1, 2))), {})


def test_a_teacher_without_batch_norm_is_refused():
    net = Network(Plain(), (0.4,), (0.3,))
    one = dataclasses.replace(adversary(0, **options(0)), teachers=(net,))
    with pytest.raises(
        UserError, match=r"batch_norm 1\.0, but the teacher Plain has no batch norm"
    ):
        one.init(
            jax.random.key(0), image_shape=SHAPE, num_classes=CLASSES, batch_size=BATCH,
            teacher_variables=(variables_of(net, 0),),
        )  # fmt: skip


def test_new_images_and_stale_outputs_exclude_each_other():
    with pytest.raises(UserError, match="stale_teacher needs images that stay"):
        adversary(0, **options(0), stale_teacher=True)
