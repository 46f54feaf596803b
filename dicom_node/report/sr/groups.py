"""The measurement groups of the machine report: one TID 1501 group for every finding, and one for every region."""

from __future__ import annotations

from typing import TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    ContentSequence,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    TrackingIdentifier,
)

from dicom_node.report import codes
from dicom_node.report.concepts import finding_concept
from dicom_node.report.label_positions import LabelBox, label_boxes
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import Statement
from dicom_node.report.sr.finding_group import (
    GroupForm,
    algorithm_identification,
    evaluation,
    filled_group,
    filled_prognosis,
)
from dicom_node.report.sr.iod import is_referenceable
from dicom_node.report.sr.region_group import RegionForm, filled_region
from dicom_node.report.sr.regions import image_region, outline_points, position_points, stored_size
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
    finding, certainty = statement.finding, _certainty(statement)
    images = [(header_uid(image, "SOPClassUID"), header_uid(image, "SOPInstanceUID")) for _, image in sources(request)]
    form = GroupForm(
        key=finding.key,
        presence=statement.presence,
        change=statement.coded_change if request.prior is not None else None,
        level=finding.level,
        location=finding.location,
        measured=tuple(name for name, _ in certainty),
        images=len(images),
        algorithm=_algorithm_words(request),
    )
    side = tracked_side(request, finding)
    name = finding_concept(finding.key).name
    return filled_group(
        form,
        # The same for a finding on one side in every report of the patient (TID 1501, (112039, DCM) and (112040, DCM)).
        tracking=(f"{name}, {side}" if side else name, finding_tracking_uid(request, finding.key, side)),
        percents=[percent for _, percent in certainty],
        images=images,
    )


def _region_groups(request: ReportRequest, role: ImageRole, source: SourceImage) -> list[Group]:
    """A group for every drawn region on an image, and one for the label of each finding's largest region.

    Each has a tracking UID of its own, because viewers merge groups of one tracking UID and then draw one region.
    """
    image = (role, source)
    drawn = [(statement, largest_first(statement.finding, role)) for statement in drawn_statements(request)]
    groups = [
        filled_region(
            _region_form(request, statement.finding, image),
            tracking=_tracking_words(request, statement.finding, f"{role.value} image region {number}"),
            points=outline_points(source, region),
            sop_instance_uid=header_uid(source, "SOPInstanceUID"),
        )
        for statement, regions in drawn
        for number, region in enumerate(regions, start=1)
    ]
    labelled = [(statement, regions[0]) for statement, regions in drawn if regions]
    texts = [region_label(statement, role, catalogue("en")) for statement, _ in labelled]
    columns, rows = stored_size(source)
    lines = [(text.line, region.points) for text, (_, region) in zip(texts, labelled, strict=True)]
    boxes = label_boxes(lines, columns, rows) if columns and rows else []
    # Not strict: without the image's size no box can be placed, and then no label is written.
    labels = [
        _label_group(request, statement.finding, image, text, box)
        for (statement, _), text, box in zip(labelled, texts, boxes, strict=False)
    ]
    return [*labels, *groups]


def _label_group(
    request: ReportRequest, finding: Finding, image: tuple[ImageRole, SourceImage], text: RegionLabel, box: LabelBox
) -> Group:
    """The label of a region (ADR 0017).

    Its region is a circle of half a pixel where the label begins; OHIF would put it to the right of what it
    names, where one label covers another or leaves the image.
    """
    role, source = image
    return filled_region(
        _region_form(request, finding, image, (text.name, text.word)),
        tracking=_tracking_words(request, finding, f"{role.value} image label"),
        points=position_points(source, *box.anchor),
        sop_instance_uid=header_uid(source, "SOPInstanceUID"),
    )


def _region_form(
    request: ReportRequest,
    finding: Finding,
    image: tuple[ImageRole, SourceImage],
    label: tuple[str, str] | None = None,
) -> RegionForm:
    role, source = image
    return RegionForm(
        key=finding.key,
        role=role,
        label=label,
        sop_class_uid=header_uid(source, "SOPClassUID"),
        algorithm=_algorithm_words(request),
    )


def _tracking_words(request: ReportRequest, finding: Finding, what: str) -> tuple[str, str]:
    name = finding_concept(finding.key).name
    return f"{name} {what}", tracking_uid(request, name, what)


def _no_result_group(request: ReportRequest) -> Group:
    """A result that is no result is still a coded one: what, and why."""
    reason = request.prediction.abstained if request.prediction is not None else None
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, "no result"),
        finding_type=codes.concept("value.no_result"),
        algorithm_id=_algorithm(request),
        qualitative_evaluations=[evaluation("name.reason", codes.reason_code(reason))],
    )


def _prognosis_group(request: ReportRequest, item: PrognosisItem) -> Group:
    what = (finding_concept(item.key).name, "prognosis")
    return filled_prognosis(
        item.key,
        item.change,
        algorithm=_algorithm_words(request),
        tracking=(" ".join(what), tracking_uid(request, *what)),
        percent=_percent(item.probability),
    )


def _algorithm(request: ReportRequest) -> AlgorithmIdentification:
    """TID 4019; the same items stand in every group."""
    return algorithm_identification(*_algorithm_words(request))


def _algorithm_words(request: ReportRequest) -> tuple[str, str, str | None]:
    model = request.model
    return model.name, model.version, model.manufacturer or None


def _tracking(request: ReportRequest, *what: str) -> TrackingIdentifier:
    return TrackingIdentifier(identifier=" ".join(what), uid=tracking_uid(request, *what))


def _percent(probability: float) -> float:
    """Never 0 or 100, which would claim certainty."""
    return min(max(round(float(probability) * 100, 1), 0.1), 99.9)


def _certainty(statement: Statement) -> list[tuple[str, float]]:
    """Concept and percent of the certainty of the statement made, which for an absent finding is that of its absence;
    then of the probability.

    None of an uncalibrated model's numbers.
    """
    finding, presence = statement.finding, statement.presence
    if not statement.is_calibrated or statement.is_omitted:
        return []
    certainty = {Presence.PRESENT: finding.probability, Presence.ABSENT: 1.0 - finding.probability}
    items = [("name.certainty", _percent(certainty[presence]))] if presence in certainty else []
    items.append(("name.probability", _percent(finding.probability)))
    if statement.change is not None and finding.change_probability is not None:
        items.append(("name.change_certainty", _percent(finding.change_probability)))
    return items
