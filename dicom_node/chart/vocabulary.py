"""From a sender's codes and units to the names that a model learned; what is not listed is not known."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from dicom_node.config import ChartSection
from dicom_node.config.chart import SiteCode

LOINC = frozenset({"LN", "LOINC", "2.16.840.1.113883.6.1"})
"""HL7 table 0396, everyday spelling, OID."""
ATC = frozenset({"ATC", "WC", "2.16.840.1.113883.6.73"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A laboratory value. unit: in which it is kept and shown; units: UCUM unit → factor to that."""

    name: str
    unit: str
    loinc: frozenset[str]
    units: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedName:
    """A code as it was sent: value and coding system, "" where none was named."""

    value: str
    system: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartVocabulary:
    """The labs by name, the classes of treatments, and the site's own codes."""

    labs: Mapping[str, Lab]
    treatments: Mapping[str, tuple[str, ...]]
    """Name → ATC classes."""
    site_labs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    site_treatments: Mapping[tuple[str, str], str] = field(default_factory=dict)
    site_units: Mapping[str, str] = field(default_factory=dict)

    def lab(self, codes: Sequence[CodedName]) -> Lab | None:
        """The laboratory value that one of these codes names: the site's table first, then LOINC."""
        for code in codes:
            # With its coding system first; a site that leaves the system out means the code of any.
            name = self.site_labs.get((code.value, code.system)) or self.site_labs.get((code.value, ""))
            if name is not None:
                return self.labs[name]
        named = [
            lab
            for code in codes
            if code.system.upper() in LOINC
            for lab in self.labs.values()
            if code.value in lab.loinc
        ]
        return named[0] if named else None

    def treatment(self, codes: Sequence[CodedName]) -> str | None:
        """The treatment that one of these codes names: the site's table first, then ATC."""
        for code in codes:
            name = self.site_treatments.get((code.value, code.system)) or self.site_treatments.get((code.value, ""))
            if name is not None:
                return name
        for code in codes:
            if code.system.upper() in ATC:
                for name, classes in self.treatments.items():
                    # ATC is a hierarchy by prefix: C03 is all diuretics. startswith(()) is never true.
                    if code.value.upper().startswith(classes) and classes:
                        return name
        return None

    def factor(self, lab: Lab, unit: str) -> float | None:
        """By what a number in this unit is multiplied; None for a unit that is not the lab's."""
        return lab.units.get(self.site_units.get(unit, unit))


@cache
def _read_shipped() -> tuple[Mapping[str, Lab], Mapping[str, tuple[str, ...]]]:
    raw = tomllib.loads(resources.files("dicom_node.chart").joinpath("known.toml").read_text("utf-8"))
    labs = {
        entry["name"]: Lab(
            name=entry["name"], unit=entry["unit"], loinc=frozenset(entry["loinc"]), units=entry["units"]
        )
        for entry in raw["lab"]
    }
    return labs, {entry["name"]: tuple(entry["atc"]) for entry in raw["treatment"]}


def chart_vocabulary(section: ChartSection) -> ChartVocabulary:
    """The shipped codes and those of the configuration, whose names were checked when it was read."""

    def table(rows: Sequence[SiteCode]) -> dict[tuple[str, str], str]:
        return {(row.code, row.system): row.means for row in rows}

    labs, treatments = _read_shipped()
    return ChartVocabulary(
        labs=labs,
        treatments=treatments,
        site_labs=table(section.labs),
        site_treatments=table(section.treatments),
        site_units={row.code: row.means for row in section.units},
    )
