"""Properties that all methods share.

Every method exported by kdjax.distillers is tested with its default arguments; nothing has to
be registered here.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import checkpoint, distillers, parallel, train
from kdjax.data import views
from kdjax.types import Context, Network, Outputs, TeacherInputs, UserError

CLASSES, SIDE, EXAMPLES = 5, 16, 12


class Tiny(nn.Module):
    """A network with all taps of the real ones, in stages 16, 8 and 4 pixels wide."""

    widths: tuple[int, int, int]

    @nn.compact
    def __call__(self, x, train=False):
        taps = {}

        def layer(x, width, stride):
            x = x[:, ::stride, ::stride]
            x = nn.Dense(width, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = taps["stem"] = nn.relu(layer(x, self.widths[0], 1))
        for stage, width in enumerate(self.widths, start=1):
            x = taps[f"stage{stage}_pre"] = layer(x, width, min(stage, 2))
            x = taps[f"stage{stage}"] = nn.relu(x)
        taps["pre_pool"] = x
        x = taps["pre_logits"] = x.mean((1, 2))
        return Outputs(nn.Dense(CLASSES)(x), taps)


STUDENT = Network(Tiny((3, 4, 6)), (0.5,), (0.25,))
TEACHER = Network(Tiny((4, 6, 8)), (0.4,), (0.3,))


def _images(seed, b):
    return np.random.default_rng(seed).integers(0, 256, (b, SIDE, SIDE, 1)).astype(np.uint8)


@functools.cache
def _student(name):
    """The network that a method trains in place of STUDENT, which it is for most."""
    shapes, _ = train.abstract_outputs(TEACHER, (SIDE, SIDE, 1))
    return distillers.create(name).network(STUDENT, [shapes])


@functools.partial(jax.jit, static_argnums=0)
def _networks(network, images):
    """The variables and the outputs of both networks with random weights."""
    student = network.init(jax.random.key(1), images)
    teacher = TEACHER.init(jax.random.key(2), images)
    return student, teacher, network.evaluate(student, images), TEACHER.evaluate(teacher, images)


def _context(name, seed=0, b=4):
    """A train step's context, from networks with random weights."""
    return _context_of(_student(name), seed, b)


@functools.cache
def _context_of(network, seed, b):
    images = views.as_pixels(jnp.asarray(_images(seed, b)))
    student, teacher, student_outputs, teacher_outputs = _networks(network, images)
    labels = np.random.default_rng(3).integers(0, CLASSES, EXAMPLES).astype(np.int32)
    index = jnp.arange(seed, seed + b, dtype=jnp.int32)
    return Context(
        student=student_outputs,
        teachers=(teacher_outputs,),
        labels=jax.nn.one_hot(labels[index], CLASSES),
        index=index,
        step=jnp.int32(seed),
        rng=jax.random.key(seed),
        student_variables=student,
        teacher_variables=(teacher,),
        train_labels=jnp.asarray(labels),
    )


def _normal(context):
    """A context of the same shapes whose outputs are standard normal."""
    keys = iter(jax.random.split(jax.random.key(5), 100))
    normal = lambda tree: jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), tree)  # noqa: E731
    return context.replace(student=normal(context.student), teachers=normal(context.teachers))


def _abstract(context):
    """The context as passed to `init`, with shapes for arrays."""
    shapes = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree
    )
    return context.replace(
        student=shapes(context.student),
        teachers=shapes(context.teachers),
        labels=shapes(context.labels),
        index=shapes(context.index),
        step=shapes(context.step),
    )


@functools.partial(jax.jit, static_argnums=0)
def _variables(name, context):
    return distillers.create(name).init(jax.random.key(0), _abstract(context))


def _init(name, context):
    return distillers.create(name), _variables(name, context)


def _objective(distiller, variables, context):
    def objective(student, params):
        seen = context.replace(student=student)
        term = distiller.loss({"params": params, "state": variables["state"]}, seen)
        return jnp.mean(term.value), term

    return objective


@functools.partial(jax.jit, static_argnums=0)
def _gradients(name, variables, context):
    objective = _objective(distillers.create(name), variables, context)
    both = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (_, term), gradients = both(context.student, variables["params"])
    return term, gradients


def _value_and_gradients(name, context):
    return _gradients(name, _variables(name, context), context)


