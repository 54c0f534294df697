"""The train step: its value, its independence of the number of devices, and its traces."""

import dataclasses
import subprocess
import sys
import textwrap

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_network import Tiny

import kdjax
from kdjax import distillers, losses, models, optimizers, parallel, train
from kdjax.data import batches, sources, views
from kdjax.types import Distiller, MethodLoss, Network, Outputs, TeacherInputs, UserError

SHAPE, CLASSES, BATCH = (8, 8, 1), 4, 8
KD = {"cross_entropy": (0.1, distillers.cross_entropy()), "kd": (0.9, distillers.kd())}


class Linear(nn.Module):
    """A linear classifier without batch norm, whose gradient is easily written down."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(images.shape[0], -1)
        return Outputs(nn.Dense(CLASSES)(x), {"pre_logits": x})


def make_split(n=40):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *SHAPE), np.uint8)
    return sources.Split(images, rng.integers(0, CLASSES, n).astype(np.int32))


def linear():
    return Network(Linear(), (0.4,), (0.3,))


def resnet(axis_name=None):
    module = models.create("resnet8", num_classes=CLASSES, in_channels=1, axis_name=axis_name)
    return Network(module, (0.4,), (0.3,))


class Run:
    """A student, its teacher and the compiled step on `count` devices."""

    def __init__(self, student, teacher, count=2, *, terms=None, learning_rate=0.1, **options):
        chosen = {"name": "sgd", "weight_decay": 1e-3} | options.pop("optimizer", {})
        self.split = make_split()
        self.devices = parallel.Devices.dividing(BATCH, count)
        variables = teacher.init(jax.random.key(7), jnp.zeros((1, *SHAPE)))
        distiller = distillers.weighted_sum(**(terms or KD))
        optimizer = optimizers.create(learning_rate=learning_rate, **chosen)
        view_options = options.pop("views", {"crop": "none", "flip": False})
        self.key = jax.random.key(options.pop("seed", 3))
        step = train.make_train_step(
            student=student,
            teachers=[teacher],
            distiller=distiller,
            optimizer=optimizer,
            views=views.make_views(num_classes=CLASSES, image_size=8, padding=1, **view_options),
            axis_name=parallel.AXIS,
            **options,
        )
        self.state = train.init_state(
            jax.random.key(1),
            student=student,
            teachers=[teacher],
            teacher_variables=[variables],
            distiller=distiller,
            optimizer=optimizer,
            image_shape=SHAPE,
            num_classes=CLASSES,
            batch_size=BATCH,
            train_labels=jnp.asarray(self.split.labels),
            ema_decay=options.get("ema_decay", 0.0),
        )
        self.step = self.devices.map(step, in_axes=(None, None, None, 0, None))
        self.teachers = self.devices.replicate(TeacherInputs((variables,)))
        self.data = self.devices.replicate(batches.resident(self.split))
        self.key = self.devices.replicate(self.key)

    def __call__(self, steps, per_call=1):
        state, history = self.devices.replicate(self.state), []
        for first in range(0, steps, per_call):
            index = [batches.positions(40, BATCH, 0, first + i) for i in range(per_call)]
            batch = {"index": self.devices.shard(np.stack(index), axis=1)}
            state, metrics = self.step(state, self.teachers, self.data, batch, self.key)
            history.append(jax.device_get(metrics))
        return jax.device_get(state), history


def test_one_step_is_the_gradient_of_the_mean_objective():
    run = Run(linear(), linear())
    after, (metrics,) = run(1)
    index = batches.positions(40, BATCH, 0, 0)
    x = ((run.split.images[index] / 255.0 - 0.4) / 0.3).astype(np.float32)
    y = run.split.labels[index]
    teacher = linear().evaluate(jax.device_get(run.teachers.variables[0]), x * 0.3 + 0.4).logits

    def objective(params):
        logits = (
            x.reshape(BATCH, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
        )
        ce = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(BATCH), y])
        p = jax.nn.softmax(teacher / 4)
        kl = jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(logits / 4)), -1)
        return 0.1 * ce + 0.9 * 16 * jnp.mean(kl)

    before = run.state.params
    expected = jax.tree.map(
        lambda p, g: p - 0.1 * (g + 1e-3 * p), before, jax.grad(objective)(before)
    )
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], objective(before), rtol=1e-5)
    assert after.step == 1


def _separate_gradients(run, params, step):
    """Of cross-entropy and KD with their weights, of the linear student on a step's batch."""
    index = batches.positions(40, BATCH, 0, step)
    x = ((run.split.images[index] / 255.0 - 0.4) / 0.3).astype(np.float32).reshape(BATCH, -1)
    kernel, bias = (
        jax.device_get(run.teachers.variables[0])["params"]["Dense_0"][key]
        for key in ("kernel", "bias")
    )
    targets = jax.nn.softmax((x @ kernel + bias[None]) / 4)
    rows, labels = jnp.arange(BATCH), run.split.labels[index]

    def task(p):
        logits = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None]
        return -0.1 * jnp.mean(jax.nn.log_softmax(logits)[rows, labels])

    def distillation(p):
        logits = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None]
        divergence = targets * (jnp.log(targets) - jax.nn.log_softmax(logits / 4))
        return 0.9 * 16 * jnp.mean(jnp.sum(divergence, -1))

    return jax.grad(task)(params), jax.grad(distillation)(params)


