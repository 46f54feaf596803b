"""Differences and predictions: written sentences to the letter, and read back over the whole vocabulary."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ontology import ontology
from model.questions.grammar import (
    NOTHING,
    Event,
    EventKind,
    Tense,
    canonical,
    direction_of_readings,
    parse_events,
    write_events,
)
from model.questions.vocabulary import finding_key, finding_name, finding_wordings
from model.schema import INVERSE_CHANGE, Change
from tests.support.published import LUMEN_SHARES, lumen_answers

FINDINGS = tuple(ontology().findings)
LEVELS = ontology().levels


def new(key: str) -> Event:
    return Event(kind=EventKind.NEW, finding=key)


def resolved(key: str) -> Event:
    return Event(kind=EventKind.RESOLVED, finding=key)


def level(key: str, before: str, after: str) -> Event:
    return Event(kind=EventKind.LEVEL, finding=key, before=before, after=after)


@st.composite
def event_sets(draw: st.DrawFn) -> tuple[Event, ...]:
    keys = draw(st.lists(st.sampled_from(FINDINGS), unique=True, max_size=10))
    degree = st.sampled_from(LEVELS)
    return tuple(
        draw(st.one_of(st.just(new(key)), st.just(resolved(key)), st.builds(level, st.just(key), degree, degree)))
        for key in keys
    )


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([], "nothing has changed."),
        (
            [new("pleural_effusion")],
            "the main image has an additional finding of pleural effusion than the reference image.",
        ),
        (
            [new("edema"), new("atelectasis"), new("pleural_effusion")],
            "the main image has additional findings of pleural effusion, atelectasis, and edema "
            "than the reference image.",
        ),
        ([resolved("pneumonia")], "the main image is missing the finding of pneumonia than the reference image."),
        (
            [resolved("pneumonia"), resolved("lung_opacity")],
            "the main image is missing the findings of lung opacity, and pneumonia than the reference image.",
        ),
        ([level("edema", "mild", "severe")], "the level of edema has changed from mild to severe."),
        (
            [level("edema", "mild", "moderate"), resolved("pneumonia"), new("hernia")],
            "the main image has an additional finding of hernia than the reference image. "
            "the main image is missing the finding of pneumonia than the reference image. "
            "the level of edema has changed from mild to moderate.",
        ),
    ],
)
def test_the_sentences_are_those_of_the_published_set(events: list[Event], sentence: str) -> None:
    assert write_events(events) == sentence
    assert parse_events(sentence).events == canonical(events)


@given(event_sets(), st.sampled_from(list(Tense)))
def test_what_is_written_is_read_back(events: tuple[Event, ...], tense: Tense) -> None:
    parsed = parse_events(write_events(events, tense), tense)
    assert parsed.unparsed == ()
    clear = set(parsed.events)
    for event in canonical(events):
        # Some degree words hold " to " themselves: "mild to moderate to severe" has two readings; both are given.
        assert event in clear or any(event in readings for readings in parsed.ambiguous)
    assert clear <= set(canonical(events))
    assert len(clear) + len(parsed.ambiguous) == len(canonical(events))


def test_only_degrees_that_hold_the_word_to_are_ever_ambiguous() -> None:
    doubtful = []
    for before, after in itertools.product(LEVELS, LEVELS):
        event = level("edema", before, after)
        parsed = parse_events(write_events([event]))
        assert parsed.unparsed == ()
        if parsed.ambiguous:
            doubtful.append((before, after))
            assert event in parsed.ambiguous[0]
        else:
            assert parsed.events == (event,)
    assert sorted(doubtful) == [("mild", "moderate to severe"), ("mild to moderate", "severe")]


@given(event_sets(), st.randoms(use_true_random=False))
def test_order_spaces_case_and_full_stops_do_not_matter(events: tuple[Event, ...], chance: random.Random) -> None:
    sentences = list(write_events(events).split(". "))
    chance.shuffle(sentences)
    untidy = "  .  ".join(sentence.replace(" ", chance.choice([" ", "  ", " \t"])).upper() for sentence in sentences)
    assert parse_events(untidy) == parse_events(write_events(events))


@given(st.lists(st.sampled_from(FINDINGS), unique=True, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_the_order_within_a_list_does_not_matter(keys: list[str], chance: random.Random) -> None:
    names = [finding_name(key) for key in keys]
    chance.shuffle(names)
    joined = " and ".join([", ".join(names[:-1]), names[-1]])
    parsed = parse_events(f"the main image has additional findings of {joined} than the reference image")
    assert parsed.findings == set(keys)
    assert parsed.complete


def test_plural_forms_and_synonyms_name_the_same_finding() -> None:
    for wording, key in finding_wordings().items():
        assert finding_key(f" The {wording.upper()}. ") == key
    assert finding_key("pleural effusions") == "pleural_effusion"
    assert finding_key("lung opacities") == "lung_opacity"
    assert finding_key("fractures") == "fracture"
    assert finding_key("atelectases") == "atelectasis"
    assert finding_key("pulmonary edema") == "edema"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("the heart is big.", ("the heart is big",)),
        ("the main image has an additional finding of wisdom than the reference image.", ("wisdom",)),
        ("the level of edema has changed from tiny to huge.", ("the level of edema has changed from tiny to huge",)),
        ("the level of wisdom has changed from mild to severe.", None),
        ("the main image has an additional finding of  than the reference image.", None),
    ],
)
def test_what_does_not_parse_is_handed_back(text: str, left: tuple[str, ...] | None) -> None:
    parsed = parse_events(text)
    assert parsed.events == ()
    assert not parsed.complete
    assert parsed.unparsed == left if left is not None else parsed.unparsed


def test_the_known_part_of_a_list_is_kept_and_the_rest_named() -> None:
    parsed = parse_events(
        "the main image has additional findings of edema, wisdom, and hernia than the reference image."
    )
    assert parsed.findings == {"edema", "hernia"}
    assert parsed.unparsed == ("wisdom",)


def test_a_self_contradicting_answer_is_read_but_cannot_be_written() -> None:
    parsed = parse_events(
        "nothing has changed. the main image has an additional finding of edema than the reference image."
    )
    assert set(parsed.events) == {NOTHING, new("edema")}
    with pytest.raises(ValueError, match="nothing has changed"):
        write_events(parsed.events)
    with pytest.raises(ValueError, match="two fates"):
        write_events([new("edema"), resolved("edema")])


@given(event_sets())
def test_swapping_the_pair_inverts_every_event(events: tuple[Event, ...]) -> None:
    for event in canonical(events):
        assert event.inverse().inverse() == event
        if event.change is not None:
            assert event.inverse().change == INVERSE_CHANGE[event.change]


def test_a_change_of_degree_has_a_direction_where_the_words_have_an_order() -> None:
    assert level("edema", "mild", "severe").change is Change.WORSENING
    assert level("edema", "massive", "small").change is Change.IMPROVING
    assert level("edema", "mild", "mildly").change is Change.STABLE
    assert level("edema", "acute", "mild").change is None
    ambiguous = parse_events("the level of edema has changed from mild to moderate to severe.").ambiguous
    assert direction_of_readings(ambiguous[0]) is Change.WORSENING


def test_the_parser_finds_the_published_shares_again() -> None:
    answers = lumen_answers()
    assert len(answers) == 32_761
    found = Counter[str]()
    for said, text in answers:
        parsed = parse_events(text)
        assert parsed.complete
        kinds = {event.kind for event in parsed.events}
        if kinds == {EventKind.NONE}:
            kind = "none"
        elif EventKind.LEVEL in kinds:
            kind = "level" if len(kinds) == 1 else "mixed"
        else:
            kind = "both" if len(kinds) == 2 else kinds.pop().value
        assert kind == said
        found[kind] += 1
    assert found == LUMEN_SHARES


def test_an_event_that_makes_no_sense_cannot_be_made() -> None:
    with pytest.raises(ValueError):
        Event(kind=EventKind.NEW)
    with pytest.raises(ValueError):
        Event(kind=EventKind.NONE, finding="edema")
    with pytest.raises(ValueError):
        Event(kind=EventKind.LEVEL, finding="edema", before="mild")
