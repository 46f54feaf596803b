"""Archives to fetch priors from: a patient's films and what must not be taken for them, in Orthanc and in dcmqrscp."""

from __future__ import annotations

import datetime as dt
import io
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from sqlalchemy import select

from dicom_node.config import QueryPeer
from dicom_node.context import NodeContext
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.uids import derive_uid
from dicom_node.index.tables.core import PriorSearch, Study, StudyPurpose
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import register_instance
from tests.support.common import free_port, listening, program, wait_until
from tests.support.dcmtk import ENVIRONMENT
from tests.support.receiver import RunningNode, radiograph, running_node

CURRENT = "20240517"
SIDE = 128
"""Pixels: the rules refuse smaller pictures."""


def uid(study: str) -> str:
    return derive_uid("archive", study)


def film(study: str, date: str, number: int = 1, *, series: str = "1", **elements: Any) -> Dataset:
    """One film of the patient P1 of HOSP, unless `elements` say otherwise."""
    pixels = np.random.default_rng(number).integers(0, 4096, (SIDE, SIDE), dtype=np.uint16)
    values: dict[str, Any] = {
        "StudyInstanceUID": uid(study),
        "SeriesInstanceUID": derive_uid("archive", study, series),
        "SOPInstanceUID": derive_uid("archive", study, series, str(number)),
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "InstanceNumber": number,
        "Rows": SIDE,
        "Columns": SIDE,
        "PixelData": pixels.tobytes(),
    }
    return radiograph(**(values | elements))


FILMS = (
    film("january", "20240110"),
    film("march", "20240310"),
    film("march", "20240310", 2, series="2", ViewPosition="LL"),
    film("knee", "20240401", BodyPartExamined="KNEE", StudyDescription="Knee"),
    film("namesake", "20240402", IssuerOfPatientID="CLINIC B", PatientBirthDate="19510203", PatientName="Roe^Mary"),
    film("conflict", "20240403", PatientBirthDate="19510203"),
    film("ct", "20240405", SOPClassUID=str(CTImageStorage), Modality="CT"),
    film("later", "20240601"),
    film("ancient", "19990101"),
    film("somebody", "20240301", PatientID="P12", PatientName="Poe^Anna"),
)
"""Studies that the archives hold besides the current one."""
CURRENT_FILM = film("current", CURRENT)


def part10(data_set: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data_set, enforce_file_format=True)
    return buffer.getvalue()


def data_set_bytes(data_set: Dataset) -> bytes:
    """Without preamble and File Meta Information, as it goes over the wire."""
    whole = part10(data_set)
    length = int.from_bytes(whole[140:144], "little")
    return whole[144 + length :]


def receive(node: NodeContext, data_set: Dataset, *, purpose: str = "routed", now: dt.datetime | None = None) -> None:
    """Put an object into a node's store and index as its receiver does."""
    meta = FileMeta(
        sop_class_uid=data_set.SOPClassUID,
        sop_instance_uid=data_set.SOPInstanceUID,
        transfer_syntax_uid=data_set.file_meta.TransferSyntaxUID,
    )
    content = data_set_bytes(data_set)
    received = ReceivedInstance(
        stored=node.store.put(content, meta),
        header=read_header(content, meta.transfer_syntax_uid),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        purpose=StudyPurpose(purpose),
    )
    with node.database.write() as session:
        register_instance(session, received, now=now or node.clock())


@contextmanager
def fetching_node(folder: Path, peers: list[QueryPeer], *, port: int = 0, **priors: Any) -> Iterator[NodeContext]:
    """A node that listens as LUMEN, knows these query peers, and holds the current study."""
    sections: dict[str, Any] = {
        "query": [peer.model_dump() for peer in peers],
        "priors": {"query_seconds": 20, "retrieve_seconds": 20, **priors},
    }
    with running_node(folder, node={"port": port}, **sections) as running:
        node = context(running)
        receive(node, CURRENT_FILM)
        try:
            yield node
        finally:
            node.stop.set()


def context(running: RunningNode) -> NodeContext:
    return NodeContext(
        settings=running.settings, database=running.database, store=running.store, stop=threading.Event()
    )


def held(node: NodeContext) -> dict[str, tuple[str, int]]:
    """Study name → purpose and number of instances of what the node holds beside the current study."""
    names = {uid(name): name for name in ("january", "march", "knee", "namesake", "conflict", "ct", "later", "ancient")}
    with node.database.read() as session:
        rows = session.scalars(select(Study).where(Study.study_instance_uid != uid("current")))
        return {
            names.get(row.study_instance_uid, row.study_instance_uid): (
                row.purpose,
                sum(len(series.instances) for series in row.series),
            )
            for row in rows
        }


def searches(node: NodeContext) -> list[PriorSearch]:
    with node.database.read() as session:
        return list(session.scalars(select(PriorSearch).order_by(PriorSearch.peer)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Qrscp:
    """A running dcmqrscp."""

    port: int


@contextmanager
def running_qrscp(folder: Path, *, node_port: int, films: Sequence[Dataset] = FILMS) -> Iterator[Qrscp]:
    """DCMTK's query/retrieve server, filled with `films` by storescu; it may move to LUMEN at `node_port`."""
    binary, sender, port = program("dcmqrscp"), program("storescu"), free_port()
    storage = folder / "storage"
    storage.mkdir(parents=True)
    (folder / "dcmqrscp.cfg").write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
node = (LUMEN, 127.0.0.1, {node_port})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {storage} RW (200, 1024mb) ANY
AETable END
""",
        "utf-8",
    )
    command = [binary, "-c", str(folder / "dcmqrscp.cfg")]
    with (folder / "dcmqrscp.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    try:
        wait_until(lambda: listening(port), seconds=30, what="dcmqrscp to listen")
        with tempfile.TemporaryDirectory() as files:
            for number, data_set in enumerate(films):
                Path(files, f"{number}.dcm").write_bytes(part10(data_set))
            names = sorted(str(path) for path in Path(files).iterdir())
            send = [sender, "-aet", "TEST", "-aec", "QRSCP", "127.0.0.1", str(port), *names]
            subprocess.run(send, check=True, env=ENVIRONMENT, timeout=60, capture_output=True)
        yield Qrscp(port=port)
    finally:
        process.terminate()
        process.wait(20)
