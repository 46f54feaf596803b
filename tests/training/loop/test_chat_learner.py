"""Other architectures trained by the same loop: chat template, loss on answers only, adapters, a result that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.predict import load_predictor
from model.questions.prompts import PromptLayout, Turn
from model.schema import StudyPair
from tests.model.test_predict import image
from tests.support.records import recipe_of, write_mimic_with_questions
from tests.support.tiny_auto import FAMILIES, gemma3, llava_next, qwen2_5_vl
from tests.support.tiny_nvila import picture
from training.data.samples import UNKNOWN, Sample
from training.loop.chat_learner import ForeignLearner
from training.loop.nvila_learner import build
from training.loop.optimizers import parameter_groups
from training.loop.train import train
from training.recipe.recipe import Recipe, RecipeError, TunedWeights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic_with_questions(folder, subjects=6)
    return folder


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def recipe_on(
    start: Path, root: Path, folder: Path, *, tune: str = "full", parts: str = '["llm"]', data: str = ""
) -> Recipe:
    text = f"""
    kind = "records"
    sets = ["diff-vqa:{root},{root}"]
    turns = 2
    {data}
    """
    more = f"""
    [model]
    start = "{start}"

    [heads]
    weight = 0.0

    [lora]
    rank = 4
    parts = {parts}
    """
    recipe = recipe_of(folder, text, steps=2, more=more)
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"tune": TunedWeights(tune)})})


def samples() -> list[Sample]:
    turns = (
        Turn(question="is there edema in the current image?", answer="yes"),
        Turn(question="what has changed compared to the reference image?", answer="nothing has changed."),
    )
    films = tuple(picture(number, 56) for number in (1, 2))
    pair = Sample(images=films, layout=PromptLayout(priors=1, context="patient: 67 years, F"), turns=turns)
    alone = Sample(images=films[:1], layout=PromptLayout(), turns=turns[:1])
    return [pair, alone]


@pytest.mark.parametrize("conversation", [False, True])
def test_loss_is_taken_over_answers_only(start: Path, root: Path, tmp_path: Path, conversation: bool) -> None:
    learner, processor = build(recipe_on(start, root, tmp_path), 3)
    given = [Sample(images=s.images, layout=s.layout, turns=s.turns, conversation=conversation) for s in samples()]
    batch: Any = learner.collator(processor)(given)
    said = [
        processor.tokenizer.decode(batch.inputs["input_ids"][row][batch.labels[row] != UNKNOWN])
        for row in range(len(batch.labels))
    ]
    end = processor.tokenizer.eos_token
    first, second = f"yes{end}", f"nothing has changed.{end}"
    assert said == ([f"{first}{second}", first] if conversation else [first, second, first])


def test_an_answer_is_learnt_with_its_end_where_the_template_ends_none(root: Path, tmp_path: Path) -> None:
    """As LLaVA's own template does: without it the model never learns to stop, and no answer can be scored as over."""
    start = llava_next(tmp_path / "m")
    template = (start / "chat_template.jinja").read_text("utf-8")
    (start / "chat_template.jinja").write_text(template.replace("<|im_end|>", " "), "utf-8")
    learner, processor = build(recipe_on(start, root, tmp_path), 3)
    collator: Any = learner.collator(processor)
    batch = collator(samples()[1:])
    said = processor.tokenizer.decode(batch.inputs["input_ids"][0][batch.labels[0] != UNKNOWN])
    assert said == f"yes{processor.tokenizer.eos_token}"
    pair = samples()[0]
    batch = collator([Sample(images=pair.images, layout=pair.layout, turns=pair.turns, conversation=True)])
    assert len(batch.labels) == len(pair.turns), "one chat is not possible, so each question is a row"


def test_model_without_a_padding_token_is_trained_in_batches(root: Path, tmp_path: Path) -> None:
    """As Llama's tokenizer, which has none."""
    start = qwen2_5_vl(tmp_path / "m")
    config = json.loads((start / "tokenizer_config.json").read_text("utf-8"))
    del config["pad_token"]
    (start / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    learner, processor = build(recipe_on(start, root, tmp_path), 3)
    collator: Any = learner.collator(processor)
    batch = collator(samples())
    said = [processor.tokenizer.decode(row[row != UNKNOWN]) for row in batch.labels]
    assert said == ["yes<|im_end|>", "nothing has changed.<|im_end|>", "yes<|im_end|>"]


def test_a_run_moves_the_model_and_its_result_answers(start: Path, root: Path, tmp_path: Path) -> None:
    final = train(recipe_on(start, root, tmp_path), tmp_path / "out", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert np.isfinite([line["loss"] for line in lines]).all()
    before, after = load_file(start / "model.safetensors"), load_file(final / "model.safetensors")
    assert set(before) == set(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    prediction = load_predictor(final, findings=("edema",)).predict(StudyPair(current=image(1), prior=image(2)))
    assert [finding.key for finding in prediction.findings] == ["edema"]
    assert not (final / "heads.safetensors").exists()


@pytest.mark.parametrize(
    ("tune", "parts", "moving"),
    [
        ("projector", '["llm"]', {"mm_projector"}),
        ("lora", '["llm"]', {"mm_projector", "llm"}),
        ("lora", '["llm", "vision_tower", "mm_projector"]', {"mm_projector", "llm", "vision_tower"}),
    ],
)
def test_only_the_parts_that_are_tuned_learn(
    start: Path, root: Path, tmp_path: Path, tune: str, parts: str, moving: set[str]
) -> None:
    recipe = recipe_on(start, root, tmp_path, tune=tune, parts=parts)
    learner, processor = build(recipe, 3)
    assert isinstance(learner, ForeignLearner)
    assert {group["part"] for group in parameter_groups(learner, recipe)} == moving
    whole = sum(p.numel() for group in parameter_groups(learner, recipe) for p in group["params"])
    assert whole == sum(p.numel() for p in learner.parameters() if p.requires_grad), "no weight learns in two parts"
    losses = learner(learner.collator(processor)(samples()))
    losses["loss"].backward()
    for group in parameter_groups(learner, recipe):
        assert any(p.grad is not None for p in group["params"]), group["part"]


def test_every_weight_is_in_exactly_one_part(start: Path, root: Path, tmp_path: Path) -> None:
    learner, _ = build(recipe_on(start, root, tmp_path), 3)
    owned = [id(p) for name in ("vision_tower", "mm_projector", "llm") for p in learner.part(name).parameters()]  # type: ignore[union-attr]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in learner.parameters()}


def test_adapters_are_merged_into_what_is_saved(root: Path, tmp_path: Path) -> None:
    start = gemma3(tmp_path / "start")
    final = train(recipe_on(start, root, tmp_path, tune="lora"), tmp_path / "out", quiet=True)
    before, after = load_file(start / "model.safetensors"), load_file(final / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in changed)
    assert not any("vision" in name for name in changed)


def test_what_the_architecture_has_not_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    recipe = recipe_on(gemma3(tmp_path / "start"), root, tmp_path)
    with_heads = recipe.model_copy(update={"heads": recipe.heads.model_copy(update={"weight": 0.3})})
    with pytest.raises(RecipeError, match=r"heads\.weight to 0"):
        build(with_heads, 3)
