"""Tiny champions with real weights: some thousand parameters, trained for seconds by the training loop itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.checkpoints.manifest import write_manifest
from training.loop.nvila_learner import new_model
from training.recipe.recipe import ArchitectureSection

FINDINGS = ("pleural_effusion", "pneumothorax", "cardiomegaly", "central_line")
TINY = ArchitectureSection(
    image_size=32,
    patch_size=8,
    vision_width=24,
    vision_layers=2,
    vision_heads=2,
    vision_feed=32,
    text_width=32,
    text_layers=2,
    text_heads=2,
    text_kv_heads=1,
    text_feed=48,
    difference_tokens=4,
)


def manifest_of(folder: Path, **values: Any) -> None:
    """Write a manifest over what lies there."""
    usual = {
        "name": "tiny",
        "version": "1",
        "kind": "nvila",
        "findings": FINDINGS,
        "demonstration": True,
        "licence": "none: a test",
        # no sentences: they would take most of the time and say nothing here
        "question_types": ("presence", "prior_presence", "change"),
    }
    write_manifest(folder, **(usual | values))


def untrained(folder: Path, *, seed: int = 0, **values: Any) -> Path:
    """A champion that answers at random, though always the same."""
    torch.manual_seed(seed)
    model, processor = new_model(TINY)
    model.to(torch.float16).save_pretrained(folder)
    processor.save_pretrained(folder)
    manifest_of(folder, **values)
    return folder
