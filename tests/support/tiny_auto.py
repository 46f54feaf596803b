"""Tiny random checkpoints of other architectures of Transformers, saved as folders that the Auto classes open."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from model.engine.auto_classes import without_video
from tests.support.tiny_nvila import byte_bpe

_CONTENT = (
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
)
_TEXT: Mapping[str, int] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _turns(opening: str, closing: str, image: str, assistant: str = "assistant", start: str = "") -> str:
    role = "{% set role = '" + assistant + "' if message['role'] == 'assistant' else message['role'] %}"
    return (
        start
        + "{% for message in messages %}"
        + role
        + opening.replace("ROLE", "{{ role }}")
        + _CONTENT.format(image=image)
        + closing
        + "\n{% endfor %}{% if add_generation_prompt %}"
        + opening.replace("ROLE", assistant)
        + "{% endif %}"
    )


def _tokenizer(eos: str, pad: str, extra: list[str], template: str, **named: str) -> Any:
    return TokenizersBackend(
        tokenizer_object=byte_bpe(list(dict.fromkeys([pad, eos, *extra, *named.values()]))),
        eos_token=eos,
        pad_token=pad,
        chat_template=template,
        extra_special_tokens=named,
        padding_side="left",
    )


def _save(folder: Path, model: Any, processor: Any, eos: int, pad: int) -> Path:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def gemma3(folder: Path) -> Path:
    """MedGemma's architecture: sliding-window layers, images attended in both directions."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    template = _turns("<start_of_turn>ROLE\n", "<end_of_turn>", "<start_of_image>", assistant="model")
    tokenizer = _tokenizer("<end_of_turn>", "<pad>", ["<start_of_turn>"], template, **names)
    config = Gemma3Config(
        text_config=Gemma3TextConfig(
            **_TEXT, vocab_size=len(tokenizer), head_dim=16, sliding_window=24, query_pre_attn_scalar=16
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            vision_use_head=False,
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)
    model = Gemma3ForConditionalGeneration(config)
    return _save(folder, model, processor, tokenizer.eos_token_id, tokenizer.pad_token_id)


def idefics3(folder: Path) -> Path:
    """Idefics3: Llama behind a SigLIP, pixel shuffle, text markers around images."""
    template = _turns("ROLE: ", "<end_of_utterance>", "<image>")
    tokenizer = _tokenizer(
        "<end_of_utterance>", "<pad>", ["<fake_token_around_image>", "<image>", "<global-img>"], template
    )
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": 56}, max_image_size={"longest_edge": 56}
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    config = Idefics3Config(
        text_config=LlamaConfig(
            **_TEXT, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_id=processor.image_token_id,
        scale_factor=2,
    )
    model = Idefics3ForConditionalGeneration(config)
    return _save(folder, model, processor, tokenizer.eos_token_id, tokenizer.pad_token_id)


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: CLIP with a class token, tiles by aspect ratio, learned line ends."""
    template = _turns("<|im_start|>ROLE\n", "<|im_end|>", "<image>")
    tokenizer = _tokenizer("<|im_end|>", "<pad>", ["<|im_start|>"], template, image_token="<image>")
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    config = LlavaNextConfig(
        text_config=LlamaConfig(**_TEXT, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=pinpoints,
    )
    model = LlavaNextForConditionalGeneration(config)
    return _save(folder, model, processor, tokenizer.eos_token_id, tokenizer.pad_token_id)


def qwen2_5_vl(folder: Path, *, hidden: int = 64) -> Path:
    """Qwen2.5-VL: a processor with a video part that wants torchvision, three-part rotary positions.

    hidden: width of the language model, of which each of four heads has its share; a multiple of 64.
    """
    pairs = hidden // 8  # of rotary positions in a head, shared by time, height and width
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    template = _turns("<|im_start|>ROLE\n", "<|im_end|>", vision)
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    markers = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = _tokenizer("<|im_end|>", "<pad>", markers, template, **names)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 56 * 56})
    processor = without_video(Qwen2_5_VLProcessor)(images, tokenizer, chat_template=template)
    config = Qwen2_5_VLConfig(
        text_config={
            **_TEXT,
            "hidden_size": hidden,
            "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [pairs // 4, pairs * 3 // 8, pairs * 3 // 8],
                "rope_theta": 1e6,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "fullatt_block_indexes": [1],
        },
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    return _save(folder, model, processor, tokenizer.eos_token_id, tokenizer.pad_token_id)


def gemma4(folder: Path) -> Path:
    """Gemma 4: a processor whose class takes audio and video parts, per-layer embeddings, shared keys and values."""
    template = _turns("<|turn>ROLE\n", "<turn|>", "<|image|>", assistant="model", start="{{ bos_token }}")
    names = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "video_token": "<|video|>",
    }
    tokenizer = _tokenizer("<turn|>", "<pad>", ["<|turn>"], template, **names)
    text = Gemma4TextConfig(
        **_TEXT,
        vocab_size=len(tokenizer),
        head_dim=16,
        global_head_dim=16,
        sliding_window=24,
        num_kv_shared_layers=1,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=len(tokenizer),
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=14,
        pooling_kernel_size=2,
        position_embedding_size=64,
    )
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("image_token", "boi_token", "eoi_token")}
    config = Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **ids)
    images = {"image_processor_type": "Gemma4ImageProcessor", "patch_size": 14, "max_soft_tokens": 70}
    parts = {
        "processor_class": "Gemma4Processor",
        "image_seq_length": 70,
        "image_processor": {**images, "pooling_kernel_size": 2},
        "video_processor": {"video_processor_type": "Gemma4VideoProcessor"},
        "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"},
    }
    model = Gemma4ForConditionalGeneration(config)
    _save(folder, model, tokenizer, tokenizer.eos_token_id, tokenizer.pad_token_id)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    (folder / "processor_config.json").write_text(json.dumps(parts), "utf-8")
    return folder


FAMILIES: Mapping[str, Callable[[Path], Path]] = {
    "gemma3": gemma3,
    "idefics3": idefics3,
    "llava_next": llava_next,
    "qwen2_5_vl": qwen2_5_vl,
}