@pytest.mark.parametrize(("count", "grad_accum_steps"), [(2, 1), (1, 2)])
def test_dot_gives_the_losses_gradients_momenta_of_their_own(count, grad_accum_steps):
    run = Run(
        linear(), linear(), count, optimizer={"name": "dot"}, grad_accum_steps=grad_accum_steps
    )
    after, history = run(3)
    params, add = run.state.params, jax.tree.map
    task = distillation = add(jnp.zeros_like, params)
    for step in range(3):
        of_task, of_distillation = _separate_gradients(run, params, step)
        norm = optax.tree.norm(add(jnp.add, of_task, of_distillation))
        np.testing.assert_allclose(history[step]["gradient_norm"], norm, rtol=1e-4)
        task = add(lambda v, g, p: 0.825 * v + g + 1e-3 * p, task, of_task, params)
        distillation = add(lambda v, g: 0.975 * v + g, distillation, of_distillation)
        params = add(lambda p, v, w: p - 0.1 * (v + w), params, task, distillation)
    chex.assert_trees_all_close(after.params, params, rtol=1e-4, atol=2e-6)


def test_dot_without_a_difference_is_sgd_on_the_whole_step():
    terms = KD | {"fitnet": (1.0, distillers.fitnet())}
    (dot, ours), (sgd, theirs) = (
        Run(resnet(parallel.AXIS), resnet(), terms=terms, optimizer=optimizer)(2)
        for optimizer in ({"name": "dot", "delta": 0.0}, {})
    )
    trained = [(s.variables, s.method_params, s.method_state) for s in (dot, sgd)]
    chex.assert_trees_all_close(*trained, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4)


def test_dot_without_teachers_is_sgd_whatever_the_difference():
    terms = {"labels": (1.0, distillers.cross_entropy(label_smoothing=0.1))}
    dot, sgd = (
        Run(linear(), linear(), terms=terms, optimizer={"name": name})(3)[0].params
        for name in ("dot", "sgd")
    )
    chex.assert_trees_all_close(dot, sgd, rtol=1e-6, atol=1e-7)


def test_dot_separates_the_momenta_only_of_what_both_losses_reach():
    """At a rate of 0 gradients are those of SGD, whose buffer is the sum of both elsewhere."""
    terms = {
        "cross_entropy": (1.0, distillers.cross_entropy()),
        "fitnet": (1.0, distillers.fitnet(taps=("stage1",))),
    }
    dot, sgd = (
        Run(
            resnet(), resnet(), 1, terms=terms, learning_rate=0.0, optimizer={"name": name}
        )(2)[0].opt_state
        for name in ("dot", "sgd")
    )  # fmt: skip
    task, distillation = dot[0]
    (student, methods), (of_methods, method_trace) = distillation, (task[1], sgd[2].trace[1])
    chex.assert_trees_all_close(
        jax.tree.map(jnp.add, methods, of_methods), method_trace, rtol=1e-4, atol=1e-6
    )
    sums = jax.tree.map(jnp.add, task[0], student)
    differs = jax.tree.map(
        lambda x, y: not np.allclose(x, y, rtol=1e-3, atol=1e-5), sums, sgd[2].trace[0]
    )
    shared = {layer for layer, leaves in differs.items() if any(jax.tree.leaves(leaves))}
    up_to_the_hint = ("conv1", "bn1", "layer1_")
    assert shared == {layer for layer in differs if layer.startswith(up_to_the_hint)}


