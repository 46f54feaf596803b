"""Chat templates and processors of odd families: thoughts, today's date, images first, a video part, no tokens."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from model.engine.answers import EngineJob
from model.engine.chat_template import without_thoughts
from model.engine.engine import Engine
from model.engine.generation import write_plainly
from model.engine.vlm import AutoVlm, open_vlm
from model.errors import CheckpointError
from model.questions.battery import battery
from model.questions.prompts import Turn, messages
from tests.model.engine.test_engine import assert_same
from tests.support.tiny_auto import gemma4, llava_next, qwen2_5_vl
from tests.support.tiny_nvila import FINDINGS, picture

THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{% else %}{{ '<think>\\n' }}{% endif %}{% endif %}"
)
"""As Qwen3.5, Qwen3-VL-Thinking and GLM-4.5V write it."""
DATED = (
    "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}"
    "{% else %}{% set day = 'never' %}{% endif %}"
    "Today Date: {{ day }}\n" + THINKING
)
"""As Llama 3 writes it."""
IMAGES_FIRST = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""As LLaVA writes it."""


THINKING_ALWAYS = THINKING.replace("enable_thinking is defined and enable_thinking is false", "false")
"""As Qwen3-VL-Thinking writes it: there is no switch."""
STRINGS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As a language model's own template is; it fails on parts."""
PRINTED = STRINGS.replace("message['role'] + '\n' + message['content']", "message['role'] ~ '\n' ~ message['content']")
"""The same, but parts are written as Python prints them."""
STARTS = "{{ bos_token }}{{ bos_token }}" + THINKING
SHOUTED = THINKING.replace("part['text']", "part['text'] | upper")
SYSTEM_WANTED = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system message') }}{% endif %}"


def opened(family: Callable[[Path], Path], folder: Path, template: str) -> AutoVlm:
    family(folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    vlm = open_vlm(folder)
    assert isinstance(vlm, AutoVlm)
    return vlm


def test_thinking_template_is_asked_and_taught_without_thoughts(tmp_path: Path) -> None:
    vlm = opened(qwen2_5_vl, tmp_path / "m", THINKING)
    layout, question = vlm.layout(priors=1), "what has changed?"
    assert vlm.prompt(layout, question).endswith("assistant\n<think>\n\n</think>\n\n")
    assert vlm.continuation(layout, question, "nothing has changed.") == "nothing has changed.<|im_end|>"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("\n</think>\n\nnothing has changed.", "nothing has changed."),
        ("<think>new edema?</think>no, </think> stable.", "stable."),
        ("nothing has changed.", "nothing has changed."),
        ("<think>is it new? it may be, for", ""),
        ("<think>new</think>no <think>or is it", ""),
        ("[THINK]is it new?[/THINK]stable.", "stable."),
        ("<unused94>thought\nis it new?<unused95>stable.", "stable."),
        ("<|channel>thought\nis it new?<channel|>stable.", "stable."),
    ],
    ids=["an empty part", "two parts", "none", "cut off", "cut off later", "Mistral", "MedGemma", "Gemma 4"],
)
def test_thoughts_are_no_answer(written: str, answer: str) -> None:
    assert without_thoughts(written).strip() == answer


def test_open_answer_comes_without_thoughts(tmp_path: Path) -> None:
    vlm = opened(qwen2_5_vl, tmp_path / "m", THINKING)
    said = vlm.token_ids("\n</think>\n\nnothing has changed.<|im_end|>")
    inputs = vlm.inputs(vlm.prompt(vlm.layout(priors=0), "q"), [picture(1)])

    generate, begin = vlm.model.generate, inputs["input_ids"].shape[1]

    def forced(**options: Any) -> Any:
        """Transformers' own loop, allowed one token at each place."""
        return generate(**options, prefix_allowed_tokens_fn=lambda _, ids: [said[len(ids) - begin]])

    vlm.model.generate = forced
    assert write_plainly(vlm, inputs, 64) == ("nothing has changed.", True)


def test_thinking_part_that_cannot_be_switched_off_is_closed(tmp_path: Path) -> None:
    vlm = opened(qwen2_5_vl, tmp_path / "m", THINKING_ALWAYS)
    layout = vlm.layout(priors=1)
    assert vlm.prompt(layout, "what has changed?").endswith("assistant\n<think>\n\n</think>\n\n")
    assert vlm.continuation(layout, "what has changed?", "no.") == "no.<|im_end|>"


