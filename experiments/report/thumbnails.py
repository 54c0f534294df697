"""Images as data of a page."""

import base64
import io

import numpy as np
from PIL import Image

# Larger images are made smaller; smaller ones are enlarged by the browser.
_SIDE = 128


def data_uri(image: np.ndarray) -> str:
    """A PNG of an image, uint8 [h, w, c] with one channel or three, at most 128 pixels wide."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
    picture.thumbnail((_SIDE, _SIDE))
    return _encoded(picture)


def heat_map(shares: np.ndarray) -> str:
    """A PNG of numbers [h, w] in [0, 1], from transparent to blue, one pixel each."""
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = (38, 128, 217)
    pixels[..., 3] = np.round(255 * shares)
    return _encoded(Image.fromarray(pixels))


def _encoded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
