"""The degree of a finding as the report words it: "large", where the vocabulary says "severe" of a pneumothorax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.report.wording import phrases
from dicom_node.report.wording.catalogue import catalogue


def degree_word(finding: Mapping[str, Any]) -> str:
    """The word for the degree of a finding of result.json, in the pages' language; "" where it states none."""
    level = finding.get("level")
    return phrases.degree_word(str(finding.get("key")), str(level), catalogue("en")) if level else ""
