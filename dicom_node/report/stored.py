"""The contents of a stored result.json: the model's answers, and the statements that a later report compares with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.report.rules import MIN_BELIEF, MIN_POSSIBLE, EarlierStatement, Seen
from model.schema import Presence


def model_answers(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings of a stored result.json as the model answered them, before the report's rules."""
    return [finding | finding.get("answer", {}) for finding in values.get("findings") or []]


def earlier_statements(values: Mapping[str, Any]) -> dict[str, EarlierStatement] | None:
    """The statements of a stored result.json by finding; None where it has no answer.

    Results of before `seen` was written stated presence by the threshold alone: what these call present or absent on
    less than even belief is taken as possible.
    """
    statements = {}
    for finding in values.get("findings") or []:
        seen = finding.get("seen") or _seen_before(str(finding["presence"]), float(finding["probability"]))
        statements[str(finding["key"])] = EarlierStatement(
            seen=Seen(seen), location=finding.get("location"), level=finding.get("level")
        )
    return statements or None


def _seen_before(presence: str, probability: float) -> Seen:
    if presence == Presence.PRESENT and probability >= MIN_BELIEF:
        return Seen.SEEN
    return Seen.NOT_SEEN if presence == Presence.ABSENT and probability < MIN_POSSIBLE else Seen.POSSIBLE
