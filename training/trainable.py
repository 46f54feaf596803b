"""What a training step runs: NVILA with the auxiliary heads, its losses, and which weights learn at what rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Config, SiglipVisionConfig

from model.nvila import load_nvila
from model.nvila.checkpoint import generation_config
from model.nvila.configuration import NvilaConfig
from model.nvila.modeling import NvilaForConditionalGeneration
from model.nvila.processing import NvilaProcessor, geometry_of
from training.collate import Batch
from training.heads import AuxiliaryHeads, head_losses
from training.recipe import ArchitectureSection, Objective, Recipe, Tune
from training.samples import UNKNOWN
from training.tokenizer import MODEL_MAX_LENGTH, train_tokenizer

HEADS_FILE = "heads.safetensors"
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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


class Trainable(nn.Module):
    """`forward(batch)` gives the losses by name; "loss" is the one to descend."""

    def __init__(self, model: NvilaForConditionalGeneration, recipe: Recipe, findings: int) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        hidden = int(model.config.text_config.hidden_size)
        self.heads = AuxiliaryHeads(hidden, int(model.config.vision_config.hidden_size), findings)

    @property
    def language_model(self) -> Any:
        """Qwen2ForCausalLM, also where adapters are wrapped around it."""
        wrapped = self.model.llm
        return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of one batch, float32 scalars."""
        features = self.model.encode_images(batch.pixel_values, batch.image_grids)
        sequences = features.sequences
        counts = batch.image_counts.tolist()
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
            found = self._head_losses(batch, features.vision, sequences, counts, extras)
            weights = self.recipe.heads.model_dump()
            total = total + self.recipe.heads.weight * sum(weights[name] * loss for name, loss in found.items())
            losses |= found
        return losses | {"loss": total}

    def _answer_loss(self, batch: Batch, samples: list[list[Tensor]], extras: list[Tensor] | None) -> Tensor:
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
        llm = self.language_model
        floor = torch.finfo(embeddings.dtype).min
        mask = torch.zeros(batch.mask.shape, dtype=embeddings.dtype, device=embeddings.device)
        mask = mask.masked_fill(~batch.mask, floor)
        hidden = llm.model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        targets = batch.labels[:, 1:]
        learned = targets != UNKNOWN  # only here is the vocabulary worth computing
        logits = llm.lm_head(hidden[:, :-1][learned])
        return functional.cross_entropy(logits.float(), targets[learned])

    def _head_losses(
        self,
        batch: Batch,
        patches: Tensor,
        sequences: list[Tensor],
        counts: list[int],
        extras: list[Tensor] | None,
    ) -> dict[str, Tensor]:
        ends = torch.tensor(counts).cumsum(0)
        pairs = torch.tensor([[int(end) - 2, int(end) - 1] for end, n in zip(ends, counts, strict=True) if n > 1])
        difference = None
        if extras is not None:
            found = [extra for extra, count in zip(extras, counts, strict=True) if count > 1 and len(extra)]
            difference = torch.stack(found) if found else None
        outputs = self.heads(patches, torch.stack(sequences), pairs.reshape(-1, 2), difference)
        return head_losses(outputs, batch)


def _split(items: list[Tensor], counts: list[int]) -> Iterator[list[Tensor]]:
    used = 0
    for count in counts:
        yield items[used : used + count]
        used += count


def build(recipe: Recipe, findings: int) -> tuple[Trainable, NvilaProcessor]:
    """The module that a recipe starts from, with the right weights frozen; raises CheckpointError for a bad start."""
    torch.manual_seed(recipe.run.seed)
    if recipe.model.start == "new":
        model, processor = new_model(recipe.architecture)
    else:
        model, processor = load_nvila(recipe.model.start, dtype=torch.float32)
    model.train()
    model.vision_tower.set_attn_implementation(recipe.optimiser.attention)
    model.llm.set_attn_implementation(recipe.optimiser.attention)
    if recipe.optimiser.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.get_input_embeddings().requires_grad_(True)
    trainable = Trainable(model, recipe, findings)
    if recipe.model.heads is not None:
        trainable.heads.load_state_dict(load_file(recipe.model.heads))
    if recipe.run.tune is not Tune.FULL:
        model.requires_grad_(False)
        for part in (model.mm_projector, model.longitudinal):
            if part is not None:
                part.requires_grad_(True)
    if recipe.run.tune is Tune.LORA:
        settings = LoraConfig(
            r=recipe.lora.rank,
            lora_alpha=recipe.lora.alpha,
            lora_dropout=recipe.lora.dropout,
            target_modules=LORA_TARGETS,
        )
        model.llm = get_peft_model(model.llm, settings)
    if recipe.run.objective is Objective.HEADS:
        model.llm.requires_grad_(False)
    for part in recipe.run.freeze:
        if (frozen := getattr(model, part)) is not None:
            frozen.requires_grad_(False)
    if recipe.heads.weight == 0:
        trainable.heads.requires_grad_(False)
    return trainable, processor


def export(module: Trainable, processor: NvilaProcessor, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write the model as `load_nvila` reads it, adapters merged, and the heads beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = module.model
    if hasattr(model.llm, "merge_and_unload"):
        model.llm = model.llm.merge_and_unload()
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in module.heads.state_dict().items()}, folder / HEADS_FILE)
