"""One door to every image-text model: NVILA folders and whatever Transformers' Auto classes open, in the same words.

What differs between models (chat template, image tokens, stop tokens) ends here; the engine sees texts and token ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.checkpoints.manifest import CheckpointKind
from model.engine.auto_classes import load_auto, local_folder
from model.engine.chat_template import ChatTemplate
from model.errors import CheckpointError, InferenceError
from model.images.square import fit
from model.nvila import IMAGE_TOKEN, NvilaForConditionalGeneration, NvilaProcessor, Tiling, load_nvila
from model.nvila.checkpoint import ORIGINAL_TYPE, in_memory, read_json
from model.nvila.configuration import NvilaConfig
from model.questions.prompts import PromptLayout, Turn, messages, render_answer, render_prefix, render_question
from model.schema import DisplayImage

ALIGNED = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs that have one value for each token."""


class Vlm(ABC):
    """A loaded model and its processor. `image_size`: side in pixels of the square pictures that it is given."""

    kind: CheckpointKind
    image_size: int

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        settings = getattr(self.model, "generation_config", None)
        stops = settings.eos_token_id if settings is not None else None
        if stops is None:
            stops = self.tokenizer.eos_token_id
        return tuple(stops) if isinstance(stops, (list, tuple)) else (int(stops),)

    @property
    def positions(self) -> int | None:
        """The longest sequence that the language model was made for; None where its configuration does not say."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(most) if most else None

    def picture(self, image: DisplayImage) -> NDArray[np.uint8]:
        """The square uint8 picture of a display image, as training makes it."""
        return fit(image, self.image_size)

    def layout(
        self,
        *,
        priors: int,
        days: tuple[int | None, ...] = (),
        expert: str | None = None,
        context: str | None = None,
    ) -> PromptLayout:
        """The prompt layout that this checkpoint was made for."""
        return PromptLayout(priors=priors, days=days, expert=expert, context=context)

    @property
    @abstractmethod
    def placeholder(self) -> str:
        """The text that stands for an image in a prompt."""

    @abstractmethod
    def prompt(self, layout: PromptLayout, question: str) -> str:
        """The whole text up to where the answer begins."""

    @abstractmethod
    def continuation(self, layout: PromptLayout, question: str, answer: str) -> str:
        """The text after `prompt` when this is the answer: the answer and its end token."""

    def inputs(self, text: str, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """Everything that `model(**inputs)` needs, on its device, for one prompt and its pictures in order.

        Raises InferenceError where the prompt has more tokens than the model has positions: most would answer all the
        same, with nonsense.
        """
        images = [Image.fromarray(picture).convert("RGB") for picture in pictures]
        batch = self._process(text, images)
        length, most = batch["input_ids"].shape[-1], self.positions
        if most is not None and length > most:
            raise InferenceError(f"the prompt has {length} tokens and the model positions for {most}")
        return {
            # Pixel values in the model's precision; ids and masks keep their integer types.
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }

    @abstractmethod
    def _process(self, text: str, images: list[Image.Image]) -> Any: ...

    def token_ids(self, text: str) -> list[int]:
        """Tokens of a text without images."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids


