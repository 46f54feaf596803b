"""A made-up Medical-Diff-VQA over MIMIC-CXR-JPG whose images decode, and recipes that train on it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.support.published import (
    VQA_HEADER,
    Study,
    mimic_studies,
    vqa_questions,
    vqa_studies_table,
    write_csv,
    write_jpgs,
    write_mimic_tables,
)
from training.readers.mimic import jpg_path
from training.recipe.recipe import Recipe, load_recipe

ARCHITECTURE = """
[architecture]
image_size = 32
patch_size = 8
vision_width = 24
vision_layers = 2
vision_heads = 2
vision_feed = 32
text_width = 24
text_layers = 2
text_heads = 2
text_kv_heads = 1
text_feed = 32
difference_tokens = 4
"""
RUN = """
[run]
steps = {steps}
checkpoint_every = 2

[optimiser]
rate = 1e-3
batch = 2
precision = "no"
attention = "eager"
"""


def write_mimic_with_questions(root: Path, *, subjects: int = 20, reverse_every: int = 0) -> list[Study]:
    """Tables, JPEGs of 48 pixels and questions in one folder, as "diff-vqa:ROOT,ROOT" reads them."""
    studies = mimic_studies(subjects)
    write_mimic_tables(root, studies)
    write_jpgs(root, studies, side=48)
    vqa_studies_table(root / "mimic_all.csv", studies)
    write_csv(root / "mimic_pair_questions.csv", VQA_HEADER, vqa_questions(studies, reverse_every=reverse_every))
    return studies


def image_of(root: Path, study: Study) -> Path:
    """Where the JPEG of a study lies."""
    return jpg_path(root, study.subject, study.study, study.dicom)


def recipe_of(folder: Path, data: str, *, steps: int = 4, more: str = "", name: str = "recipe.toml") -> Recipe:
    """A tiny recipe with this [data] section; more: further sections."""
    path = folder / name
    text = RUN.format(steps=steps) + ARCHITECTURE + "\n[data]\n" + textwrap.dedent(data) + "\n" + textwrap.dedent(more)
    path.write_text(text, "utf-8")
    return load_recipe(path)
