"""How one finding is worded: degree, place and name in the order in which a radiologist of the language says them."""

from __future__ import annotations

from dicom_node.report.codes import finding_concept
from dicom_node.report.wording.catalogue import Catalogue
from model.ontology import FindingKind, ontology
from model.schema import Change, Finding

MEASURED_BY_SIZE = frozenset({"pleural_effusion", "pneumothorax", "lung_nodule", "lung_mass", "hematoma", "hernia"})
"""Findings that radiologists call small or large where the vocabulary's grades are mild and severe."""
_SIDES = frozenset({"left", "right", "bilateral", "left-sided", "right-sided"})


def name_of(key: str, words: Catalogue) -> str:
    """The finding's name in this language."""
    known = key in ontology().findings
    return words.word("finding", key) if known else finding_concept(key).name


def is_device(finding: Finding) -> bool:
    """Whether the finding is a tube, a line or an implant, which is removed and does not resolve."""
    return finding_concept(finding.key).kind is FindingKind.DEVICE


def phrase(finding: Finding, words: Catalogue) -> str:
    """ "moderate left pleural effusion": degree and place only where the result states them."""
    level = _degree(finding, words)
    place, is_noun = place_text(finding.location or "", words)
    form = {(False, False): "plain", (False, True): "placed", (True, False): "graded", (True, True): "graded_placed"}
    key = f"phrase.{form[bool(level), bool(place)]}{'_noun' if is_noun else ''}"
    name = name_of(finding.key, words)
    if place.endswith(name.split()[0]):  # "left lung" and "lung opacity"
        place = place.removesuffix(name.split()[0]).rstrip()
    return words.text(key, finding=name, level=level, place=place)


def place_text(location: str, words: Catalogue) -> tuple[str, bool]:
    """A place of the vocabulary ("right lower lobe") in this language, and whether it is a noun that stands apart.

    The longest run of words that the catalogue has an entry for is translated as one: "lower lobe" is no lower, lobe.
    """
    said = location.lower().split()
    side = " ".join(words.word("place", word) for word in said if word in _SIDES)
    zones = [word for word in said if word not in _SIDES]
    zone = " ".join(_longest_runs(zones, words))
    is_noun = bool(zones) and zones[-1] in words.text("place_nouns").split()
    if side and zone:
        return words.text("place_order", side=side, zone=zone), is_noun
    return side or zone, is_noun


def change_word(finding: Finding, change: Change, words: Catalogue) -> str:
    """One or two words for a change: "worse"."""
    return words.text(f"mark.{change_key(finding, change)}")


def change_key(finding: Finding, change: Change) -> str:
    """The catalogue's name of a change; a device has a word of its own for having gone."""
    key = change.value.replace(" ", "_")
    return f"{key}_device" if change is Change.RESOLVED and is_device(finding) else key


def _degree(finding: Finding, words: Catalogue) -> str:
    if not finding.level:
        return ""
    if finding.key in MEASURED_BY_SIZE and f"size.{finding.level}" in words.messages:
        return words.word("size", finding.level)
    return words.word("level", finding.level)


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
