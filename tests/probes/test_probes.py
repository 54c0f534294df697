"""Probes against independent computations and on networks whose answer is known."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models, networks, probes
from kdjax.probes import domains
from kdjax.types import Network, Outputs, UserError

K, SIDE = 3, 8
IMAGES = np.random.default_rng(0).random((6, SIDE, SIDE, 3)).astype(np.float32)
LABELS = np.arange(6) % K


@pytest.fixture(scope="module")
def pooled():
    """A network that ends in global average pooling and a linear layer, and its variables."""
    network = networks.create(
        "resnet8", num_classes=K, in_channels=3, mean=(0.5,) * 3, std=(0.3,) * 3,
        options={"widths": (4, 4, 4, 4)},
    )  # fmt: skip
    return network, jax.jit(network.init)(jax.random.key(0), IMAGES[:1])


def test_cka_of_features_with_themselves_is_1_however_they_are_rotated_and_scaled():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 3, 2, 2)), rng.normal(size=(20, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    for kernel in ("linear", "rbf"):
        assert probes.cka(a, a, kernel) == pytest.approx(1)
        value = probes.cka(a, b, kernel)
        assert 0 < value < 0.95
        assert probes.cka(b, a, kernel) == pytest.approx(value)
        assert probes.cka(a, 7 * b @ rotation + 3, kernel) == pytest.approx(value)
    assert probes.cka(a, np.ones((20, 4))) == 0
    with pytest.raises(UserError, match="unknown kernel 'cubic': choose from linear, rbf"):
        probes.cka(a, b, "cubic")


def test_linear_cka_is_that_of_the_covariances():
    """Kornblith et al. 2019, Table 1, by products of features instead of examples."""
    rng = np.random.default_rng(1)
    a, b = (x - x.mean(0) for x in (rng.normal(size=(9, 4)), rng.normal(size=(9, 6))))
    norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    assert probes.cka(a, b) == pytest.approx(np.linalg.norm(b.T @ a) ** 2 / norms)


def test_an_attack_stays_near_its_image_and_raises_the_loss(pooled):
    network, variables = pooled

    @jax.jit
    def logits(x):
        return network.evaluate(variables, x).logits

    step = jax.jit(functools.partial(probes.fgsm_step, logits, eps=0.05, alpha=0.02))
    attacked = IMAGES
    for _ in range(4):
        attacked = step(attacked, IMAGES, LABELS)
    assert np.abs(attacked - IMAGES).max() == pytest.approx(0.05, abs=1e-6)
    assert (attacked.min(), attacked.max()) >= (0, 0)
    assert attacked.max() <= 1
    before, after = (
        -np.asarray(jax.nn.log_softmax(logits(x)))[np.arange(6), LABELS] for x in (IMAGES, attacked)
    )
    assert (after > before).all()
    # The first step is to the corner of the ball that the gradient points to.
    first = step(IMAGES, IMAGES, LABELS)
    inside = (IMAGES > 0.02) & (IMAGES < 0.98)
    np.testing.assert_allclose(np.abs(first - IMAGES)[inside], 0.02, atol=1e-6)


def test_a_fooling_rate_counts_changes_of_the_prediction_right_or_wrong():
    clean, attacked = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 2, 1, 0]]
    assert probes.fooling_rate(jnp.asarray(clean), jnp.asarray(attacked)) == 0.5


def test_grad_cam_of_a_pooled_network_weights_maps_by_its_classifier(pooled):
    """The gradient of a logit is then the class's weight over the number of positions."""
    network, variables = pooled
    images = np.random.default_rng(2).random((6, 16, 16, 3)).astype(np.float32)
    maps = jax.jit(functools.partial(probes.grad_cam, network))(variables, images, LABELS)
    features = np.asarray(jax.jit(network.evaluate)(variables, images).taps["stage3"])
    weights = np.asarray(variables["params"]["fc"]["kernel"])[:, LABELS].T
    h, w = features.shape[1:3]
    expected = np.maximum(np.einsum("bhwc,bc->bhw", features, weights) / (h * w), 0)
    assert expected.any()
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-6)


class Forked(nn.Module):
    """Its logits do not depend on `stage2`, and `stage1` is its only other tap."""

    @nn.compact
    def __call__(self, images, train=False):
        one = nn.Conv(2, (3, 3))(images)
        taps = {"stage1": one, "stage2": one[:, ::2] * 2}
        return Outputs(nn.Dense(K)(jnp.tanh(one).mean((1, 2))), taps)


