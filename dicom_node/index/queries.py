"""Questions to the index that more than one part asks: a study with its images, and what else a patient has."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import Integer, Select, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session, contains_eager

from dicom_node.index.tables.core import Instance, Series, Study

MOST_STUDIES = 50
"""So many of a patient's newest earlier studies are looked at. More only cost time: the newest fit one is wanted."""
LONGEST_LOOK_BACK_DAYS = 36_525


def study_by_uid(session: Session, study_instance_uid: str) -> Study | None:
    """The study's row, or None."""
    return session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))


def instances_of_study(session: Session, study_pk: int) -> list[Instance]:
    """A study's instances in a stable order; `series` and `series.study` are loaded and outlive the session."""
    return list(session.scalars(_instances().where(Study.id == study_pk)))


def prior_candidates(
    session: Session,
    study: Study,
    *,
    look_back_days: int = LONGEST_LOOK_BACK_DAYS,
    other_ids: Iterable[str] = (),
    most: int = MOST_STUDIES,
) -> list[Instance]:
    """The instances of other studies under the patient ID of `study` or under `other_ids`, dated before or with it.

    Deliberately tolerant: other issuers and studies without a date come too, so that the rules can say why they were
    not used. Only the newest `most` studies are looked at. `series` and `series.study` are loaded. Uses
    ix_study_patient: the look-up does not grow with the index (docs/benchmarks.md).
    """
    listed = (other.get("id", "") for other in study.other_patient_ids)
    ids = {value for value in (study.patient_id, *listed, *other_ids) if value}
    if not ids:
        return []
    first = _window(study.study_date, look_back_days) if study.study_date else ""
    # A study without a date takes every one that has a date as a candidate: the rules refuse them, and say why.
    bounds = {"first": first, "last": study.study_date or _AFTER_ALL, "own": study.id, "most": most}
    return list(session.scalars(_CANDIDATES, {"ids": sorted(ids), **bounds}))


def count_instances(session: Session, study_instance_uid: str) -> int:
    """The number of instances of a study that the node holds."""
    counted = session.scalar(
        select(func.count(Instance.id))
        .join(Series, Instance.series_pk == Series.id)
        .join(Study, Series.study_pk == Study.id)
        .where(Study.study_instance_uid == study_instance_uid)
    )
    return counted or 0


def _instances() -> Select[Instance]:
    return (
        select(Instance)
        .join(Instance.series)
        .join(Series.study)
        .options(contains_eager(Instance.series).contains_eager(Series.study))
        .order_by(Study.study_date.desc(), Study.id, Series.series_instance_uid, Instance.sop_instance_uid)
    )


_AFTER_ALL = "~"
"""Sorts behind every date."""
_CHOSEN = (
    select(Study.id)
    .where(
        Study.patient_id.in_(bindparam("ids", expanding=True)),
        or_(
            Study.study_date == "",
            and_(Study.study_date >= bindparam("first"), Study.study_date <= bindparam("last")),
        ),
        Study.id != bindparam("own"),
    )
    .order_by(Study.study_date.desc(), Study.study_time.desc(), Study.id)
    .limit(bindparam("most", type_=Integer))
)
# Made once, and one statement with one answer: on PostgreSQL round trips and planning are most of the look-up's time.
_CANDIDATES = _instances().where(Study.id.in_(_CHOSEN))


def _window(study_date: str, look_back_days: int) -> str:
    """The first day of the window; one more than asked, because time of day is the rules' business."""
    try:
        day = dt.date(int(study_date[:4]), int(study_date[4:6]), int(study_date[6:8])).toordinal()
    except ValueError:
        return ""
    return dt.date.fromordinal(max(day - look_back_days - 1, 1)).strftime("%Y%m%d")
