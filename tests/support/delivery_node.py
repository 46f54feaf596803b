"""A node with an index, a settable clock and results to deliver; jobs are run as the worker runs them."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select

from dicom_node import deliver
from dicom_node.config import Settings
from dicom_node.context import NodeContext
from dicom_node.errors import DeliveryError, NodeError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, Document, Job, JobKind, JobState, Outcome, Result, Study
from dicom_node.jobs import queue as jobs
from dicom_node.storage.folder_store import FolderStore
from tests.support.databases import add_tables, index_url

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
START = dt.datetime(2026, 3, 1, 22, 0, tzinfo=dt.UTC)
PATIENT_ID, PATIENT_NAME, ACCESSION = "PID-77120", "Marchetti^Ottavia", "ACC-55019"


@dataclass(slots=True)
class Clock:
    """Time that stands still until a test moves it."""

    now: dt.datetime = START

    def __call__(self) -> dt.datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += dt.timedelta(**delta)


def make_node(folder: Path, clock: Clock, *destinations: dict[str, Any], **sections: Any) -> NodeContext:
    """A node with these destinations whose index belongs to `folder`; short time-outs, and one clock for all of it."""
    values: dict[str, Any] = {
        "node": {"data_dir": folder / "data"},
        "database": {"url": index_url(folder)},
        "destinations": destinations,
        "delivery": {"connect_seconds": 5, "response_seconds": 10},
    }
    settings = Settings(**{**values, **sections})
    database = Database(settings.database.url)
    database.clock = clock
    add_tables(database)
    store = FolderStore(settings.node.data_dir / "instances")
    return NodeContext(settings=settings, database=database, store=store, clock=clock)


def make_result(node: NodeContext, *, study_uid: str = "", supersede: bool = False) -> list[str]:
    """One analysed study with a machine and a reading report, queued as the analysis queues them; the document UIDs."""
    now = node.clock()
    with node.database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == study_uid)).one_or_none()
        if study is None:
            study = Study(
                study_instance_uid=study_uid or generate_uid(),
                patient_id=PATIENT_ID,
                patient_name=PATIENT_NAME,
                accession_number=ACCESSION,
                study_date="20260301",
                first_instance_at=now,
                last_instance_at=now,
            )
            session.add(study)
            session.flush()
        for earlier in study.results if supersede else ():
            earlier.is_current = False
        session.flush()
        result = Result(
            study_pk=study.id,
            revision=study.revision,
            generation=len(study.results) + 1,
            sop_instance_uid="1.2.3.4",
            outcome=Outcome.FINDINGS_ONLY,
            created_at=now,
            device_uid="1.2.3",
        )
        session.add(result)
        session.flush()
        documents = [_document(node, study, result, kind) for kind in ("machine", "reading")]
        session.add_all(documents)
        session.flush()
        deliver.enqueue_deliveries(session, documents, node.settings.destinations, now, delivery=node.settings.delivery)
        return [document.sop_instance_uid for document in documents]


def _document(node: NodeContext, study: Study, result: Result, kind: str) -> Document:
    sop_class = COMPREHENSIVE_3D_SR if kind == "machine" else BASIC_TEXT_SR
    dataset = structured_report(study.study_instance_uid, sop_class)
    path = node.documents_dir / f"{result.id}-{kind}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return Document(
        result=result,
        kind=kind,
        sop_instance_uid=dataset.SOPInstanceUID,
        sop_class_uid=sop_class,
        series_instance_uid=dataset.SeriesInstanceUID,
        path=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def structured_report(study_uid: str, sop_class: str, *, text: str = "No change. " * 400) -> Dataset:
    """A small but complete SR; delivery does not look inside."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, generate_uid()
    ds.PatientID, ds.PatientName, ds.AccessionNumber = PATIENT_ID, PATIENT_NAME, ACCESSION
    ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.StudyTime, ds.StudyID = "", "O", "20260301", "220000", "1"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "SR", 9000, 1
    ds.Manufacturer, ds.ReferringPhysicianName = "dicom-node", ""
    ds.ContentDate, ds.ContentTime = "20260301", "220000"
    ds.CompletionFlag, ds.VerificationFlag, ds.ValueType, ds.ContinuityOfContent = (
        "COMPLETE",
        "UNVERIFIED",
        "CONTAINER",
        "SEPARATE",
    )
    ds.ConceptNameCodeSequence = Sequence([_code("18748-4", "LN", "Diagnostic imaging study")])
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
    item.ConceptNameCodeSequence = Sequence([_code("121071", "DCM", "Finding")])
    ds.ContentSequence = Sequence([item])
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def run_due(node: NodeContext) -> int:
    """Run every delivery that is due at the node's clock, in the way of `dicom_node.jobs.worker`; returns how many
    ran."""
    ran = 0
    while True:
        with node.database.write() as session:
            job = jobs.claim(session, kinds=[JobKind.DELIVER], owner="test:1:deliver")
        if job is None:
            return ran
        ran += 1
        try:
            deliver.handle(job, node)
        except NodeError as error:
            with node.database.write() as session:
                permanent = isinstance(error, DeliveryError) and error.permanent
                jobs.fail(session, job, str(error), permanent=permanent)


def run_until_quiet(node: NodeContext, clock: Clock, *, days: float = 4) -> None:
    """Run what is due and let time pass to the next due job, until no delivery waits."""
    end = clock.now + dt.timedelta(days=days)
    run_due(node)
    while clock.now < end:
        with node.database.read() as session:
            waiting = list(session.scalars(select(Job.run_at).where(Job.state == JobState.READY)))
        if not waiting:
            return
        clock.now = max(clock.now, min(waiting))
        run_due(node)
    raise AssertionError("deliveries still wait after all that time")


def deliveries(node: NodeContext) -> list[Delivery]:
    """All delivery rows."""
    with node.database.read() as session:
        rows = list(session.scalars(select(Delivery).order_by(Delivery.id)))
        session.expunge_all()  # the values outlive the session
        return rows


def all_jobs(node: NodeContext) -> list[Job]:
    """All job rows."""
    with node.database.read() as session:
        rows = list(session.scalars(select(Job).order_by(Job.id)))
        session.expunge_all()  # the values outlive the session
        return rows