@pytest.mark.parametrize("template", [STRINGS, PRINTED], ids=["fails on parts", "prints parts"])
def test_template_of_plain_strings_gets_images_in_words(tmp_path: Path, template: str) -> None:
    vlm = opened(qwen2_5_vl, tmp_path / "m", template)
    text = vlm.prompt(vlm.layout(priors=1), "is there edema?")
    image = "<|vision_start|><|image_pad|><|vision_end|>" if "vision_start" in text else "<|image_pad|>"
    assert f"prior image: {image}\ncurrent image: {image}\nis there edema?<|im_end|>" in text
    assert len(vlm.inputs(text, [picture(1), picture(2)])["image_grid_thw"]) == 2


@pytest.mark.parametrize(
    ("template", "reason"),
    [(SHOUTED, "it writes them apart"), (SYSTEM_WANTED, "it says: no system message")],
    ids=["words changed", "a system message is wanted"],
)
def test_template_that_cannot_show_two_images_is_refused_in_one_sentence(
    tmp_path: Path, template: str, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason) as raised:
        opened(qwen2_5_vl, tmp_path / "m", template)
    assert "\n" not in str(raised.value)


def test_special_tokens_are_written_once_whatever_the_tokenizer_adds(tmp_path: Path) -> None:
    """A tokenizer that puts two start tokens before and an end token behind, under a template that writes two more."""
    folder = qwen2_5_vl(tmp_path / "m")
    (folder / "chat_template.jinja").write_text(STARTS, "utf-8")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    start, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<|im_start|>", "<|im_end|>"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("<|im_start|>", "<|im_end|>")}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, start, text, end],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|im_start|>"}), "utf-8")
    vlm = open_vlm(folder)
    assert len(vlm.tokenizer("a").input_ids) == 4
    read = vlm.inputs(vlm.prompt(vlm.layout(priors=1), "is there edema?"), [picture(1), picture(2)])
    text_read = vlm.tokenizer.decode(read["input_ids"][0])
    assert text_read.startswith("<|im_start|>user")
    assert text_read.endswith("</think>\n\n")


def test_prompt_is_the_same_on_every_day(tmp_path: Path) -> None:
    vlm = opened(qwen2_5_vl, tmp_path / "m", DATED)
    text = vlm.prompt(vlm.layout(priors=1), "is there edema?")
    assert text.startswith("Today Date: 26 Jul 2024\n")
    asked = messages(vlm.layout(priors=0), [Turn(question="q")])
    plain = vlm.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert plain.startswith(f"Today Date: {dt.date.today():%d %b}"), "what the template says by itself"  # noqa: DTZ011


def test_images_keep_their_words_where_a_template_writes_images_first(tmp_path: Path) -> None:
    vlm = opened(llava_next, tmp_path / "m", IMAGES_FIRST)
    layout = vlm.layout(priors=1)
    parts = vlm.prompt(layout, "is there edema?").split("<image>")
    wanted = [part["text"] for part in messages(layout, [Turn(question="is there edema?")])[0]["content"][::2]]
    assert len(parts) == 3
    assert [part.strip() for part in wanted[:2]] == [parts[0].removeprefix("USER: ").strip(), parts[1].strip()]
    engine = Engine(vlm, max_new_tokens=2)
    job = EngineJob(pictures=(picture(0), picture(1)), layout=layout, questions=battery(FINDINGS[:1], with_prior=True))
    assert_same(engine.ask([job])[0], engine.ask_plainly(job))


def test_processor_that_hands_its_video_part_on_opens_without_torchvision(tmp_path: Path) -> None:
    """Gemma 4's class takes the video part as an argument and passes it to its base."""
    folder = gemma4(tmp_path / "m")
    with pytest.raises((ImportError, ValueError, OSError)):
        AutoProcessor.from_pretrained(folder)
    vlm = open_vlm(folder)
    engine = Engine(vlm, max_new_tokens=2)
    layout = vlm.layout(priors=1)
    job = EngineJob(pictures=(picture(0), picture(1)), layout=layout, questions=battery(FINDINGS[:1], with_prior=True))
    assert_same(engine.ask([job])[0], engine.ask_plainly(job))


def test_cross_attending_family_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mllama"}))
    with pytest.raises(CheckpointError, match=r"mllama looks at images by cross-attention, which is not supported"):
        open_vlm(tmp_path)
