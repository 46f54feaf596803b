"""The gate: what it lets pass, what it refuses and with which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.gate.decision import GateSettings, decide
from training.gate.scores import MAIN, RARE, FrozenQuestion, KnownPairs, SystemScores

FIGURES = {
    "presence_auroc": 0.8,
    "change_f1": 0.5,
    "presence_ece": 0.05,
    "change_ece": 0.08,
    "swap_consistency": 0.9,
    "same_image_consistency": 0.97,
}
LIMITS = GateSettings(least_patients=20, resamples=200)
NOTHING_KNOWN = KnownPairs(asked=20, counted=0, wrong=())


def questions(patients: int = 40) -> list[FrozenQuestion]:
    """Two findings, presence and change, half of the patients with each."""
    found = []
    for patient in range(patients):
        for finding in ("edema", "pneumothorax"):
            there = (patient + len(finding)) % 2 == 0
            for aspect, truth in (
                ("presence", "present" if there else "absent"),
                ("change", "new" if there else "none"),
            ):
                key = f"site/{patient}/{finding}/{aspect}"
                found.append(FrozenQuestion(key=key, patient=str(patient), finding=finding, aspect=aspect, truth=truth))
    return found


def scores(name: str, right: Callable[[FrozenQuestion, int], bool], **figures: float) -> SystemScores:
    return SystemScores(
        device_uid=name,
        right={q.key: float(right(q, number)) for number, q in enumerate(questions())},
        figures=FIGURES | figures,
    )


def half(_question: FrozenQuestion, number: int) -> bool:
    return (number * 7919) % 10 < 6


def better(question: FrozenQuestion, number: int) -> bool:
    return half(question, number) or number % 3 == 0


CHAMPION = scores("champion", half)
BETTER = scores("challenger", better)


def test_a_better_challenger_passes_and_says_what_became_better() -> None:
    decision = decide(questions(), CHAMPION, BETTER, NOTHING_KNOWN, LIMITS)
    assert decision.passed
    assert decision.reasons[0].startswith(MAIN)
    assert "better" in decision.reasons[0]
    assert decision.patients == 40
    assert {check.name for check in decision.checks if check.passed is None} == {"known pairs"}
    assert decision.as_json()["passed"] is True


def test_the_same_answers_are_no_improvement() -> None:
    decision = decide(questions(), CHAMPION, dataclasses.replace(CHAMPION, device_uid="x"), NOTHING_KNOWN, LIMITS)
    assert not decision.passed
    assert "no significant improvement" in decision.reasons[0]


def test_one_finding_that_falls_is_enough_to_refuse() -> None:
    def worse_in_edema(question: FrozenQuestion, number: int) -> bool:
        if question.finding == "edema" and question.aspect == "presence":
            return number % 3 == 0
        return True

    decision = decide(questions(), CHAMPION, scores("x", worse_in_edema), NOTHING_KNOWN, LIMITS)
    failed = [check for check in decision.checks if check.passed is False]
    assert [check.name for check in failed] == ["edema presence"]
    assert decision.reasons == (failed[0].words,)
    assert failed[0].high is not None
    assert failed[0].high < 0, "the fall of this size is more than chance"


def test_the_frequent_answer_alone_wins_nothing() -> None:
    """Nine of ten are absent: always saying so answers more questions rightly, and is refused all the same."""
    many = [
        FrozenQuestion(
            key=f"{number}/edema/presence",
            patient=str(number),
            finding="edema",
            aspect="presence",
            truth="present" if number % 10 == 0 else "absent",
        )
        for number in range(300)
    ]
    first = SystemScores(
        device_uid="a",
        right={q.key: float(n % 10 == 0 or n % 3 > 0) for n, q in enumerate(many)},
        figures=FIGURES,
    )
    always = SystemScores(device_uid="b", right={q.key: float(q.truth == "absent") for q in many}, figures=FIGURES)
    decision = decide(many, first, always, NOTHING_KNOWN, LIMITS)
    main = next(check for check in decision.checks if check.name == MAIN)
    assert main.passed
    assert not decision.passed
    assert decision.reasons[0].startswith("edema presence")


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("presence_auroc", 0.7, "presence AUROC"),
        ("change_f1", 0.4, "change macro F1"),
        ("presence_ece", 0.08, "calibration error of presence"),
        ("change_ece", 0.2, "calibration error of change"),
        ("swap_consistency", 0.8, "other order"),
        ("same_image_consistency", 0.89, "same film twice"),
    ],
)
def test_every_other_condition_refuses_by_name(figure: str, value: float, words: str) -> None:
    challenger = dataclasses.replace(BETTER, figures=FIGURES | {figure: value})
    decision = decide(questions(), CHAMPION, challenger, NOTHING_KNOWN, LIMITS)
    assert not decision.passed
    assert len(decision.reasons) == 1
    assert words in decision.reasons[0]


def test_a_champion_that_always_says_the_same_sets_no_standard_of_consistency() -> None:
    stubborn = dataclasses.replace(CHAMPION, figures=FIGURES | {"swap_consistency": 1.0})
    honest = dataclasses.replace(BETTER, figures=FIGURES | {"swap_consistency": 0.92})
    assert decide(questions(), stubborn, honest, NOTHING_KNOWN, LIMITS).passed


def test_figures_that_are_not_known_are_said_to_be_not_judged() -> None:
    unknown = {name: float("nan") for name in ("change_ece", "swap_consistency")}
    decision = decide(
        questions(), CHAMPION, dataclasses.replace(BETTER, figures=FIGURES | unknown), NOTHING_KNOWN, LIMITS
    )
    assert decision.passed
    unjudged = [check for check in decision.checks if check.passed is None]
    assert len(unjudged) == 3
    assert all("not judged" in check.words or "too few" in check.words for check in unjudged)


def test_known_pairs_must_keep_their_answers() -> None:
    few_wrong = KnownPairs(asked=60, counted=40, wrong=("phantom 3 edema",))
    assert decide(questions(), CHAMPION, BETTER, few_wrong, LIMITS).passed
    many_wrong = KnownPairs(asked=60, counted=40, wrong=tuple(f"phantom {n} edema" for n in range(4)))
    decision = decide(questions(), CHAMPION, BETTER, many_wrong, LIMITS)
    assert not decision.passed
    assert "phantom 0 edema" in decision.reasons[0]


def test_too_few_patients_are_refused_however_good_the_figures_are() -> None:
    decision = decide(questions(), CHAMPION, BETTER, NOTHING_KNOWN, dataclasses.replace(LIMITS, least_patients=41))
    assert not decision.passed
    assert "40 patients" in decision.reasons[0]


def test_rare_answers_are_judged_together() -> None:
    few = questions(patients=20)  # ten of each class but for the one that is taken away
    kept = [q for q in few if not (q.truth == "new" and int(q.patient) < 12)]
    first = SystemScores(device_uid="a", right={q.key: 1.0 for q in kept}, figures=FIGURES)
    second = SystemScores(device_uid="b", right={q.key: float(q.truth != "new") for q in kept}, figures=FIGURES)
    decision = decide(kept, first, second, NOTHING_KNOWN, dataclasses.replace(LIMITS, least_patients=1))
    check = next(check for check in decision.checks if check.name == RARE)
    if check.cases >= 10:
        assert check.passed is False
    else:
        assert check.passed is None
        assert str(check.cases) in check.words


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="every question"):
        decide(questions()[1:], CHAMPION, BETTER, NOTHING_KNOWN, LIMITS)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_of_two_models_at_most_one_is_better_than_the_other(seed: int, first: float, second: float) -> None:
    rng = np.random.default_rng(seed)
    asked = questions()
    systems = [
        SystemScores(device_uid=name, right={q.key: float(rng.random() < share) for q in asked}, figures=FIGURES)
        for name, share in (("a", first), ("b", second))
    ]
    limits = dataclasses.replace(LIMITS, resamples=50)
    forward = decide(asked, systems[0], systems[1], NOTHING_KNOWN, limits)
    back = decide(asked, systems[1], systems[0], NOTHING_KNOWN, limits)
    assert not (forward.passed and back.passed)
    for check in forward.checks:
        if check.passed is False and check.limit is not None and check.name.endswith(("presence", "change")):
            assert check.challenger is not None
            assert check.challenger < check.limit
