"""A finding's measurement group: built once for all findings that read alike, and filled in for each report.

Two reports that state the same of a finding differ in a few values: tracking identifier, percents, referenced images.
highdicom takes 5 ms to make such a group, thirteen of which are most of a report's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ContentSequence,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TimePointContext,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.valuerep import DS

from dicom_node.report import codes
from dicom_node.report.concepts import finding_concept
from dicom_node.report.sr.copies import Form, copied, with_values
from model.schema import Change, ImageRole, Presence

_ANY_UID, _ANY_TEXT, _ANY_PERCENT = "2.25.1", "-", 50.0
"""Values of a form that is not filled in yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupForm:
    """The parts of a finding's group that do not differ between reports.

    measured: concept keys of its percents, in order. images: how many it refers to. algorithm: name, version and
    manufacturer.
    """

    key: str
    presence: Presence
    change: Change | None
    level: str | None
    location: str | None
    measured: tuple[str, ...]
    images: int
    algorithm: tuple[str, str, str | None]


def filled_group(
    form: GroupForm, *, tracking: tuple[str, str], percents: Sequence[float], images: Sequence[tuple[str, str]]
) -> ContentSequence:
    """The group of a finding (TID 1501).

    tracking: identifier and UID. percents: one for each of `form.measured`. images: SOP Class and Instance UIDs.
    """

    template = _group_form(form)

    def fill(items: list[Dataset]) -> None:
        fill_tracking(items, tracking)
        _fill_percents(items, template.places("NUM"), percents)
        for position, (sop_class_uid, sop_instance_uid) in zip(template.places("IMAGE"), images, strict=True):
            reference = with_values(
                items[position].ReferencedSOPSequence[0],
                ReferencedSOPClassUID=sop_class_uid,
                ReferencedSOPInstanceUID=sop_instance_uid,
            )
            items[position] = with_values(items[position], ReferencedSOPSequence=[reference])

    return template.copy(fill)


def fill_tracking(items: list[Dataset], tracking: tuple[str, str]) -> None:
    """Fill in identifier and UID, with which every group begins."""
    items[0], items[1] = with_values(items[0], TextValue=tracking[0]), with_values(items[1], UID=tracking[1])


def _fill_percents(items: list[Dataset], places: Sequence[int], percents: Sequence[float]) -> None:
    for position, percent in zip(places, percents, strict=True):
        item = items[position]
        # Decimal String has 16 characters (PS3.5 6.2); the floating point value beside it is exact.
        number = DS(percent, auto_format=True)
        measured = with_values(item.MeasuredValueSequence[0], NumericValue=number, FloatingPointValue=percent)
        items[position] = with_values(item, MeasuredValueSequence=[measured])


@lru_cache(maxsize=1024)
def _group_form(form: GroupForm) -> Form:
    concept = finding_concept(form.key)
    evaluations = [evaluation("name.presence", codes.presence_code(form.presence))]
    if form.change is not None:
        evaluations.append(evaluation("name.change", codes.change_code(form.change)))
    level = codes.level_code(form.level) if form.level else None
    if level is not None:
        evaluations.append(evaluation("name.severity", level))
    side, site_code = codes.place_codes(form.location)
    site = FindingSite(
        anatomic_location=codes.concept(f"site.{concept.site}"), laterality=side, topographical_modifier=site_code
    )
    images = [
        SourceImageForMeasurementGroup(referenced_sop_class_uid=_ANY_UID, referenced_sop_instance_uid=_ANY_UID)
        for _ in range(form.images)
    ]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(identifier=_ANY_TEXT, uid=_ANY_UID),
        time_point_context=time_point(ImageRole.CURRENT),
        finding_type=codes.concept_of(concept.code),
        algorithm_id=algorithm_identification(*form.algorithm),
        finding_sites=[site],
        measurements=[percent_measurement(name, _ANY_PERCENT) for name in form.measured] or None,
        qualitative_evaluations=evaluations,
        source_images=images or None,
    )
    return Form(group)


def filled_prognosis(
    key: str, change: Change, *, algorithm: tuple[str, str, str | None], tracking: tuple[str, str], percent: float
) -> ContentSequence:
    """The group of a finding's expected change (TID 1501). key: of the finding. tracking: identifier and UID."""

    template = _prognosis_form(key, change, algorithm)

    def fill(items: list[Dataset]) -> None:
        fill_tracking(items, tracking)
        _fill_percents(items, template.places("NUM"), [percent])

    return template.copy(fill)


@lru_cache(maxsize=256)
def _prognosis_form(key: str, change: Change, algorithm: tuple[str, str, str | None]) -> Form:
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(identifier=_ANY_TEXT, uid=_ANY_UID),
        finding_category=codes.concept("value.prognosis"),
        finding_type=codes.concept_of(finding_concept(key).code),
        algorithm_id=algorithm_identification(*algorithm),
        measurements=[percent_measurement("name.probability", _ANY_PERCENT)],
        qualitative_evaluations=[evaluation("name.predicted_change", codes.change_code(change))],
    )
    return Form(group)


@lru_cache(maxsize=8)
def algorithm_identification(name: str, version: str, manufacturer: str | None) -> AlgorithmIdentification:
    """TID 4019; the same items stand in every group of a report."""
    return AlgorithmIdentification(name=name, version=version, manufacturer=manufacturer)


@copied
def time_point(role: ImageRole) -> TimePointContext:
    """TID 1502 of an image of the pair."""
    return TimePointContext(time_point=role.value)


@copied
def percent_measurement(name: str, percent: float) -> Measurement:
    """A NUM in percent. name: concept key."""
    return Measurement(name=codes.concept(name), value=percent, unit=dicom_codes.UCUM.Percent)


def evaluation(name: str, value: CodedConcept) -> QualitativeEvaluation:
    """A coded answer. name: concept key."""
    return QualitativeEvaluation(name=codes.concept(name), value=value)
