"""One row for each analysed pair: what its images looked like, in the commit of its result."""

from __future__ import annotations

import datetime as dt

from dicom_node.drift.pixels import pixel_figures
from dicom_node.index.tables.models import PairStatistics
from dicom_node.report.patient import UNREADABLE
from dicom_node.report.request import ReportRequest, SourceImage


def statistics_of(request: ReportRequest, *, now: dt.datetime) -> PairStatistics | None:
    """The row without its result's key; None where no image was decoded. Costs a pass over 512 × 512 pixels."""
    current, prior = request.current, request.prior
    if current.image is None:
        return None
    return PairStatistics(
        created_at=now,
        modality=_text(current, "Modality")[:64],
        manufacturer=_text(current, "Manufacturer")[:255],
        view=_text(current, "ViewPosition")[:64],
        prior_age_days=_age_days(current, prior),
        pixels=pixel_figures(current.image),
    )


def _text(source: SourceImage, keyword: str) -> str:
    try:
        return str(source.header.get(keyword, "") or "").strip().upper()
    except UNREADABLE:
        return ""  # a damaged element says nothing, and costs nobody a report


def _age_days(current: SourceImage, prior: SourceImage | None) -> int | None:
    if prior is None or prior.image is None or current.image is None:
        return None
    if prior.image.acquired is None or current.image.acquired is None:
        return None
    return (current.image.acquired - prior.image.acquired).days
