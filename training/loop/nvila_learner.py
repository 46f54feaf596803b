"""The training step of NVILA with the auxiliary heads, its losses, and the opening of a recipe's start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Config, SiglipVisionConfig

from model.checkpoints.files import HEADS_FILE
from model.checkpoints.manifest import CheckpointKind
from model.engine.auto_classes import local_folder
from model.errors import CheckpointError
from model.nvila import load_nvila
from model.nvila.checkpoint import ORIGINAL_TYPE, generation_config, read_json
from model.nvila.configuration import NvilaConfig
from model.nvila.longitudinal import LongitudinalExtras
from model.nvila.modeling import NvilaForConditionalGeneration
from model.nvila.processing import NvilaProcessor, geometry_of
from training.data.collate import Collator, PackedBatch
from training.data.samples import UNKNOWN
from training.loop.chat_learner import open_foreign
from training.loop.heads import AuxiliaryHeads, head_losses
from training.loop.learner import Learner
from training.loop.tokenizer import MODEL_MAX_LENGTH, train_tokenizer
from training.recipe.recipe import ArchitectureSection, Objective, Recipe, RecipeError


def new_model(sizes: ArchitectureSection) -> tuple[NvilaForConditionalGeneration, NvilaProcessor]:
    """A small NVILA with random weights and a tokenizer of its own."""
    tokenizer = train_tokenizer(sizes.vocabulary)
    config = NvilaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_feed,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text_width,
            intermediate_size=sizes.text_feed,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.text_heads,
            num_key_value_heads=sizes.text_kv_heads,
            max_position_embeddings=MODEL_MAX_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_select_layer=-1,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        newline_token_id=tokenizer("\n", add_special_tokens=False).input_ids[0],
        longitudinal={
            "difference_tokens": sizes.difference_tokens,
            "no_prior_tokens": sizes.no_prior_tokens,
            "align": sizes.align,
            "image_roles": sizes.image_roles,
        },
        tie_word_embeddings=True,
    )
    model = NvilaForConditionalGeneration(config)
    model.generation_config = generation_config(tokenizer)
    return model, NvilaProcessor(tokenizer, geometry_of(config))


class Trainable(Learner):
    """NVILA with the auxiliary heads."""

    kind = CheckpointKind.NVILA
    heads: AuxiliaryHeads

    def __init__(self, model: NvilaForConditionalGeneration, recipe: Recipe, findings: int) -> None:
        super().__init__(recipe)
        self.model = model
        hidden = int(model.config.text_config.hidden_size)
        self.heads = AuxiliaryHeads(hidden, int(model.config.vision_config.hidden_size), findings)

    def part(self, name: str) -> nn.Module | None:
        """One of the recipe's PARTS; None where the model has none of it."""
        module: nn.Module | None = self.heads if name == "heads" else getattr(self.model, name)
        return module

    def collator(self, processor: NvilaProcessor) -> Collator:
        """Packed questions."""
        texts = self.recipe.run.objective is Objective.INSTRUCTIONS
        return Collator(processor, max_length=self.recipe.data.max_length, texts=texts)

    def save(self, processor: NvilaProcessor, folder: Path) -> None:
        """As `load_nvila` reads it, and the heads beside it where they have learned something."""
        self.model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if self.recipe.heads.weight or self.recipe.model.heads is not None:
            state = {name: value.contiguous() for name, value in self.heads.state_dict().items()}
            save_file(state, folder / HEADS_FILE)

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Losses of one batch, float32 scalars."""
        if batch.features is not None:
            features = self.model.project_features(batch.features.to(self.model.dtype), batch.image_grids)
        elif batch.pixel_values is not None:
            features = self.model.encode_images(batch.pixel_values, batch.image_grids)
        else:
            raise ValueError("a batch brings pixels or features")
        sequences = features.sequences
        counts = batch.image_counts.tolist()
        # Images of all samples go through the tower in one batch and are handed back to their samples here.
        samples = [list(part) for part in _split(sequences, counts)]
        extras: list[Tensor] | None = None
        if self.model.longitudinal is not None:
            extras = self.model.longitudinal(samples)
            samples = self.model.longitudinal.in_time(samples)
        losses: dict[str, Tensor] = {}
        total = sequences[0].new_zeros((), dtype=torch.float32)
        if self.recipe.run.objective is Objective.INSTRUCTIONS:
            losses["answers"] = self._answer_loss(batch, samples, extras)
            total = total + losses["answers"]
        if self.recipe.heads.weight and batch.present is not None:
            extra_losses = self._head_losses(batch, features.vision, sequences, counts, extras)
            weights = self.recipe.heads.model_dump()
            total = total + self.recipe.heads.weight * sum(weights[name] * loss for name, loss in extra_losses.items())
            losses |= extra_losses
        return losses | {"loss": total}

    def _answer_loss(self, batch: PackedBatch, samples: list[list[Tensor]], extras: list[Tensor] | None) -> Tensor:
        if batch.input_ids is None or batch.mask is None or batch.labels is None:
            raise ValueError("the objective 'instructions' needs samples with turns")
        places = batch.input_ids == self.model.config.image_token_id
        embeddings = self.model.get_input_embeddings()(batch.input_ids.masked_fill(places, 0))
        parts: list[Tensor] = []
        for index, images in enumerate(samples):
            parts += images
            if extras is not None:
                parts.append(extras[index])
        tokens = torch.cat(parts).to(embeddings.dtype)
        if int(places.sum()) != tokens.shape[0]:
            raise ValueError(f"{int(places.sum())} image placeholders in the texts, {tokens.shape[0]} image tokens")
        embeddings = embeddings.masked_scatter(places.unsqueeze(-1), tokens)
        llm = self.model.llm
        floor = torch.finfo(embeddings.dtype).min
        mask = torch.zeros(batch.mask.shape, dtype=embeddings.dtype, device=embeddings.device)
        mask = mask.masked_fill(~batch.mask, floor)
        hidden = llm.model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        # A token predicts its right neighbour. In a packed row that may be another question's first token, which has no
        # label.
        targets = batch.labels[:, 1:]
        learned = targets != UNKNOWN  # only here is the vocabulary worth computing
        logits = llm.lm_head(hidden[:, :-1][learned])
        return functional.cross_entropy(logits.float(), targets[learned])

    def _head_losses(
        self,
        batch: PackedBatch,
        patches: Tensor,
        sequences: list[Tensor],
        counts: list[int],
        extras: list[Tensor] | None,
    ) -> dict[str, Tensor]:
        ends = torch.tensor(counts).cumsum(0)
        # Images of a batch lie one after the other: a sample's last two are its prior and its current one.
        pairs = torch.tensor([[int(end) - 2, int(end) - 1] for end, n in zip(ends, counts, strict=True) if n > 1])
        difference = None
        if extras is not None:
            differences = [extra for extra, count in zip(extras, counts, strict=True) if count > 1 and len(extra)]
            difference = torch.stack(differences) if differences else None
        outputs = self.heads(patches, torch.stack(sequences), pairs.reshape(-1, 2), difference)
        return head_losses(outputs, batch)


def _split(items: list[Tensor], counts: list[int]) -> Iterator[list[Tensor]]:
    used = 0
    for count in counts:
        yield items[used : used + count]
        used += count


def build(recipe: Recipe, findings: int) -> tuple[Learner, Any]:
    """The learner that a recipe starts from, with the right weights frozen, and the processor of its checkpoint.

    Raises CheckpointError for a bad start, RecipeError where the recipe asks for what the architecture has not.
    """
    torch.manual_seed(recipe.run.seed)
    learner: Learner
    if recipe.model.start == "new":
        model, processor = new_model(recipe.architecture)
        learner = _nvila_learner(model, recipe, findings)
    else:
        folder = local_folder(recipe.model.start, revision=recipe.model.revision)
        if read_json(folder / "config.json").get("model_type") in (NvilaConfig.model_type, ORIGINAL_TYPE):
            model, processor = load_nvila(folder, dtype=getattr(torch, recipe.model.dtype))
            processor.tiling = recipe.model.tiling
            add_extras(model, processor, recipe)
            learner = _nvila_learner(model, recipe, findings)
        else:
            learner, processor = open_foreign(folder, recipe)
    learner.freeze()
    return learner, processor


def _nvila_learner(model: NvilaForConditionalGeneration, recipe: Recipe, findings: int) -> Trainable:
    model.train()
    model.vision_tower.set_attn_implementation(recipe.optimiser.attention)
    model.llm.set_attn_implementation(recipe.optimiser.attention)
    if recipe.optimiser.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    learner = Trainable(model, recipe, findings)
    if recipe.model.heads is not None:
        try:
            learner.heads.load_state_dict(load_file(recipe.model.heads))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(
                f"{recipe.model.heads}: no auxiliary heads of {findings} findings for this model: {error}"
            ) from error
    return learner


def add_extras(model: NvilaForConditionalGeneration, processor: NvilaProcessor, recipe: Recipe) -> None:
    """Give a start the longitudinal extras that the recipe wants; raises RecipeError where it has others."""
    asked_for = recipe.model.longitudinal
    if not asked_for or asked_for == model.config.longitudinal:
        return
    have = dict(model.config.longitudinal or {})
    # The same but for the number of image roles: that table can grow and keep the rows it has learnt.
    if model.longitudinal is not None and have | {"image_roles": 0} == asked_for | {"image_roles": 0}:
        model.longitudinal.grow_roles(int(asked_for["image_roles"]))
        model.config.longitudinal = dict(asked_for)
        return
    if model.longitudinal is not None:
        raise RecipeError(
            f"model.longitudinal: the start has {model.config.longitudinal}, which cannot become {asked_for}"
        )
    model.config.longitudinal = dict(asked_for)
    model.longitudinal = LongitudinalExtras(model.config).to(model.dtype)
    processor.geometry = geometry_of(model.config)


def restore_learner(recipe: Recipe, findings: int, state: Mapping[str, Tensor]) -> Learner:
    """A learner with the gathered weights of a sharded run (FSDP, ZeRO-3), whole and on the CPU.

    Raises CheckpointError where they do not fit; an output that is tied to the embeddings may be missing.
    """
    learner, _ = build(recipe, findings)
    keys = learner.load_state_dict(state, strict=False)
    missing = [name for name in keys.missing_keys if not name.endswith("lm_head.weight")]
    if missing or keys.unexpected_keys:
        raise CheckpointError(f"the gathered weights do not fit: {[*missing, *keys.unexpected_keys][:5]}")
    return learner


def export(learner: Learner, processor: Any, folder: Path) -> None:
    """Write the trained model, adapters merged, where its loader reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    learner.merge()
    learner.save(processor, folder)
