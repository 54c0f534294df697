"""The published policies, against Pillow with the levels of the code that published them."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pillow_operators as pillow
import pytest
from PIL import Image

from kdjax.data import policies, policy
from kdjax.types import UserError

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
N = 400


def _keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def _images(n):
    return np.resize(pillow.photographs(3), (n, 32, 32, 3))


def _both(chosen, images, seed=0):
    """What is drawn for each image, and the images after the policy, in units of 1/255."""
    keys = _keys(len(images), seed)
    drawn = jax.tree.map(np.asarray, jax.vmap(policy.draw, (0, None))(keys, chosen))
    applied = jax.jit(policy.apply, static_argnums=0)(
        chosen, keys, jnp.asarray(images, jnp.float32) / 255, jnp.asarray(MEAN)
    )
    return drawn, np.asarray(applied) * 255


def _actions(chosen, drawn, i):
    """Operator, its value and its position for every action that is applied to image i."""
    for j, row in enumerate(drawn.sub_policy[i]):
        for k, action in enumerate(chosen.sub_policies[row]):
            if drawn.applied[i, j, k]:
                value = action.values[drawn.value[i, j, k]]
                yield action.operator, value, 32 * drawn.position[i, j, k]


def _compare(ours, expected, share=2e-4):
    difference = np.abs(ours - expected)
    assert difference.max() <= 1 + 1e-3
    assert (difference > 1e-3).mean() < share


def test_autoaugment_has_the_levels_of_the_surveys_code():
    expected = {
        ("invert", 7): (0,), ("contrast", 6): (1.6, 0.4), ("rotate", 2): (20 / 3,),
        ("translate_x_by_share", 9): (150 / 331, -150 / 331), ("sharpness", 1): (1.1, 0.9),
        ("shear_y", 8): (0.8 / 3, -0.8 / 3), ("shear_y", 7): (0.7 / 3, -0.7 / 3),
        ("posterize", 7): (5,), ("color", 0): (1, 1), ("color", 9): (1.9, 0.1),
        ("translate_y_by_share", 3): (50 / 331, -50 / 331), ("solarize", 2): (256 * 7 / 9,),
        ("solarize", 8): (256 / 9,),
    }  # fmt: skip
    for (operator, level), values in expected.items():
        action = policies._autoaugment_action(operator.removesuffix("_by_share"), 0.5, level)
        assert action.operator == operator
        assert action.values == pytest.approx(values, abs=1e-12)


def test_autoaugment_has_25_sub_policies():
    """Checked by sums over the table: its operators' counts and probabilities."""
    chosen = policies.create("autoaugment_cifar10")
    assert len(chosen.sub_policies) == 25
    counts = collections.Counter(a.operator for row in chosen.sub_policies for a in row)
    assert counts == {
        "equalize": 9, "autocontrast": 7, "translate_y_by_share": 5, "color": 5, "sharpness": 5,
        "brightness": 4, "solarize": 4, "invert": 3, "translate_x_by_share": 2, "contrast": 2,
        "shear_y": 2, "rotate": 1, "posterize": 1,
    }  # fmt: skip
    assert sum(a.probability for row in chosen.sub_policies for a in row) == pytest.approx(26.7)


@pytest.mark.parametrize("name", policies.POLICIES)
def test_sub_policies_are_drawn_uniformly(name):
    chosen = policies.create(name)
    n, count = 20000, len(chosen.sub_policies)
    drawn = jax.jit(jax.vmap(lambda key: policy.draw(key, chosen)))(_keys(n))
    for draw in np.asarray(drawn.sub_policy).T:
        counts = np.bincount(draw, minlength=count)
        assert len(counts) == count
        # Chi-square of count - 1 degrees of freedom: its mean and four standard deviations.
        statistic = np.sum((counts - n / count) ** 2 / (n / count))
        assert abs(statistic - (count - 1)) < 4 * np.sqrt(2 * (count - 1))


@pytest.mark.parametrize("name", policies.POLICIES)
def test_every_action_is_applied_with_its_probability(name):
    chosen = policies.create(name)
    n = 20000
    drawn = jax.jit(jax.vmap(lambda key: policy.draw(key, chosen)))(_keys(n, seed=3))
    row, applied = np.asarray(drawn.sub_policy), np.asarray(drawn.applied)
    for i, sub_policy in enumerate(chosen.sub_policies):
        for k, action in enumerate(sub_policy):
            mine, p = applied[row == i][:, k], action.probability
            assert abs(mine.mean() - p) <= 4.5 * np.sqrt(p * (1 - p) / len(mine))


def test_autoaugment_is_the_surveys_in_pillow():
    chosen, images = policies.create("autoaugment_cifar10"), _images(N)
    drawn, ours = _both(chosen, images)
    for i, image in enumerate(images):
        expected = pillow.to_pillow(image)
        for operator, value, _ in _actions(chosen, drawn, i):
            bicubic = operator.startswith("shear")
            expected = pillow.apply(operator, expected, value, fill=128, bicubic=bicubic)
        actions = [name for name, _, _ in _actions(chosen, drawn, i)]
        # What autocontrast rounds differently, the next operator may amplify.
        if "autocontrast" not in actions:
            _compare(ours[i], pillow.to_array(expected), share=5e-3)


