import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, losses
from kdjax.distillers.crd import draw_negatives
from kdjax.types import Context, Outputs, UserError

N, B, D, K = 40, 6, 8, 10
LABELS = jnp.asarray(np.random.default_rng(0).integers(0, 4, N), jnp.int32)


def _context(index, seed=0, step=0):
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(rng.normal(size=(len(index), d)), jnp.float32) for d in (5, 7)]
    student, teacher = (Outputs(jnp.zeros((len(index), 4)), {"pre_logits": x}) for x in arrays)
    return Context(
        student=student,
        teachers=(teacher,),
        labels=jax.nn.one_hot(LABELS[index], 4),
        index=index,
        step=jnp.int32(step),
        rng=jax.random.fold_in(jax.random.key(7), step),
        train_labels=LABELS,
    )


def _create(**kwargs):
    return distillers.crd(features=D, negatives=K, **kwargs)


def _embed(variables, side, x):
    dense = variables["params"]["teacher0"][side]["linear"]
    y = np.asarray(x, np.float64) @ dense["kernel"] + dense["bias"][None]
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def test_negatives_are_candidates_drawn_without_replacement():
    other = LABELS[None] != jnp.arange(4)[:, None]
    counts = np.asarray(draw_negatives(jax.random.key(0), other, K, jnp.arange(4)))
    assert set(np.unique(counts)) == {0.0, 1.0}
    assert (counts.sum(1) == K).all()
    assert not counts[~np.asarray(other)].any()
    again = draw_negatives(jax.random.key(0), other, K, jnp.arange(4))
    np.testing.assert_array_equal(counts, again)


def test_all_candidates_are_equally_likely():
    other = jnp.asarray(LABELS != 0)[None]
    keys = jax.random.split(jax.random.key(1), 4000)
    draw = jax.jit(jax.vmap(lambda key: draw_negatives(key, other, K, jnp.arange(1))[0]))
    share = np.asarray(draw(keys)).mean(0)
    pool = int(other.sum())
    # Four standard deviations of a relative frequency in 4,000 draws.
    bound = 4 * np.sqrt(K / pool * (1 - K / pool) / 4000)
    np.testing.assert_allclose(share[np.asarray(other[0])], K / pool, atol=bound)


def test_examples_of_one_class_draw_different_negatives():
    other = jnp.repeat(LABELS[None] != 0, 3, axis=0)
    counts = np.asarray(draw_negatives(jax.random.key(0), other, K, jnp.arange(3)))
    assert not np.array_equal(counts[0], counts[1])
    assert not np.array_equal(counts[1], counts[2])


def test_few_candidates_count_as_often_as_in_drawing_with_replacement():
    other = jnp.zeros((1, N), bool).at[0, :4].set(True)
    counts = np.asarray(draw_negatives(jax.random.key(0), other, K, jnp.arange(1)))
    np.testing.assert_array_equal(counts[0, :4], K / 4)
    assert counts.sum() == K


def test_the_loss_equals_the_papers_formula():
    """Embeddings are scored against the other network's bank before it is updated."""
    distiller = _create()
    index = jnp.array([3, 11, 0, 25, 39, 8])
    context = _context(index)
    variables = distiller.init(jax.random.key(0), context)
    bank = variables["state"]["teacher0"]["memory"]
    assert np.abs(bank["student"]).max() <= 1 / np.sqrt(D / 3)
    value, state, *_ = distiller.loss(variables, context)
    state = state["teacher0"]

    labels = np.asarray(LABELS)
    # The same draw, with the key that `for_each_teacher` passes on.
    other = labels[None] != labels[index][:, None]
    key = jax.random.fold_in(context.rng, 0)
    counts = np.asarray(draw_negatives(key, jnp.asarray(other), K, jnp.arange(B)))
    embedded = {
        side: _embed(variables, side, outputs.taps["pre_logits"])
        for side, outputs in (("student", context.student), ("teacher", context.teacher))
    }
    expected = np.zeros(B)
    for side, opposite in (("student", "teacher"), ("teacher", "student")):
        keys = np.asarray(bank[opposite], np.float64)
        scores = np.exp(embedded[side] @ keys.T / 0.07)
        drawn = [
            np.concatenate([[scores[i, index[i]]], scores[i][counts[i] > 0]]) for i in range(B)
        ]
        normalizer = np.mean(drawn) * N
        for i in range(B):
            p, noise = drawn[i] / normalizer, K / N
            expected[i] -= np.log(p[0] / (p[0] + noise + 1e-7))
            expected[i] -= np.log(noise / (p[1:] + noise + 1e-7)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-4)

    for side in ("student", "teacher"):
        new = np.asarray(bank[side], np.float64).copy()
        mixed = 0.5 * new[index] + 0.5 * embedded[side]
        new[index] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        np.testing.assert_allclose(state["memory"][side], new, atol=1e-6)


