"""The measurement group of a region or of its label: built once for all that differ in position alone, and filled in.

As `dicom_node.report.sr.finding_group`: what is filled in is the tracking, the coordinates and the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from highdicom.sr import (
    ContentSequence,
    GraphicTypeValues,
    Measurement,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom import Dataset

from dicom_node.report import codes
from dicom_node.report.concepts import finding_concept
from dicom_node.report.sr.copies import Form, with_values
from dicom_node.report.sr.finding_group import algorithm_identification, fill_tracking, time_point
from dicom_node.report.sr.regions import FloatArray, RadiographRegion
from model.schema import ImageRole

_ANY_UID, _ANY_TEXT = "2.25.1", "-"
_ANY_POINTS = {
    GraphicTypeValues.CIRCLE: ((0.0, 0.0), (1.0, 0.0)),
    GraphicTypeValues.POLYLINE: ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)),
}
"""Values of a form that is not filled in yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionForm:
    """The parts of a region's group that do not differ between regions of one kind.

    No Finding Site: OHIF would write its code beside the region. label: name and word of a label, None for an outline.
    sop_class_uid: of the image, on which the pixel origin depends. algorithm: name, version and manufacturer.
    """

    key: str
    role: ImageRole
    label: tuple[str, str] | None
    sop_class_uid: str
    algorithm: tuple[str, str, str | None]


def filled_region(
    form: RegionForm, *, tracking: tuple[str, str], points: FloatArray, sop_instance_uid: str
) -> ContentSequence:
    """The group (TID 1410). tracking: identifier and UID. points: float64 [N, 2] as (column, row)."""

    template = _region_form(form)

    def fill(items: list[Dataset]) -> None:
        fill_tracking(items, tracking)
        (position,) = template.places("SCOORD")
        drawn = items[position]
        image = drawn.ContentSequence[0]
        reference = with_values(image.ReferencedSOPSequence[0], ReferencedSOPInstanceUID=sop_instance_uid)
        image = with_values(image, ReferencedSOPSequence=[reference])
        items[position] = with_values(drawn, GraphicData=points.flatten().tolist(), ContentSequence=[image])

    return template.copy(fill)


@lru_cache(maxsize=1024)
def _region_form(form: RegionForm) -> Form:
    kind = GraphicTypeValues.POLYLINE if form.label is None else GraphicTypeValues.CIRCLE
    image = SourceImageForRegion(referenced_sop_class_uid=form.sop_class_uid, referenced_sop_instance_uid=_ANY_UID)
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(identifier=_ANY_TEXT, uid=_ANY_UID),
        referenced_region=RadiographRegion(
            graphic_type=kind, graphic_data=np.asarray(_ANY_POINTS[kind]), source_image=image
        ),
        time_point_context=time_point(form.role),
        finding_type=codes.concept_of(finding_concept(form.key).code),
        algorithm_id=algorithm_identification(*form.algorithm),
        measurements=None if form.label is None else [_label(*form.label)],
    )
    return Form(group)


def _label(name: str, word: str) -> Measurement:
    """A number that is none, because OHIF writes nothing else beside coordinates (docs/adr/0017)."""
    return Measurement(
        name=codes.concept("name.label", name),
        value=0,
        unit=codes.label_unit(word),
        qualifier=codes.concept("value.not_measured"),
    )
