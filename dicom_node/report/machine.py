"""The machine report's content: TID 1500 with one TID 1501 group for every finding (IHE AI Results)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import highdicom as hd
import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    DateContentItem,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TimePointContext,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as dicom_codes

from dicom_node.report import codes
from dicom_node.report.catalogue import catalogue
from dicom_node.report.identity import header_uid, tracking_uid
from dicom_node.report.iod import referenceable
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.statements import answered, change_word, moment, no_result_reason, origin, phrase
from model.schema import Change, Finding, ImageRole, Presence, PrognosisItem, Region

Group: TypeAlias = ContentSequence
"""The template of one measurement group: TID 1501, for the field examined TID 1410."""

_CONTAINS = RelationshipTypeValues.CONTAINS
_ACQUISITION = RelationshipTypeValues.HAS_ACQ_CONTEXT


def machine_content(request: ReportRequest) -> Dataset:
    """The root container (126000, DCM, "Imaging Measurement Report"). Language: English, codes carry the meaning."""
    device = DeviceObserverIdentifyingAttributes(
        uid=request.model.device_uid,
        name=request.model.name,
        manufacturer_name=request.model.manufacturer,
        model_name=request.model.name,
        serial_number=request.model.version,
    )
    observer = ObserverContext(observer_type=dicom_codes.DCM.Device, observer_identifying_attributes=device)
    marked, unmarked = _groups(request)
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.concept("value.procedure"),
        imaging_measurements=marked or unmarked,
        title=codes.concept("title.machine"),
    )
    root: Dataset = report[0]
    # TID 1500: image library (row 5), measurements (row 6), qualitative evaluations (row 12).
    measurements = root.ContentSequence.pop()
    library = _image_library(request)
    root.ContentSequence.extend([] if library is None else [library])
    root.ContentSequence.extend([measurements] if marked else [])
    root.ContentSequence.append(_evaluations(request, unmarked))
    return root


def _sources(request: ReportRequest) -> list[tuple[ImageRole, SourceImage]]:
    pairs = ((ImageRole.CURRENT, request.current), (ImageRole.PRIOR, request.prior))
    return [(role, source) for role, source in pairs if source is not None and referenceable(source)]


def _image_library(request: ReportRequest) -> ContainerContentItem | None:
    """TID 1600: one group for each image, saying which of the pair it is and of which day."""
    groups = []
    for role, source in _sources(request):
        group = ContainerContentItem(name=codes.concept("name.image_library_group"), relationship_type=_CONTAINS)
        described: list[Dataset] = [
            CodeContentItem(
                name=codes.concept("name.image_role"),
                value=codes.concept(f"value.{role.value}"),
                relationship_type=_ACQUISITION,
            )
        ]
        when = moment(source)
        if when is not None:
            described.append(
                DateContentItem(
                    name=codes.concept("name.study_date"), value=when.date(), relationship_type=_ACQUISITION
                )
            )
        image = ImageContentItem(
            name=codes.concept("name.source"),
            referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
            referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
            relationship_type=_CONTAINS,
        )
        group.ContentSequence = ContentSequence([*described, image])
        groups.append(group)
    if not groups:
        return None
    library = ContainerContentItem(name=codes.concept("name.image_library"), relationship_type=_CONTAINS)
    library.ContentSequence = ContentSequence(groups)
    return library


def _groups(request: ReportRequest) -> tuple[list[Group], list[Group]]:
    """(groups with a region, groups without one).

    OHIF 3.13 shows nothing at all when a group among the imaging measurements has no coordinates, so only marked
    groups stand there; where nothing is marked, the field that was examined is. The others follow as evaluations.
    """
    marked: list[Group] = []
    unmarked: list[Group] = []
    prediction = request.prediction
    if prediction is None or not answered(request):
        unmarked.append(_no_result_group(request))
    else:
        for finding in prediction.findings:
            here = marked if _regions(finding, ImageRole.CURRENT) else unmarked
            here.append(_finding_group(request, finding))
            marked += _region_groups(request, finding)
        unmarked += [_prognosis_group(request, item) for item in prediction.prognosis]
    return marked or _field_examined(request), unmarked


def _field_examined(request: ReportRequest) -> list[Group]:
    """One TID 1410 group: the part of the current image that was examined, nothing where its size is not known."""
    source = request.current
    if not referenceable(source):
        return []
    if source.image is not None:
        area = source.image.geometry
        left, top, right, bottom = area.left, area.top, area.left + area.width, area.top + area.height
    else:
        left, top, right, bottom = 0, 0, *_size(source)
    if right <= left or bottom <= top:
        return []
    outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], dtype=np.float64)
    return [
        PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(request, "field examined"),
            referenced_region=ImageRegion(
                graphic_type=GraphicTypeValues.POLYLINE, graphic_data=outline, source_image=_source_of_region(source)
            ),
            finding_type=codes.concept("value.field"),
            algorithm_id=_algorithm(request),
        )
    ]


def _size(source: SourceImage) -> tuple[int, int]:
    """(columns, rows) as the header has them, zeros where it does not."""
    columns, rows = source.header.get("Columns"), source.header.get("Rows")
    return (columns, rows) if isinstance(columns, int) and isinstance(rows, int) else (0, 0)


def _source_of_region(source: SourceImage) -> SourceImageForRegion:
    return SourceImageForRegion(
        referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
        referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
    )


def _algorithm(request: ReportRequest) -> AlgorithmIdentification:
    """TID 4019."""
    model = request.model
    return AlgorithmIdentification(name=model.name, version=model.version, manufacturer=model.manufacturer or None)


def _tracking(request: ReportRequest, *what: str) -> TrackingIdentifier:
    return TrackingIdentifier(identifier=" ".join(what), uid=tracking_uid(request, *what))


def _percent(
    name: str, probability: float, *, image: SourceImage | None = None, region: Region | None = None
) -> Measurement:
    """A NUM in percent; with a region, inferred from it (TID 320), which is how viewers find what to draw."""
    return Measurement(
        name=codes.concept(name),
        value=round(float(probability) * 100, 1),
        unit=dicom_codes.UCUM.Percent,
        referenced_coordinates=None if image is None or region is None else [_coordinates(image, region)],
    )


def _certainty(request: ReportRequest, finding: Finding) -> list[Measurement]:
    """Certainty of the statement made, which for an absent finding is that of its absence; then the probability."""
    certainty = {Presence.PRESENT: finding.probability, Presence.ABSENT: 1.0 - finding.probability}
    items = [_percent("name.certainty", certainty[finding.presence])] if finding.presence in certainty else []
    region = next(iter(_regions(finding, ImageRole.CURRENT)), None)
    items.append(_percent("name.probability", finding.probability, image=request.current, region=region))
    if finding.change is not None and finding.change_probability is not None:
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


def _evaluation(name: str, value: hd.sr.CodedConcept) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=codes.concept(name), value=value)


def _finding_group(request: ReportRequest, finding: Finding) -> Group:
    concept = codes.finding_concept(finding.key)
    evaluations = [_evaluation("name.presence", codes.presence_code(finding.presence))]
    if finding.change is not None and request.prior is not None:
        evaluations.append(_evaluation("name.change", codes.change_code(finding.change)))
    level = codes.level_code(finding.level) if finding.level else None
    if level is not None:
        evaluations.append(_evaluation("name.severity", level))
    images = [
        SourceImageForMeasurementGroup(
            referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
            referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
        )
        for _, source in _sources(request)
    ]
    group: Group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, concept.name),
        time_point_context=TimePointContext(time_point=ImageRole.CURRENT.value),
        finding_type=codes.coded(concept.code),
        algorithm_id=_algorithm(request),
        finding_sites=_site(finding),
        measurements=_certainty(request, finding),
        qualitative_evaluations=evaluations,
        source_images=images or None,
    )
    group[0].ContentSequence.append(_label(request, finding))
    return group


def _label(request: ReportRequest, finding: Finding) -> TextContentItem:
    """Comment of the group: what OHIF writes beside the region, "new: moderate left pleural effusion"."""
    words = catalogue("en")
    change = f"{change_word(finding.change, words)}: " if finding.change is not None and request.prior else ""
    return TextContentItem(
        name=codes.concept("name.comment"), value=change + phrase(finding, words), relationship_type=_CONTAINS
    )


def _region_groups(request: ReportRequest, finding: Finding) -> list[Group]:
    """What one group cannot hold: further regions on the current image, and those on the prior.

    Each has a tracking UID of its own, because viewers merge groups of one tracking UID and then draw one region.
    """
    groups = []
    for role, source in _sources(request):
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
    if probability is None:
        raise ValueError(f"finding {finding.key!r} has a region on the {role} image, but no probability there")
    group: Group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, concept.name, f"{role.value} image region {number}"),
        time_point_context=TimePointContext(time_point=role.value),
        finding_type=codes.coded(concept.code),
        algorithm_id=_algorithm(request),
        measurements=[_percent("name.probability", probability, image=source, region=region)],
    )
    label = TextContentItem(
        name=codes.concept("name.comment"), value=f"{concept.name}, {role.value} image", relationship_type=_CONTAINS
    )
    group[0].ContentSequence.append(label)
    return group


def _regions(finding: Finding, role: ImageRole) -> list[Region]:
    return [region for region in finding.regions if region.role is role]


def _coordinates(source: SourceImage, region: Region) -> CoordinatesForMeasurement:
    """SCOORD POLYLINE on the stored image (PS3.3 section C.18.6.1). Raises ValueError for points outside it."""
    points = np.asarray(region.points, dtype=np.float64)
    limits = _size(source) if all(_size(source)) else (np.inf, np.inf)
    if points.ndim != 2 or len(points) < 4 or not np.isfinite(points).all():
        raise ValueError(f"a region of {len(points)} points is no outline")
    if (points < 0).any() or (points > limits).any():
        raise ValueError(f"a region leaves its image of {limits[0]:.0f} by {limits[1]:.0f} pixels")
    return CoordinatesForMeasurement(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=points,
        source_image=_source_of_region(source),
    )


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


def _summary(request: ReportRequest) -> str:
    prediction = request.prediction
    if prediction is None or not answered(request):
        return "value.no_algorithm"
    seen = any(f.presence is Presence.PRESENT or f.change is Change.RESOLVED for f in prediction.findings)
    return "value.with_findings" if seen else "value.without_findings"


def _evaluations(request: ReportRequest, unmarked: Sequence[Group]) -> ContainerContentItem:
    """TID 1500 row 12: the study as a whole, sentences that no code can carry, and the groups without a region."""
    compared = request.prior is not None and answered(request)
    items: list[Dataset] = [
        CodeContentItem(
            name=codes.concept("name.summary"), value=codes.concept(_summary(request)), relationship_type=_CONTAINS
        ),
        CodeContentItem(
            name=codes.concept("name.comparison_done"),
            value=codes.concept("value.yes" if compared else "value.no"),
            relationship_type=_CONTAINS,
        ),
    ]
    words = catalogue("en")
    comments: Sequence[str] = (*request.prior_reasons, *origin(request, words))
    if not answered(request):
        comments = (words.text("no_result.impression", reason=no_result_reason(request, words)), *comments)
    elif request.reason.strip():
        comments = (request.reason, *comments)
    if request.model.demonstration:
        comments = (*comments, words.text("origin.demonstration_mark"))
    items += [
        TextContentItem(name=codes.concept("name.comment"), value=comment, relationship_type=_CONTAINS)
        for comment in dict.fromkeys(comments)
        if comment.strip()
    ]
    container = ContainerContentItem(name=codes.concept("name.qualitative_evaluations"), relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence([*items, *(group[0] for group in unmarked)])
    return container
