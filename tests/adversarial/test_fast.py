"""The pseudo-batch of Fast: the copy, the pool, and what it leaves as it is."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adversaries import BATCH, CLASSES, SHAPE, STAGES, Pixels, Run, adversary

from kdjax import adversarial, distillers, optimizers, parallel
from kdjax.adversarial import fast, pseudo_batch
from kdjax.types import Outputs, UserError

STEPS, SEED = 2, 1
SETTINGS = adversarial.Fast(
    pool_size=3 * BATCH, latent_learning_rate=0.5, warmup=2, padding=1, flip=True
)


def options(count=2, **changes):
    axis = parallel.AXIS if count else None
    return dict(
        generator=Pixels(axis_name=axis),
        generator_optimizer=optimizers.create("sgd", 1.0, momentum=0.0),
        distiller=distillers.weighted_sum(kd=(1.0, distillers.kd(temperature=20.0))),
        objective=adversarial.FAST,
        student_distance=False,
        student_eval=True,
        fast=SETTINGS._replace(**changes),
    )


def run_of(count=2, **changes):
    # With this seed the untrained networks agree on some images.
    return Run(count, seed=SEED, adam=False, **options(count, **changes))


@pytest.fixture(scope="module")
def two_batches():
    """A run of Fast, and its state and metrics after two pseudo-batches on two devices."""
    run = run_of()
    return run, *run(2, generator_steps=STEPS)


def close(ours, theirs):
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-5)


def without_pool(state):
    """The state with the pool as integers, where a rounding of a pixel may differ by one."""
    pool = state.kept["pool"].astype(np.int32)
    return dataclasses.replace(state, kept={"moments": state.kept["moments"]}), pool


def test_the_number_of_devices_changes_only_rounding(two_batches):
    _, state, metrics = two_batches
    other, other_metrics = run_of(1)(2, generator_steps=STEPS)
    (ours, pool), (theirs, other_pool) = without_pool(state), without_pool(other)
    close((ours, metrics), (theirs, other_metrics))
    assert np.abs(pool - other_pool).max() <= 1


def test_both_forms_of_the_step_agree(two_batches, monkeypatch):
    """One scanned program, as on accelerators, and one program per update, as on the CPU."""
    run, state, metrics = two_batches
    monkeypatch.setattr(parallel, "on_cpu", lambda: False)
    monkeypatch.setattr(parallel.Devices, "on_cpu", False)
    monkeypatch.setattr(run, "step", adversarial.make_step(run.adversary, run.devices))
    other, other_metrics = run(2, generator_steps=STEPS)
    close((without_pool(state)[0], metrics), (without_pool(other)[0], other_metrics))


def test_a_run_that_goes_on_from_its_state_is_the_same_to_the_bit(two_batches, monkeypatch):
    run, state, _ = two_batches
    monkeypatch.setattr(run, "state", run(1, generator_steps=STEPS)[0])
    resumed, _ = run(1, generator_steps=STEPS)
    chex.assert_trees_all_equal(resumed, state)


def test_each_batch_goes_into_the_pool_behind_the_one_before(two_batches, monkeypatch):
    run, state, _ = two_batches
    batches = state.kept["pool"].reshape(3, BATCH, *SHAPE)
    assert [bool(batch.any()) for batch in batches] == [True, True, False]
    assert np.any(batches[0] != batches[1])
    monkeypatch.setattr(run, "state", state)
    after = run(2, generator_steps=STEPS)[0].kept["pool"].reshape(batches.shape)
    # The fourth batch replaces the first.
    assert after[2].any()
    assert np.any(after[0] != batches[0])
    np.testing.assert_array_equal(after[1], batches[1])


def plain_gradients(run):
    """The loss of the copy from the formulas, on one device, and its gradients."""
    whole = adversary(0, **options(0))
    generator, student, teacher = whole.generator, whole.student, whole.teachers[0]
    (teacher_variables,) = run.teachers

    def loss(trained, stats, state, labels, keys):
        g, z = trained
        images, new = generator.apply(
            {"params": g, "batch_stats": stats}, z, train=True, mutable=["batch_stats"]
        )
        seen = SETTINGS.see(keys, images)
        target = teacher.evaluate(teacher_variables, seen)
        outputs = student.evaluate(state.variables, seen)
        decay = 0.9 * (state.step > 0)
        far, moments = 0, []
        for layer, (stage, old) in enumerate(zip(STAGES, state.kept["moments"][0], strict=True)):
            # What enters the batch norms of these networks are their taps.
            tap = target.taps[stage]
            averages = teacher_variables["batch_stats"][f"BatchNorm_{layer}"]
            mean = (1 - decay) * tap.mean((0, 1, 2)) + decay * old[0]
            var = (1 - decay) * tap.var((0, 1, 2)) + decay * old[1]
            far += jnp.linalg.norm(mean - averages["mean"])
            far += jnp.linalg.norm(var - averages["var"])
            moments.append((mean, var))
        p, q = (jax.nn.log_softmax(x.logits) for x in (target, outputs))
        agree = (p.argmax(-1) == q.argmax(-1)) & (state.step + 1 >= SETTINGS.warmup)
        adversarial = jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1) * agree)
        one_hot = -jnp.mean(p[jnp.arange(BATCH), labels])
        total = 10 * far + 0.4 * one_hot - 1.1 * adversarial
        return total, (images, new["batch_stats"], (tuple(moments),))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def plain_batch(run, gradients, state, steps):
    """A batch for the pool by plain gradient descent."""
    rate = float(run.adversary.generator_learning_rate(state.step))
    z, keys = given(run, state)
    label_keys, view_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    labels = (jax.vmap(jax.random.uniform)(label_keys) * CLASSES).astype(int)
    g, stats = state.generator["params"], state.generator["batch_stats"]
    copy, total, best, chosen = g, jax.tree.map(np.zeros_like, g), np.inf, None
    for i in range(steps):
        its_keys = jax.vmap(jax.random.fold_in, (0, None))(view_keys, i)
        (loss, (images, stats, moments)), (grad, z_grad) = jax.device_get(
            gradients((copy, z), stats, state, labels, its_keys)
        )
        if loss < best:
            best, chosen = loss, images
        total = jax.tree.map(np.add, total, grad)
        copy = jax.tree.map(lambda p, x: p - rate * x, copy, grad)
        z = z - SETTINGS.latent_learning_rate * z_grad
    g = jax.tree.map(lambda p, x: p - rate * steps * x, g, total)
    return {"params": g, "batch_stats": stats}, chosen, moments


def given(run, state):
    """The latents of a pseudo-batch, and the keys of its labels and crops."""
    indices = jnp.arange(BATCH)
    z = run.adversary.latents(jax.random.fold_in(run.key, state.step), indices)
    return z, pseudo_batch._keys(run.key, state.step, 0, pseudo_batch._OF_GENERATOR, indices)


def test_synthesis_matches_the_plain_computation_and_leaves_the_student(two_batches):
    """In the first pseudo-batch, without the student and averages, and in the second with both."""
    run, _, _ = two_batches
    whole = adversary(0, **options(0))
    synthesize = jax.jit(
        lambda state, z, keys: fast.synthesize(whole, state, run.teachers, z, keys, steps=STEPS)
    )
    gradients, state = plain_gradients(run), run.state
    for number in range(2):
        generator, images, moments = plain_batch(run, gradients, state, STEPS)
        after, metrics = jax.device_get(synthesize(state, *given(run, state)))
        assert bool(metrics["generator/distance"] > 0) == (number == 1)
        close((after.generator, after.kept["moments"]), (generator, moments))
        own = after.kept["pool"][number * BATCH : (number + 1) * BATCH].astype(np.int32)
        assert np.abs(own - np.floor(images * 255)).max() <= 1
        chex.assert_trees_all_equal(after.variables, state.variables)
        state = dataclasses.replace(after, step=after.step + 1)


def test_images_of_the_pool_are_drawn_from_those_that_are_there():
    settings = SETTINGS._replace(padding=0, flip=False)
    pool = jnp.broadcast_to(jnp.arange(3 * BATCH)[:, None, None, None], (3 * BATCH, *SHAPE))
    kept = {"pool": pool.astype(jnp.uint8)}
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = np.asarray(settings.draw(kept, keys, jnp.int32(2 * BATCH)) * 255).round()
    assert np.all(drawn == drawn[:, :1, :1])
    assert set(drawn[:, 0, 0, 0].astype(int)) == set(range(2 * BATCH))


def test_networks_see_crops_and_mirrored_images():
    image = jnp.arange(1.0, 65).reshape(SHAPE) / 64
    keys = jax.random.split(jax.random.key(0), 64)
    images = jnp.broadcast_to(image, (64, *SHAPE))
    seen = np.asarray(SETTINGS._replace(padding=0).see(keys, images))
    mirrored = [bool((one == image[:, ::-1]).all()) for one in seen]
    assert all(m or bool((one == image).all()) for one, m in zip(seen, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48
    seen = np.asarray(SETTINGS._replace(flip=False).see(keys, images))
    # Nine windows of an image with a black frame.
    assert len({one.tobytes() for one in seen}) == 9


def test_the_generator_may_ignore_the_batch_norms(two_batches):
    run, _, _ = two_batches
    objective = adversarial.GeneratorObjective(one_hot=1.0)
    whole = adversary(0, **options(0) | {"objective": objective})
    after, metrics = jax.eval_shape(
        lambda state, keys: fast.synthesize(
            whole, state, run.teachers, jnp.zeros((BATCH, 10)), keys, steps=1
        ),
        run.state, jax.random.split(run.key, BATCH),
    )  # fmt: skip
    chex.assert_trees_all_equal_shapes(after, run.state)
    assert "generator/batch_norm" not in metrics


def test_a_pool_that_batches_do_not_fill_is_refused(two_batches):
    run, _, _ = two_batches
    pool = run.state.kept["pool"][: BATCH + 1]
    state = dataclasses.replace(run.state, kept=run.state.kept | {"pool": pool})
    with pytest.raises(UserError, match="the pool has 9 images, no multiple of 8"):
        fast.begin(adversary(0, **options(0)), state, jnp.zeros((BATCH, 10)))


def test_a_distance_counts_where_both_networks_agree(two_batches):
    run, _, _ = two_batches
    student, teacher = (
        Outputs(jnp.array(logits), {})
        for logits in ([[3.0, 1, 0, 0], [3, 1, 0, 0]], [[1.0, 0, 0, 0], [0, 1, 0, 0]])
    )
    every = run.adversary.distances(student, (teacher,))
    agreed = run.adversary.distances(student, (teacher,), where_they_agree=True)
    assert (every > 0).all()
    np.testing.assert_array_equal(agreed, [every[0], 0])
