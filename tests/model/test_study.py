"""A study of several images: in order of time or refused, cut to its newest images, a pair as the case of one prior."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine.engine import Engine
from model.images.display import from_grey
from model.predict import load_predictor
from model.questions.prompts import PromptLayout, render_prefix
from model.schema import MAX_IMAGES, DisplayImage, PatientContext, StudyPair
from tests.support.tiny_nvila import save_tiny

START = dt.datetime(2026, 3, 1, 9, 0)  # noqa: DTZ001 (DICOM local time has no zone)


def image(seed: int, day: int | None = None) -> DisplayImage:
    grey = np.kron(np.random.default_rng(seed).random((8, 6)), np.ones((8, 8))).astype(np.float32)
    made = from_grey(grey, crop=False)
    return made if day is None else replace(made, acquired=START + dt.timedelta(days=day))


def study(days: list[int | None]) -> StudyPair:
    images = [image(number, day) for number, day in enumerate(days)]
    prior = images[-2] if len(images) > 1 else None
    return StudyPair(current=images[-1], prior=prior, earlier=tuple(images[:-2]))


@given(st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=1, max_size=MAX_IMAGES))
def test_images_stand_in_order_of_time_or_are_refused(days: list[int | None]) -> None:
    known = [day for day in days if day is not None]
    if known == sorted(known):
        made = study(days)
        assert [i.acquired for i in made.images] == [image(0, day).acquired for day in days]
        last = days[-1]
        expected = tuple(None if last is None or day is None else last - day for day in days[:-1])
        assert made.days == expected
    else:
        with pytest.raises(ValueError, match="not in order of time"):
            study(days)


def test_two_images_in_the_wrong_order_are_never_accepted() -> None:
    with pytest.raises(ValueError, match="not in order of time"):
        StudyPair(current=image(1, 0), prior=image(2, 3))


def test_turning_a_pair_round_on_purpose_forgets_its_times() -> None:
    pair = StudyPair(current=image(1, 3), prior=image(2, 0), context=PatientContext(sex="F"))
    turned = pair.swapped()
    assert turned.current.pixels is pair.images[0].pixels
    assert turned.days == (None,)
    assert turned.context == pair.context
    with pytest.raises(ValueError, match="without a prior"):
        StudyPair(current=image(1)).swapped()


def test_only_the_newest_images_are_kept() -> None:
    whole = study([0, 1, 4, 9])
    assert whole.newest(2).images == whole.images[-2:]
    assert whole.newest(1).prior is None
    assert whole.newest(9).images == whole.images
    assert whole.newest(3).days == (8, 5)


def test_too_many_images_and_earlier_ones_without_a_prior_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        study([None] * (MAX_IMAGES + 1))
    with pytest.raises(ValueError, match="has a prior"):
        StudyPair(current=image(1), earlier=(image(2),))


def test_the_prompt_says_the_days_and_a_pair_without_them_reads_as_ever() -> None:
    layout = PromptLayout(priors=3, days=(9, 1, None))
    lines = render_prefix(layout).splitlines()
    assert lines[-4:] == [
        "earlier image, 9 days before: <image>",
        "earlier image, 1 day before: <image>",
        "prior image: <image>",
        "current image: <image>",
    ]
    assert "before" not in render_prefix(PromptLayout(priors=1))
    with pytest.raises(ValueError, match="2 times for 1"):
        PromptLayout(priors=1, days=(3, 1))


def test_a_model_of_two_images_gets_two_and_one_of_more_gets_more(tmp_path: Path) -> None:
    four = study([0, 1, 2, 3])
    for images, times in ((2, False), (3, True)):
        folder = save_tiny(tmp_path / f"tiny-{images}", manifest={"images": images, "times": times})
        predictor = load_predictor(folder)
        predictor.engine = Engine(predictor.vlm, max_new_tokens=2)
        (job,) = predictor.jobs(four)
        assert len(job.pictures) == images
        assert job.layout.days == ((2, 1) if times else ())
        assert predictor.predict(four).findings
        if images == 2:  # what it is not shown changes nothing
            assert predictor.predict(four).findings == predictor.predict(four.newest(2)).findings
