"""Other architectures through the one door: two images in order, a training step, generation, the engine's numbers."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from model.engine.answers import EngineJob
from model.engine.auto_classes import load_processor
from model.engine.engine import Engine, Strategy
from model.engine.plan import battery_tokens
from model.engine.vlm import AutoVlm, open_vlm
from model.errors import CheckpointError, InferenceError
from model.predict import load_predictor
from model.questions.battery import QuestionType, battery, closed_question, difference_question
from model.schema import StudyPair
from tests.model.engine.test_engine import assert_same
from tests.model.test_predict import image
from tests.support.tiny_auto import FAMILIES, gemma3, llava_next, qwen2_5_vl
from tests.support.tiny_nvila import FINDINGS, picture


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AutoVlm:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param))
    opened = open_vlm(folder)
    assert isinstance(opened, AutoVlm)
    return opened


def job(vlm: AutoVlm, *, priors: int = 1) -> EngineJob:
    return EngineJob(
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
    second = EngineJob(pictures=first.pictures[::-1], layout=first.layout, questions=first.questions)
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
    asked = EngineJob(
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


def test_a_prefix_of_another_length_is_checked_anew(tmp_path: Path) -> None:
    """Answers that are right with one image can be wrong with two, where the longer prefix exceeds a window."""
    vlm = open_vlm(gemma3(tmp_path / "m"))
    assert isinstance(vlm, AutoVlm)
    alone, pair = job(vlm, priors=0), job(vlm, priors=1)
    short, long = (int(Engine(vlm)._read_prefix([one]).lengths) for one in (alone, pair))
    assert short < long
    layer = vlm.model.model.language_model.layers[0]
    original = layer.forward

    def broken(hidden: torch.Tensor, *args: object, **kwargs: object) -> object:
        cache = kwargs.get("past_key_values")
        behind = cache is not None and cache.get_seq_length() > short  # type: ignore[attr-defined]
        return original(hidden + 0.5 if behind else hidden, *args, **kwargs)

    layer.forward = broken
    engine = Engine(vlm, max_new_tokens=1)
    engine.ask([alone])
    seen = [engine.strategy]
    engine.ask([pair])
    assert [*seen, engine.strategy] == [Strategy.ROWS, Strategy.PLAIN]


def test_images_are_encoded_once_for_closed_and_open_questions(vlm: AutoVlm) -> None:
    engine = Engine(vlm, max_new_tokens=3)
    asked = EngineJob(
        pictures=(picture(1), picture(2)),
        layout=vlm.layout(priors=1),
        questions=(*battery(FINDINGS[:1], with_prior=True), replace(difference_question(), key="again")),
    )
    engine.ask([asked])  # with the check of the first pair
    seen: list[bool] = []
    forward = vlm.model.forward

    def counted(*args: object, **kwargs: object) -> object:
        seen.append(kwargs.get("pixel_values") is not None)
        return forward(*args, **kwargs)

    vlm.model.forward = counted
    try:
        answers = engine.ask([asked])[0]
    finally:
        vlm.model.forward = forward
    assert sum(seen) == 1
    assert answers.open["difference"].text == answers.open["again"].text
    assert_same(answers, engine.ask_plainly(asked))


def test_a_prompt_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    """Two pictures of many tokens each on a model of short context: the numbers would be nonsense, not an error."""
    vlm = open_vlm(llava_next(tmp_path / "m"))
    assert isinstance(vlm, AutoVlm)
    asked = job(vlm)
    vlm.model.config.text_config.max_position_embeddings = 64
    with pytest.raises(InferenceError, match=r"the prompt has \d\d tokens and the model positions for 64"):
        Engine(vlm).ask([asked])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_checkpoint_that_lacks_a_weight_is_refused(family: str, tmp_path: Path) -> None:
    """Transformers would draw it by chance and warn, and the model would answer like any other."""
    folder = FAMILIES[family](tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in sorted(weights) if "layers.1" in name and "mlp" in name)
    save_file(
        {k: v for k, v in weights.items() if k != dropped}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(CheckpointError, match="missing keys"):
        open_vlm(folder)
    save_file({**weights, dropped: weights[dropped][:1]}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        open_vlm(folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-64])
    with pytest.raises(CheckpointError, match="cannot open"):
        open_vlm(folder)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "m")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    wanted = open_vlm(folder).model.state_dict()
    torch.save({name: torch.zeros_like(value) for name, value in wanted.items()}, folder / "pytorch_model.bin")
    found = open_vlm(folder).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        open_vlm(folder)


def test_each_answer_ends_where_the_template_ends_none(tmp_path: Path) -> None:
    """As LLaVA's own template does: "ASSISTANT: yes " and nothing behind it."""
    folder = llava_next(tmp_path / "m")
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(template.replace("<|im_end|>", " "), "utf-8")
    vlm = open_vlm(folder)
    layout = vlm.layout(priors=1)
    assert vlm.continuation(layout, "is there edema?", "yes") == "yes<|im_end|>"
    question = replace(closed_question(QuestionType.GRADE, "edema"), allowed=("moderate", "moderate to severe"))
    tokens = battery_tokens(vlm, layout, [question])
    ends = {row[-1] for row in tokens.questions[0].answers}
    assert ends == set(vlm.stop_ids)


def test_a_tokenizer_that_lacks_a_word_is_refused(tmp_path: Path) -> None:
    """Two findings that it cannot name would be one question, and an answer that it cannot spell any other's."""
    vlm = open_vlm(gemma3(tmp_path / "m"))
    layout = vlm.layout(priors=1)
    known = closed_question(QuestionType.PRESENCE, "edema")
    text = vlm.prompt(layout, known.text) + " yes no <end_of_turn>"
    words = {word: number for number, word in enumerate(["<unk>", *dict.fromkeys(_words(text))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[^>]*>|\w+|[^\w\s]"), behavior="isolated")
    vlm.tokenizer = TokenizersBackend(tokenizer_object=plain, unk_token="<unk>", eos_token="<end_of_turn>")
    vlm.model.generation_config.eos_token_id = words["<end_of_turn>"]
    with pytest.raises(InferenceError, match=r"presence/pneumothorax: the checkpoint's tokenizer lacks a word"):
        battery_tokens(vlm, layout, [known, closed_question(QuestionType.PRESENCE, "pneumothorax")])
    with pytest.raises(InferenceError, match=r"presence/edema: the checkpoint's tokenizer lacks a word"):
        battery_tokens(vlm, layout, [replace(known, allowed=("yes", "perhaps"))])


def _words(text: str) -> list[str]:
    return re.findall(r"<[^>]*>|\w+|[^\w\s]|\s+", text)


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


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path, file: str) -> None:
    folder = gemma3(tmp_path / "m")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
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