@pytest.mark.parametrize(
    "view_options",
    [
        {"crop": "padded", "flip": True},
        {"crop": "padded", "teacher_view": "function_matching", "mixup": 1.0},
    ],
    ids=["crop", "mixup"],
)
def test_two_devices_give_the_result_of_one(view_options):
    # With this seed, rounding pushes no unit across its ReLU.
    (one, _), (two, _) = (
        Run(resnet(parallel.AXIS), resnet(), count, views=view_options, seed=4)(3)
        for count in (1, 2)
    )
    chex.assert_trees_all_close(one.variables, two.variables, atol=2e-6)


def test_four_devices_give_the_result_of_one():
    script = """
        import chex, sys
        sys.path.insert(0, "tests")
        import test_train as t
        from kdjax import parallel
        (one, _), (four, _) = (
            t.Run(t.resnet(parallel.AXIS), t.resnet(), n)(2) for n in (1, 4)
        )
        chex.assert_trees_all_close(one.variables, four.variables, atol=2e-6)
        print("equal on", len(parallel.Devices.dividing(8)))
    """
    import os

    flags = os.environ["XLA_FLAGS"].replace("device_count=2", "device_count=4")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "equal on 4", done.stderr


def test_unsynchronised_batch_norm_depends_on_the_shards():
    (one, _), (two, _) = (Run(resnet(), resnet(), count)(1) for count in (1, 2))
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.params, two.params)
    assert max(jax.tree.leaves(difference)) > 1e-4


def test_steps_in_one_call_equal_steps_in_several():
    run = Run(resnet(parallel.AXIS), resnet(), views={"crop": "padded"})
    single, history = run(4)
    grouped, means = run(4, per_call=2)
    chex.assert_trees_all_close(single, grouped, atol=1e-6)
    pairs = np.reshape([m["loss"] for m in history], (2, 2))
    np.testing.assert_allclose([m["loss"] for m in means], pairs.mean(1), rtol=1e-5)


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    whole, _ = Run(linear(), linear())(3)
    parts, _ = Run(linear(), linear(), grad_accum_steps=2)(3)
    chex.assert_trees_all_close(whole.params, parts.params, atol=1e-6)


def test_a_teacher_can_normalise_by_batch_statistics():
    options = {"views": {"crop": "none", "flip": False}, "terms": {"kd": (1.0, distillers.kd())}}
    run = Run(resnet(), resnet(parallel.AXIS), teacher_batch_norm="batch", **options)
    _, (metrics,) = run(1)
    index = batches.positions(40, BATCH, 0, 0)
    images = views.as_pixels(run.split.images[index])
    key = jax.random.key(0)
    student, _ = resnet().train(run.state.variables, images, key)
    teacher, _ = resnet().train(jax.device_get(run.teachers.variables[0]), images, key)
    # The student's statistics are those of each device's shard, the teacher's of the whole batch.
    halves = [resnet().train(run.state.variables, x, key)[0].logits for x in jnp.split(images, 2)]
    expected = losses.kd(jnp.concatenate(halves), teacher.logits).mean()
    np.testing.assert_allclose(metrics["kd"], expected, rtol=1e-4)
    assert not np.allclose(student.logits, jnp.concatenate(halves))


def test_ema_is_the_moving_average_of_the_students_variables():
    run = Run(linear(), linear(), ema_decay=0.9)
    first, second = run(1)[0], run(2)[0]
    for decay, before, after in ((0.1, run.state.ema, first), (2 / 11, first.ema, second)):
        expected = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * p, before["params"], after.params
        )
        chex.assert_trees_all_close(after.ema["params"], expected, rtol=1e-5)
    chex.assert_trees_all_equal(second.eval_variables, second.ema)


def test_the_step_is_traced_once():
    run = Run(resnet(parallel.AXIS), resnet())
    chex.clear_trace_counter()
    inner = train.make_train_step(
        student=resnet(parallel.AXIS),
        teachers=[resnet()],
        distiller=distillers.weighted_sum(**KD),
        optimizer=optimizers.create("sgd", 0.1, weight_decay=1e-3),
        views=views.make_views(num_classes=CLASSES, image_size=8),
        axis_name=parallel.AXIS,
    )
    run.step = run.devices.map(
        chex.assert_max_traces(inner, n=1), in_axes=(None, None, None, 0, None)
    )
    state, _ = run(3)
    assert state.step == 3


