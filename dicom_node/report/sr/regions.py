"""Regions: outlines on stored images as spatial coordinates (PS3.3 section C.18.6)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from highdicom.sr import GraphicTypeValues, ImageRegion, SourceImageForRegion
from numpy.typing import NDArray

from dicom_node.report.patient import whole_number
from dicom_node.report.request import SourceImage
from dicom_node.report.sr.uids import header_uid
from model.schema import Region

FloatArray: TypeAlias = NDArray[np.float64]


def stored_size(source: SourceImage) -> tuple[int, int]:
    """(columns, rows) as the header has them, zeros where it does not."""
    return whole_number(source.header, "Columns"), whole_number(source.header, "Rows")


def position_points(source: SourceImage, column: float, row: float) -> FloatArray:
    """A circle of half a pixel's radius around a point, where a label begins: its centre and a point on it."""
    columns, rows = stored_size(source)
    column, row = min(max(column, 0.0), columns - 1.0), min(max(row, 0.0), float(rows))
    return np.asarray([(column, row), (column + 0.5, row)], dtype=np.float64)


def image_region(source: SourceImage, region: Region) -> ImageRegion:
    """Image Region as TID 1410 has it: SCOORD POLYLINE on the stored image (PS3.3 section C.18.6.1)."""
    points, image = outline_points(source, region), _source_of_region(source)
    return ImageRegion(graphic_type=GraphicTypeValues.POLYLINE, graphic_data=points, source_image=image)


def outline_points(source: SourceImage, region: Region) -> FloatArray:
    """The region's points, float64 [N, 2] as (column, row). Raises ValueError for what is no outline on this image."""
    points = np.asarray(region.points, dtype=np.float64)
    limits = stored_size(source) if all(stored_size(source)) else (np.inf, np.inf)
    # Four: a closed triangle, its first point repeated.
    if points.ndim != 2 or len(points) < 4 or not np.isfinite(points).all():
        raise ValueError(f"a region of {len(points)} points is no outline")
    if (points < 0).any() or (points > limits).any():
        raise ValueError(f"a region leaves its image of {limits[0]:.0f} by {limits[1]:.0f} pixels")
    return points


def _source_of_region(source: SourceImage) -> SourceImageForRegion:
    return SourceImageForRegion(
        referenced_sop_class_uid=header_uid(source, "SOPClassUID"),
        referenced_sop_instance_uid=header_uid(source, "SOPInstanceUID"),
    )
