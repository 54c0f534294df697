import chex
import jax
import jax.numpy as jnp
import numpy as np
import pillow_operators as pillow
import pytest

from kdjax import parallel
from kdjax.data import policies, views
from kdjax.data.policy import Action, Policy
from kdjax.types import UserError

B, SIZE, K = 8, 6, 4
AUGMENTED = {"crop": "padded", "padding": 2, "cutout": 2, "fill": (0.5, 0.5, 0.5)}
MIXED = {"teacher_view": "function_matching", "mixup": 1.0}
PLAIN = {"crop": "none", "flip": False}


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (B, SIZE, SIZE, 3)), jnp.uint8)


LABELS = jnp.array([0, 1, 2, 3, 0, 1, 2, 3])


def _make(**kwargs):
    return views.make_views(num_classes=K, image_size=SIZE, **kwargs)


def _key(seed=0):
    return jax.random.key(seed)


def _pixels(images):
    return np.asarray(images, np.float32) / 255


def test_evaluation_view_is_the_central_square_in_zero_to_one():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 1)).astype(np.uint8)
    np.testing.assert_allclose(
        views.evaluation_view(jnp.asarray(images), 4), _pixels(images)[:, 1:5, 2:6], rtol=1e-6
    )


def test_without_augmentation_both_networks_see_the_plain_images(images):
    for name in views.TEACHER_VIEWS:
        seen = _make(**PLAIN, teacher_view=name)(_key(), images, LABELS)
        np.testing.assert_allclose(seen.student, _pixels(images), rtol=1e-6)
        np.testing.assert_allclose(seen.teacher, _pixels(images), rtol=1e-6)
        np.testing.assert_array_equal(seen.labels, np.eye(K)[LABELS])


def test_a_fixed_teacher_sees_the_evaluation_view_in_every_step(images):
    make = _make(**AUGMENTED, teacher_view="fixed")
    one, two = make(_key(0), images, LABELS), make(_key(1), images, LABELS)
    plain = views.evaluation_view(images, SIZE)
    chex.assert_trees_all_equal(one.teacher, plain)
    chex.assert_trees_all_equal(two.teacher, plain)
    assert not np.array_equal(one.student, plain)
    assert not np.array_equal(one.student, two.student)


def test_an_independent_teacher_sees_its_own_augmentation(images):
    seen = _make(**AUGMENTED, teacher_view="independent")(_key(), images, LABELS)
    plain = views.evaluation_view(images, SIZE)
    for a, b in ((seen.student, seen.teacher), (seen.teacher, plain)):
        differ = np.any(np.asarray(a) != np.asarray(b), axis=(1, 2, 3))
        assert differ.sum() >= B - 1


def test_a_consistent_teacher_sees_the_students_view(images):
    consistent = _make(**AUGMENTED, teacher_view="consistent")(_key(), images, LABELS)
    fixed = _make(**AUGMENTED, teacher_view="fixed")(_key(), images, LABELS)
    chex.assert_trees_all_equal(consistent.teacher, consistent.student)
    # The student's augmentation does not depend on what the teacher sees.
    chex.assert_trees_all_equal(consistent.student, fixed.student)
    np.testing.assert_array_equal(consistent.labels, np.eye(K)[LABELS])


def _weights(mixed, plain):
    """The weights that mix each row of `plain` with the one before it, and the residual."""
    mixed, plain = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (mixed, plain))
    own, other = plain, np.roll(plain, 1, axis=0)
    weight = ((mixed - other) * (own - other)).sum(1) / ((own - other) ** 2).sum(1)
    error = mixed - weight[:, None] * own - (1 - weight[:, None]) * other
    return weight, np.abs(error).max()


@pytest.mark.parametrize("mixup_weight", views.MIXUP_WEIGHTS)
def test_function_matching_mixes_images_and_labels_with_the_same_weights(images, mixup_weight):
    seen = _make(**AUGMENTED, **MIXED, mixup_weight=mixup_weight)(_key(), images, LABELS)
    plain = _make(**AUGMENTED, teacher_view="function_matching")(_key(), images, LABELS)
    chex.assert_trees_all_equal(seen.teacher, seen.student)
    of_images, error = _weights(seen.student, plain.student)
    assert error < 1e-6
    of_labels, error = _weights(seen.labels, plain.labels)
    assert error < 1e-6
    np.testing.assert_allclose(of_images, of_labels, atol=1e-5)
    np.testing.assert_allclose(seen.labels.sum(-1), np.ones(B), rtol=1e-6)
    spread = of_images.max() - of_images.min()
    assert spread < 1e-5 if mixup_weight == "batch" else spread > 0.05


