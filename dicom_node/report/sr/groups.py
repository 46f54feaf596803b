"""The measurement groups of the machine report: one TID 1501 group for every finding, and what regions add."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

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
    TextContentItem,
    TimePointContext,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes as dicom_codes

from dicom_node.report import codes
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import Statement
from dicom_node.report.sr.iod import referenceable
from dicom_node.report.sr.regions import image_region, measured_on, stored_size
from dicom_node.report.sr.uids import header_uid, tracking_uid
from dicom_node.report.statements import drawn_statements, has_answer, statements
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.phrases import label
from model.schema import Finding, ImageRole, Presence, PrognosisItem, Region

Group: TypeAlias = ContentSequence
"""The template of one measurement group: TID 1501, for the field examined TID 1410."""

_CONTAINS = RelationshipTypeValues.CONTAINS


def finding_groups(request: ReportRequest) -> tuple[list[Group], list[Group]]:
    """(groups with a region, groups without one).

    OHIF 3.13 shows nothing at all when a group among the imaging measurements has no coordinates, so only marked
    groups stand there; where nothing is marked, the field that was examined is. The others follow as evaluations.
    """
    marked: list[Group] = []
    unmarked: list[Group] = []
    prediction = request.prediction
    if prediction is None or not has_answer(request):
        unmarked.append(_no_result_group(request))
    else:
        drawn = {one.finding.key for one in drawn_statements(request)}
        for statement in statements(request):
            if statement.finding.key not in drawn:
                statement = replace(statement, finding=replace(statement.finding, regions=()))
            here = marked if _regions(statement.finding, ImageRole.CURRENT) else unmarked
            here.append(_finding_group(request, statement))
            marked += _region_groups(request, statement)
        unmarked += [_prognosis_group(request, item) for item in prediction.prognosis]
    return marked or _field_examined(request), unmarked


def sources(request: ReportRequest) -> list[tuple[ImageRole, SourceImage]]:
    pairs = ((ImageRole.CURRENT, request.current), (ImageRole.PRIOR, request.prior))
    return [(role, source) for role, source in pairs if source is not None and referenceable(source)]


def _field_examined(request: ReportRequest) -> list[Group]:
    """One TID 1410 group: the part of the current image that was examined, nothing where its size is not known."""
    source = request.current
    if not referenceable(source):
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
    concept = codes.finding_concept(finding.key)
    evaluations = [_evaluation("name.presence", codes.presence_code(statement.presence))]
    if statement.coded_change is not None and request.prior is not None:
        evaluations.append(_evaluation("name.change", codes.change_code(statement.coded_change)))
    level = codes.level_code(finding.level) if finding.level else None
    if level is not None:
        evaluations.append(_evaluation("name.severity", level))
    images = [
        SourceImageForMeasurementGroup(
            referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
            referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
        )
        for _, source in sources(request)
    ]
    group: Group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, concept.name),
        time_point_context=TimePointContext(time_point=ImageRole.CURRENT.value),
        finding_type=codes.coded(concept.code),
        algorithm_id=_algorithm(request),
        finding_sites=_site(finding),
        measurements=_certainty(request, statement) or None,
        qualitative_evaluations=evaluations,
        source_images=images or None,
    )
    group[0].ContentSequence.append(_label(statement))
    return group


def _label(statement: Statement) -> TextContentItem:
    """Comment of the group: what OHIF writes beside the region, "new: pneumothorax L"."""
    return TextContentItem(
        name=codes.concept("name.comment"), value=label(statement, catalogue("en")), relationship_type=_CONTAINS
    )


def _region_groups(request: ReportRequest, statement: Statement) -> list[Group]:
    """What one group cannot hold: further regions on the current image, and those on the prior.

    Each has a tracking UID of its own, because viewers merge groups of one tracking UID and then draw one region.
    """
    finding = statement.finding
    groups = []
    for role, source in sources(request):
        regions = _regions(finding, role)
        probability = finding.probability if role is ImageRole.CURRENT else finding.prior_probability
        for number, region in enumerate(regions, start=1):
            if role is ImageRole.CURRENT and number == 1:
                continue  # stands in the finding's own group
            groups.append(_region_group(request, finding, (role, source), (number, region), probability))
    return groups


def _region_group(
    request: ReportRequest,
    finding: Finding,
    image: tuple[ImageRole, SourceImage],
    numbered: tuple[int, Region],
    probability: float | None,
) -> Group:
    concept = codes.finding_concept(finding.key)
    (role, source), (number, region) = image, numbered
    shared = {
        "tracking_identifier": _tracking(request, concept.name, f"{role.value} image region {number}"),
        "time_point_context": TimePointContext(time_point=role.value),
        "finding_type": codes.coded(concept.code),
        "algorithm_id": _algorithm(request),
    }
    group: Group
    if probability is None:  # the prior was not asked about: nothing is there that the region could hang below
        group = PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=image_region(source, region), **shared)
    else:
        measured = [_percent("name.probability", probability, image=source, region=region)]
        group = MeasurementsAndQualitativeEvaluations(measurements=measured, **shared)
    label = TextContentItem(
        name=codes.concept("name.comment"), value=f"{concept.name}, {role.value} image", relationship_type=_CONTAINS
    )
    group[0].ContentSequence.append(label)
    return group


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
    concept = codes.finding_concept(item.key)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, concept.name, "prognosis"),
        finding_category=codes.concept("value.prognosis"),
        finding_type=codes.coded(concept.code),
        algorithm_id=_algorithm(request),
        measurements=[_percent("name.probability", item.probability)],
        qualitative_evaluations=[_evaluation("name.predicted_change", codes.change_code(item.change))],
    )


def _regions(finding: Finding, role: ImageRole) -> list[Region]:
    return [region for region in finding.regions if region.role is role]


def _algorithm(request: ReportRequest) -> AlgorithmIdentification:
    """TID 4019."""
    model = request.model
    return AlgorithmIdentification(name=model.name, version=model.version, manufacturer=model.manufacturer or None)


def _tracking(request: ReportRequest, *what: str) -> TrackingIdentifier:
    return TrackingIdentifier(identifier=" ".join(what), uid=tracking_uid(request, *what))


def _percent(
    name: str, probability: float, *, image: SourceImage | None = None, region: Region | None = None
) -> Measurement:
    """A NUM in percent; with a region, inferred from it (TID 320), which is how viewers find what to draw.

    Never 0 or 100, which viewers write beside the region and which would claim certainty.
    """
    return Measurement(
        name=codes.concept(name),
        value=min(max(round(float(probability) * 100, 1), 0.1), 99.9),
        unit=dicom_codes.UCUM.Percent,
        referenced_coordinates=None if image is None or region is None else [measured_on(image, region)],
    )


def _certainty(request: ReportRequest, statement: Statement) -> list[Measurement]:
    """Certainty of the statement made, which for an absent finding is that of its absence; then the probability.

    None of an uncalibrated model's numbers, unless a region has to hang below one.
    """
    finding = statement.finding
    region = next(iter(_regions(finding, ImageRole.CURRENT)), None)
    probability = _percent("name.probability", finding.probability, image=request.current, region=region)
    if not statement.is_calibrated:
        return [probability] if region is not None else []
    certainty = {Presence.PRESENT: finding.probability, Presence.ABSENT: 1.0 - finding.probability}
    presence = statement.presence
    items = [_percent("name.certainty", certainty[presence])] if presence in certainty else []
    items.append(probability)
    if statement.change is not None and finding.change_probability is not None:
        items.append(_percent("name.change_certainty", finding.change_probability))
    return items


def _site(finding: Finding) -> list[FindingSite]:
    concept = codes.finding_concept(finding.key)
    side, place = codes.place_codes(finding.location)
    return [
        FindingSite(
            anatomic_location=codes.concept(f"site.{concept.site}"), laterality=side, topographical_modifier=place
        )
    ]


def _evaluation(name: str, value: CodedConcept) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=codes.concept(name), value=value)
