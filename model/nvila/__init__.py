"""NVILA (NVlabs/VILA) on plain Transformers: `load_nvila(folder)` gives model and processor, no remote code."""

from __future__ import annotations

from model.nvila.checkpoint import load_nvila, save_nvila
from model.nvila.configuration import NvilaConfig
from model.nvila.modeling import ImageFeatures, NvilaForConditionalGeneration, NvilaOutput
from model.nvila.processing import IMAGE_TOKEN, NvilaProcessor, geometry_of
from model.nvila.tiling import Tiling
from model.nvila.transformers_parts import AutoConfig, AutoModelForImageTextToText, AutoProcessor

AutoConfig.register(NvilaConfig.model_type, NvilaConfig, exist_ok=True)
AutoModelForImageTextToText.register(NvilaConfig, NvilaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(NvilaConfig, NvilaProcessor, exist_ok=True)

__all__ = [
    "IMAGE_TOKEN",
    "ImageFeatures",
    "NvilaConfig",
    "NvilaForConditionalGeneration",
    "NvilaOutput",
    "NvilaProcessor",
    "Tiling",
    "geometry_of",
    "load_nvila",
    "save_nvila",
]
