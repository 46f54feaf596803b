"""Every study of the shared set ends as its manifest says: real files, read, looked at and chosen among all of them."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest

from dicom_node.priors import ImageFacts, PriorChoice, Refusal, choose_prior, facts_of, same_picture, select_current
from dicom_node.priors.choose import SAME_PICTURE
from model.images.display import load_display_image
from model.schema import DisplayImage
from tests.support.common import shared

pytestmark = pytest.mark.shared_data

EXPECTED = {
    "HAN-0664ee2b/1": None,
    "HAN-0664ee2b/2": "HAN-0664ee2b/1/1.dcm",
    "HAN-0664ee2b/3": "HAN-0664ee2b/2/1.dcm",
    "HAN-0664ee2b/4": "HAN-0664ee2b/3/1.dcm",
    "HAN-0664ee2b/5": "HAN-0664ee2b/4/1.dcm",
    "HAN-0664ee2b_OTHER/1": None,
    "HAN-0664ee2b_OTHER/2": "HAN-0664ee2b_OTHER/1/1.dcm",
    "HAN-09ec853d/1": None,
    "HAN-09ec853d/2": "HAN-09ec853d/1/1.dcm",
    "HAN-09ec853d/3": "HAN-09ec853d/2/1.dcm",
    "HAN-09ec853d/4": "HAN-09ec853d/3/1.dcm",
    "HAN-09ec853d/5": "HAN-09ec853d/4/1.dcm",  # PA after AP only
    "HAN-2d1f1ee8/1": None,
    "HAN-2d1f1ee8/2": "HAN-2d1f1ee8/1/1.dcm",  # same day, by time
    "HAN-530a29b3/1": None,
    "HAN-530a29b3/2": "HAN-530a29b3/1/1.dcm",  # the prior lacks its birth date
    "HAN-530a29b3/3": "HAN-530a29b3/2/1.dcm",
    "HAN-530a29b3/4": "HAN-530a29b3/3/1.dcm",
    "HAN-c62c878a/1": None,
    "HAN-c62c878a/2": "HAN-c62c878a/1/1.dcm",
    "HAN-c62c878a/3": "HAN-c62c878a/2/1.dcm",  # PatientSex UNK
    "HAN-c62c878a/4": "HAN-c62c878a/1/1.dcm",  # PA with the PA of 16 days ago, not the AP of 8
    "NIH-00000001/1": None,
    "NIH-00000001/2": "NIH-00000001/1/1.dcm",
    "NIH-00000001/3": "NIH-00000001/2/1.dcm",
    "NIH-00006585/1": None,
    "NIH-00006585/2": "NIH-00006585/1/1.dcm",
    "NIH-00006585/3": "NIH-00006585/2/1.dcm",
    "NIH-00006585/4": "NIH-00006585/3/1.dcm",
    "NIH-00002658/1": None,
    "NIH-00002658/2": None,  # the same pixels sent again: nothing has changed, nothing to compare
    "NIH-00009507/1": None,
    "NIH-00009507/2": "NIH-00009507/1/1.dcm",
    "NIH-00009507/3": "NIH-00009507/2/2.dcm",  # FOR PRESENTATION, not FOR PROCESSING
    "NIH-00009507/4": "NIH-00009507/3/1.dcm",  # AP after PA only
    "NIH-00001108/1": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """All files of the set: facts by file name, files by study, and where they lie."""

    root: Path
    facts: dict[str, ImageFacts]
    studies: dict[str, list[str]]
    chosen: dict[str, PriorChoice] = field(default_factory=dict)
    """The earlier choice for a study, for which images of several megapixels had to be read."""

    def picture(self, image: ImageFacts) -> DisplayImage:
        name = next(name for name, facts in self.facts.items() if facts.sop_instance_uid == image.sop_instance_uid)
        return load_display_image(self.root / name)


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    root = shared("data", "studies")
    facts: dict[str, ImageFacts] = {}
    studies: dict[str, list[str]] = defaultdict(list)
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            facts[row["file"]] = facts_of(pydicom.dcmread(root / row["file"]))
            studies[row["file"].rpartition("/")[0]].append(row["file"])
    return Shelf(root=root, facts=facts, studies=studies)


def choose(shelf: Shelf, study: str) -> PriorChoice:
    """The choice for a study, made once."""
    if study not in shelf.chosen:
        shelf.chosen[study] = made_choice(shelf, study)
    return shelf.chosen[study]


def made_choice(shelf: Shelf, study: str) -> PriorChoice:
    """As the analysis does it: choose, look at the chosen film, choose again where it is the current one once more."""
    (current,) = (item.image for item in select_current(shelf.facts[name] for name in shelf.studies[study]).chosen)
    choice = choose_prior(current, shelf.facts.values())
    if choice.prior is None or not same_picture(shelf.picture(current), shelf.picture(choice.prior)):
        return choice
    return choose_prior(current, shelf.facts.values(), same_picture=[choice.prior.sop_instance_uid])


def test_the_manifest_is_the_one_that_is_expected(shelf: Shelf) -> None:
    assert set(shelf.studies) == set(EXPECTED)


@pytest.mark.parametrize("study", EXPECTED)
def test_prior(shelf: Shelf, study: str) -> None:
    expected = EXPECTED[study]
    prior = choose(shelf, study).prior
    wanted = shelf.facts[expected].sop_instance_uid if expected else None
    assert (prior.sop_instance_uid if prior else None) == wanted


def test_for_processing_is_refused_beside_its_presentation(shelf: Shelf) -> None:
    choice = select_current(shelf.facts[name] for name in shelf.studies["NIH-00009507/2"])
    assert [item.image for item in choice.chosen] == [shelf.facts["NIH-00009507/2/2.dcm"]]
    refusals = {item.image.sop_instance_uid: item.suitability.refusal for item in choice.judged}
    assert refusals[shelf.facts["NIH-00009507/2/1.dcm"].sop_instance_uid] is Refusal.FOR_PROCESSING


def test_other_issuer_under_the_same_id_is_told(shelf: Shelf) -> None:
    reasons = choose(shelf, "HAN-0664ee2b/3").reasons
    assert any("the same patient ID from another issuer" in reason for reason in reasons)


def test_same_pixels_in_another_dress_are_seen(shelf: Shelf) -> None:
    one, two = (shelf.picture(shelf.facts[f"NIH-00002658/{n}/1.dcm"]) for n in (1, 2))
    assert one.sha256 != two.sha256, "the stored values differ, only the picture is the same"
    assert same_picture(one, two)
    reasons = choose(shelf, "NIH-00002658/2").reasons
    assert any(SAME_PICTURE in reason for reason in reasons)


def test_two_exposures_of_one_person_are_not_one_picture(shelf: Shelf) -> None:
    pictures = [shelf.picture(shelf.facts[f"HAN-0664ee2b/{n}/1.dcm"]) for n in range(1, 6)]
    for number, picture in enumerate(pictures):
        assert [same_picture(picture, other) for other in pictures] == [n == number for n in range(5)]


def test_no_reason_tells_who_it_is(shelf: Shelf) -> None:
    for study in EXPECTED:
        person = shelf.facts[shelf.studies[study][0]].patient
        for reason in choose(shelf, study).reasons:
            for value in (person.key.patient_id, person.birth_date, *person.name.replace("=", "^").split("^")):
                assert not value or value not in reason
