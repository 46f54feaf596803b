"""The prior: never later, never another person's, never the image itself; and the same whatever the order."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.uid import DigitalXRayImageStorageForProcessing

from dicom_node.priors import ImageFacts, PriorPolicy, choose_prior
from dicom_node.priors.choose import SAME_PICTURE
from tests.support.prior_values import image, patient

NOW = dt.datetime(2024, 5, 17, 8, 30)  # noqa: DTZ001 - DICOM local time


def before(days: float, study: str | None = None, **changes: Any) -> ImageFacts:
    return image(study or f"{days} days before", taken=NOW - dt.timedelta(days=days), **changes)


def test_the_most_recent_of_the_same_view() -> None:
    current = image(view_position="PA")
    old_pa, new_ap = before(40, view_position="PA"), before(3)
    choice = choose_prior(current, [new_ap, old_pa])
    assert choice.prior == old_pa
    assert "same view (PA); a newer one has another view" in choice.reasons[0]
    strict = choose_prior(current, [new_ap, old_pa], PriorPolicy(same_view_days=30))
    assert strict.prior == new_ap
    assert "Views: prior AP, current PA." in strict.reasons


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (before(-1), "taken later than the current image"),
        (before(0, "same time"), "taken at the very time of the current image"),
        (before(5, patient=patient(issuer="CLINIC B")), "the same patient ID from another issuer"),
        (before(5, patient=patient("P2")), "another patient ID"),
        (before(5, patient=patient(birth_date="19710130")), "the patient ID agrees but the birth date differs"),
        (before(5, patient=patient(sex="F", name="Weber^Anna")), "the patient ID agrees but the sex and name differ"),
        (before(2000), "older than the look-back window of 1826 days"),
        (before(5, view_position="LL"), "it is a lateral view"),
        (before(5, body_part="KNEE"), "it is not a chest radiograph"),
        (before(5, sop_class_uid=DigitalXRayImageStorageForProcessing), "raw detector data (FOR PROCESSING)"),
        (before(5, has_pixels=False), "it holds no pixel data"),
        (image("undated", taken=None), "it bears no date"),
        (before(0.1, taken_time_known=False), "taken on the same day, and without both times"),
        (before(5, study_date="20240601"), "its study is dated later than the current one"),
        (before(5, irradiation_event_uid="1.2.3"), "the same exposure as the current one, sent again"),
        (before(5, pixel_sha256="ab" * 32), "the same exposure as the current one, sent again"),
        (before(5, "current", number=2), "part of the current study"),
    ],
)
def test_refused_with_its_reason(candidate: ImageFacts, why: str) -> None:
    current = image(irradiation_event_uid="1.2.3", pixel_sha256="ab" * 32)
    if candidate.irradiation_event_uid == "" and "exposure" not in why:
        current = image()
    elif candidate.pixel_sha256:
        current = image(pixel_sha256="ab" * 32)
    choice = choose_prior(current, [candidate])
    assert choice.prior is None
    (verdict,) = choice.verdicts
    assert any(why in clause for clause in verdict.against), verdict.against
    assert choice.reasons[0].startswith("No comparison: no earlier image of this patient is ")


HOUR = dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("hours", "prior_zone", "current_zone", "why"),
    [
        (0.5, None, None, ""),
        (0.5, HOUR, HOUR, ""),
        (0.5, 0 * HOUR, HOUR, "taken later than the current image"),
        (-0.5, HOUR, 0 * HOUR, ""),
        (1, 0 * HOUR, HOUR, "taken at the very time of the current image"),
        (1.5, 0 * HOUR, HOUR, ""),
        (0.5, HOUR, None, "only one of the two states its time zone"),
        (0.5, None, -5 * HOUR, "only one of the two states its time zone"),
        (24, HOUR, None, ""),
    ],
)
def test_the_order_on_one_clock(
    hours: float, prior_zone: dt.timedelta | None, current_zone: dt.timedelta | None, why: str
) -> None:
    """The wall clocks say one thing, UTC another: a wrong order turns new into resolved."""
    candidate = before(hours / 24, "same day", zone=prior_zone, study_date="", study_time="")
    (verdict,) = choose_prior(image(zone=current_zone), [candidate]).verdicts
    assert (verdict.against == ()) is (why == "")
    assert why in " ".join(verdict.against)


@pytest.mark.parametrize(
    ("hours_before", "prior_zone", "current_zone", "is_proven"),
    [
        (32.5, None, None, True),
        (32.5, HOUR, HOUR, True),
        (32.5, -11 * HOUR, 13 * HOUR, False),
        (32.5, HOUR, None, False),
        (32.5, None, HOUR, False),
        (56.5, -11 * HOUR, 13 * HOUR, True),
        (56.5, HOUR, None, True),
    ],
)
def test_a_date_without_a_time_is_the_whole_day_of_its_zone(
    hours_before: float, prior_zone: dt.timedelta | None, current_zone: dt.timedelta | None, is_proven: bool
) -> None:
    """The day before, on a clock 24 hours behind, ends half a day after the current image."""
    candidate = before(hours_before / 24, "day", zone=prior_zone, taken_time_known=False, study_date="", study_time="")
    assert (choose_prior(image(zone=current_zone), [candidate]).prior == candidate) is is_proven


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("then", "now", "is_proven"),
    [
        ("2024-10-27 02:10", "2024-10-27 02:50", False),
        ("2024-10-27 02:50", "2024-10-27 03:10", True),
        ("2024-10-27 01:50", "2024-10-27 02:10", True),
        ("2024-10-26 02:10", "2024-10-26 02:50", True),
        ("2024-10-26 02:10", "2024-10-27 02:50", True),
        ("2024-03-31 02:30", "2024-03-31 03:05", False),
        ("2024-03-31 01:30", "2024-03-31 03:05", True),
    ],
)
def test_the_hour_in_which_clocks_are_changed_proves_no_order(then: str, now: str, is_proven: bool) -> None:
    """A film of 02:10 may have been taken 20 minutes after one of 02:50, and new would be read as resolved."""
    current, candidate = (image(study, taken=dt.datetime.fromisoformat(at)) for study, at in (("c", now), ("p", then)))
    choice = choose_prior(current, [candidate])
    assert (choice.prior == candidate) is is_proven
    assert ("clocks are set" in " ".join(choice.reasons)) is not is_proven
    with_zones = [replace(made, zone=HOUR) for made in (current, candidate)]
    assert choose_prior(with_zones[0], with_zones[1:]).prior is not None


def test_a_conflict_is_told_in_the_report_and_hides_no_other_prior() -> None:
    wrong = before(2, patient=patient(birth_date="19710130"))
    right = before(9)
    choice = choose_prior(image(), [wrong, right])
    assert choice.prior == right
    assert "Not used: image of 2024-05-15 08:30: the patient ID agrees but the birth date differs." in choice.reasons


def test_a_current_image_without_id_or_date_has_no_prior() -> None:
    assert choose_prior(image(patient=patient("")), [before(5, patient=patient(""))]).prior is None
    undated = choose_prior(image(taken=None), [before(5)])
    assert undated.prior is None
    assert "the current image bears no date" in undated.reasons[1]


def test_what_the_pixels_say_excludes_and_lets_the_next_one_through() -> None:
    newest, next_best = before(1), before(2)
    choice = choose_prior(image(), [newest, next_best], same_picture=[newest.sop_instance_uid])
    assert choice.prior == next_best
    assert f"Not used: image of 2024-05-16 08:30: {SAME_PICTURE}." in choice.reasons
    broken = [(newest.sop_instance_uid, "truncated")]
    assert choose_prior(image(), [newest, next_best], unreadable=broken).prior == next_best


MOMENTS = st.sampled_from(
    [None, *(NOW + dt.timedelta(hours=hours) for hours in (-40_000, -9000, -800, -30, -3, -1, 0, 1, 30, 9000))]
)
PEOPLE = st.sampled_from(
    [
        patient(),
        patient(birth_date=""),
        patient(sex="F"),
        patient(issuer=""),
        patient(issuer="CLINIC B"),
        patient("P2"),
        patient(""),
        patient(name="Weber^Karl"),
    ]
)
FILMS = st.builds(
    image,
    study=st.sampled_from(["current", "a", "b", "c", "d"]),
    number=st.integers(1, 3),
    taken=MOMENTS,
    taken_time_known=st.booleans(),
    patient=PEOPLE,
    view_position=st.sampled_from(["PA", "AP", "LL", ""]),
    body_part=st.sampled_from(["CHEST", "CHEST", "KNEE"]),
    modality=st.sampled_from(["CR", "DX"]),
    rows=st.sampled_from([2000, 3000, None]),
    pixel_sha256=st.sampled_from(["", "11" * 32, "22" * 32]),
    instance_number=st.sampled_from([None, 1, 2]),
)


@given(FILMS, st.lists(FILMS, max_size=8), st.builds(PriorPolicy, same_view_days=st.sampled_from([0, 30, 365])))
def test_never_later_never_another_person_never_itself(
    current: ImageFacts, candidates: list[ImageFacts], policy: PriorPolicy
) -> None:
    prior = choose_prior(current, candidates, policy).prior
    if prior is None:
        return
    assert prior.sop_instance_uid != current.sop_instance_uid
    assert prior.study_instance_uid != current.study_instance_uid
    assert current.taken_at is not None
    assert prior.taken_at is not None
    assert prior.taken_at < current.taken_at
    assert prior.study_date <= current.study_date
    assert prior.patient.key.patient_id == current.patient.key.patient_id != ""
    assert {prior.patient.key.issuer, current.patient.key.issuer} != {"HOSPITAL", "CLINIC B"}
    assert {prior.patient.sex, current.patient.sex} != {"M", "F"}
    assert not prior.pixel_sha256 or prior.pixel_sha256 != current.pixel_sha256
    assert prior.body_part == "CHEST"
    assert prior.view_position in ("PA", "AP")


@given(FILMS, st.lists(FILMS, max_size=8), st.randoms(use_true_random=False))
def test_order_of_arrival_changes_nothing(current: ImageFacts, candidates: list[ImageFacts], random: Any) -> None:
    shuffled = [*candidates, *candidates[:2]]
    random.shuffle(shuffled)
    assert choose_prior(current, candidates) == choose_prior(current, shuffled)


@given(FILMS, FILMS, st.lists(FILMS, max_size=4))
def test_swapping_equal_candidates_changes_nothing(
    current: ImageFacts, film: ImageFacts, others: list[ImageFacts]
) -> None:
    """Two films that differ in nothing but their UIDs: which of them comes first does not matter."""
    twin = replace(film, sop_instance_uid="2.25.1", study_instance_uid="2.25.2", pixel_sha256="")
    film = replace(film, pixel_sha256="")
    assume(film.sop_instance_uid != current.sop_instance_uid)
    others = [other for other in others if other.sop_instance_uid != film.sop_instance_uid]
    one = choose_prior(current, [film, twin, *others])
    two = choose_prior(current, [twin, film, *others])
    assert one == two


@given(FILMS, st.lists(FILMS, max_size=6), FILMS)
def test_one_more_film_never_makes_a_worse_choice_than_itself(
    current: ImageFacts, candidates: list[ImageFacts], more: ImageFacts
) -> None:
    """A further candidate changes no verdict on the others, and where there was a prior there still is one."""
    assume(all(more.sop_instance_uid != other.sop_instance_uid for other in candidates))
    without, with_it = choose_prior(current, candidates), choose_prior(current, [*candidates, more])
    before_verdicts = {v.image.sop_instance_uid: v.against for v in without.verdicts}
    after_verdicts = {v.image.sop_instance_uid: v.against for v in with_it.verdicts}
    assert before_verdicts.items() <= after_verdicts.items()
    if without.prior is not None:
        assert with_it.prior is not None
