"""Ask a question of a study: read it, answer it out of the current result, keep question and answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.errors import UsageError
from dicom_node.index.tables.questions import StudyQuestion
from dicom_node.index.tables.results import Result
from dicom_node.index.tables.studies import Study
from dicom_node.questions.answers import Answer, answer_of, findings_of_result
from model.questions.free_text import NotTaughtError, understand
from model.schema import ImageRole

MAX_QUESTIONS_PER_MINUTE = 20
"""Of one author: more is a program, which has the JSON of the result."""
HISTORY = 50
"""Questions of a study that are shown, newest first."""


class TooManyQuestionsError(UsageError):
    """An author asked more than MAX_QUESTIONS_PER_MINUTE within the last minute."""


def ask(session: Session, study: Study, text: str, *, author: str, now: dt.datetime) -> StudyQuestion:
    """Answer one question in the caller's transaction; what cannot be answered is kept as a refusal with its reason.

    Raises TooManyQuestionsError.
    """
    _refuse_flood(session, author, now)
    result = current_result(session, study)
    row = StudyQuestion(study_pk=study.id, author=author, asked_at=now, text=text.strip()[:2000], answer="")
    try:
        answer = _answer_from_result(result, text)
    except NotTaughtError as refusal:
        row.is_refused = True
        row.answer = f"{str(refusal)[:1].upper()}{str(refusal)[1:]}."
    else:
        assert result is not None, "a study without a result is refused"
        row.answer, row.certainty = answer.text, answer.certainty
        row.images, row.regions = _images(answer, result), list(answer.regions)
    if result is not None:
        row.result_pk, row.device_uid = result.id, result.device_uid
    session.add(row)
    session.flush()
    return row


def history(session: Session, study_pk: int) -> Sequence[StudyQuestion]:
    """The questions asked of a study, newest first; at most HISTORY rows."""
    newest_first = select(StudyQuestion).where(StudyQuestion.study_pk == study_pk).order_by(StudyQuestion.id.desc())
    return session.scalars(newest_first.limit(HISTORY)).all()


def is_demonstration(session: Session, row: StudyQuestion) -> bool:
    """Tell whether the answer comes from a checkpoint that is not for clinical use."""
    result = session.get(Result, row.result_pk) if row.result_pk is not None else None
    model = result.prediction.get("model") if result is not None else None
    return bool(model and model.get("demonstration"))


def question_values(row: StudyQuestion, *, demonstration: bool) -> dict[str, Any]:
    """One question with its answer, as values. demonstration: it is not for clinical use."""
    return {
        "id": row.id,
        "question": row.text,
        "answer": row.answer,
        "refused": row.is_refused,
        "certainty": row.certainty,
        "images": row.images,
        "regions": row.regions,
        "author": row.author,
        "asked_at": row.asked_at.isoformat(),
        "device_uid": row.device_uid,
        "demonstration": demonstration,
    }


def current_result(session: Session, study: Study) -> Result | None:
    """The current result that questions are answered from: the first one of an analysed image."""
    current = select(Result).where(Result.study_pk == study.id, Result.is_current, Result.sop_instance_uid != "")
    return session.scalars(current.order_by(Result.id).limit(1)).one_or_none()


def _answer_from_result(result: Result | None, text: str) -> Answer:
    findings = findings_of_result(result.prediction) if result is not None else []
    if result is None or not findings:
        raise NotTaughtError("there is no analysed image in this study to ask about")
    has_prior = bool(result.prior_sop_instance_uid)
    return answer_of(understand(text, [finding.key for finding in findings], has_prior=has_prior), findings)


def _images(answer: Answer, result: Result) -> list[str]:
    uids = {ImageRole.CURRENT: result.sop_instance_uid, ImageRole.PRIOR: result.prior_sop_instance_uid}
    return [uids[role] for role in answer.images]


def _refuse_flood(session: Session, author: str, now: dt.datetime) -> None:
    recent = (StudyQuestion.author == author) & (StudyQuestion.asked_at > now - dt.timedelta(minutes=1))
    count = session.scalar(select(func.count()).select_from(StudyQuestion).where(recent)) or 0
    if count >= MAX_QUESTIONS_PER_MINUTE:
        raise TooManyQuestionsError(
            f"{author} asked {count} questions within a minute; at most {MAX_QUESTIONS_PER_MINUTE} are answered"
        )
