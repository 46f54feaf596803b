"""The machine report's content: TID 1500 with one TID 1501 or TID 1410 group for every finding (IHE AI Results)."""

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
from dicom_node.report.statements import answered, moment, no_result_reason, origin
from model.schema import Change, Finding, ImageRole, Presence, PrognosisItem, Region

Group: TypeAlias = ContentSequence
"""A template of one measurement group, TID 1501 or TID 1410."""

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
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.concept("value.procedure"),
        imaging_measurements=_groups(request),
        title=codes.concept("title.machine"),
    )
    root: Dataset = report[0]
    _insert_before_measurements(root, _image_library(request))
    root.ContentSequence.append(_evaluations(request))
    return root


def _insert_before_measurements(root: Dataset, library: ContainerContentItem | None) -> None:
    """TID 1500 has the image library (row 5) before the measurements (row 6)."""
    if library is not None:
        position = next(i for i, item in enumerate(root.ContentSequence) if item.ValueType == "CONTAINER")
        root.ContentSequence.insert(position, library)


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


def _groups(request: ReportRequest) -> list[Group]:
    prediction = request.prediction
    if prediction is None or not answered(request):
        return [_no_result_group(request)]
    groups: list[Group] = []
    for finding in prediction.findings:
        groups.append(_finding_group(request, finding))
        groups += [_prior_region_group(request, finding, region) for region in _regions(finding, ImageRole.PRIOR)]
    return groups + [_prognosis_group(request, item) for item in prediction.prognosis]


def _algorithm(request: ReportRequest) -> AlgorithmIdentification:
    """TID 4019."""
    model = request.model
    return AlgorithmIdentification(name=model.name, version=model.version, manufacturer=model.manufacturer or None)


def _tracking(request: ReportRequest, *what: str) -> TrackingIdentifier:
    return TrackingIdentifier(identifier=" ".join(what), uid=tracking_uid(request, *what))


def _percent(name: str, probability: float) -> Measurement:
    value = round(float(probability) * 100, 1)
    return Measurement(name=codes.concept(name), value=value, unit=dicom_codes.UCUM.Percent)


def _certainty(finding: Finding) -> list[Measurement]:
    """Certainty of the statement made, which for an absent finding is that of its absence; then the probability."""
    certainty = {Presence.PRESENT: finding.probability, Presence.ABSENT: 1.0 - finding.probability}
    items = [_percent("name.certainty", certainty[finding.presence])] if finding.presence in certainty else []
    items.append(_percent("name.probability", finding.probability))
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
    shared = {
        "tracking_identifier": _tracking(request, concept.name),
        "time_point_context": TimePointContext(time_point=ImageRole.CURRENT.value),
        "finding_type": codes.coded(concept.code),
        "algorithm_id": _algorithm(request),
        "finding_sites": _site(finding),
        "measurements": _certainty(finding),
        "qualitative_evaluations": evaluations,
    }
    regions = _regions(finding, ImageRole.CURRENT)
    if regions:
        group: Group = PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=_image_region(request.current, regions[0]), **shared
        )
        for region in regions[1:]:
            group[0].ContentSequence.append(_image_region(request.current, region))
        return group
    images = [
        SourceImageForMeasurementGroup(
            referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
            referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
        )
        for _, source in _sources(request)
    ]
    return MeasurementsAndQualitativeEvaluations(source_images=images or None, **shared)


def _prior_region_group(request: ReportRequest, finding: Finding, region: Region) -> Group:
    """The same finding on the prior: same tracking UID, another time point."""
    concept = codes.finding_concept(finding.key)
    measured = [] if finding.prior_probability is None else [_percent("name.probability", finding.prior_probability)]
    if request.prior is None:
        raise ValueError(f"finding {finding.key!r} has a region on a prior that is not part of the result")
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(request, concept.name),
        referenced_region=_image_region(request.prior, region),
        time_point_context=TimePointContext(time_point=ImageRole.PRIOR.value),
        finding_type=codes.coded(concept.code),
        algorithm_id=_algorithm(request),
        measurements=measured or None,
    )


def _regions(finding: Finding, role: ImageRole) -> list[Region]:
    return [region for region in finding.regions if region.role is role]


def _image_region(source: SourceImage, region: Region) -> ImageRegion:
    """SCOORD POLYLINE on the stored image (PS3.3 section C.18.6.1). Raises ValueError for points outside it."""
    points = np.asarray(region.points, dtype=np.float64)
    rows, columns = source.header.get("Rows"), source.header.get("Columns")
    limits = (float(columns), float(rows)) if rows and columns else (np.inf, np.inf)
    if points.ndim != 2 or len(points) < 4 or not np.isfinite(points).all():
        raise ValueError(f"a region of {len(points)} points is no outline")
    if (points < 0).any() or (points > limits).any():
        raise ValueError(f"a region leaves its image of {limits[0]:.0f} by {limits[1]:.0f} pixels")
    return ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=points,
        source_image=SourceImageForRegion(
            referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
            referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
        ),
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


def _evaluations(request: ReportRequest) -> ContainerContentItem:
    """TID 1500 row 12: what is said of the study as a whole, with the sentences that no code can carry."""
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
    container.ContentSequence = ContentSequence(items)
    return container
