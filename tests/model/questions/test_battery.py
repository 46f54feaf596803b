"""The question battery, the open answers, and the prompt layout against a real tokeniser and chat template."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ontology import ontology
from model.questions.answers import (
    parse_findings,
    parse_level,
    parse_locations,
    parse_type,
    parse_view,
    side_of_place,
    write_findings,
    write_level,
    write_locations,
    write_type,
    write_view,
)
from model.questions.battery import TEMPLATES, QuestionType, battery, closed_question, lumen_question, parse_question
from model.questions.prompts import (
    ImageSlot,
    PromptLayout,
    Turn,
    clean_text,
    context_text,
    messages,
    render_answer,
    render_conversation,
    render_prefix,
    render_question,
)
from model.schema import ImageRole, PatientContext
from tests.support.common import shared

FINDINGS = tuple(ontology().findings)
WORDS = ontology()


@given(st.sampled_from(list(TEMPLATES)), st.sampled_from(FINDINGS), st.sampled_from(WORDS.locations), st.data())
def test_every_template_is_read_back(type: QuestionType, finding: str, location: str, data: st.DataObject) -> None:
    form = data.draw(st.integers(0, len(TEMPLATES[type]) - 1))
    template = TEMPLATES[type][form]
    wanted = finding if "{finding}" in template else None
    place = location if "{location}" in template else None
    text = lumen_question(type, form, finding=wanted, location=place)
    parsed = parse_question(f"  {text.upper()} ")
    assert parsed is not None
    assert (parsed.type, parsed.form, parsed.finding, parsed.location) == (type, form, wanted, place)


def test_the_published_templates_stand_to_the_letter() -> None:
    assert lumen_question(QuestionType.DIFFERENCE) == "what has changed compared to the reference image?"
    assert (
        lumen_question(QuestionType.PRESENCE, 0, finding="pleural_effusion")
        == "is there evidence of pleural effusion in this image?"
    )
    assert (
        lumen_question(QuestionType.LOCATION, 2, finding="edema")
        == "is the edema located on the left side or right side?"
    )
    assert len([t for t in TEMPLATES if t is not QuestionType.PREDICTION]) == 7


LUMEN_FINDINGS = (
    "pleural effusion, atelectasis, cardiomegaly, enlargement of the cardiac silhouette, edema, hernia, vascular "
    "congestion, hilar congestion, pneumothorax, heart failure, lung opacity, pneumonia, tortuosity of the descending "
    "aorta, scoliosis, gastric distention, hypoxemia, hypertensive heart disease, hematoma, tortuosity of the thoracic "
    "aorta, contusion, emphysema, granuloma, calcification, pleural thickening, thymoma, blunting of the costophrenic "
    "angle, consolidation, fracture, pneumomediastinum, air collection"
)
LUMEN_LEVELS = (
    "moderately, moderate, acute, mildly, mild, small, severe, moderate to large, moderate to severe, mild to "
    "moderate, minimal, subtle, massive, minimally, increasing, decreasing, minor"
)
LUMEN_LOCATIONS = (
    "mid to lower, left, right, retrocardiac, pericardial, bibasilar, bilateral, basilar, apicolateral, basal, "
    "left-sided, lobe, lung, area, base, right-sided, apical, pleural, upper, lower, middle, mid, rib"
)
LUMEN_TYPES = (
    "interstitial, layering, dense, parenchymal, compressive, obstructive, linear, plate-like, patchy, ground-glass, "
    "calcified, scattered, focal, multifocal, multi-focal"
)


def test_the_whole_published_vocabulary_is_known_and_read_back() -> None:
    """The vocabulary of this file's round trips holds every word of Medical-Diff-VQA, each under its own name."""
    findings, levels, locations, types = (
        text.split(", ") for text in (LUMEN_FINDINGS, LUMEN_LEVELS, LUMEN_LOCATIONS, LUMEN_TYPES)
    )
    assert [len(words) for words in (findings, levels, locations, types)] == [30, 17, 23, 15]
    names = {concept.name: key for key, concept in WORDS.findings.items()}
    assert len({names[word] for word in findings}) == 30
    for word in findings:
        assert parse_findings(write_findings([names[word]])).words == (names[word],)
        assert write_findings([names[word]]) == word
    for words, known, write, parse in (
        (levels, WORDS.levels, write_level, parse_level),
        (types, WORDS.types, write_type, parse_type),
        (locations, WORDS.locations, write_locations, parse_locations),
    ):
        assert set(words) == set(known)
        for word in words:
            assert write([word]) == word
            assert parse(word).words == (word,)


