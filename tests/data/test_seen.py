"""Several views of a batch, and images of a second source in it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import distillers, optimizers, parallel, train
from kdjax.data import batches, sources, views
from kdjax.types import Network, Outputs, TeacherInputs

SHAPE, CLASSES, OWN, MORE = (8, 8, 1), 4, 4, 8


class Normalised(nn.Module):
    """A linear classifier on features that batch norm has normalised."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(images.shape[0], -1)
        x = nn.BatchNorm(use_running_average=not train, axis_name=parallel.AXIS if train else None)(
            nn.Dense(6)(x)
        )
        return Outputs(nn.Dense(CLASSES)(x), {"pre_logits": x})


def network():
    return Network(Normalised(), (0.4,), (0.3,))


def split(n, seed, labels=True):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *SHAPE), np.uint8)
    known = rng.integers(0, CLASSES, n).astype(np.int32)
    return sources.Split(images, known if labels else np.full(n, -1, np.int32))


def make_view(**options):
    defaults = {"crop": "none", "flip": False}
    return views.make_views(num_classes=CLASSES, image_size=8, padding=1, **(defaults | options))


def one_step(terms, view_fns, *, devices=2, more=None, labelled=(True,), accumulate=1):
    """The state and the metrics after a step, on the first images of each source."""
    own = split(16, 0)
    place = parallel.Devices.dividing(OWN, devices)
    teacher = network().init(jax.random.key(7), jnp.zeros((1, *SHAPE)))
    distiller = distillers.weighted_sum(**terms)
    optimizer = optimizers.create("sgd", 0.1)
    common = dict(student=network(), teachers=[network()], distiller=distiller, optimizer=optimizer)
    step = train.make_train_step(
        **common, views=view_fns, axis_name=parallel.AXIS, labelled=labelled,
        grad_accum_steps=accumulate,
    )  # fmt: skip
    labels = own.labels if more is None else np.concatenate([own.labels, more.labels])
    state = train.init_state(
        jax.random.key(1), **common, teacher_variables=[teacher], image_shape=SHAPE,
        num_classes=CLASSES, batch_size=(OWN + (MORE if more else 0)) // accumulate,
        train_labels=jnp.asarray(labels),
        labelled=None if all(labelled) else (0, OWN // accumulate),
    )  # fmt: skip
    data, batch = batches.resident(own), {"index": np.arange(OWN, dtype=np.int32)[None]}
    if more:
        data = {**data, "more": batches.resident(more)}
        batch["more"] = {"index": np.arange(MORE, dtype=np.int32)[None]}
    run = place.map(step, in_axes=(None, None, None, 0, None))
    state, metrics = run(
        place.replicate(state), place.replicate(TeacherInputs((teacher,))), place.replicate(data),
        jax.tree.map(lambda x: place.shard(x, axis=1), batch), place.replicate(jax.random.key(3)),
    )  # fmt: skip
    return jax.device_get((state, metrics))


KD = {"kd": (1.0, distillers.kd())}
LABELS = {"cross_entropy": (1.0, distillers.cross_entropy())}


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_two_equal_views_are_one_but_for_the_running_averages():
    """The mean of two equal losses is one of them; the averages move twice."""
    once, metrics = one_step(LABELS, make_view())
    twice, of_both = one_step(LABELS, [make_view(), make_view()])
    close(once.params, twice.params, rtol=1e-5, atol=1e-7)
    close(metrics, of_both, rtol=1e-5)
    start, moved = np.zeros(6), 0.0
    for _ in range(2):
        batch_mean = once.batch_stats["BatchNorm_0"]["mean"] / 0.01
        moved = 0.99 * start + 0.01 * batch_mean
        start = moved
    np.testing.assert_allclose(twice.batch_stats["BatchNorm_0"]["mean"], moved, rtol=1e-4)


def test_the_loss_of_two_views_is_the_mean_of_theirs():
    plain = make_view()

    def inverted(rng, images, labels, axis_name=None, teacher_images=None):
        return plain(rng, 255 - images, labels, axis_name)

    losses = [one_step(KD, view)[1]["loss"] for view in (plain, inverted, [plain, inverted])]
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)


