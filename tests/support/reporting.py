"""Helpers of report tests: a node with a compared study, its SRs and HL7 messages, jobs run as the worker runs them."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.dicom.header import read_header
from dicom_node.errors import NodeError
from dicom_node.feedback.reports import job as handle
from dicom_node.index.tables.core import Feedback, JobKind, Outcome, Result, Study, StudyPurpose, StudyState
from dicom_node.index.tables.reports import ReceivedReport
from dicom_node.jobs import queue as jobs
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.received_reports import result_came
from dicom_node.studies.register import Registration, register_instance
from tests.support.delivery_node import ACCESSION, BASIC_TEXT_SR, PATIENT_ID, Clock, make_node, structured_report

STUDY, IMAGE, PRIOR_IMAGE = (
    "1.2.826.0.1.3680043.8.498.71",
    "1.2.826.0.1.3680043.8.498.72",
    "1.2.826.0.1.3680043.8.498.73",
)
DEVICE = "2.25.4711"
TEXT = "FINDINGS: Moderate left pleural effusion, increased. No pneumothorax. The heart is not enlarged."


@contextmanager
def reporting_node(folder: Path, **sections: Any) -> Iterator[tuple[NodeContext, Clock]]:
    """A node with one analysed and compared study."""
    clock = Clock()
    node = make_node(folder, clock, **sections)
    try:
        yield node, clock
    finally:
        node.database.close()


def finding(key: str, presence: str, **more: Any) -> dict[str, Any]:
    """One finding as result.json holds it."""
    return {"key": key, "name": key, "presence": presence, "probability": 0.9 if presence == "present" else 0.1, **more}


STATED = (
    finding("pleural_effusion", "present", change="new", change_probability=0.8, location="left", level="moderate"),
    finding("pneumothorax", "absent"),
    finding("cardiomegaly", "present", change="stable"),
    finding("edema", "abstained"),
)


def add_study(
    node: NodeContext,
    *,
    study_uid: str = STUDY,
    image: str = IMAGE,
    findings: tuple[dict[str, Any], ...] = STATED,
    patient_id: str = PATIENT_ID,
    accession: str = ACCESSION,
    device_uid: str = DEVICE,
    prior_date: str = "",
) -> int:
    """An analysed study, or a newer result of one; returns the result's key."""
    now = node.clock()
    with node.database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == study_uid)).one_or_none()
        if study is None:
            study = Study(
                study_instance_uid=study_uid,
                patient_id=patient_id,
                accession_number=accession,
                study_date="20260301",
                first_instance_at=now,
                last_instance_at=now,
            )
            session.add(study)
            session.flush()
        study.purpose, study.state = StudyPurpose.ROUTED, StudyState.ANALYSED
        prior_uid = ""
        if prior_date:
            prior_uid = new_uid()
            session.add(
                Study(
                    study_instance_uid=prior_uid,
                    patient_id=patient_id,
                    study_date=prior_date,
                    first_instance_at=now,
                    last_instance_at=now,
                )
            )
        for earlier in study.results:
            earlier.is_current = False
        session.flush()
        result = Result(
            study_pk=study.id,
            revision=1,
            generation=len(study.results) + 1,
            sop_instance_uid=image,
            outcome=Outcome.COMPARED,
            prior_sop_instance_uid=PRIOR_IMAGE,
            prior_study_instance_uid=prior_uid,
            prediction={"findings": list(findings), "abstained": None},
            device_uid=device_uid,
            created_at=now,
        )
        session.add(result)
        session.flush()
        result_came(session, study_uid, now=now)  # as the analysis does
        return result.id


def report_sr(text: str = TEXT, *, study_uid: str = STUDY, sop_class: str = BASIC_TEXT_SR, **more: Any) -> Dataset:
    """A radiologist's verified report of the study; `more` sets elements by keyword."""
    ds = structured_report(study_uid, sop_class, text=text)
    ds.Manufacturer, ds.ManufacturerModelName = "RIS Ltd", "RIS"
    observer = Dataset()
    observer.VerifyingObserverName, observer.VerifyingOrganization = "Curie^Marie", "Hospital"
    observer.VerificationDateTime = "20260301230000"
    ds.VerificationFlag = "VERIFIED"
    ds.VerifyingObserverSequence = Sequence([observer])
    for keyword, value in more.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def replacing(ds: Dataset, earlier: Dataset) -> Dataset:
    """`ds` naming `earlier` as its predecessor (PS3.3 table C.17-2)."""
    sop, series, study = Dataset(), Dataset(), Dataset()
    sop.ReferencedSOPClassUID, sop.ReferencedSOPInstanceUID = earlier.SOPClassUID, earlier.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = earlier.SeriesInstanceUID, Sequence([sop])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = earlier.StudyInstanceUID, Sequence([series])
    ds.PredecessorDocumentsSequence = Sequence([study])
    return ds