def test_a_question_of_no_template_is_not_guessed_at() -> None:
    assert parse_question("how is the weather?") is None
    assert parse_question("is there evidence of wisdom in this image?") is None
    with pytest.raises(ValueError, match="do not fit"):
        lumen_question(QuestionType.PRESENCE, 0)
    with pytest.raises(ValueError, match="do not fit"):
        lumen_question(QuestionType.VIEW, 0, finding="edema")


def test_ten_findings_make_at_least_forty_questions_each_with_its_own_key() -> None:
    questions = battery(FINDINGS[:10], with_prior=True)
    assert len(questions) >= 40
    assert len({question.key for question in questions}) == len(questions)
    assert len({question.text for question in questions}) == len(questions)


def test_without_a_prior_nothing_is_asked_about_one() -> None:
    questions = battery(FINDINGS, with_prior=False, prognosis=True)
    assert not [question.key for question in questions if question.needs_prior or "prior" in question.text]
    assert {q.key for q in battery(FINDINGS, with_prior=True) if not q.needs_prior} <= {q.key for q in questions}


@given(st.sampled_from(battery(FINDINGS, with_prior=True, prognosis=True)))
def test_the_text_says_which_image_is_meant_and_its_answers_parse(question: object) -> None:
    from model.questions.battery import Question

    assert isinstance(question, Question)
    if question.image is ImageRole.CURRENT and question.allowed and not question.alone:
        assert "the current image" in question.text
        assert "prior" not in question.text
    if question.image is ImageRole.PRIOR:
        assert "the prior image" in question.text
        assert "current" not in question.text
    for answer in question.allowed or ():
        assert question.parse(f" {answer.upper()}. ") == answer
    if question.allowed:
        assert question.parse("perhaps") is None
    else:
        with pytest.raises(ValueError, match="open question"):
            question.parse("yes")


def test_devices_have_no_degree_and_midline_findings_no_side() -> None:
    types = {q.type for q in battery(["endotracheal_tube"], with_prior=True) if q.finding}
    assert types == {QuestionType.PRESENCE, QuestionType.PRIOR_PRESENCE, QuestionType.CHANGE}
    assert closed_question(QuestionType.GRADE, "edema").allowed == ("mild", "moderate", "severe")
    with pytest.raises(ValueError, match="twice"):
        battery(["edema", "edema"], with_prior=True)
    with pytest.raises(KeyError):
        battery(["wisdom"], with_prior=True)


@given(st.sets(st.sampled_from(FINDINGS)))
def test_finding_lists_round_trip(keys: set[str]) -> None:
    parsed = parse_findings(write_findings(keys))
    assert set(parsed.words) == keys
    assert parsed.unparsed == ()


@given(st.sets(st.sampled_from(WORDS.levels), min_size=1), st.sets(st.sampled_from(WORDS.types), min_size=1))
def test_level_and_type_lists_round_trip(levels: set[str], types: set[str]) -> None:
    assert set(parse_level(write_level(levels)).words) == levels
    assert set(parse_type(write_type(types)).words) == types


@given(st.sets(st.lists(st.sampled_from(WORDS.locations), min_size=1, max_size=3).map(" ".join), min_size=1))
def test_places_round_trip(phrases: set[str]) -> None:
    parsed = parse_locations(write_locations(phrases))
    assert set(parsed.words) == phrases
    assert parsed.unparsed == ()


def test_places_pass_over_fillers_and_name_foreign_words() -> None:
    parsed = parse_locations("In the left lower lobe, the right side, and the moon.")
    assert parsed.words == ("left lower lobe", "right")
    assert parsed.unparsed == ("the moon",)
    assert side_of_place("left lower lobe") == "left"
    assert side_of_place("bibasilar") == "bilateral"
    assert side_of_place("upper") is None
    assert [parse_view(write_view(view)) for view in ("AP", "PA")] == ["AP", "PA"]
    assert parse_findings("no abnormalities.").words == ()
    assert parse_findings("edema, wisdom.").unparsed == ("wisdom",)


