"""Methods that apply classifiers to maps, or train another network, or a temperature."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import distillers, heads, losses, train
from kdjax.data import views
from kdjax.types import Context, Network, Outputs, TeacherInputs, UserError

B, CLASSES = 4, 5


class Pooled(nn.Module):
    """A convolution, its mean, and a linear layer; images of 8x8 have maps of 8x8."""

    width: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Dense(self.width, use_bias=False)(images))
        pooled = x.mean((1, 2))
        return Outputs(nn.Dense(CLASSES)(pooled), {"pre_pool": x, "pre_logits": pooled})


STUDENT, TEACHER = (Network(Pooled(width), (0.5,), (0.25,)) for width in (3, 4))


def _random(seed, width):
    """A network's outputs for random maps, and its variables."""
    draw = np.random.default_rng(seed).normal
    kernel, bias = draw(size=(width, CLASSES)), 0.1 * np.arange(CLASSES)
    features = np.maximum(draw(size=(B, 8, 8, width)), 0)
    pooled = features.mean((1, 2))
    params = {"Dense_0": {"kernel": draw(size=(1, width))}}
    params["Dense_1"] = {"kernel": kernel, "bias": bias}
    outputs = Outputs(pooled @ kernel + bias, {"pre_pool": features, "pre_logits": pooled})
    return jax.tree.map(jnp.float32, (outputs, {"params": params}))


@functools.cache
def _context():
    (of_student, student), (of_teacher, teacher) = _random(0, 3), _random(1, 4)
    # The teacher is right about two of the images.
    labels = (np.asarray(of_teacher.logits).argmax(-1) + np.array([0, 0, 1, 2])) % CLASSES
    return Context(
        student=of_student,
        teachers=(of_teacher,),
        labels=jax.nn.one_hot(labels, CLASSES),
        index=jnp.arange(B),
        step=jnp.int32(0),
        rng=jax.random.key(0),
        student_variables=student,
        teacher_variables=(teacher,),
    )


def _loss(distiller, context):
    nothing = {kind: {"teacher0": {}} for kind in ("params", "state")}
    return distiller.loss(nothing, context).value


def test_the_first_cell_of_sdd_is_the_whole_image():
    """KD and DKD are SDD of one cell."""
    context = _context()
    logits, labels = (context.student.logits, context.teacher.logits), context.labels.argmax(-1)
    actual = _loss(distillers.sdd(scales=(1,)), context)
    np.testing.assert_allclose(actual, losses.kd(*logits), rtol=1e-4)
    actual = _loss(distillers.sdd(form="dkd", beta=2.0, scales=(1,)), context)
    np.testing.assert_allclose(actual, losses.dkd(*logits, labels, beta=2.0), rtol=1e-4)


def test_the_cells_of_sdd_are_quarters_and_sixteenths_of_the_image():
    """Written out for each; the teacher is right about some and wrong about others."""
    context = _context()
    labels, weights = np.asarray(context.labels).argmax(-1), {}
    expected = np.zeros(B)
    for side in (1, 2, 4):
        step = 8 // side
        for i in range(side):
            for j in range(side):
                logits = []
                for outputs, variables in (
                    (context.student, context.student_variables),
                    (context.teacher, context.teacher_variables[0]),
                ):
                    part = outputs.taps["pre_pool"][:, i * step :, j * step :][:, :step, :step]
                    layer = variables["params"]["Dense_1"]
                    logits.append(part.mean((1, 2)) @ layer["kernel"] + layer["bias"][None])
                right = np.asarray(logits[1].argmax(-1) == labels)
                weights[side, i, j] = np.where(right == weights.setdefault("whole", right), 1, 2)
                expected += weights[side, i, j] * np.asarray(losses.kd(*logits)) / 21
    assert {1, 2} == set(np.concatenate([w for key, w in weights.items() if key != "whole"]))
    np.testing.assert_allclose(_loss(distillers.sdd(), context), expected, rtol=1e-4)


def test_cat_compares_class_maps_at_each_position():
    """Not pooled, and without biases."""
    context = _context()
    maps = [
        outputs.taps["pre_pool"] @ variables["params"]["Dense_1"]["kernel"]
        for outputs, variables in (
            (context.student, context.student_variables),
            (context.teacher, context.teacher_variables[0]),
        )
    ]
    expected = np.mean(np.square(maps[0] - maps[1]), axis=(1, 2, 3))
    np.testing.assert_allclose(_loss(distillers.cat(size=8), context), expected, rtol=1e-4)
    unit = [m / np.linalg.norm(np.reshape(m, (B, 64, -1)), axis=1)[:, None, None] for m in maps]
    expected = np.mean(np.square(unit[0] - unit[1]), axis=(1, 2, 3))
    actual = _loss(distillers.cat(size=8, normalize=True), context)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["cat", "sdd"])