def receive(node: NodeContext, ds: Dataset) -> Registration:
    """Store and register an object as the receiver does."""
    buffer = BytesIO()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    stored = node.store.put_part10(buffer)
    syntax = str(ds.file_meta.TransferSyntaxUID)
    received = ReceivedInstance(
        stored=stored,
        header=read_header(node.store.read_data_set(stored.path), syntax),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        transfer_syntax_uid=syntax,
        calling_ae_title="RIS",
    )
    with node.database.write() as session:
        return register_instance(session, received, now=node.clock())


def read_reports(node: NodeContext) -> int:
    """Run every report job that is due, in the way of `dicom_node.jobs.worker`; returns how many ran."""
    ran = 0
    while True:
        with node.database.write() as session:
            job = jobs.claim(session, kinds=[JobKind.REPORT], owner="test:1:report")
        if job is None:
            return ran
        ran += 1
        try:
            handle.handle(job, node)
        except NodeError as error:
            with node.database.write() as session:
                jobs.fail(session, job, str(error))


def reports(node: NodeContext) -> list[ReceivedReport]:
    """All reports, oldest first."""
    with node.database.read() as session:
        return list(session.scalars(select(ReceivedReport).order_by(ReceivedReport.id)))


def words(node: NodeContext) -> dict[tuple[str, str], tuple[str, str, str]]:
    """The stored feedback: (finding, aspect) → (stated, verdict, value)."""
    with node.database.read() as session:
        rows = session.scalars(select(Feedback).where(Feedback.withdrawn_at.is_(None)).order_by(Feedback.id)).all()
    return {(row.finding, row.aspect): (row.stated, row.verdict.value, row.value) for row in rows}


def oru(
    text: str = TEXT,
    *,
    control: str = "MSG1",
    study_uid: str = STUDY,
    accession: str = ACCESSION,
    patient_id: str = PATIENT_ID,
    status: str = "F",
    at: str = "20260301230500",
    charset: str = "",
    kind: str = "ORU^R01^ORU_R01",
    filler: str = "FILL-1",
) -> str:
    """A report message as a RIS sends it; every line of the text is an OBX."""
    header = "|".join(["MSH", "^~\\&", "RIS", "HOSPITAL", "LUMEN", "NODE", at, "", kind, control, "P", "2.5.1"])
    lines = [f"{header}||||||{charset}", f"PID|1||{patient_id}^^^HOSP||Doe^Jane||19600101|F"]
    obr = ["OBR", "1", "PLACE-1", filler, "71020^Chest"] + [""] * 28
    obr[18], obr[22], obr[25], obr[32] = accession, at, status, "4711&Curie&Marie"
    lines.append("|".join(obr))
    if study_uid:
        lines.append(f"OBX|1|ST|113014^DICOM Study^DCM||{study_uid}||||||F")
    for number, line in enumerate(text.split("\n"), start=2):
        lines.append(f"OBX|{number}|TX|18748-4^Diagnostic imaging report^LN||{line}||||||{status}")
    return "\r".join(lines) + "\r"


class MllpPeer:
    """A sender of MLLP frames on one connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def __enter__(self) -> MllpPeer:
        return self

    def __exit__(self, *_rest: object) -> None:
        self._socket.close()

    def send(self, message: str | bytes, *, framed: bool = True) -> None:
        data = message.encode("utf-8") if isinstance(message, str) else message
        self._socket.sendall(b"\x0b" + data + b"\x1c\x0d" if framed else data)

    def answer(self) -> str:
        """The next acknowledgement; "" where the listener closed the connection."""
        got = b""
        while not got.endswith(b"\x1c\x0d"):
            try:
                part = self._socket.recv(4096)
            except ConnectionResetError:
                return ""
            if not part:
                return ""
            got += part
        return got.strip(b"\x0b\x1c\x0d").decode("ascii")

    def ask(self, message: str | bytes) -> str:
        """Send a message; the MSA segment of the answer."""
        self.send(message)
        return next((line for line in self.answer().split("\r") if line.startswith("MSA")), "")


def new_uid() -> str:
    return str(generate_uid())


def moment(day: int, hour: int = 0) -> dt.datetime:
    """A day of March 2026."""
    return dt.datetime(2026, 3, day, hour, tzinfo=dt.UTC)
