"""A receiver on loopback for tests, with its index and store in a folder of its own, and DICOM objects to send it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from sqlalchemy import func, select

from dicom_node.config import Settings
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Instance, Quarantine
from dicom_node.receive import Receiver
from dicom_node.storage.instance_store import InstanceStore
from dicom_node.storage.opening import instances_dir, open_store
from tests.support.databases import add_tables, index_url
from tests.support.half_written import half_written

CR = str(ComputedRadiographyImageStorage)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningNode:
    """A started receiver and what it writes to."""

    settings: Settings
    database: Database
    store: InstanceStore
    receiver: Receiver

    @property
    def port(self) -> int:
        return self.receiver.port

    def instances(self) -> list[Instance]:
        with self.database.read() as session:
            rows = list(session.scalars(select(Instance).order_by(Instance.id)))
            session.expunge_all()
            return rows

    def quarantined(self) -> list[Quarantine]:
        with self.database.read() as session:
            rows = list(session.scalars(select(Quarantine).order_by(Quarantine.id)))
            session.expunge_all()
            return rows

    def count(self, table: Any) -> int:
        with self.database.read() as session:
            return int(session.scalar(select(func.count()).select_from(table)) or 0)

    def files(self) -> list[Path]:
        """Everything in the store's folders but its lock files and the names that wait for a file."""
        root = instances_dir(self.settings)
        return list(root.rglob("*.dcm")) + half_written(root)


def settings_for(folder: Path, **sections: Any) -> Settings:
    """Settings of a node on loopback, ephemeral ports; `sections` override keys of a table."""
    node = {"host": "127.0.0.1", "port": 0, "data_dir": folder, **sections.pop("node", {})}
    receive = {"min_free_mib": 0, **sections.pop("receive", {})}
    database = {"url": index_url(folder)}
    return Settings.model_validate({"node": node, "database": database, "receive": receive, **sections})


@contextmanager
def running_node(folder: Path, **sections: Any) -> Iterator[RunningNode]:
    """A receiver that listens."""
    settings = settings_for(folder, **sections)
    database = Database(settings.database.url)
    add_tables(database)
    store = open_store(settings)
    receiver = Receiver(settings, database, store)
    receiver.start()
    try:
        yield RunningNode(settings=settings, database=database, store=store, receiver=receiver)
    finally:
        receiver.stop()
        database.close()


def radiograph(**elements: Any) -> Dataset:
    """A small computed radiograph; `elements` override by keyword, None removes."""
    data_set = Dataset()
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "SOPClassUID": CR,
        "SOPInstanceUID": generate_uid(),
        "StudyDate": "20260102",
        "SeriesDate": "20260102",
        "AcquisitionDate": "20260102",
        "StudyTime": "101112",
        "AcquisitionTime": "101213.5",
        "AccessionNumber": "A1",
        "Modality": "CR",
        "StudyDescription": "Chest",
        "PatientName": "Doe^Jane",
        "PatientID": "P1",
        "IssuerOfPatientID": "HOSP",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "ViewPosition": "PA",
        "BodyPartExamined": "CHEST",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 8,
        "Columns": 8,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **elements,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(data_set, keyword, value)
    if "PixelData" not in elements:
        data_set.PixelData = struct.pack("<64H", *range(64))
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.MediaStorageSOPClassUID = data_set.get("SOPClassUID", CR)
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.get("SOPInstanceUID", "1.2.3")
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data_set


def send(node: RunningNode, *data_sets: Dataset, calling: str = "TESTSCU", port: int | None = None) -> list[int]:
    """Send data sets by C-STORE on one association; returns the statuses."""
    ae = AE(ae_title=calling)
    for data_set in data_sets:
        if (data_set.SOPClassUID, data_set.file_meta.TransferSyntaxUID) not in [
            (context.abstract_syntax, context.transfer_syntax[0]) for context in ae.requested_contexts
        ]:
            ae.add_requested_context(data_set.SOPClassUID, data_set.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port or node.port, ae_title=node.settings.node.ae_title)
    assert association.is_established
    try:
        return [int(association.send_c_store(data_set).Status) for data_set in data_sets]
    finally:
        association.release()


def echo(port: int, *, calling: str = "TESTSCU", called: str = "LUMEN", tls_args: Any = None) -> int | None:
    """The status of a C-ECHO, None where there was no association."""
    ae = AE(ae_title=calling)
    ae.add_requested_context("1.2.840.10008.1.1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    association = ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls_args)
    if not association.is_established:
        return None
    try:
        return int(association.send_c_echo().Status)
    finally:
        association.release()