def test_no_label_of_an_unlabelled_image_touches_the_step():
    terms = {
        "cross_entropy": (1.0, distillers.on_part("labelled", distillers.cross_entropy())),
        "kd": (1.0, distillers.on_part("labelled", distillers.kd())),
        "unlabelled": (1.0, distillers.on_part("unlabelled", distillers.kd(temperature=1.0))),
    }
    arguments = dict(labelled=(True, False), accumulate=2)
    hidden = split(16, 1, labels=False)
    state, metrics = one_step(
        terms, [make_view(), make_view(crop="padded")], more=hidden, **arguments
    )
    told = sources.Split(hidden.images, split(16, 1).labels)
    again, _ = one_step(terms, [make_view(), make_view(crop="padded")], more=told, **arguments)
    close(state.params, again.params, rtol=0, atol=0)
    assert {"accuracy", "cross_entropy", "kd", "unlabelled"} <= set(metrics)


def test_a_term_is_the_mean_over_its_part_of_a_batch_that_is_normalised_as_a_whole():
    """Against a plain computation on the images of both sources."""
    own, more = split(16, 0), split(16, 1, labels=False)
    terms = {
        "cross_entropy": (0.5, distillers.on_part("labelled", distillers.cross_entropy())),
        "unlabelled": (2.0, distillers.on_part("unlabelled", distillers.kd(temperature=1.0))),
    }
    student, teacher = (
        network().init(jax.random.key(seed), jnp.zeros((1, *SHAPE))) for seed in (0, 7)
    )
    state, metrics = one_step(terms, make_view(), more=more, labelled=(True, False))
    whole, _ = one_step({"all": (1.0, distillers.cross_entropy())}, make_view(), more=more)
    # Batch statistics are those of all twelve images, whatever the terms are on.
    close(state.batch_stats, whole.batch_stats, rtol=1e-6)
    pixels = jnp.concatenate([own.images[:OWN], more.images[:MORE]]) / 255.0
    start = train.init_state(
        jax.random.key(1), student=network(), distiller=distillers.weighted_sum(**KD),
        optimizer=optax.identity(), image_shape=SHAPE, num_classes=CLASSES, batch_size=OWN,
        teachers=[network()], teacher_variables=[teacher],
    )  # fmt: skip
    outputs = jax.vmap(
        lambda x: network().train(start.variables, x, jax.random.key(0))[0].logits,
        axis_name=parallel.AXIS,
    )(pixels[None])[0]
    targets = network().evaluate(teacher, pixels).logits
    log_p = jax.nn.log_softmax(outputs)
    ce = -np.mean(np.asarray(log_p)[np.arange(OWN), own.labels[:OWN]])
    q = jax.nn.softmax(targets[OWN:])
    kl = jnp.mean(jnp.sum(q * (jnp.log(q) - log_p[OWN:]), axis=-1))
    assert metrics["cross_entropy"] == pytest.approx(ce, rel=1e-4)
    assert metrics["unlabelled"] == pytest.approx(float(kl), rel=1e-4)
    assert metrics["loss"] == pytest.approx(float(0.5 * ce + 2 * kl), rel=1e-4)
    assert student.keys() == teacher.keys()


def test_two_sources_and_two_views_on_any_number_of_devices():
    terms = {"kd": (1.0, distillers.on_part("unlabelled", distillers.kd()))} | LABELS
    arguments = dict(more=split(16, 1, labels=False), labelled=(True, False))
    fns = [make_view(crop="padded", flip=True), make_view(flip=True)]
    one, of_one = one_step(terms, fns, devices=1, **arguments)
    two, of_two = one_step(terms, fns, devices=2, **arguments)
    close(one.params, two.params, rtol=1e-4, atol=1e-6)
    close(of_one, of_two, rtol=1e-4)
