"""The contents of a report as plain values that are kept with the result.

Pages and pictures are rendered from these values whenever somebody asks for them. They hold the very words of the day
on which the result was made, so a later version of the wording or of the rules does not change an old report.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from pydantic import TypeAdapter

from dicom_node.report.patient import clean_header, name_text
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.sr.iod import NODE_VERSION
from dicom_node.report.sr.uids import header_uid
from dicom_node.report.statements import drawn_statements, largest_first
from dicom_node.report.wording.catalogue import Catalogue, catalogue
from dicom_node.report.wording.dates import current_date, prior_date
from dicom_node.report.wording.impression import summary_sentence
from dicom_node.report.wording.phrases import label
from dicom_node.report.wording.sections import sections
from model.schema import Change, ImageRole, SourceGeometry

SHOWN_VERSION = 1
"""Of the layout of these values; a reader of a higher version must still read the lower ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFact:
    """One line of the report's head. key: "current", "prior", "patient", "id" or "accession"."""

    key: str
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSection:
    """One heading with its sentences."""

    key: str
    heading: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """One panel of the pair picture.

    notice: what stands there in place of an image. sha256, geometry: of the display image; "" and None without one.
    """

    title: str
    notice: str
    sop_instance_uid: str = ""
    sha256: str = ""
    geometry: SourceGeometry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """One region on one of the images, in stored pixels. label: "" on the smaller regions of a finding."""

    role: ImageRole
    finding: str
    change: Change | None
    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One line below the pair. finding: ontology key, "" where the line is on no single finding."""

    text: str
    finding: str = ""
    change: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownReport:
    """A whole report. wording: digest of the catalogue that it was worded with; node_version: of the software."""

    version: int
    node_version: str
    wording: str
    language: str
    title: str
    mark: str
    facts: tuple[ShownFact, ...]
    sections: tuple[ShownSection, ...]
    prior: ShownImage
    current: ShownImage
    outlines: tuple[Outline, ...]
    captions: tuple[Caption, ...]

    def to_json(self) -> bytes:
        """The values as one JSON object in UTF-8."""
        return _ADAPTER.dump_json(self)


_ADAPTER = TypeAdapter(ShownReport)


def shown_from_json(content: bytes) -> ShownReport:
    """Read what `to_json` wrote. Raises ValueError where it is no such object."""
    return _ADAPTER.validate_json(content)


def shown_report(request: ReportRequest) -> ShownReport:
    """Word the report once: text, page and picture print these values."""
    words = catalogue(request.language)
    return ShownReport(
        version=SHOWN_VERSION,
        node_version=NODE_VERSION,
        wording=wording_digest(words.language),
        language=words.language,
        title=words.text("title.report"),
        mark=words.text("origin.demonstration_mark") if request.model.demonstration else "",
        facts=_facts(request, words),
        sections=tuple(
            ShownSection(key=s.key.value, heading=words.text(f"heading.{s.key.value}"), sentences=s.sentences)
            for s in sections(request)
        ),
        prior=_prior(request, words),
        current=_panel(request.current, f"{words.text('title.current')}: {current_date(request, words)}", words),
        outlines=_outlines(request, words),
        captions=_captions(request, words),
    )


def wording_digest(language: str) -> str:
    """Name the catalogue's content: the first 12 hexadecimal digits of its SHA-256."""
    file = resources.files("dicom_node.report").joinpath("locales", f"{language}.toml")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _facts(request: ReportRequest, words: Catalogue) -> tuple[ShownFact, ...]:
    patient = clean_header(request.current.header).elements
    values = {
        "current": current_date(request, words),
        "prior": prior_date(request, words) if request.prior is not None else "",
        "patient": name_text(str(patient.PatientName)),
        "id": str(patient.PatientID),
        "accession": str(patient.AccessionNumber),
    }
    return tuple(
        ShownFact(key=key, name=words.text(f"title.{key}"), value=value) for key, value in values.items() if value
    )


def _prior(request: ReportRequest, words: Catalogue) -> ShownImage:
    if request.prior is None:
        return ShownImage(title=words.text("title.no_prior"), notice=words.text("title.no_prior"))
    return _panel(request.prior, f"{words.text('title.prior')}: {prior_date(request, words)}", words)


def _panel(source: SourceImage, title: str, words: Catalogue) -> ShownImage:
    return ShownImage(
        title=title,
        notice=words.text("title.no_image"),
        sop_instance_uid=header_uid(source, "SOPInstanceUID"),
        sha256=source.image.sha256 if source.image is not None else "",
        geometry=source.image.geometry if source.image is not None else None,
    )


def _outlines(request: ReportRequest, words: Catalogue) -> tuple[Outline, ...]:
    outlines: list[Outline] = []
    for statement in drawn_statements(request):
        for role in ImageRole:
            for number, region in enumerate(largest_first(statement.finding, role)):
                outlines.append(
                    Outline(
                        role=role,
                        finding=statement.finding.key,
                        change=statement.coded_change,
                        label=label(statement, words, role) if number == 0 else "",
                        points=tuple(region.points),
                    )
                )
    return tuple(outlines)


def _captions(request: ReportRequest, words: Catalogue) -> tuple[Caption, ...]:
    lines = [
        Caption(text=label(statement, words), finding=statement.finding.key, change=statement.coded_change)
        for statement in drawn_statements(request)
    ]
    mark = "origin.demonstration_mark" if request.model.demonstration else "origin.unverified"
    return (*(lines or [Caption(text=summary_sentence(request))]), Caption(text=words.text(mark)))
