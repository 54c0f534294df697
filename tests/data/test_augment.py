import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from kdjax.data import augment


def _keys(n):
    return jax.random.split(jax.random.key(0), n)


def _image(h=5, w=7, c=3):
    """An image whose values are all different and nonzero."""
    return np.arange(1, h * w * c + 1, dtype=np.float32).reshape(h, w, c) / 1000


def test_padded_crop_is_a_window_of_the_padded_image_and_reaches_every_window():
    image = _image(4, 5)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[y : y + 4, x : x + 5].tobytes(): (y, x) for y in range(3) for x in range(3)}
    crops = np.asarray(jax.vmap(lambda key: augment.padded_crop(key, image, 1))(_keys(200)))
    offsets = [windows[crop.tobytes()] for crop in crops]
    counts = np.unique(offsets, axis=0, return_counts=True)[1]
    # Nine windows, each expected 22 times with a standard deviation of 4.4.
    assert len(counts) == 9
    assert counts.min() >= 5


def test_padded_crop_without_padding_is_the_image():
    np.testing.assert_array_equal(augment.padded_crop(_keys(1)[0], _image(), 0), _image())


def test_flip_mirrors_left_and_right_half_of_the_time():
    flipped = np.asarray(jax.vmap(lambda key: augment.flip(key, _image()))(_keys(400)))
    same = (flipped == _image()).all((1, 2, 3))
    mirrored = (flipped == _image()[:, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    # Binomial(400, 1/2) lies within 200 +- 40 for all but one key in 16,000.
    assert abs(mirrored.sum() - 200) < 40


def test_flip_twice_with_one_key_is_the_image():
    for key in _keys(6):
        twice = augment.flip(key, augment.flip(key, _image()))
        np.testing.assert_array_equal(twice, _image())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cutout_paints_a_square_around_a_random_pixel(size):
    image, fill = _image(4, 5), jnp.array([0.0, 0.5, 1.0])
    expected = {}
    for y in range(4):
        for x in range(5):
            top, left = y - size // 2, x - size // 2
            painted = image.copy()
            painted[max(top, 0) : top + size, max(left, 0) : left + size] = fill
            expected[painted.tobytes()] = (y, x)
    painted = np.asarray(jax.vmap(lambda key: augment.cutout(key, image, size, fill))(_keys(400)))
    centres = {expected[p.tobytes()] for p in painted}
    assert len(centres) == len(set(expected.values())) == 20


def test_cutout_keeps_the_type_of_the_image():
    image = jnp.ones((4, 4, 1), jnp.bfloat16)
    painted = augment.cutout(_keys(1)[0], image, 2, jnp.array([0.5]))
    assert painted.dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(8, 8), (8, 12), (13, 8)])
def test_inception_crop_of_a_uniform_image_is_uniform(shape):
    image = jnp.full((*shape, 2), 0.37)
    crop = jax.jit(jax.vmap(lambda key: augment.inception_crop(key, image, 6, (0.05, 1.0))))
    crops = crop(_keys(32))
    assert crops.shape == (32, 6, 6, 2)
    np.testing.assert_allclose(crops, np.full(crops.shape, 0.37), rtol=1e-5)


def _ramps(h, w):
    """An image whose pixels hold the coordinates of their centres, y and x."""
    y, x = np.mgrid[:h, :w] + 0.5
    return jnp.asarray(np.stack([y, x], -1), jnp.float32)


def test_inception_crop_of_a_ramp_has_the_documented_area_aspect_ratio_and_position():
    h, w, size, scale = 40, 60, 16, (0.25, 0.5)
    crop = jax.jit(
        jax.vmap(lambda key: augment.inception_crop(key, _ramps(h, w), size, scale)),
    )
    crops = np.asarray(crop(_keys(400)))
    # In the interior, bilinear sampling of a ramp is exact, so differences are the zoom.
    ys, xs = crops[:, :, 0, 0], crops[:, 0, :, 1]
    step_y, step_x = np.median(np.diff(ys), axis=1), np.median(np.diff(xs), axis=1)
    height, width = step_y * size, step_x * size
    fraction, ratio = height * width / (h * w), width / height
    assert fraction.min() >= 0.25 - 1e-4
    assert fraction.max() <= 0.5 + 1e-4
    assert ratio.min() >= 3 / 4 - 1e-4
    assert ratio.max() <= 4 / 3 + 1e-4
    # The draws cover the ranges, not only respect them.
    assert fraction.min() < 0.27
    assert fraction.max() > 0.48
    assert ratio.min() < 0.77
    assert ratio.max() > 1.3
    # The part's centre is the mean of the two middle samples; it stays in the image.
    middle_y, middle_x = ys[:, 7:9].mean(1), xs[:, 7:9].mean(1)
    top, bottom = middle_y - height / 2, middle_y + height / 2
    left, right = middle_x - width / 2, middle_x + width / 2
    assert min(top.min(), left.min()) >= -1e-3
    assert bottom.max() <= h + 1e-3
    assert right.max() <= w + 1e-3
    assert top.min() < 0.5
    assert bottom.max() > h - 0.5
    assert left.min() < 0.5
    assert right.max() > w - 0.5


def _whole(image):
    return jax.jit(jax.vmap(lambda key: augment.inception_crop(key, image, 8, (1.0, 1.0))))(
        _keys(8)
    )


def test_inception_crop_of_the_whole_of_a_square_image_is_the_image():
    # With the area of the image only an aspect ratio of 1 fits; the fallback is the whole square.
    image = jnp.asarray(np.random.default_rng(0).random((8, 8, 3)), jnp.float32)
    for crop in _whole(image):
        np.testing.assert_allclose(crop, image, atol=1e-5)


