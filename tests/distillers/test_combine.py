import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, losses
from kdjax.types import Context, Distiller, MethodLoss, Outputs, UserError


def _outputs(seed, b=4, k=3):
    logits = np.random.default_rng(seed).normal(size=(b, k)).astype(np.float32)
    return Outputs(jnp.asarray(logits), {})


def _context(step=0, teachers=1):
    return Context(
        student=_outputs(0),
        teachers=tuple(_outputs(1 + i) for i in range(teachers)),
        labels=jnp.eye(3)[jnp.array([0, 1, 2, 0])],
        index=jnp.arange(4),
        step=jnp.int32(step),
        rng=jax.random.key(0),
    )


def _counter(start):
    """A method with a parameter, a state that counts calls, and metrics."""

    def init(rng, context):
        return {"params": {"w": jnp.float32(start)}, "state": {"calls": jnp.int32(0)}}

    def loss(variables, context):
        calls = variables["state"]["calls"] + 1
        value = variables["params"]["w"] * jnp.arange(4.0)
        noise = jax.random.uniform(context.rng)
        return MethodLoss(value, {"calls": calls}, {"calls": calls, "noise": noise})

    return Distiller(init, loss)


def _evaluate(distiller, context):
    return distiller.loss(distiller.init(jax.random.key(0), context), context)


def test_weighted_sum_is_the_sum_of_weighted_means():
    context = _context()
    both = distillers.weighted_sum(
        label=(0.1, distillers.cross_entropy()), kd=(0.9, distillers.kd(temperature=2.0))
    )
    ce = losses.cross_entropy(context.student.logits, context.labels).mean()
    kd = losses.kd(context.student.logits, context.teachers[0].logits, temperature=2.0).mean()
    value, state, metrics, separated = _evaluate(both, context)
    chex.assert_shape(value, ())
    np.testing.assert_allclose(value, 0.1 * ce + 0.9 * kd, rtol=1e-6)
    np.testing.assert_allclose(separated, (0.1 * ce, 0.9 * kd), rtol=1e-6)
    chex.assert_trees_all_close(metrics, {"label": ce, "kd": kd}, rtol=1e-6)
    assert state == {"label": {}, "kd": {"teacher0": {}}}


def test_a_scheduled_weight_depends_on_the_step_and_is_logged():
    method = distillers.weighted_sum(
        ce=(lambda step: jnp.where(step < 5, 2.0, 0.0), distillers.cross_entropy())
    )
    plain = losses.cross_entropy(_context().student.logits, _context().labels).mean()
    for step, weight in ((4, 2.0), (5, 0.0)):
        value, _, metrics, _ = _evaluate(method, _context(step))
        np.testing.assert_allclose(value, weight * plain, rtol=1e-6)
        assert metrics["ce/weight"] == weight
        np.testing.assert_allclose(metrics["ce"], plain, rtol=1e-6)


def test_terms_have_separate_parameters_state_metrics_and_keys():
    method = distillers.weighted_sum(a=(1.0, _counter(1.0)), b=(10.0, _counter(2.0)))
    variables = method.init(jax.random.key(0), _context())
    chex.assert_trees_all_equal(
        variables,
        {
            "params": {"a": {"w": jnp.float32(1)}, "b": {"w": jnp.float32(2)}},
            "state": {"a": {"calls": jnp.int32(0)}, "b": {"calls": jnp.int32(0)}},
        },
    )
    value, state, metrics, _ = method.loss(variables, _context())
    assert value == 1.5 + 10 * 3.0
    assert state == {"a": {"calls": 1}, "b": {"calls": 1}}
    assert metrics["a/calls"] == 1
    assert metrics["a/noise"] != metrics["b/noise"]


def test_terms_are_initialised_with_different_keys():
    def init(rng, context):
        return {"params": jax.random.normal(rng, (3,)), "state": {}}

    method = Distiller(init, lambda variables, context: MethodLoss(0.0, {}, {}))
    params = distillers.weighted_sum(a=(1.0, method), b=(1.0, method)).init(
        jax.random.key(0), _context()
    )["params"]
    assert not np.allclose(params["a"], params["b"])


def test_gradients_of_a_term_are_scaled_by_its_weight():
    method = distillers.weighted_sum(a=(1.0, _counter(1.0)), b=(10.0, _counter(2.0)))
    variables = method.init(jax.random.key(0), _context())

    def objective(params):
        return method.loss(variables | {"params": params}, _context()).value

    gradient = jax.grad(objective)(variables["params"])
    chex.assert_trees_all_close(
        gradient, {"a": {"w": jnp.float32(1.5)}, "b": {"w": jnp.float32(15)}}
    )


def test_weighted_sums_can_be_nested():
    context = _context()
    inner = distillers.weighted_sum(ce=(0.5, distillers.cross_entropy()))
    outer = distillers.weighted_sum(x=(2.0, inner), kd=(1.0, distillers.kd()))
    flat = distillers.weighted_sum(ce=(1.0, distillers.cross_entropy()), kd=(1.0, distillers.kd()))
    value, _, metrics, separated = _evaluate(outer, context)
    np.testing.assert_allclose(value, _evaluate(flat, context).value, rtol=1e-6)
    np.testing.assert_allclose(separated, _evaluate(flat, context).separated, rtol=1e-6)
    assert set(metrics) == {"x", "x/ce", "kd"}


def test_losses_are_averaged_over_teachers():
    context = _context(teachers=2)
    student = context.student.logits
    expected = (losses.kd(student, context.teachers[0].logits) / 2) + (
        losses.kd(student, context.teachers[1].logits) / 2
    )
    np.testing.assert_allclose(_evaluate(distillers.kd(), context).value, expected, rtol=1e-5)


def test_a_missing_teacher_is_reported():
    with pytest.raises(UserError, match="method 'kd' needs a teacher"):
        distillers.kd().init(jax.random.key(0), _context(teachers=0))


def test_a_teacher_with_other_classes_is_refused():
    context = _context().replace(teachers=(_outputs(1), _outputs(1, k=7)))
    with pytest.raises(UserError, match="'kd': the teacher has 7 classes, the student 3"):
        distillers.kd().init(jax.random.key(0), context)


def test_a_method_on_a_part_is_that_method_on_its_rows_alone():
    whole = dataclasses.replace(_context(), labelled=(1, 4))
    rows = {"labelled": slice(1, 4), "unlabelled": slice(0, 1)}
    for part, chosen in rows.items():
        alone = dataclasses.replace(
            whole,
            labelled=None,
            **{
                key: jax.tree.map(lambda x, chosen=chosen: x[chosen], getattr(whole, key))
                for key in ("student", "teachers", "labels", "index")
            },
        )
        value = _evaluate(distillers.on_part(part, distillers.kd()), whole).value
        np.testing.assert_allclose(value, _evaluate(distillers.kd(), alone).value.mean(), rtol=1e-6)
    labels = _evaluate(distillers.on_part("labelled", distillers.cross_entropy()), whole)
    np.testing.assert_allclose(labels.separated, (labels.value, 0))
    everywhere = distillers.kd()
    assert distillers.on_part("all", everywhere) is everywhere


def test_a_part_without_images_or_of_another_name_is_refused():
    with pytest.raises(UserError, match="is on unlabelled images, and there are none"):
        _evaluate(distillers.on_part("unlabelled", distillers.kd()), _context())
    with pytest.raises(UserError, match="unknown part 'half' of a batch: choose from all"):
        distillers.on_part("half", distillers.kd())