def test_the_students_classifier_is_trained_and_the_teachers_is_not(name):
    """By the train step, whose weight decay leaves parameters alone that the loss does not reach."""
    distiller = distillers.create(name)
    optimizer = optax.sgd(0.1)
    (teacher,) = _context().teacher_variables
    state = train.init_state(
        jax.random.key(0), student=STUDENT, distiller=distiller, optimizer=optimizer,
        image_shape=(8, 8, 1), num_classes=CLASSES, batch_size=B, teachers=[TEACHER],
        teacher_variables=[teacher], init_variables=_context().student_variables,
    )  # fmt: skip
    step = train.make_train_step(
        student=STUDENT, distiller=distiller, optimizer=optimizer, teachers=[TEACHER],
        views=views.make_views(num_classes=CLASSES, image_size=8, crop="none", flip=False),
    )  # fmt: skip
    data = {
        "images": jnp.asarray(np.random.default_rng(0).integers(0, 256, (B, 8, 8, 1)), jnp.uint8),
        "labels": jnp.arange(B),
    }

    @jax.jit
    def after(variables):
        seen = TeacherInputs((variables,))
        new, metrics = step(state, seen, data, {"index": jnp.arange(B)[None]}, jax.random.key(0))
        return metrics["loss"], new.params

    (_, params), gradient = jax.value_and_grad(after, has_aux=True)(teacher)
    assert not np.allclose(params["Dense_1"]["kernel"], state.params["Dense_1"]["kernel"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["params"]["Dense_1"]))


def test_the_temperature_of_ctkd_ascends_what_the_student_descends():
    context = _context()
    schedule = lambda step: 0.25 * step  # noqa: E731
    distiller = distillers.ctkd(reversal=schedule)
    variables = distiller.init(jax.random.key(0), context)

    def loss(theta, step):
        params = {"teacher0": {"theta": theta}}
        seen = context.replace(step=step)
        term = distiller.loss({"params": params, "state": variables["state"]}, seen)
        return jnp.mean(term.value), term.metrics["teacher0/temperature"]

    def plain(theta):
        temperature = 1 + 20 * jax.nn.sigmoid(theta)
        return jnp.mean(
            losses.kd(context.student.logits, context.teacher.logits, temperature=temperature)
        )

    theta = variables["params"]["teacher0"]["theta"]
    expected, slope = jax.value_and_grad(plain)(theta)
    for step in (0, 2):
        (value, temperature), gradient = jax.value_and_grad(loss, has_aux=True)(
            theta, jnp.float32(step)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(temperature, 15.6212, rtol=1e-5)
        np.testing.assert_allclose(gradient, -0.25 * step * slope, rtol=1e-5)
    assert slope != 0


def test_simkd_is_the_squared_error_at_the_smaller_size():
    """A network with maps of 2x2 and a teacher with maps of 8x8."""
    teacher = _context().teacher
    projected = jax.random.normal(jax.random.key(3), (B, 2, 2, 4))
    context = _context().replace(student=Outputs(teacher.logits, {"projected": projected}))
    quarters = np.asarray(teacher.taps["pre_pool"]).reshape(B, 2, 4, 2, 4, 4).mean((2, 4))
    actual = distillers.simkd().loss({"params": {}, "state": {}}, context).value
    expected = np.mean(np.square(projected - quarters), axis=(1, 2, 3))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_simkd_refuses_a_student_with_its_own_classifier():
    """Nothing would train it."""
    with pytest.raises(UserError, match=r"which simkd\(\).network makes of the student$"):
        distillers.simkd().init(jax.random.key(0), _context())
    with pytest.raises(UserError, match=r"which simkd\(\).network makes of the student$"):
        distillers.simkd().adopt(_context().student_variables, _context().teacher_variables)
    shapes, _ = train.abstract_outputs(TEACHER, (8, 8, 1))
    network = distillers.simkd().network(STUDENT, [shapes])
    with pytest.raises(UserError, match="only one term of an objective can be simkd"):
        distillers.simkd().network(network, [shapes])


def test_a_classifier_is_found_by_its_shape_or_reported():
    layers = {"a": {"kernel": jnp.ones((3, 5))}, "b": {"inner": {"kernel": jnp.zeros((4, 5))}}}
    kernel, bias = heads.linear("it", {"params": layers}, (4, 5))
    np.testing.assert_array_equal(kernel, np.zeros((4, 5)))
    np.testing.assert_array_equal(bias, np.zeros(5))
    layers["c"] = layers["b"]["inner"]
    for shape, count in (((4, 5), 2), ((5, 4), 0)):
        with pytest.raises(UserError, match=f"^it has {count} linear layers from {shape[0]} feat"):
            heads.linear("it", {"params": layers}, shape)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: distillers.sdd(form="mse"), "unknown form 'mse' of sdd: choose from kd, dkd"),
        (lambda: distillers.sdd(scales=(2, 4)), r"scales of sdd are \(2, 4\): positive integers"),
        (lambda: distillers.cat(size=0), "size of cat is 0: it must be positive"),
        (lambda: distillers.simkd(factor=0), "factor of simkd is 0: it must be positive"),
        (
            lambda: distillers.create("kd", temperature=lambda step: 1.0),
            "argument temperature of method 'kd' cannot follow a schedule",
        ),
    ],
)
def test_bad_arguments_are_one_line_errors(create, message):
    with pytest.raises(UserError, match=message):
        create()
