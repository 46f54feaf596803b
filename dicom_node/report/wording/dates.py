"""When the images of a result were made, in words, by one reading of the header for every document."""

from __future__ import annotations

from dicom_node.report.exposure import moment, taken
from dicom_node.report.patient import text_of
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.wording.catalogue import Catalogue
from model.images.exposure import da


def date_text(source: SourceImage | None, words: Catalogue) -> str:
    """The image's date in words; with the time where both images are of one day, see `_same_day`."""
    when = moment(source) if source is not None else None
    return words.date(when) if when is not None else words.text("unknown_date")


def prior_date(request: ReportRequest, words: Catalogue) -> str:
    """The prior's date, with the time of day where the current image is of the same day."""
    if request.prior is None:
        return words.text("unknown_date")
    now, then = moment(request.current), moment(request.prior)
    date = date_text(request.prior, words)
    if now is not None and then is not None and now.date() == then.date():
        return words.text("date_time", date=date, time=f"{then:%H:%M}")
    return date


def full_date(source: SourceImage, words: Catalogue) -> str:
    """Date in words, with the time of day where it is known."""
    exposure = taken(source)
    if exposure is None:
        return words.text("unknown_date")
    date = words.date(exposure.moment)
    return words.text("date_time", date=date, time=f"{exposure.moment:%H:%M}") if exposure.time_known else date


def is_child(source: SourceImage) -> bool:
    """Tell whether the patient was younger than 18 years when the image was taken; False where the header does not
    tell."""
    born, exposure = da(text_of(source.header, "PatientBirthDate")), taken(source)
    if not born or exposure is None:
        return False
    return f"{exposure.moment:%Y%m%d}" < f"{int(born[:4]) + 18}{born[4:]}"
