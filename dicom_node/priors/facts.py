"""Facts about an image, read from its header or, where the file cannot be read, from its index rows."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.multival import MultiValue

from dicom_node.dicom.text import without_controls
from dicom_node.index.tables.core import Instance, Series, Study
from dicom_node.priors.types import ImageFacts, Patient, PatientKey
from model.images.exposure import da, exposure_of, moment_of, tm

_TEXTS = (
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionDeviceProcessingDescription",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
    "StudyDescription",
)
"""Where body part and view stand in words, strongest first: what describes one series before what describes all."""
_SPECIES_TEXTS = ("AcquisitionDeviceProcessingDescription", "InstitutionName", "ProtocolName", "StudyDescription")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_ANIMALS = re.compile(r"\b(canine|feline|equine|bovine|veterinar\w*|tierarzt\w*|tierklinik\w*)\b", re.IGNORECASE)
# 337915000 is Homo sapiens in SNOMED CT, L-85B00 the same in the SRT codes of older objects.
_HUMAN = frozenset({"", "homo sapiens", "human", "337915000", "L-85B00"})


def facts_of(ds: Dataset, *, has_pixels: bool | None = None, pixel_sha256: str = "") -> ImageFacts:
    """The facts in a header, which may lack or misspell any element.

    has_pixels: pass it where the header was read without the pixel data; None looks for the elements.
    """
    exposure = exposure_of(ds)
    study_date, study_time = da(text_of(ds, "StudyDate")), tm(text_of(ds, "StudyTime"))
    return ImageFacts(
        sop_instance_uid=text_of(ds, "SOPInstanceUID"),
        study_instance_uid=text_of(ds, "StudyInstanceUID"),
        series_instance_uid=text_of(ds, "SeriesInstanceUID"),
        sop_class_uid=text_of(ds, "SOPClassUID"),
        patient=patient_of(ds),
        modality=text_of(ds, "Modality").upper(),
        study_date=study_date,
        study_time=study_time,
        taken_at=exposure.moment if exposure is not None else None,
        taken_time_known=exposure is not None and exposure.time_known,
        zone=exposure.zone if exposure is not None else None,
        view_position=text_of(ds, "ViewPosition").upper(),
        view_codes=_codes(ds, "ViewCodeSequence"),
        body_part=text_of(ds, "BodyPartExamined").upper(),
        region_codes=_codes(ds, "AnatomicRegionSequence"),
        texts=tuple((keyword, value) for keyword in _TEXTS if (value := text_of(ds, keyword))),
        patient_orientation=values_of(ds, "PatientOrientation"),
        presentation_intent=text_of(ds, "PresentationIntentType").upper(),
        image_type=tuple(value.upper() for value in values_of(ds, "ImageType")),
        species=_species(ds),
        rows=number_of(ds, "Rows"),
        columns=number_of(ds, "Columns"),
        frames=number_of(ds, "NumberOfFrames") or 1,
        has_pixels=any(keyword in ds for keyword in _PIXELS) if has_pixels is None else has_pixels,
        instance_number=number_of(ds, "InstanceNumber"),
        irradiation_event_uid=text_of(ds, "IrradiationEventUID"),
        source_sop_uids=tuple(
            text_of(item, "ReferencedSOPInstanceUID") for item in items_of(ds, "SourceImageSequence")
        ),
        pixel_sha256=pixel_sha256,
    )


def facts_of_rows(study: Study, series: Series, instance: Instance) -> ImageFacts:
    """The facts that the index keeps: all for identity and dates, fewer than the header has for body part and view."""
    taken_at = None
    if date := da(instance.acquired_at[:8]):
        taken_at = moment_of(date, tm(instance.acquired_at[8:]))
    texts = (("SeriesDescription", series.series_description), ("StudyDescription", study.study_description))
    return ImageFacts(
        sop_instance_uid=instance.sop_instance_uid,
        study_instance_uid=study.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        patient=patient_of_row(study),
        modality=series.modality.upper(),
        study_date=da(study.study_date),
        study_time=tm(study.study_time),
        taken_at=taken_at,
        taken_time_known=bool(tm(instance.acquired_at[8:])),
        view_position=instance.view_position.upper(),
        body_part=series.body_part_examined.upper(),
        texts=tuple((keyword, value) for keyword, value in texts if value),
        presentation_intent=instance.presentation_intent_type.upper(),
        image_type=tuple(part.strip().upper() for part in instance.image_type.split("\\")),
        rows=instance.rows,
        columns=instance.columns,
        has_pixels=instance.rows is not None,
        instance_number=instance.instance_number,
        pixel_sha256=instance.pixel_sha256,
    )


def patient_of_row(study: Study) -> Patient:
    """Whose study it is, by its row."""
    others = tuple(PatientKey(patient_id=o.get("id", ""), issuer=o.get("issuer", "")) for o in study.other_patient_ids)
    return Patient(
        key=PatientKey(patient_id=study.patient_id.strip(), issuer=study.issuer_of_patient_id.strip()),
        birth_date=da(study.patient_birth_date),
        sex=study.patient_sex.strip().upper(),
        name=study.patient_name,
        other_keys=others,
    )


def patient_of(ds: Dataset) -> Patient:
    """Whose data set it is."""
    others = [
        PatientKey(patient_id=_only_text_of(item, "PatientID"), issuer=_only_text_of(item, "IssuerOfPatientID"))
        for item in items_of(ds, "OtherPatientIDsSequence")
    ]
    return Patient(
        key=PatientKey(patient_id=_only_text_of(ds, "PatientID"), issuer=_only_text_of(ds, "IssuerOfPatientID")),
        birth_date=da(_only_text_of(ds, "PatientBirthDate")),
        sex=_only_text_of(ds, "PatientSex").upper(),
        name=text_of(ds, "PatientName"),
        other_keys=tuple(key for key in others if key.patient_id),
    )


def _species(ds: Dataset) -> str:
    """The kind of animal, "" for a person."""
    described = text_of(ds, "PatientSpeciesDescription")
    # Veterinary clinics send to the same archives: species (PS3.3 C.7.1.1), breed, a person responsible who is the
    # OWNER, and at last the words of the descriptions.
    if described.casefold() not in _HUMAN:
        return described
    for code, meaning in _codes(ds, "PatientSpeciesCodeSequence"):
        if code not in _HUMAN and meaning.casefold() not in _HUMAN:
            return meaning or code
    if text_of(ds, "PatientBreedDescription"):
        return text_of(ds, "PatientBreedDescription")
    if text_of(ds, "ResponsiblePersonRole").upper() == "OWNER":
        return "animal with an owner"
    for keyword in _SPECIES_TEXTS:
        if animal := _ANIMALS.search(text_of(ds, keyword)):
            return f"{animal.group(0).lower()} ({keyword})"
    return ""


def _codes(ds: Dataset, keyword: str) -> tuple[tuple[str, str], ...]:
    return tuple((text_of(item, "CodeValue"), text_of(item, "CodeMeaning")) for item in items_of(ds, keyword))


def items_of(ds: Dataset, keyword: str) -> Iterable[Dataset]:
    """The items of a sequence; nothing where it is missing or no sequence."""
    value = _value(ds, keyword)
    return value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else ()


def text_of(ds: Dataset, keyword: str) -> str:
    """An element's first value as text; "" where missing, empty or unreadable."""
    value = _value(ds, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else ""
    return "" if value is None else without_controls(str(value)).strip()


def _only_text_of(ds: Dataset, keyword: str) -> str:
    """An element's text where it has one value; "" of several, of which nobody said whose they are (PS3.6: VM 1)."""
    value = _value(ds, keyword)
    return "" if isinstance(value, MultiValue) and len(value) > 1 else text_of(ds, keyword)


def values_of(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of an element as text, empty ones left out."""
    value = _value(ds, keyword)
    if value is None:
        return ()
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(text for item in values if (text := without_controls(str(item)).strip()))


def number_of(ds: Dataset, keyword: str) -> int | None:
    """An element's first value as a whole number; None where missing or none."""
    try:
        return int(text_of(ds, keyword))
    except ValueError:
        return None


def _value(ds: Dataset, keyword: str) -> object:
    """The raw value. pydicom converts on access and raises what the converter of the VR raises."""
    try:
        element = ds.get_item(keyword)
        return None if element is None else ds[keyword].value
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, NotImplementedError, LookupError):
        return None
