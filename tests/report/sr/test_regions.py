"""The item of a region is highdicom's own to the letter, made without its tables of the Standard."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from highdicom.sr import GraphicTypeValues, ImageRegion, SourceImageForRegion
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedXAImageStorage,
    SecondaryCaptureImageStorage,
)

from dicom_node.report.sr.regions import RadiographRegion

_OUTLINE = np.asarray([(1.0, 2.0), (30.5, 2.0), (30.5, 40.0), (1.0, 2.0)])
_CIRCLE = np.asarray([(3.0, 4.0), (3.5, 4.0)])
_RUN = """
import json
from tests.report.sr.test_regions import _OUTLINE, GraphicTypeValues, RadiographRegion, SourceImageForRegion
from highdicom import _standard_utils
image = SourceImageForRegion("1.2.840.10008.5.1.4.1.1.1", "2.25.1")
RadiographRegion(GraphicTypeValues.POLYLINE, _OUTLINE, image)
print(json.dumps(_standard_utils.get_module_attribute_map.cache_info().currsize))
"""


@pytest.mark.parametrize(
    "sop_class",
    [
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        SecondaryCaptureImageStorage,
        EnhancedXAImageStorage,
    ],
)
@pytest.mark.parametrize(
    ("kind", "points"), [(GraphicTypeValues.POLYLINE, _OUTLINE), (GraphicTypeValues.CIRCLE, _CIRCLE)]
)
def test_a_region_is_the_item_that_highdicom_makes(
    sop_class: str, kind: GraphicTypeValues, points: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> None:
    image = SourceImageForRegion(referenced_sop_class_uid=sop_class, referenced_sop_instance_uid="2.25.7")
    plain = ImageRegion(graphic_type=kind, graphic_data=points, source_image=image)
    light = RadiographRegion(kind, points, image)
    assert light.to_json_dict() == plain.to_json_dict()


def test_a_region_reads_no_tables_of_the_standard() -> None:
    done = subprocess.run([sys.executable, "-c", _RUN], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == 0
