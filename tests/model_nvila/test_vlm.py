"""Other architectures through the one door: two images in order, a training step, generation, the engine's numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from model.engine import Engine, Job, Strategy
from model.errors import CheckpointError
from model.predict import load_predictor
from model.questions import battery
from model.schema import StudyPair
from model.vlm import AutoVlm, load_processor, open_vlm
from tests.model_nvila.test_engine import assert_same
from tests.model_nvila.test_predict import image
from tests.model_nvila.tiny import FINDINGS, picture
from tests.model_nvila.tiny_auto import FAMILIES, gemma3, qwen2_5_vl


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AutoVlm:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param))
    opened = open_vlm(folder)
    assert isinstance(opened, AutoVlm)
    return opened


def job(vlm: AutoVlm, *, priors: int = 1) -> Job:
    return Job(
        pictures=tuple(picture(number) for number in range(priors + 1)),
        layout=vlm.layout(priors=priors),
        questions=battery(FINDINGS[:2], with_prior=priors > 0),
    )


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed here")
def test_a_processor_with_a_video_part_loads_without_torchvision(tmp_path: Path) -> None:
    folder = qwen2_5_vl(tmp_path / "m")
    with pytest.raises((ImportError, ValueError, OSError)):
        AutoProcessor.from_pretrained(folder)
    assert not hasattr(load_processor(folder), "video_processor")


@pytest.mark.parametrize("priors", [0, 1])
def test_engine_equals_one_by_one(vlm: AutoVlm, priors: int) -> None:
    engine = Engine(vlm, max_new_tokens=4)
    asked = job(vlm, priors=priors)
    together = engine.ask([asked])[0]
    assert engine.strategy is Strategy.ROWS
    assert engine.notes == []
    assert_same(together, engine.ask_plainly(asked))


def test_order_of_the_images_counts(vlm: AutoVlm) -> None:
    engine = Engine(vlm, max_new_tokens=1)
    first = job(vlm)
    second = Job(pictures=first.pictures[::-1], layout=first.layout, questions=first.questions)
    left, right = (
        answers.closed["presence/pleural_effusion"].log_probabilities for answers in engine.ask([first, second])
    )
    assert not np.allclose(left, right, atol=1e-4)


def test_training_step_and_generation(vlm: AutoVlm) -> None:
    layout = vlm.layout(priors=1)
    question = "is there edema in the current image?"
    prompt = vlm.prompt(layout, question)
    whole = prompt + vlm.continuation(layout, question, "yes")
    batch = vlm.inputs(whole, [picture(1), picture(2)])
    asked = vlm.inputs(prompt, [picture(1), picture(2)])["input_ids"].shape[1]
    labels = batch["input_ids"].clone()
    labels[:, :asked] = -100
    assert int((labels != -100).sum()) >= 2
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    vlm.model.train()
    optimiser = torch.optim.AdamW(vlm.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = vlm.model(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    vlm.model.eval()
    assert losses[-1] < losses[0]
    vlm.model.load_state_dict(before)
    prompt_inputs = vlm.inputs(prompt, [picture(1), picture(2)])
    written = vlm.model.generate(**prompt_inputs, max_new_tokens=3, do_sample=False)
    assert written.shape[1] > prompt_inputs["input_ids"].shape[1]


def test_an_architecture_that_cannot_share_falls_back_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model whose cached numbers are wrong (here by a broken layer behind a cache) is asked plainly, and says so."""
    vlm = open_vlm(gemma3(tmp_path / "m"))
    layer = vlm.model.model.language_model.layers[0]
    original = layer.forward

    def broken(hidden: torch.Tensor, *args: object, **kwargs: object) -> object:
        cache = kwargs.get("past_key_values")
        behind = cache is not None and cache.get_seq_length() > hidden.shape[1]  # type: ignore[attr-defined]
        return original(hidden + 0.5 if behind else hidden, *args, **kwargs)

    layer.forward = broken
    check_fallback(vlm, caplog)  # type: ignore[arg-type]


def test_an_architecture_whose_cache_cannot_be_repeated_falls_back_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that gives no cache at all."""
    vlm = open_vlm(gemma3(tmp_path / "m"))
    forward = vlm.model.forward

    def without_cache(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.past_key_values = None
        return output

    vlm.model.forward = without_cache
    check_fallback(vlm, caplog)  # type: ignore[arg-type]


def check_fallback(vlm: AutoVlm, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(vlm, max_new_tokens=1)
    asked = Job(
        pictures=(picture(1), picture(2)),
        layout=vlm.layout(priors=1),
        questions=battery(FINDINGS[:1], with_prior=True)[:3],
    )
    answers = engine.ask([asked])[0]
    assert engine.strategy is Strategy.PLAIN
    assert len(engine.notes) == 1
    assert "asked by itself" in caplog.text
    closed = {key: answer.log_probabilities for key, answer in answers.closed.items()}
    assert closed == {key: answer.log_probabilities for key, answer in engine.ask_plainly(asked).closed.items()}


def test_predictor_on_a_foreign_checkpoint(tmp_path: Path) -> None:
    predictor = load_predictor(qwen2_5_vl(tmp_path / "m"), findings=("edema", "pneumothorax"))
    prediction = predictor.predict(StudyPair(current=image(1), prior=image(2)))
    assert [finding.key for finding in prediction.findings] == ["pneumothorax", "edema"]
    assert not prediction.model.demonstration


def test_without_a_template_it_is_refused(tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="chat template"):
        open_vlm(folder)


def test_foreign_code_needs_the_setting(tmp_path: Path) -> None:
    import json

    folder = gemma3(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "somebody_else", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        open_vlm(folder)
