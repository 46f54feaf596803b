"""Input and output of the report writer. Values only: clock, paths and sessions stay outside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom import Dataset

from dicom_node.index.tables.core import DocumentKind as DocumentKind
from dicom_node.index.tables.core import Outcome
from dicom_node.report.chart_facts import ChartFact
from dicom_node.report.dropped_regions import DroppedRegion
from dicom_node.report.rules import EarlierStatement
from model.schema import DisplayImage, ModelIdentity, Prediction


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class SourceImage:
    """One image that the result speaks of.

    header: its data set as stored, without PixelData; may lack or misspell any element.
    image: its display image where it could be made.
    """

    header: Dataset
    image: DisplayImage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredecessorDocument:
    """An earlier document of this study that the result replaces (Predecessor Documents Sequence, PS3.3 C.17.2)."""

    kind: DocumentKind
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoursePoint:
    """An earlier film of the patient that the same checkpoint has read.

    taken: local date and time. statements: finding → what its current result says. The other UIDs are "" where the film
    has none.
    """

    sop_instance_uid: str
    taken: dt.datetime
    statements: Mapping[str, EarlierStatement]
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_class_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportRequest:
    """Everything that a result's documents say.

    current: the analysed image, or any instance of the study where none was fit.
    prior: the compared image; None where there is no comparison.
    outcome, reason: how the analysis ended and, where it is not COMPARED, why, as a sentence for the radiologist.
    prior_reasons: why this prior was chosen, or why none was, one short sentence each.
    prediction: None where outcome is NOT_ANALYSED before the model was asked.
    earlier_images: older than the prior, oldest first, which the model saw as well.
    cautions: what must be read before anything else, such as a doubt about the patient's identity.
    header_contradictions: elements of the header that name another body part or view than the picture shows.
    newer_prior: why an image newer than the prior was not compared with, "" where there is none.
    earlier: finding → what the prior's own result by the same checkpoint said; None where there is none.
    course: what the same checkpoint said of earlier films, oldest first. course_left_out: films that another has read.
    chart: what the answer rests on beside the images.
    dropped_regions: regions of the model's answer that are not drawn because they broke a rule.
    frontal_images, frontal_number: of the current study; each has a result, and documents, of its own; counted by time.
    patient_key: (patient ID, issuer) as the site keeps them; ("", "") where the ID does not name one person.
    revision, generation: of the study and of the administrator's reprocessing; they enter the UIDs.
    """

    current: SourceImage
    prior: SourceImage | None
    outcome: Outcome
    reason: str
    prior_reasons: tuple[str, ...]
    prediction: Prediction | None
    model: ModelIdentity
    produced_at: dt.datetime
    revision: int = 1
    generation: int = 1
    predecessors: tuple[PredecessorDocument, ...] = ()
    language: str = "en"
    frontal_images: int = 1
    frontal_number: int = 1
    earlier_images: tuple[SourceImage, ...] = ()
    cautions: tuple[str, ...] = ()
    newer_prior: str = ""
    header_contradictions: tuple[str, ...] = ()
    earlier: Mapping[str, EarlierStatement] | None = None
    course: tuple[CoursePoint, ...] = ()
    course_left_out: int = 0
    chart: tuple[ChartFact, ...] = ()
    dropped_regions: tuple[DroppedRegion, ...] = ()
    patient_key: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BuiltDocument:
    """One DICOM object, ready to be written: `dataset` carries its file meta information."""

    kind: DocumentKind
    dataset: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
