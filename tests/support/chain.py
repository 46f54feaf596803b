"""Receive → store → index → completion → analysis on a node of the test, step by step, without a network."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage, generate_uid
from sqlalchemy import select

from dicom_node.analysis.job import handler
from dicom_node.context import NodeContext
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.rejection_notes import is_rejection_note
from dicom_node.index.tables.core import Document, JobKind, QuarantineReason, Result, Study, StudyPurpose
from dicom_node.jobs import queue as jobs
from dicom_node.serving.predictor import PairPredictor
from dicom_node.studies import completion
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import Registered, Registration, register_instance
from dicom_node.studies.reopen import quarantine_instance
from model.predict import Predictor
from training.phantom.dicom import write_study_pair


@dataclass(slots=True, kw_only=True)
class Models:
    """One real predictor, leased as the worker leases it."""

    predictor: Predictor

    @contextmanager
    def lease(self) -> Iterator[PairPredictor]:
        yield self.predictor


def pair(folder: Path, seed: int) -> tuple[Dataset, Dataset]:
    """(prior, current) films of one made-up person."""
    made = write_study_pair(folder / str(seed), seed, long_side=512)
    return pydicom.dcmread(made.prior.files[0]), pydicom.dcmread(made.current.files[0])


def copied(film: Dataset, **elements: object) -> Dataset:
    """The same object with other elements; None removes."""
    buffer = BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    made = pydicom.dcmread(BytesIO(buffer.getvalue()))
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def rejection(film: Dataset, code: str = "113038", **elements: object) -> Dataset:
    """A Key Object Selection in the film's study that takes the film back."""
    note = Dataset()
    note.file_meta = FileMetaDataset()
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    note.SOPClassUID, note.SOPInstanceUID = KeyObjectSelectionDocumentStorage, generate_uid()
    note.StudyInstanceUID, note.SeriesInstanceUID, note.Modality = film.StudyInstanceUID, generate_uid(), "KO"
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyTime"):
        setattr(note, keyword, film[keyword].value)
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = code, "DCM", "Rejected"
    note.ConceptNameCodeSequence = [title]
    reference, series, study = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = film.SOPClassUID, film.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = film.SeriesInstanceUID, [reference]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = film.StudyInstanceUID, [series]
    note.CurrentRequestedProcedureEvidenceSequence = [study]
    for keyword, value in elements.items():
        setattr(note, keyword, value)
    return note


def encoded(film: Dataset) -> bytes:
    """The data set's bytes, explicit VR little endian."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, film)
    return stream.getvalue()


def receive(node: NodeContext, film: Dataset, *, purpose: str = "routed") -> Registration:
    """Take one object as the receiver does; a conflict goes into quarantine."""
    data = encoded(film)
    meta = FileMeta(
        sop_class_uid=str(film.SOPClassUID),
        sop_instance_uid=str(film.SOPInstanceUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
    )
    stored = node.store.put(data, meta)
    received = ReceivedInstance(
        stored=stored,
        header=read_header(data, meta.transfer_syntax_uid),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae_title="MODALITY",
        purpose=StudyPurpose(purpose),
        is_rejection_note=is_rejection_note(data, meta),
    )
    with node.database.write() as session:
        found = register_instance(session, received, now=node.clock())
        if found.outcome is Registered.CONFLICT:
            quarantine_instance(
                session,
                reason=QuarantineReason.CONFLICT,
                detail=found.detail,
                stored=type(stored)(
                    path=node.store.quarantine(stored.path), sha256=stored.sha256, size_bytes=stored.size_bytes
                ),
                sop_class_uid=meta.sop_class_uid,
                sop_instance_uid=meta.sop_instance_uid,
                calling_ae_title="MODALITY",
                address="",
                now=node.clock(),
                disputes=found.disputes,
            )
    return found


def analyse_all(node: NodeContext, models: Models) -> None:
    """Close what is open and do every analyse job that is due."""
    later = node.clock() + dt.timedelta(seconds=node.settings.completion.quiet_seconds + 1)
    node.clock.now = later  # type: ignore[attr-defined]
    with node.database.write() as session:
        completion.sweep(session, completion=node.settings.completion, now=later)
    while True:
        with node.database.write() as session:
            job = jobs.claim(session, kinds=(JobKind.ANALYSE,), owner="test")
        if job is None:
            return
        handler(models)(job, node)  # type: ignore[arg-type]


def current_results(node: NodeContext, study_instance_uid: str) -> list[Result]:
    with node.database.read() as session:
        return list(
            session.scalars(
                select(Result)
                .join(Study, Result.study_pk == Study.id)
                .where(Study.study_instance_uid == study_instance_uid, Result.is_current)
                .order_by(Result.id)
            )
        )


def document(node: NodeContext, result: Result, kind: str = "reading") -> Dataset:
    """A result's document from the disk."""
    with node.database.read() as session:
        row = session.scalars(select(Document).where(Document.result_pk == result.id, Document.kind == kind)).one()
    return pydicom.dcmread(node.documents_dir / row.path)


def text_of(item: Dataset) -> str:
    """All text values of an SR."""
    own = [str(item.TextValue)] if "TextValue" in item else []
    return "\n".join([*own, *(text_of(child) for child in item.get("ContentSequence", []))])


def predecessors(dataset: Dataset) -> set[str]:
    return {
        str(reference.ReferencedSOPInstanceUID)
        for study in dataset.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
