"""When the images of a result were made, by one reading of the header for every document and every rule."""

from __future__ import annotations

import datetime as dt
from weakref import WeakKeyDictionary

from dicom_node.report.request import SourceImage
from model.images.exposure import Exposure, exposure_of

_known: WeakKeyDictionary[SourceImage, Exposure | None] = WeakKeyDictionary()
"""Exposure times of images in use: a report asks about fifty times, and each reading takes a dozen look-ups."""


def taken(source: SourceImage) -> Exposure | None:
    """When the image was made, by the same reading of its header as the choice of the prior; None without a date."""
    if source not in _known:
        exposure = exposure_of(source.header)
        # A film that was not read from DICOM has its time beside it.
        if exposure is None and source.image is not None and source.image.acquired is not None:
            exposure = Exposure(moment=source.image.acquired, time_known=True)
        _known[source] = exposure
    return _known[source]


def moment(source: SourceImage) -> dt.datetime | None:
    """Local date and time of the image; midnight where only the date is known, None without a date."""
    exposure = taken(source)
    return exposure.moment if exposure is not None else None
