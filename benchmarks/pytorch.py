"""PyTorch counterparts of kdjax's networks, for comparison."""

import re

import torch.nn.functional as F
from torch import nn

from kdjax.types import UserError


def network(name: str) -> nn.Module:
    """Creates `wrn_{depth}_{width}`, `resnet{depth}` or `resnet{depth}x4` with ten classes.

    Raises:
      UserError: if the name is none of these.
    """
    if match := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        return wide_resnet(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"resnet(\d+)(x4)?", name):
        return resnet(int(match[1]), (32, 64, 128, 256) if match[2] else (16, 16, 32, 64))
    raise UserError(f"unknown network {name!r}: choose from wrn_*_*, resnet*, resnet*x4")


def wide_resnet(depth: int, width: int) -> nn.Module:
    """The network of kdjax.models.wide_resnet, with ten classes."""
    blocks = (depth - 4) // 6

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.shortcut = None
            if inputs != outputs or stride > 1:
                self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

        def forward(self, x):
            y = F.relu(self.norm1(x), inplace=True)
            x = x if self.shortcut is None else self.shortcut(y)
            return x + self.conv2(F.relu(self.norm2(self.conv1(y)), inplace=True))

    widths = [16, 16 * width, 32 * width, 64 * width]
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    for stage in range(3):
        for block in range(blocks):
            first = block == 0
            inputs = widths[stage] if first else widths[stage + 1]
            layers.append(Block(inputs, widths[stage + 1], 2 if stage and first else 1))
    layers += [nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[3], 10))


def resnet(depth: int, widths: tuple[int, int, int, int]) -> nn.Module:
    """The three-stage network of kdjax.models.resnet, with ten classes."""

    def conv_norm(inputs, outputs, kernel, stride):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.layer1 = conv_norm(inputs, outputs, 3, stride)
            self.layer2 = conv_norm(outputs, outputs, 3, 1)
            self.shortcut = None
            if inputs != outputs or stride > 1:
                self.shortcut = conv_norm(inputs, outputs, 1, stride)

        def forward(self, x):
            y = self.layer2(F.relu(self.layer1(x), inplace=True))
            return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)

    layers = [conv_norm(3, widths[0], 3, 1), nn.ReLU(inplace=True)]
    for stage in range(3):
        for block in range((depth - 2) // 6):
            inputs = widths[stage + 1] if block else widths[stage]
            layers.append(Block(inputs, widths[stage + 1], 2 if stage and not block else 1))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[3], 10)]
    return nn.Sequential(*layers)
