"""The measurement groups of the machine report: one TID 1501 group for every finding, and one for every region."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ContentSequence,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TimePointContext,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes as dicom_codes

from dicom_node.report import codes
from dicom_node.report.concepts import finding_concept
from dicom_node.report.label_positions import LabelBox, label_boxes
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import Statement
from dicom_node.report.sr.copies import copied
from dicom_node.report.sr.iod import is_referenceable
from dicom_node.report.sr.regions import image_position, image_region, stored_size
from dicom_node.report.sr.uids import finding_tracking_uid, header_uid, tracking_uid
from dicom_node.report.statements import drawn_statements, has_answer, largest_first, statements, tracked_side
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.phrases import RegionLabel, region_label
from model.schema import Finding, ImageRole, Presence, PrognosisItem, Region

Group: TypeAlias = ContentSequence
"""The template of one measurement group: TID 1501, for the field examined TID 1410."""

_CONTAINS = RelationshipTypeValues.CONTAINS


def finding_groups(request: ReportRequest) -> tuple[list[Group], list[Group]]:
    """(groups of regions, groups of findings).

    OHIF 3.13 shows nothing at all when a group among the imaging measurements has no coordinates, and writes every
    number of a group beside its region. So regions and their labels stand there alone; where nothing is marked, the
    field that was examined does. The findings with their values follow as evaluations.
    """
    prediction = request.prediction
    if prediction is None or not has_answer(request):
        return _field_examined(request), [_no_result_group(request)]
    findings = [_finding_group(request, statement) for statement in statements(request)]
    findings += [_prognosis_group(request, item) for item in prediction.prognosis]
    regions = [group for role, source in sources(request) for group in _region_groups(request, role, source)]
    return regions or _field_examined(request), findings


def sources(request: ReportRequest) -> list[tuple[ImageRole, SourceImage]]:
    pairs = ((ImageRole.CURRENT, request.current), (ImageRole.PRIOR, request.prior))
    return [(role, source) for role, source in pairs if source is not None and is_referenceable(source)]


def _field_examined(request: ReportRequest) -> list[Group]:
    """One TID 1410 group: the part of the current image that was examined, nothing where its size is not known."""
    source = request.current
    if not is_referenceable(source):
        return []
    if source.image is not None:
        area = source.image.geometry
        left, top, right, bottom = area.left, area.top, area.left + area.width, area.top + area.height
    else:
        left, top, right, bottom = 0, 0, *stored_size(source)
    if right <= left or bottom <= top:
        return []
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    field = Region(role=ImageRole.CURRENT, points=corners, method="field examined")
    return [
        PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(request, "field examined"),
            referenced_region=image_region(source, field),
            finding_type=codes.concept("value.field"),
            algorithm_id=_algorithm(request),
        )
    ]


def _finding_group(request: ReportRequest, statement: Statement) -> Group:
    finding = statement.finding
    concept = finding_concept(finding.key)
    evaluations = [_evaluation("name.presence", codes.presence_code(statement.presence))]
    if statement.coded_change is not None and request.prior is not None:
        evaluations.append(_evaluation("name.change", codes.change_code(statement.coded_change)))
    level = codes.level_code(finding.level) if finding.level else None
    if level is not None:
        evaluations.append(_evaluation("name.severity", level))
    images = [
        _source_image(header_uid(source, "SOPClassUID"), header_uid(source, "SOPInstanceUID"))
        for _, source in sources(request)
    ]
    group: Group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_finding_tracking(request, finding),
        time_point_context=_time_point(ImageRole.CURRENT),
        finding_type=codes.concept_of(concept.code),
        algorithm_id=_algorithm(request),
        finding_sites=_site(finding),
        measurements=_certainty(statement) or None,
        qualitative_evaluations=evaluations,
        source_images=images or None,
    )
    return group


def _region_groups(request: ReportRequest, role: ImageRole, source: SourceImage) -> list[Group]:
    """A group for every drawn region on an image, and one for the label of each finding's largest region.

    Each has a tracking UID of its own, because viewers merge groups of one tracking UID and then draw one region.
    """
    drawn = [(statement, largest_first(statement.finding, role)) for statement in drawn_statements(request)]
    groups = [
        PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=image_region(source, region),
            **_common_items(request, statement.finding, role, f"{role.value} image region {number}"),
        )
        for statement, regions in drawn
        for number, region in enumerate(regions, start=1)
    ]
    labelled = [(statement, regions[0]) for statement, regions in drawn if regions]
    texts = [region_label(statement, role, catalogue("en")) for statement, _ in labelled]
    columns, rows = stored_size(source)
    lines = [(text.line, region.points) for text, (_, region) in zip(texts, labelled, strict=True)]
    boxes = label_boxes(lines, columns, rows) if columns and rows else []
    labels = [
        _label_group(request, statement, (role, source), text, box)
        for (statement, _), text, box in zip(labelled, texts, boxes, strict=False)
    ]
    return [*labels, *groups]


def _label_group(
    request: ReportRequest, statement: Statement, image: tuple[ImageRole, SourceImage], text: RegionLabel, box: LabelBox
) -> Group:
    """The label of a region: a number that is none, because OHIF writes nothing else beside coordinates (ADR 0017).

    Its region is a circle of half a pixel where the label begins; OHIF would put it to the right of what it
    names, where one label covers another or leaves the image.
    """
    role, source = image
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=image_position(source, *box.anchor),
        measurements=[
            Measurement(
                name=codes.concept("name.label", text.name),
                value=0,
                unit=codes.label_unit(text.word),
                qualifier=codes.concept("value.not_measured"),
            )
        ],
        **_common_items(request, statement.finding, role, f"{role.value} image label"),
    )


def _common_items(request: ReportRequest, finding: Finding, role: ImageRole, what: str) -> dict[str, Any]:
    """The items that region and label have in common. No Finding Site: OHIF would write its code beside the region."""
    concept = finding_concept(finding.key)
    return {
        "tracking_identifier": _tracking(request, concept.name, what),
        "time_point_context": _time_point(role),
        "finding_type": codes.concept_of(concept.code),
        "algorithm_id": _algorithm(request),
    }


def _no_result_group(request: ReportRequest) -> Group:
    """A result that is no result is still a coded one: what, and why."""
    reason = request.prediction.abstained if request.prediction is not None else None
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, "no result"),
        finding_type=codes.concept("value.no_result"),
        algorithm_id=_algorithm(request),
        qualitative_evaluations=[_evaluation("name.reason", codes.reason_code(reason))],
    )


def _prognosis_group(request: ReportRequest, item: PrognosisItem) -> Group:
    concept = finding_concept(item.key)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, concept.name, "prognosis"),
        finding_category=codes.concept("value.prognosis"),
        finding_type=codes.concept_of(concept.code),
        algorithm_id=_algorithm(request),
        measurements=[_percent("name.probability", item.probability)],
        qualitative_evaluations=[_evaluation("name.predicted_change", codes.change_code(item.change))],
    )


def _algorithm(request: ReportRequest) -> AlgorithmIdentification:
    """TID 4019; the same items stand in every group."""
    model = request.model
    return _algorithm_identification(model.name, model.version, model.manufacturer or None)


@lru_cache(maxsize=8)
def _algorithm_identification(name: str, version: str, manufacturer: str | None) -> AlgorithmIdentification:
    return AlgorithmIdentification(name=name, version=version, manufacturer=manufacturer)


def _tracking(request: ReportRequest, *what: str) -> TrackingIdentifier:
    return TrackingIdentifier(identifier=" ".join(what), uid=tracking_uid(request, *what))


def _finding_tracking(request: ReportRequest, finding: Finding) -> TrackingIdentifier:
    """The same for a finding on one side in every report of the patient (TID 1501, (112039, DCM) and (112040, DCM))."""
    side = tracked_side(request, finding)
    name = finding_concept(finding.key).name
    return TrackingIdentifier(
        identifier=f"{name}, {side}" if side else name, uid=finding_tracking_uid(request, finding.key, side)
    )


@copied
def _source_image(sop_class_uid: str, sop_instance_uid: str) -> SourceImageForMeasurementGroup:
    return SourceImageForMeasurementGroup(
        referenced_sop_class_uid=sop_class_uid, referenced_sop_instance_uid=sop_instance_uid
    )


@copied
def _time_point(role: ImageRole) -> TimePointContext:
    return TimePointContext(time_point=role.value)


def _percent(name: str, probability: float) -> Measurement:
    """A NUM in percent. Never 0 or 100, which would claim certainty."""
    return _measure_percent(name, min(max(round(float(probability) * 100, 1), 0.1), 99.9))


@copied
def _measure_percent(name: str, percent: float) -> Measurement:
    return Measurement(name=codes.concept(name), value=percent, unit=dicom_codes.UCUM.Percent)


def _certainty(statement: Statement) -> list[Measurement]:
    """Certainty of the statement made, which for an absent finding is that of its absence; then the probability.

    None of an uncalibrated model's numbers.
    """
    finding, presence = statement.finding, statement.presence
    if not statement.is_calibrated or statement.is_omitted:
        return []
    certainty = {Presence.PRESENT: finding.probability, Presence.ABSENT: 1.0 - finding.probability}
    items = [_percent("name.certainty", certainty[presence])] if presence in certainty else []
    items.append(_percent("name.probability", finding.probability))
    if statement.change is not None and finding.change_probability is not None:
        items.append(_percent("name.change_certainty", finding.change_probability))
    return items


def _site(finding: Finding) -> list[FindingSite]:
    concept = finding_concept(finding.key)
    return [_finding_site(f"site.{concept.site}", finding.location)]


@copied
def _finding_site(anatomy: str, location: str | None) -> FindingSite:
    side, place = codes.place_codes(location)
    return FindingSite(anatomic_location=codes.concept(anatomy), laterality=side, topographical_modifier=place)


def _evaluation(name: str, value: CodedConcept) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=codes.concept(name), value=value)
