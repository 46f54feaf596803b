"""Films as training shows them: moved, turned, mirrored, of other exposure and sharpness, with parts hidden.

Sharpness is degraded at random so that it tells nothing: some films were stored with 64, some with 128 and some with
512 pixels, and which set a film is from would otherwise tell its labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Greatest changes: turn in radians, log of scale and of aspect, shift in half sides, log of gamma and contrast,
    brightness, noise, shares of films that are blurred and of which a part is hidden, side of that part."""

    turn: float = 0.15
    scale: float = 0.18
    aspect: float = 0.08
    shift: float = 0.1
    gamma: float = 0.35
    contrast: float = 0.25
    brightness: float = 0.1
    noise: float = 0.03
    blurred: float = 0.45
    hidden: float = 0.3
    hidden_side: float = 0.25
    least_side: int = 56
    """Pixels that a blurred film is reduced to, at least."""


LIMITS = Limits()


def augment_films(grey: Tensor, masks: Tensor, mirrored: Tensor, limits: Limits = LIMITS) -> tuple[Tensor, Tensor]:
    """grey [N, 1, S, S] in 0..1, masks [N, K, M, M]: both moved alike. mirrored [N]: which films are mirrored."""
    count, side = len(grey), grey.shape[-1]
    grids = _transforms(count, mirrored, limits)
    grey = functional.grid_sample(
        grey, functional.affine_grid(grids, [count, 1, side, side], align_corners=False), align_corners=False
    )
    size = [count, 1, masks.shape[-2], masks.shape[-1]]
    masks = functional.grid_sample(masks, functional.affine_grid(grids, size, align_corners=False), align_corners=False)
    for number in range(count):
        if torch.rand(()) < limits.blurred:
            grey[number : number + 1] = _blur(grey[number : number + 1], limits)
    # Bicubic enlargement may overshoot below 0, of which a power is no number.
    grey = _expose(grey.clamp(1e-4, 1.0), limits)
    for number in range(count):
        if torch.rand(()) < limits.hidden:
            _hide(grey[number, 0], limits)
    return grey.clamp(0.0, 1.0), masks


def _spread(count: int, most: float) -> Tensor:
    return (torch.rand(count) * 2.0 - 1.0) * most


def _transforms(count: int, mirrored: Tensor, limits: Limits) -> Tensor:
    """[N, 2, 3] for `affine_grid`."""
    turn, scale = _spread(count, limits.turn), torch.exp(_spread(count, limits.scale))
    aspect, sign = torch.exp(_spread(count, limits.aspect)), torch.where(mirrored, -1.0, 1.0)
    cos, sin = torch.cos(turn), torch.sin(turn)
    # `affine_grid` leads from places of the result to places of the film, both from -1 to 1: a scale above 1 makes the
    # film smaller.
    first = torch.stack([cos * scale * aspect * sign, -sin * scale, _spread(count, limits.shift)], dim=1)
    second = torch.stack([sin * scale * sign, cos * scale, _spread(count, limits.shift)], dim=1)
    return torch.stack([first, second], dim=1)


def _blur(grey: Tensor, limits: Limits) -> Tensor:
    side = grey.shape[-1]
    small = int(torch.randint(limits.least_side, side - 8, ()))
    reduced = functional.interpolate(grey, size=(small, small), mode="area")
    mode = "bicubic" if torch.rand(()) < 0.5 else "bilinear"
    return functional.interpolate(reduced, size=(side, side), mode=mode, align_corners=False)


def _expose(grey: Tensor, limits: Limits) -> Tensor:
    shape, count = (-1, 1, 1, 1), len(grey)
    grey = grey ** torch.exp(_spread(count, limits.gamma)).view(shape)
    grey = (grey - 0.5) * torch.exp(_spread(count, limits.contrast)).view(shape) + 0.5
    grey = grey + _spread(count, limits.brightness).view(shape)
    return grey + torch.randn_like(grey) * torch.rand(count, 1, 1, 1) * limits.noise


def _hide(grey: Tensor, limits: Limits) -> None:
    """Lay a grey rectangle over a part of one film [S, S], in place."""
    side = grey.shape[0]
    height, width = (torch.rand(2) * limits.hidden_side * side).int().tolist()
    top, left = int(torch.randint(0, side - height, ())), int(torch.randint(0, side - width, ()))
    grey[top : top + height, left : left + width] = torch.rand(())
