"""From a content tree to a complete SR object: patient, study, series, equipment, document modules (PS3.3 A.35).

highdicom makes the content; the object around it is made here, because its document classes refuse every header that
lacks or misspells a type 2 element, copy the image's character set and read the clock (see docs/adr).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.dicom.sop_classes import NODE_MODEL
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid
from dicom_node.report.codes import coding_scheme_identification, concept
from dicom_node.report.concepts import PRIVATE_SCHEME
from dicom_node.report.patient import CleanHeader
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest, SourceImage
from dicom_node.report.sr.uids import document_uid, header_uid, series_uid, study_uid
from dicom_node.report.timeline import finding_courses

SERIES_NUMBER = 9901
"""High, so that our series sorts behind those of the modality; the reading report first, the others behind it."""
MODEL_SLOT = 64
_CONTENT, _REFERENCED_SOP = int(Tag("ContentSequence")), int(Tag("ReferencedSOPSequence"))
_CONCEPTS = frozenset({int(Tag("ConceptNameCodeSequence")), int(Tag("ConceptCodeSequence"))})
"""As numbers: looking a keyword up in each of some hundred items takes longer than all else in the walk."""
NODE_VERSION = metadata.version("dicom-node")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPlace:
    """Where a document of a kind stands: its modality, series number, instance number, and what it is in a word."""

    modality: str
    series_offset: int
    instance_number: int
    word: str


PLACES = {
    DocumentKind.MACHINE: DocumentPlace(modality="SR", series_offset=1, instance_number=1, word="regions"),
    DocumentKind.READING: DocumentPlace(modality="SR", series_offset=0, instance_number=1, word="reading"),
    DocumentKind.PDF: DocumentPlace(modality="DOC", series_offset=2, instance_number=1, word="page"),
    DocumentKind.CAPTURE: DocumentPlace(modality="OT", series_offset=3, instance_number=1, word="pair"),
}


def series_description(request: ReportRequest, kind: DocumentKind) -> str:
    """ "DEMO reading (AI): demonstration, not for clinical use": viewers cut it off, so the mark is its first word."""
    word = PLACES[kind].word
    if request.model.demonstration:
        return f"DEMO {word} (AI): demonstration, not for clinical use"
    if request.prediction is not None and not request.prediction.is_calibrated:
        return f"UNCALIBRATED {word} (AI): not verified"
    return f"AI {word}: chest radiograph, not verified"


def is_referenceable(source: SourceImage | None) -> bool:
    """Tell whether the image has the four UIDs that a reference to it needs."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    return source is not None and all(header_uid(source, keyword) for keyword in keywords)


def common(request: ReportRequest, header: CleanHeader, kind: DocumentKind, sop_class_uid: str, rung: str) -> Dataset:
    """Everything but the content: what SR, PDF and picture share."""
    series, model = PLACES[kind], request.model
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for element in header.elements:
        ds[element.tag] = element
    when = local_time(request.produced_at, header.elements)
    ds.InstanceCreationDate, ds.InstanceCreationTime = f"{when:%Y%m%d}", f"{when:%H%M%S}"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, document_uid(request, kind, rung)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid(request), series_uid(request, kind)
    ds.Modality = series.modality
    ds.SeriesNumber = SERIES_NUMBER + series.series_offset
    ds.InstanceNumber = series.instance_number
    ds.SeriesDescription = series_description(request, kind)
    ds.SeriesDate, ds.SeriesTime = f"{when:%Y%m%d}", f"{when:%H%M%S}"
    ds.ContentDate, ds.ContentTime = f"{when:%Y%m%d}", f"{when:%H%M%S}"
    ds.Manufacturer = model.manufacturer[:MODEL_SLOT]
    ds.ManufacturerModelName = NODE_MODEL
    ds.DeviceSerialNumber = NODE_VERSION
    ds.SoftwareVersions = NODE_VERSION
    ds.ContributingEquipmentSequence = [_algorithm(request)]
    return ds


def local_time(moment: dt.datetime, elements: Dataset) -> dt.datetime:
    """On the clock that the object's dates and times are of: TimezoneOffsetFromUTC where it bears one, else this
    machine's (PS3.3 section C.12.1.1.8). In UTC a report of the night would be dated before its own images."""
    zone = str(elements.get("TimezoneOffsetFromUTC", "") or "")
    return moment.astimezone(dt.datetime.strptime(zone, "%z").tzinfo if zone else None)


def sr_document(
    request: ReportRequest, header: CleanHeader, kind: DocumentKind, sop_class_uid: str, content: Dataset, rung: str
) -> BuiltDocument:
    """The SR object around a root container."""
    ds = common(request, header, kind, sop_class_uid, rung)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    # UNVERIFIED and PRELIMINARY (PS3.3 C.17.2): a machine made it, and no person has signed.
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    for element in content:
        ds[element.tag] = element
    named, has_private_codes = _references_in(content)
    if has_private_codes:
        ds.CodingSchemeIdentificationSequence = [coding_scheme_identification()]
    _add_evidence(ds, request, named)
    # Of the same kind: a PDF does not replace an SR.
    earlier = [p for p in request.predecessors if p.kind is kind]
    if earlier:
        ds.PredecessorDocumentsSequence = hierarchy(
            (p.study_instance_uid, p.series_instance_uid, p.sop_class_uid, p.sop_instance_uid) for p in earlier
        )
    return finish_document(ds, kind)


