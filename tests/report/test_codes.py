"""The code table: every code is what a dictionary says, or openly private; the concept maps are complete."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from pydicom.sr import _concepts_dict

from dicom_node.report.codes import place_codes
from dicom_node.report.concepts import PRIVATE_SCHEME, finding_concept
from model.ontology import Code, ontology
from model.schema import AbstainReason, Change, Presence

ALL: list[Code] = [
    *(concept.code for concept in ontology().findings.values()),
    *ontology().changes.values(),
    *ontology().presences.values(),
    *ontology().concepts.values(),
]

CHEXPERT = {
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
}
DIFF_VQA = (
    "pleural effusion, atelectasis, cardiomegaly, enlargement of the cardiac silhouette, edema, hernia, vascular "
    "congestion, hilar congestion, pneumothorax, heart failure, lung opacity, pneumonia, tortuosity of the descending "
    "aorta, scoliosis, gastric distention, hypoxemia, hypertensive heart disease, hematoma, tortuosity of the thoracic "
    "aorta, contusion, emphysema, granuloma, calcification, pleural thickening, thymoma, blunting of the costophrenic "
    "angle, consolidation, fracture, pneumomediastinum, air collection"
)


def _dictionary() -> dict[tuple[str, str], set[str]]:
    """(scheme, value) → the meanings that pydicom's copy of PS3.16 gives."""
    meanings: dict[tuple[str, str], set[str]] = {}
    for scheme, keywords in cast(Any, _concepts_dict).concepts.items():
        for values in keywords.values():
            for value, (meaning, _) in values.items():
                meanings.setdefault((scheme, value), set()).add(re.sub(r" \([a-z ]+\)$", "", meaning).lower())
    return meanings


DICTIONARY = _dictionary()


@pytest.mark.parametrize("code", ALL, ids=lambda code: f"{code.scheme}-{code.value}")
def test_a_code_is_what_its_basis_says(code: Code) -> None:
    known = DICTIONARY.get((code.scheme, code.value))
    if code.scheme == PRIVATE_SCHEME:
        assert code.basis.startswith("private"), "a private code must say so"
    elif known is None:
        assert "dictionary" not in code.basis, "the dictionary does not hold it"
        assert code.basis, "where was it seen?"
    elif code.value in {"260753009"}:  # highdicom's own concept name of an image library entry
        assert code.meaning.lower() in known
    else:
        assert "dictionary" in code.basis or "CID" in code.basis, f"the dictionary holds it: {known}"
        assert code.meaning.lower() in known


@pytest.mark.parametrize("code", ALL, ids=lambda code: f"{code.scheme}-{code.value}")
def test_a_code_fits_its_elements(code: Code) -> None:
    """Code Value is SH (16), Coding Scheme Designator SH (16), Code Meaning LO (64)."""
    assert 0 < len(code.value) <= 16
    assert 0 < len(code.scheme) <= 16
    assert 0 < len(code.meaning) <= 64
    assert "to be verified" not in code.basis


def test_no_code_stands_for_two_findings() -> None:
    values = [(c.code.scheme, c.code.value) for c in ontology().findings.values()]
    assert len(values) == len(set(values))


def test_cardiomegaly_is_not_the_enlarged_septal_foramen() -> None:
    """SCT 287272002 is listed as cardiomegaly in CID 12248, but its name is another one."""
    assert ontology().findings["cardiomegaly"].code.value == "8186001"


def test_the_chexpert_map_is_complete() -> None:
    """ "No Finding" is no finding: it is what is left when every other is absent."""
    mapped = {c.chexpert for c in ontology().findings.values() if c.chexpert}
    assert mapped == CHEXPERT - {"No Finding"}


def test_the_medical_diff_vqa_map_is_complete_and_unambiguous() -> None:
    mapped = [c.diffvqa for c in ontology().findings.values() if c.diffvqa]
    assert sorted(mapped) == sorted(DIFF_VQA.split(", "))
    assert len(mapped) == 30


def test_every_state_has_a_code() -> None:
    assert set(ontology().changes) == set(Change)
    assert set(ontology().presences) == set(Presence)
    for reason in AbstainReason:
        assert f"reason.{reason.value}" in ontology().concepts
    for concept in ontology().findings.values():
        assert f"site.{concept.site}" in ontology().concepts
    for grade in ontology().grades:
        assert f"level.{grade}" in ontology().concepts
    for side in ontology().sides:
        assert f"side.{side}" in ontology().concepts


def test_a_finding_that_the_vocabulary_lacks_is_private_and_named() -> None:
    concept = finding_concept("some_new_finding_of_a_site")
    assert (concept.code.scheme, concept.code.value) == (PRIVATE_SCHEME, "SOME_NEW_FINDING")
    assert concept.code.meaning == "Some new finding of a site"


def test_places_are_coded_only_where_they_are_unambiguous() -> None:
    def values(location: str | None) -> list[str]:
        return [code.meaning for code in place_codes(location) if code is not None]

    assert values("right lower") == ["Right", "Lower zone of lung"]
    assert values("left-sided") == ["Left"]
    assert values("mid to lower") == ["Lower zone of lung"]
    assert values("left right") == []
    assert values(None) == []
