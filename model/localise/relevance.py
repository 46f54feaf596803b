"""Where a finding is: relevance over the image as the model itself has it, and outlines of it in stored pixels.

Two ways, named honestly in every region:

- `OUTLINE_HEAD`: a linear layer on the vision tower's patches that training taught the findings' outlines
  (`heads.safetensors` beside the weights). It sees what the language model is given, but it is not the answer's cause.
- `GRADIENT`: gradient × token of the log-odds of "yes" over the image's projected tokens, for checkpoints without such
  a layer. It is about the answer, and coarser.

Neither is a segmentation. A finding gets a region only where the checkpoint's manifest says that the way was measured
for it (`Manifest.localisation`); `training/evaluation/pointing_game.py` measures. Works for NVILA without tiling.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from model.checkpoints.files import HEADS_FILE
from model.engine.vlm import NvilaVlm, Vlm
from model.errors import CheckpointError
from model.localise.outline import outlines, spread
from model.questions.battery import QuestionType, closed_question
from model.questions.prompts import PromptLayout
from model.schema import ON_PRIOR, Finding, ImageRole, Prediction, Presence, Region, StudyPair


class Method(StrEnum):
    """The method by which relevance was computed."""

    OUTLINE_HEAD = "outline head"
    """A layer on the vision tower that was trained on outlines."""
    GRADIENT = "gradient relevance"
    """Gradient of the answer's log-odds times the image tokens."""
    FILM_MAP = "film classifier map"
    """The map of a film classifier that was trained on radiologists' outlines (`model.experts.film_classifier`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heatmap:
    """Relevance float32 [rows, columns] over the model's square, not negative; method: how it was found."""

    grid: NDArray[np.float32]
    method: Method


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutlineHead:
    """LayerNorm and linear layer from patches [.., width] to one logit for each finding, in the order of `findings`."""

    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor
    bias: Tensor
    findings: tuple[str, ...]

    def on(self, device: torch.device) -> OutlineHead:
        """The same layer on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("norm_weight", "norm_bias", "weight", "bias")}
        return replace(self, **moved)

    def __call__(self, patches: Tensor) -> Tensor:
        """[images, patches, width] → probability [images, patches, findings] that the patch shows the finding."""
        normal = functional.layer_norm(patches.float(), patches.shape[-1:], self.norm_weight, self.norm_bias)
        return functional.linear(normal, self.weight, self.bias).sigmoid()


def read_outline_head(folder: Path, findings: Sequence[str]) -> OutlineHead | None:
    """The layer of a checkpoint folder, None where it has none. Raises CheckpointError where it does not fit.

    findings: in the order of training, which is that of the manifest.
    """
    if not (folder / HEADS_FILE).is_file():
        return None
    tensors = load_file(folder / HEADS_FILE)
    names = ("outline.0.weight", "outline.0.bias", "outline.1.weight", "outline.1.bias")
    if any(name not in tensors for name in names):
        return None
    # A copy of each: the file is mapped, and may be overwritten while the model serves.
    norm_weight, norm_bias, weight, bias = (tensors[name].to(torch.float32, copy=True) for name in names)
    if weight.shape[0] != len(findings):
        raise CheckpointError(f"{folder}: {weight.shape[0]} outlines for {len(findings)} findings")
    return OutlineHead(norm_weight=norm_weight, norm_bias=norm_bias, weight=weight, bias=bias, findings=tuple(findings))


class Localiser:
    """Finds regions for one loaded checkpoint. Not for several threads at once.

    measured: finding → share of hits of the manifest; only these are localised. method: None takes the outline head
    where there is one and the gradient otherwise.
    """

    def __init__(
        self,
        vlm: Vlm,
        *,
        head: OutlineHead | None = None,
        measured: Mapping[str, float],
        method: Method | None = None,
    ) -> None:
        self._vlm = vlm
        self._head = head.on(vlm.device) if head is not None else None
        self._measured = dict(measured)
        self.method = method or (Method.OUTLINE_HEAD if head is not None else Method.GRADIENT)

    @property
    def is_possible(self) -> bool:
        """True if this model's tokens lie on the image as a grid: NVILA without tiling."""
        return isinstance(self._vlm, NvilaVlm) and _is_untiled(self._vlm)

    def add_regions(self, pair: StudyPair, prediction: Prediction, *, layout: PromptLayout | None = None) -> Prediction:
        """The prediction with regions for its positive and changed findings, and the seconds in "localise".

        layout: what the model was shown beside the images when it answered, where that was more than they.
        """
        if not self.is_possible or prediction.abstained is not None:
            return prediction
        started = time.perf_counter()
        chosen = choose_regions(prediction.findings, self._measured)
        maps = self.heatmaps(pair, chosen, layout=layout)
        regions: dict[str, list[Region]] = {}
        for (key, role), heatmap in maps.items():
            image = pair.current if role is ImageRole.CURRENT else pair.prior
            assert image is not None
            polygons = outlines(heatmap.grid, image, self._vlm.image_size)
            regions.setdefault(key, []).extend(
                Region(role=role, points=points, method=heatmap.method.value) for points in polygons
            )
        findings = tuple(replace(f, regions=tuple(regions.get(f.key, ()))) for f in prediction.findings)
        seconds = {**prediction.seconds, "localise": time.perf_counter() - started}
        return replace(prediction, findings=findings, seconds=seconds)

    def heatmaps(
        self, pair: StudyPair, wanted: Sequence[tuple[str, ImageRole]], *, layout: PromptLayout | None = None
    ) -> dict[tuple[str, ImageRole], Heatmap]:
        """Relevance of each (finding, image) that is wanted. Prior images are left out where the pair has none."""
        asked = [(key, role) for key, role in wanted if role is ImageRole.CURRENT or pair.prior is not None]
        if not asked or not isinstance(self._vlm, NvilaVlm):
            return {}
        if self.method is Method.OUTLINE_HEAD:
            return self._by_head(self._vlm, pair, asked)
        return self._by_gradient(self._vlm, pair, asked, layout)

    @torch.inference_mode()
    def _by_head(
        self, vlm: NvilaVlm, pair: StudyPair, asked: Sequence[tuple[str, ImageRole]]
    ) -> dict[tuple[str, ImageRole], Heatmap]:
        assert self._head is not None
        roles = sorted({role for _, role in asked})
        images = [pair.current if role is ImageRole.CURRENT else pair.prior for role in roles]
        pictures = [vlm.picture(image) for image in images if image is not None]
        inputs = vlm.inputs(vlm.placeholder * len(pictures), pictures)
        shares = self._head(vlm.model.vision_features(inputs["pixel_values"]))  # [images, patches, findings]
        result = {}
        for key, role in asked:
            if key in self._head.findings:
                column = shares[roles.index(role), :, self._head.findings.index(key)]
                result[key, role] = Heatmap(grid=_grid(column), method=Method.OUTLINE_HEAD)
        return result

    @torch.enable_grad()
    def _by_gradient(
        self, vlm: NvilaVlm, pair: StudyPair, asked: Sequence[tuple[str, ImageRole]], layout: PromptLayout | None
    ) -> dict[tuple[str, ImageRole], Heatmap]:
        pictures = [vlm.picture(pair.current)]
        if pair.prior is not None:
            pictures.insert(0, vlm.picture(pair.prior))
        layout = layout or vlm.layout(priors=len(pictures) - 1)
        result = {}
        tokens: list[Tensor] | None = None
        for key, role in asked:
            type = QuestionType.PRESENCE if role is ImageRole.CURRENT else QuestionType.PRIOR_PRESENCE
            question = closed_question(type, key)
            inputs = vlm.inputs(vlm.prompt(layout, question.text), pictures)
            if tokens is None:  # the images are encoded once for all findings
                with torch.no_grad():
                    tokens = vlm.model.encode_images(inputs["pixel_values"], inputs.get("image_grids")).sequences
            relevance = _relevance(vlm, layout, question.text, inputs, tokens)
            image = 0 if role is ImageRole.PRIOR else len(pictures) - 1
            result[key, role] = Heatmap(grid=_grid(relevance[image]), method=Method.GRADIENT)
        return result