def test_parameters_of_methods_are_trained_and_their_state_is_carried():
    def init(rng, context):
        assert context.student.logits.shape == (BATCH, CLASSES)
        return {"params": {"scale": jnp.ones(())}, "state": {"calls": jnp.zeros((), jnp.int32)}}

    def loss(variables, context):
        value = (variables["params"]["scale"] - 3.0) ** 2 + 0.0 * jnp.sum(context.student.logits)
        return MethodLoss(value, {"calls": variables["state"]["calls"] + 1}, {"own": value})

    state, history = Run(
        linear(), linear(), terms={"mine": (1.0, Distiller(init, loss))}, learning_rate=0.25
    )(2)
    # d/ds (s - 3)^2 = 2 (s - 3), with weight decay 1e-3: 1 -> 1.99975 -> ...
    first = 1 - 0.25 * (2 * (1 - 3) + 1e-3)
    second = first - 0.25 * (2 * (first - 3) + 1e-3 * first) - 0.25 * 0.9 * (2 * (1 - 3) + 1e-3)
    np.testing.assert_allclose(state.method_params["mine"]["scale"], second, rtol=1e-5)
    assert state.method_state["mine"]["calls"] == 2
    np.testing.assert_allclose(history[0]["mine/own"], 4.0)


def test_a_method_can_tell_the_views_of_a_step_apart():
    numbers = []

    def loss(variables, context):
        numbers.append(context.view)
        return MethodLoss(jnp.mean(context.student.logits), variables["state"], {})

    parts = dict(
        student=linear(),
        distiller=Distiller(lambda rng, context: {"params": {}, "state": {}}, loss),
        optimizer=optimizers.create("sgd", 0.1),
    )
    view = views.make_views(num_classes=CLASSES, image_size=8, crop="none", flip=False)
    step = train.make_train_step(**parts, views=[view] * 3)
    state = train.init_state(
        jax.random.key(1), **parts, image_shape=SHAPE, num_classes=CLASSES, batch_size=BATCH
    )
    batch = {"index": jnp.arange(BATCH)[None]}
    data = batches.resident(make_split())
    jax.eval_shape(step, state, TeacherInputs(()), data, batch, jax.random.key(0))
    assert set(numbers) == {0, 1, 2}


def test_a_scheduled_weight_depends_on_the_step():
    terms = {
        "cross_entropy": (1.0, distillers.cross_entropy()),
        "kd": (optax.piecewise_constant_schedule(1.0, {1: 0.0}), distillers.kd()),
    }
    _, (first, second) = Run(linear(), linear(), terms=terms)(2)
    np.testing.assert_allclose(first["loss"], first["cross_entropy"] + first["kd"], rtol=1e-6)
    np.testing.assert_allclose(second["loss"], second["cross_entropy"], rtol=1e-6)
    assert second["kd/weight"] == 0


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32():
    module = models.create("resnet8", num_classes=CLASSES, in_channels=1, dtype=jnp.bfloat16)
    student = Network(module, (0.4,), (0.3,))
    state, (metrics,) = Run(student, student)(1)
    chex.assert_type(jax.tree.leaves(state.variables), jnp.float32)
    assert np.isfinite(metrics["loss"])
    taps = jax.eval_shape(student.evaluate, state.variables, jnp.zeros((1, *SHAPE))).taps
    assert taps["stage1"].dtype == jnp.bfloat16


def test_evaluation_of_an_example_is_independent_of_the_rest_of_the_batch():
    network = resnet()
    variables = network.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    split = make_split()
    step = jax.jit(train.make_eval_step(network, 8))
    data = batches.resident(split)
    whole = step(variables, data, {"index": np.arange(8)})
    part = step(variables, data, {"index": np.array([3] * 8)})
    chex.assert_shape(whole, (8, CLASSES))
    np.testing.assert_allclose(part, np.tile(whole[3], (8, 1)), atol=1e-5)


