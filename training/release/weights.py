"""Copy a trained model into the folder of a checkpoint, in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from model.checkpoints.manifest import CheckpointKind
from model.engine.auto_classes import load_processor
from model.nvila import load_nvila
from model.nvila.checkpoint import ORIGINAL_TYPE, read_json
from model.nvila.configuration import NvilaConfig


def write_model(
    trained: Path, folder: Path, *, nvila_dtype: torch.dtype = torch.bfloat16
) -> tuple[CheckpointKind, int]:
    """Copy a trained model with its processor; what is in `folder` is replaced.

    Other families are written in bfloat16, in which they were made: some overflow in float16.

    Returns
    -------
    tuple of CheckpointKind and int
        Kind and number of parameters.
    """
    if folder.exists():
        shutil.rmtree(folder)
    model: Any
    if read_json(trained / "config.json").get("model_type") in (NvilaConfig.model_type, ORIGINAL_TYPE):
        kind = CheckpointKind.NVILA
        model, processor = load_nvila(trained, dtype=nvila_dtype)
    else:
        kind = CheckpointKind.AUTO
        model = AutoModelForImageTextToText.from_pretrained(trained, dtype=torch.bfloat16, use_safetensors=True)
        processor = load_processor(trained)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return kind, sum(parameter.numel() for parameter in model.parameters())
