"""Pauses between tries double up to their longest, however many failures there are."""

from __future__ import annotations

import datetime as dt

from dicom_node.system.backoff import pause_after


def test_pauses_double_from_the_first_to_the_longest() -> None:
    pauses = [pause_after(failures, first=0.5, longest=3.0) for failures in range(6)]
    assert pauses == [0.5, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_pause_after_weeks_of_failures_is_the_longest() -> None:
    hour = dt.timedelta(hours=1)
    assert pause_after(100_000, first=dt.timedelta(seconds=5), longest=hour) == hour
