"""Regions of a model's answer that are not drawn, and the rule that each broke (`report.region_rules`). Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from model.schema import ImageRole


class RegionFault(StrEnum):
    """Why a region is not drawn."""

    OUTSIDE = "outside"
    """Not where the finding can be."""
    WRONG_SIDE = "wrong side"
    TOO_LARGE = "too large"
    LUNGS_NOT_FOUND = "lungs not found"
    NOT_SQUARE = "pixels not square"
    """OHIF 3.13 takes the spacing of rows for that of columns, and draws elsewhere than the coordinates say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRegion:
    """A region that broke a rule: of which finding, on which image, and which rule."""

    finding: str
    role: ImageRole
    fault: RegionFault
