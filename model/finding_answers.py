"""The answers on one finding, out of the answers on a whole pair."""

from __future__ import annotations

from collections.abc import Mapping

from model.finding_states import FindingAnswers, says_something
from model.questions.battery import QuestionType

DETAILS = (QuestionType.SIDE, QuestionType.GRADE)
"""Questions whose answers are stated only of a finding that is present (`model.finding_states.read_finding`)."""


def finding_answers(key: str, calibrated: Mapping[str, Mapping[str, float]]) -> FindingAnswers | None:
    """The answers on one finding among those of a pair (question key → calibrated shares); None where its presence was
    not asked. What an even answer says is what one that was not asked says: nothing."""

    def of(type: QuestionType) -> Mapping[str, float] | None:
        shares = calibrated.get(f"{type.value}/{key}")
        return shares if shares is not None and says_something(shares) else None

    presence, prior = calibrated.get(f"{QuestionType.PRESENCE.value}/{key}"), of(QuestionType.PRIOR_PRESENCE)
    if presence is None:
        return None
    return FindingAnswers(
        presence=presence["yes"],
        prior_presence=prior["yes"] if prior is not None else None,
        change=of(QuestionType.CHANGE),
        side=of(QuestionType.SIDE),
        grade=of(QuestionType.GRADE),
    )
