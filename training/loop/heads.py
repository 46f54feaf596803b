"""Auxiliary heads: they make the vision tower look at findings before and while the language model learns to speak.

Used in training only. Trained on answers alone from the start, a small model sits on the marginals (LUMEN.md, 7).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.questions.answers import CHANGE_ANSWERS
from training.data.collate import PackedBatch
from training.data.samples import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadOutputs:
    """single: [images, K, 4], logits of present, left, right and severity. change: [pairs, K, 6] or None.

    outline: [images, patches, K], logits of "this patch shows the finding".
    """

    single: Tensor
    outline: Tensor
    change: Tensor | None


class AuxiliaryHeads(nn.Module):
    """One learned query for each finding looks at the projected tokens of an image, and at the difference tokens."""

    def __init__(self, hidden: int, vision: int, findings: int) -> None:
        super().__init__()
        heads = next(count for count in (4, 3, 2, 1) if hidden % count == 0)
        self.outline = nn.Sequential(nn.LayerNorm(vision), nn.Linear(vision, findings))
        self.queries = nn.Parameter(torch.randn(findings, hidden) * 0.02)
        self.norm = nn.LayerNorm(hidden)
        self.look = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.look_difference = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.single = nn.Parameter(torch.randn(findings, hidden, 4) * hidden**-0.5)
        # They begin near how rare findings are, else the first steps go into learning that most are absent
        # (prior initialisation, Lin et al. 2017, section 4.1).
        self.single_bias = nn.Parameter(torch.tensor([-1.0, 0.0, 0.0, -1.5]).repeat(findings, 1))
        self.mix = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.GELU())
        self.change = nn.Parameter(torch.randn(findings, hidden, len(CHANGE_ANSWERS)) * hidden**-0.5)
        self.change_bias = nn.Parameter(torch.zeros(findings, len(CHANGE_ANSWERS)))

    def forward(self, patches: Tensor, images: Tensor, pairs: Tensor, difference: Tensor | None) -> HeadOutputs:
        """patches: [images, patches, vision], before the projector. images: [images, tokens, hidden], after it.

        pairs: int64 [pairs, 2], rows of `images` (prior, current).
        difference: [pairs, tokens, hidden] or None where the model has no difference tokens.
        """
        outline = self.outline(patches)
        tokens = self.norm(images)
        queries = self.queries.expand(images.shape[0], -1, -1)
        seen, _ = self.look(queries, tokens, tokens, need_weights=False)
        single = torch.einsum("bkh,kho->bko", seen, self.single) + self.single_bias
        # A batch of single images has no change to learn.
        if not len(pairs):
            return HeadOutputs(single=single, outline=outline, change=None)
        prior, current = seen[pairs[:, 0]], seen[pairs[:, 1]]
        third = current - prior
        if difference is not None:
            tokens = self.norm(difference)
            queries = self.queries.expand(len(pairs), -1, -1)
            third, _ = self.look_difference(queries, tokens, tokens, need_weights=False)
        mixed = self.mix(torch.cat([prior, current, third], dim=-1))
        change = torch.einsum("bkh,kho->bko", mixed, self.change) + self.change_bias
        return HeadOutputs(single=single, outline=outline, change=change)


def head_losses(outputs: HeadOutputs, batch: PackedBatch) -> dict[str, Tensor]:
    """The losses of the heads by name; every one is a mean over what is known.

    presence: binary cross-entropy. side: the same for left and right of what is present. severity: squared error of
    the sigmoid, absent = 0. change: cross-entropy over the six answers with the absent ones weighted down.
    outline: binary cross-entropy of each patch against the share of it that the finding covers (of its fullest cell,
    where marks are finer than patches). From scratch it is what gets a vision transformer going: a label of the whole
    image alone left it at the marginals for 15,000 images.
    """
    rows, places, labelled = _image_rows(batch.image_counts)

    def pick(values: Tensor | None) -> Tensor:
        if values is None:
            raise ValueError("the heads need samples with targets")
        picked = values[rows, places]
        # Earlier images than the pair have no targets; NaN says "not known" to the loss.
        if picked.is_floating_point() and not bool(labelled.all()):
            picked = picked.masked_fill(~labelled.view(-1, *[1] * (picked.ndim - 1)), float("nan"))
        return picked

    single = outputs.single.float()
    losses = {"presence": _known_bce(single[..., 0], pick(batch.present))}
    sides = torch.stack([pick(batch.left), pick(batch.right)], dim=-1)
    losses["side"] = _known_bce(single[..., 1:3], sides)
    severity = pick(batch.severity)
    # A sum over what is known by its count, never a mean over all: a batch with few labels weighs them no less.
    known = ~severity.isnan()
    error = (single[..., 3].sigmoid() - severity.nan_to_num()).square()
    losses["severity"] = (error * known).sum() / known.sum().clamp(min=1)
    if batch.marks is not None:
        marked = labelled if batch.marked is None else labelled & batch.marked[rows]
        losses["outline"] = _outline_loss(outputs.outline, pick(batch.marks), marked)
    if outputs.change is not None and batch.change is not None:
        losses["change"] = _change_loss(outputs.change, batch.change[batch.image_counts > 1])
    return losses


def _change_loss(logits: Tensor, target: Tensor) -> Tensor:
    """logits [pairs, K, 6] against int64 [pairs, K]; 0 where no change of the batch is known."""
    flat, known = target.flatten(), target.flatten() != UNKNOWN
    if not bool(known.any()):
        return logits.sum() * 0.0  # every rank must reach the same weights
    weight = torch.ones(len(CHANGE_ANSWERS), device=target.device)
    weight[CHANGE_ANSWERS.index("none")] = 0.25  # most findings are on neither image
    return functional.cross_entropy(logits.float().flatten(0, 1), flat, weight, ignore_index=UNKNOWN)


def _outline_loss(logits: Tensor, marks: Tensor, marked: Tensor) -> Tensor:
    """logits [images, patches, K] against marks uint8 [images, K, side, side], of the images that are marked."""
    if not bool(marked.all()):
        if not bool(marked.any()):
            return logits.sum() * 0.0
        logits, marks = logits[marked], marks[marked]
    side = round(logits.shape[1] ** 0.5)
    target = functional.adaptive_max_pool2d(marks.float() / 255, side).flatten(2).transpose(1, 2)
    weight = torch.tensor(3.0, device=logits.device)  # findings cover few patches
    return functional.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=weight)


def _image_rows(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each image of the batch its sample, its place in the targets (0 prior, 1 current), and whether it has one:
    images before the prior have no targets."""
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    ends = counts.cumsum(0)
    last = torch.zeros(int(counts.sum()), dtype=torch.long, device=counts.device)
    last[ends - 1] = 1
    position = torch.arange(len(rows), device=counts.device)
    return rows, last, ends[rows] - position <= 2


def _known_bce(logits: Tensor, targets: Tensor) -> Tensor:
    known = ~targets.isnan()
    loss = functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)
