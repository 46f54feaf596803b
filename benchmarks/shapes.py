"""The models of the benchmarks: checkpoints by name, and random NVILA of given sizes on a given device and type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, SiglipVisionConfig

from model.engine.vlm import NvilaVlm
from model.nvila import NvilaConfig, NvilaForConditionalGeneration, NvilaProcessor, Tiling, geometry_of
from model.nvila.checkpoint import generation_config
from model.ontology import ontology
from model.predict import load_predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a random NVILA."""

    hidden: int
    feed: int
    layers: int
    heads: int
    kv_heads: int
    vision_hidden: int
    vision_feed: int
    vision_layers: int
    vision_heads: int
    vocabulary: int


SHAPES = {
    "100M": Shape(
        hidden=768,
        feed=2048,
        layers=12,
        heads=12,
        kv_heads=2,
        vision_hidden=512,
        vision_feed=2048,
        vision_layers=8,
        vision_heads=8,
        vocabulary=8192,
    ),
    "8B": Shape(
        hidden=3584,
        feed=18944,
        layers=28,
        heads=28,
        kv_heads=4,
        vision_hidden=1152,
        vision_feed=4304,
        vision_layers=27,
        vision_heads=16,
        vocabulary=151648,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """On what a model runs. dtype: None is float32 on a CPU, else bfloat16. layers: of each tower of a random shape,
    None for all: a shape that does not fit is tried with fewer. tokenizer: folder of a random shape's tokenizer;
    without one the test suite's small one, which needs more tokens for a finding's name than a big model's."""

    device: str = "cpu"
    dtype: torch.dtype | None = None
    layers: int | None = None
    tokenizer: Path | None = None

    @property
    def number_type(self) -> torch.dtype:
        """The type of the weights."""
        return self.dtype or (torch.float32 if self.device == "cpu" else torch.bfloat16)

    def arguments(self) -> list[str]:
        """The same as options of this program."""
        dtype = [name for name, value in DTYPES.items() if value is self.dtype]
        given = {
            "--device": self.device,
            "--dtype": dtype[0] if dtype else None,
            "--layers": self.layers,
            "--tokenizer": self.tokenizer,
        }
        return [part for name, value in given.items() if value is not None for part in (name, str(value))]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def random_nvila(shape: Shape, where: Where) -> NvilaVlm:
    """A random NVILA of 448 px and 256 tokens for each image."""
    from tests.support.tiny_nvila import nvila_tokenizer

    tokenizer = nvila_tokenizer(where.tokenizer)
    config = NvilaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=shape.vision_hidden,
            intermediate_size=shape.vision_feed,
            num_hidden_layers=where.layers or shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            image_size=448,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.feed,
            num_hidden_layers=where.layers or shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
        ),
        image_token_id=shape.vocabulary + 1,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(where.number_type)
    with torch.device(where.device):
        model = NvilaForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    processor = NvilaProcessor(tokenizer, geometry_of(config), tiling="never")
    model.config.image_token_id = processor.image_token_id
    model.generation_config = generation_config(tokenizer)
    return NvilaVlm(model, processor, Tiling.NEVER)


def load(name: str, where: Where) -> tuple[NvilaVlm, tuple[str, ...]]:
    """The model of that name and the findings that it is asked."""
    if name in SHAPES:
        return random_nvila(SHAPES[name], where), tuple(list(ontology().findings)[:9])
    predictor = load_predictor(name, device=where.device, dtype=where.dtype)
    assert isinstance(predictor.vlm, NvilaVlm)
    return predictor.vlm, predictor.findings
