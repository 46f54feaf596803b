"""Training any image-text-to-text model of Transformers: its chat template, loss on answers only, no auxiliary heads.

Packing many questions behind one prefix needs a mask that not every architecture takes, so here each question is a row
of its own with its images, or, with `data.conversation`, all turns of a sample are one chat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from model.checkpoints.manifest import CheckpointKind
from model.engine.auto_classes import load_auto
from model.engine.vlm import AutoVlm
from model.errors import CheckpointError
from model.questions.prompts import PromptLayout, Turn
from training.data.samples import UNKNOWN, Dropped, Sample
from training.loop.learner import Learner, PartView, losses_of
from training.recipe.recipe import Objective, Recipe, RecipeError

log = logging.getLogger(__name__)
MERGERS = frozenset({"merger", "patch_merger", "deepstack_merger_list"})
"""Parts of a vision tower that are its projector (the Qwen-VL family)."""


class NotOneChatError(ValueError):
    """A chat template cannot write several turns as training needs them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatBatch:
    """inputs: what `model(**inputs)` takes, whatever that is for the architecture. labels: int64 [B, L], UNKNOWN where
    no loss is taken. dropped: what the samples stand in for."""

    inputs: Mapping[str, Tensor]
    labels: Tensor
    dropped: tuple[Dropped, ...] = ()

    def to(self, device: torch.device) -> ChatBatch:
        """The same on another device."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return ChatBatch(inputs=moved, labels=self.labels.to(device, non_blocking=True), dropped=self.dropped)


class ChatCollator:
    """Turns samples into batches with a checkpoint's own processor and chat template."""

    def __init__(self, vlm: AutoVlm, *, max_length: int) -> None:
        self.vlm = vlm
        self.max_length = max_length
        self._split = False
        """The template cannot write several turns so that their answers are found again."""

    def __call__(self, samples: Sequence[Sample]) -> ChatBatch:
        """Collate. Raises ValueError for a sequence that is too long, and where the answers cannot be found again."""
        texts: list[str] = []
        images: list[list[Image.Image]] = []
        spans: list[list[tuple[int, int]]] = []
        for sample in samples:
            pictures = [Image.fromarray(picture).convert("RGB") for picture in sample.images]
            for text, answer_spans in self._chats(sample):
                texts.append(text)
                spans.append(answer_spans)
                images.append(pictures)
        batch = self.vlm.process(texts, images)
        inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        longest = inputs["input_ids"].shape[1]
        if longest > self.max_length:
            raise ValueError(f"a sequence has {longest} tokens, more than max_length = {self.max_length}")
        dropped = tuple(drop for sample in samples for drop in sample.dropped)
        return ChatBatch(inputs=inputs, labels=self._labels(inputs, texts, spans), dropped=dropped)

    def _chats(self, sample: Sample) -> list[tuple[str, list[tuple[int, int]]]]:
        """One chat of all turns where asked for and possible, or one for each turn."""
        if sample.conversation and not self._split:
            try:
                return [self.chat(sample.layout, sample.turns)]
            except NotOneChatError as error:
                log.warning("%s; each question is a row of its own, as with data.conversation = false", error)
                # Said once: the template is the same for all that follows.
                self._split = True
        return [self.chat(sample.layout, (turn,)) for turn in sample.turns]

    def chat(self, layout: PromptLayout, turns: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """The whole chat, and for each answer (with its end token) where it stands, in characters."""
        if any(turn.answer is None for turn in turns):
            raise ValueError("a turn has no answer to learn")
        # One turn needs no template beyond the prompt: what is generated later continues the same text.
        if len(turns) == 1:
            asked = self.vlm.prompt(layout, turns[0].question)
            whole = asked + self.vlm.continuation(layout, turns[0].question, turns[0].answer or "")
            return whole, [(len(asked), len(whole))]
        text = self.vlm.chat(layout, turns).rstrip("\n")
        spans = []
        for number in range(len(turns)):
            asked = self.vlm.chat(layout, [*turns[:number], Turn(question=turns[number].question)])
            answered = self.vlm.chat(layout, turns[: number + 1]).rstrip("\n")
            # Some templates drop earlier reasoning or write an earlier answer otherwise once another turn follows; then
            # the answer has no one place, and several turns cannot be learnt in one row.
            if not (text.startswith(asked) and text.startswith(answered)):
                raise NotOneChatError("the chat template rewrites past answers")
            if not answered.endswith(self.vlm.end_tokens):
                raise NotOneChatError("the chat template does not end its answers")
            spans.append((len(asked), len(answered)))
        return text, spans

    def _labels(
        self, inputs: Mapping[str, Tensor], texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> Tensor:
        """The ids of the answers' tokens. Images lie before the first answer, so that behind them the tokens of the
        text and of the row are the same, counted from the end; what cannot be found so is refused."""
        labels = torch.full_like(inputs["input_ids"], UNKNOWN)
        for row, (text, answers) in enumerate(zip(texts, spans, strict=True)):
            encoded = self.vlm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            places = torch.nonzero(inputs["attention_mask"][row]).flatten()
            ids = inputs["input_ids"][row, places].tolist()
            size = len(encoded.input_ids)
            for number, (start, stop) in enumerate(encoded.offset_mapping):
                if not any(first <= start and stop <= last and start < stop for first, last in answers):
                    continue
                # Counted from the end (a negative index), because an image placeholder of the text becomes hundreds of
                # tokens in the row.
                if ids[number - size :] != encoded.input_ids[number:]:
                    raise ValueError("the processor's tokens behind the images are not those of the chat's text")
                labels[row, places[number - size]] = encoded.input_ids[number]
            if not bool((labels[row] != UNKNOWN).any()):
                raise ValueError(f"no token of the answers was found in {text[-80:]!r}")
        return labels


class ForeignLearner(Learner):
    """A model of Transformers' own. Learns answers; the auxiliary heads are NVILA's."""

    kind = CheckpointKind.AUTO
    heads = None

    def __init__(self, model: Any, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model = model

    def forward(self, batch: ChatBatch) -> dict[str, Tensor]:
        """Losses of one batch."""
        return losses_of(self.model(**batch.inputs, labels=batch.labels).loss.float())

    def part(self, name: str) -> nn.Module | None:
        """Vision encoder, language model, and what lies between them; adapters' layers included."""
        vision, decoder = self.model.get_encoder(modality="image"), self.model.get_decoder()
        mergers = [child for label, child in vision.named_children() if label in MERGERS]
        if name == "llm":
            output = self.model.get_output_embeddings()
            return PartView([decoder, *([output] if output is not None else [])])
        if name == "vision_tower":
            # Some models (Qwen-VL) keep the merger inside of the vision encoder; it counts as the projector.
            tower = [child for child in vision.children() if not any(child is merger for merger in mergers)]
            return PartView(tower, vision.parameters(recurse=False))
        if name == "mm_projector":
            between, lone = _between(self.model, {id(vision), id(decoder), id(self.model.get_output_embeddings())})
            return PartView([*between, *mergers], lone)
        return None

    def collator(self, processor: Any) -> Callable[[Sequence[Sample]], ChatBatch]:
        """By the checkpoint's chat template; holds no weights."""
        known = SimpleNamespace(config=self.model.config, generation_config=self.model.generation_config)
        vlm = AutoVlm(known, processor)
        return ChatCollator(vlm, max_length=self.recipe.data.max_length)

    def save(self, processor: Any, folder: Path) -> None:
        """As AutoModelForImageTextToText and AutoProcessor read it."""
        self.model.save_pretrained(folder)
        processor.save_pretrained(folder)


def _between(module: nn.Module, ends: set[int]) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """The parts of a model between its ends: modules as large as possible, and lone parameters beside them."""
    modules: list[nn.Module] = []
    lone = list(module.parameters(recurse=False))
    for child in module.children():
        if id(child) in ends:
            continue
        # An end lies inside: this child is a shell around it, and only what is beside the end belongs here.
        if any(id(inner) in ends for inner in child.modules()):
            more, parameters = _between(child, ends)
            modules += more
            lone += parameters
        else:
            modules.append(child)
    return modules, lone


def open_foreign(folder: Path, recipe: Recipe) -> tuple[ForeignLearner, Any]:
    """Open a checkpoint folder for training. Raises CheckpointError or RecipeError naming what does not go."""
    if recipe.run.objective is Objective.HEADS or recipe.heads.weight or recipe.model.longitudinal:
        raise RecipeError(
            f"{folder}: the auxiliary heads and the longitudinal extras are NVILA's; for another architecture set "
            'run.objective to "instructions", heads.weight to 0 and leave model.longitudinal out'
        )
    model, processor = load_auto(
        folder, dtype=getattr(torch, recipe.model.dtype), attn_implementation=recipe.optimiser.attention
    )
    if not getattr(processor.tokenizer, "is_fast", False):
        raise CheckpointError(f"{folder}: training needs a fast tokenizer, which can say where its tokens stand")
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    model.train()
    if recipe.optimiser.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        # With a frozen embedding nothing in front of the checkpointed layers would ask for gradients, and none would
        # flow.
        model.enable_input_require_grads()
    return ForeignLearner(model, recipe), processor
