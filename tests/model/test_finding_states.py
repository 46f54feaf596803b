"""The rules that turn scored answers into statements: consistent, monotonous, honest where nothing was fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.finding_answers import finding_answers
from model.finding_states import POOLED, STATES, FindingAnswers, JointWeights, believe, read_finding, shift_probability
from model.questions.answers import CHANGE_ANSWERS, DEGREE_CHANGES
from model.schema import INVERSE_CHANGE, Change, Presence

probability = st.floats(0.0, 1.0)


def _normalised(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, float]]:
    return st.lists(st.floats(1e-6, 1.0), min_size=len(names), max_size=len(names)).map(
        lambda numbers: dict(zip(names, [number / sum(numbers) for number in numbers], strict=True))
    )


shares = st.one_of(
    _normalised(CHANGE_ANSWERS),
    _normalised(tuple(answer for answer in CHANGE_ANSWERS if answer not in DEGREE_CHANGES)),
)
answers_given = st.builds(
    FindingAnswers, presence=probability, prior_presence=st.none() | probability, change=st.none() | shares
)
weights_given = st.builds(
    JointWeights,
    presence=st.floats(0, 3),
    prior_presence=st.floats(0, 3),
    change=st.floats(0, 3),
    bias=st.dictionaries(st.sampled_from(tuple(STATES)), st.floats(-3, 3)),
)
thresholds = st.floats(0.01, 0.99)


@given(answers=answers_given, weights=weights_given, threshold=thresholds, floor=st.floats(0.0, 1.0))
def test_presence_and_change_never_contradict(
    answers: FindingAnswers, weights: JointWeights, threshold: float, floor: float
) -> None:
    finding = read_finding("edema", answers, threshold=threshold, floor=floor, with_prior=True, weights=weights)
    if finding.presence is not Presence.ABSTAINED:
        assert (finding.presence is Presence.PRESENT) == (finding.probability >= threshold)
    if finding.change is Change.RESOLVED:
        assert finding.presence is Presence.ABSENT
    if finding.change in (Change.NEW, Change.WORSENING, Change.STABLE, Change.IMPROVING):
        assert finding.presence is Presence.PRESENT
        assert finding.change in (answers.change or {"new": 1.0})
    if finding.change in (None, Change.NOT_COMPARABLE):
        assert finding.change_probability is None
    else:
        assert finding.change_probability is not None
        assert floor <= finding.change_probability <= 1.0
        # A statement cannot be surer than the presence that it implies.
        there = finding.probability if finding.presence is Presence.PRESENT else 1.0 - finding.probability
        assert finding.change_probability <= there + 1e-9


@given(answers=answers_given, weights=weights_given)
def test_what_is_believed_is_a_distribution(answers: FindingAnswers, weights: JointWeights) -> None:
    belief = believe(answers, weights, with_prior=True)
    assert 0.0 <= belief.presence <= 1.0
    assert (belief.prior_presence is None) == (answers.prior_presence is None)
    if answers.prior_presence is None and answers.change is None:
        assert belief.states is None
        assert belief.presence == answers.presence
    else:
        assert belief.states is not None
        assert sum(belief.states.values()) == pytest.approx(1.0)
        assert set(belief.states) == set(answers.change or STATES)


@given(answers=answers_given, weights=weights_given, more=probability)
def test_more_evidence_of_presence_is_never_less_belief(
    answers: FindingAnswers, weights: JointWeights, more: float
) -> None:
    less, more = sorted((answers.presence, more))
    low = believe(replace(answers, presence=less), weights, with_prior=True).presence
    high = believe(replace(answers, presence=more), weights, with_prior=True).presence
    assert high >= low - 1e-9


@given(answers=answers_given.filter(lambda a: a.prior_presence is not None), strength=st.floats(0.1, 2.0))
def test_the_pair_in_the_other_order_is_believed_the_other_way_round(answers: FindingAnswers, strength: float) -> None:
    """Where the answers and the weights are symmetrical, so is what is made of them."""
    assert answers.prior_presence is not None
    weights = JointWeights(presence=strength, prior_presence=strength)
    change = answers.change and {_inverse(name): share for name, share in answers.change.items()}
    swapped = FindingAnswers(presence=answers.prior_presence, prior_presence=answers.presence, change=change)
    here, there = (believe(a, weights, with_prior=True) for a in (answers, swapped))
    assert here.prior_presence == pytest.approx(there.presence, abs=1e-9)
    assert here.states is not None
    assert there.states is not None
    for name, share in here.states.items():
        assert there.states[_inverse(name)] == pytest.approx(share, abs=1e-9)


def _inverse(name: str) -> str:
    return name if name == "none" else INVERSE_CHANGE[Change(name)].value


@given(answers=answers_given, weights=weights_given)
def test_without_prior_there_is_no_change(answers: FindingAnswers, weights: JointWeights) -> None:
    finding = read_finding("edema", answers, threshold=0.5, floor=0.0, with_prior=False, weights=weights)
    assert finding.change is None
    assert finding.probability == answers.presence
    assert finding.prior_probability is None


def clear(answer: str, strength: float = 0.9) -> dict[str, float]:
    rest = (1.0 - strength) / 5
    return {name: strength if name == answer else rest for name in CHANGE_ANSWERS}


@pytest.mark.parametrize(
    ("presence", "prior", "change", "expected"),
    [
        (0.9, 0.1, "new", Change.NEW),
        (0.1, 0.9, "resolved", Change.RESOLVED),
        (0.9, 0.9, "worsening", Change.WORSENING),
        (0.1, 0.1, "none", None),
        (0.95, 0.95, "none", Change.NOT_COMPARABLE),  # says "none" of what it sees twice: no state fits well
        (0.9, 0.45, "new", Change.NEW),  # a doubtful prior gives way to a clear change
        (0.6, 0.95, "resolved", Change.RESOLVED),  # a doubtful presence gives way to a clear change, too
    ],
)
def test_rules_by_example(presence: float, prior: float, change: str, expected: Change | None) -> None:
    answers = FindingAnswers(presence=presence, prior_presence=prior, change=clear(change))
    finding = read_finding("edema", answers, threshold=0.5, floor=0.4, with_prior=True)
    assert finding.change is expected


def test_the_threshold_decides_and_the_change_follows_it() -> None:
    change = {**clear("resolved", 0.6), "stable": 0.1, "new": 0.06}
    answers = FindingAnswers(presence=0.3, prior_presence=0.9, change=change)
    absent = read_finding("edema", answers, threshold=0.5, floor=0.0, with_prior=True)
    assert (absent.presence, absent.change) == (Presence.ABSENT, Change.RESOLVED)
    present = read_finding("edema", answers, threshold=0.01, floor=0.0, with_prior=True)
    assert (present.presence, present.probability) == (Presence.PRESENT, absent.probability)
    assert present.change is Change.STABLE
    assert present.change_probability is not None
    assert absent.change_probability is not None
    assert present.change_probability < absent.change_probability, "the threshold moves no probability"


def test_weights_choose_whom_to_believe() -> None:
    answers = FindingAnswers(presence=0.8, prior_presence=0.8, change=clear("resolved", 0.9))
    by_change = JointWeights(presence=0.0, prior_presence=0.0)
    assert believe(answers, by_change, with_prior=True).states == pytest.approx(answers.change)
    by_presence = JointWeights(change=0.0)
    assert believe(answers, by_presence, with_prior=True).presence > 0.8
    rare = JointWeights(presence=0.0, prior_presence=0.0, bias={"resolved": -3.0})
    states = believe(answers, rare, with_prior=True).states
    assert states is not None
    assert states["resolved"] < 0.9


def test_presence_without_a_change_question() -> None:
    new = read_finding(
        "edema", FindingAnswers(presence=0.9, prior_presence=0.1), threshold=0.5, floor=0.0, with_prior=True
    )
    assert new.change is Change.NEW
    assert new.probability == pytest.approx(0.9)
    both = read_finding(
        "edema", FindingAnswers(presence=0.9, prior_presence=0.9), threshold=0.5, floor=0.0, with_prior=True
    )
    assert both.change is Change.NOT_COMPARABLE


def test_the_floor_makes_a_doubtful_presence_an_abstention() -> None:
    answers = FindingAnswers(presence=0.55)
    assert read_finding("edema", answers, threshold=0.5, floor=0.6, with_prior=False).presence is Presence.ABSTAINED
    assert read_finding("edema", answers, threshold=0.5, floor=0.5, with_prior=False).presence is Presence.PRESENT
    with_prior = replace(answers, prior_presence=0.5, change=dict.fromkeys(CHANGE_ANSWERS, 1 / 6))
    doubtful = read_finding("edema", with_prior, threshold=0.5, floor=0.75, with_prior=True)
    assert (doubtful.presence, doubtful.change) == (Presence.ABSTAINED, Change.NOT_COMPARABLE)


def even(names: tuple[str, ...]) -> dict[str, float]:
    return dict.fromkeys(names, 1 / len(names))


def test_an_even_answer_states_nothing() -> None:
    """Half precision makes exact ties, and a server that lists none of the answers makes nothing else."""
    shares = {
        "presence/edema": even(("yes", "no")),
        "prior_presence/edema": even(("yes", "no")),
        "change/edema": even(CHANGE_ANSWERS),
        "side/edema": even(("left", "right", "bilateral")),
    }
    answers = finding_answers("edema", shares)
    assert answers == FindingAnswers(presence=0.5)
    silent = read_finding("edema", answers, threshold=0.5, floor=0.0, with_prior=True)
    assert (silent.presence, silent.change, silent.location) == (Presence.ABSTAINED, None, None)
    told = finding_answers("edema", {**shares, "presence/edema": {"yes": 0.9, "no": 0.1}})
    assert told is not None
    assert read_finding("edema", told, threshold=0.5, floor=0.0, with_prior=True).presence is Presence.PRESENT
    changed = finding_answers("edema", {**shares, "change/edema": clear("new")})
    assert changed is not None
    assert read_finding("edema", changed, threshold=0.5, floor=0.0, with_prior=True).change is Change.NEW


def test_of_two_likeliest_neither_is_stated() -> None:
    answers = FindingAnswers(
        presence=0.9,
        prior_presence=0.9,
        change={"new": 0.02, "worsening": 0.44, "stable": 0.05, "improving": 0.44, "resolved": 0.02, "none": 0.03},
        side={"left": 0.45, "right": 0.45, "bilateral": 0.1},
        grade={"mild": 0.2, "moderate": 0.5, "severe": 0.3},
    )
    found = read_finding("edema", answers, threshold=0.5, floor=0.0, with_prior=True)
    assert (found.presence, found.change, found.change_probability) == (Presence.PRESENT, Change.NOT_COMPARABLE, None)
    assert (found.location, found.level) == (None, "moderate")


@given(weights=weights_given)
def test_weights_survive_the_manifest(weights: JointWeights) -> None:
    assert JointWeights.from_values(weights.values()) == weights
    assert set(weights.values()) >= set(POOLED)


@pytest.mark.parametrize(
    ("values", "named"),
    [({"presense": 1.0}, "presense"), ({"change": -0.1}, "opposite"), ({"new": float("nan")}, "finite")],
)
def test_weights_that_are_none_are_refused(values: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        JointWeights.from_values(values)


@given(probability=probability, threshold=thresholds)
def test_the_threshold_becomes_one_half(probability: float, threshold: float) -> None:
    assert (shift_probability(probability, threshold) >= 0.5 - 1e-9) == (probability >= threshold - 1e-9) or np.isclose(
        probability, threshold, atol=1e-6
    )
