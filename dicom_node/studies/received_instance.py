"""An instance that was stored and is to be indexed, and the rows of the index that are made of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Self

from dicom_node.dicom.header import InstanceHeader
from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.sop_classes import NODE_MODEL, is_image
from dicom_node.index.tables.core import CompletedBy, StudyPurpose, StudyState
from dicom_node.storage.instance_store import StoredFile

ROUTED = StudyPurpose.ROUTED
PRIOR = StudyPurpose.PRIOR
REPORT_ONLY = StudyPurpose.REPORT
"""Study.purpose of a study of which only reports, notes or presentation states came: there is nothing to analyse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedInstance:
    """One stored file and what its header says. The UIDs must have passed as UIDs before."""

    stored: StoredFile
    header: InstanceHeader
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str = ""
    purpose: StudyPurpose = ROUTED
    is_rejection_note: bool = False
    """True if it takes other instances back (`dicom_node.dicom.rejection_notes`): then what rests on them is
    analysed again."""
    is_trusted: bool = False
    """True if its sender is one that the configuration names: only such a one may send again, in another rendition,
    what was fetched as a prior."""
    may_teach: bool = True
    """True if a report of this sender becomes feedback."""

    @classmethod
    def from_meta(
        cls,
        meta: FileMeta,
        stored: StoredFile,
        header: InstanceHeader,
        *,
        calling_ae_title: str = "",
        purpose: StudyPurpose = ROUTED,
    ) -> Self:
        """Describe a stored file by its File Meta Information (PS3.10 section 7.1) and its header."""
        return cls(
            stored=stored,
            header=header,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae_title=calling_ae_title,
            purpose=purpose,
        )

    @property
    def brings_image(self) -> bool:
        """Tell whether there is something to analyse: an image, and not a picture of this program's own."""
        return is_image(self.sop_class_uid) and not is_own_picture(self.header)


def is_own_picture(header: InstanceHeader) -> bool:
    """Tell whether a picture was made by this program, here or on another node: two nodes would wake each other for
    ever."""
    return header.manufacturer_model_name == NODE_MODEL


def _first_purpose(received: ReceivedInstance) -> StudyPurpose:
    return received.purpose if received.brings_image or received.purpose != ROUTED else REPORT_ONLY


def study_values(received: ReceivedInstance, now: dt.datetime) -> dict[str, Any]:
    """The row of a study whose first instance this is."""
    header = received.header
    return {
        "study_instance_uid": header.study_instance_uid,
        "patient_id": header.patient_id,
        "issuer_of_patient_id": header.issuer_of_patient_id,
        "patient_name": header.patient_name,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "other_patient_ids": [dict(other) for other in header.other_patient_ids],
        "accession_number": header.accession_number,
        "study_id": header.study_id,
        "study_date": header.study_date,
        "study_time": header.study_time,
        "study_description": header.study_description,
        "first_instance_at": now,
        "last_instance_at": now,
        "calling_ae_title": received.calling_ae_title,
        "purpose": _first_purpose(received),
        "state": StudyState.OPEN,
        "revision": 1,
        "completed_by": CompletedBy.NOTHING,
    }


def series_values(study_pk: int, header: InstanceHeader) -> dict[str, Any]:
    """The row of a series whose first instance this is."""
    return {
        "study_pk": study_pk,
        "series_instance_uid": header.series_instance_uid,
        "modality": header.modality,
        "series_number": header.series_number,
        "series_description": header.series_description,
        "body_part_examined": header.body_part_examined,
    }


def instance_values(received: ReceivedInstance, series_pk: int, now: dt.datetime) -> dict[str, Any]:
    """The row of an instance. Its pixels are hashed later, by the process that decodes them."""
    header = received.header
    return {
        "series_pk": series_pk,
        "sop_instance_uid": received.sop_instance_uid,
        "sop_class_uid": received.sop_class_uid,
        "transfer_syntax_uid": received.transfer_syntax_uid,
        "path": received.stored.path,
        "sha256": received.stored.sha256,
        "size_bytes": received.stored.size_bytes,
        "received_at": now,
        "calling_ae_title": received.calling_ae_title,
        "view_position": header.view_position,
        "presentation_intent_type": header.presentation_intent_type,
        "image_type": header.image_type,
        "rows": header.rows,
        "columns": header.columns,
        "instance_number": header.instance_number,
        "acquired_at": header.acquired_at,
        "pixel_sha256": "",
    }
