"""DenseNet-121 in plain torch (Huang et al. 2017, arXiv 1608.06993), as chest classifiers use it: one grey channel.

Layers bear the names that TorchXRayVision's published weights have, so that those load without its package, which wants
torchvision. Checked against that package's network on the same random weights: the same logits.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

GROWTH, BOTTLENECK, FIRST = 32, 4, 64
"""Channels that a layer adds; how many times so many its bottleneck has; channels after the first convolution."""
BLOCKS = (6, 12, 24, 16)


def _norm_relu_conv(number: int, channels: int, out: int, kernel: int) -> list[tuple[str, nn.Module]]:
    return [
        (f"norm{number}", nn.BatchNorm2d(channels)),
        (f"relu{number}", nn.ReLU(inplace=True)),
        (f"conv{number}", nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)),
    ]


class _DenseLayer(nn.Sequential):
    """[N, C, H, W] → [N, C + GROWTH, H, W]."""

    def __init__(self, channels: int) -> None:
        width = BOTTLENECK * GROWTH
        super().__init__(
            OrderedDict(_norm_relu_conv(1, channels, width, 1) + _norm_relu_conv(2, width, GROWTH, 3)),
        )

    def forward(self, images: Tensor) -> Tensor:
        # The first ReLU works in place, but on the output of its normalisation, never on `images`.
        return torch.cat([images, super().forward(images)], dim=1)  # type: ignore[no-untyped-call]  # untyped


def _transition(channels: int) -> nn.Module:
    """Half the channels, half the sides."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


class DenseNet121(nn.Module):
    """Grey images [N, 1, H, W] → logits [N, labels]; H and W at least 32."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(1, FIRST, 7, stride=2, padding=3, bias=False),
                norm0=nn.BatchNorm2d(FIRST),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        channels = FIRST
        for number, layers in enumerate(BLOCKS, start=1):
            block = nn.Sequential()
            for layer in range(layers):
                # Each layer sees the outputs of all before it in its block.
                block.add_module(f"denselayer{layer + 1}", _DenseLayer(channels + layer * GROWTH))
            self.features.add_module(f"denseblock{number}", block)
            channels += layers * GROWTH
            if number < len(BLOCKS):
                self.features.add_module(f"transition{number}", _transition(channels))
                # The transition halves the channels (compression 0.5 in the paper).
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, labels)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.features(images))
        logits: Tensor = self.classifier(hidden.mean(dim=(2, 3)))
        return logits
