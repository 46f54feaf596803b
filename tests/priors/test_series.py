"""The images before the prior: each by the rules of the one behind it, none twice, in any order of the candidates."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

from dicom_node.priors import ImageFacts, PriorPolicy, choose_prior
from dicom_node.priors.series import choose_earlier
from tests.support.prior_values import image, patient

NOW = dt.datetime(2024, 5, 17, 8, 30)  # noqa: DTZ001 - DICOM local time
CURRENT = image("current", taken=NOW)


def _before(days: int, name: str = "", **changes: Any) -> ImageFacts:
    return image(name or f"day {days}", taken=NOW - dt.timedelta(days=days), **changes)


def _series(candidates: list[ImageFacts], most: int = 6, **more: Any) -> tuple[ImageFacts, ...]:
    policy = PriorPolicy()
    choice = choose_prior(CURRENT, candidates, policy)
    return choose_earlier(choice, candidates, policy, most=most, **more)


def test_the_newest_before_the_prior_come_oldest_first_whatever_their_order() -> None:
    films = [_before(days) for days in (2, 5, 9, 30)]
    for shuffled in itertools.permutations(films):
        assert _series(list(shuffled), most=2) == (films[2], films[1])
    assert _series(films) == tuple(reversed(films[1:]))


def test_one_image_of_a_study_and_none_of_an_exposure_that_is_used() -> None:
    prior, older = _before(2), _before(9)
    second_of_study = image("day 9", number=2, taken=NOW - dt.timedelta(days=9, minutes=5))
    sent_again = _before(9, "copy", irradiation_event_uid="1.2.3")
    event = _before(5, "event", irradiation_event_uid="1.2.3")
    assert _series([prior, older, second_of_study]) == (older,)
    assert _series([prior, event, sent_again]) == (event,)


def test_what_may_not_be_a_prior_is_not_shown_either() -> None:
    prior = _before(2)
    refused = [
        _before(5, "other person", patient=patient(birth_date="19010101")),
        _before(6, "lateral", view_position="LL"),
        _before(7, "withdrawn", withdrawn="it was withdrawn for its quality (rejection note)"),
        _before(4000, "too old"),
        _before(8, "no time", taken_at=None, taken_time_known=False),
    ]
    assert _series([prior, *refused]) == ()
    fit = _before(5)
    assert _series([prior, *refused, fit]) == (fit,)
    assert _series([prior, fit], refused={fit.sop_instance_uid}) == ()


def test_without_a_prior_or_a_place_there_is_none() -> None:
    assert _series([]) == ()
    assert _series([_before(2), _before(5)], most=0) == ()
