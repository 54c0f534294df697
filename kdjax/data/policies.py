"""Published augmentation policies: AutoAugment for CIFAR-10 and RandAugment."""

import numpy as np

from kdjax.data.policy import Action, Policy
from kdjax.types import UserError

POLICIES = ("autoaugment_cifar10", "randaugment", "uda_randaugment")
# The largest magnitude of `randaugment`.
MAX_MAGNITUDE = 30


def create(name: str, *, operations: int = 3, magnitude: float = 5.0) -> Policy:
    """Makes a policy by its name.

    Args:
      name: one of `POLICIES`.
      operations: of `randaugment`, N: operators per image.
      magnitude: of `randaugment`, M, in [0, 30].

    Raises:
      UserError: if the name is unknown or an argument is out of range.
    """
    if name == "autoaugment_cifar10":
        return autoaugment_cifar10()
    if name == "randaugment":
        return randaugment(operations, magnitude)
    if name == "uda_randaugment":
        return uda_randaugment()
    raise UserError(f"unknown policy {name!r}: choose from {', '.join(POLICIES)}")


# Operator, probability and level of both actions (Cubuk et al. 2019, table 7).
_AUTOAUGMENT_CIFAR10 = (
    ("invert", 0.1, 7, "contrast", 0.2, 6),
    ("rotate", 0.7, 2, "translate_x", 0.3, 9),
    ("sharpness", 0.8, 1, "sharpness", 0.9, 3),
    ("shear_y", 0.5, 8, "translate_y", 0.7, 9),
    ("autocontrast", 0.5, 8, "equalize", 0.9, 2),
    ("shear_y", 0.2, 7, "posterize", 0.3, 7),
    ("color", 0.4, 3, "brightness", 0.6, 7),
    ("sharpness", 0.3, 9, "brightness", 0.7, 9),
    ("equalize", 0.6, 5, "equalize", 0.5, 1),
    ("contrast", 0.6, 7, "sharpness", 0.6, 5),
    ("color", 0.7, 7, "translate_x", 0.5, 8),
    ("equalize", 0.3, 7, "autocontrast", 0.4, 8),
    ("translate_y", 0.4, 3, "sharpness", 0.2, 6),
    ("brightness", 0.9, 6, "color", 0.2, 8),
    ("solarize", 0.5, 2, "invert", 0.0, 3),
    ("equalize", 0.2, 0, "autocontrast", 0.6, 0),
    ("equalize", 0.2, 8, "equalize", 0.8, 4),
    ("color", 0.9, 9, "equalize", 0.6, 6),
    ("autocontrast", 0.8, 4, "solarize", 0.2, 8),
    ("brightness", 0.1, 3, "color", 0.7, 0),
    ("solarize", 0.4, 5, "autocontrast", 0.9, 3),
    ("translate_y", 0.9, 9, "translate_y", 0.7, 9),
    ("autocontrast", 0.9, 2, "solarize", 0.8, 3),
    ("equalize", 0.8, 8, "invert", 0.1, 3),
    ("translate_y", 0.7, 9, "autocontrast", 0.9, 1),
)


def autoaugment_cifar10() -> Policy:
    """AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019) as in github.com/karanchahal/distiller.

    That code has the usual PyTorch port: 25 sub-policies of two actions, rotations in one
    direction only, shears with bicubic interpolation, and grey where the image ends. It is
    applied after crop and flip.
    """
    rows = tuple(
        (_autoaugment_action(*row[:3]), _autoaugment_action(*row[3:]))
        for row in _AUTOAUGMENT_CIFAR10
    )
    return Policy(
        rows,
        draws=1,
        order=("crop", "flip", "policy", "cutout"),
        fill=128,
        bicubic=("shear_x", "shear_y"),
    )


def _autoaugment_action(operator: str, probability: float, level: int) -> Action:
    """An action of a level in 0 to 9, which is linear in its value."""

    def between(first: float, last: float) -> float:
        return float(np.linspace(first, last, 10)[level])

    values: tuple[float, ...] = (0.0,)
    if operator in ("color", "contrast", "sharpness", "brightness"):
        values = (1 + between(0, 0.9), 1 - between(0, 0.9))
    elif operator in ("shear_x", "shear_y"):
        values = (between(0, 0.3), -between(0, 0.3))
    elif operator in ("translate_x", "translate_y"):
        operator, values = f"{operator}_by_share", (between(0, 150 / 331), -between(0, 150 / 331))
    elif operator == "rotate":
        values = (between(0, 30),)
    elif operator == "posterize":
        values = (round(between(8, 4)),)
    elif operator == "solarize":
        values = (between(256, 0),)
    return Action(operator, probability, values)