@functools.cache
def _uses_logits(name):
    """Whether the loss depends on the student's logits, according to its jaxpr."""
    context = _context(name)
    distiller, variables = _init(name, context)
    context = _abstract(context)

    def loss(logits, variables, context):
        student = context.student._replace(logits=logits)
        return distiller.loss(variables, context.replace(student=student)).value

    # A jaxpr's equations may include unused ones: follow the uses back from the result.
    jaxpr = jax.make_jaxpr(loss)(context.student.logits, variables, context).jaxpr
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if any(id(var) in needed for var in equation.outvars):
            needed |= set(map(id, equation.invars))
    return id(jaxpr.invars[0]) in needed


@functools.cache
def _data():
    images, labels = _images(0, EXAMPLES), np.arange(EXAMPLES, dtype=np.int32) % CLASSES
    return {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}


# Methods that train the same network are parts of one objective: compiling a step of networks
# takes far longer than compiling a method. Those that train another one are by themselves.
_ALONE = [name for name in distillers.names() if _student(name) != STUDENT]
OBJECTIVES = {"all others": [name for name in distillers.names() if name not in _ALONE]} | {
    name: [name] for name in _ALONE
}

every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


@functools.cache
def _state_and_step(objective):
    """The initial state and the train step of an objective, and the teacher's variables."""
    names = OBJECTIVES[objective]
    distiller = distillers.weighted_sum(**{name: (1.0, distillers.create(name)) for name in names})
    optimizer, context = optax.sgd(1e-3, momentum=0.9), _context(names[0])
    init = functools.partial(
        train.init_state,
        student=_student(names[0]),
        distiller=distiller,
        optimizer=optimizer,
        image_shape=(SIDE, SIDE, 1),
        num_classes=CLASSES,
        batch_size=4,
        teachers=[TEACHER],
    )
    state = jax.jit(
        lambda key, teachers, labels: init(key, teacher_variables=teachers, train_labels=labels)
    )(jax.random.key(0), context.teacher_variables, _data()["labels"])
    step = train.make_train_step(
        student=_student(names[0]),
        distiller=distiller,
        optimizer=optimizer,
        views=views.make_views(num_classes=CLASSES, image_size=SIDE, crop="none", flip=False),
        teachers=[TEACHER],
    )
    return state, step, context.teacher_variables


@functools.cache
def _compiled(name):
    """The loss of the ordinary context, compiled as a whole."""
    distiller, variables = _init(name, _context(name))
    return jax.jit(distiller.loss)(variables, _context(name))


every_method = pytest.mark.parametrize("name", distillers.names())


@every_method
def test_loss_returns_a_value_per_example_or_a_scalar_and_keeps_the_structure_of_the_state(name):
    context = _context(name)
    distiller, variables = _init(name, context)
    assert set(variables) == {"params", "state"}
    term = jax.eval_shape(distiller.loss, variables, context)
    assert term.value.shape in ((), (4,))
    assert term.value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(term.state, variables["state"])
    chex.assert_shape(list(term.metrics.values()), ())


@every_method
def test_the_gradient_reaches_the_student_and_the_methods_own_parameters(name):
    _, (student, params) = _value_and_gradients(name, _context(name))
    assert optax.tree.norm(student) > 0
    assert bool(jnp.any(student.logits != 0)) == _uses_logits(name)
    for gradient in jax.tree.leaves(params):
        assert jnp.any(gradient != 0)


@every_method
@pytest.mark.parametrize(("b", "dtype"), [(1, jnp.float32), (4, jnp.bfloat16)])
def test_loss_and_gradients_are_finite(name, dtype, b):
    context = _context(name, b=b)
    cast = lambda outputs: jax.tree.map(lambda x: x.astype(dtype), outputs)  # noqa: E731
    context = context.replace(student=cast(context.student), teachers=cast(context.teachers))
    term, gradients = _value_and_gradients(name, context)
    chex.assert_tree_all_finite((term, gradients))


@every_method
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_loss_and_gradients_are_finite_at_extreme_logits(name, dtype, size):
    if not _uses_logits(name):
        pytest.skip("the loss does not depend on the logits")
    context = _context(name)

    def extreme(outputs, sign):
        logits = size * sign * jnp.sign(outputs.logits)
        return Outputs(logits.astype(dtype), outputs.taps)

    context = context.replace(
        student=extreme(context.student, 1), teachers=(extreme(context.teachers[0], -1),)
    )
    term, gradients = _value_and_gradients(name, context)
    chex.assert_tree_all_finite((term, gradients))


# CTKD begins at T = 15.6: a KL that is rounded to 1e-7 is multiplied by T^2 = 244.
LARGE_TEMPERATURE = {"ctkd": 2.5e-5}