def test_normalisers_are_estimated_from_the_first_batch():
    distiller = _create()
    variables = distiller.init(jax.random.key(0), _context(jnp.arange(B)))
    first = distiller.loss(variables, _context(jnp.arange(B))).state
    second = distiller.loss(variables | {"state": first}, _context(jnp.arange(B) + 9, 1, 1)).state
    assert (first["teacher0"]["normalizers"] > 0).all()
    chex.assert_trees_all_equal(first["teacher0"]["normalizers"], second["teacher0"]["normalizers"])


def test_the_first_of_two_equal_examples_in_a_batch_is_written_to_the_bank():
    distiller = _create()
    twice = jnp.array([3, 5, 3, 7, 8, 9])
    variables = distiller.init(jax.random.key(0), _context(twice))
    context = _context(twice)
    bank = distiller.loss(variables, context).state["teacher0"]["memory"]["student"]
    before = np.asarray(variables["state"]["teacher0"]["memory"]["student"])
    mixed = before[3] + _embed(variables, "student", context.student.taps["pre_logits"])[0]
    np.testing.assert_allclose(bank[3], mixed / np.linalg.norm(mixed), atol=1e-6)


def test_the_queue_is_a_ring_buffer_of_the_last_embeddings():
    distiller = distillers.crd(features=D, negatives=2 * B + 2, memory="queue")
    variables = distiller.init(jax.random.key(0), _context(jnp.arange(B)))
    for step in range(3):
        context = _context(jnp.arange(B) + step, step, step)
        state = distiller.loss(variables, context).state
        variables = variables | {"state": state}
        queue = state["teacher0"]
        indices = (step * B + np.arange(B)) % (2 * B + 2)
        np.testing.assert_allclose(
            queue["memory"]["teacher"][indices],
            _embed(variables, "teacher", context.teacher.taps["pre_logits"]),
            atol=1e-6,
        )
        np.testing.assert_array_equal(queue["labels"][indices], LABELS[context.index])
    assert queue["next"] == 3 * B % (2 * B + 2)


def test_unwritten_entries_of_the_queue_are_not_negatives():
    distiller = distillers.crd(features=D, negatives=50, memory="queue")
    context = _context(jnp.arange(B))
    variables = distiller.init(jax.random.key(0), context)
    moved = jax.tree.map(lambda x: x, variables)
    memory = moved["state"]["teacher0"]["memory"]
    moved["state"]["teacher0"]["memory"] = jax.tree.map(lambda x: -x, memory)
    chex.assert_trees_all_equal(
        distiller.loss(variables, context).value, distiller.loss(moved, context).value
    )


def test_examples_of_the_same_class_in_the_batch_are_not_negatives():
    distiller = _create(memory="batch")
    same = jnp.asarray(np.flatnonzero(np.asarray(LABELS) == 1)[:4])
    variables = distiller.init(jax.random.key(0), _context(same))
    assert set(variables["state"]["teacher0"]) == {"normalizers"}
    # Without negatives, the positive has probability one.
    np.testing.assert_allclose(distiller.loss(variables, _context(same)).value, 0.0, atol=1e-4)
    mixed = distiller.loss(variables, _context(jnp.arange(B))).value
    assert (mixed > 0.1).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"memory": "disk"}, "unknown memory 'disk' of crd: choose from bank, queue, batch"),
        ({"negatives": 0}, "at least one negative: negatives is 0"),
    ],
)
def test_bad_arguments_are_one_line_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        distillers.crd(**kwargs)


@pytest.mark.parametrize("memory", ["bank", "queue", "batch"])
def test_scores_are_products_in_full_precision(memory):
    context = _context(jnp.arange(B))
    distiller = _create(memory=memory)
    variables = distiller.init(jax.random.key(0), context)
    jaxpr = jax.make_jaxpr(lambda c: distiller.loss(variables, c).value)(context).jaxpr
    precisions = [e.params["precision"] for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    # Two embeddings, in the precision of the networks' layers, and the scores of both sides.
    assert precisions == [None, None, *[(losses.PRECISION, losses.PRECISION)] * 2]
