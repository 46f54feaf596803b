"""Text and images -> what `NvilaForConditionalGeneration` takes: tiles, token ids with placeholders, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.nvila.configuration import NvilaConfig
from model.nvila.tiling import ImageGeometry, TiledImage, Tiling, tile_image
from model.nvila.transformers_parts import BatchFeature, ProcessorMixin

IMAGE_TOKEN = "<image>"
MEDIA_TOKENS = ("<vila/sentinel>", IMAGE_TOKEN, "<vila/video>")
"""Appended at load in this order where the tokenizer does not have them (reference README 4.10)."""


def add_media_tokens(tokenizer: Any) -> None:
    """Give the tokenizer the three media tokens that the original adds at load."""
    known = tokenizer.get_vocab()
    missing = [token for token in MEDIA_TOKENS if token not in known]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)


def geometry_of(config: NvilaConfig) -> dict[str, Any]:
    """The part of a configuration that the processor needs, as plain values for processor_config.json."""
    extras = config.longitudinal or {}
    return {
        "mode": config.image_aspect_ratio,
        "tile_side": config.tile_side,
        "patch_side": config.patch_side,
        "merge_side": config.merge_side,
        "s2_scales": list(config.s2_scales or []) if config.image_aspect_ratio == "dynamic_s2" else [],
        "s2_output_scale": config.s2_resize_output_to_scale_idx,
        "min_tiles": config.min_tiles,
        "max_tiles": config.max_tiles,
        "difference_tokens": int(extras.get("difference_tokens", 0)),
        "no_prior_tokens": int(extras.get("no_prior_tokens", 0)),
    }


class NvilaProcessor(ProcessorMixin):  # type: ignore[misc,unused-ignore]  # a base without types
    """Tokenizer and image cutting of one checkpoint.

    geometry: see `geometry_of`. tiling: the `Tiling` used where a call does not say; stored with the checkpoint so that
    training and serving use the same one.
    """

    def __init__(
        self, tokenizer: Any, geometry: dict[str, Any], tiling: str = "original", chat_template: str | None = None
    ) -> None:
        self.geometry = dict(geometry)
        self.tiling = str(Tiling(tiling))
        super().__init__(tokenizer, chat_template=chat_template or tokenizer.chat_template)
        add_media_tokens(tokenizer)
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        newline = tokenizer("\n", add_special_tokens=False).input_ids
        if len(newline) != 1:
            raise ValueError("the tokenizer must hold the newline as one token; it ends every image")
        self.newline_token_id: int = newline[0]

    @property
    def image_geometry(self) -> ImageGeometry:
        """The sizes as a value."""
        g = self.geometry
        return ImageGeometry(
            mode=g["mode"],
            tile_side=g["tile_side"],
            patch_side=g["patch_side"],
            merge_side=g["merge_side"],
            s2_scales=tuple(g["s2_scales"]),
            s2_output_scale=g["s2_output_scale"],
            min_tiles=g["min_tiles"],
            max_tiles=g["max_tiles"],
        )

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call returns."""
        return ["input_ids", "attention_mask", "pixel_values", "image_grids", "image_counts"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        tiling: str | None = None,
        padding_side: str | None = None,
        return_tensors: str = "pt",
        **_: Any,
    ) -> BatchFeature:
        """One prompt or a batch.

        text: the prompt with the chat template already applied and one `<image>` for each image (or, in mode "dynamic",
        one for each tile, as the reference's stored prompts have). images: PIL images or uint8 [H, W] / [H, W, 3]
        arrays; for a batch a list of lists. Returns input_ids and attention_mask int64 [B, L], and where there are
        images pixel_values float32 [tiles, 3, Z, Z], image_grids int64 [images, 2], image_counts int64 [B].
        """
        if return_tensors != "pt":
            raise ValueError("return_tensors must be 'pt'")
        if text is None:
            raise ValueError("a text is needed")
        texts = [text] if isinstance(text, str) else list(text)
        groups = _group(images, len(texts))
        mode = Tiling(tiling or self.tiling)
        rows, tiled = [], []
        for prompt, group in zip(texts, groups, strict=True):
            cut = self.tile(group, mode)
            rows.append(self.expand_ids(prompt, cut))
            tiled.append(cut)
        data = self.pad(rows, padding_side or self.tokenizer.padding_side)
        if any(tiled):
            data |= self.image_inputs(tiled)
        return BatchFeature(data)

    def tile(self, images: Sequence[Any], tiling: Tiling) -> list[TiledImage]:
        """Cut the images of one sample."""
        cut = tiling is Tiling.ALWAYS or (tiling is Tiling.ORIGINAL and len(images) == 1)
        return [tile_image(_as_pil(image), self.image_geometry, tiled=cut) for image in images]

    def image_inputs(self, samples: Sequence[Sequence[TiledImage]]) -> dict[str, torch.Tensor]:
        """The image tensors of a batch: pixel_values, image_grids, image_counts."""
        flat = [image for sample in samples for image in sample]
        return {
            "pixel_values": torch.from_numpy(np.concatenate([image.pixels for image in flat])),
            "image_grids": torch.tensor([[image.rows, image.columns] for image in flat]),
            "image_counts": torch.tensor([len(sample) for sample in samples]),
        }

    def prompt_ids(self, text: str, images: Sequence[TiledImage]) -> list[int]:
        """Token ids with one id for each placeholder, before each grows to its image's length."""
        if self.geometry["mode"] == "dynamic":
            text = self._with_tile_placeholders(text, images)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        parts = sum(len(image.sequence_tokens) for image in images)
        # The longitudinal extras may have a placeholder of their own, after the images'.
        own = int(self.extra_tokens(len(images)) > 0)
        if ids.count(self.image_token_id) not in (parts, parts + own):
            raise ValueError(f"{ids.count(self.image_token_id)} {IMAGE_TOKEN} in the text for {parts} image parts")
        return ids

    def _with_tile_placeholders(self, text: str, images: Sequence[TiledImage]) -> str:
        """Mode "dynamic": each image that was cut stands as one `<image>` and newline for each of its tiles."""
        parts = text.split(IMAGE_TOKEN)
        own = int(self.extra_tokens(len(images)) > 0)
        if len(parts) - 1 not in (len(images), len(images) + own):  # already written out tile by tile, or wrong
            return text
        runs = [f"{IMAGE_TOKEN}\n" * len(image.sequence_tokens) if image.rows else IMAGE_TOKEN for image in images]
        runs += [IMAGE_TOKEN] * (len(parts) - 1 - len(runs))
        return parts[0] + "".join(run + part for run, part in zip(runs, parts[1:], strict=True))

    def expand_ids(self, text: str, images: Sequence[TiledImage]) -> list[int]:
        """Token ids as the language model sees them: each placeholder repeated, then the newline row."""
        unexpanded = self.prompt_ids(text, images)
        lengths = [tokens for image in images for tokens in image.sequence_tokens]
        if extra := self.extra_tokens(len(images)):
            # The difference feature has a placeholder of its own, or its tokens follow the last image's.
            if unexpanded.count(self.image_token_id) > len(lengths):
                lengths.append(extra)
            else:
                lengths[-1] += extra
        remaining = iter(lengths)
        ids: list[int] = []
        for token in unexpanded:
            if token == self.image_token_id:
                ids += [token] * next(remaining) + [self.newline_token_id]
            else:
                ids.append(token)
        return ids

    def extra_tokens(self, images: int) -> int:
        """Tokens of the longitudinal extras for so many images; 0 for plain NVILA.

        They stand at one more `<image>` after the images' where the text has it, else behind the last image's tokens.
        """
        if images == 0:
            return 0
        return int(self.geometry["no_prior_tokens" if images == 1 else "difference_tokens"])

    def pad(self, rows: Sequence[Sequence[int]], side: str) -> dict[str, torch.Tensor]:
        """Rows of ids -> input_ids and attention_mask [B, L]."""
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            columns = slice(length - len(row), length) if side == "left" else slice(0, len(row))
            ids[index, columns] = torch.tensor(row, dtype=torch.long)
            mask[index, columns] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def prompt(self, parts: Sequence[Any] | str, *, system: str | None = None) -> str:
        """The prompt text of the original for parts (strings and images, in order), ending where the answer begins.

        Literal media tokens in strings are removed, nothing is put between the parts, the whole is stripped.
        """
        message = "".join(
            _without_media(part) if isinstance(part, str) else IMAGE_TOKEN
            for part in ([parts] if isinstance(parts, str) else parts)
        ).strip()
        messages = [{"role": "user", "content": message}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        rendered: str = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return rendered


def _without_media(text: str) -> str:
    markers = [token for token in (IMAGE_TOKEN, "<vila/video>") if token in text]
    for token in markers:
        text = text.replace(token, "")
    return text.strip() if markers else text


def _group(images: Any, samples: int) -> list[list[Any]]:
    """The images of each sample."""
    if images is None:
        return [[] for _ in range(samples)]
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    if samples == 1 and not any(isinstance(item, (list, tuple)) for item in given):
        return [given]
    if len(given) != samples or not all(isinstance(item, (list, tuple)) for item in given):
        raise ValueError(f"a batch of {samples} texts needs a list of {samples} lists of images")
    return [list(item) for item in given]


def _as_pil(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8, not {array.dtype}")
    return Image.fromarray(array)
