import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import optimizers
from kdjax.types import Separated, UserError

STEPS = 6


def _params():
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }


def _gradients():
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: rng.normal(size=p.shape), _params()) for _ in range(STEPS)]


def _update(optimizer, gradient, state, params):
    """An update by a gradient, or by two parts of it where the optimiser takes them separately."""
    gradient = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradient)
    if not isinstance(optimizer, optimizers.DistillationOriented):
        return optimizer.update(gradient, state, params)
    parts = Separated(*(jax.tree.map(lambda g, x=x: x * g, gradient) for x in (0.3, 0.7)))
    shared = jax.tree.map(lambda _: True, params)
    return optimizer.update(parts, state, params, shared=shared)


def _run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = _update(optimizer, gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def _pytorch_sgd(p, gradients, lr, momentum, nesterov, weight_decay):
    """The algorithm in the documentation of torch.optim.SGD, with dampening 0."""
    p, buffer = p.astype(np.float64), None
    for gradient in gradients:
        d = gradient + weight_decay * p
        if momentum:
            buffer = d if buffer is None else momentum * buffer + d
            d = d + momentum * buffer if nesterov else buffer
        p = p - lr * d
    return p


def _pytorch_adam(p, gradients, lr, weight_decay, decoupled):
    """The algorithms in the documentation of torch.optim.Adam and AdamW."""
    p = p.astype(np.float64)
    m = v = np.zeros_like(p)
    for t, gradient in enumerate(gradients, start=1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            gradient = gradient + weight_decay * p
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        p = p - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def _pytorch_adadelta(p, gradients, lr, weight_decay):
    """The algorithm in the documentation of torch.optim.Adadelta, with its defaults."""
    p = p.astype(np.float64)
    square = delta = np.zeros_like(p)
    for gradient in gradients:
        gradient = gradient + weight_decay * p
        square = 0.9 * square + 0.1 * gradient**2
        change = np.sqrt(delta + 1e-6) / np.sqrt(square + 1e-6) * gradient
        delta = 0.9 * delta + 0.1 * change**2
        p = p - lr * change
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_with_coupled_decay_matches_pytorch(momentum, nesterov, weight_decay):
    optimizer = optimizers.create(
        "sgd", 0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    actual = _run(optimizer, _params(), _gradients())
    for key, p in _params().items():
        expected = _pytorch_sgd(
            p, [g[key] for g in _gradients()], 0.1, momentum, nesterov, weight_decay
        )
        np.testing.assert_allclose(actual[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "decoupled"), [("adam", False), ("adam", True), ("adamw", False), ("adamw", True)]
)
def test_adam_matches_pytorch_with_either_decay(name, decoupled):
    optimizer = optimizers.create(name, 0.1, weight_decay=0.2, decoupled=decoupled)
    actual = _run(optimizer, _params(), _gradients())
    for key, p in _params().items():
        expected = _pytorch_adam(
            p, [g[key] for g in _gradients()], 0.1, 0.2, decoupled or name == "adamw"
        )
        np.testing.assert_allclose(actual[key], expected, rtol=1e-4, atol=1e-5)


def test_adadelta_with_coupled_decay_matches_pytorch():
    optimizer = optimizers.create("adadelta", 0.7, weight_decay=0.05)
    actual = _run(optimizer, _params(), _gradients())
    for key, p in _params().items():
        expected = _pytorch_adadelta(p, [g[key] for g in _gradients()], 0.7, 0.05)
        # What it changes is a thousandth of the parameters.
        np.testing.assert_allclose(actual[key] - p, expected - p, rtol=1e-3)


def _mdistiller_dot(p, task, distillation, lr, momentum, delta, weight_decay):
    """The algorithm of mdistiller's engine/dot.py for one parameter.

    A gradient is None where there is none. A parameter that only distillation has a gradient of
    decays from the first step on, as in PyTorch's SGD, and not from the second.
    """
    p, buffers = p.astype(np.float64), [None, None]
    for gradients in zip(task, distillation, strict=True):
        changes = []
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            other = gradients[1 - i]
            rate = momentum + (0 if other is None else (-delta, delta)[i])
            if i == 0 or other is None:
                gradient = gradient + weight_decay * p
            buffers[i] = gradient if buffers[i] is None else rate * buffers[i] + gradient
            changes.append(buffers[i])
        p = p - lr * sum(changes)
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_dot_matches_its_code_whichever_loss_reaches_a_parameter(weight_decay):
    rng = np.random.default_rng(3)
    params = {name: rng.normal(size=(2, 3)).astype(np.float32) for name in ("t", "d", "td")}
    zeros = np.zeros((2, 3), np.float32)
    steps = [
        Separated(*({n: rng.normal(size=(2, 3)) if part in n else None for n in params}
                    for part in "td"))
        for _ in range(STEPS)
    ]  # fmt: skip
    optimizer = optimizers.create("dot", 0.1, delta=0.075, weight_decay=weight_decay)
    state, actual = optimizer.init(params), params
    for step in steps:
        given = Separated(
            *({n: zeros if g is None else jnp.float32(g) for n, g in part.items()} for part in step)
        )
        changes, state = optimizer.update(
            given, state, actual, shared={"t": False, "d": False, "td": True}
        )
        actual = optax.apply_updates(actual, changes)
    for name, p in params.items():
        task, distillation = ([getattr(s, part)[name] for s in steps] for part in Separated._fields)
        expected = _mdistiller_dot(p, task, distillation, 0.1, 0.9, 0.075, weight_decay)
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.05, "nesterov": True},
        {"weight_decay": 0.05, "decoupled": True, "decay_mask": "kernels"},
        {"weight_decay": 0.05, "decay_mask": "kernels", "grad_clip_norm": 2.0},
        {"momentum": 0.0},
    ],
    ids=str,
)
def test_dot_without_a_difference_is_sgd(options):
    ours, sgd = (
        _run(optimizers.create(name, 0.1, delta=0.0, **options), _params(), _gradients())
        for name in ("dot", "sgd")
    )
    chex.assert_trees_all_close(ours, sgd, rtol=1e-5, atol=1e-6)


