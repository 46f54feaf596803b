"""The rules of what a report may say: belief, words, order, and consistency over time."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.report.courses import MIN_INTERVAL, is_plausible
from dicom_node.report.rules import (
    MOVED,
    Circumstances,
    Doubt,
    EarlierStatement,
    Rank,
    Seen,
    in_order,
    possible_from,
    select_outlined,
    side_of,
    statement_of,
)
from model.ontology import ontology
from model.schema import Change, Finding, Presence

DAYS = dt.timedelta(days=9)
COMPARED = Circumstances(has_prior=True, certainty_floor=0.24, interval=DAYS)
ALONE = Circumstances(has_prior=False, certainty_floor=0.24)

probabilities = st.floats(0.0, 1.0)


def answer(
    probability: float, change: Change | None = None, belief: float = 0.9, key: str = "pleural_effusion", **more: object
) -> Finding:
    threshold = float(str(more.pop("threshold", 0.5)))
    presence = Presence.PRESENT if probability >= threshold else Presence.ABSENT
    return Finding(
        key=key,
        presence=presence,
        probability=probability,
        change=change,
        change_probability=None if change in (None, Change.NOT_COMPARABLE) else belief,
        threshold=threshold,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("probability", "threshold", "seen"),
    [
        (0.42, 0.38, Seen.POSSIBLE),  # above its threshold, but believed less than its opposite
        (0.56, 0.66, Seen.POSSIBLE),  # believed more than its opposite, but below its threshold
        (0.66, 0.66, Seen.SEEN),
        (0.50, 0.38, Seen.SEEN),
        (0.25, 0.50, Seen.POSSIBLE),
        (0.24, 0.20, Seen.UNDECIDED),  # its own threshold takes it for present: "not seen" would deny that
        (0.19, 0.20, Seen.NOT_SEEN),
    ],
)
def test_a_finding_is_seen_from_its_threshold_and_half_of_the_belief(
    probability: float, threshold: float, seen: Seen
) -> None:
    assert statement_of(answer(probability, threshold=threshold), ALONE).seen is seen


@pytest.mark.parametrize(
    ("deny_below", "seen"), [(None, Seen.NOT_SEEN), (0.1, Seen.NOT_SEEN), (0.04, Seen.UNDECIDED), (0.0, Seen.UNDECIDED)]
)
def test_not_seen_is_said_only_where_few_were_missed_at_such_a_belief(deny_below: float | None, seen: Seen) -> None:
    assert statement_of(answer(0.05, deny_below=deny_below), ALONE).seen is seen
    assert statement_of(answer(0.3, deny_below=deny_below), ALONE).seen is Seen.POSSIBLE


@given(probability=probabilities, threshold=probabilities, floor=probabilities)
def test_a_percentage_never_contradicts_its_word(probability: float, threshold: float, floor: float) -> None:
    known = Circumstances(has_prior=False, certainty_floor=floor)
    said = statement_of(answer(probability, threshold=threshold), known)
    if said.percent_shown is not None:
        assert (said.percent_shown >= 0.5) is (said.seen is Seen.SEEN)
    if said.seen is Seen.NOT_SEEN:
        assert probability < possible_from(floor) <= 0.5


@given(probability=probabilities, belief=probabilities, floor=probabilities, change=st.sampled_from(sorted(Change)))
def test_nothing_believed_less_than_half_is_in_the_impression(
    probability: float, belief: float, floor: float, change: Change
) -> None:
    known = Circumstances(has_prior=True, certainty_floor=floor, interval=DAYS)
    said = statement_of(answer(probability, change, belief), known)
    if said.change is not None:
        assert belief >= 0.5
        assert belief >= floor
    if said.rank not in (Rank.NONE, Rank.GONE, Rank.VANISHED):
        assert probability >= 0.5


def test_a_change_that_is_believed_too_little_is_only_possible() -> None:
    said = statement_of(answer(0.8, Change.NEW, 0.38), COMPARED)
    assert (said.seen, said.change, said.possible_change) == (Seen.SEEN, None, Change.NEW)
    assert (said.doubt, said.rank, said.coded_change) == (Doubt.LOW_CERTAINTY, Rank.UNCERTAIN, Change.NOT_COMPARABLE)
    assert statement_of(answer(0.8, Change.NEW, 0.2), COMPARED).possible_change is None


def test_a_possible_finding_has_no_change_and_is_not_outlined() -> None:
    said = statement_of(answer(0.4, Change.NEW, 0.6, threshold=0.3), COMPARED)
    assert (said.seen, said.change, said.rank) == (Seen.POSSIBLE, None, Rank.NONE)
    assert select_outlined([said]) == []
    assert said.presence is Presence.ABSTAINED


def test_an_answer_of_two_equal_possibilities_is_no_statement() -> None:
    undecided = Finding(key="edema", presence=Presence.ABSTAINED, probability=0.5)
    assert statement_of(undecided, COMPARED).seen is Seen.UNDECIDED


def test_an_uncalibrated_model_states_presence_and_no_number() -> None:
    known = Circumstances(has_prior=True, is_calibrated=False, interval=DAYS)
    said = statement_of(answer(0.97, Change.NEW), known)
    assert (said.seen, said.change, said.percent_shown) == (Seen.SEEN, None, None)
    assert (said.doubt, said.rank) == (Doubt.UNCALIBRATED, Rank.SEEN)


def test_the_order_is_critical_new_worse_better_gone_unchanged() -> None:
    statements = [
        statement_of(answer(0.9, Change.STABLE, key="cardiomegaly"), COMPARED),
        statement_of(answer(0.02, Change.RESOLVED, key="edema"), COMPARED),
        statement_of(answer(0.9, Change.IMPROVING, key="consolidation"), COMPARED),
        statement_of(answer(0.9, Change.WORSENING, key="atelectasis"), COMPARED),
        statement_of(answer(0.99, Change.NEW, key="chest_tube"), COMPARED),
        statement_of(answer(0.6, Change.NEW, key="pleural_effusion"), COMPARED),
        statement_of(answer(0.7, Change.NEW, key="pneumothorax"), COMPARED),
    ]
    keys = ["pneumothorax", "pleural_effusion", "chest_tube", "atelectasis", "consolidation", "edema", "cardiomegaly"]
    assert [one.finding.key for one in in_order(statements)] == keys
    assert [one.finding.key for one in select_outlined(statements)] == keys[:-1]


def test_a_known_pneumothorax_that_is_no_larger_is_not_critical() -> None:
    assert statement_of(answer(0.9, Change.STABLE, key="pneumothorax"), COMPARED).rank is Rank.UNCHANGED
    assert statement_of(answer(0.9, Change.NOT_COMPARABLE, key="pneumothorax"), COMPARED).rank is Rank.CRITICAL
    assert statement_of(answer(0.9, key="pneumothorax"), ALONE).rank is Rank.CRITICAL


def _after(finding: Finding, earlier: Seen, location: str | None = None, interval: dt.timedelta = DAYS) -> Doubt | None:
    known = {finding.key: EarlierStatement(seen=earlier, location=location)}
    return statement_of(finding, Circumstances(has_prior=True, interval=interval, earlier=known)).doubt


@pytest.mark.parametrize(
    ("finding", "earlier", "doubt"),
    [
        (answer(0.9, Change.NEW), Seen.SEEN, Doubt.EARLIER_DIFFERS),
        (answer(0.9, Change.NEW), Seen.NOT_SEEN, None),
        (answer(0.9, Change.NEW), Seen.POSSIBLE, None),
        (answer(0.9, Change.STABLE), Seen.NOT_SEEN, Doubt.EARLIER_DIFFERS),
        (answer(0.9, Change.WORSENING), Seen.NOT_SEEN, Doubt.EARLIER_DIFFERS),
        (answer(0.9, Change.STABLE), Seen.SEEN, None),
        (answer(0.02, Change.RESOLVED), Seen.NOT_SEEN, Doubt.EARLIER_DIFFERS),
        (answer(0.02, Change.RESOLVED), Seen.SEEN, None),
        (answer(0.02), Seen.SEEN, Doubt.EARLIER_DIFFERS),
        (answer(0.02), Seen.NOT_SEEN, None),
    ],
)
def test_a_change_must_fit_what_was_said_of_the_prior(finding: Finding, earlier: Seen, doubt: Doubt | None) -> None:
    assert _after(finding, earlier) is doubt


def test_what_is_on_the_other_side_now_is_not_the_same_finding() -> None:
    right = answer(0.9, Change.STABLE, location="right lower")
    assert _after(right, Seen.SEEN, "left") is Doubt.EARLIER_DIFFERS
    assert _after(right, Seen.SEEN, "right") is None
    assert _after(right, Seen.SEEN, "bilateral") is None


def test_a_finding_that_was_reported_and_is_not_seen_now_does_not_vanish_in_silence() -> None:
    known = Circumstances(has_prior=True, interval=DAYS, earlier={"pleural_effusion": EarlierStatement(seen=Seen.SEEN)})
    said = statement_of(answer(0.02), known)
    assert (said.rank, said.coded_change) == (Rank.VANISHED, Change.NOT_COMPARABLE)


@pytest.mark.parametrize(
    ("key", "change", "hours", "plausible"),
    [
        ("fracture", Change.RESOLVED, 9, False),
        ("fracture", Change.RESOLVED, 24 * 90, True),
        ("fracture", Change.NEW, 1, True),
        ("endotracheal_tube", Change.RESOLVED, 1, True),
        ("endotracheal_tube", Change.WORSENING, 1000, False),
        ("pneumothorax", Change.RESOLVED, 1, True),
        ("lung_nodule", Change.RESOLVED, 20, False),
        ("emphysema", Change.RESOLVED, 24 * 365 * 5, False),
        ("some_new_finding_of_a_site", Change.RESOLVED, 0, True),
    ],
)
def test_a_course_is_plausible_or_not(key: str, change: Change, hours: int, plausible: bool) -> None:
    interval = dt.timedelta(hours=hours)
    assert is_plausible(key, change, interval) is plausible
    present = change is not Change.RESOLVED
    said = statement_of(
        answer(0.9 if present else 0.05, change, key=key), Circumstances(has_prior=True, interval=interval)
    )
    assert (said.doubt is Doubt.IMPLAUSIBLE) is not plausible
    assert (said.change is change) is plausible


def test_the_table_of_courses_names_findings_of_the_vocabulary_and_changes_that_move() -> None:
    assert set(MIN_INTERVAL) <= set(ontology().findings)
    for course in MIN_INTERVAL.values():
        assert set(course) <= MOVED


@given(
    key=st.sampled_from(sorted(ontology().findings)), change=st.sampled_from(sorted(MOVED)), days=st.integers(0, 999)
)
def test_what_is_plausible_stays_so_over_longer_intervals(key: str, change: Change, days: int) -> None:
    sooner = is_plausible(key, change, dt.timedelta(days=days))
    assert is_plausible(key, change, dt.timedelta(days=days + 30)) or not sooner


def test_the_heart_is_not_compared_across_projections() -> None:
    known = Circumstances(has_prior=True, interval=DAYS, has_other_projection=True)
    assert statement_of(answer(0.9, Change.NEW, key="cardiomegaly"), known).doubt is Doubt.PROJECTION
    assert statement_of(answer(0.9, Change.STABLE, key="cardiomegaly"), known).doubt is None
    assert statement_of(answer(0.9, Change.NEW, key="pleural_effusion"), known).doubt is None


@pytest.mark.parametrize(
    ("location", "side"),
    [
        *(("right lower", "right"), ("left-sided", "left"), ("bibasilar", "bilateral"), ("left right", "bilateral")),
        *((None, None), ("apical", None)),
    ],
)
def test_the_side_of_a_place(location: str | None, side: str | None) -> None:
    assert side_of(location) == side