@pytest.mark.parametrize("mixup_weight", views.MIXUP_WEIGHTS)
def test_each_image_keeps_the_larger_weight_which_is_uniform_for_p_of_one(images, mixup_weight):
    # max(w, 1 - w) of w from Beta(1, 1) is uniform in [0.5, 1].
    make = jax.jit(_make(**PLAIN, **MIXED, mixup_weight=mixup_weight))
    weights = []
    for seed in range(100):
        weights.extend(_weights(make(_key(seed), images, LABELS).labels, np.eye(K)[LABELS])[0])
    assert min(weights) >= 0.5 - 1e-6
    assert max(weights) <= 1 + 1e-6
    quartiles = np.quantile(weights, [0.25, 0.5, 0.75])
    # The standard error of the median of 100 uniform draws from an interval of 1/2 is 0.025.
    np.testing.assert_allclose(quartiles, [0.625, 0.75, 0.875], atol=0.08)


def test_p_sets_the_distribution_of_the_weight(images):
    # Beta(50, 50) is close to 1/2.
    make = _make(**PLAIN, teacher_view="function_matching", mixup=50.0, mixup_weight="example")
    weights, _ = _weights(make(_key(), images, LABELS).labels, np.eye(K)[LABELS])
    assert weights.max() < 0.7


def test_unknown_labels_are_rows_of_zeros(images):
    labels = jnp.full(B, -1).at[3].set(2)
    expected = np.zeros((B, K))
    expected[3, 2] = 1
    seen = _make(**AUGMENTED)(_key(), images, labels)
    np.testing.assert_array_equal(seen.labels, expected)
    mixed = _make(**AUGMENTED, **MIXED)(_key(), images, jnp.full(B, -1))
    np.testing.assert_array_equal(mixed.labels, np.zeros((B, K)))


@pytest.mark.parametrize("crop", views.CROPS)
def test_views_are_float32_of_the_networks_size_in_zero_to_one(crop):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (B, 9, 8, 1)), jnp.uint8)
    seen = _make(crop=crop, teacher_view="independent")(_key(), images, LABELS)
    for view in (seen.student, seen.teacher):
        chex.assert_shape(view, (B, SIZE, SIZE, 1))
        assert view.dtype == jnp.float32
        assert view.min() >= 0
        # Bilinear weights sum to one up to rounding.
        assert view.max() <= 1 + 1e-6


def test_random_crops_are_windows_of_the_whole_image_and_reach_its_border():
    # Each pixel says where it is, so a crop's first pixel says where the crop is.
    y, x = np.mgrid[:8, :9]
    images = jnp.asarray(np.repeat((16 * y + x)[None, ..., None], 200, axis=0), jnp.uint8)
    make = jax.jit(_make(crop="random", flip=False))
    seen = np.asarray(make(_key(), images, jnp.zeros(200, int)).student)
    top, left = np.divmod((seen[:, 0, 0, 0] * 255).round().astype(int), 16)
    for crop, i, j in zip(seen, top, left, strict=True):
        np.testing.assert_allclose(crop, _pixels(images[0])[i : i + SIZE, j : j + SIZE], rtol=1e-6)
    # Three windows by four, each expected 17 times with a standard deviation of 4.
    counts = np.unique(np.stack([top, left]), axis=1, return_counts=True)[1]
    assert len(counts) == 12
    assert counts.min() >= 3


