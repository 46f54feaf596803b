"""Regions: outlines on stored images as spatial coordinates (PS3.3 section C.18.6)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from highdicom.sr import (
    CodedConcept,
    GraphicTypeValues,
    ImageRegion,
    RelationshipTypeValues,
    ScoordContentItem,
    SourceImageForRegion,
)
from numpy.typing import NDArray

from dicom_node.report.patient import whole_number
from dicom_node.report.request import SourceImage
from dicom_node.report.sr.uids import header_uid
from model.schema import Region

FloatArray: TypeAlias = NDArray[np.float64]


class RadiographRegion(ImageRegion):  # type: ignore[misc]  # highdicom has no types
    """highdicom's Image Region without its look whether the class of the image has frames.

    For that look each process reads tables of 22 MB, a third of a second of CPU, and keeps them. Its answer changes an
    item only where a pixel origin is given or the image is a whole slide (PS3.3 section C.18.6.1), neither of which a
    radiograph has.
    """

    def __init__(
        self, graphic_type: GraphicTypeValues, graphic_data: FloatArray, source_image: SourceImageForRegion
    ) -> None:
        ScoordContentItem.__init__(
            self,
            name=CodedConcept(value="111030", meaning="Image Region", scheme_designator="DCM"),
            graphic_type=graphic_type,
            graphic_data=graphic_data,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        self.ContentSequence = [source_image]


def stored_size(source: SourceImage) -> tuple[int, int]:
    """(columns, rows) as the header has them, zeros where it does not."""
    return whole_number(source.header, "Columns"), whole_number(source.header, "Rows")


def position_points(source: SourceImage, column: float, row: float) -> FloatArray:
    """A circle of half a pixel's radius around a point, where a label begins: its centre and a point on it."""
    columns, rows = stored_size(source)
    column, row = min(max(column, 0.0), columns - 1.0), min(max(row, 0.0), float(rows))
    return np.asarray([(column, row), (column + 0.5, row)], dtype=np.float64)


def image_region(source: SourceImage, region: Region) -> RadiographRegion:
    """Image Region as TID 1410 has it: SCOORD POLYLINE on the stored image (PS3.3 section C.18.6.1)."""
    points, image = outline_points(source, region), _source_of_region(source)
    return RadiographRegion(graphic_type=GraphicTypeValues.POLYLINE, graphic_data=points, source_image=image)


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
