"""One reading of when an image was taken: first valid date with its own time, and the zone where it is stated."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from model.images.exposure import exposure_of

HOUR = dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("elements", "moment", "time_known", "zone"),
    [
        ({"AcquisitionDateTime": "20260310081500.5+0100"}, "2026-03-10T08:15:00.500", True, HOUR),
        (
            {"AcquisitionDateTime": "20260310081500", "TimezoneOffsetFromUTC": "-0500"},
            "2026-03-10T08:15",
            True,
            -5 * HOUR,
        ),
        ({"AcquisitionDateTime": "20260310+0100"}, "2026-03-10", False, HOUR),
        (
            {"AcquisitionDateTime": "2026", "SeriesDate": "20260311", "SeriesTime": "0910"},
            "2026-03-11T09:10",
            True,
            None,
        ),
        ({"StudyDate": "20260310", "StudyTime": "235960"}, "2026-03-10T23:59:59", True, None),
        ({"StudyDate": "2026.03.10", "StudyTime": "25:99"}, "2026-03-10", False, None),
        ({"AcquisitionDate": "20260230", "ContentDate": "20260310"}, "2026-03-10", False, None),
        ({"StudyDate": "20260310", "TimezoneOffsetFromUTC": "0100"}, "2026-03-10", False, None),
        ({"StudyDate": "18000101"}, None, False, None),
    ],
)
def test_the_first_valid_date_with_its_own_time(
    elements: dict[str, str], moment: str | None, time_known: bool, zone: dt.timedelta | None
) -> None:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    found = exposure_of(ds)
    if moment is None:
        assert found is None
        return
    assert found is not None
    assert (found.moment, found.time_known, found.zone) == (dt.datetime.fromisoformat(moment), time_known, zone)


@given(st.lists(st.tuples(st.sampled_from([0x0008002A, 0x00080022, 0x00080032, 0x00080201]), st.binary(max_size=30))))
def test_no_bytes_make_it_fail(elements: list[tuple[int, bytes]]) -> None:
    ds = Dataset()
    for tag, value in elements:
        vr = {0x0008002A: "DT", 0x00080022: "DA", 0x00080032: "TM", 0x00080201: "SH"}[tag]
        ds[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    exposure_of(ds)
