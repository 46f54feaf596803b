"""Putting studies into an index as the receiver does: a header, a file's name, `register_instance`."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.dicom.header import InstanceHeader
from dicom_node.dicom.uids import derive_uid
from dicom_node.index.database import Database
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.core import Job, Study, StudyPurpose
from dicom_node.storage.instance_store import StoredFile
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import Registration, register_instance

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def study_uid(study: str) -> str:
    return derive_uid("test", study)


def received(study: str = "s", number: int = 1, *, purpose: str = "routed", **changes: Any) -> ReceivedInstance:
    """One CR image of a study; `changes` go into its header, `syntax` and `content` into its file."""
    syntax = changes.pop("syntax", ExplicitVRLittleEndian)
    content = changes.pop("content", f"{study} {number} {syntax}")
    sop_instance_uid = derive_uid("test", study, str(number))
    values: dict[str, Any] = {
        "patient_id": "P1",
        "issuer_of_patient_id": "HOSPITAL",
        "patient_birth_date": "19600130",
        "patient_sex": "M",
        "patient_name": "Weber^Hans",
        "study_date": "20240517",
        "study_time": "083000.000000",
        "acquired_at": "20240517083000.000000",
        "modality": "CR",
        "body_part_examined": "CHEST",
        "view_position": "AP",
        "rows": 2000,
        "columns": 1800,
        "image_type": "ORIGINAL\\PRIMARY",
    }
    header = InstanceHeader(
        sop_class_uid=ComputedRadiographyImageStorage,
        sop_instance_uid=sop_instance_uid,
        study_instance_uid=study_uid(study),
        series_instance_uid=derive_uid("test", study, "series"),
        elements=30,
        **(values | changes),
    )
    digest = hashlib.sha256(content.encode()).hexdigest()
    return ReceivedInstance(
        stored=StoredFile(path=f"files/{digest[:2]}/{digest[:32]}.dcm", sha256=digest, size_bytes=1000),
        header=header,
        sop_class_uid=ComputedRadiographyImageStorage,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=syntax,
        calling_ae_title="MODALITY",
        purpose=StudyPurpose(purpose),
    )


def arrive(database: Database, instance: ReceivedInstance, now: dt.datetime = NOW) -> Registration:
    with database.write() as session:
        return register_instance(session, instance, now=now)


def study(database: Database, name: str = "s") -> Study:
    with database.read() as session:
        found = study_by_uid(session, study_uid(name))
    assert found is not None
    return found


def job_keys(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(job.key for job in session.query(Job))
