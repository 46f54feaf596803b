"""Phantom courses: what the process leads to, who can know what, and that nobody beats the computed ceiling."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest

from model.questions.answers import CHANGE_ANSWERS
from training.phantom.ceiling import Knowledge, answer_of_levels, best_answers, can_explain, known
from training.phantom.chain import Chain, FilmObservation, filter_states, sample_states, stationary
from training.phantom.course import ClinicalOptions, Story, sample_course, sample_story
from training.phantom.course_dicom import write_course
from training.phantom.process import CADENCES, FILMS, TREATMENTS, groups
from training.phantom.scene import GRADED, GRADES, PHANTOM_FINDINGS

COURSES = 150
ORDER = (Knowledge.CURRENT, Knowledge.BOTH, Knowledge.ALL, Knowledge.CHART, Knowledge.STATE)


@lru_cache(maxsize=1)
def predictions() -> tuple[tuple[dict[str, str], dict[Knowledge, dict[str, dict[str, float]]]], ...]:
    """(what came, best answers by knowledge) at the last film but one of each course."""
    found = []
    for seed in range(COURSES):
        story = sample_story(seed)
        came = {
            key: answer_of_levels(story.seen[-2].levels[key], story.seen[-1].levels[key]) for key in PHANTOM_FINDINGS
        }
        best = {
            knowledge: best_answers(story.seen[:-1], story.cadence, knowledge, states=story.states[-2])
            for knowledge in Knowledge
        }
        found.append((came, best))
    return tuple(found)


def test_every_finding_belongs_to_one_group_and_every_row_is_a_distribution() -> None:
    keys = [key for group in groups() for key in group.chain.levels]
    assert sorted(keys) == sorted(PHANTOM_FINDINGS)
    for group in groups():
        assert group.start.sum() == pytest.approx(1.0)
        assert group.start @ group.chain.step == pytest.approx(group.start, abs=1e-9)


def test_a_course_is_the_same_every_time_and_as_long_as_asked() -> None:
    assert sample_course(5) == sample_course(5)
    assert sample_course(5) != sample_course(6)
    lengths = {len(sample_course(seed).films) for seed in range(120)}
    assert lengths == set(range(FILMS[0], FILMS[1] + 1))
    assert {len(sample_course(seed, ClinicalOptions(films=(2, 2))).films) for seed in range(5)} == {2}


def test_what_a_film_shows_is_what_the_story_says() -> None:
    for seed in range(30):
        course, story = sample_course(seed), sample_story(seed)
        assert [film.day for film in course.films] == [n * story.cadence for n in range(len(story.seen))]
        for film, seen in zip(course.films, story.seen, strict=True):
            assert set(film.states) == {key for key, level in seen.levels.items() if level}
            for key, state in film.states.items():
                if key in GRADED:
                    assert state.grade == GRADES[seen.levels[key] - 1]
            assert set(film.treatments) == {name for name, given in seen.treatments.items() if given}
            assert set(film.labs) == set(seen.flags)


def test_a_finding_keeps_its_place_and_hides_no_other() -> None:
    for seed in range(60):
        course = sample_course(seed)
        places: dict[str, tuple[str | None, str | None, int]] = {}
        for film in course.films:
            for key, state in film.states.items():
                assert places.setdefault(key, (state.side, state.zone, state.seed)) == (
                    state.side,
                    state.zone,
                    state.seed,
                )
        pleural = {places[key][0] for key in ("pleural_effusion", "pneumothorax") if key in places}
        lung = {places[key][0] for key in ("atelectasis", "consolidation", "lung_nodule") if key in places}
        assert not pleural & lung


def test_a_treatment_turns_what_it_treats() -> None:
    """Under a treatment more courses of edema get better in the next step than without it."""
    for group in groups():
        for name, given in group.chain.treatments.items():
            if name not in TREATMENTS:
                continue
            (key,) = group.chain.levels
            levels = group.chain.levels[key]
            present = levels == 2
            better = group.chain.step @ np.eye(4)[levels]
            improves = better[:, 0] + better[:, 1]
            assert improves[present & given].mean() > improves[present & ~given].mean() + 0.2


def test_nobody_who_knows_more_does_worse() -> None:
    """The expected accuracy (mean of the likeliest answer's probability) rises with what is known."""
    sure = [np.mean([max(s.values()) for _, best in predictions() for s in best[k].values()]) for k in ORDER]
    assert all(after > before for before, after in pairwise(sure))


def test_a_perfect_observer_reaches_the_ceiling() -> None:
    """Saying the likeliest answer is right as often as the ceiling says, in every setting; and no other answer that
    goes by the current degree alone is right more often than the one film's ceiling."""
    for knowledge in Knowledge:
        right, claimed = [], []
        for came, best in predictions():
            for key, shares in best[knowledge].items():
                right.append(max(shares, key=lambda answer: shares[answer]) == came[key])
                claimed.append(max(shares.values()))
        spread = float(np.std(right)) / len(right) ** 0.5
        assert abs(np.mean(right) - np.mean(claimed)) < 4 * spread


def test_the_ceilings_probabilities_are_calibrated() -> None:
    for knowledge in (Knowledge.BOTH, Knowledge.CHART):
        said = np.array(
            [[shares[a] for a in CHANGE_ANSWERS] for _, best in predictions() for shares in best[knowledge].values()]
        )
        came = np.array(
            [[came[key] == a for a in CHANGE_ANSWERS] for came, best in predictions() for key in best[knowledge]]
        )
        for low, high in ((0.05, 0.3), (0.3, 0.6), (0.6, 0.95)):
            inside = (said >= low) & (said < high)
            expected, seen = said[inside].mean(), came[inside].mean()
            assert abs(expected - seen) < 4 * (expected * (1 - expected) / inside.sum()) ** 0.5


def test_the_filter_equals_counting_of_simulated_courses() -> None:
    """Of many simulated courses, those that look as one did go on as the filter says."""
    rng = np.random.default_rng(0)
    group = groups()[-2]
    (key,) = group.chain.levels
    levels = group.chain.levels[key]
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(20_000):
        states = sample_states(group.chain, 2, 3, rng, start=group.start)
        shown = tuple(int(levels[state]) for state in states)
        counts[shown] = counts.get(shown, 0) + 1
    belief = filter_states(
        group.chain, [FilmObservation(levels={key: 1}), FilmObservation(levels={key: 1})], 2, start=group.start
    )
    stays = float((belief @ group.chain.across(2))[levels == 1].sum())
    seen = counts[1, 1, 1] / (counts[1, 1, 1] + counts[1, 1, 0])
    assert stays == pytest.approx(seen, abs=0.02)


def test_the_future_does_not_reach_what_is_known() -> None:
    """Another last film, and other charts of earlier films, change no prediction of it."""
    for seed in range(20):
        story = sample_story(seed)
        before = best_answers(story.seen[:-1], story.cadence, Knowledge.CHART)
        blind = [replace(film, treatments={}, flags={}) for film in story.seen[:-2]]
        assert before == best_answers([*blind, story.seen[-2]], story.cadence, Knowledge.CHART)
        assert known(story.seen[:-1], Knowledge.ALL)[-1].flags == {}
        assert len(known(story.seen[:-1], Knowledge.BOTH)) == 2


def test_one_film_does_not_tell_the_days_to_the_next() -> None:
    story: Story = sample_story(3)
    answers = [best_answers(story.seen[:1], cadence, Knowledge.CURRENT) for cadence in CADENCES]
    assert answers[0] == answers[1]


def test_what_the_process_cannot_show_is_refused() -> None:
    chain = Chain(step=np.array([[1.0, 0.0], [0.0, 1.0]]), levels={"edema": np.array([0, 1])})
    with pytest.raises(ValueError, match="cannot lead to"):
        filter_states(
            chain,
            [FilmObservation(levels={"edema": 0}), FilmObservation(levels={"edema": 1})],
            1,
            start=np.array([0.5, 0.5]),
        )
    with pytest.raises(ValueError, match="distributions"):
        Chain(step=np.array([[0.5, 0.6]]), levels={})
    assert stationary(Chain(step=np.array([[0.9, 0.1], [0.3, 0.7]]), levels={})) == pytest.approx([0.75, 0.25])
    assert can_explain(sample_story(1).seen[0])


def test_a_course_is_written_as_studies_with_its_chart(tmp_path: Path) -> None:
    made, again = (write_course(tmp_path / name, 5, long_side=96) for name in ("a", "b"))
    course = sample_course(5)
    assert len(made.studies) == len(course.films)
    films = [pydicom.dcmread(study.files[0]) for study in made.studies]
    assert {film.PatientID for film in films} == {made.patient_id}
    for keyword in ("StudyInstanceUID", "SOPInstanceUID", "AccessionNumber", "StudyID"):
        assert len({str(film[keyword].value) for film in films}) == len(films)
    times = [(film.StudyDate, film.StudyTime) for film in films]
    assert times == sorted(times)
    days = [(study.acquired.date() - made.studies[0].acquired.date()).days for study in made.studies]
    assert days == [film.day for film in course.films]
    chart = json.loads(made.chart.read_text())
    assert [fact["labs"] for fact in chart["studies"]] == [dict(film.labs) for film in course.films]
    assert [tuple(fact["treatments"]) for fact in chart["studies"]] == [film.treatments for film in course.films]
    assert [fact["study"] for fact in chart["studies"]] == [str(film.StudyInstanceUID) for film in films]
    for ours, other in zip(made.studies, again.studies, strict=True):
        assert ours.files[0].read_bytes() == other.files[0].read_bytes()
