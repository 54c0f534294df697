"""Digits in several domains, made of grey images."""

import numpy as np
import pytest

from kdjax.data import sources


@pytest.fixture
def textures(tmp_path):
    """An npz file with coloured images of 20x18 pixels, dark in training and bright in the test."""
    rng = np.random.default_rng(0)
    part = {
        "train_images": rng.integers(0, 100, (5, 20, 18, 3)).astype(np.uint8),
        "test_images": rng.integers(200, 256, (3, 20, 18, 3)).astype(np.uint8),
        "train_labels": np.zeros(5, int), "test_labels": np.zeros(3, int),
    }  # fmt: skip
    np.savez(tmp_path / "textures.npz", **part)
    return f"npz:{tmp_path / 'textures.npz'}", part


def test_every_domain_has_all_images_and_keeps_the_digit():
    grey = sources.load("digits", resize=16)
    data = sources.load("domains:plain+color+texture:digits", resize=16)
    assert data.num_classes == 10
    for split, original in ((data.train, grey.train), (data.test, grey.test)):
        n = len(original)
        assert split.images.shape == (3 * n, 16, 16, 3)
        np.testing.assert_array_equal(split.labels, np.tile(original.labels, 3))
        plain, color, texture = np.split(split.images.astype(int), 3)
        np.testing.assert_array_equal(plain, np.repeat(original.images, 3, axis=-1))
        # x + (1 - x) c with one colour for each image: where x is 0 it is the background.
        black, white = plain == 0, plain == 255
        assert (color[white] == 255).all()
        for i in range(20):
            background = color[i][black[i, ..., 0]]
            np.testing.assert_array_equal(
                background, np.broadcast_to(background[:1], background.shape)
            )
            x = plain[i] / 255
            np.testing.assert_allclose(color[i], 255 * x + (1 - x) * background[0], atol=1)
        assert len({tuple(one[black[i, ..., 0]][0]) for i, one in enumerate(color)}) > 0.9 * n
        # |t - x| inverts the texture under the digit, and textures change smoothly.
        assert 90 < texture[black].mean() < 165
        assert np.abs(np.diff(texture, axis=2))[black[:, :, 1:] & black[:, :, :-1]].max() < 100
    again = sources.load("domains:texture:digits", resize=16)
    np.testing.assert_array_equal(again.train.images, np.split(data.train.images, 3)[2])
    assert not np.array_equal(again.train.images[:5, ..., 0], again.test.images[:5, ..., 0])


def test_a_textured_digit_is_the_difference_to_a_crop_of_the_same_split(textures):
    name, part = textures
    grey = sources.load("digits", resize=16)
    data = sources.load(f"domains:texture:digits@{name}", resize=16)
    for split, original, images in (
        (data.train, grey.train, part["train_images"]),
        (data.test, grey.test, part["test_images"]),
    ):
        windows = np.stack(
            [one[y : y + 16, x : x + 16] for one in images for y in range(5) for x in range(3)]
        ).astype(int)
        for i in range(4):
            expected = np.abs(windows - original.images[i].astype(int))
            off = np.abs(expected - split.images[i].astype(int)).max((1, 2, 3))
            assert off.min() <= 1, i
    # Textures that are not needed are not read.
    plain = sources.load("domains:plain:digits@npz:nothing.npz", resize=16)
    assert plain.train.images.shape == (1201, 16, 16, 3)


def test_mistakes_are_one_line(assert_error, textures):
    name, _ = textures
    assert_error("domains:grey:digits", "unknown domain 'grey': choose from plain, color, texture")
    assert_error("domains:plain", "unknown data set ''")
    assert_error(f"domains:color:{name}", "made of grey images, and those of 'npz:.*' are coloured")
    assert_error(
        f"domains:texture:digits@{name}",
        "are 20x18 with 3 channels: they must be at least 24x24 with 3", resize=24,
    )  # fmt: skip
    assert_error(
        "domains:texture:digits@digits", "are 8x8 with 1 channel: they must be at least 8x8 with 3"
    )
