"""When the images of a result were made, by one reading of the header for every document and every rule."""

from __future__ import annotations

import datetime as dt

from dicom_node.report.request import SourceImage
from model.images.exposure import Exposure, exposure_of


def taken(source: SourceImage) -> Exposure | None:
    """When the image was made, by the same reading of its header as the choice of the prior; None without a date."""
    exposure = exposure_of(source.header)
    if exposure is None and source.image is not None and source.image.acquired is not None:
        return Exposure(moment=source.image.acquired, time_known=True)
    return exposure


def moment(source: SourceImage) -> dt.datetime | None:
    """Local date and time of the image; midnight where only the date is known, None without a date."""
    exposure = taken(source)
    return exposure.moment if exposure is not None else None
