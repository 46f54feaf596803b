"""Feedback on results: one row per word, checked against the vocabulary, never overriding another row."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.errors import UsageError
from dicom_node.index.tables.core import Aspect as Aspect
from dicom_node.index.tables.core import Feedback, FeedbackSource, Result, Study, Verdict
from model.ontology import ontology
from model.schema import COMPARED_CHANGES, Presence

Source = FeedbackSource


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackWord:
    """One word of feedback. finding: ontology key, "" with aspect RESULT. value: only with verdict CORRECT."""

    finding: str
    aspect: Aspect
    verdict: Verdict
    value: str = ""
    comment: str = ""


MAX_COMMENT = 4000


def allowed_values(aspect: Aspect) -> tuple[str, ...]:
    """The words that a correction of this aspect may use."""
    words = ontology()
    return {
        Aspect.PRESENCE: (Presence.PRESENT.value, Presence.ABSENT.value),
        Aspect.CHANGE: COMPARED_CHANGES,
        Aspect.LOCATION: tuple(words.locations),
        Aspect.LEVEL: tuple(words.levels),
        Aspect.RESULT: (),
    }[aspect]


def check(word: FeedbackWord) -> None:
    """Raise UsageError naming what is wrong and what is allowed."""
    if word.aspect is Aspect.RESULT:
        if word.finding or word.value:
            raise UsageError("a word on the whole result names no finding and no value")
    elif word.finding not in ontology().findings:
        raise UsageError(f"no finding {word.finding!r} in the vocabulary")
    if word.verdict is Verdict.CORRECT and word.value not in allowed_values(word.aspect):
        allowed = ", ".join(allowed_values(word.aspect)) or "no value"
        raise UsageError(f"{word.aspect} cannot be {word.value!r}; allowed: {allowed}")
    if word.verdict is not Verdict.CORRECT and word.value:
        raise UsageError('a value goes with the verdict "correct" only')
    if len(word.comment) > MAX_COMMENT:
        raise UsageError(f"a comment has at most {MAX_COMMENT} characters")


def record(
    session: Session,
    result: Result,
    study: Study,
    word: FeedbackWord,
    *,
    author: str,
    role: str,
    source: Source,
    now: dt.datetime,
    report_pk: int | None = None,
) -> Feedback:
    """Add one row in the caller's transaction. report_pk: the received report that says it. Raises UsageError."""
    check(word)
    row = Feedback(
        result_pk=result.id,
        study_instance_uid=study.study_instance_uid,
        sop_instance_uid=result.sop_instance_uid,
        device_uid=result.device_uid,
        finding=word.finding,
        aspect=word.aspect,
        stated=value_in_result(result, word.finding, word.aspect),
        verdict=word.verdict,
        value=word.value,
        comment=word.comment,
        author=author,
        role=role,
        source=source,
        created_at=now,
        report_pk=report_pk,
    )
    session.add(row)
    session.flush()
    return row


def value_in_result(result: Result, finding: str, aspect: Aspect) -> str:
    """The result's statement on this aspect of this finding; "" where it makes none."""
    if aspect is Aspect.RESULT:
        return result.outcome.value
    for item in result.prediction.get("findings", []):
        if item.get("key") == finding:
            return str(item.get(aspect.value) or "")
    return ""


def of_study(session: Session, study_instance_uid: str) -> list[Feedback]:
    """All words on a study that stand, oldest first."""
    return list(
        session.scalars(
            select(Feedback)
            .where(Feedback.study_instance_uid == study_instance_uid, Feedback.withdrawn_at.is_(None))
            .order_by(Feedback.id)
        )
    )


def withdraw(session: Session, *, report_pk: int, now: dt.datetime) -> int:
    """Take back what a report said, because another stands in its place; returns how many rows."""
    taken = session.execute(
        update(Feedback)
        .where(Feedback.report_pk == report_pk, Feedback.withdrawn_at.is_(None))
        .values(withdrawn_at=now)
        .returning(Feedback.id)
        .execution_options(synchronize_session=False)
    )
    return len(taken.all())
