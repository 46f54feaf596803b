"""A node with real images, a real result of them and its pages on loopback, for whoever logs in."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
from sqlalchemy import update

from dicom_node.admin.passwords import hash_password
from dicom_node.analysis.outputs import write_result
from dicom_node.context import NodeContext
from dicom_node.deliver import enqueue_deliveries
from dicom_node.dicom.header import read_header
from dicom_node.index.tables.core import Document, Outcome, Result, Study, StudyState
from dicom_node.report.documents import build_documents
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.result import result_json
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import register_instance
from dicom_node.web.server import WebServer
from model.images.sandbox import decode_in_child
from model.schema import Change, Finding, ImageRole, ModelIdentity, Prediction, Presence, Region
from tests.support.delivery_node import Clock, make_node
from training.phantom.dicom import write_study_pair

PASSWORD = "correct horse battery"
ROLES = ("viewer", "radiologist", "administrator")
_HASH = hash_password(PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The running pages and what there is to see."""

    node: NodeContext
    clock: Clock
    base: str
    study_instance_uid: str = ""
    current_sop: str = ""
    prior_sop: str = ""
    patient_name: str = ""
    patient_id: str = ""

    @contextmanager
    def client(self, role: str | None = None) -> Iterator[httpx.Client]:
        """A client, logged in as `role` where one is given."""
        with httpx.Client(base_url=self.base, trust_env=False, timeout=60) as client:
            if role is not None:
                answer = client.post("/login", data={"name": role, "password": PASSWORD, "csrf": token(client)})
                assert answer.status_code == 303, answer.text
            yield client


def token(client: httpx.Client, path: str = "/login") -> str:
    """The CSRF token of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None, f"{path} has no form"
    return found[1]


@contextmanager
def running_site(
    folder: Path,
    *destinations: dict[str, Any],
    with_study: bool = True,
    web_settings: dict[str, Any] | None = None,
    not_ready: Callable[[], Sequence[str]] = tuple,
    **sections: Any,
) -> Iterator[Site]:
    """A node, with one compared study where wanted, served."""
    clock = Clock()
    web = {"port": 0, "users": [{"name": role, "password_hash": _HASH, "role": role} for role in ROLES]}
    web |= web_settings or {}
    node = make_node(folder, clock, *destinations, **{"web": web, **sections})
    seen = _add_study(node, folder / "films") if with_study else {}
    server = WebServer(dataclasses.replace(node, not_ready=not_ready))
    server.start()
    try:
        yield Site(node=node, clock=clock, base=f"http://127.0.0.1:{server.port}", **seen)
    finally:
        server.stop()
        node.database.close()


def _add_study(node: NodeContext, folder: Path) -> dict[str, str]:
    pair = write_study_pair(folder, 3, wanted={"pleural_effusion": Change.NEW}, long_side=512)
    headers = [add_image(node, study.files[0]) for study in (pair.prior, pair.current)]
    add_result(node, *headers)
    return {
        "study_instance_uid": pair.current.study_instance_uid,
        "current_sop": pair.current.sop_instance_uid,
        "prior_sop": pair.prior.sop_instance_uid,
        "patient_name": str(headers[1].PatientName),
        "patient_id": str(headers[1].PatientID),
    }


def add_image(node: NodeContext, path: Path) -> pydicom.Dataset:
    """Store and register a file as the receiver does; returns its header."""
    with path.open("rb") as stream:
        stored = node.store.put_part10(stream)
    dataset = pydicom.dcmread(path)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    received = ReceivedInstance(
        stored=stored,
        header=read_header(node.store.read_data_set(stored.path), syntax),
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=syntax,
        calling_ae_title="MODALITY",
    )
    with node.database.write() as session:
        register_instance(session, received, now=node.clock())
    return dataset


def add_result(node: NodeContext, prior: pydicom.Dataset, current: pydicom.Dataset) -> None:
    """A result of the pair with its documents and deliveries, as the analysis writes them."""
    request = report_request(node, prior, current)
    documents = build_documents(request)
    folder = Path("00") / hashlib.sha256(documents[0].sop_instance_uid.encode()).hexdigest()[:32]
    digests = write_result(node.documents, str(folder), request, documents)
    with node.database.write() as session:
        study = session.query(Study).filter_by(study_instance_uid=str(current.StudyInstanceUID)).one()
        result = Result(
            study_pk=study.id,
            revision=1,
            sop_instance_uid=str(current.SOPInstanceUID),
            outcome=Outcome.COMPARED,
            prior_study_instance_uid=str(prior.StudyInstanceUID),
            prior_sop_instance_uid=str(prior.SOPInstanceUID),
            prior_reasons=list(request.prior_reasons),
            prediction=result_json(request),
            model_name=request.model.name,
            model_version=request.model.version,
            device_uid=request.model.device_uid,
            seconds={"encode": 0.2, "score": 0.4},
            created_at=node.clock(),
        )
        session.add(result)
        session.flush()
        rows = [
            Document(
                result_pk=result.id,
                kind=document.kind,
                sop_instance_uid=document.sop_instance_uid,
                sop_class_uid=document.sop_class_uid,
                series_instance_uid=document.series_instance_uid,
                path=str(folder / f"{document.kind}.dcm"),
                sha256=digests[document.kind],
            )
            for document in documents
        ]
        session.add_all(rows)
        session.flush()
        enqueue_deliveries(session, rows, node.settings.destinations, node.clock())
        session.execute(
            update(Study).values(state=StudyState.ANALYSED, completed_at=node.clock(), completed_by="quiet")
        )


def report_request(node: NodeContext, prior: pydicom.Dataset, current: pydicom.Dataset) -> ReportRequest:
    """A plausible analysis of the pair: a new effusion with a marked region; a pneumothorax is only possible."""
    rows, columns = int(current.Rows), int(current.Columns)
    box = ((0.6, 0.57), (0.87, 0.57), (0.87, 0.78), (0.6, 0.78), (0.6, 0.57))
    region = Region(
        role=ImageRole.CURRENT,
        points=tuple((x * columns, y * rows) for x, y in box),
        method="occlusion relevance",
    )
    findings = (
        Finding(key="cardiomegaly", presence=Presence.ABSENT, probability=0.08, prior_probability=0.07),
        Finding(
            key="pleural_effusion",
            presence=Presence.PRESENT,
            probability=0.93,
            prior_probability=0.04,
            change=Change.NEW,
            change_probability=0.9,
            location="left",
            level="moderate",
            regions=(region,),
        ),
        Finding(
            key="pneumothorax", presence=Presence.ABSTAINED, probability=0.48, location="bilateral", regions=(region,)
        ),
    )
    model = ModelIdentity(name="LUMEN demonstration", version="test", device_uid="2.25.4711", demonstration=True)

    def image(dataset: pydicom.Dataset) -> SourceImage:
        header = pydicom.Dataset(dataset)
        del header.PixelData
        return SourceImage(header=header, image=decode_in_child(Path(str(dataset.filename))))

    return ReportRequest(
        current=image(current),
        prior=image(prior),
        outcome=Outcome.COMPARED,
        reason="",
        prior_reasons=("The most recent frontal chest radiograph of this patient.", "Same view (PA)."),
        prediction=Prediction(findings=findings, model=model),
        model=model,
        produced_at=dt.datetime(2026, 3, 1, 22, 0, tzinfo=dt.UTC),
        language=node.settings.node.language,
    )
