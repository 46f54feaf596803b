"""Names for groups of storage SOP classes; light, so that reading the settings loads no DICOM library."""

from __future__ import annotations

from enum import StrEnum


class StorageGroup(StrEnum):
    """Named groups of storage SOP classes, so that a configuration need not list UIDs."""

    RADIOGRAPHY = "radiography"
    """Computed and digital radiography, secondary captures."""
    REPORTS = "reports"
    """Structured reports, encapsulated PDF, key object selections."""
    PRESENTATION = "presentation"
    """Softcopy presentation states."""
    ALL = "all"
    """Every class of the Storage service that pynetdicom knows."""
