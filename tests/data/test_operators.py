"""Every operator against Pillow, on real images and at every level of the three policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pillow_operators as pillow
import pytest
from PIL import Image

from kdjax.data import operators

LEVELS = np.arange(10)
MAGNITUDES = np.arange(31) / 30
# Of AutoAugment (levels 0 to 9, both signs), RandAugment (0 to 30) and UDA (1 to 9).
FACTORS = [
    *(1 + LEVELS / 10),
    *(1 - LEVELS / 10),
    *(0.1 + 1.8 * MAGNITUDES),
    *(0.1 + 0.18 * LEVELS),
]
VALUES = {
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), FACTORS),
    "posterize": list(range(9)),
    "solarize": [*np.linspace(256, 0, 10), *(256 * MAGNITUDES), *(256 - 256 * LEVELS // 10)],
    "solarize_add": list(110 * MAGNITUDES),
}
SHEARS = [*np.linspace(0, 0.3, 10), *(0.3 * MAGNITUDES), *(LEVELS * 0.3 / 10)]
OFFSETS = [*(32 * np.linspace(0, 150 / 331, 10)), *(100 * MAGNITUDES), *LEVELS]
ANGLES = [*np.linspace(0, 30, 10), *range(31), *(3 * LEVELS)]
MATRICES = {
    "shear_x": (operators.shear_x, SHEARS),
    "shear_y": (operators.shear_y, SHEARS),
    "translate_x": (lambda value: operators.translate(value, 0), OFFSETS),
    "translate_y": (lambda value: operators.translate(0, value), OFFSETS),
    "rotate": (lambda value: operators.rotate(value, 32, 32), ANGLES),
}
CHANNELS = pytest.mark.parametrize("channels", [3, 1])


def _both_signs(values):
    return np.unique([*values, *(-np.asarray(values))])


def _ours(operator, images, *values):
    """[n, b, h, w, c] for n values, all of which are traced."""
    over_images = jax.vmap(operator, (0, *[None] * len(values)))
    return np.asarray(jax.jit(jax.vmap(over_images, (None, *[0] * len(values))))(images, *values))


def _pillows(name, images, values, **options):
    return np.stack(
        [
            [
                pillow.to_array(pillow.apply(name, pillow.to_pillow(image), value, **options))
                for image in images
            ]
            for value in values
        ]
    )


@CHANNELS
@pytest.mark.parametrize("name", VALUES)
def test_operators_with_a_value_are_pillows(name, channels):
    images, values = pillow.photographs(channels), np.unique(VALUES[name])
    ours = _ours(operators.BY_VALUE[name], images, jnp.asarray(values, jnp.float32))
    np.testing.assert_array_equal(ours, _pillows(name, images, values))


@CHANNELS
@pytest.mark.parametrize("name", ["invert", "equalize"])
def test_operators_without_a_value_are_pillows(name, channels):
    images = pillow.photographs(channels)
    ours = jax.jit(jax.vmap(operators.WITHOUT_VALUE[name]))(images)
    np.testing.assert_array_equal(ours, _pillows(name, images, [0])[0])


@CHANNELS
def test_autocontrast_is_pillows_save_where_pillows_product_misses_a_whole_number(channels):
    images = pillow.photographs(channels)
    ours = np.asarray(jax.jit(jax.vmap(operators.autocontrast))(images)).astype(int)
    excess = ours - _pillows("autocontrast", images, [0])[0]
    smallest, largest = (f(images.astype(int), (1, 2), keepdims=True) for f in (np.min, np.max))
    # The exact value is a whole number there, and Pillow's is less by the last bit of a double.
    exact = 255 * (images - smallest) % np.maximum(largest - smallest, 1) == 0
    assert set(np.unique(excess)) <= {0, 1}
    assert exact[excess == 1].all()
    # The last image has only two values, both of which are exact.
    assert (excess[:-1] == 1).mean() < 0.01


def test_autocontrast_maps_the_extremes_to_black_and_white():
    image = np.zeros((4, 4, 2), np.uint8)
    image[..., 0], image[..., 1] = np.arange(16).reshape(4, 4) + 90, 7
    stretched = np.asarray(operators.autocontrast(image))
    np.testing.assert_array_equal(stretched[..., 0].ravel(), np.arange(16) * 17)
    np.testing.assert_array_equal(stretched[..., 1], image[..., 1])


def test_blend_is_pillows_for_every_pair_of_values():
    first, second = (x.astype(np.uint8) for x in np.mgrid[:256, :256])
    factors = np.unique(FACTORS)
    ours = _ours(
        lambda images, factor: operators.blend(images[0], images[1], factor),
        jnp.stack([first, second])[None, ..., None],
        jnp.asarray(factors, jnp.float32),
    )
    pair = [Image.fromarray(x) for x in (first, second)]
    expected = [np.asarray(Image.blend(*pair, factor)) for factor in factors]
    np.testing.assert_array_equal(ours[:, 0, ..., 0], expected)


@CHANNELS
@pytest.mark.parametrize("name", MATRICES)
def test_the_nearest_pixel_is_pillows(name, channels):
    images = pillow.photographs(channels)[:6]
    matrix, levels = MATRICES[name]
    values = _both_signs(levels)
    units = operators.fixed_point(np.stack([matrix(value) for value in values]))
    ours = _ours(lambda image, unit: operators.affine(image, unit, 128), images, units)
    np.testing.assert_array_equal(ours, _pillows(name, images, values, fill=128))


@CHANNELS
@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_bicubic_shears_are_pillows_to_rounding(name, channels):
    images = pillow.photographs(channels)[:10]
    matrix, _ = MATRICES[name]
    values = _both_signs(np.linspace(0, 0.3, 10))
    at = operators.samples(np.stack([matrix(value) for value in values]), 32, 32)
    ours = _ours(lambda image, at: operators.affine_bicubic(image, at, 128), images, at)
    expected = _pillows(name, images, values, fill=128, bicubic=True)
    difference = np.abs(ours.astype(int) - expected)
    # Truncation turns an error of 1e-5 into 1 where the exact value is a whole number.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("shape", [(32, 32), (24, 32)])
def test_bicubic_rotation_is_pillows_to_rounding(shape):
    h, w = shape
    images = pillow.photographs(3)[:10, :h, :w]
    angles = [-30.0, -7.5, 0.0, 11.0, 45.0]
    at = operators.samples(np.stack([operators.rotate(a, h, w) for a in angles]), h, w)
    ours = _ours(lambda image, at: operators.affine_bicubic(image, at, 9), images, at)
    expected = np.stack(
        [
            [
                pillow.to_array(
                    pillow.to_pillow(image).rotate(a, Image.Resampling.BICUBIC, fillcolor=(9, 9, 9))
                )
                for image in images
            ]
            for a in angles
        ]
    )
    difference = np.abs(ours.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_nearest_rotation_of_an_image_that_is_not_square():
    images = pillow.photographs(3)[:4, :20]
    units = operators.fixed_point(np.stack([operators.rotate(a, 20, 32) for a in range(0, 91, 9)]))
    ours = _ours(lambda image, unit: operators.affine(image, unit, 0), images, units)
    np.testing.assert_array_equal(ours, _pillows("rotate", images, range(0, 91, 9)))


def test_a_traced_matrix_gives_nearly_the_pixels_of_one_on_the_host():
    image = pillow.photographs(3)[0]
    matrices = np.stack([operators.rotate(a, 32, 32) for a in (3.0, 17.0, -29.0)])

    def traced(image, matrix):
        return (
            operators.affine(image, operators.fixed_point(matrix), 0),
            operators.affine_bicubic(image, operators.samples(matrix, 32, 32), 0),
        )

    nearest, bicubic = jax.jit(jax.vmap(traced, (None, 0)))(image, jnp.asarray(matrices))
    for i, matrix in enumerate(matrices):
        expected = operators.affine(image, operators.fixed_point(matrix), 0)
        # A pixel may change where a sample lies within 2**-16 of the border of two.
        assert (np.asarray(nearest[i]) != expected).mean() < 0.01
        expected = operators.affine_bicubic(image, operators.samples(matrix, 32, 32), 0)
        assert (np.abs(np.asarray(bicubic[i]).astype(int) - expected) > 1).mean() < 0.01


@pytest.mark.parametrize("sides", [(3, 4, 9, 20), (-5, -2, 3, 0), (30, 28, 40, 50), (40, 1, 50, 3)])
def test_rectangle_is_pillows(sides):
    image, color = pillow.photographs(3)[0], (125, 123, 114)
    left, top, right, bottom = sides
    ours = operators.rectangle(image, top, left, bottom, right, jnp.array(color))
    expected = pillow.rectangle(pillow.to_pillow(image), sides, color)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", operators.BY_VALUE)
def test_compiled_operators_equal_those_run_eagerly(name):
    operator, image = operators.BY_VALUE[name], pillow.photographs(3)[1]
    value = 3.0 if name == "posterize" else 0.73
    np.testing.assert_array_equal(jax.jit(operator)(image, value), operator(image, value))


def test_operators_of_an_image_smaller_than_the_kernel():
    for shape in [(1, 5, 3), (2, 2, 1)]:
        image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        np.testing.assert_array_equal(operators.smooth(image), image)
