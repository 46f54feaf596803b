"""Tiny random models for tests: made here, never trained, with tokenisers that know the words of our questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, SiglipVisionConfig
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from model.checkpoints.registry import write_manifest
from model.nvila import NvilaConfig, NvilaForConditionalGeneration, NvilaProcessor, geometry_of
from model.nvila.checkpoint import generation_config
from model.nvila.processing import add_media_tokens
from model.questions.battery import battery
from model.questions.prompts import PromptLayout, Turn, render_conversation

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FINDINGS = ("pleural_effusion", "pneumothorax", "edema", "cardiomegaly", "endotracheal_tube")


def byte_bpe(specials: list[str], size: int = 600) -> Tokenizer:
    """A byte-level BPE with Qwen2's splitting, trained on our own questions (the same every time)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=specials
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus() -> list[str]:
    turns = [
        Turn(question=question.text, answer=answer)
        for question in battery(FINDINGS, with_prior=True)
        for answer in question.allowed or ("nothing has changed.",)
    ]
    return ["".join(text for text, _ in render_conversation(PromptLayout(priors=1), turns))]


def nvila_tokenizer(folder: Path | None = None) -> Any:
    """A tokeniser with the special tokens of NVILA: a small one of our own texts, or `folder`/tokenizer.json."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[BOS]", "[PAD]"]
    return TokenizersBackend(
        tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")) if folder else byte_bpe(specials),
        eos_token="<|im_end|>",
        bos_token="[BOS]",
        pad_token="[PAD]",
        chat_template=CHATML,
        model_max_length=4096,
        padding_side="right",
    )


def tiny_nvila(
    *,
    hidden: int = 64,
    layers: int = 3,
    side: int = 56,
    seed: int = 0,
    longitudinal: dict[str, Any] | None = None,
    mode: str = "resize",
    projector: str = "mlp_downsample",
    attention: str = "sdpa",
) -> tuple[NvilaForConditionalGeneration, NvilaProcessor]:
    """A random NVILA with spread-out logits (so that answers differ) and its processor."""
    tokenizer = nvila_tokenizer()
    vocabulary = len(tokenizer)
    add_media_tokens(tokenizer)
    config = NvilaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=side,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=hidden * 2,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
        ),
        projector_type=projector,
        image_aspect_ratio=mode,
        s2_scales=[side, 2 * side, 3 * side] if mode == "dynamic_s2" else None,
        s2_resize_output_to_scale_idx=-1 if mode == "dynamic_s2" else 0,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        newline_token_id=tokenizer("\n").input_ids[0],
        longitudinal=longitudinal,
    )
    torch.manual_seed(seed)
    config._attn_implementation = attention
    model = NvilaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0 if "mm_projector" in name else 4.0)
    model.generation_config = generation_config(tokenizer)
    return model.eval(), NvilaProcessor(tokenizer, geometry_of(config), tiling="never")


def save_tiny(folder: Path, *, manifest: dict[str, Any] | None = None, brief: bool = False, **options: Any) -> Path:
    """Write a tiny NVILA with a manifest; `manifest` adds to or changes its values.

    brief: it ends its texts soon, as a trained model does; else they are as long as they may be, which is nine tenths
    of the time of its answers.
    """
    model, processor = tiny_nvila(**options)
    if brief:
        table = model.get_input_embeddings()
        assert isinstance(table, torch.nn.Embedding)
        with torch.no_grad():  # it is the output layer too: a long row wins or loses by far
            table.weight[processor.tokenizer.eos_token_id] *= 8
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    values: dict[str, Any] = {
        "name": "tiny",
        "version": "1",
        "kind": "nvila",
        "findings": FINDINGS,
        "demonstration": True,
        "licence": "none: random weights",
    }
    write_manifest(folder, **(values | (manifest or {})))
    return folder


def picture(seed: int, side: int = 56) -> NDArray[np.uint8]:
    """A random grey picture with some structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 7), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 7, side // 7), dtype=np.uint8))
