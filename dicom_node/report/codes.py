"""From the vocabulary's codes to coded content: the only place where report concepts become DICOM code items."""

from __future__ import annotations

from functools import lru_cache

from highdicom.sr import CodedConcept
from pydicom import Dataset

from dicom_node.dicom.uids import derive_uid
from dicom_node.report.concepts import PRIVATE_SCHEME
from model.ontology import Code, ontology
from model.schema import AbstainReason, Change, Presence

PRIVATE_SCHEME_UID = derive_uid("dicom-node", "coding scheme", PRIVATE_SCHEME)
_MEANING_LIMIT, _VALUE_LIMIT = 64, 16  # Code Meaning is LO, Code Value SH, PS3.5 section 6.2


def concept_of(code: Code, meaning: str | None = None) -> CodedConcept:
    """The concept as a code item, shared by all that use it; `meaning` replaces the English one (PS3.3 section 8.3)."""
    return _make_concept(code.value, code.scheme, (meaning or code.meaning)[:_MEANING_LIMIT])


class _SharedConcept(CodedConcept):  # type: ignore[misc]  # highdicom has no types
    """A code item that hashes once: highdicom looks concepts up in dictionaries thousands of times a report."""

    def __init__(self, value: str, scheme_designator: str, meaning: str) -> None:
        super().__init__(value=value, scheme_designator=scheme_designator, meaning=meaning)
        object.__setattr__(self, "_own_hash", hash(scheme_designator + value))

    def __hash__(self) -> int:
        own: int = self.__dict__["_own_hash"]
        return own


@lru_cache(maxsize=1024)
def _make_concept(value: str, scheme: str, meaning: str) -> CodedConcept:
    """One object for one code: making one takes as long as a content item, and a report uses some a hundred times."""
    return _SharedConcept(value, scheme, meaning)


def concept(key: str, meaning: str | None = None) -> CodedConcept:
    """The report concept with this dotted key; raises KeyError naming it."""
    return concept_of(ontology().concepts[key], meaning)


def presence_code(presence: Presence) -> CodedConcept:
    """(Presence) as CID 240 codes it: present, absent, undetermined."""
    return concept_of(ontology().presences[presence])


def change_code(change: Change) -> CodedConcept:
    """(Change) as a code item."""
    return concept_of(ontology().changes[change])


def reason_code(reason: AbstainReason | None) -> CodedConcept:
    """Why there is no answer; without a coded reason the comment beside it says it in words."""
    return concept(f"reason.{reason.value}" if reason is not None else "reason.other")


def level_code(level: str) -> CodedConcept | None:
    """The degree where a standard has a code for the word, else None: the reading report says the word itself."""
    level_concept = ontology().concepts.get(f"level.{level}")
    return concept_of(level_concept) if level_concept is not None else None


def place_codes(location: str | None) -> tuple[CodedConcept | None, CodedConcept | None]:
    """(laterality, topographical modifier) of words such as "right lower"; None for what they do not name."""
    words = (location or "").replace("-sided", "").lower().split()
    concepts = ontology().concepts
    sides = [concepts[f"side.{word}"] for word in words if f"side.{word}" in concepts]
    places = [concepts[f"place.{word}"] for word in words if f"place.{word}" in concepts]
    # Two of one kind ("left and right") are no one code; the words of the report say them.
    return (concept_of(sides[0]) if len(sides) == 1 else None, concept_of(places[0]) if len(places) == 1 else None)


def label_unit(word: str) -> CodedConcept:
    """The word of a region's label where a number has its unit (docs/adr/0017); at most 16 characters, as SH."""
    return _make_concept(word[:_VALUE_LIMIT], PRIVATE_SCHEME, ontology().concepts["value.label_only"].meaning)


def coding_scheme_identification() -> Dataset:
    """The item that says what 99LUMEN is (Coding Scheme Identification Sequence, PS3.3 section C.12.1.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeUID = PRIVATE_SCHEME_UID
    item.CodingSchemeName = "Private codes of dicom-node"
    item.CodingSchemeVersion = ontology().version
    item.CodingSchemeResponsibleOrganization = "dicom-node project"
    return item