def choose_regions(findings: Sequence[Finding], measured: Mapping[str, float]) -> list[tuple[str, ImageRole]]:
    """The (finding, image) pairs that get a region: what is there now, and on the prior what was there or changed."""
    chosen = []
    for finding in findings:
        if finding.key not in measured:
            continue
        if finding.presence is Presence.PRESENT:
            chosen.append((finding.key, ImageRole.CURRENT))
        if finding.change in ON_PRIOR:
            chosen.append((finding.key, ImageRole.PRIOR))
    return chosen


def heat_picture(grey: NDArray[np.uint8], heatmap: Heatmap, opacity: float = 0.45) -> NDArray[np.uint8]:
    """The model's square uint8 [S, S] with relevance laid over it in red: uint8 [S, S, 3]."""
    heat = spread(heatmap.grid, grey.shape[0])
    heat = heat / max(float(heat.max()), 1e-9) * opacity
    base = np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)
    red = np.array([255.0, 40.0, 0.0], dtype=np.float32)
    return np.clip(base * (1 - heat[..., None]) + red * heat[..., None], 0, 255).round().astype(np.uint8)


def _relevance(
    vlm: NvilaVlm, layout: PromptLayout, question: str, inputs: Mapping[str, Tensor], tokens: Sequence[Tensor]
) -> list[Tensor]:
    """For each image [tokens]: the positive part of sum(gradient × token) of log p(yes) - log p(no)."""
    model = vlm.model
    # The gradient ends at the images' tokens: the vision tower is not gone through again.
    leaves = [image.detach().clone().requires_grad_(True) for image in tokens]
    sequences: list[Tensor] = list(leaves)
    if model.longitudinal is not None:
        sequences = model._with_extras(sequences, inputs.get("image_counts"))
    places = inputs["input_ids"] == model.config.image_token_id
    # Any id will do at the images' places, whose embeddings are replaced below.
    embeddings = model.get_input_embeddings()(inputs["input_ids"].masked_fill(places, 0)).detach()
    joined = torch.cat(sequences).to(embeddings.dtype)
    embeddings = embeddings.masked_scatter(places.unsqueeze(-1), joined)
    logits = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"], logits_to_keep=1).logits[0, -1]
    yes, no = (vlm.token_ids(vlm.continuation(layout, question, answer))[0] for answer in ("yes", "no"))
    # The difference of two logits is that of their log-probabilities: the softmax's denominator cancels out.
    gradients = torch.autograd.grad(logits[yes].float() - logits[no].float(), leaves)
    return [
        # What speaks against the finding does not show where it is.
        (gradient.float() * leaf.detach().float()).sum(-1).clamp(min=0)
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]


def _grid(values: Tensor) -> NDArray[np.float32]:
    """[tokens], row by row, → float32 [side, side]."""
    side = round(values.shape[0] ** 0.5)
    grid: NDArray[np.float32] = values.detach().float().reshape(side, side).cpu().numpy()
    return grid


def _is_untiled(vlm: NvilaVlm) -> bool:
    return bool(vlm.image_size == vlm.model.config.tile_side)