def test_clipping_of_dot_leaves_small_sums_and_a_sum_of_zero_unchanged():
    optimizer = optimizers.create("dot", 1.0, momentum=0.0, delta=0.0, grad_clip_norm=1.0)
    params = {"a": jnp.zeros(2)}
    for task, distillation, expected in (
        ([30.0, 0.0], [-30.0, 0.5], [0.0, -0.5]),
        ([3.0, 4.0], [0.0, 0.0], [-0.6, -0.8]),
        ([7.0, 0.0], [-7.0, 0.0], [0.0, 0.0]),
    ):
        parts = Separated({"a": jnp.array(task)}, {"a": jnp.array(distillation)})
        changes, _ = optimizer.update(parts, optimizer.init(params), params, shared={"a": True})
        np.testing.assert_allclose(changes["a"], expected, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_adamw_matches_optax(nesterov):
    ours = optimizers.create("adamw", 0.1, weight_decay=0.2, nesterov=nesterov)
    theirs = optax.adamw(0.1, weight_decay=0.2, nesterov=nesterov)
    chex.assert_trees_all_close(
        _run(ours, _params(), _gradients()), _run(theirs, _params(), _gradients()), rtol=1e-6
    )


def test_decoupled_decay_of_sgd_does_not_enter_the_momentum():
    optimizer = optimizers.create("sgd", 0.1, momentum=0.9, weight_decay=0.5, decoupled=True)
    zeros = [jax.tree.map(np.zeros_like, _params())] * 3
    expected = jax.tree.map(lambda p: p * (1 - 0.1 * 0.5) ** 3, _params())
    chex.assert_trees_all_close(_run(optimizer, _params(), zeros), expected, rtol=1e-5)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("mask", "bias_decays"), [("all", True), ("kernels", False)])