def test_randaugment_is_the_published_one_in_pillow():
    chosen = policies.create("randaugment", operations=3, magnitude=12.5)
    images = _images(N // 4)
    drawn, ours = _both(chosen, images)
    compared = 0
    for i, image in enumerate(images):
        expected = pillow.to_pillow(image)
        actions = list(_actions(chosen, drawn, i))
        assert len(actions) == 3
        for operator, value, (y, x) in actions:
            if operator == "cutout_abs":
                left, top = int(max(0, x - value / 2)), int(max(0, y - value / 2))
                sides = (left, top, min(32, left + value), min(32, top + value))
                expected = pillow.rectangle(expected, sides, (125, 123, 114))
            else:
                expected = pillow.apply(operator, expected, value)
        if "autocontrast" not in [name for name, _, _ in actions]:
            np.testing.assert_allclose(ours[i], expected, atol=1e-3)
            compared += 1
    assert compared > N / 8


def test_randaugment_has_the_values_of_the_published_code():
    values = {row[0].operator: row[0].values for row in policies.randaugment(1, 10).sub_policies}
    assert values == {
        "autocontrast": pytest.approx((1 / 3,)), "equalize": pytest.approx((1 / 3,)),
        "invert": pytest.approx((1 / 3,)), "rotate": pytest.approx((10, -10)), "posterize": (1,),
        "solarize": pytest.approx((256 / 3,)), "solarize_add": pytest.approx((110 / 3,)),
        "color": pytest.approx((0.7,)), "contrast": pytest.approx((0.7,)),
        "brightness": pytest.approx((0.7,)), "sharpness": pytest.approx((0.7,)),
        "shear_x": pytest.approx((0.1, -0.1)), "shear_y": pytest.approx((0.1, -0.1)),
        "cutout_abs": pytest.approx((40 / 3,)), "translate_x": pytest.approx((100 / 3, -100 / 3)),
        "translate_y": pytest.approx((100 / 3, -100 / 3)),
    }  # fmt: skip


def _uda(actions, image):
    """UDA's RandAugment on an image with transparency; pixels that are missing are None."""
    expected = pillow.to_pillow(image).convert("RGBA")
    for operator, value, (y, x) in actions:
        if operator == "cutout":
            y, x, half = int(y), int(x), value // 2
            array = np.array(expected)
            array[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = (125, 122, 113, 0)
            expected = Image.fromarray(array)
        elif operator in ("invert", "autocontrast", "equalize", "posterize", "solarize"):
            expected = pillow.apply(operator, expected.convert("RGB"), value).convert("RGBA")
        else:
            expected = pillow.apply(operator, expected, value)
    array = np.asarray(expected).astype(np.float32)
    return np.where(array[..., 3:] == 0, 255 * MEAN, array[..., :3])


def test_uda_is_the_published_one_in_pillow():
    chosen, images = policies.create("uda_randaugment"), _images(N)
    drawn, ours = _both(chosen, images)
    missing = 0
    for i, image in enumerate(images):
        actions = list(_actions(chosen, drawn, i))
        expected = _uda(actions, image)
        missing += (expected == 255 * MEAN).all(-1).any()
        if "autocontrast" not in [name for name, _, _ in actions]:
            np.testing.assert_allclose(ours[i], expected, atol=1e-3)
    # Nearly half of the operators can leave something out.
    assert missing > N / 5


def test_uda_has_the_values_of_the_published_code():
    rows = policies.create("uda_randaugment").sub_policies
    assert len(rows) == 15 * 9
    assert all(action.probability == 0.5 for (action,) in rows)
    values = collections.defaultdict(list)
    for (action,) in rows:
        values[action.operator].append(action.values)
    assert values["posterize"] == [(4,), (4,), (3,), (3,), (2,), (2,), (2,), (1,), (1,)]
    assert values["solarize"] == [
        (231,), (205,), (180,), (154,), (128,), (103,), (77,), (52,), (26,)
    ]  # fmt: skip
    assert values["rotate"][8] == (27, -27)
    assert values["translate_y"][3] == (4, -4)
    assert values["cutout"][8] == (18,)
    np.testing.assert_allclose(np.ravel(values["color"]), 0.1 + 0.18 * np.arange(1, 10))
    np.testing.assert_allclose(values["shear_x"][4], (0.15, -0.15))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cutmix"}, "unknown policy 'cutmix': choose from autoaugment_cifar10, randaug"),
        ({"name": "randaugment", "operations": 0}, "policy_ops is 0: it must be a positive whole"),
        ({"name": "randaugment", "operations": 1.5}, "policy_ops is 1.5: it must be a positive"),
        ({"name": "randaugment", "magnitude": 31}, r"policy_magnitude is 31: it must be in \[0, 3"),
        ({"name": "randaugment", "magnitude": -1}, r"policy_magnitude is -1: it must be in \[0"),
    ],
)
def test_a_mistake_names_what_was_given_and_what_is_allowed(arguments, message):
    with pytest.raises(UserError, match=message):
        policies.create(**arguments)
