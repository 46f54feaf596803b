"""The demonstration model's own tokenizer: byte-level BPE learned from the grammar, laid out as NVILA's."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.nvila.processing import MEDIA_TOKENS
from model.ontology import ontology
from model.questions.battery import TEMPLATES, QuestionType, battery, closed_question, view_question
from model.questions.grammar import Event, EventKind, Tense, write_events
from model.questions.prompts import PromptLayout, render_prefix
from model.questions.vocabulary import NOTHING_FOUND, finding_name
from model.schema import ImageRole

VOCABULARY = 900
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[BOS]", "[PAD]")
MODEL_MAX_LENGTH = 4096

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2's tokenizer splits: a question after a line feed can be tokenised apart from its prefix."""

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' }}{% if not loop.last or add_generation_prompt or message['role'] != 'assistant' %}{{ '\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def grammar_lines() -> Iterator[str]:
    """Every prompt, question and answer form of the grammar, with every word of the ontology in it."""
    words = ontology()
    keys = list(words.findings)
    for priors in (0, 1, 2):
        yield render_prefix(PromptLayout(priors=priors)).replace("<image>", "")
    yield "\n\n".join(("system", "user", "assistant", NOTHING_FOUND))
    for question in battery(keys, with_prior=True, prognosis=True):
        yield question.text
        yield from question.allowed or ()
    yield view_question(ImageRole.PRIOR).text
    for key in keys:
        for type in (QuestionType.PRIOR_SIDE, QuestionType.PRIOR_GRADE):
            yield closed_question(type, key).text
        for tense in Tense:
            yield write_events([Event(kind=EventKind.NEW, finding=key)], tense)
            yield write_events([Event(kind=EventKind.RESOLVED, finding=key)], tense)
            level = Event(kind=EventKind.LEVEL, finding=key, before="mild", after="severe")
            yield write_events([level], tense)
        for forms in TEMPLATES.values():
            for form in forms:
                yield form.format(finding=finding_name(key), location="left lower lobe")
    two = [Event(kind=kind, finding=key) for kind in (EventKind.NEW,) for key in keys[:2]]
    yield write_events(two)
    yield write_events([Event(kind=EventKind.RESOLVED, finding=key) for key in keys[:3]])
    yield from (f"{word} {other}" for word in words.locations for other in (*words.types, *words.levels, "view", "and"))


def train_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Learn it; the same code gives the same tokenizer."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(CONTROL_TOKENS) - len(MEDIA_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(grammar_lines(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        bos_token="[BOS]",
        pad_token="[PAD]",
        extra_special_tokens=[],
        model_max_length=MODEL_MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL_TOKENS)})
    tokenizer.add_tokens(list(MEDIA_TOKENS), special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
