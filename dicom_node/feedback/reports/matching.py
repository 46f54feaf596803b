"""The match of a radiologist's report to a result of this node: by study UID, else by accession number and patient."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.core import Result, Study, StudyPurpose
from dicom_node.index.tables.reports import ReceivedReport


def match(session: Session, report: ReceivedReport) -> tuple[Study | None, str]:
    """The study, or None and why none is certain enough.

    The study UID decides where it names a study of ours that has a result. Otherwise exactly one study must bear one of
    the accession numbers and be the same patient's; an accession number alone proves nothing.
    """
    study = study_by_uid(session, report.study_instance_uid) if report.study_instance_uid else None
    if study is not None and current_results(session, study):
        if not is_same_patient(study, report.patient_ids):
            return None, "the study that it names is another patient's, or it names no patient"
        numbers = [number for number in report.accession_numbers if number]
        if numbers and study.accession_number and study.accession_number not in numbers:
            return None, "the study that it names has another accession number"
        return study, ""
    numbers = [number for number in report.accession_numbers if number]
    if numbers and report.patient_ids:
        rows = session.scalars(
            select(Study).where(
                Study.accession_number.in_(numbers), Study.purpose.in_((StudyPurpose.ROUTED, StudyPurpose.BACKFILL))
            )
        )
        proven = [row for row in rows if _is_proven(row, report.patient_ids) and current_results(session, row)]
        # Exactly one: an accession number may stand on several studies of one order.
        if len(proven) == 1:
            return proven[0], ""
        if proven:
            return None, "its accession number and patient fit several studies"
    if study is not None:
        return None, "the study that it names has no result of this node with findings"
    if not report.study_instance_uid and not (numbers and report.patient_ids):
        return None, "it names neither a study UID nor an accession number with a patient ID"
    return None, "no study of this node fits its study UID, or its accession number and patient"


def current_results(session: Session, study: Study) -> list[Result]:
    """The study's current results that state findings."""
    rows = session.scalars(select(Result).where(Result.study_pk == study.id, Result.is_current).order_by(Result.id))
    return [row for row in rows if row.prediction.get("findings")]


def is_same_patient(study: Study, patient_ids: Iterable[list[str]]) -> bool:
    """Tell whether the report names the study's patient; of a study without a patient ID it must name none either."""
    given = list(patient_ids)
    return _is_proven(study, given) if study.patient_id else not given


def _is_proven(study: Study, patient_ids: Iterable[list[str]]) -> bool:
    """An ID in common whose issuers do not differ."""
    ours = [(study.patient_id, study.issuer_of_patient_id)]
    ours += [(other.get("id", ""), other.get("issuer", "")) for other in study.other_patient_ids]
    return any(
        # An issuer that one side leaves out does not contradict the other's.
        own_id == their_id and (not issuer or not their_issuer or issuer == their_issuer)
        for own_id, issuer in ours
        if own_id
        for their_id, their_issuer in patient_ids
    )
