"""Possible speeds of change on chest radiographs: a faster change is not stated (rule 5 of `report.rules`).

The limits are lenient: they catch what cannot be, not what is rare. They follow textbooks and the reviews named below;
no radiologist has confirmed the table, and a site may know better.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TypeAlias

from model.ontology import FindingKind, ontology
from model.schema import Change

Course: TypeAlias = dict[Change, dt.timedelta]
"""Change → least interval between two images that show it."""

NEVER = dt.timedelta.max
"""This change does not happen at any interval, or a radiograph cannot show it."""

_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
_CHRONIC: Course = {
    Change.NEW: 90 * _DAY,
    Change.WORSENING: 30 * _DAY,
    Change.IMPROVING: NEVER,
    Change.RESOLVED: NEVER,
}
"""Of what stays for life and grows slowly, if at all."""
_LESION: Course = {
    Change.NEW: 7 * _DAY,
    Change.WORSENING: 14 * _DAY,
    Change.IMPROVING: 7 * _DAY,
    Change.RESOLVED: 14 * _DAY,
}
"""Of nodules and masses: volumes double in 20 days at the least (Fleischner Society, MacMahon et al. 2017); those of an
infection shrink within weeks."""
_AIRSPACE: Course = {Change.RESOLVED: _DAY}
"""Pneumonia clears in two to six weeks (Mittl et al. 1994); blood and aspirate may do so within a day or two."""
_DEVICE: Course = {Change.WORSENING: NEVER, Change.IMPROVING: NEVER}
"""A tube or line comes and goes within the hour, but has no degree."""

MIN_INTERVAL: Mapping[str, Course] = {
    "fracture": {
        Change.IMPROVING: 14 * _DAY,
        Change.RESOLVED: 60 * _DAY,
    },  # healing is seen for weeks, callus for months
    "lung_nodule": _LESION,
    "lung_mass": _LESION | {Change.RESOLVED: 28 * _DAY},
    "thymoma": _LESION | {Change.RESOLVED: 28 * _DAY},
    "consolidation": _AIRSPACE,
    "pneumonia": _AIRSPACE | {Change.RESOLVED: 2 * _DAY},
    "contusion": {Change.RESOLVED: _DAY},
    "hematoma": {Change.RESOLVED: 3 * _DAY},
    "pneumomediastinum": {Change.RESOLVED: _DAY},
    "edema": {Change.RESOLVED: 2 * _HOUR},
    "pleural_thickening": _CHRONIC | {Change.NEW: 14 * _DAY, Change.IMPROVING: 14 * _DAY, Change.RESOLVED: 30 * _DAY},
    "cardiomegaly": {Change.RESOLVED: _DAY},
    "hypertensive_heart_disease": _CHRONIC,
    "tortuous_descending_aorta": _CHRONIC,
    "tortuous_thoracic_aorta": _CHRONIC,
    "scoliosis": _CHRONIC,
    "emphysema": _CHRONIC,
    "fibrosis": _CHRONIC,
    "granuloma": _CHRONIC,
    "calcification": _CHRONIC,
}
"""Finding → change → least interval between the two images; what is not named may change at any interval."""

MAGNIFIED_BY_PROJECTION = frozenset({"cardiomegaly", "enlarged_cardiac_silhouette"})
"""The heart looks larger on an AP than on a PA image, so between the two no change of it is stated."""


def min_interval(finding: str, change: Change) -> dt.timedelta:
    """The least interval at which this change of this finding is plausible; zero where every interval is."""
    concept = ontology().findings.get(finding)
    if concept is not None and concept.kind is FindingKind.DEVICE:
        return _DEVICE.get(change, dt.timedelta())
    return MIN_INTERVAL.get(finding, {}).get(change, dt.timedelta())


def is_plausible(finding: str, change: Change, interval: dt.timedelta | None) -> bool:
    """Tell whether this finding can change so within `interval`; if that is unknown, only what never happens is not."""
    least = min_interval(finding, change)
    return least != NEVER and (interval is None or interval >= least)
