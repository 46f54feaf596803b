"""Facts about an image, read from its header or, where the file cannot be read, from its index rows."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.multival import MultiValue

from dicom_node.index.tables import Instance, Series, Study
from dicom_node.priors.types import ImageFacts, Patient, PatientKey

_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
"""DA; the dots are ACR-NEMA's (PS3.5 section 6.2), dashes and slashes are other people's mistakes."""
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?")
_FIRST_YEAR = 1895
"""No radiograph is older than Röntgen's."""
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
_HUMAN = frozenset({"", "homo sapiens", "human", "337915000", "L-85B00"})


def facts_of(ds: Dataset, *, has_pixels: bool | None = None, pixel_sha256: str = "") -> ImageFacts:
    """The facts in a header, which may lack or misspell any element.

    has_pixels: pass it where the header was read without the pixel data; None looks for the elements.
    """
    taken_at, time_known = exposure_time(ds)
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
        taken_at=taken_at,
        taken_time_known=time_known,
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
        taken_at = _moment(date, tm(instance.acquired_at[8:]))
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
        PatientKey(patient_id=text_of(item, "PatientID"), issuer=text_of(item, "IssuerOfPatientID"))
        for item in items_of(ds, "OtherPatientIDsSequence")
    ]
    return Patient(
        key=PatientKey(patient_id=text_of(ds, "PatientID"), issuer=text_of(ds, "IssuerOfPatientID")),
        birth_date=da(text_of(ds, "PatientBirthDate")),
        sex=text_of(ds, "PatientSex").upper(),
        name=text_of(ds, "PatientName"),
        other_keys=tuple(key for key in others if key.patient_id),
    )


def exposure_time(ds: Dataset) -> tuple[dt.datetime | None, bool]:
    """Local date and time of the exposure, and whether the time is known: the first valid date with its own time."""
    combined = text_of(ds, "AcquisitionDateTime")
    if date := da(combined[:8]):
        time = tm(combined[8:].split("+")[0].split("-")[0])
        return _moment(date, time), bool(time)
    for stem in ("Acquisition", "Content", "Series", "Study"):
        if date := da(text_of(ds, f"{stem}Date")):
            time = tm(text_of(ds, f"{stem}Time"))
            return _moment(date, time), bool(time)
    return None, False


def da(value: str) -> str:
    """A DA value as eight digits; "" where it is no date of the age of X-rays."""
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return ""
    year, month, day = (int(part) for part in match.groups())
    try:
        dt.date(year, month, day)
    except ValueError:
        return ""
    # Birth dates of 1800-01-01 are placeholders of some information systems.
    return f"{year:04}{month:02}{day:02}" if year >= _FIRST_YEAR - 25 else ""


def tm(value: str) -> str:
    """A TM value as HHMMSS.FFFFFF; "" where it is no time. Leap seconds are cut to 59."""
    match = _TIME.fullmatch(value.strip())
    if match is None:
        return ""
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return ""
    return f"{hour:02}{minute:02}{min(second, 59):02}.{(match.group(4) or ''):0<6}"


def _moment(date: str, time: str) -> dt.datetime:
    return dt.datetime.strptime(f"{date}{time or '000000.000000'}", "%Y%m%d%H%M%S.%f")  # noqa: DTZ007 - DICOM local time


def _species(ds: Dataset) -> str:
    """What kind of animal, "" for a person."""
    described = text_of(ds, "PatientSpeciesDescription")
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
        if found := _ANIMALS.search(text_of(ds, keyword)):
            return f"{found.group(0).lower()} ({keyword})"
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
    return "" if value is None else str(value).strip().strip("\0").strip()


def values_of(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of an element as text, empty ones left out."""
    value = _value(ds, keyword)
    if value is None:
        return ()
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(str(item).strip() for item in values if str(item).strip())


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
