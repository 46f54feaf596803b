"""The machine report's content: TID 1500 with one measurement group for every finding (IHE AI Results)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    DateContentItem,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as dicom_codes

from dicom_node.report import codes
from dicom_node.report.exposure import moment
from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import Rank, Seen
from dicom_node.report.sr.copies import set_content, text_item
from dicom_node.report.sr.groups import Group, finding_groups, sources
from dicom_node.report.sr.uids import header_uid
from dicom_node.report.statements import has_answer, is_compared, statements
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.chart import chart_sentences
from dicom_node.report.wording.impression import no_result_sentences
from dicom_node.report.wording.sections import also_seen, origin

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
    marked, unmarked = finding_groups(request)
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


def _image_library(request: ReportRequest) -> ContainerContentItem | None:
    """TID 1600: one group for each image, saying which of the pair it is and of which day."""
    groups = []
    for role, source in sources(request):
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
        set_content(group, [*described, image])
        groups.append(group)
    if not groups:
        return None
    library = ContainerContentItem(name=codes.concept("name.image_library"), relationship_type=_CONTAINS)
    set_content(library, groups)
    return library


def _summary(request: ReportRequest) -> str:
    """The key of the coded summary (CID 6047). "All algorithms succeeded; without findings" is read as a normal film:
    it stands only where everything that was asked for is not seen."""
    if not has_answer(request):
        return "value.no_algorithm"
    stated = statements(request)
    has_findings = any(statement.rank is not Rank.NONE for statement in stated)
    is_open = any(statement.seen in (Seen.POSSIBLE, Seen.UNDECIDED) for statement in stated)
    return f"value.{'open_' if is_open else ''}{'with' if has_findings else 'without'}_findings"


def _evaluations(request: ReportRequest, unmarked: Sequence[Group]) -> ContainerContentItem:
    """TID 1500 row 12: the study as a whole, sentences that no code can carry, and the groups without a region."""
    compared = is_compared(request)
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
    rests_on = (*also_seen(request, words), *chart_sentences(request, words))
    comments: Sequence[str] = (*request.prior_reasons, *rests_on, *origin(request, words))
    if not has_answer(request):
        comments = (*no_result_sentences(request, words), *comments)
    elif request.reason.strip():
        comments = (request.reason, *comments)
    if request.model.demonstration:
        comments = (*comments, words.text("origin.demonstration_mark"))
    items += [
        text_item(codes.concept("name.comment"), comment) for comment in dict.fromkeys(comments) if comment.strip()
    ]
    container = ContainerContentItem(name=codes.concept("name.qualitative_evaluations"), relationship_type=_CONTAINS)
    set_content(container, [*items, *(group[0] for group in unmarked)])
    return container
