"""How policies are drawn and applied; `test_policies` has the published ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pillow_operators as pillow
import pytest

from kdjax import parallel
from kdjax.data import policies, policy
from kdjax.data.policy import Action, Policy
from kdjax.types import UserError

MEAN = jnp.array([0.49, 0.48, 0.45])


def _keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def _pixels(images):
    return jnp.asarray(images, jnp.float32) / 255


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(chosen, on_cpu, keys, images):
    assert on_cpu == parallel.on_cpu()
    return policy.apply(chosen, keys, images, MEAN[: images.shape[-1]])


def _apply(chosen, keys, images):
    return _compiled(chosen, parallel.on_cpu(), keys, images)


def _images(n, channels=3):
    return np.resize(pillow.photographs(channels), (n, 32, 32, channels))


@pytest.fixture(params=["one_by_one", "at_once"])
def either_way(request, monkeypatch):
    """The form for a CPU and that for accelerators."""
    monkeypatch.setattr(parallel, "on_cpu", lambda: request.param == "one_by_one")


def test_sub_policies_values_and_applications_have_the_frequencies_of_the_table():
    n, draws = 6000, 2
    rows = (
        (Action("invert", 0.25), Action("rotate", 1.0, (5.0, -5.0))),
        (Action("color", 0.0, (0.5,)), Action("equalize", 0.9)),
        (Action("cutout", 0.6, (4.0,)), Action("shear_x", 0.1, (0.1, -0.1))),
    )
    drawn = jax.vmap(policy.draw, (0, None))(_keys(n), Policy(rows, draws, ("policy",)))
    row = np.asarray(drawn.sub_policy)
    # A standard deviation of n counts with probability p is sqrt(n p (1 - p)); four of them.
    for i, sub_policy in enumerate(rows):
        for draw in range(draws):
            assert abs((row[:, draw] == i).sum() - n / 3) < 4 * np.sqrt(n * 2 / 9)
        for j, action in enumerate(sub_policy):
            applied, value = (np.asarray(x)[row == i][:, j] for x in (drawn.applied, drawn.value))
            p = action.probability
            assert abs(applied.mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(applied))
            share = 0.5 if len(action.values) == 2 else 0.0
            assert abs(value.mean() - share) <= 4 * np.sqrt(share * (1 - share) / len(value))
    # The two draws are independent: nine pairs, each with probability 1/9.
    pairs = np.unique(row, axis=0, return_counts=True)[1]
    assert len(pairs) == 9
    assert np.sum((pairs - n / 9) ** 2 / (n / 9)) < 26.1  # chi-square of 8 degrees, p = 0.001


def test_images_show_the_frequencies():
    """An action with probability 0.3 that can be seen, in one of two sub-policies."""
    n = 1000
    rows = ((Action("invert", 0.3),), (Action("posterize", 1.0, (0,)),))
    image = jnp.full((n, 2, 2, 3), 100 / 255)
    result = np.round(np.asarray(_apply(Policy(rows, 1, ()), _keys(n), image)) * 255)
    shown, counts = np.unique(result.reshape(n, -1), axis=0, return_counts=True)
    assert shown[:, 0].tolist() == [0, 100, 155]
    assert (shown == shown[:, :1]).all()
    for count, p in zip(counts, (0.5, 0.35, 0.15), strict=True):
        assert abs(count - n * p) < 4 * np.sqrt(n * p * (1 - p))


def test_actions_are_applied_in_order(either_way):
    """Invert and then solarize is not solarize and then invert."""
    ordered = Policy(((Action("invert"), Action("solarize", 1.0, (100,))),), 1, ())
    images = _images(3)
    expected = np.where(255 - images < 100, 255 - images, images)
    ours = np.asarray(_apply(ordered, _keys(3), _pixels(images))) * 255
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize(("name", "channels"), [("autoaugment_cifar10", 3), ("randaugment", 1)])
def test_one_by_one_and_at_once_give_the_same_images(name, channels, monkeypatch):
    chosen, images = policies.create(name), _pixels(_images(64, channels))
    results = []
    for on_cpu in (True, False):
        monkeypatch.setattr(parallel, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        results.append(_apply(chosen, _keys(64), images))
    difference = np.abs(np.asarray(results[0]) - np.asarray(results[1]))
    # Bicubic interpolation rounds differently in another program.
    assert difference.max() < 1.01 / 255
    assert (difference > 1e-6).mean() < 1e-4


def test_an_image_depends_on_its_own_key_alone():
    chosen, images, keys = policies.create("uda_randaugment"), _pixels(_images(24)), _keys(24)
    together = np.asarray(_apply(chosen, keys, images))
    np.testing.assert_array_equal(_apply(chosen, keys, images), together)
    np.testing.assert_array_equal(_apply(chosen, keys[::-1], images[::-1]), together[::-1])
    other_keys = _keys(24, seed=1).at[5:9].set(keys[5:9])
    mixed = np.asarray(_apply(chosen, other_keys, 1 - images.at[5:9].set(1 - images[5:9])))
    np.testing.assert_array_equal(mixed[5:9], together[5:9])
    other = np.asarray(_apply(chosen, other_keys, images))
    assert (other != together).any(axis=(1, 2, 3)).sum() > 12


def test_a_policy_that_applies_nothing_returns_the_image():
    nothing = Policy(((Action("invert", 0.0),),), 3, ())
    images = _pixels(_images(4))
    np.testing.assert_array_equal(_apply(nothing, _keys(4), images), images)


def test_pixels_are_rounded_to_multiples_of_one_in_255():
    nothing = Policy(((Action("invert", 0.0),),), 1, ())
    rounded = _apply(nothing, _keys(1), jnp.full((1, 2, 2, 1), 100.4 / 255))
    np.testing.assert_allclose(rounded, np.full((1, 2, 2, 1), 100 / 255), rtol=1e-6)


def test_missing_pixels_are_of_the_mean_colour_unless_seen_by_an_opaque_operator():
    shift = Action("translate_x", 1.0, (32,))
    images = _pixels(_images(2))
    moved_out = _apply(Policy(((shift,),), 1, (), transparent=True), _keys(2), images)
    np.testing.assert_array_equal(moved_out, np.broadcast_to(MEAN, moved_out.shape))
    for row, expected in (
        ((shift, Action("invert")), np.ones(3)),
        ((shift, Action("brightness", 1.0, (0.5,))), MEAN),
        ((Action("cutout", 1.0, (128,)), Action("translate_y", 1.0, (1,))), MEAN),
        ((Action("cutout", 1.0, (128,)), Action("posterize", 1.0, (8,))), [7 / 255] * 3),
    ):
        chosen = Policy((row,), 1, (), transparent=True, cutout_color=(7, 7, 7))
        result = _apply(chosen, _keys(2), images)
        np.testing.assert_allclose(result, np.broadcast_to(expected, result.shape), rtol=1e-6)


@pytest.mark.parametrize("size", [2, 6, 18])
def test_cutout_paints_a_square_around_a_random_pixel(size):
    chosen = Policy(((Action("cutout", 1.0, (size,)),),), 1, (), cutout_color=(255, 0, 0))
    n = 600
    painted = np.asarray(_apply(chosen, _keys(n), jnp.full((n, 8, 8, 3), 0.5)))[..., 0] == 1
    expected = {}
    for y, x in itertools.product(range(8), range(8)):
        square = np.zeros((8, 8), bool)
        square[max(y - size // 2, 0) : y + size // 2, max(x - size // 2, 0) : x + size // 2] = True
        expected[square.tobytes()] = (y, x)
    seen = [expected[p.tobytes()] for p in painted]
    assert len(set(seen)) == len(expected)


@pytest.mark.parametrize("size", [0.0, 20 / 3, 40.0])
def test_cutout_abs_paints_what_pillow_draws(size):
    """The corner is found as in RandAugment's code, with positions of our own."""
    color = (125, 123, 114)
    chosen = Policy(((Action("cutout_abs", 1.0, (size,)),),), 1, (), cutout_color=color)
    keys, images = _keys(40), _images(40)
    ours = np.round(np.asarray(_apply(chosen, keys, _pixels(images))) * 255)
    at = 32 * np.asarray(jax.vmap(policy.draw, (0, None))(keys, chosen).position)[:, 0, 0]
    for image, (y, x), result in zip(images, at, ours, strict=True):
        left, top = int(max(0, x - size / 2)), int(max(0, y - size / 2))
        sides = (left, top, min(32, left + size), min(32, top + size))
        expected = pillow.rectangle(pillow.to_pillow(image), sides, color)
        np.testing.assert_array_equal(result, expected)


def test_images_of_two_channels_are_refused():
    with pytest.raises(UserError, match="images have 2 channels: a policy needs 1 or 3"):
        policy.apply(policies.create("randaugment"), _keys(1), jnp.zeros((1, 4, 4, 2)), jnp.ones(2))
