"""The first pass over the files: whose each is, of which study, and of what day."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_node.analysis.stored_images import StoredImage, read_stored
from dicom_node.bulk.work import BulkError, Work
from dicom_node.config import StorageSection
from dicom_node.predict.inputs import InputFile
from dicom_node.predict.locations import Locations
from dicom_node.priors import facts_of, linked_ids
from dicom_node.priors.types import PriorPolicy
from dicom_node.storage.instance_store import StoreUnavailableError
from model.errors import PixelError


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """The facts of one file that the plan needs.

    study_date: DA, "" where there is none. patient_ids: under which this person's other studies may be filed. person:
    digest of ID, birth date and name, to tell two people apart. fault: why the file cannot be used, "" where it can.
    """

    study_uid: str = ""
    sop_instance_uid: str = ""
    patient_id: str = ""
    study_date: str = ""
    study_time: str = ""
    patient_ids: tuple[str, ...] = ()
    person: str = ""
    fault: str = ""

    @classmethod
    def from_json(cls, line: str) -> FileHeader:
        """Read what `encode_headers` wrote."""
        values = json.loads(line)
        return cls(**{**values, "patient_ids": tuple(values["patient_ids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderWork(Work[InputFile, list[FileHeader], FileHeader]):
    """Reads the headers of files."""

    storage: StorageSection
    policy: PriorPolicy
    cache: Path | None = None

    def open_reader(self) -> Callable[[Sequence[InputFile]], list[FileHeader]]:
        """Make what reads the headers of a batch."""
        locations = Locations(self.storage, self.cache)

        def read(files: Sequence[InputFile]) -> list[FileHeader]:
            try:
                with locations.fetch({file.location: file.stamp for file in files}) as local:
                    return [header_of(file, local.get(file.location), self.policy) for file in files]
            except StoreUnavailableError as error:
                raise BulkError(str(error)) from error

        return read

    def open_answerer(self) -> Callable[[list[FileHeader]], list[FileHeader]]:
        """Headers need no model."""
        return list

    def lost(self, item: InputFile, why: str) -> list[FileHeader]:
        """Make a header that names what happened."""
        return [FileHeader(fault=f"its header was not read: {why}")]


def header_of(file: InputFile, path: Path | None, policy: PriorPolicy) -> FileHeader:
    """Read one file's header, completed by its row of the table."""
    if path is None:
        return FileHeader(fault="the object is gone from its bucket")
    try:
        facts = read_with_row(file, path).facts
    except PixelError as error:
        return FileHeader(fault=str(error))
    missing = [
        name
        for name, value in (
            ("SOPInstanceUID", facts.sop_instance_uid),
            ("StudyInstanceUID", facts.study_instance_uid),
        )
        if not value
    ]
    fault = f"the object has no {' and no '.join(missing)}" if missing else ""
    patient = facts.patient
    person = "\n".join((patient.key.patient_id, patient.key.issuer, patient.birth_date, patient.name))
    return FileHeader(
        study_uid=facts.study_instance_uid,
        sop_instance_uid=facts.sop_instance_uid,
        patient_id=patient.key.patient_id,
        study_date=facts.study_date,
        study_time=facts.study_time,
        patient_ids=tuple(sorted({*linked_ids(patient, policy), *(key.patient_id for key in patient.other_keys)})),
        person=hashlib.sha256(person.encode()).hexdigest()[:16],
        fault=fault,
    )


def read_with_row(file: InputFile, path: Path) -> StoredImage:
    """Read an object's header, with what its row of the table says where the header says nothing.

    Raises PixelError where the object cannot be read, and where header and table contradict each other: which of the
    two is right, nobody here can know, and a comparison of two people is worse than none.
    """
    stored = read_stored(path)
    header, facts = stored.header, stored.facts
    taken = facts.taken_at.strftime("%Y%m%d") if facts.taken_at is not None else ""
    for what, given, known in (
        ("study", file.study, (facts.study_instance_uid,)),
        ("patient", file.patient, (facts.patient.key.patient_id,)),
        ("date", file.date[:8], (facts.study_date, taken)),
    ):
        # Only where both say something: a header that is silent is completed by the table, one that differs is refused.
        if given and any(known) and given not in known:
            raise PixelError(f"the table names another {what} than the object's header")
    if not (file.study or file.patient or file.date):
        return stored
    _complete(header, file)
    return replace(stored, facts=facts_of(header, has_pixels=facts.has_pixels))


def _complete(header: Dataset, file: InputFile) -> None:
    values: dict[str, Any] = {"StudyInstanceUID": file.study, "PatientID": file.patient}
    if not header.get("StudyDate"):
        values |= {"StudyDate": file.date[:8], "StudyTime": file.date[8:]}
    for keyword, value in values.items():
        if value and not header.get(keyword):
            setattr(header, keyword, value)


def encode_headers(headers: Sequence[FileHeader]) -> bytes:
    """One JSON object a line."""
    return b"".join(json.dumps(asdict(header)).encode() + b"\n" for header in headers)
