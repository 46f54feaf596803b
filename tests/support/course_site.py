"""A running node that hears a laboratory, its archive and two patients: what is sent to it, what it then holds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
from pydicom import Dataset
from sqlalchemy import func, select

from dicom_node.admin.passwords import hash_password
from dicom_node.index.tables.chart import ChartEntry
from dicom_node.index.tables.core import Delivery, DeliveryState, Document, Job, JobKind, JobState, Result, Study
from dicom_node.index.tables.questions import StudyQuestion
from tests.support.chart_messages import SENDER, lab, order
from tests.support.common import free_port, wait_until
from tests.support.course_films import CODES, SITE_CODES, Patient, SentFilm
from tests.support.course_reports import references
from tests.support.dcmtk import storescu
from tests.support.node import Node, new_node
from tests.support.orthanc import Orthanc
from tests.support.reporting import MllpPeer
from tests.support.web_site import token

PASSWORD = "correct horse battery"
MISLEADING = range(777, 784)
"""Values of results that may reach no model."""
TITLES = {"126000": "machine", "18748-4": "reading"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseSite:
    """A node, its archive, and two patients with the same films."""

    node: Node
    orthanc: Orthanc
    ordered: Patient
    shuffled: Patient

    def reports(self, patient: Patient, kind: str) -> list[Dataset]:
        """The one document of a kind of each film, oldest first, that no other in the archive replaces."""
        return [self._newest(film, kind) for film in patient.films]

    def _newest(self, film: SentFilm, kind: str) -> Dataset:
        items = self.orthanc.instances(StudyInstanceUID=film.study_uid, Modality="SR")
        documents = [pydicom.dcmread(io.BytesIO(self.orthanc.file(item["ID"]))) for item in items]
        replaced = {uid for one in documents for uid in references(one, "PredecessorDocumentsSequence")}
        (newest,) = (
            one
            for one in documents
            if TITLES[one.ConceptNameCodeSequence[0].CodeValue] == kind and one.SOPInstanceUID not in replaced
        )
        return newest

    def results(self, patient: Patient) -> list[Result]:
        """The current results, oldest film first."""
        with self.node.database() as database, database.read() as session:
            rows = session.execute(
                select(Study.study_instance_uid, Result)
                .join(Result.study)
                .where(Result.is_current, Study.patient_id == patient.patient_id)
            ).all()
        by_uid = dict(rows)
        return [by_uid[uid] for uid in patient.study_uids if uid in by_uid]

    def is_quiet(self) -> bool:
        """Nothing is to be analysed or delivered."""
        with self.node.database() as database, database.read() as session:
            open_jobs = Job.state.in_([JobState.READY, JobState.RUNNING]) & (Job.kind == JobKind.ANALYSE)
            ended = Delivery.state.in_([DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED])
            return not any(session.scalar(select(func.count()).where(open_)) for open_ in (open_jobs, ~ended))

    def send(self, patient: Patient, films: Sequence[int], *, results: int) -> None:
        """Send films over one association and wait until all that follows from them has happened."""
        storescu([patient.films[number].path for number in films], self.node.port)
        what = f"{results} results of {patient.patient_id}"
        wait_until(lambda: len(self.results(patient)) == results and self.is_quiet(), seconds=600, what=what)


def course_node(folder: Path, *, extra: str = "") -> Node:
    """A node that hears the laboratory and has one user."""
    sections = f"""[hl7]
enabled = true
port = {free_port()}
[chart]
senders = ["{SENDER}"]
lab_hours = 20
{SITE_CODES}
[drift]
min_pairs = 20
{extra}"""
    node = new_node(folder, extra=sections)
    hashed = hash_password(PASSWORD)
    doctor = f'[[web.users]]\nname = "doctor"\nrole = "radiologist"\npassword_hash = "{hashed}"\n'
    text = node.config.read_text("utf-8").replace("[web]\nenabled = false", f"[web]\nport = {free_port()}")
    node.config.write_text(text + doctor, "utf-8")
    return node


def misleading(patient: Patient) -> list[str]:
    """Messages around the third film none of which may reach a model."""
    film = patient.films[2]
    crp, unit = CODES["CRP"]
    known = {"taken": film.at(hours=2), "reported": film.at(hours=1), "at": film.at(hours=1)}
    after = {"taken": film.at(hours=2), "reported": film.at(hours=-1), "at": film.at(hours=-1)}
    stranger = f"{patient.patient_id}^^^ELSEWHERE"
    return [
        lab("777", code=crp, unit=unit, patient=stranger, filler="X-1", **known),
        lab("778", code=crp, unit=unit, patient=patient.pid, filler="X-2", **after),
        lab("779", code=crp, unit=unit, patient=patient.pid, filler="X-3", **(known | {"taken": film.at(hours=-1)})),
        lab("780", code=crp, unit=unit, patient=patient.pid, filler="X-4", **known),
        lab("780", code=crp, unit=unit, patient=patient.pid, filler="X-4", **(known | {"at": film.at()}), status="W"),
        lab("781", code=crp, unit="furlong", patient=patient.pid, filler="X-5", **known),
        lab("782", code="L0815^CRP^HIS", unit=unit, patient=patient.pid, filler="X-6", **known),
        lab("783", code=crp, unit=unit, patient=patient.pid, filler="X-7", **known, status="P"),
        order(
            code="C03CA01^Furosemide^ATC",
            number="X-8",
            patient=stranger,
            placed=film.at(hours=9),
            begins=film.at(hours=9),
        ),
        order("CA", code="", number="X-9", patient=patient.pid, placed=film.at(hours=4)),
        order(
            code="J01CR05^Drug^ATC", number="X-9", patient=patient.pid, placed=film.at(hours=5), begins=film.at(hours=3)
        ),
    ]


def send_chart(site: CourseSite, patient: Patient) -> None:
    """The patient's own messages, those that mislead, and the own ones once more."""
    messages = patient.messages()
    with MllpPeer(site.node.settings.hl7.port) as peer:
        for message in [*messages, *misleading(patient), *messages]:
            assert peer.ask(message).startswith("MSA|AA|"), message


def kept_questions(site: CourseSite) -> list[tuple[str, str, bool]]:
    """(question, answer, whether it was refused), oldest first."""
    with site.node.database() as database, database.read() as session:
        rows = session.scalars(select(StudyQuestion).order_by(StudyQuestion.id)).all()
    return [(row.text, row.answer, row.is_refused) for row in rows]


def row_counts(site: CourseSite) -> list[int]:
    """Of results, documents, entries of the chart, and deliveries."""
    with site.node.database() as database, database.read() as session:
        return [session.scalar(select(func.count(table.id))) or 0 for table in (Result, Document, ChartEntry, Delivery)]


def ask(site: CourseSite, study_uid: str, question: str) -> dict[str, Any]:
    """Ask over the API; the answer as the API gives it."""
    with client(site) as doctor:
        csrf = doctor.get("/api/token").json()["csrf"]
        answer = doctor.post(
            f"/api/studies/{study_uid}/questions", json={"question": question}, headers={"X-CSRF-Token": csrf}
        )
        answer.raise_for_status()
        return dict(answer.json())


@contextmanager
def client(site: CourseSite) -> Iterator[httpx.Client]:
    """The doctor, logged in."""
    base = f"http://127.0.0.1:{site.node.settings.web.port}"
    with httpx.Client(base_url=base, trust_env=False, timeout=60) as client:
        client.post("/login", data={"name": "doctor", "password": PASSWORD, "csrf": token(client)})
        yield client