# The crops at two resolutions are compared where bilinear sampling is exact, on a ramp.
def _ramp(b, side):
    y, x = np.mgrid[:side, :side]
    ramp = np.stack([y, x, y + x], -1) * (255 // (2 * side))
    return jnp.asarray(np.repeat(ramp[None], b, axis=0), jnp.uint8)


@pytest.mark.parametrize("crop", views.CROPS)
@pytest.mark.parametrize("mixed", [{"teacher_view": "consistent"}, MIXED])
def test_a_teacher_of_another_size_sees_the_students_crop_at_its_own_resolution(crop, mixed):
    # Without small parts, whose borders differ most from one resolution to another.
    arguments = {"crop": crop, "scale": (0.3, 1.0), "padding": 0, **mixed}
    images = _ramp(B, 12)
    plain = _make(**arguments)(_key(), images, LABELS)
    seen = _make(**arguments, teacher_size=3 * SIZE)(_key(), images, LABELS)
    chex.assert_trees_all_equal(seen.student, plain.student)
    chex.assert_shape(seen.teacher, (B, 3 * SIZE, 3 * SIZE, 3))
    # The middle one of three teacher's pixels is where the student's pixel is. Clamping at the
    # image's border affects only the outermost ones.
    shared = np.asarray(seen.teacher)[:, 4:-4:3, 4:-4:3]
    np.testing.assert_allclose(shared, np.asarray(seen.student)[:, 1:-1, 1:-1], atol=1e-5)
    moved = np.asarray(_make(**arguments)(_key(1), images, LABELS).student)[:, 1:-1, 1:-1]
    assert crop == "none" or np.abs(moved - shared).max() > 0.05


def test_the_view_of_a_fixed_teacher_of_another_size_is_the_resized_evaluation_view(images):
    make = _make(**(AUGMENTED | {"cutout": 0}), teacher_view="fixed", teacher_size=9)
    seen = make(_key(), images, LABELS)
    expected = views.evaluation_view(images, SIZE, 9)
    chex.assert_shape(expected, (B, 9, 9, 3))
    chex.assert_trees_all_equal(seen.teacher, expected)
    chex.assert_trees_all_equal(views.evaluation_view(images, 4, 4), images[:, 1:5, 1:5] / 255)


def test_examples_of_one_batch_are_augmented_differently():
    one = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 1))
    images = jnp.asarray(np.repeat(one, B, axis=0), jnp.uint8)
    seen = _make(crop="padded", padding=4)(_key(), images, LABELS)
    assert len({view.tobytes() for view in np.asarray(seen.student)}) > B // 2


def test_with_crop_last_the_view_is_a_window_of_the_turned_image():
    """A rotation leaves black corners in a white image."""
    white = jnp.full((32, SIZE, SIZE, 3), 255, jnp.uint8)

    def seen(**options):
        make = _make(rotation=45.0, **options)
        return np.asarray(make(_key(), white, jnp.zeros(32, int)).student)[..., 0]

    def are_windows(images):
        """Of each image, whether it is a window of the turned one with a border, or its mirror."""
        for image, turned in zip(images, seen(crop="none", flip=False), strict=True):
            padded = np.pad(turned, 2)
            found = [padded[y : y + SIZE, x : x + SIZE] for y in range(5) for x in range(5)]
            yield any(np.array_equal(image, w) or np.array_equal(image, w[:, ::-1]) for w in found)

    assert all(are_windows(seen(padding=2, crop_last=True)))
    # Otherwise the border is turned, too.
    assert sum(are_windows(seen(padding=2))) < 16


@pytest.mark.parametrize("crop_last", [False, True])
def test_vertical_flips_are_drawn_independently_of_horizontal_ones(crop_last):
    one = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3))
    images = jnp.asarray(np.repeat(one, 200, axis=0), jnp.uint8)
    make = _make(crop="none", vertical_flip=True, crop_last=crop_last)
    seen = np.asarray(make(_key(), images, jnp.zeros(200, int)).student)
    plain = _pixels(images[0])
    forms = [plain, plain[:, ::-1], plain[::-1], plain[::-1, ::-1]]
    counts = [sum(np.allclose(image, form) for image in seen) for form in forms]
    assert sum(counts) == 200
    # Binomial(200, 1/4) has a standard deviation of 6.
    assert min(counts) > 25


def test_noise_is_the_last_step_and_the_same_for_a_consistent_teacher(images):
    seen = _make(**AUGMENTED, noise=1.0)(_key(), images, LABELS)
    chex.assert_trees_all_equal(seen.teacher, seen.student)
    # Neither the crop's black border nor the square that was cut out is left.
    assert not np.any(np.asarray(seen.student) == 0)
    assert not np.any(np.asarray(seen.student) == 0.5)
    np.testing.assert_array_equal(seen.labels, np.eye(K)[LABELS])


def test_a_policy_is_applied_in_the_order_of_its_code(images):
    """Policies that shift everything out leave grey or black where crop and flip come first."""
    white = jnp.full((B, SIZE, SIZE, 3), 255, jnp.uint8)
    out = Action("translate_x", 1.0, (SIZE,))

    def seen(**options):
        with pytest.MonkeyPatch.context() as patch:
            shift = Policy(((out,),), 1, fill=255, **options)
            patch.setattr(policies, "create", lambda name, **_: shift)
            return np.asarray(
                _make(policy="mine", crop="padded", padding=SIZE, flip=True)(
                    _key(), white, LABELS
                ).student
            )

    # The padding is black, and what the policy shifts in is white.
    assert (seen(order=("crop", "flip", "policy", "cutout")) == 1).all()
    assert (seen(order=("policy", "crop", "flip", "cutout")) == 0).any()