def test_images_too_small_for_a_network_are_a_clear_error():
    class Strided(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            x = nn.Conv(2, (5, 5), padding="VALID")(images)
            return Outputs(jnp.mean(x, (1, 2)), {"stem": x})

    with pytest.raises(UserError, match=r"Strided cannot take images of shape \(3, 3, 1\)"):
        train.abstract_outputs(Network(Strided(), (0.5,), (0.5,)), (3, 3, 1))


def test_losses_and_types_are_public():
    assert kdjax.Outputs is Outputs
    assert set(losses.__all__) >= {"cross_entropy", "kd"}


def several(students, *, shared):
    """A step for linear students of several seeds, with one batch and key each or for all."""
    run = Run(linear(), resnet(), several_seeds=True)
    states = [
        run.devices.replicate(
            dataclasses.replace(
                run.state,
                params=linear().init(jax.random.key(seed), jnp.zeros((1, *SHAPE)))["params"],
            )
        )
        for seed in range(students)
    ]
    streams = range(1 if shared else students)
    keys = tuple(run.devices.replicate(jax.random.key(10 + i)) for i in streams)
    batch = tuple(
        {"index": run.devices.shard(batches.positions(40, BATCH, i, 0)[None], axis=1)}
        for i in streams
    )
    return run, (tuple(states), (run.teachers,), run.data, batch, keys)


@pytest.mark.parametrize("shared", [False, True])
def test_students_of_several_seeds_train_as_each_would_alone(shared):
    run, (states, teachers, data, batch, keys) = several(3, shared=shared)
    after, metrics = run.step(states, teachers, data, batch, keys)
    for i, state in enumerate(states):
        alone = Run(linear(), resnet())
        expected = alone.step(
            state, teachers[0], data, parallel.for_member(batch, i), parallel.for_member(keys, i)
        )
        chex.assert_trees_all_close((after[i], metrics[i]), expected, rtol=1e-5, atol=1e-6)


def test_the_teacher_is_computed_once_if_seeds_share_their_views():
    def convolutions(students, shared):
        run, arguments = several(students, shared=shared)
        # The students are linear, so all convolutions are the teacher's.
        return run.step.lower(*arguments).compile().as_text().count(" convolution(")

    alone = convolutions(1, True)
    assert alone > 0
    assert convolutions(3, True) == alone
    assert convolutions(3, False) == 3 * alone


def test_given_teacher_logits_replace_the_computed_ones():
    run = Run(linear(), resnet(), terms={"kd": (1.0, distillers.kd())})
    logits = np.random.default_rng(5).normal(size=(40, CLASSES)).astype(np.float32)
    run.teachers = run.teachers._replace(logits=run.devices.replicate((logits,)))
    _, (metrics,) = run(1)
    index = batches.positions(40, BATCH, 0, 0)
    student = linear().evaluate(
        {"params": run.state.params}, run.split.images[index].astype(np.float32) / 255
    )
    np.testing.assert_allclose(
        metrics["loss"], losses.kd(student.logits, logits[index]).mean(), rtol=1e-5
    )


def test_the_metrics_compare_the_student_with_its_teacher_on_the_images_it_is_trained_on():
    run = Run(linear(), resnet())
    _, (metrics,) = run(1)
    index = batches.positions(40, BATCH, 0, 0)
    images = views.as_pixels(run.split.images[index])
    student = linear().evaluate({"params": run.state.params}, images).logits
    teacher = resnet().evaluate(jax.device_get(run.teachers.variables[0]), images).logits
    agreement = np.mean(np.argmax(student, -1) == np.argmax(teacher, -1))
    assert metrics["agreement"] == pytest.approx(agreement)
    np.testing.assert_allclose(
        metrics["kl"], losses.kd(student, teacher, temperature=1).mean(), 1e-4
    )


@pytest.mark.parametrize("method", ["cross_entropy", "fitnet"])
def test_a_teacher_whose_logits_no_method_looks_at_is_not_run_to_its_end(method):
    """Or not at all, as where a student from scratch is only measured against it."""
    terms = {method: (1.0, distillers.create(method))}

    def products(terms):
        run = Run(resnet(), resnet(), 1, terms=terms)
        batch = {"index": run.devices.shard(np.arange(BATCH, dtype=np.int32)[None], axis=1)}
        lowered = run.step.lower(run.state, run.teachers, run.data, batch, run.key)
        assert ("agreement" in lowered.out_info[1]) == ("kd" in terms)
        return lowered.compile().as_text().count(" convolution(")

    assert products(terms) < products(terms | {"kd": (1.0, distillers.kd())})


def test_teacher_logits_can_differ_between_seeds():
    run, (states, (teachers,), data, batch, keys) = several(2, shared=True)
    rng = np.random.default_rng(5)
    each = tuple(
        teachers._replace(
            logits=run.devices.replicate((rng.normal(size=(40, CLASSES)).astype(np.float32),))
        )
        for _ in states
    )
    after, _ = run.step(states, each, data, batch, keys)
    for i, state in enumerate(states):
        alone, _ = Run(linear(), resnet()).step(state, each[i], data, batch[0], keys[0])
        chex.assert_trees_all_close(after[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "student", "needed"), [("kd", linear(), False), ("sp", resnet(), True)]
)
def test_a_teacher_with_given_logits_is_computed_only_if_its_features_are_used(
    method, student, needed
):
    def convolutions(logits_given):
        run = Run(student, resnet(), terms={method: (1.0, distillers.create(method))})
        if logits_given:
            logits = np.zeros((40, CLASSES), np.float32)
            run.teachers = run.teachers._replace(logits=run.devices.replicate((logits,)))
        batch = {"index": run.devices.shard(np.arange(BATCH)[None], axis=1)}
        arguments = (run.state, run.teachers, run.data, batch, run.key)
        return run.step.lower(*arguments).compile().as_text().count(" convolution(")

    computed, given = convolutions(False), convolutions(True)
    assert (given == computed) if needed else (given == 0 < computed)


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_first_phases_change_only_what_their_loss_reaches(method, grad_accum_steps):
    """The classifier enters the second phase as it was initialised, despite the weight decay."""
    terms = {method: (1.0, distillers.create(method))}
    run = Run(resnet(), resnet(), terms=terms, grad_accum_steps=grad_accum_steps)
    after, _ = run(2)
    before = run.state.params
    equal = jax.tree.map(np.array_equal, after.params, before)
    unchanged = {layer for layer, leaves in equal.items() if all(jax.tree.leaves(leaves))}
    assert unchanged == {"fc"}


def test_beside_the_labels_every_parameter_is_trained(monkeypatch):
    """So that the step is the one it was, whatever is done for the first phases.

    Methods that train another network than the student keep parts of it as they are.
    """
    methods = {name: distillers.create(name) for name in distillers.names()}
    keeps = Distiller._field_defaults["network"]
    terms = {name: (1.0, method) for name, method in methods.items() if method.network is keeps}
    run = Run(resnet(), resnet(), 1, terms=terms)
    found = []

    def record(function, inputs):
        found.append(dependencies(function, inputs))
        return found[-1]

    dependencies = train.dependencies
    monkeypatch.setattr(train, "dependencies", record)
    batch = {"index": run.devices.shard(np.arange(BATCH, dtype=np.int32)[None], axis=1)}
    run.step.lower(run.state, run.teachers, run.data, batch, run.key)
    assert len(found) == 1
    trained, _ = found[0]
    assert all(jax.tree.leaves(trained))


def _trained_teacher(network):
    """Variables whose batch norms are no identities."""
    variables = network.init(jax.random.key(7), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + rng.uniform(0, 0.5, x.shape).astype(np.float32), variables)


@pytest.mark.parametrize(
    "options",
    [
        {"elementwise": True, "ema_decay": 0.9},
        {"elementwise": True, "grad_accum_steps": 2},
        {"elementwise": True, "teacher_batch_norm": "batch"},
        {"elementwise": False},
    ],
    ids=str,
)
def test_a_step_for_accelerators_does_what_one_for_the_cpu_does(monkeypatch, options):
    """Steps are scanned, parameters are one vector, and the teacher's batch norms are folded."""
    module = Tiny(num_classes=CLASSES, in_channels=1)
    student, teacher = (Network(module, (0.4,), (scale,)) for scale in (0.3, 0.4))
    variables = _trained_teacher(teacher)
    found = []
    for on_cpu in (True, False):
        monkeypatch.setattr(parallel, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        run = Run(student, teacher, **options)
        run.teachers = run.devices.replicate(TeacherInputs((variables,)))
        found.append(run(4, per_call=4))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)
