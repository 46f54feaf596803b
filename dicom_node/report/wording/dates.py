"""When the images of a result were made, in one form for every document.

A date stands in words, and with its time of day where the report speaks of another film of that day.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable

from dicom_node.report.exposure import taken
from dicom_node.report.patient import text_of
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.wording.catalogue import Catalogue
from dicom_node.report.wording.reasons import STAMP, in_language
from model.images.exposure import da


def film_date(request: ReportRequest, source: SourceImage | None, words: Catalogue) -> str:
    """The date of one of the result's images."""
    exposure = taken(source) if source is not None else None
    if exposure is None:
        return words.text("unknown_date")
    date = words.date(exposure.moment)
    if not exposure.time_known or exposure.moment.date() not in _days_of_several_films(request):
        return date
    return words.text("date_time", date=date, time=f"{exposure.moment:%H:%M}")


def prior_date(request: ReportRequest, words: Catalogue) -> str:
    """The prior's date."""
    return film_date(request, request.prior, words)


def current_date(request: ReportRequest, words: Catalogue) -> str:
    """The current image's date, and its number where the study holds several frontal images."""
    date = film_date(request, request.current, words)
    if request.frontal_images < 2:
        return date
    return words.text("one_of", date=date, number=request.frontal_number, count=request.frontal_images)


def said_of(request: ReportRequest, text: str, words: Catalogue) -> str:
    """A sentence of the analysis in the report's language, its dates in the form of the others."""
    days = _days_of_several_films(request)

    def shown(stamp: re.Match[str]) -> str:
        day = stamp.group(0)[:10]
        return stamp.group(0) if _day(day) in days else day

    return in_language(STAMP.sub(shown, text), words)


def is_child(source: SourceImage) -> bool:
    """Tell whether the patient was younger than 18 years when the image was taken; False where the header does not
    tell."""
    born, exposure = da(text_of(source.header, "PatientBirthDate")), taken(source)
    if not born or exposure is None or is_born_later(source):
        return False
    return f"{exposure.moment:%Y%m%d}" < f"{int(born[:4]) + 18}{born[4:]}"


def is_born_later(source: SourceImage) -> bool:
    """Tell whether the header's birth date lies after the day of the exposure."""
    born, exposure = da(text_of(source.header, "PatientBirthDate")), taken(source)
    return bool(born) and exposure is not None and f"{exposure.moment:%Y%m%d}" < str(born)


def is_in_future(source: SourceImage, now: dt.datetime) -> bool:
    """Tell whether the image claims a day beyond tomorrow: within a day the clocks of two time zones may differ."""
    exposure = taken(source)
    return exposure is not None and exposure.moment.date() > now.date() + dt.timedelta(days=1)


def _days_of_several_films(request: ReportRequest) -> frozenset[dt.date]:
    """Days of which the report speaks of more than one film."""
    films = {stamp.groups() for text in _texts(request) for stamp in STAMP.finditer(text)}
    moments: set[tuple[dt.date, str]] = {(day, time or "") for *date, time in films if (day := _day("-".join(date)))}
    for source in (request.current, request.prior, *request.earlier_images):
        exposure = taken(source) if source is not None else None
        if exposure is not None:
            time = f"{exposure.moment:%H:%M}" if exposure.time_known else ""
            moments.add((exposure.moment.date(), time))
    # A set of moments, so that one film that several sentences speak of counts once.
    days = [day for day, _ in moments]
    several = {day for day in days if days.count(day) > 1}
    exposure = taken(request.current)
    if exposure is not None and request.frontal_images > 1:
        several.add(exposure.moment.date())
    return frozenset(several)


def _texts(request: ReportRequest) -> Iterable[str]:
    """Every free text of the analysis that may name another film."""
    yield from (request.reason, request.newer_prior, *request.prior_reasons, *request.cautions)
    if request.prediction is not None:
        yield request.prediction.abstained_detail


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:  # a header may state the 31st of a month of thirty days
        return None
