"""The rules applied to one result: every document words the same statements."""

from __future__ import annotations

import datetime as dt

from dicom_node.report.exposure import taken
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import Circumstances, Statement, select_outlined, side_of, statements_of
from model.schema import Finding, ImageRole, Region

_DAY = dt.timedelta(days=1)


def has_answer(request: ReportRequest) -> bool:
    """Tell whether there is an answer of the model to report."""
    prediction = request.prediction
    return prediction is not None and prediction.abstained is None and bool(prediction.findings)


def statements(request: ReportRequest) -> tuple[Statement, ...]:
    """The result's statement on each finding, in the prediction's order; empty without an answer."""
    if request.prediction is None or not has_answer(request):
        return ()
    return statements_of(request.prediction, circumstances(request))


def drawn_statements(request: ReportRequest) -> list[Statement]:
    """The statements whose regions are drawn, the first one of the impression first."""
    return select_outlined(statements(request))


def largest_first(finding: Finding, role: ImageRole) -> list[Region]:
    """The finding's regions on one image, by the area of their bounding boxes; the first bears the finding's name."""
    return sorted((region for region in finding.regions if region.role is role), key=_box_area, reverse=True)


def is_compared(request: ReportRequest) -> bool:
    """Tell whether the result states something of change: there is a prior and a calibrated answer."""
    prediction = request.prediction
    return request.prior is not None and has_answer(request) and prediction is not None and prediction.is_calibrated


def circumstances(request: ReportRequest) -> Circumstances:
    """The facts that the rules know of this pair beside the answer."""
    prediction = request.prediction
    return Circumstances(
        has_prior=request.prior is not None,
        is_calibrated=prediction is None or prediction.is_calibrated,
        certainty_floor=prediction.certainty_floor if prediction is not None else 0.0,
        interval=_longest_interval(request.current, request.prior),
        has_other_projection=has_other_projection(request),
        earlier=request.earlier,
        omitted=frozenset(prediction.unstated) if prediction is not None else frozenset(),
    )


def has_other_projection(request: ReportRequest) -> bool:
    """Tell whether one image is AP and the other PA; False where a header does not say."""
    now, then = (source.image.view if source and source.image else None for source in (request.current, request.prior))
    return bool(now and then and now != then)


def tracked_side(request: ReportRequest, finding: Finding) -> str:
    """The side under which a finding is followed: its own; of one that names none, such as one that is gone, the last
    side that an earlier reading named; "" where there was none."""
    side = side_of(finding.location)
    # The newest first.
    readings = [request.earlier or {}, *(point.statements for point in reversed(request.course))]
    earlier = (side_of(reading[finding.key].location) for reading in readings if finding.key in reading)
    return side or next((earlier_side for earlier_side in earlier if earlier_side is not None), "")


def _longest_interval(current: SourceImage, prior: SourceImage | None) -> dt.timedelta | None:
    """Between the exposures; where a time of day is not known, the longest that the dates allow."""
    now, then = taken(current), taken(prior) if prior is not None else None
    if now is None or then is None:
        return None
    interval = now.moment - then.moment
    if now.zone is not None and then.zone is not None:
        # UTC is the local time less its zone; of the difference of two, that is this.
        interval += then.zone - now.zone
    # A date without a time is taken as midnight: the true interval may be longer by up to a day.
    return interval if now.time_known and then.time_known else interval + _DAY


def _box_area(region: Region) -> float:
    columns, rows = zip(*region.points, strict=True)
    return float((max(columns) - min(columns)) * (max(rows) - min(rows)))