class NvilaVlm(Vlm):
    """An NVILA of either folder layout."""

    kind = CheckpointKind.NVILA

    def __init__(self, model: NvilaForConditionalGeneration, processor: NvilaProcessor, tiling: Tiling) -> None:
        super().__init__(model, processor)
        self.tiling = tiling
        config: NvilaConfig = model.config
        scales = config.s2_scales or [config.tile_side * 3]
        tiled = tiling is not Tiling.NEVER and config.image_aspect_ratio != "resize"
        self.image_size = max(scales) if tiled else config.tile_side
        self._difference = bool((config.longitudinal or {}).get("difference_tokens"))

    @property
    def placeholder(self) -> str:
        return IMAGE_TOKEN

    def layout(
        self,
        *,
        priors: int,
        days: tuple[int | None, ...] = (),
        expert: str | None = None,
        context: str | None = None,
    ) -> PromptLayout:
        difference = self._difference and priors > 0
        return PromptLayout(priors=priors, days=days, difference=difference, expert=expert, context=context)

    def prompt(self, layout: PromptLayout, question: str) -> str:
        return render_prefix(layout) + render_question(question)

    def continuation(self, layout: PromptLayout, question: str, answer: str) -> str:
        return render_answer(answer)

    @torch.inference_mode()
    def tower_features(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Means and maxima over the patches of the vision tower's features of untiled square pictures [N, 2 C]."""
        tiled = self.processor.tile(list(pictures), Tiling.NEVER)
        pixels = self.processor.image_inputs([tiled])["pixel_values"].to(self.device)
        hidden = self.model.vision_features(pixels).float()
        return torch.cat([hidden.mean(dim=1), hidden.amax(dim=1)], dim=1).cpu()

    def _process(self, text: str, images: list[Image.Image]) -> Any:
        return self.processor(text=text, images=images or None, tiling=self.tiling)


class AutoVlm(Vlm):
    """A model of Transformers' own, spoken to through its chat template."""

    kind = CheckpointKind.AUTO
    image_size = 448

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._template = ChatTemplate(processor)
        side = getattr(getattr(model.config, "vision_config", None), "image_size", None)
        if isinstance(side, int):
            self.image_size = side
        self._try_two_images()

    @property
    def placeholder(self) -> str:
        return str(self.processor.image_token)

    def prompt(self, layout: PromptLayout, question: str) -> str:
        return self._render(messages(layout, [Turn(question=question)]), open_answer=True)

    def continuation(self, layout: PromptLayout, question: str, answer: str) -> str:
        asked = self.prompt(layout, question)
        answered = self._render(messages(layout, [Turn(question=question, answer=answer)]), open_answer=False)
        # Where the template writes a past answer otherwise than it opens a new one (a thinking part): say it plainly.
        text = answered[len(asked) :] if answered.startswith(asked) else answer
        ends = [end_index for end in self.end_tokens if (end_index := text.find(end) + len(end)) >= len(end)]
        # Without an end "none" would beat "none of these": each answer must say that it is over.
        return text[: min(ends)] if ends else text.rstrip() + str(self.tokenizer.eos_token)

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """The texts of `stop_ids`."""
        return tuple(str(token) for token in self.tokenizer.convert_ids_to_tokens(list(self.stop_ids)))

    def chat(self, layout: PromptLayout, turns: Sequence[Turn]) -> str:
        """A whole conversation; where the last turn has no answer, up to where it begins."""
        return self._render(messages(layout, turns), open_answer=turns[-1].answer is None)

    def _render(self, conversation: list[dict[str, Any]], *, open_answer: bool) -> str:
        return self._template.render(conversation, open_answer=open_answer)

    def process(self, texts: list[str], images: list[list[Image.Image]] | None) -> Any:
        """The processor's tensors of whole prompts; `images` has one list for each prompt."""
        # One inner list for each prompt: processors that take several images for one prompt all accept this form.
        # The template has written the special tokens; the tokenizer would write a second start, or an end.
        return self.processor(
            text=texts, images=images, padding=len(texts) > 1, add_special_tokens=False, return_tensors="pt"
        )

    def _process(self, text: str, images: list[Image.Image]) -> Any:
        return self.process([text], [images] if images else None)

    def _try_two_images(self) -> None:
        """Refuse at the door what would fail at every question. Raises CheckpointError."""
        if getattr(self.model.config, "is_encoder_decoder", False):
            raise CheckpointError("an encoder-decoder has no prompt to continue, which is how questions are asked")
        picture = Image.new("RGB", (self.image_size, self.image_size), "gray")
        try:
            batch = self._process(self.prompt(PromptLayout(priors=1), "is there edema?"), [picture, picture])
        except Exception as error:  # the edge to a foreign processor: whatever it raises, it is refused
            kind = type(error).__name__
            raise CheckpointError(f"its processor takes no prompt with two images: {kind}: {error}") from error
        length = batch["input_ids"].shape[1]
        for name, value in batch.items():
            whole = isinstance(value, Tensor) and not value.is_floating_point() and value.ndim > 1
            if whole and value.shape[:2] == (1, length) and name not in ALIGNED:
                raise CheckpointError(f"it wants {name} for each token, which is not supported (docs/models.md)")


def open_vlm(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    tiling: str = Tiling.NEVER,
) -> Vlm:
    """Open a checkpoint folder or a Hub id with the commit it is pinned to; eval mode, safetensors only.

    dtype: float32 on a CPU and bfloat16 elsewhere where not given. tiling: for NVILA, the `Tiling` of its training.
    Raises CheckpointError naming source and reason.
    """
    folder = local_folder(source, revision=revision, trust_remote_code=trust_remote_code)
    # On a CPU bfloat16 is slower where there are no instructions for it, and rounds more.
    chosen = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    kind = read_json(folder / "config.json").get("model_type")
    if kind in (NvilaConfig.model_type, ORIGINAL_TYPE):
        nvila, nvila_processor = load_nvila(folder, dtype=chosen, device=device)
        return NvilaVlm(nvila, nvila_processor, Tiling(tiling))
    model, processor = load_auto(folder, dtype=chosen, trust_remote_code=trust_remote_code)
    try:
        return AutoVlm(in_memory(model.to(device)).eval(), processor)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