def test_grad_cam_follows_any_computation_and_refuses_maps_that_do_not_matter():
    network = Network(Forked(), (0.0,) * 3, (1.0,) * 3)
    variables = network.init(jax.random.key(0), IMAGES[:1])
    maps = probes.grad_cam(network, variables, IMAGES, LABELS, "stage1")
    one = np.asarray(network.evaluate(variables, IMAGES).taps["stage1"])
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])[:, LABELS].T
    slope = (1 - np.tanh(one) ** 2).mean((1, 2)) / SIDE**2
    expected = np.maximum(np.einsum("bhwc,bc->bhw", one, slope * kernel), 0)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="logits are not computed from that feature map"):
        probes.grad_cam(network, variables, IMAGES, LABELS)
    with pytest.raises(UserError, match="no feature map 'stage3': the taps are stage1, stage2"):
        probes.grad_cam(network, variables, IMAGES, LABELS, "stage3")


@pytest.mark.parametrize("name", ["lenet", "vgg8", "mobilenetv2_half", "wrn_10_1"])
def test_every_family_has_a_map_of_its_last_stage(name):
    network = Network(models.create(name, num_classes=K), (0.0,) * 3, (1.0,) * 3)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)), images)
    taps = jax.eval_shape(network.evaluate, variables, images).taps
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    maps = jax.eval_shape(functools.partial(probes.grad_cam, network), variables, images, labels)
    last = max(tap for tap in taps if tap.startswith("stage") and not tap.endswith("_pre"))
    assert maps.shape == taps[last].shape[:3]


def test_maps_of_two_sizes_are_compared_and_their_scale_does_not_matter():
    maps = jnp.asarray(np.random.default_rng(0).random((3, 4, 4)))
    maps = maps.at[2].set(0)
    np.testing.assert_allclose(probes.cosine(maps, 1e-30 * maps), [1, 1, 0], atol=1e-6)
    constant = jnp.ones((3, 2, 2))
    got = probes.cosine(constant, maps)
    expected = [float(m.sum()) / (4 * float(np.sqrt((m**2).sum()) or 1)) for m in np.asarray(maps)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_plane_has_its_three_images_at_their_coordinates():
    images = IMAGES[:3]
    plane = probes.plane_through(images, 5)
    np.testing.assert_allclose(plane.images(plane.corners), images, atol=1e-6)
    flat = plane.axes.reshape(2, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-9)
    distance = np.linalg.norm(images[1] - images[0])
    np.testing.assert_allclose(plane.corners[:2], [[0, 0], [distance, 0]], atol=1e-5)
    # A tenth of the extent beyond the images on all sides.
    low, high = plane.corners.min(0), plane.corners.max(0)
    margin = 0.1 * (high - low)
    np.testing.assert_allclose(plane.grid[:, [0, -1]], np.stack([low - margin, high + margin], 1))
    points = plane.points()
    assert points.shape == (25, 2)
    assert {tuple(p) for p in points} == {(x, y) for x in plane.grid[0] for y in plane.grid[1]}
    # Three images on a line are on the plane's first axis.
    line = probes.plane_through(images[[0, 1, 1]], 3)
    np.testing.assert_allclose(line.images(line.corners), images[[0, 1, 1]], atol=1e-6)


@pytest.mark.parametrize(("view", "still", "strong"), [
    ("color", 0.0, 0.5), ("crop", 1.0, 0.4), ("shift", 0, 3),
])  # fmt: skip
def test_a_view_at_no_strength_is_the_image_and_the_two_differ_otherwise(view, still, strong):
    image = np.round(IMAGES[0] * 255).astype(np.uint8).astype(np.float32) / 255
    both = jax.jit(probes.VIEWS[view], static_argnums=2)
    for seen in both(jax.random.key(0), image, still):
        np.testing.assert_allclose(seen, image, atol=1.5 / 255)
    first, second = both(jax.random.key(0), image, strong)
    assert first.shape == second.shape == image.shape
    assert np.abs(first - second).max() > 0.05
    other, _ = both(jax.random.key(1), image, strong)
    assert view == "color" or np.abs(first - other).max() > 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_domains_are_what_they_are_called(channels):
    image, key = IMAGES[0][..., :channels], jax.random.key(0)
    made = {name: np.asarray(domain(key, image)) for name, domain in probes.DOMAINS.items()}
    for name, one in made.items():
        assert one.shape == image.shape
        assert 0 <= one.min() <= one.max() <= 1, name
    for name in ("grey", "edges", "silhouette"):
        assert np.ptp(made[name], axis=-1).max() == 0
    assert set(np.unique(made["silhouette"])) == {0, 1}
    np.testing.assert_allclose(made["inverted"], 1 - image)
    inside = (image > 0.4) & (image < 0.6)
    assert 0.05 < np.std((made["noise"] - image)[inside]) < 0.2
    # A step is an edge, and a uniform area is none.
    step = np.zeros((6, 6, channels), np.float32)
    step[:, 3:] = 1
    expected = np.ones((6, 6, channels))
    expected[:, 2:4] = 0
    np.testing.assert_allclose(domains.edges(key, step), expected, atol=1e-6)
