"""More than two images: earlier ones train in their order, and the engine answers over the same layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.engine.answers import EngineJob
from model.engine.engine import Engine
from model.engine.vlm import NvilaVlm, open_vlm
from model.questions.battery import battery
from model.questions.prompts import PromptLayout, Turn
from tests.support.records import recipe_of, write_mimic_with_questions
from tests.support.tiny_nvila import picture, save_tiny
from training.data.mixed_source import MixedSource
from training.data.pools import RecordPool
from training.data.samples import Sample
from training.data.sources import Place, source_of
from training.loop.nvila_learner import build
from training.loop.train import train

FINDINGS = ("edema", "pleural_effusion")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic_with_questions(folder)
    return folder


def data(root: Path, images: int) -> str:
    return f"""
    kind = "records"
    sets = [{{ data = "mimic-jpg:{root}", split = "all" }}]
    streams = {{ difference = 1 }}
    max_images = {images}
    augment = false
    swap = 1.0
    """


def test_earlier_images_come_first_and_only_where_they_are_wanted(root: Path, tmp_path: Path) -> None:
    sources = {}
    for images in (2, 3, 4):
        source = source_of(recipe_of(tmp_path, data(root, images)), Place(work=tmp_path / "work", size=32))
        assert isinstance(source, MixedSource)
        sources[images] = source
    seen = set()
    for number in range(60):
        two, three, four = (sources[images].sample(number) for images in (2, 3, 4))
        assert len(two.images) == 2
        assert two.layout.priors == 1
        (pool,) = sources[4].pools
        assert isinstance(pool, RecordPool)
        record = pool.record(sources[4].schedule.place(number)[1])
        assert record.prior is not None
        in_order = [*record.earlier, record.prior, record.current]
        assert [image.when for image in in_order] == sorted(image.when for image in in_order)
        for sample, most in ((three, 3), (four, 4)):
            wanted = in_order[-most:]
            assert sample.layout.priors == len(sample.images) - 1 == len(wanted) - 1
            if record.earlier:  # a pair alone may be shown in the other order, a sequence never is
                pictures = [pool.pictures.get(image) for image in wanted]
                assert all(np.array_equal(a, b) for a, b in zip(sample.images, pictures, strict=True))
        seen.add(len(four.images))
    assert seen == {2, 3, 4}


def test_three_images_train_and_the_engine_reads_them_the_same_way(root: Path, tmp_path: Path) -> None:
    start = save_tiny(tmp_path / "start", longitudinal={"difference_tokens": 4, "no_prior_tokens": 1})
    more = f'[model]\nstart = "{start}"\n[heads]\nweight = 0.3\n'
    recipe = recipe_of(tmp_path, data(root, 3), steps=2, more=more)
    final = train(recipe, tmp_path / "out", quiet=True)
    losses = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text("utf-8").splitlines()]
    assert np.isfinite([line["loss"] for line in losses]).all()

    vlm = open_vlm(final)
    assert isinstance(vlm, NvilaVlm)
    questions = tuple(q for q in battery(FINDINGS, with_prior=True) if q.allowed is not None)
    pictures = tuple(picture(number) for number in (1, 2, 3))
    layout = vlm.layout(priors=2)
    job = EngineJob(pictures=pictures, layout=layout, questions=questions)
    engine = Engine(vlm)
    (answers,) = engine.ask([job])
    plainly = engine.ask_plainly(job)
    for key, answer in answers.closed.items():
        assert answer.log_probabilities == pytest.approx(plainly.closed[key].log_probabilities, abs=1e-3)
    (turned,) = engine.ask([replace(job, pictures=pictures[::-1])])
    assert any(
        abs(a - b) > 1e-4
        for key, answer in answers.closed.items()
        for a, b in zip(answer.log_probabilities, turned.closed[key].log_probabilities, strict=True)
    ), "the order of the images counts"

    again = recipe.model_copy(update={"model": recipe.model.model_copy(update={"start": str(final)})})
    learner, processor = build(again, len(FINDINGS))
    learner.eval()
    question = questions[0]
    assert question.allowed is not None
    turn = Turn(question=question.text, answer=question.allowed[0])
    sample = Sample(images=pictures, layout=PromptLayout(priors=2), turns=(turn,))
    with torch.no_grad():
        loss = float(learner(learner.collator(processor)([sample]))["answers"])
    tokens = len(processor.tokenizer(f"{turn.answer}<|im_end|>").input_ids)
    assert loss * tokens == pytest.approx(-answers.closed[question.key].log_probabilities[0], abs=1e-3)
