"""The degree of a finding as the report words it: "large", where the vocabulary says "severe" of a pneumothorax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.report.rules import MEASURED_BY_SIZE


def degree_word(finding: Mapping[str, Any]) -> str:
    """The word for the degree of a finding of result.json; "" where it states none."""
    level = str(finding.get("level") or "")
    if finding.get("key") not in MEASURED_BY_SIZE:
        return level
    return level.replace("mild", "small").replace("severe", "large")
