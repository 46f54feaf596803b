"""The UIDs of a result: all derived from what went into it, so that a retry gives the same ones."""

from __future__ import annotations

from dicom_node.dicom.uids import derive_uid, is_uid
from dicom_node.report.patient import UNREADABLE
from dicom_node.report.request import DocumentKind, ReportRequest, SourceImage
from model.ontology import ontology

SCHEMA_VERSION = "5"
"""Of the documents' layout; raise it when the same prediction would make other documents."""


def header_uid(source: SourceImage | None, keyword: str) -> str:
    """The UID with this keyword in the image's header, "" where it is missing, multi-valued or no UID."""
    if source is None:
        return ""
    try:
        value = str(source.header.get(keyword, "") or "").strip("\0 ")
    except UNREADABLE:
        return ""
    return value if is_uid(value) else ""


def study_uid(request: ReportRequest) -> str:
    """The study that the documents go into: the current image's own, else one derived from what we were given."""
    return header_uid(request.current, "StudyInstanceUID") or derive_uid("dicom-node", "study", *_inputs(request))


def series_uid(request: ReportRequest, kind: DocumentKind) -> str:
    """A series for each document: viewers list series by their description, and nobody can tell two alike apart."""
    return derive_uid("dicom-node", "series", kind.value, *_inputs(request))


def document_uid(request: ReportRequest, kind: DocumentKind, rung: str) -> str:
    """SOP Instance UID of one document; `rung` of the ladder enters it, since each rung has another content."""
    return derive_uid("dicom-node", "document", kind.value, rung, *_inputs(request))


def tracking_uid(request: ReportRequest, *what: str) -> str:
    """Stable over late images, new checkpoints and languages: it names the finding in the study, not the result."""
    return derive_uid("dicom-node", "tracking", study_uid(request), *what)


def finding_tracking_uid(request: ReportRequest, finding: str, side: str) -> str:
    """One UID for a finding on one side over all studies of a patient: software follows it through their reports.

    finding: ontology key. side: "left", "right", "bilateral" or "". Of a patient without an ID that names one person
    it is the study's.
    """
    if not request.patient_key[0]:
        return tracking_uid(request, finding, side)
    return derive_uid("dicom-node", "tracking over studies", *request.patient_key, finding, side)


def _inputs(request: ReportRequest) -> tuple[str, ...]:
    current, prior = request.current, request.prior
    abstained = request.prediction.abstained if request.prediction else None
    return (
        header_uid(current, "StudyInstanceUID"),
        header_uid(current, "SOPInstanceUID"),
        current.image.sha256 if current.image else "",
        header_uid(prior, "StudyInstanceUID"),
        header_uid(prior, "SOPInstanceUID"),
        prior.image.sha256 if prior and prior.image else "",
        request.outcome.value,
        abstained.value if abstained else "",
        request.model.device_uid,
        ontology().version,
        SCHEMA_VERSION,
        request.language,
        str(request.revision),
        str(request.generation),
    )
