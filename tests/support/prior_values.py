"""Images and persons for the tests of the rules, with everything that a rule does not ask about filled in plausibly."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydicom.uid import ComputedRadiographyImageStorage

from dicom_node.dicom.uids import derive_uid
from dicom_node.priors import ImageFacts, Patient, PatientKey


def patient(patient_id: str = "P1", issuer: str = "HOSPITAL", **changes: Any) -> Patient:
    """A person with all demographics stated."""
    values: dict[str, Any] = {"birth_date": "19600130", "sex": "M", "name": "Weber^Hans^Peter"}
    return Patient(key=PatientKey(patient_id=patient_id, issuer=issuer), **(values | changes))


def image(study: str = "current", number: int = 1, **changes: Any) -> ImageFacts:
    """A plain AP chest film of `patient()`; `taken` (datetime) sets exposure and study date together."""
    taken: dt.datetime | None = changes.pop("taken", dt.datetime(2024, 5, 17, 8, 30))  # noqa: DTZ001 - DICOM local time
    values: dict[str, Any] = {
        "sop_instance_uid": derive_uid("test", study, str(number)),
        "study_instance_uid": derive_uid("test", study),
        "series_instance_uid": derive_uid("test", study, "series"),
        "sop_class_uid": ComputedRadiographyImageStorage,
        "patient": patient(),
        "modality": "CR",
        "study_date": taken.strftime("%Y%m%d") if taken else "",
        "study_time": taken.strftime("%H%M%S.%f") if taken else "",
        "taken_at": taken,
        "taken_time_known": taken is not None,
        "view_position": "AP",
        "body_part": "CHEST",
        "image_type": ("ORIGINAL", "PRIMARY"),
        "rows": 2000,
        "columns": 1800,
        "instance_number": number,
    }
    return ImageFacts(**(values | changes))
