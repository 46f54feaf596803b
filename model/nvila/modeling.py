"""NVILA from plain Transformers parts: SiglipVisionModel, scale merging, projector and Qwen2ForCausalLM.

`input_ids` hold one placeholder id for each projected token (the processor writes them), so masks, positions and labels
have the length that the language model sees. The algorithm is that of NVlabs/VILA at commit b760c34.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.nvila.configuration import NvilaConfig
from model.nvila.projector import Projector, merge_scales, mosaic
from model.nvila.transformers_parts import (
    Cache,
    GenerationMixin,
    ModelOutput,
    PreTrainedModel,
    Qwen2ForCausalLM,
    SiglipVisionModel,
    no_init_weights,
)

MAX_KEPT_TILES = 64
"""Tiles whose features are kept at once; bounds the memory of tiled pictures and of large towers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageFeatures:
    """The features of a request's tiles.

    vision: [tiles, patches, C]. projector_input, projected: [merged tiles, patches or tokens, width].
    sequences: for each image [tokens, hidden] in the order that replaces its placeholders, newline rows not included.
    """

    vision: Tensor
    projector_input: Tensor
    projected: Tensor
    sequences: list[Tensor]


@dataclass
class NvilaOutput(ModelOutput):  # type: ignore[misc,unused-ignore]  # a base without types
    """loss where labels were given, logits [B, L or kept, vocabulary], the key-value cache, and what was asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class NvilaPreTrainedModel(PreTrainedModel):  # type: ignore[misc,unused-ignore]  # a base without types
    """The base class, with what Transformers must know of the family."""

    config_class = NvilaConfig
    config: NvilaConfig
    base_model_prefix = ""
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ("SiglipEncoderLayer", "Qwen2DecoderLayer")
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def get_init_context(cls, *arguments: Any, **named: Any) -> list[Any]:
        """The contexts in which `from_pretrained` builds the model: on the CPU, with weights that nobody fills.

        Transformers builds on the meta device, where torch's own operations are Python: symbolic mathematics and the
        compiler, 2 s of CPU. Memory that is not written to takes none, so a large model needs no more this way.
        """
        contexts = super().get_init_context(*arguments, **named)
        is_meta = [isinstance(context, torch.device) and context.type == "meta" for context in contexts]
        kept = [context for context, is_left in zip(contexts, is_meta, strict=True) if not is_left]
        return [*kept, no_init_weights()] if any(is_meta) else contexts


# Transformers has no types, so its bases are Any to mypy.
class NvilaForConditionalGeneration(NvilaPreTrainedModel, GenerationMixin):  # type: ignore[misc,unused-ignore]  # untyped
    """Vision tower + projector + language model (+ optional longitudinal extras).

    The extras are an nn.Module `model.nvila.longitudinal.LongitudinalExtras(config)`, made only where
    `config.longitudinal` is set. Its `forward(samples)` gets, for each sample that has images, the list of its images'
    projected tokens [tokens, hidden] in order (prior first, current last) and returns for each sample one tensor
    [n, hidden] that follows the last image's tokens (at a placeholder of its own where the prompt has one); n is
    `longitudinal["difference_tokens"]` where the sample has two images or more and `longitudinal["no_prior_tokens"]`
    where it has one. Its `in_time(samples)` gives the images' tokens as they go into the prompt. It initialises its
    own parameters.
    """

    def __init__(self, config: NvilaConfig) -> None:
        super().__init__(config)
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
        hidden = config.text_config.hidden_size
        width = config.vision_config.hidden_size * config.scale_count
        self.mm_projector = Projector(config.projector_type, width, hidden)
        self.llm = Qwen2ForCausalLM._from_config(config.text_config)
        self._kept: dict[bytes, Tensor] | None = None
        self.longitudinal: Any = None  # LongitudinalExtras, imported below where it is wanted
        if config.longitudinal is not None:
            from model.nvila.longitudinal import LongitudinalExtras  # plain NVILA does not need it

            self.longitudinal = LongitudinalExtras(config)
            for part in self.longitudinal.modules():
                part.__dict__["_is_hf_initialized"] = True  # it initialises itself; post_init must not redo it
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.llm.get_input_embeddings()  # type: ignore[no-any-return]  # Transformers has no types

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace them."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.llm.get_output_embeddings()  # type: ignore[no-any-return]  # Transformers has no types

    @contextmanager
    def keep_features(self) -> Iterator[None]:
        """Run the vision tower once for each tile until the block ends; for inference, with weights that stay."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """Tiles [n, 3, Z, Z] -> hidden states of the chosen layer [n, patches, C], before the post layer norm."""
        if self._kept is None or torch.is_grad_enabled():
            return self._run_tower(pixel_values)
        # By content: one picture may come in several inputs, and the tower is run on it once.
        tiles = {_digest(tile): index for index, tile in enumerate(pixel_values)}
        known, new = dict(self._kept), [name for name in tiles if name not in self._kept]
        if new:
            known |= zip(new, self._run_tower(pixel_values[[tiles[name] for name in new]]), strict=True)
            # Bounded: what no longer fits is computed each time.
            self._kept |= {name: known[name] for name in new[: max(0, MAX_KEPT_TILES - len(self._kept))]}
        return torch.stack([known[_digest(tile)] for tile in pixel_values])

    def _run_tower(self, pixel_values: Tensor) -> Tensor:
        """The layers above the chosen one are not run: nothing reads them."""
        tower = self.vision_tower
        # hidden_states holds the embeddings and each layer's output, so index -2 is the output of layer L - 1.
        count = range(len(tower.encoder.layers) + 1)[self.config.vision_select_layer]
        hidden = tower.embeddings(pixel_values.to(tower.dtype))
        for layer in tower.encoder.layers[:count]:
            hidden = layer(hidden, None)
        return hidden  # type: ignore[no-any-return]  # Transformers has no types

    def encode_images(self, pixel_values: Tensor, image_grids: Tensor | None = None) -> ImageFeatures:
        """Encode every tile of a request once and put each image's tokens in order.

        image_grids: int [images, 2] = (rows, columns) of the tiles, (0, 0) for an untiled image; None: all untiled.
        """
        return self.project_features(self.vision_features(pixel_values), image_grids)

    def project_features(self, vision: Tensor, image_grids: Tensor | None = None) -> ImageFeatures:
        """As `encode_images`, from what `vision_features` gave for the same tiles."""
        grids = [(0, 0)] * vision.shape[0] if image_grids is None else [(int(r), int(c)) for r, c in image_grids]
        if self.config.image_aspect_ratio == "dynamic_s2":
            return self._encode_scales(vision, grids)
        projected = self.mm_projector(vision)
        counts = [r * c + (r * c > 1) if r else 1 for r, c in grids]  # more than one tile: a thumbnail follows
        sequences = [part.flatten(0, 1) for part in projected.split(counts)]
        return ImageFeatures(vision=vision, projector_input=vision, projected=projected, sequences=sequences)

    def _encode_scales(self, vision: Tensor, grids: list[tuple[int, int]]) -> ImageFeatures:
        scales = self.config.s2_scales or []
        factors = tuple(scale // scales[0] for scale in scales)
        output = self.config.s2_resize_output_to_scale_idx % len(factors)
        below = sum(factor * factor for factor in factors[:-1])
        merged, blocks, used = [], [], 0
        for rows, columns in grids:
            count = below + rows * columns if rows else 1
            tiles, used = vision[used : used + count], used + count
            if rows:
                merged.append(merge_scales(tiles, factors, rows, columns, output))
                last = output == len(factors) - 1
                blocks.append((rows, columns) if last else (factors[output], factors[output]))
            else:
                merged.append(tiles.repeat(1, 1, len(factors)))
                blocks.append((1, 1))
        joined = torch.cat(merged)
        projected = self.mm_projector(joined)
        parts = projected.split([rows * columns for rows, columns in blocks])
        # The tiles' tokens are read as one picture, row by row over the whole mosaic, not tile after tile.
        sequences = [mosaic(part, r, c).flatten(0, 1) for part, (r, c) in zip(parts, blocks, strict=True)]
        return ImageFeatures(vision=vision, projector_input=joined, projected=projected, sequences=sequences)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grids: Tensor | None = None,
        image_counts: Tensor | None = None,
    ) -> Tensor:
        """Token ids and tiles -> the language model's input embeddings [B, L, hidden].

        image_counts: int [B], images of each sample; only the longitudinal extras need to know. None: one sample.
        Raises ValueError where the placeholders do not match the projected tokens.
        """
        places = input_ids == self.config.image_token_id
        # The placeholder may lie beyond the vocabulary (the original's does): it is never looked up.
        embeddings: Tensor = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        if pixel_values is None:
            return embeddings
        sequences = self.encode_images(pixel_values, image_grids).sequences
        if self.longitudinal is not None:
            sequences = self._with_extras(sequences, image_counts)
        tokens = torch.cat(sequences).to(embeddings.device, embeddings.dtype)
        if int(places.sum()) != tokens.shape[0]:
            raise ValueError(f"{int(places.sum())} image placeholders in the text, {tokens.shape[0]} image tokens")
        return embeddings.masked_scatter(places.unsqueeze(-1), tokens)

    def _with_extras(self, sequences: list[Tensor], image_counts: Tensor | None) -> list[Tensor]:
        """Append to the last image of each sample what the longitudinal extras say of all images of that sample."""
        counts = [len(sequences)] if image_counts is None else [int(count) for count in image_counts]
        samples, used = [], 0
        for count in counts:
            samples.append(sequences[used : used + count])
            used += count
        with_images = [sample for sample in samples if sample]
        assert self.longitudinal is not None
        extras = self.longitudinal(with_images)
        joined = []
        for sample, extra in zip(self.longitudinal.in_time(with_images), extras, strict=True):
            joined += [*sample[:-1], torch.cat([sample[-1], extra])]
        return joined

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grids: Tensor | None = None,
        image_counts: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> NvilaOutput:
        """Run the whole model; 2-D and 4-D attention masks, positions and labels go to the language model as given."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None, "exactly one of both is given"
            inputs_embeds = self.embed(input_ids, pixel_values, image_grids, image_counts)
        kwargs.pop("return_dict", None)
        outputs = self.llm(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **kwargs,
        )
        return NvilaOutput(
            loss=outputs.loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _digest(tile: Tensor) -> bytes:
    return hashlib.blake2b(tile.contiguous().view(torch.uint8).cpu().numpy().tobytes(), digest_size=16).digest()


__all__ = ["ImageFeatures", "NvilaForConditionalGeneration", "NvilaOutput", "NvilaPreTrainedModel"]