def test_a_consistent_teacher_sees_the_students_view_with_a_policy():
    photographs = jnp.asarray(pillow.photographs(3)[:B])
    fill = (0.5, 0.4, 0.3)

    consistent = jax.jit(
        views.make_views(
            num_classes=K, image_size=32, policy="uda_randaugment", cutout=8, fill=fill
        )
    )
    one, two = consistent(_key(0), photographs, LABELS), consistent(_key(1), photographs, LABELS)
    chex.assert_trees_all_equal(one.teacher, one.student)
    assert np.any(np.asarray(one.student) != np.asarray(two.student), axis=(1, 2, 3)).all()
    assert one.student.shape == (B, 32, 32, 3)
    assert one.student.min() >= 0
    assert one.student.max() <= 1


def _on_devices(make, images, count):
    devices = parallel.Devices(jax.local_devices()[:count])
    mapped = devices.map(lambda key, x, y: make(key, x, y, parallel.AXIS), (None, 0, 0), out_axes=0)
    shards = mapped(_key(), devices.shard(np.asarray(images)), devices.shard(np.array(LABELS)))
    return jax.tree.map(lambda x: np.asarray(x).reshape(B, *x.shape[2:]), shards)


@pytest.mark.parametrize("mixed", [{"teacher_view": "independent"}, MIXED])
@pytest.mark.parametrize("crop", ["padded", "inception"])
def test_views_on_two_devices_are_exactly_those_on_one(images, crop, mixed):
    make = _make(**(AUGMENTED | {"crop": crop}), **mixed)
    one, two = (_on_devices(make, images, count) for count in (1, 2))
    chex.assert_trees_all_equal(one, two)
    # A batch that is not mapped at all gives the same views up to rounding: the last bit of a
    # position below 8 on each of two axes, where neighbours differ by at most 1.
    chex.assert_trees_all_close(one, make(_key(), images, LABELS), rtol=0, atol=2 * 2**-21)


def test_views_with_a_policy_on_two_devices_are_exactly_those_on_one(images):
    make = _make(crop="padded", padding=2, policy="autoaugment_cifar10")
    one, two = (_on_devices(make, images, count) for count in (1, 2))
    chex.assert_trees_all_equal(one, two)


def test_weights_per_example_do_not_depend_on_the_number_of_devices(images):
    make = _make(**AUGMENTED, **MIXED, mixup_weight="example")
    one, two = (_on_devices(make, images, count) for count in (1, 2))
    # XLA fuses the sum differently for another shard size, which affects a pixel's last bit.
    chex.assert_trees_all_close(one, two, rtol=0, atol=2**-23)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_view": "fix"}, "unknown teacher_view 'fix': choose from fixed, independent"),
        ({"crop": "middle"}, "unknown crop 'middle': choose from none, padded, random, inception"),
        (
            {"teacher_size": -1},
            "teacher_size is -1, cutout 0, noise 0.0 and policy '': the size is a side in pixels",
        ),
        (
            {"teacher_size": 9, "cutout": 2},
            "teacher_size is 9, cutout 2, noise 0.0 and policy '': .* 0 with cutout",
        ),
        ({"teacher_size": 9, "noise": 0.5}, "teacher_size is 9, cutout 0, noise 0.5"),
        ({"noise": 1.5}, "noise is 1.5: it is a probability, from 0 to 1"),
        ({"policy": "mixup"}, "unknown policy 'mixup': choose from autoaugment_cifar10, randaug"),
        (
            {"policy": "randaugment", "policy_magnitude": 40},
            r"policy_magnitude is 40: .* \[0, 30\]",
        ),
        ({"mixup_weight": "image"}, "unknown mixup_weight 'image': choose from batch, example"),
        *(
            ({"mixup": 0.5, "teacher_view": name}, f"mixup is 0.5 but teacher_view is {name!r}")
            for name in ("fixed", "independent", "consistent")
        ),
    ],
)
def test_a_mistake_names_what_was_given_and_what_is_allowed(arguments, message):
    with pytest.raises(UserError, match=message):
        _make(**arguments)
