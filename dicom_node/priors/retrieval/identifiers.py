"""Identifiers of C-FIND (PS3.4 annex C), of queries and of their answers, as plain values."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset

from dicom_node.dicom.convert import convert_values
from dicom_node.errors import UnreadableObjectError

STUDY_KEYS = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedInstances",
)
"""Keys of a study that a query returns."""


def query_identifier(level: str, returned: Iterable[str] = (), **values: str) -> Dataset:
    """Build the identifier of a query: `values` are matched, `returned` keys are asked for."""
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level
    for keyword, value in (dict.fromkeys(returned, "") | values).items():
        setattr(query, keyword, value)
    return query


def readable_identifiers(identifier: Dataset) -> list[Dataset]:
    """The identifier without what cannot be read of it; nothing where it is no data set at all."""
    try:
        return [convert_values(identifier)]
    except UnreadableObjectError:
        return []


def literal_patient_id(patient_id: str) -> str:
    """An ID with characters that mean something in a query (PS3.4 section C.2.2.2.4) is asked with "?" for each."""
    return "".join("?" if character in "*\\" else character for character in patient_id)


def is_answer_about(identifier: Dataset, study_instance_uid: str) -> bool:
    """Tell whether an answer is about this study; one that does not repeat the key asked for is taken at its word."""
    return str(identifier.get("StudyInstanceUID", "") or study_instance_uid) == study_instance_uid
