"""Laboratory values and orders by HL7: who may send them, and what a site's own codes mean."""

from __future__ import annotations

from pydantic import Field, model_validator

from dicom_node.config.types import Section

LAB_NAMES = ("CRP", "BNP", "leukocytes", "creatinine")
TREATMENT_NAMES = (
    *("diuretics", "antibiotics"),
    *("extubation planned", "line removal planned", "feeding tube removal planned"),
)
"""Treatments that a checkpoint can have learned (docs/courses.md); `dicom_node/chart/known.toml` has the codes."""


class SiteCode(Section):
    """One code of the site's own systems."""

    code: str = Field(min_length=1, max_length=64, description="as it is sent", examples=["L0123"])
    system: str = Field(default="", max_length=64, description='coding system as it is sent; "": any')
    means: str = Field(description="the name or unit that it stands for", examples=["CRP"])


class ChartSection(Section):
    """Laboratory values and treatments, for checkpoints that learned them; they come over [hl7] (docs/timeline.md)."""

    senders: tuple[str, ...] = Field(
        default=(),
        description="MSH-3^MSH-4 of those whose laboratory results and orders are taken; empty: none",
        examples=[["LAB^HOSPITAL"]],
    )
    lab_hours: float = Field(default=72.0, gt=0, description="a laboratory value is shown for this long")
    order_days: float = Field(
        default=14.0, gt=0, description="an order without an end is taken for given for this long after its start"
    )
    keep_days: float = Field(default=30.0, gt=0, description="laboratory values and orders are kept for this long")
    labs: tuple[SiteCode, ...] = Field(
        default=(),
        description=f"the site's codes of {', '.join(LAB_NAMES)}",
        examples=[[{"code": "L0123", "means": "CRP"}]],
    )
    treatments: tuple[SiteCode, ...] = Field(
        default=(),
        description=f"the site's codes of {', '.join(TREATMENT_NAMES)}",
        examples=[[{"code": "4711", "system": "HIS", "means": "diuretics"}]],
    )
    units: tuple[SiteCode, ...] = Field(
        default=(),
        description="the site's spellings of UCUM units",
        examples=[[{"code": "MG/DL", "means": "mg/dL"}]],
    )

    @model_validator(mode="after")
    def _require_known_names(self) -> ChartSection:
        for key, rows, allowed in (("labs", self.labs, LAB_NAMES), ("treatments", self.treatments, TREATMENT_NAMES)):
            for row in rows:
                if row.means not in allowed:
                    raise ValueError(f"{key}: {row.means!r} is not known; allowed are {', '.join(allowed)}")
        for sender in self.senders:
            if sender.count("^") != 1:
                raise ValueError(f"senders: {sender!r} is not of the form APPLICATION^FACILITY (MSH-3^MSH-4)")
        return self