# Each operator's values at the magnitudes 0 and 30, and whether the sign is drawn.
_RANDAUGMENT = (
    ("autocontrast", 0, 1, False),
    ("equalize", 0, 1, False),
    ("invert", 0, 1, False),
    ("rotate", 0, 30, True),
    ("posterize", 0, 4, False),
    ("solarize", 0, 256, False),
    ("solarize_add", 0, 110, False),
    ("color", 0.1, 1.9, False),
    ("contrast", 0.1, 1.9, False),
    ("brightness", 0.1, 1.9, False),
    ("sharpness", 0.1, 1.9, False),
    ("shear_x", 0.0, 0.3, True),
    ("shear_y", 0.0, 0.3, True),
    ("cutout_abs", 0, 40, False),
    ("translate_x", 0, 100, True),
    ("translate_y", 0, 100, True),
)


def randaugment(operations: int, magnitude: float) -> Policy:
    """RandAugment (Cubuk et al. 2020) as in github.com/ildoonet/pytorch-randaugment.

    There a small magnitude posterizes and solarizes the most, and translations are of up to 100
    pixels whatever the image's size. It is applied before crop and flip.

    Args:
      operations: N, operators per image.
      magnitude: M, in [0, 30].

    Raises:
      UserError: if an argument is out of range.
    """
    if operations < 1 or operations != int(operations):
        raise UserError(f"policy_ops is {operations}: it must be a positive whole number")
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise UserError(f"policy_magnitude is {magnitude}: it must be in [0, {MAX_MAGNITUDE}]")
    rows = []
    for operator, low, high, signed in _RANDAUGMENT:
        value = magnitude / MAX_MAGNITUDE * (high - low) + low
        if operator == "posterize":
            value = int(value)
        rows.append((Action(operator, 1.0, (value, -value) if signed else (value,)),))
    return Policy(
        tuple(rows),
        draws=int(operations),
        order=("policy", "crop", "flip", "cutout"),
        cutout_color=(125, 123, 114),
    )


_UDA = (
    "invert", "cutout", "sharpness", "autocontrast", "posterize", "shear_x", "translate_x",
    "translate_y", "shear_y", "rotate", "equalize", "contrast", "color", "solarize", "brightness",
)  # fmt: skip


def uda_randaugment() -> Policy:
    """The RandAugment of UDA (Xie et al. 2020) as in github.com/google-research/uda.

    Two of 15 operators with levels from 1 to 9 are drawn uniformly, and each is applied with
    probability one half. Then follow the cutout (of 16 pixels there), the flip and the crop, in
    this order, if the view has them. Missing pixels are of the mean colour, as they are 0 after
    that code's normalisation.
    """
    rows = [(_uda_action(operator, level),) for operator in _UDA for level in range(1, 10)]
    return Policy(
        tuple(rows),
        draws=2,
        order=("policy", "cutout", "flip", "crop"),
        cutout_color=(125, 122, 113),
        transparent=True,
    )


def _uda_action(operator: str, level: int) -> Action:
    """An action of a level in 1 to 9 out of 10."""
    values: tuple[float, ...] = (0.0,)
    if operator in ("color", "contrast", "sharpness", "brightness"):
        values = (level * 1.8 / 10 + 0.1,)
    elif operator in ("shear_x", "shear_y"):
        values = (level * 0.3 / 10, -level * 0.3 / 10)
    elif operator in ("translate_x", "translate_y"):
        values = (level, -level)
    elif operator == "rotate":
        values = (3 * level, -3 * level)
    elif operator == "posterize":
        values = (4 - 4 * level // 10,)
    elif operator == "solarize":
        values = (256 - 256 * level // 10,)
    elif operator == "cutout":
        values = (2 * level,)
    return Action(operator, 0.5, values)
