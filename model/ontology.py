"""The one vocabulary of findings, places, degrees and changes that training, prompts and report codes share.

The table itself is `ontology.toml` beside this file; its `version` enters the UIDs of every report.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from model.schema import Change, Presence


class FindingKind(StrEnum):
    """The kind of a finding."""

    FINDING = "finding"
    """An abnormality."""
    DEVICE = "device"
    """A tube, line or implant: present or absent, never graded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept (PS3.3 section 8.8) and where we saw it."""

    scheme: str
    value: str
    meaning: str
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingConcept:
    """One finding of the vocabulary.

    name: as Medical-Diff-VQA spells it, lower case. synonyms: other wordings that the parser accepts.
    chexpert, nih, diffvqa: the label of that set which means this finding, None where it has none.
    lateral: it has a side. graded: it has a degree. site: its place, key `site.<site>` among the concepts.
    """

    key: str
    name: str
    kind: FindingKind
    code: Code
    synonyms: tuple[str, ...] = ()
    chexpert: str | None = None
    nih: str | None = None
    diffvqa: str | None = None
    lateral: bool = False
    graded: bool = False
    site: str = "chest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ontology:
    """The whole table, in the order of the file.

    concepts: what reports name beside findings (sites, sides, degrees, names of content items), by dotted key.
    """

    version: str
    findings: Mapping[str, FindingConcept]
    changes: Mapping[Change, Code]
    presences: Mapping[Presence, Code]
    concepts: Mapping[str, Code]
    levels: tuple[str, ...]
    locations: tuple[str, ...]
    types: tuple[str, ...]
    sides: tuple[str, ...]
    grades: tuple[str, ...]

    def by_name(self, name: str) -> FindingConcept:
        """The finding whose name, synonym or key is `name` (case-insensitive); raises KeyError naming it."""
        lowered = name.strip().lower()
        for concept in self.findings.values():
            if lowered == concept.name or lowered == concept.key or lowered in concept.synonyms:
                return concept
        raise KeyError(f"{name!r} is no finding of the ontology; known: {[c.name for c in self.findings.values()]}")


def _code(raw: Mapping[str, str]) -> Code:
    return Code(scheme=raw["scheme"], value=raw["value"], meaning=raw["meaning"], basis=raw["basis"])


def _finding(raw: dict[str, Any]) -> FindingConcept:
    values = dict(raw)
    values["kind"] = FindingKind(values["kind"])
    values["code"] = _code(values["code"])
    values["synonyms"] = tuple(values.get("synonyms", ()))
    return FindingConcept(**values)


@cache
def ontology() -> Ontology:
    """The bundled vocabulary, read once."""
    raw = tomllib.loads(resources.files("model").joinpath("ontology.toml").read_text("utf-8"))
    findings = [_finding(item) for item in raw["finding"]]
    words = raw["words"]
    return Ontology(
        version=raw["version"],
        findings={concept.key: concept for concept in findings},
        changes={Change(item["key"]): _code(item["code"]) for item in raw["change"]},
        presences={Presence(item["key"]): _code(item["code"]) for item in raw["presence"]},
        concepts={item["key"]: _code(item["code"]) for item in raw["concept"]},
        levels=tuple(words["levels"]),
        locations=tuple(words["locations"]),
        types=tuple(words["types"]),
        sides=tuple(words["sides"]),
        grades=tuple(words["grades"]),
    )
