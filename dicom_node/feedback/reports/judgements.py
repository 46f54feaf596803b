"""A report's findings beside the node's statements: the words of feedback that follow. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dicom_node.feedback.record import MAX_COMMENT, Aspect, FeedbackWord, allowed_values
from dicom_node.index.tables.core import Verdict
from model.labeller.report import ReportFinding, values_of_finding
from model.questions.answers import side_of_place
from model.questions.vocabulary import grade_of_level


def words_of(
    findings: Mapping[str, ReportFinding], prediction: Mapping[str, Any], *, compared: bool
) -> list[FeedbackWord]:
    """One word for each thing that the report settles, in the order of the ontology.

    compared: the result has a prior; without one a change is no answer to anything. A finding that the node was not
    asked for gives words too ("correct" on an empty statement): they label training.
    """
    predicted = {str(item.get("key")): item for item in prediction.get("findings", [])}
    return [
        word for key, finding in findings.items() for word in _words(finding, predicted.get(key, {}), compared=compared)
    ]


def _words(finding: ReportFinding, said: Mapping[str, Any], *, compared: bool) -> Iterator[FeedbackWord]:
    because = _because(finding)
    for name, value in values_of_finding(finding).items():
        aspect = Aspect(name)
        # Against another film than ours, the radiologist's "unchanged" says nothing of our comparison.
        if (aspect is Aspect.CHANGE and not compared) or value not in allowed_values(aspect):
            continue
        stated = str(said.get(name) or "")
        agrees = _agrees(aspect, stated, value)
        yield FeedbackWord(
            finding=finding.finding,
            aspect=aspect,
            verdict=Verdict.AGREE if agrees else Verdict.CORRECT,
            value="" if agrees else value,
            comment=because,
        )


def _agrees(aspect: Aspect, stated: str, value: str) -> bool:
    """Places agree by their side, degrees by their grade: a report's words are not the vocabulary's."""
    if not stated:
        return False
    if aspect is Aspect.LOCATION:
        return side_of_place(stated) == side_of_place(value)
    if aspect is Aspect.LEVEL:
        return stated == value or (
            grade_of_level(stated) is not None and grade_of_level(stated) == grade_of_level(value)
        )
    return stated == value


def _because(finding: ReportFinding) -> str:
    """The sentences that decided, each once, with their rules."""
    lines = dict.fromkeys(f"“{label.sentence}” [{label.rule}]" for label in finding.labels)
    return " ".join(lines)[:MAX_COMMENT]
