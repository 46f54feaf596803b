"""Phantoms as records: the future stays out of what is shown, and a cache gives the same records as the seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.errors import PixelError
from model.schema import PatientContext
from training.data.datasets import load_image, load_pair, open_records, parse_spec
from training.data.record_rows import record_to_row, row_to_record
from training.instructions.streams import InstructionOptions, Stream, conversations
from training.phantom.cache import fill
from training.phantom.course import ClinicalOptions, sample_course
from training.readers.phantom import load_phantom_image, read_phantom_courses
from training.records.drops import DataError, DropReport
from training.records.record import Record, swapped

COURSES = 12


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(read_phantom_courses(COURSES, DropReport(), first_seed=40))


def test_every_film_but_the_first_is_current_once(records: list[Record]) -> None:
    lengths = [len(sample_course(seed).films) for seed in range(40, 40 + COURSES)]
    assert len(records) == sum(length - 1 for length in lengths)
    for record in records:
        number = int(record.current.image_id.rpartition("/")[2])
        assert [int(image.image_id.rpartition("/")[2]) for image in record.images] == list(range(number + 1))


def test_the_future_is_the_change_to_the_next_film(records: list[Record]) -> None:
    by_id = {record.record_id: record for record in records}
    for record in records:
        course, _, number = record.record_id.rpartition("/")
        following = by_id.get(f"{course}/{int(number) + 1}")
        assert (record.future is None) == (following is None)
        if record.future is not None and following is not None:
            assert {k: t.change_answer for k, t in record.future.findings.items()} == {
                k: t.change_answer for k, t in following.truth.findings.items()
            }


def test_the_future_never_reaches_the_input(records: list[Record]) -> None:
    """No conversation shows an image after the current one, nor a chart that was written after the image it shows."""
    options = InstructionOptions(
        streams=frozenset(Stream), max_images=8, times=True, context=True, context_dropout=0.0, rule_answers=True
    )
    rng = np.random.default_rng(0)
    for record in records:
        for made in conversations(record, options, rng, DropReport()):
            shown = [image.image_id for image in made.images]
            assert shown == sorted(shown)
            assert set(shown) <= {image.image_id for image in record.images}
            if made.layout.context is not None:
                assert made.images[-1] == record.current
            assert all(days is not None and days > 0 for days in made.layout.days)
            if made.stream is Stream.PREDICTION and record.future is not None:
                assert made.images[-1] == record.current


def test_a_prediction_is_asked_of_one_two_and_all_films(records: list[Record]) -> None:
    record = next(r for r in records if len(r.images) >= 4 and r.future is not None)
    options = InstructionOptions(streams=frozenset({Stream.PREDICTION}), max_images=8)
    made = list(conversations(record, options, np.random.default_rng(0), DropReport()))
    assert [len(one.images) for one in made] == [1, 2, len(record.images)]
    assert len({one.conversation_id for one in made}) == 3
    two = InstructionOptions(streams=frozenset({Stream.PREDICTION}), max_images=2)
    assert [len(c.images) for c in conversations(record, two, np.random.default_rng(0), DropReport())] == [1, 2]


def test_a_turned_record_knows_no_future_and_no_chart(records: list[Record]) -> None:
    record = next(r for r in records if r.future is not None)
    assert isinstance(record.context, PatientContext)
    turned = swapped(record)
    assert turned is not None
    assert turned.future is None
    assert turned.context is None


def test_a_row_keeps_everything(records: list[Record]) -> None:
    for record in records:
        assert row_to_record(record_to_row(record)) == record


def test_a_cache_gives_the_records_of_its_seeds(tmp_path: Path, records: list[Record]) -> None:
    fill(tmp_path, pairs=3, first_seed=40, size=32, options=ClinicalOptions())
    cached = list(open_records(parse_spec(f"phantom-cache:{tmp_path}"), DropReport()))
    assert [r.truth.findings for r in cached] == [r.truth.findings for r in records[: len(cached)]]
    assert [r.context for r in cached] == [r.context for r in records[: len(cached)]]
    assert load_image(cached[0].current).pixels.shape == (32, 32)
    study = load_pair(cached[-1], most=8)
    assert len(study.images) == len(cached[-1].images)
    assert study.days == tuple(
        (len(study.images) - 1 - n) * (study.days[-1] or 0) for n in range(len(study.images) - 1)
    )
    with pytest.raises(PixelError, match="not number"):
        load_phantom_image(f"phantom-cache/{next(tmp_path.glob('*.npy'))}#9999")
    with pytest.raises(DataError, match="no phantoms"):
        next(open_records(parse_spec(f"phantom-cache:{tmp_path / 'none'}"), DropReport()))