@every_method
def test_jit_equals_eager(name):
    context = _context(name)
    distiller, variables = _init(name, context)
    chex.assert_trees_all_close(
        _compiled(name),
        distiller.loss(variables, context),
        rtol=1e-5,
        atol=LARGE_TEMPERATURE.get(name, 1e-6),
    )


@every_method
def test_steps_share_one_trace(name):
    chex.clear_trace_counter()
    distiller, variables = _init(name, _context(name))
    loss = jax.jit(chex.assert_max_traces(distiller.loss, n=1))
    first = loss(variables, _context(name, seed=0))
    second = loss(variables | {"state": first.state}, _context(name, seed=1))
    assert not np.array_equal(first.value, second.value)


@every_method
def test_init_and_loss_are_deterministic(name):
    context = _context(name)
    variables = _variables(name, context)
    again = distillers.create(name)
    init = jax.jit(lambda context: again.init(jax.random.key(0), _abstract(context)))
    chex.assert_trees_all_equal(init(context), variables)
    chex.assert_trees_all_equal(jax.jit(again.loss)(variables, context), _compiled(name))


@every_objective
def test_no_gradient_reaches_the_teacher(objective):
    state, step, (teacher,) = _state_and_step(objective)
    batch = {"index": jnp.arange(4)[None]}

    def loss(classifier):
        """The loss as a function of the teacher's last layer, which affects only its logits."""
        params = teacher["params"] | {"Dense_4": classifier}
        variables = teacher | {"params": params}
        seen = TeacherInputs((variables,))
        return step(state, seen, _data(), batch, jax.random.key(0))[1]["loss"]

    gradient = jax.jit(jax.grad(loss))(teacher["params"]["Dense_4"])
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


# Losses that are zero, with zero gradient, when student and teacher agree. Opt-in: listing a
# method adds a test. Most others compare through randomly initialised adapters.
ZERO_AT_EQUALITY = {"at", "ctkd", "dkd", "fsp", "kd", "mlkd", "nst", "pkt", "rkd", "sfd", "sp"}


@pytest.mark.parametrize("name", sorted(ZERO_AT_EQUALITY))
def test_equal_outputs_are_the_minimum(name):
    others = _normal(_context(name))
    equal = others.replace(teachers=(others.student,))
    term, (student, _) = _value_and_gradients(name, equal)
    np.testing.assert_allclose(term.value, np.zeros_like(term.value), atol=2e-6)
    assert optax.tree.norm(student) < 1e-3 * optax.tree.norm(
        _value_and_gradients(name, others)[1][0]
    )


@every_method
def test_four_devices_give_the_result_of_one(name):
    n = 4
    # With unit variance, rounding does not push any unit of an adapter across its ReLU.
    context = _normal(_context(name, b=8))
    distiller, variables = _init(name, context)

    def one(student, teachers, labels, index, axis_name):
        seen = context.replace(teachers=teachers, labels=labels, index=index, axis_name=axis_name)
        objective = _objective(distiller, variables, seen)
        both = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (value, term), (to_student, to_params) = both(student, variables["params"])
        mean = (value, to_params, term.metrics)
        return to_student, parallel.pmean(mean, axis_name), term.state

    arguments = (context.student, context.teachers, context.labels, context.index)
    shards = jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), arguments)
    spread = jax.vmap(lambda *shard: one(*shard, parallel.AXIS), axis_name=parallel.AXIS)
    to_student, means, state = jax.jit(spread)(*shards)
    # Each device differentiates the mean over its own shard; the train step averages these.
    to_student = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]) / n, to_student)
    expected = jax.jit(lambda *a: one(*a, None))(*arguments)
    # Gradients through OFD's batch norm are sums over 2,048 pixels whose terms nearly cancel: for
    # five draws of the outputs, they deviated by 1e-5 to 9e-5 of the largest.
    rounding = 2e-4 if name == "ofd" else 1e-5
    for i in range(n):
        actual = (to_student, *jax.tree.map(lambda x, i=i: x[i], (means, state)))
        _assert_close(actual, expected, rounding)


def _assert_close(actual, expected, rounding):
    """Asserts equality up to rounding, relative to the largest element."""
    chex.assert_trees_all_equal_shapes(actual, expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=rounding * max(1.0, np.abs(e).max()))


