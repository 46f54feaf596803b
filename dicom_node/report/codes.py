"""From the vocabulary's codes to coded content: the only place where report concepts become DICOM code items."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom import Dataset

from dicom_node.dicom.uids import derived_uid
from model.ontology import Code, FindingConcept, FindingKind, ontology
from model.schema import AbstainReason, Change, Presence

PRIVATE_SCHEME = "99LUMEN"
PRIVATE_SCHEME_UID = derived_uid("dicom-node", "coding scheme", PRIVATE_SCHEME)
_MEANING_LIMIT = 64  # Code Meaning is LO, PS3.5 section 6.2
_VALUE_LIMIT = 16  # Code Value is SH


def coded(code: Code, meaning: str | None = None) -> CodedConcept:
    """The concept as a code item; `meaning` replaces the English one, as PS3.3 section 8.3 allows."""
    return CodedConcept(
        value=code.value, scheme_designator=code.scheme, meaning=(meaning or code.meaning)[:_MEANING_LIMIT]
    )


def concept(key: str, meaning: str | None = None) -> CodedConcept:
    """The report concept with this dotted key; raises KeyError naming it."""
    return coded(ontology().concepts[key], meaning)


def finding_concept(key: str) -> FindingConcept:
    """The vocabulary's entry, or a private one made of the key: a checkpoint may know more than the vocabulary."""
    known = ontology().findings.get(key)
    if known is not None:
        return known
    name = key.replace("_", " ")
    value = key.upper()[:_VALUE_LIMIT]
    code = Code(scheme=PRIVATE_SCHEME, value=value, meaning=name.capitalize(), basis="private: key of the checkpoint")
    return FindingConcept(key=key, name=name, kind=FindingKind.FINDING, code=code)


def presence_code(presence: Presence) -> CodedConcept:
    """(Presence) as CID 240 codes it: present, absent, undetermined."""
    return coded(ontology().presences[presence])


def change_code(change: Change) -> CodedConcept:
    """(Change) as a code item."""
    return coded(ontology().changes[change])


def reason_code(reason: AbstainReason | None) -> CodedConcept:
    """Why there is no answer; without a coded reason the comment beside it says it in words."""
    return concept(f"reason.{reason.value}" if reason is not None else "reason.other")


def level_code(level: str) -> CodedConcept | None:
    """The degree where a standard has a code for the word, else None: the reading report says the word itself."""
    found = ontology().concepts.get(f"level.{level}")
    return coded(found) if found is not None else None


def place_codes(location: str | None) -> tuple[CodedConcept | None, CodedConcept | None]:
    """(laterality, topographical modifier) of words such as "right lower"; None for what they do not name."""
    words = (location or "").replace("-sided", "").lower().split()
    concepts = ontology().concepts
    sides = [concepts[f"side.{word}"] for word in words if f"side.{word}" in concepts]
    places = [concepts[f"place.{word}"] for word in words if f"place.{word}" in concepts]
    return (coded(sides[0]) if len(sides) == 1 else None, coded(places[0]) if len(places) == 1 else None)


def coding_scheme_identification() -> Dataset:
    """The item that says what 99LUMEN is (Coding Scheme Identification Sequence, PS3.3 section C.12.1.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeUID = PRIVATE_SCHEME_UID
    item.CodingSchemeName = "Private codes of dicom-node"
    item.CodingSchemeVersion = ontology().version
    item.CodingSchemeResponsibleOrganization = "dicom-node project"
    return item