def test_the_mask_selects_the_parameters_that_decay(mask, bias_decays, decoupled):
    optimizer = optimizers.create(
        "sgd", 0.1, momentum=0.0, weight_decay=0.5, decay_mask=mask, decoupled=decoupled
    )
    after = _run(optimizer, _params(), [jax.tree.map(np.zeros_like, _params())])
    np.testing.assert_allclose(after["kernel"], 0.95 * _params()["kernel"], rtol=1e-5)
    factor = 0.95 if bias_decays else 1.0
    np.testing.assert_allclose(after["bias"], factor * _params()["bias"], rtol=1e-5)


def test_clipping_bounds_the_global_norm_and_leaves_small_gradients_unchanged():
    params = {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}
    optimizer = optimizers.create("sgd", 1.0, momentum=0.0, grad_clip_norm=1.0)
    # A norm of 5, which is clipped to 1, and one of 0.5.
    large = {"a": np.array([3.0]), "b": np.array([[4.0]])}
    small = {"a": np.array([0.3]), "b": np.array([[0.4]])}
    after = _run(optimizer, params, [large])
    np.testing.assert_allclose([after["a"][0], after["b"][0, 0]], [-0.6, -0.8], rtol=1e-6)
    after = _run(optimizer, params, [small])
    np.testing.assert_allclose([after["a"][0], after["b"][0, 0]], [-0.3, -0.4], rtol=1e-6)


def test_decay_is_not_clipped():
    params = {"a": jnp.array([[100.0]])}
    optimizer = optimizers.create("sgd", 1.0, momentum=0.0, weight_decay=0.1, grad_clip_norm=1.0)
    after = _run(optimizer, params, [{"a": np.array([[5.0]])}])
    np.testing.assert_allclose(after["a"], [[100 - 1 - 10]], rtol=1e-6)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_the_learning_rate_can_be_a_schedule(name):
    params, gradient = {"a": jnp.ones((2, 2))}, {"a": np.ones((2, 2))}
    optimizer = optimizers.create(name, lambda step: jnp.where(step < 2, 0.0, 0.1))
    chex.assert_trees_all_equal(_run(optimizer, params, [gradient] * 2), params)
    assert (_run(optimizer, params, [gradient] * 3)["a"] < 1).all()


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_optimizer_reduces_a_quadratic(name):
    target = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)

    def loss(p):
        return jnp.sum((p["kernel"] - target) ** 2) + jnp.sum(p["bias"] ** 2)

    # Adadelta begins with changes of about a thousandth, whatever the gradient.
    optimizer = optimizers.create(name, 10.0 if name == "adadelta" else 0.02)
    params = _params()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = _update(optimizer, jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before = loss(params)
    for _ in range(200):
        params, state = step(params, state)
    assert loss(params) < 0.01 * before


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "sdg",
            {},
            "unknown optimizer 'sdg': choose from adadelta, adafactor, adam, adamw, dot, sgd",
        ),
        ("dot", {"delta": 0.2}, "delta of dot is 0.2 and its momentum 0.9: momentum - delta and"),
        ("dot", {"momentum": 0.0}, "delta of dot is 0.075 and its momentum 0.0: momentum - delta"),
        ("sgd", {"decay_mask": "biases"}, "unknown decay_mask 'biases': choose from all, kernels"),
    ],
)
def test_a_mistake_names_what_was_given_and_what_is_allowed(name, arguments, message):
    with pytest.raises(UserError, match=message):
        optimizers.create(name, 0.1, **arguments)


def test_the_position_in_a_schedule_is_that_of_the_next_update_or_none():
    params = _params()
    scheduled = optimizers.create("sgd", lambda step: 0.1 / (1 + step))
    state = scheduled.init(params)
    assert optimizers.schedule_position(state) == 0
    for updates in (1, 2):
        _, state = scheduled.update(params, state, params)
        assert optimizers.schedule_position(state) == updates
    constant = optimizers.create("sgd", 0.1)
    assert optimizers.schedule_position(constant.init(params)) is None