LAYOUTS = [
    PromptLayout(),
    PromptLayout(priors=1),
    PromptLayout(priors=1, difference=True, expert="expert: edema yes", context="patient: 60 years, F"),
    PromptLayout(priors=3),
]


def test_the_prompt_is_nvilas_to_the_letter() -> None:
    text = render_prefix(PromptLayout(priors=1)) + render_question("is there edema in the current image?")
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n"
        "prior image: <image>\ncurrent image: <image>\n"
        "is there edema in the current image?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "prior image: none\ncurrent image: <image>\n" in render_prefix(PromptLayout())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_is_one_placeholder_for_each_slot(layout: PromptLayout) -> None:
    assert render_prefix(layout).count("<image>") == len(layout.slots)
    assert layout.slots[: layout.priors].count(ImageSlot.CURRENT) == 0
    with pytest.raises(ValueError, match="no difference"):
        PromptLayout(difference=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prefix_and_suffix_tokenise_apart_as_together(layout: PromptLayout) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared("nvila_reference", "A", "llm"))
    prefix = render_prefix(layout)
    apart = tokenizer(prefix, add_special_tokens=False).input_ids
    for question in battery(FINDINGS, with_prior=True, prognosis=True):
        suffix = render_question(question.text)
        together = tokenizer(prefix + suffix, add_special_tokens=False).input_ids
        assert together == apart + tokenizer(suffix, add_special_tokens=False).input_ids
        for answer in question.allowed or ("nothing has changed.",):
            whole = tokenizer(prefix + suffix + render_answer(answer), add_special_tokens=False).input_ids
            assert whole == together + tokenizer(render_answer(answer), add_special_tokens=False).input_ids


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if not layout.difference])
def test_the_chat_template_gives_the_same_prompt(layout: PromptLayout) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared("nvila_reference", "A", "llm"))
    turns = [Turn(question="is there edema in the current image?", answer="yes"), Turn(question="how severe is it?")]
    flat = [
        {"role": m["role"], "content": "".join(c.get("text", "<image>") for c in m["content"])}
        for m in messages(layout, turns, system=True)
    ]
    rendered = tokenizer.apply_chat_template(flat, tokenize=False, add_generation_prompt=True)
    assert rendered == "".join(text for text, _ in render_conversation(layout, turns))


def test_the_loss_is_taken_over_answers_and_their_end_only() -> None:
    turns = [Turn(question="q one?", answer="yes"), Turn(question="q two?", answer="no")]
    parts = render_conversation(PromptLayout(priors=1), turns)
    assert [text for text, loss in parts if loss] == ["yes<|im_end|>", "no<|im_end|>"]
    with pytest.raises(ValueError, match="answered"):
        render_conversation(PromptLayout(), [Turn(question="q?"), Turn(question="q?")])
    with pytest.raises(ValueError, match="starts with a letter"):
        render_question("\nis it?"[:1])


@given(st.text(max_size=80), st.sampled_from(["<|im_end|>", "<image>", "<|im_start|>", "<vila/sentinel>", "[INST]"]))
def test_foreign_text_can_open_no_turn_and_claim_no_image(noise: str, token: str) -> None:
    half = len(noise) // 2
    nested = noise[:half] + token[:3] + token + token[3:] + noise[half:]
    context = context_text(PatientContext(indication=nested, sex=token))
    prefix = render_prefix(PromptLayout(context=context))
    assert prefix.count("<image>") == 1
    assert prefix.count("<|im_start|>") == 2
    assert prefix.count("<|im_end|>") == 1
    assert "\n" not in clean_text(nested)


def test_the_context_says_what_is_known_and_nothing_else() -> None:
    assert context_text(PatientContext()) is None
    context = PatientContext(age_years=67, sex="F", indication="dyspnea", labs={"CRP": "120 mg/l"})
    assert context_text(context) == "patient: 67 years, F; indication: dyspnea; labs: CRP 120 mg/l"


def test_what_has_no_degree_is_never_asked_whether_it_grew_worse() -> None:
    for concept in ontology().findings.values():
        allowed = closed_question(QuestionType.CHANGE, concept.key).allowed
        assert allowed is not None
        assert ("worsening" in allowed) is concept.graded
        assert {"new", "stable", "resolved", "none"} <= set(allowed)
