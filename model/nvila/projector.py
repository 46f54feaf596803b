"""The projector: k x k neighbouring patches become one token of the language model's width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Downsample(nn.Module):
    """Space to channels: [tiles, side * side, C] -> [tiles, ceil(side / k)^2, k * k * C], zero-padded at the end.

    Channels of a block stand row-major: for k = 2 (r0c0, r0c1, r1c0, r1c1).
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, tokens: Tensor) -> Tensor:
        """Merge blocks; the token count must be a square."""
        tiles, count, channels = tokens.shape
        side = round(count**0.5)
        if side * side != count:
            raise ValueError(f"{count} patches are no square grid")
        # -side % k: how many are lacking to the next multiple of k.
        k, pad = self.k, -side % self.k
        grid = nn.functional.pad(tokens.view(tiles, side, side, channels), (0, 0, 0, pad, 0, pad))
        blocks = (side + pad) // k
        grid = grid.view(tiles, blocks, k, blocks, k, channels).permute(0, 1, 3, 2, 4, 5)
        return grid.reshape(tiles, blocks * blocks, k * k * channels)


class Projector(nn.Module):
    """`mlp_downsample` and its variants, with the parameter names of the original (`layers.N`)."""

    def __init__(self, kind: str, in_width: int, out_width: int) -> None:
        super().__init__()
        if kind == "mlp_downsample_3x3_fix":
            wide = in_width * 9
            self.layers = nn.Sequential(
                Downsample(3),
                nn.LayerNorm(wide),
                nn.Linear(wide, in_width * 3),
                nn.GELU(),
                nn.LayerNorm(in_width * 3),
                nn.Linear(in_width * 3, out_width),
                nn.GELU(),
                nn.Linear(out_width, out_width),
            )
        else:
            wide = in_width * 4
            self.layers = nn.Sequential(
                Downsample(2),
                nn.LayerNorm(wide),
                nn.Linear(wide, out_width),
                nn.GELU(),
                nn.Linear(out_width, out_width),
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """[tiles, patches, in_width] -> [tiles, tokens, out_width]."""
        projected: Tensor = self.layers(tokens)
        return projected


def mosaic(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """[rows * columns, side * side, C], row-major -> [rows * side, columns * side, C]."""
    count, patches, channels = tiles.shape
    side = round(patches**0.5)
    if count != rows * columns:
        raise ValueError(f"{count} tiles do not fill {rows} x {columns}")
    grid = tiles.view(rows, columns, side, side, channels).permute(0, 2, 1, 3, 4)
    return grid.reshape(rows * side, columns * side, channels)


def cut_mosaic(whole: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `mosaic`."""
    height, width, channels = whole.shape
    grid = whole.view(rows, height // rows, columns, width // columns, channels).permute(0, 2, 1, 3, 4)
    return grid.reshape(rows * columns, (height // rows) * (width // columns), channels)


def merge_scales(tiles: Tensor, factors: tuple[int, ...], rows: int, columns: int, output: int) -> Tensor:
    """Join the scales of one image (dynamic S2): [all tiles, P * P, C] -> [out tiles, P * P, C * scales].

    tiles stand scale after scale; the last scale has rows x columns of them. Each scale's map is resized to that of
    scale `output` by adaptive averaging, in float32, and the channels are joined in ascending order of scale.
    """
    grids = [(factor, factor) for factor in factors[:-1]] + [(rows, columns)]
    sizes = [r * c for r, c in grids]
    maps = [mosaic(part, r, c) for part, (r, c) in zip(torch.split(tiles, sizes), grids, strict=True)]
    out_rows, out_columns = grids[output]
    height, width, _ = maps[output].shape
    resized = [
        # "area" in float32, as the original does: bfloat16 sums would differ from its numbers.
        nn.functional.interpolate(m.permute(2, 0, 1)[None].float(), size=(height, width), mode="area")[0].to(m.dtype)
        for m in maps
    ]
    return cut_mosaic(torch.cat(resized).permute(1, 2, 0), out_rows, out_columns)
