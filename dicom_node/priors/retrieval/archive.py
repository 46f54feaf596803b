"""The contents of another node as values, and the choice of what to fetch. Pure, with the `Archive` interface."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydicom import Dataset

from dicom_node.priors.facts import number_of, patient_of, text_of, values_of
from dicom_node.priors.identity import Identity, compare_identity
from dicom_node.priors.suitability import MODALITIES
from dicom_node.priors.types import Patient, PriorPolicy
from dicom_node.priors.vocabulary import Body, body_in
from model.images.exposure import da, tm


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStudy:
    """One study as a peer lists it. Empty and None where it did not say."""

    study_instance_uid: str
    patient: Patient
    study_date: str = ""
    study_time: str = ""
    modalities: tuple[str, ...] = ()
    description: str = ""
    instances: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSeries:
    """One series as a peer lists it."""

    series_instance_uid: str
    modality: str = ""
    body_part: str = ""
    description: str = ""
    instances: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyListing:
    """The studies that a peer listed. cut: why they may not be all that match, "" where the peer said that they are."""

    studies: tuple[RemoteStudy, ...]
    cut: str = ""


class Archive(Protocol):
    """A node that can be asked and fetched from. Every method raises RetrieveError saying what failed."""

    def studies(self, patient_id: str, dates: str) -> list[RemoteStudy]:
        """The studies that it lists for a patient ID and a DICOM date range; it may list others' too."""

    def list_studies(self, dates: str, times: str) -> StudyListing:
        """List everybody's studies in a DICOM date range and time range ("": any time).

        An answer that the peer limits is no error. A peer that ignores a key lists studies outside of it.
        """

    def study(self, study_instance_uid: str) -> RemoteStudy | None:
        """One study by its UID; None where the peer lists no such study."""

    def series(self, study_instance_uid: str) -> list[RemoteSeries]:
        """The series of a study; empty where it answers no such query."""

    def count(self, study_instance_uid: str) -> int | None:
        """The number of instances of a study it holds; None where it does not say."""

    def retrieve(self, study_instance_uid: str, series_instance_uid: str) -> None:
        """Bring a series ("": the whole study) into our store. Returning proves nothing: count what arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """The studies to fetch, most wanted first, and why others are not."""

    studies: tuple[RemoteStudy, ...]
    passed_over: tuple[str, ...]


def remote_study(identifier: Dataset) -> RemoteStudy:
    """A response at STUDY level (PS3.4 section C.6.2.1, PS3.18 section 10.6)."""
    modalities = values_of(identifier, "ModalitiesInStudy") or values_of(identifier, "Modality")
    return RemoteStudy(
        study_instance_uid=text_of(identifier, "StudyInstanceUID"),
        patient=patient_of(identifier),
        study_date=da(text_of(identifier, "StudyDate")),
        study_time=tm(text_of(identifier, "StudyTime")),
        modalities=tuple(sorted({value.upper() for value in modalities})),
        description=text_of(identifier, "StudyDescription"),
        instances=_count_of(identifier, "NumberOfStudyRelatedInstances"),
    )


def remote_series(identifier: Dataset) -> RemoteSeries:
    """A response at SERIES level."""
    return RemoteSeries(
        series_instance_uid=text_of(identifier, "SeriesInstanceUID"),
        modality=text_of(identifier, "Modality").upper(),
        body_part=text_of(identifier, "BodyPartExamined").upper(),
        description=text_of(identifier, "SeriesDescription"),
        instances=_count_of(identifier, "NumberOfSeriesRelatedInstances"),
    )


def _count_of(identifier: Dataset, keyword: str) -> int | None:
    """A number of instances. A study or series that is listed has some, so 0 is what a peer says that did not count."""
    counted = number_of(identifier, keyword)
    return counted if counted is not None and counted > 0 else None


def date_range(study_date: str, look_back_days: int) -> str:
    """The DICOM range (PS3.4 section C.2.2.2.5) from the start of the look-back window to the study's date."""
    last = dt.date(int(study_date[:4]), int(study_date[4:6]), int(study_date[6:8]))
    first = dt.date.fromordinal(max(last.toordinal() - look_back_days - 1, 1))
    return f"{max(first, dt.date(1850, 1, 1)):%Y%m%d}-{last:%Y%m%d}"


def select_studies(
    current: RemoteStudy,
    listed: Iterable[RemoteStudy],
    policy: PriorPolicy,
    *,
    held: Collection[str] = (),
    newer_than: tuple[str, str] = ("", ""),
) -> FetchPlan:
    """The listed studies that may hold a missing prior, newest first. Does not depend on the peer's order.

    held: StudyInstanceUIDs that we hold whole. newer_than: date and time of the best prior that we have already. What
    the peer leaves unsaid is no objection: the images' own headers decide once they are here.
    """
    chosen: list[RemoteStudy] = []
    passed_over: set[str] = set()
    # Sorted first, so that of two entries on one study the same one is taken whatever the peer's order.
    for study in {s.study_instance_uid: s for s in sorted(listed, key=repr) if s.study_instance_uid}.values():
        if study.study_instance_uid == current.study_instance_uid or study.study_instance_uid in held:
            continue
        identity = compare_identity(current.patient, study.patient, policy)
        if identity.identity is Identity.CONFLICT:
            passed_over.add(f"A study of {_day(study)} was not fetched: {identity.sentence}.")
        elif identity.identity is not Identity.OTHER and _may_be_prior(current, study, policy, newer_than):
            chosen.append(study)
    chosen.sort(key=lambda s: (s.study_date, s.study_time, s.study_instance_uid), reverse=True)
    return FetchPlan(studies=tuple(chosen), passed_over=tuple(sorted(passed_over)))


def select_series(series: Iterable[RemoteSeries], study: RemoteStudy) -> list[RemoteSeries]:
    """The series that may hold a frontal chest radiograph: of the modality, and not said to be of another body part.

    The first of body part, series and study description that names one decides. One that is listed twice counts once.
    """
    chosen = []
    for s in {s.series_instance_uid: s for s in series if s.series_instance_uid}.values():
        texts = (s.body_part, s.description, study.description)
        body = next((body for text in texts if (body := body_in(text)) is not None), None)
        # Unknown is no objection: once fetched, the image's own header decides.
        if (not s.modality or s.modality in MODALITIES) and body is not Body.OTHER:
            chosen.append(s)
    return sorted(chosen, key=lambda s: s.series_instance_uid)


def count_instances_of(series: Sequence[RemoteSeries]) -> int | None:
    """The number of instances these series hold together; None where one does not say."""
    counts = [s.instances for s in series]
    return sum(c for c in counts if c is not None) if counts and None not in counts else None


def _may_be_prior(current: RemoteStudy, study: RemoteStudy, policy: PriorPolicy, newer_than: tuple[str, str]) -> bool:
    if not study.study_date or (study.modalities and not MODALITIES & set(study.modalities)):
        return False
    # DICOM dates and times compare as text; an empty time sorts before every time of that day.
    if (study.study_date, study.study_time) <= newer_than or study.study_date > current.study_date:
        return False
    same_day = study.study_date == current.study_date
    # On the day itself the times decide, where both are known.
    if same_day and study.study_time and current.study_time and study.study_time >= current.study_time:
        return False
    first, _, _ = date_range(current.study_date, policy.look_back_days).partition("-")
    return study.study_date >= first


def _day(study: RemoteStudy) -> str:
    date = study.study_date
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else "unknown date"
