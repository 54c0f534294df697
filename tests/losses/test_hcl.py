import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses


def _maps(h, w=None, b=3, c=4):
    source = np.random.default_rng(h)
    return source.normal(size=(2, b, h, w or h, c)).astype(np.float32)


def _pooled(feature, size):
    """Adaptive average pooling as a loop over windows."""
    h = feature.shape[1]
    rows = [(i * h // size, -(-(i + 1) * h // size)) for i in range(size)]
    return np.stack(
        [np.stack([feature[:, a:b, c:d].mean((1, 2)) for c, d in rows], 1) for a, b in rows], 1
    )


def _expected(student, teacher, sizes, weights):
    levels = [((_pooled(student, s) - _pooled(teacher, s)) ** 2).mean((1, 2, 3)) for s in sizes]
    return np.average(levels, axis=0, weights=weights)


@pytest.mark.parametrize(
    ("h", "levels", "weights", "sizes"),
    [
        (8, ("h", 4, 2, 1), (1, 0.5, 0.25, 0.125), (8, 4, 2, 1)),
        (8, (4, 1), (1, 0.5), (4, 1)),
        (8, ("h", "h/2", "h/4"), (1, 0.5, 0.25), (8, 4, 2)),
        (8, ("h", "h-1", "h-2", "h-3"), (1, 0.5, 0.25, 0.125), (8, 7, 6, 5)),
        (7, ("h", "h/2", "h/4"), (1, 0.5, 0.25), (7, 3, 1)),
        (8, ("h", 4, 2, 1), (0.125, 0.25, 0.5, 1), (8, 4, 2, 1)),
        # The levels that remain take the weights in order.
        (4, ("h", 4, 2, 1), (1, 0.5, 0.25, 0.125), (4, 2, 1)),
        (4, (16, "h", 1), (1, 0.5, 0.25), (4, 1)),
        (2, ("h", 4, 2, 1), (0.125, 0.25, 0.5, 1), (2, 1)),
        # A map of one pixel has one level.
        (1, ("h", "h/2", "h/4"), (1, 0.5, 0.25), (1,)),
        (1, ("h", "h-1", "h-2", "h-3"), (1, 0.5, 0.25, 0.125), (1,)),
        (1, (4, 1), (1, 0.5), (1,)),
        (2, (4,), (1,), (2,)),
    ],
)
def test_levels_and_weights_of_the_papers_tables(h, levels, weights, sizes):
    student, teacher = _maps(h)
    np.testing.assert_allclose(
        losses.hcl(student, teacher, levels=levels, weights=weights),
        _expected(student, teacher, sizes, weights[: len(sizes)]),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("h", "options", "expected"),
    [
        # Squared differences of the pooled maps: one pixel of 2: 4 at every level.
        (1, {"weighting": "in_order"}, 4),
        (1, {"weighting": "fixed"}, 4 * (1 + 0.125) / 1.875),
        # A map whose left half is 2 and right half 4: 10 at 4x4 and 2x2, 9 at 1x1.
        (4, {"weighting": "in_order"}, (10 + 0.5 * 10 + 0.25 * 9) / 1.75),
        (4, {"weighting": "fixed"}, ((1 + 0.5) * 10 + 0.25 * 10 + 0.125 * 9) / 1.875),
        (1, {"weighting": "fixed", "levels": (4, 1), "weights": (1, 0.5)}, 4 * 0.5 / 1.5),
        (1, {"weighting": "fixed", "levels": ("h", "h-1", "h-2", "h-3")}, 4 / 1.875),
        (1, {"weighting": "fixed", "levels": (4,), "weights": (1,)}, 0),
    ],
)
def test_weights_of_skipped_and_equal_levels(h, options, expected):
    difference = np.full((1, h, h, 1), 2.0, np.float32)
    difference[:, :, (h + 1) // 2 :] = 4
    value = losses.hcl(difference, np.zeros_like(difference), **options)
    np.testing.assert_allclose(value, [expected], rtol=1e-6)


@pytest.mark.parametrize("h", [8, 16])
def test_on_a_map_larger_than_all_levels_both_weightings_agree(h):
    student, teacher = _maps(h)
    np.testing.assert_allclose(
        losses.hcl(student, teacher, weighting="fixed"), losses.hcl(student, teacher), rtol=1e-6
    )


def test_level_h_alone_is_the_mean_squared_difference():
    student, teacher = _maps(6, 4)
    np.testing.assert_allclose(
        losses.hcl(student, teacher, levels=("h",), weights=(1.0,)),
        ((student - teacher) ** 2).mean((1, 2, 3)),
        rtol=1e-6,
    )


def test_coarse_levels_are_invariant_to_shifts():
    """A circular shift does not change the map's mean, but changes the map itself."""
    student, _ = _maps(8)
    shifted = np.roll(student, 2, axis=1)
    coarse = losses.hcl(student, shifted, levels=(1,), weights=(1.0,))
    np.testing.assert_allclose(coarse, 0, atol=1e-10)
    assert np.all(losses.hcl(student, shifted, levels=("h",), weights=(1.0,)) > 0.1)


def test_bfloat16_maps_are_compared_in_float32():
    student, teacher = map(jnp.asarray, _maps(8))
    low = losses.hcl(student.astype(jnp.bfloat16), teacher.astype(jnp.bfloat16))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, losses.hcl(student, teacher), rtol=2e-2)


@pytest.mark.parametrize("level", ["w", "h/0", "h+1", "h/-1", "2h", 0, -1, 1.5])
def test_an_invalid_level_is_reported(level):
    with pytest.raises(ValueError, match="is neither a positive number nor like 'h'"):
        losses.hcl(*_maps(4), levels=(level,), weights=(1.0,))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), ()])
def test_levels_without_positive_weights_are_refused(weights):
    with pytest.raises(ValueError, match="hcl needs one positive weight per level"):
        losses.hcl(*_maps(4), levels=("h", 1), weights=weights)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="unknown weighting 'all' of hcl: choose from in_order, f"):
        losses.hcl(*_maps(4), weighting="all")


@pytest.mark.parametrize(("size", "out"), [(2, 4), (4, 4), (4, 2), (3, 5), (5, 3), (1, 7)])
def test_nearest_resize_rounds_indices_down(size, out):
    feature, _ = _maps(size, size + 1)
    resized = losses.nearest_resize(jnp.asarray(feature), (out, 6))
    rows = [int(np.floor(i * size / out)) for i in range(out)]
    columns = [int(np.floor(i * (size + 1) / 6)) for i in range(6)]
    np.testing.assert_array_equal(resized, feature[:, rows][:, :, columns])


def test_the_gradient_of_nearest_resize_is_the_number_of_copies():
    gradient = jax.grad(lambda x: losses.nearest_resize(x, (6, 6)).sum())(jnp.ones((1, 2, 3, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 2, 3, 1), 6.0))
