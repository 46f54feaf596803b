"""EfficientNet-Lite0 in plain torch (Tan and Le 2019, arXiv 1905.11946; "lite" has no squeeze and no swish).

One grey channel, and no normalisation layers: those of training (`training.films.backbone`) are folded into the
convolutions, which leaves fewer parameters and a third less work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM_CHANNELS = 32
LAST_CHANNELS = 1280
"""Of the last convolution, whose means ImageNet's classifier was fed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStage:
    """Blocks of one resolution; the first of them has the stride and the change of width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    NetworkStage(blocks=1, kernel=3, stride=1, expansion=1, channels=16),
    NetworkStage(blocks=2, kernel=3, stride=2, expansion=6, channels=24),
    NetworkStage(blocks=2, kernel=5, stride=2, expansion=6, channels=40),
    NetworkStage(blocks=3, kernel=3, stride=2, expansion=6, channels=80),
    NetworkStage(blocks=3, kernel=5, stride=1, expansion=6, channels=112),
    NetworkStage(blocks=4, kernel=5, stride=2, expansion=6, channels=192),
    NetworkStage(blocks=1, kernel=3, stride=1, expansion=6, channels=320),
)
EIGHTH, SIXTEENTH = 2, 4
"""Stages whose output has an eighth and a sixteenth of the image's side."""
LATERAL_CHANNELS = (STAGES[EIGHTH].channels, STAGES[SIXTEENTH].channels, STAGES[-1].channels)
"""Channels at an eighth, a sixteenth and a thirty-second of the image's side."""


class SameConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow pads "SAME": more at the right and the bottom where the padding is odd."""

    def forward(self, images: Tensor) -> Tensor:
        pads: list[int] = []
        # Width before height: `pad` counts the sides from the last one backwards.
        for side, kernel, stride in zip(images.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        padded = functional.pad(images, pads)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class InvertedBottleneck(nn.Module):
    """Widen, filter each channel, narrow; with a shortcut where nothing changes shape (Sandler et al. 2018).

    dropped: share of images for which training skips the block's own path (stochastic depth).
    """

    def __init__(self, channels: int, stage: NetworkStage, stride: int, dropped: float = 0.0) -> None:
        super().__init__()
        wide = channels * stage.expansion
        self.dropped = dropped
        self.has_shortcut = stride == 1 and channels == stage.channels
        self.expand = nn.Conv2d(channels, wide, 1) if stage.expansion != 1 else None
        self.depth = SameConvolution(wide, wide, stage.kernel, stride=stride, groups=wide)
        self.project = nn.Conv2d(wide, stage.channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        wide = functional.relu6(self.expand(images)) if self.expand is not None else images
        result: Tensor = self.project(functional.relu6(self.depth(wide)))
        if not self.has_shortcut:
            return result
        if self.training and self.dropped:
            kept = torch.rand(len(result), 1, 1, 1, device=result.device) >= self.dropped
            # Scaled up, so that the mean is what serving, which drops nothing, will see.
            result = result * kept / (1.0 - self.dropped)
        return images + result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pyramid:
    """Feature maps [N, channels, side, side] at an eighth, a sixteenth and a thirty-second of the image's side; last:
    the last convolution's, at a thirty-second."""

    eighth: Tensor
    sixteenth: Tensor
    thirty_second: Tensor
    last: Tensor


class EfficientNetLite0(nn.Module):
    """Grey images [N, 1, H, W] in 0..1 → `Pyramid`."""

    def __init__(self, dropped: float = 0.0) -> None:
        super().__init__()
        self.stem = SameConvolution(1, STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        self._ends: list[int] = []
        channels, total = STEM_CHANNELS, sum(stage.blocks for stage in STAGES)
        for stage in STAGES:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                # Stochastic depth rises with depth, from nothing at the first block (Huang et al. 2016).
                blocks.append(InvertedBottleneck(channels, stage, stride, dropped * len(blocks) / total))
                channels = stage.channels
            self._ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(channels, LAST_CHANNELS, 1)

    def forward(self, images: Tensor) -> Pyramid:
        # The scale of EfficientNet-Lite's published weights: mean 127, divisor 128.
        hidden = functional.relu6(self.stem((images * 255.0 - 127.0) / 128.0))
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in self._ends:
                kept[self._ends.index(number)] = hidden
        last = functional.relu6(self.last(hidden))
        return Pyramid(eighth=kept[EIGHTH], sixteenth=kept[SIXTEENTH], thirty_second=hidden, last=last)