def test_inception_crop_falls_back_to_the_central_square():
    # Nothing as large as the image has an aspect ratio of at most 4/3.
    image = _ramps(8, 16)
    for crop in _whole(image):
        np.testing.assert_allclose(crop, image[:, 4:12], atol=1e-4)


@pytest.mark.parametrize(("size", "top", "left"), [(4, 1, 2), (2, 2, 3), (6, 0, 1)])
def test_central_crop_is_the_central_square(size, top, left):
    image = _image(6, 8)
    np.testing.assert_array_equal(
        augment.central_crop(image, size), image[top : top + size, left : left + size]
    )


def test_central_crop_of_the_images_own_size_is_the_image():
    np.testing.assert_array_equal(augment.central_crop(_image(5, 5), 5), _image(5, 5))


def photo(side=32):
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")[200 : 200 + side, 300 : 300 + side]


def test_a_rotation_is_that_of_pillow_by_an_angle_in_range():
    image = photo()
    for seed in range(20):
        key = jax.random.key(seed)
        angle = float(jax.random.uniform(key, minval=-20.0, maxval=20.0))
        ours = np.round(255 * np.asarray(augment.rotation(key, jnp.asarray(image / 255.0), 20.0)))
        theirs = np.asarray(Image.fromarray(image).rotate(angle))
        # Where a pixel comes from right between two others, float32 rounds otherwise.
        assert np.mean(np.any(ours != theirs, axis=-1)) < 0.01
        assert (ours[0, 0] == 0).all() or abs(angle) < 5


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_changed_colors_are_those_of_pillow(order):
    image, changes = photo(), np.array([0.2, -0.3, 0.4, 0.1], np.float32)
    picture = Image.fromarray(image)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for which in order:
        if which == 3:
            hue, saturation, value = picture.convert("HSV").split()
            turned = (np.asarray(hue).astype(int) + round(255 * 0.1)).astype(np.uint8)
            picture = Image.merge("HSV", (Image.fromarray(turned), saturation, value))
            picture = picture.convert("RGB")
        else:
            picture = enhancers[which](picture).enhance(1 + float(changes[which]))
    ours = augment.change_colors(jnp.asarray(image / 255.0, jnp.float32), jnp.array(order), changes)
    difference = np.abs(255 * np.asarray(ours) - np.asarray(picture).astype(float))
    # Pillow's HSV has 256 values a channel.
    assert difference.mean() < 2.5
    alone = [i for i in order if i != 3]
    exact = augment.change_colors(
        jnp.asarray(image / 255.0, jnp.float32), jnp.array(alone), changes
    )
    picture = Image.fromarray(image)
    for which in alone:
        picture = enhancers[which](picture).enhance(1 + float(changes[which]))
    np.testing.assert_array_equal(np.round(255 * np.asarray(exact)), np.asarray(picture))


def test_jitter_stays_in_range_and_knows_grey_images():
    grey = jnp.full((4, 4, 1), 0.5)
    values = np.array([augment.jitter(jax.random.key(i), grey, 0.2)[0, 0, 0] for i in range(40)])
    assert np.all(np.abs(values - 0.5) <= 0.1 + 1 / 255)
    assert values.min() < 0.45
    assert values.max() > 0.55
    colored = jnp.asarray(photo(8) / 255.0, jnp.float32)
    both = [augment.jitter(jax.random.key(i), colored, 0.1) for i in (0, 0, 1)]
    np.testing.assert_array_equal(both[0], both[1])
    assert np.any(np.asarray(both[0]) != np.asarray(both[2]))


def test_hue_has_an_amount_of_its_own():
    colored = jnp.asarray(photo(8) / 255.0, jnp.float32)
    jitter = jax.jit(augment.jitter)
    still, turned = (np.asarray(jitter(jax.random.key(0), colored, 0.0, hue)) for hue in (0, 0.3))
    np.testing.assert_allclose(still, colored, atol=1.5 / 255)
    # The largest channel, HSV's value, does not depend on the hue.
    assert np.abs(turned - colored).max() > 0.1
    np.testing.assert_allclose(turned.max(-1), np.asarray(colored).max(-1), atol=1.5 / 255)


def test_a_vertical_flip_mirrors_top_and_bottom_half_of_the_time():
    turned = np.asarray(jax.vmap(lambda key: augment.vertical_flip(key, _image()))(_keys(400)))
    same = (turned == _image()).all((1, 2, 3))
    mirrored = (turned == _image()[::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    # Binomial(400, 1/2), as for `flip`.
    assert abs(mirrored.sum() - 200) < 40


def test_noise_replaces_whole_images_by_uniform_pixels_with_its_probability():
    image = np.full((8, 8, 3), 2.0, np.float32)
    noisy = np.asarray(jax.vmap(lambda key: augment.noise(key, image, 0.2))(_keys(500)))
    replaced = (noisy != 2.0).all((1, 2, 3))
    assert (replaced | (noisy == 2.0).all((1, 2, 3))).all()
    # Binomial(500, 0.2) has a standard deviation of 9.
    assert abs(replaced.sum() - 100) < 36
    pixels = noisy[replaced]
    assert 0 <= pixels.min() < pixels.max() <= 1
    # A tenth of at least 12,000 pixels is in each tenth of [0, 1].
    shares = np.histogram(pixels, 10, (0, 1))[0] / pixels.size
    np.testing.assert_allclose(shares, 0.1, atol=0.012)
    assert len({one.tobytes() for one in pixels}) == len(pixels)