def finish_document(ds: Dataset, kind: DocumentKind) -> BuiltDocument:
    """The data set with its file meta information."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    return BuiltDocument(
        kind=kind,
        dataset=ds,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
    )


def content_items(root: Dataset) -> Iterator[Dataset]:
    """The tree's items, depth first, the root first."""
    yield root
    if _CONTENT in root:
        for item in root[_CONTENT].value:
            yield from content_items(item)


def _references_in(content: Dataset) -> tuple[set[str], bool]:
    """(SOP Instance UIDs that the tree's items refer to, whether a code of the private scheme stands in it)."""
    named: set[str] = set()
    has_private_codes = False
    for item in content_items(content):
        # The elements as they lie there: to ask for each of three tags takes several times as long.
        for element in item.values():
            number = int(element.tag)
            if number in _CONCEPTS:
                has_private_codes |= any(code.CodingSchemeDesignator == PRIVATE_SCHEME for code in item[number].value)
            elif number == _REFERENCED_SOP:
                named.update(str(reference.ReferencedSOPInstanceUID) for reference in item[number].value)
    return named, has_private_codes


def hierarchy(references: Iterable[tuple[str, str, str, str]]) -> list[Dataset]:
    """(study, series, class, instance) UIDs → Hierarchical SOP Instance Reference Macro (PS3.3 table C.17-3)."""
    studies: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for study, series, sop_class, instance in references:
        studies.setdefault(study, {}).setdefault(series, []).append((sop_class, instance))
    items = []
    for study, all_series in studies.items():
        item = Dataset()
        item.StudyInstanceUID = study
        item.ReferencedSeriesSequence = []
        for series, instances in all_series.items():
            inner = Dataset()
            inner.SeriesInstanceUID = series
            inner.ReferencedSOPSequence = [instance_reference(c, i) for c, i in instances]
            item.ReferencedSeriesSequence.append(inner)
        items.append(item)
    return items


def instance_reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """SOP Instance Reference Macro (PS3.3 table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def referenced_sources(request: ReportRequest) -> list[Dataset]:
    """References to the images that a picture or page was made from."""
    return [
        instance_reference(header_uid(s, "SOPClassUID"), header_uid(s, "SOPInstanceUID"))
        for s in (request.current, request.prior)
        if s is not None and is_referenceable(s)
    ]


def _add_evidence(ds: Dataset, request: ReportRequest, named: set[str]) -> None:
    """Current study → Current Requested Procedure Evidence, other studies → Pertinent Other Evidence (C.17.2.3).

    Never both for one instance. An image that the tree does not name is evidence too: the result rests on it, on what
    the model saw beside the pair and, where a course is told, on the films that it is told of.
    """
    sources: Sequence[SourceImage | None] = (request.current, request.prior, *request.earlier_images)
    uids = [
        tuple(header_uid(s, k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"))
        for s in sources
        if is_referenceable(s)
    ]
    if finding_courses(request):
        films = [
            (p.study_instance_uid, p.series_instance_uid, p.sop_class_uid, p.sop_instance_uid) for p in request.course
        ]
        uids += [film for film in films if all(map(is_uid, film))]
    # One study is never both current and prior in the two sequences; an image that serves twice is listed once.
    references = list(dict.fromkeys((u[0], u[1], u[2], u[3]) for u in uids))
    current = [r for r in references if r[0] == ds.StudyInstanceUID]
    other = [r for r in references if r[0] != ds.StudyInstanceUID]
    # Checked here, because a validator would find a reference without evidence only at the receiver.
    missing = named - {r[3] for r in references}
    if missing:
        raise ValueError(f"the content names images that are no evidence: {sorted(missing)}")
    if current:
        ds.CurrentRequestedProcedureEvidenceSequence = hierarchy(current)
    if other:
        ds.PertinentOtherEvidenceSequence = hierarchy(other)


def _algorithm(request: ReportRequest) -> Dataset:
    """The checkpoint as contributing equipment (IHE AIR 1.2): a retrained model has another Device UID."""
    model = request.model
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [concept("value.processing")]
    item.Manufacturer = model.manufacturer[:MODEL_SLOT] or NODE_MODEL
    item.ManufacturerModelName = model.name[:MODEL_SLOT]
    item.DeviceSerialNumber = model.version[:MODEL_SLOT]
    item.SoftwareVersions = model.version[:MODEL_SLOT]
    item.DeviceUID = model.device_uid
    item.ContributionDateTime = f"{request.produced_at.astimezone(dt.UTC):%Y%m%d%H%M%S}+0000"
    mark = " (demonstration, not for clinical use)" if model.demonstration else ""
    item.ContributionDescription = f"Chest radiograph reading and comparison{mark}"
    return item
