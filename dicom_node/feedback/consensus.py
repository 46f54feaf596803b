"""Consensus of radiologists: one value for each statement on which all sources agree, and the statements in dispute.

Precedence: none between sources. The newest word of one author by one source replaces that author's earlier one by the
same source; a word on a single statement weighs more than one on the whole result. Everything else that differs is a
contradiction: listed, never used, never decided by a rule.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Aspect, Feedback, FeedbackSource, Result, Verdict
from model.schema import Presence

OTHER = "other"
"""A radiologist says that the stated change, place or degree is wrong, and not what is right."""
ASPECTS = (Aspect.PRESENCE, Aspect.CHANGE, Aspect.LOCATION, Aspect.LEVEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One statement of the node that radiologists have judged.

    stated: the node's value, "" where it says nothing. values: what was said instead or in agreement, each with who
    said it: more than one value is a contradiction. at: the newest word's time. sources: by which ways.
    """

    study_instance_uid: str
    sop_instance_uid: str
    device_uid: str
    finding: str
    aspect: Aspect
    stated: str
    values: Mapping[str, tuple[str, ...]]
    at: dt.datetime

    @property
    def contradictory(self) -> bool:
        """Sources or authors disagree."""
        return len(self.values) > 1

    @property
    def value(self) -> str:
        """The value on which all agree; "" where they do not."""
        return next(iter(self.values)) if len(self.values) == 1 else ""


class SourceValue(Protocol):
    """A row of feedback, or its columns."""

    id: int
    result_pk: int | None
    study_instance_uid: str
    sop_instance_uid: str
    device_uid: str
    finding: str
    aspect: Aspect
    stated: str
    verdict: Verdict
    value: str
    author: str
    role: str
    source: FeedbackSource
    created_at: dt.datetime


_COLUMNS = (
    *(Feedback.id, Feedback.result_pk, Feedback.study_instance_uid, Feedback.sop_instance_uid, Feedback.device_uid),
    *(Feedback.finding, Feedback.aspect, Feedback.stated, Feedback.verdict, Feedback.value),
    *(Feedback.author, Feedback.role, Feedback.source, Feedback.created_at),
)


def settle(words: Iterable[SourceValue], predictions: Mapping[int, Mapping[str, object]]) -> list[Opinion]:
    """Opinions of any number of images, in order of their newest word.

    predictions: `Result.prediction` by the result's key, for words on whole results; those of other results are left.
    """
    newest: dict[tuple[str, ...], SourceValue] = {}
    for word in sorted(words, key=lambda word: (word.created_at, word.id)):
        subject = (word.study_instance_uid, word.sop_instance_uid, word.finding, word.aspect)
        # In order of time: an author's newest word by one way stands in the place of the earlier ones.
        newest[(*subject, word.author, word.source)] = word
    single: dict[tuple[str, str, str, Aspect], list[tuple[str, SourceValue]]] = defaultdict(list)
    for word in newest.values():
        value = value_of(word)
        if word.aspect in ASPECTS and value:
            single[word.study_instance_uid, word.sop_instance_uid, word.finding, word.aspect].append((value, word))
    whole: dict[tuple[str, str, str, Aspect], list[tuple[str, SourceValue]]] = defaultdict(list)
    for word in newest.values():
        if word.aspect == "result" and word.verdict is Verdict.AGREE and word.result_pk is not None:
            for finding, aspect, value in _statements(predictions.get(word.result_pk, {})):
                whole[word.study_instance_uid, word.sop_instance_uid, finding, Aspect(aspect)].append((value, word))
    # A word on a single statement goes before one on the whole result.
    settled = [_opinion(subject, given) for subject, given in {**whole, **single}.items()]
    return sorted(
        settled, key=lambda opinion: (opinion.at, opinion.study_instance_uid, opinion.finding, opinion.aspect)
    )


def load(session: Session, *, study_instance_uid: str | None = None, since: dt.datetime | None = None) -> list[Opinion]:
    """The opinions on all results, on those of one study, or on those of studies of which anything was said since.

    Words that a corrected report took back count nowhere.
    """
    query = select(*_COLUMNS).where(Feedback.withdrawn_at.is_(None))
    if study_instance_uid is not None:
        query = query.where(Feedback.study_instance_uid == study_instance_uid)
    if since is not None:
        recent = select(Feedback.study_instance_uid).where(Feedback.created_at >= since)
        query = query.where(Feedback.study_instance_uid.in_(recent))
    words = cast("list[SourceValue]", session.execute(query).all())  # columns alone: a scrape may read many
    result_pks = sorted({word.result_pk for word in words if word.aspect == "result" and word.result_pk is not None})
    predictions: dict[int, Mapping[str, object]] = {}
    for key in result_pks:
        row = session.get(Result, key)
        if row is not None and row.is_current:
            predictions[key] = row.prediction
    return settle(words, predictions)


def value_of(word: SourceValue) -> str:
    """The value that a word calls right; OTHER where it only calls the statement wrong; "" where it settles nothing."""
    if word.verdict is Verdict.AGREE:
        return word.stated
    if word.verdict is Verdict.CORRECT:
        return word.value
    if word.aspect == "presence":
        # A presence has one opposite; that a side or degree is wrong does not say which is right.
        turned = {Presence.PRESENT.value: Presence.ABSENT.value, Presence.ABSENT.value: Presence.PRESENT.value}
        return turned.get(word.stated, "")
    return OTHER if word.stated else ""


def _opinion(place: tuple[str, str, str, Aspect], given: list[tuple[str, SourceValue]]) -> Opinion:
    values: dict[str, list[str]] = defaultdict(list)
    for value, word in given:
        values[value].append(f"{word.author} ({word.role}, {word.source})")
    newest = max((word for _, word in given), key=lambda word: (word.created_at, word.id))
    study, image, finding, aspect = place
    # Whoever agreed with the whole result agreed with each statement, so the value agreed with is the one stated.
    value = newest.stated if newest.aspect != "result" else given[-1][0]
    return Opinion(
        study_instance_uid=study,
        sop_instance_uid=image,
        device_uid=newest.device_uid,
        finding=finding,
        aspect=aspect,
        stated=value,
        values={value: tuple(who) for value, who in sorted(values.items())},
        at=newest.created_at,
    )


def _statements(prediction: Mapping[str, object]) -> Iterable[tuple[str, str, str]]:
    findings = prediction.get("findings")
    for item in findings if isinstance(findings, list) else []:
        if item.get("presence") in (Presence.PRESENT.value, Presence.ABSENT.value):
            for aspect in ASPECTS:
                if item.get(aspect):
                    yield str(item["key"]), aspect, str(item[aspect])
