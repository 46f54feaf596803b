"""The part of the chart that an answer rests on beside the images, as the report names it. Values only."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum


class FactKind(StrEnum):
    """The kind of a fact of the chart."""

    AGE = "age"
    SEX = "sex"
    INDICATION = "indication"
    LAB = "lab"
    TREATMENT = "treatment"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartFact:
    """One fact that the model was told.

    name: of the laboratory value or treatment, "" otherwise. text: its value in words. before: how long before the
    exposure the sample was taken or the treatment begun.
    """

    kind: FactKind
    name: str = ""
    text: str = ""
    before: dt.timedelta | None = None
