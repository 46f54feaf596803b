"""Choice of a study's current image, and the reasons for it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from dicom_node.priors import ImageCheck, ImageFacts, PriorPolicy, Refusal, View, facts_of, select_current
from dicom_node.priors.suitability import header_contradictions, judge
from model.schema import AbstainReason
from tests.support.common import shared
from tests.support.prior_values import image

FRONTAL = ImageCheck(view=View.FRONTAL, probability=0.97)
LATERAL = ImageCheck(view=View.LATERAL, probability=0.97)
NO_CHEST = ImageCheck(view=View.OTHER, probability=0.97)
UNSURE = ImageCheck(view=View.OTHER, probability=0.6)
NOISE = ImageCheck(view=View.OTHER, probability=0.97, fault="is noise or a fine pattern")
SILENT: dict[str, Any] = {"view_position": "", "body_part": ""}


def texts(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(values.items())


@pytest.mark.parametrize(
    ("changes", "view"),
    [
        ({}, View.AP),
        ({"view_position": "PA"}, View.PA),
        ({"view_position": "", "texts": texts(SeriesDescription="Thorax p.a.")}, View.PA),
        ({"view_position": "", "texts": texts(SeriesDescription="Thorax liegend")}, View.AP),
        ({"view_position": "", "texts": texts(StudyDescription="胸部正面")}, View.FRONTAL),
        ({"view_position": "", "view_codes": (("272479007", "postero-anterior"),)}, View.PA),
        ({**SILENT, "texts": texts(SeriesDescription="CXR AP portable")}, View.AP),
        ({**SILENT, "check": FRONTAL}, View.FRONTAL),
        # Contradictions: one element against the pixels and everything else.
        ({"body_part": "ABDOMEN", "texts": texts(SeriesDescription="Chest AP", StudyDescription="Thorax")}, None),
        ({"body_part": "ABDOMEN", "texts": texts(SeriesDescription="Chest AP"), "check": FRONTAL}, View.AP),
        ({"body_part": "ABDOMEN"}, None),
        ({"view_position": "PA", "check": LATERAL}, None),
        ({"view_position": "LL", "check": FRONTAL}, View.FRONTAL),
        ({"view_position": "LL"}, None),
        ({"check": NO_CHEST}, None),
        ({"check": UNSURE}, View.AP),
        # "Chest PA and lateral" names the study's two images and says nothing of this one.
        ({"view_position": "", "texts": texts(StudyDescription="CHEST PA AND LATERAL")}, None),
        ({"view_position": "PA", "texts": texts(StudyDescription="CHEST PA AND LATERAL")}, View.PA),
        ({"view_position": "", "patient_orientation": ("L", "F")}, None),
        ({"view_position": "", "patient_orientation": ("A", "F"), "texts": texts(SeriesDescription="PA")}, View.PA),
        ({"view_position": "", "texts": texts(SeriesDescription="Thorax seitlich")}, None),
        ({"view_position": "", "texts": texts(SeriesDescription="Chest oblique")}, None),
        (SILENT, None),
        ({"view_codes": (("399173006", "left lateral"),), "view_position": ""}, None),
    ],
)
def test_view(changes: dict[str, Any], view: View | None) -> None:
    verdict = judge(image(**changes))
    assert (verdict.view if verdict.is_fit else None) is view, verdict.sentence


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"sop_class_uid": CTImageStorage, "modality": "CT"}, Refusal.NOT_RADIOGRAPH),
        ({"sop_class_uid": SecondaryCaptureImageStorage, "modality": "OT"}, Refusal.NOT_RADIOGRAPH),
        ({"sop_class_uid": SecondaryCaptureImageStorage, "modality": "DX"}, None),
        ({"species": "canine"}, Refusal.NOT_HUMAN),
        ({"has_pixels": False}, Refusal.NO_PIXELS),
        ({"rows": 16, "columns": 16}, Refusal.TOO_SMALL),
        ({"frames": 20}, Refusal.NOT_FRONTAL),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, Refusal.NOT_FRONTAL),
        ({"sop_class_uid": DigitalXRayImageStorageForProcessing}, Refusal.FOR_PROCESSING),
        ({"presentation_intent": "FOR PROCESSING"}, Refusal.FOR_PROCESSING),
        ({"body_part": "KNEE"}, Refusal.NOT_CHEST),
        ({"body_part": "CHESTABDOMEN"}, Refusal.NOT_CHEST),
        ({"body_part": "THORACIC_SPINE"}, Refusal.NOT_CHEST),
        ({"body_part": "THORAX_ABDOMEN"}, Refusal.NOT_CHEST),
        ({"body_part": "CHEST_PA"}, None),
        ({"view_position": "LL"}, Refusal.NOT_FRONTAL),
        (SILENT, Refusal.UNDECIDED),
    ],
)
def test_refusals_are_named(changes: dict[str, Any], refusal: Refusal | None) -> None:
    choice = select_current([image(**changes)])
    assert choice.refusal is refusal
    assert choice.sentence.endswith(".")
    if refusal is not None:
        assert not choice.chosen
        assert isinstance(refusal.abstain_reason, AbstainReason)


def test_a_picture_that_is_certainly_none_overrules_the_clearest_header() -> None:
    """A doubtful look loses against two strong elements; one that is certain does not."""
    clear: dict[str, Any] = {"view_position": "PA", "body_part": "CHEST"}
    clear["texts"] = texts(SeriesDescription="Chest PA", StudyDescription="Thorax")
    assert select_current([image(**clear, check=NO_CHEST)]).refusal is None
    choice = select_current([image(number=1, **clear, check=NOISE), image(number=2, **clear, check=FRONTAL)])
    assert [item.image.instance_number for item in choice.chosen] == [2]
    alone = select_current([image(**clear, check=NOISE)])
    assert alone.refusal is Refusal.NOT_CHEST
    assert alone.refusal.abstain_reason is AbstainReason.NOT_CHEST
    assert "the picture is noise or a fine pattern, whatever its header says" in alone.sentence


def test_for_presentation_goes_before_for_processing_of_one_exposure() -> None:
    raw = image(number=1, sop_class_uid=DigitalXRayImageStorageForProcessing, view_position="PA")
    shown = image(number=2, sop_class_uid=DigitalXRayImageStorageForPresentation, view_position="PA")
    shown = replace(shown, source_sop_uids=(raw.sop_instance_uid,), presentation_intent="FOR PRESENTATION")
    for policy in (PriorPolicy(), PriorPolicy(allow_for_processing=True)):
        choice = select_current([raw, shown], policy)
        assert [item.image for item in choice.chosen] == [shown]
    assert [item.image for item in select_current([raw], PriorPolicy(allow_for_processing=True)).chosen] == [raw]


def test_each_exposure_once_pa_first_then_the_later() -> None:
    early = dt.datetime(2024, 5, 17, 8, 0)  # noqa: DTZ001 - DICOM local time
    first, repeat = image(number=1, taken=early), image(number=2, taken=early + dt.timedelta(minutes=5))
    enhanced = replace(image(number=3, taken=early + dt.timedelta(minutes=5)), image_type=("DERIVED", "PRIMARY"))
    standing = image(number=4, taken=early, view_position="PA")
    lateral = image(number=5, taken=early, view_position="LL")
    choice = select_current([first, enhanced, repeat, lateral, standing])
    assert [item.image for item in choice.chosen] == [standing, repeat, first]
    verdicts = {item.image.instance_number: item.suitability.refusal for item in choice.judged}
    assert verdicts == {1: None, 2: None, 3: Refusal.SAME_EXPOSURE, 4: None, 5: Refusal.NOT_FRONTAL}


def test_more_frontal_images_than_the_limit() -> None:
    taken = dt.datetime(2024, 5, 17, 8, 0)  # noqa: DTZ001 - DICOM local time
    images = [image(number=n, taken=taken + dt.timedelta(minutes=n)) for n in range(6)]
    choice = select_current(images, PriorPolicy(max_images=2))
    assert [item.image.instance_number for item in choice.chosen] == [5, 4]
    assert sum(item.suitability.refusal is Refusal.LIMIT for item in choice.judged) == 4


def test_an_empty_study_and_a_mixed_one_say_why() -> None:
    assert select_current([]).refusal is Refusal.NO_PIXELS
    mixed = select_current([image(number=1, body_part="KNEE"), image(number=2, view_position="LL")])
    assert "Image 1: it is not a chest radiograph" in mixed.sentence
    assert "Image 2: it is a lateral view" in mixed.sentence


IMAGES = st.builds(
    image,
    number=st.integers(1, 4),
    view_position=st.sampled_from(["PA", "AP", "LL", ""]),
    body_part=st.sampled_from(["CHEST", "KNEE", ""]),
    taken=st.sampled_from([None, dt.datetime(2024, 5, 17, 8), dt.datetime(2024, 5, 17, 9)]),  # noqa: DTZ001
    presentation_intent=st.sampled_from(["", "FOR PRESENTATION", "FOR PROCESSING"]),
    check=st.sampled_from([None, FRONTAL, LATERAL, NO_CHEST, UNSURE]),
)


@given(st.lists(IMAGES, max_size=6), st.randoms(use_true_random=False))
def test_order_of_arrival_changes_nothing(images: list[ImageFacts], random: Any) -> None:
    shuffled = list(images)
    random.shuffle(shuffled)
    choice = select_current(images)
    assert choice == select_current(shuffled)
    assert all(item.suitability.is_fit for item in choice.chosen)
    assert bool(choice.chosen) is (choice.refusal is None)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("RG1_J2KI.dcm", None),
        ("CR-MONO1-10-chest", None),
        ("canine_dx_thorax_lateral.dcm", Refusal.NOT_HUMAN),
        ("chrKoreanMulti.dcm", Refusal.NO_PIXELS),
        ("chrJapMulti.dcm", Refusal.NO_PIXELS),
        ("not_chest_CSPINE_CR.dcm", Refusal.NOT_CHEST),
        ("not_chest_RG3_extremity_MONO1_J2KR.dcm", Refusal.NOT_CHEST),
        ("nih_dx_secondarycapture.dcm", Refusal.UNDECIDED),
    ],
)
def test_foreign_files(name: str, refusal: Refusal | None) -> None:
    header = pydicom.dcmread(shared("data", "dicom", name), force=True)
    assert select_current([facts_of(header)]).refusal is refusal


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"body_part": "HAND", "check": FRONTAL}, ("BodyPartExamined says HAND",)),
        ({"view_position": "LL", "check": FRONTAL}, ("ViewPosition says LL",)),
        ({"check": FRONTAL}, ()),
        ({"view_codes": (("999", "antero-posterior"),), "check": FRONTAL}, ()),  # a code that nobody knows here
        ({"region_codes": (("999", "Thorax"),), "check": FRONTAL}, ()),
        ({"body_part": "CHEST_ABDOMEN", "check": FRONTAL}, ()),
        ({"body_part": "HAND"}, ()),  # nobody looked
        ({"texts": texts(StudyDescription="Knee"), "check": FRONTAL}, ()),  # the text of an order names much
    ],
)
def test_coded_elements_that_contradict_the_picture_are_named(changes: dict[str, Any], said: tuple[str, ...]) -> None:
    assert header_contradictions(replace(image("1"), **changes)) == said
