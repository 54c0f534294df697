"""Pillow's form of every operator, and real images on which to compare."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

SIDE = 32


@functools.cache
def photographs(channels: int) -> np.ndarray:
    """uint8 [26, 32, 32, channels]: parts of two photographs, a uniform and a two-valued image."""
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        image = Image.fromarray(load_sample_image(name))
        for i in range(12):
            # Parts of different scales, from smooth to detailed.
            side = (32, 64, 128, 256)[i % 4]
            left, top = 97 * i % (640 - side), 151 * i % (427 - side)
            parts.append(image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)))
    parts.append(Image.new("RGB", (SIDE, SIDE), (17, 130, 255)))
    two = np.zeros((SIDE, SIDE, 3), np.uint8)
    two[5:, 3:] = 200
    parts.append(Image.fromarray(two))
    images = [np.asarray(part.convert("RGB" if channels == 3 else "L")) for part in parts]
    return np.stack(images).reshape(len(images), SIDE, SIDE, channels)


def to_pillow(image: np.ndarray) -> Image.Image:
    """An image [h, w, c] as Pillow's."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_array(image: Image.Image) -> np.ndarray:
    """Pillow's image as [h, w, c]."""
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def apply(
    name: str, image: Image.Image, value: float = 0, fill: int = 0, bicubic: bool = False
) -> Image.Image:
    """Applies an operator by its name in `kdjax.data.policy.OPERATORS`, save the cutouts."""
    w, h = image.size
    color = (fill,) * len(image.getbands())
    if name in ("invert", "autocontrast", "equalize"):
        return getattr(ImageOps, name)(image)
    if name in ("brightness", "contrast", "color", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(value)
    if name == "posterize":
        # Pillow refuses to keep no bits since version 11.2; before that, it gave black.
        return ImageOps.posterize(image, int(value)) if value else image.point(lambda v: 0)
    if name == "solarize":
        return ImageOps.solarize(image, value)
    if name == "solarize_add":
        total = np.clip(np.asarray(image).astype(int) + value, 0, 255).astype(np.uint8)
        return ImageOps.solarize(Image.fromarray(total), 128)
    if name == "rotate":
        return image.rotate(value, fillcolor=color)
    matrix = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value),
        "translate_x_by_share": (1, 0, value * w, 0, 1, 0),
        "translate_y_by_share": (1, 0, 0, 0, 1, value * h),
    }[name]
    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.NEAREST
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=color)


def rectangle(image: Image.Image, sides: tuple[float, ...], color) -> Image.Image:
    """Paints (left, top, right, bottom)."""
    image = image.copy()
    ImageDraw.Draw(image).rectangle(sides, color)
    return image
