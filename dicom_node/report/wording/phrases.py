"""Wording of one finding: degree, place and name in the order in which a radiologist of the language says them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.report.concepts import finding_concept
from dicom_node.report.rules import Doubt, Statement, side_of
from dicom_node.report.wording.catalogue import Catalogue
from model.ontology import ontology
from model.schema import Change, Finding, ImageRole

MEASURED_BY_SIZE = frozenset({"pleural_effusion", "pneumothorax", "lung_nodule", "lung_mass", "hematoma", "hernia"})
"""Findings that radiologists call small or large where the vocabulary's grades are mild and severe."""
_SIDES = frozenset({"left", "right", "bilateral", "left-sided", "right-sided"})


def name_of(key: str, words: Catalogue) -> str:
    """The finding's name in this language."""
    known = key in ontology().findings
    return words.word("finding", key) if known else finding_concept(key).name


def phrase(finding: Finding, words: Catalogue) -> str:
    """ "moderate left pleural effusion": degree and place only where the result states them."""
    is_plural = side_of(finding.location) == "bilateral" and f"plural.{finding.key}" in words.messages
    name = words.text(f"plural.{finding.key}") if is_plural else name_of(finding.key, words)
    location = (finding.location or "").lower().split()
    if finding.key.startswith("lung_") and [word for word in location if word not in _SIDES] == ["lung"]:
        location.remove("lung")  # a lung opacity of the left lung is a left lung opacity
    level, site = _degree(finding, words, is_plural=is_plural), place_text(location, words)
    if site.endswith(f" {name.split()[0]}"):
        site = site.removesuffix(name.split()[0]).rstrip()  # "upper lung" and "lung nodule"
    form = {(False, False): "plain", (False, True): "placed", (True, False): "graded", (True, True): "graded_placed"}
    return words.text(f"phrase.{form[bool(level), bool(site)]}", finding=name, level=level, place=site)


def place_text(location: Sequence[str], words: Catalogue) -> str:
    """Words of the vocabulary ("right", "lower", "lobe") as a place in this language.

    The longest run of words that the catalogue has an entry for is translated as one: "lower lobe" is no lower, lobe.
    """
    side = " ".join(words.word("place", word) for word in location if word in _SIDES)
    zone = " ".join(_longest_runs([word for word in location if word not in _SIDES], words))
    return words.text("place_order", side=side, zone=zone) if side and zone else side or zone


def degree_word(key: str, level: str, words: Catalogue) -> str:
    """The word for a degree of the finding with this key: "severe", or "large" where radiologists measure its size."""
    is_sized = key in MEASURED_BY_SIZE and f"size.{level}" in words.messages
    return words.word("size" if is_sized else "level", level)


def change_word(key: str, change: Change, words: Catalogue) -> str:
    """One word for a change of the finding with this key: "worse", or "larger" where radiologists measure its size."""
    name = change.value.replace(" ", "_")
    is_sized = key in MEASURED_BY_SIZE and change in (Change.WORSENING, Change.IMPROVING)
    return words.text(f"mark.{name}_size" if is_sized else f"mark.{name}")


def size_form(keys: Sequence[str]) -> str:
    """The words that fit findings together: "size" (larger), "degree" (worse) or "mixed" (larger or worse)."""
    is_sized = {key in MEASURED_BY_SIZE for key in keys}
    return "mixed" if len(is_sized) == 2 else "size" if is_sized == {True} else "degree"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLabel:
    """The label of a region in a viewer: "pneumothorax L" and "new"."""

    name: str
    word: str

    @property
    def line(self) -> str:
        """As OHIF 3.13 writes it."""
        return f"{self.name}:  {self.word}"


def region_label(statement: Statement, role: ImageRole, words: Catalogue) -> RegionLabel:
    """Name and change of a region; "seen" on the prior image, and where only the certainty of a change lacks."""
    is_compared = role is ImageRole.CURRENT and statement.doubt is not Doubt.LOW_CERTAINTY
    change = statement.coded_change if is_compared else None
    key = statement.finding.key
    word = change_word(key, change, words) if change is not None else words.text("mark.seen")
    return RegionLabel(name=_short_name(statement.finding, words), word=word)


def label(statement: Statement, words: Catalogue, role: ImageRole = ImageRole.CURRENT) -> str:
    """The short label of a region: "new: pneumothorax L" (`report.rules` rule 7); on the prior image its name alone."""
    finding, text = statement.finding, _short_name(statement.finding, words)
    if statement.change is None or role is ImageRole.PRIOR:
        return text
    return f"{change_word(finding.key, statement.change, words)}: {text}"


def _short_name(finding: Finding, words: Catalogue) -> str:
    """ "pneumothorax L"."""
    name, side = name_of(finding.key, words), side_of(finding.location)
    return f"{name} {words.text(f'side_letter.{side}')}" if side else name


def _degree(finding: Finding, words: Catalogue, *, is_plural: bool) -> str:
    """The degree as an adjective, with the ending that the finding's gender and number ask for."""
    if not finding.level:
        return ""
    adjective = degree_word(finding.key, finding.level, words)
    gender = next(
        (
            candidate
            for candidate in ("masculine", "feminine")
            if finding.key in words.text(f"grammar.{candidate}").split()
        ),
        "",
    )
    form = "plural" if is_plural else gender or "neuter"
    ending, between = words.text(f"grammar.ending_{form}"), words.text("grammar.range")
    # "mittel- bis hochgradig": the part that ends with a hyphen takes no ending, the last one does.
    return between.join(part if part.endswith("-") else part + ending for part in adjective.split(between))


def _longest_runs(said: list[str], words: Catalogue) -> list[str]:
    translated, start = [], 0
    while start < len(said):
        for end in range(len(said), start, -1):
            run = " ".join(said[start:end])
            if f"place.{run}" in words.messages or end == start + 1:
                translated.append(words.word("place", run))
                start = end
                break
    return translated
