"""Additions to NVILA for two images of one person: an explicit difference feature, and a learned "no prior" state.

Both are ours and both are switches of the configuration (`NvilaConfig.longitudinal`). The difference of the two images'
features gave VED its largest gain; that an absent prior must be a learned state, not a black image, is BioViL-T's
finding (Bannur et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import CheckpointError

KEYS = frozenset({"difference_tokens", "no_prior_tokens", "align", "image_roles"})


class LongitudinalExtras(nn.Module):
    """Tokens that follow the last image of a sample.

    difference_tokens: how many stand for the difference of the last two images; 0 switches it off. Must be a square:
        the difference map is averaged down to that grid. no_prior_tokens: how many learned ones stand where there is
        one image only; 0 switches it off. align: each token of the current image first looks up, by attention, what
        of the prior lies where it lies in the body, so that another positioning alone is no difference. image_roles:
        how many places in time have a learned vector of their own, added to every token of the image there, counted
        back from the current one; earlier images share the last; 0 switches it off. Without it a small language model
        mixes up what it saw on which image: its answers on the prior and on the current image were nearly the same.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        settings = dict(config.longitudinal or {})
        unknown = set(settings) - KEYS
        if unknown:
            raise CheckpointError(f"longitudinal: unknown keys {sorted(unknown)}; known: {sorted(KEYS)}")
        hidden = int(config.text_config.hidden_size)
        self.difference_tokens = int(settings.get("difference_tokens", 0))
        self.side = round(self.difference_tokens**0.5)
        if self.side**2 != self.difference_tokens:
            raise CheckpointError(f"longitudinal.difference_tokens: {self.difference_tokens} is no square number")
        self.align: nn.MultiheadAttention | None = None
        if self.difference_tokens:
            if settings.get("align", False):
                # The most heads, up to four, that divide the width.
                heads = next(count for count in (4, 3, 2, 1) if hidden % count == 0)
                self.norm = nn.LayerNorm(hidden)
                self.align = nn.MultiheadAttention(hidden, heads, batch_first=True)
                places = self.side if config.token_side == self.side else config.token_side
                self.place = nn.Parameter(torch.randn(places * places, hidden) * 0.02)
            self.compare = nn.Sequential(nn.LayerNorm(3 * hidden), nn.Linear(3 * hidden, hidden), nn.GELU())
            self.out = nn.Linear(hidden, hidden)
        roles = int(settings.get("image_roles", 0))
        self.roles = nn.Parameter(torch.randn(roles, hidden) * 0.02) if roles else None
        self.no_prior = nn.Parameter(torch.randn(int(settings.get("no_prior_tokens", 0)), hidden) * 0.02)

    def forward(self, samples: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The extras of each sample, [difference_tokens or no_prior_tokens, hidden].

        samples: for each the projected tokens [tokens, hidden] of its images, oldest first.
        """
        pairs = [index for index, images in enumerate(samples) if len(images) > 1]
        extras: list[Tensor] = [self.no_prior] * len(samples)
        if pairs and not self.difference_tokens:
            empty = samples[pairs[0]][0][:0]
            for index in pairs:
                extras[index] = empty
        elif pairs:
            shapes = {tuple(image.shape) for index in pairs for image in samples[index][-2:]}
            if len(shapes) == 1:  # the usual case: one batch
                prior = torch.stack([samples[index][-2] for index in pairs])
                current = torch.stack([samples[index][-1] for index in pairs])
                for index, tokens in zip(pairs, self.difference(prior, current), strict=True):
                    extras[index] = tokens
            else:
                for index in pairs:
                    prior, current = self._to_grid(samples[index][-2]), self._to_grid(samples[index][-1])
                    extras[index] = self.difference(prior, current)[0]
        return extras

    def grow_roles(self, roles: int) -> None:
        """Tell more places in time apart: the new ones begin as the last one was. Raises CheckpointError for fewer."""
        if self.roles is None or roles < len(self.roles):
            raise CheckpointError(f"longitudinal.image_roles cannot become {roles}")
        more = self.roles[-1:].detach().repeat(roles - len(self.roles), 1)
        self.roles = nn.Parameter(torch.cat([self.roles.detach(), more]))

    def in_time(self, samples: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """The same tokens, each image's marked with its place in time; unchanged where there are no roles."""
        if self.roles is None:
            return [list(images) for images in samples]
        last = len(self.roles) - 1
        return [
            # Counted from the newest: role 0 is the current image, however many stand before it; the oldest share the
            # last role.
            [tokens + self.roles[min(len(images) - 1 - number, last)] for number, tokens in enumerate(images)]
            for images in samples
        ]

    def difference(self, prior: Tensor, current: Tensor) -> Tensor:
        """[B, tokens, hidden] twice -> [B, difference_tokens, hidden]: projected current - prior, beside both."""
        if self.align is not None and prior.shape[1] == self.place.shape[0]:
            # Queries and keys carry the place, values do not: what is fetched from there is the prior's content alone.
            keys = self.norm(prior) + self.place
            difference, _ = self.align(self.norm(current) + self.place, keys, prior, need_weights=False)
            prior = prior + difference
        map = self.compare(torch.cat([current - prior, current, prior], dim=-1))
        tokens: Tensor = self.out(self._to_grid(map))
        return tokens

    def _to_grid(self, tokens: Tensor) -> Tensor:
        """[B, tokens, hidden] or [tokens, hidden] -> [B, side * side, hidden], averaged where there are more."""
        batch = tokens if tokens.ndim == 3 else tokens[None]
        if batch.shape[1] == self.difference_tokens:
            return batch
        side = round(batch.shape[1] ** 0.5)
        if side * side != batch.shape[1]:  # tiled images need not be square: pool them as one line
            pooled = nn.functional.adaptive_avg_pool1d(batch.transpose(1, 2), self.difference_tokens)
            return pooled.transpose(1, 2)
        grid = batch.transpose(1, 2).reshape(batch.shape[0], -1, side, side)
        return nn.functional.adaptive_avg_pool2d(grid, self.side).flatten(2).transpose(1, 2)
