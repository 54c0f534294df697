"""Crops of whole images, from files to what the networks see."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image
from records import write_records

from kdjax.data import batches, sources, views, whole
from kdjax.data.sources import Lazy, OnDemand, Split

SIDES = ((90, 60), (60, 90), (75, 75), (64, 130), (200, 61))
SIZE = 16


def _picture(seed, h, w, c=3):
    """Smooth enough that a pixel's neighbours are like it, so that a wrong box is noticed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, c)).astype(np.uint8)
    picture = Image.fromarray(coarse[..., 0] if c == 1 else coarse)
    return np.asarray(picture.resize((w, h), Image.Resampling.BICUBIC)).reshape(h, w, c)


PICTURES = [_picture(i, *SIDES[i % len(SIDES)]) for i in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several sizes in two classes, without loss."""
    root = tmp_path_factory.mktemp("images")
    for i, picture in enumerate(PICTURES):
        for part in ("train", "test"):
            path = root / part / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return root


@pytest.fixture(scope="module")
def split(folder):
    return sources.load(f"folder:{folder}", resize=20, whole=True).train


def _bilinear(image, box, size):
    """Bilinear interpolation at the centres of size x size cells of a box, in float64."""
    left, top, right, bottom = box
    centres = (np.arange(size) + 0.5) / size
    ys, xs = top + centres * (bottom - top) - 0.5, left + centres * (right - left) - 0.5

    def axis(values, n):
        low = np.floor(values).astype(int)
        return np.clip(low, 0, n - 1), np.clip(low + 1, 0, n - 1), (values - low)

    (y0, y1, fy), (x0, x1, fx) = axis(ys, image.shape[0]), axis(xs, image.shape[1])
    image = image.astype(np.float64)
    fy, fx = fy[:, None, None], fx[None, :, None]
    above = (1 - fx) * image[y0][:, x0] + fx * image[y0][:, x1]
    below = (1 - fx) * image[y1][:, x0] + fx * image[y1][:, x1]
    return (1 - fy) * above + fy * below


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_the_bilinear_interpolation_of_the_original_in_its_box(channels):
    for i, (h, w) in enumerate(SIDES):
        image = _picture(i, h, w, channels)
        box = whole.inception_box(whole.draw(i), h, w, (0.05, 1.0))
        actual = whole.crop(image, box, SIZE)
        assert (actual.dtype, actual.shape) == (np.uint8, (SIZE, SIZE, channels))
        # The fraction is cut off, and computed from a fixed-point position.
        difference = _bilinear(image, box, SIZE) - actual
        assert difference.min() > -0.1
        assert difference.max() < 1.1


def test_an_enlarged_crop_is_pillows_crop_and_resize_of_the_original():
    # Pillow's resize blurs what it makes smaller, so only larger crops can be compared.
    image, box = PICTURES[0], (13, 21, 29, 37)
    expected = Image.fromarray(image).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    actual = whole.crop(image, box, 64)
    inner = slice(4, -4)  # At its border a crop knows the pixels beyond; Pillow's does not.
    difference = np.asarray(expected, int)[inner, inner] - actual[inner, inner]
    assert set(np.unique(difference)) <= {-1, 0, 1}


@pytest.mark.parametrize("shape", SIDES[:1])
def test_crops_on_the_host_are_those_of_the_compiled_step(shape):
    """The same box gives what `augment.inception_crop` samples."""
    image = _picture(3, *shape)
    left, top, right, bottom = box = whole.inception_box(whole.draw(1, 2), *shape, (0.2, 0.6))
    zoom = np.array([SIZE / (bottom - top), SIZE / (right - left)])
    in_step = jax.image.scale_and_translate(
        image.astype(np.float32), (SIZE, SIZE, 3), (0, 1), zoom, -np.array([top, left]) * zoom,
        "linear", antialias=False,
    )  # fmt: skip
    difference = np.asarray(in_step) - whole.crop(image, box, SIZE)
    assert difference.min() > -0.1
    assert difference.max() < 1.1


def test_boxes_have_the_documented_area_aspect_ratio_and_position():
    h, w, scale = 300, 400, (0.1, 0.5)
    boxes = np.array([whole.inception_box(whole.draw(7, i), h, w, scale) for i in range(500)])
    left, top, right, bottom = boxes.T
    area, ratio = (right - left) * (bottom - top) / (h * w), (right - left) / (bottom - top)
    # Uniform, and log-uniform, in their ranges: extremes and medians.
    np.testing.assert_allclose(np.quantile(area, [0, 0.5, 1]), [0.1, 0.3, 0.5], atol=0.03)
    np.testing.assert_allclose(np.quantile(ratio, [0, 0.5, 1]), [3 / 4, 1, 4 / 3], atol=0.06)
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= w + 1e-9
    assert bottom.max() <= h + 1e-9
    share = left / (w - (right - left))
    np.testing.assert_allclose(np.quantile(share, [0, 0.5, 1]), [0, 0.5, 1], atol=0.06)


def test_what_does_not_fit_becomes_the_central_square():
    # Nothing as large as the image has an aspect ratio of at most 4/3.
    assert whole.inception_box(whole.draw(0), 10, 30, (1.0, 1.0)) == (10, 0, 20, 10)


def _read(split, crops, step=0, positions=(3, 0, 5)):
    rows = crops.read_whole(split, np.array(positions, np.int32), 1, step)
    return crops.add_in_memory(split, rows)


def test_a_crop_depends_on_seed_step_and_place_alone(split):
    crops = whole.Crops((0.05, 1.0), SIZE)
    batch = _read(split, crops)
    assert set(batch) == {"index", "images"}
    again = _read(split, crops)
    chex.assert_trees_all_equal(batch, again)
    for i, position in enumerate((3, 0, 5)):
        box = whole.inception_box(
            whole.draw(1, 0, i, 0), *_original(position).shape[:2], (0.05, 1.0)
        )
        np.testing.assert_array_equal(
            batch["images"][i], whole.crop(_original(position), box, SIZE)
        )
    assert not np.array_equal(_read(split, crops, step=1)["images"], batch["images"])
    twice = _read(split, crops, positions=(3, 3, 3))["images"]
    assert len({image.tobytes() for image in twice}) == 3


def _original(position):
    # The folder's order: class a has the even pictures, class b the odd ones.
    order = [*range(0, 9, 2), *range(1, 9, 2)]
    return PICTURES[order[position]]


def test_the_teacher_sees_the_same_part_another_part_or_the_whole(split):
    plain = _read(split, whole.Crops((0.05, 1.0), SIZE))
    matching = _read(split, whole.Crops((0.05, 1.0), SIZE, "function_matching", 3 * SIZE))
    np.testing.assert_array_equal(matching["images"], plain["images"])
    assert matching["teacher"].shape == (3, 3 * SIZE, 3 * SIZE, 3)
    # The middle of three by three of its pixels is where the student's pixel is.
    np.testing.assert_array_equal(matching["teacher"][:, 1::3, 1::3], plain["images"])
    independent = _read(split, whole.Crops((0.05, 1.0), SIZE, "independent"))
    np.testing.assert_array_equal(independent["images"], plain["images"])
    assert independent["teacher"].shape == plain["images"].shape
    assert all(
        np.abs(a.astype(int) - b).max() > 8
        for a, b in zip(independent["teacher"], plain["images"], strict=True)
    )
    fixed = _read(split, whole.Crops((0.05, 1.0), SIZE, "fixed"))
    np.testing.assert_array_equal(fixed["teacher"], split.images[[3, 0, 5]])
    # Where the resized images are not in memory, they are made from the whole ones.
    lazy = Split(
        Lazy(9, lambda positions: list(split.images[positions])), split.labels, split.whole
    )
    again = _read(lazy, whole.Crops((0.05, 1.0), SIZE, "fixed"))
    np.testing.assert_array_equal(again["teacher"], fixed["teacher"])
    finer = _read(split, whole.Crops((0.05, 1.0), SIZE, "fixed", 3 * SIZE))
    for image, position in zip(finer["teacher"], (3, 0, 5), strict=True):
        np.testing.assert_array_equal(image, sources.resized(_original(position), 60))


def test_squares_of_another_resolution_show_the_same_part_of_the_image(split):
    assert whole.squares_side(split, SIZE, 3 * SIZE) == 60
    finer = whole.squares(split, 60)
    np.testing.assert_array_equal(finer.labels, split.labels)
    np.testing.assert_array_equal(finer.images[np.array([4])][0], sources.resized(_original(4), 60))


@pytest.mark.parametrize("teacher_view", views.TEACHER_VIEWS)
@pytest.mark.parametrize("teacher_size", [0, 24])
def test_views_of_crops_are_the_crops_mirrored_alike(split, teacher_view, teacher_size):
    crops = whole.Crops((0.05, 1.0), SIZE, teacher_view, teacher_size)
    batch = _read(split, crops, positions=range(8))
    make = views.make_views(
        num_classes=2, image_size=SIZE, crop="inception", cropped=True,
        teacher_view=teacher_view, teacher_size=teacher_size,
    )  # fmt: skip
    labels = jnp.zeros(8, int)
    given = [jnp.asarray(x) for x in (batch["images"], batch.get("teacher", batch["images"]))]
    own = given[1] if "teacher" in batch else None
    seen = make(jax.random.key(0), given[0], labels, None, own)
    sides = []
    for view, images in ((seen.student, given[0]), (seen.teacher, given[1])):
        if view is seen.teacher and teacher_view == "fixed":
            plain = views.evaluation_view(images, teacher_size or SIZE)
            np.testing.assert_array_equal(view, plain)
            continue
        pixels = np.asarray(images, np.float32) / 255
        same = np.isclose(view, pixels).all((1, 2, 3))
        mirrored = np.isclose(view, pixels[:, :, ::-1]).all((1, 2, 3))
        assert (same ^ mirrored).all()
        sides.append(mirrored)
    assert 0 < sides[0].sum() < 8
    if teacher_view in ("consistent", "function_matching"):
        np.testing.assert_array_equal(*sides)
    assert seen.teacher.shape[1] == (teacher_size or SIZE)


def _stream(split, start=0, stop=6, workers=0, share=(0, 1), **given):
    crops = whole.Crops((0.05, 1.0), SIZE, **given)
    return list(
        batches.stream(
            split, batch_size=4, seed=3, start=start, stop=stop, workers=workers, crops=crops,
            share=share,
        )
    )  # fmt: skip


def _joined(shares):
    """The batches of which these are the shares."""
    return [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*shares, strict=True)
    ]


def test_a_stream_of_crops_can_start_at_any_step_and_covers_the_split(split):
    every = _stream(split, teacher_view="independent")
    assert len(every) == 6
    chex.assert_trees_all_equal(_stream(split, start=4, teacher_view="independent"), every[4:])
    for step, batch in enumerate(every):
        np.testing.assert_array_equal(batch["index"], batches.positions(len(split), 4, 3, step))
        assert batch["images"].shape == batch["teacher"].shape == (4, SIZE, SIZE, 3)


@pytest.mark.parametrize("teacher_view", ["consistent", "independent", "fixed"])
def test_the_shares_of_a_batch_of_crops_are_the_batch(split, teacher_view):
    every = _stream(split, start=1, stop=4, teacher_view=teacher_view)
    for n in (2, 4):
        shares = [
            _stream(split, start=1, stop=4, share=(i, n), teacher_view=teacher_view)
            for i in range(n)
        ]
        chex.assert_trees_all_equal(_joined(shares), every)


def test_a_worker_makes_the_same_share_from_any_step_on(split):
    # Grain asks for a flag of its own.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    rows = _stream(split, share=(1, 2), teacher_view="fixed")
    found = _stream(split, start=3, workers=1, share=(1, 2), teacher_view="fixed")
    chex.assert_trees_all_equal(found, rows[3:])


@pytest.mark.slow
def test_workers_and_processes_change_no_batch_of_any_source(folder, tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    for part in ("train", "test"):
        images = enumerate(sorted((folder / part).glob("*/*.png")))
        write_records(
            tmp_path / f"{part}.array_record", [(x.read_bytes(), i % 2) for i, x in images]
        )
    for name in (f"folder:{folder}", f"array_record:{tmp_path}"):
        data = sources.load(name, resize=20, whole=True, memory=0).train
        every = _stream(data, teacher_view="fixed")
        for workers in (0, 2):
            shares = [_stream(data, 2, 6, workers, (i, 2), teacher_view="fixed") for i in (0, 1)]
            chex.assert_trees_all_equal(_joined(shares), every[2:])


def test_workers_get_no_copy_of_the_images_in_memory(split):
    seen = []

    class Recording(whole.Crops):
        def read_whole(self, given, *arguments):
            seen.append(given.images.shape)
            return super().read_whole(given, *arguments)

    crops = Recording((0.05, 1.0), SIZE, "fixed")
    stream = batches.stream(split, batch_size=4, seed=3, start=0, stop=2, crops=crops)
    assert all(batch["teacher"].shape == (4, 20, 20, 3) for batch in stream)
    assert set(seen) == {(1, 20, 20, 3)}


def test_few_whole_images_are_in_memory_at_once():
    sizes = []

    def read(positions):
        sizes.append(len(positions))
        return [PICTURES[0] for _ in positions]

    squares = np.zeros((100, SIZE, SIZE, 3), np.uint8)
    split = Split(squares, np.zeros(100, np.int32), OnDemand(100, read))
    assert (
        whole.Crops((0.05, 1.0), SIZE).read_whole(split, np.arange(100), 0, 0)["images"].shape[0]
        == 100
    )
    assert max(sizes) == 16
    assert sum(sizes) == 100


def test_a_small_crop_has_the_pixels_of_the_original_and_not_of_the_resized_square():
    # Stripes of two pixels are grey in a square of a quarter of the size.
    stripes = np.repeat(np.tile(np.array([0, 0, 255, 255], np.uint8), 100)[None, :, None], 400, 0)
    small = sources.resized(stripes, 100)
    assert np.ptp(small.astype(int)) < 60
    box = whole.inception_box(whole.draw(0), 400, 400, (0.05, 0.05))
    assert np.ptp(whole.crop(stripes, box, 128).astype(int)) > 240


def test_numbered_crops_depend_on_the_position_and_the_number(split):
    crops = whole.Crops((0.05, 1.0), SIZE, "fixed", 24)
    images = split.whole.read([2, 7])
    one = crops.numbered(images, np.array([2, 7]), 0)
    assert one.shape == (2, 24, 24, 3)
    np.testing.assert_array_equal(crops.numbered(images[1:], np.array([7]), 0)[0], one[1])
    assert not np.array_equal(crops.numbered(images, np.array([2, 7]), 1), one)