@every_objective
def test_resuming_from_a_checkpoint_is_exact(objective, tmp_path):
    state, step, variables = _state_and_step(objective)
    step, teachers = jax.jit(step), TeacherInputs(variables)

    def advance(state, start):
        batch = {"index": jnp.arange(start, start + 4, dtype=jnp.int32)[None]}
        return step(state, teachers, _data(), batch, jax.random.key(0))[0]

    state = advance(state, 0)
    stored = checkpoint.Checkpoints(tmp_path / "checkpoints")
    stored.save(1, state, {})
    stored.wait()
    restored, _ = stored.restore(1, state)
    stored.close()
    chex.assert_trees_all_equal(advance(state, 3), advance(jax.tree.map(jnp.asarray, restored), 3))


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# How many times the gradient at standard normal outputs a gradient may be.
#
# Outputs that are zero or equal contribute less to every sum in a loss, not more: unit vectors,
# probabilities, cosines and relative distances are at most about one either way, and a
# difference of student and teacher is at most twice its usual size. Denominators shared with
# other examples (mean distance, sum of similarities) shrink by the share of examples that
# vanish, to one half where half of them do. That is a factor of four, and two more are for the
# luck of the draw. What is divided by something that vanishes is far beyond that: by a
# difference of 1e-7 in one of the b^2 pairs of examples, it is 1e7 / b^2 times as large.
BOUND = 8.0
# Batch norm in an adapter, as in the networks, divides by sqrt(var + 1e-5). Where nothing varies
# in the whole batch, its gradient is thereby 316 times as large as at unit variance. This many
# batch norms follow each other in a method's adapters; methods without are not listed.
BATCH_NORM = 1e-5**-0.5
BATCH_NORMS = {"ab": 1, "fitnet": 1, "ft": 3, "ofd": 1, "review": 2}


def _rows(change):
    """Applies a function of x [b, ...] and its first row [1, ...] to all outputs."""
    return lambda tree: jax.tree.map(lambda x: change(x, x[:1]), tree)


def _nearly(x, first):
    """The first row with differences of 1e-7, the distance of neighbouring floats at one."""
    return first + 1e-7 * jnp.sign(x)


CASES = {
    "one zero row": _rows(lambda x, first: x.at[0].set(0.0)),
    "zero rows": _rows(lambda x, first: x.at[::2].set(0.0)),
    "only zero rows": _rows(lambda x, first: jnp.zeros_like(x)),
    "one duplicate row": _rows(lambda x, first: x.at[1:2].set(first)),
    "duplicate rows": _rows(lambda x, first: x.at[::2].set(first)),
    "only duplicate rows": _rows(lambda x, first: jnp.broadcast_to(first, x.shape)),
    "two nearly equal rows": _rows(lambda x, first: x.at[1:2].set(_nearly(x[1:2], first))),
    "only nearly equal rows": _rows(_nearly),
    "dead channels": _rows(lambda x, first: x.at[..., 0].set(0.0)),
    "dead maps": lambda outputs: outputs._replace(
        taps={name: jnp.zeros_like(x) for name, x in outputs.taps.items()}
    ),
}


# The cases in which nothing varies between examples or pixels.
CONSTANT = {"only zero rows", "only duplicate rows", "only nearly equal rows", "dead maps"}


def _cast(context, dtype):
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)  # noqa: E731
    return context.replace(student=cast(context.student), teachers=cast(context.teachers))


def _value_and_norm(name, context):
    """The mean loss, and the norm of its gradient with respect to the student's outputs."""
    term, (student, _) = _value_and_gradients(name, context)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), student)
    return jnp.mean(term.value), optax.tree.norm(exact)


@every_method
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_bounded_at_zero_equal_and_nearly_equal_outputs(name, dtype):
    ordinary = _normal(_context(name))
    _, usual = _value_and_norm(name, _cast(ordinary, DTYPES[dtype]))
    larger = {}
    for case, change in CASES.items():
        context = ordinary.replace(student=change(ordinary.student))
        value, norm = _value_and_norm(name, _cast(context, DTYPES[dtype]))
        assert jnp.isfinite(value), case
        bound = BOUND * BATCH_NORM ** (BATCH_NORMS.get(name, 0) if case in CONSTANT else 0)
        if not norm <= bound * usual:
            larger[case] = float(norm / usual)
    assert not larger


@every_method
def test_an_unknown_argument_is_reported_with_the_allowed_ones(name):
    with pytest.raises(UserError, match=f"method '{name}' has no argument typo: choose from "):
        distillers.create(name, typo=1)


def test_an_unknown_method_is_reported_with_the_allowed_ones():
    with pytest.raises(UserError, match=r"unknown method 'kdd': choose from .*cross_entropy.*kd"):
        distillers.create("kdd")


def test_names_are_sorted_and_exported():
    assert distillers.names() == sorted(set(distillers.names()))
    for name in distillers.names():
        assert callable(getattr(distillers, name))
        assert name in distillers.__all__
    assert set(distillers.names()) >= ZERO_AT_EQUALITY
