"""Multiple-choice questions over the first five films of phantom courses, in the manner of MI-CXR, with exact answers.

Three kinds for each course where it allows them: between which films a finding first appears (or "There is no new
appearance", one in five), in which order three findings first appear, and which of five statements describes the course
of one finding. The wrong courses are the right one read backwards and courses of the same finding in other patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, permutations

import numpy as np
from numpy.random import Generator

from model.questions.vocabulary import finding_name
from training.phantom.ceiling import answer_of_levels
from training.phantom.course import Story, sample_story
from training.phantom.scene import PHANTOM_FINDINGS
from training.readers.phantom import COURSE, HELD_OUT_SEED
from training.records.choices import LETTERS, VISITS, ChoiceFamily, ChoiceItem
from training.records.drops import DropReport
from training.records.record import ImageRef

CHOICES_SEED = HELD_OUT_SEED + 400_000
ABSENT_SHARE = 0.2
"""Of the questions on appearance, those on a finding that never newly appears, as in MI-CXR."""
Levels = Mapping[str, tuple[int, ...]]
"""Finding → its degree on each of VISITS films."""


def read_phantom_choices(courses: int, report: DropReport, *, first_seed: int = CHOICES_SEED) -> Iterator[ChoiceItem]:
    """Questions on so many courses of at least five films, counted from a seed."""
    seed, used = first_seed, 0
    while used < courses:
        story = sample_story(seed)
        if len(story.seen) >= VISITS:
            for item in _items_of(seed, levels_of(story)):
                report.keep()
                yield item
            used += 1
        seed += 1


def levels_of(story: Story) -> Levels:
    """The degrees on the first five films."""
    films = story.seen[:VISITS]
    return {key: tuple(film.levels[key] for film in films) for key in PHANTOM_FINDINGS}


def first_appearance(levels: Sequence[int]) -> int | None:
    """The place of the first film that a finding newly appears on, None where it never does."""
    places = (visit for visit, (before, after) in enumerate(pairwise(levels), start=1) if not before and after)
    return next(places, None)


def course_text(levels: Sequence[int]) -> str:
    """ "T1 to T2 new; T2 to T3 worsening; …", with the answers of the change question as words."""
    parts = [
        f"T{visit} to T{visit + 1} {answer_of_levels(before, after)}"
        for visit, (before, after) in enumerate(pairwise(levels), start=1)
    ]
    return "; ".join(parts)


def _items_of(seed: int, levels: Levels) -> Iterator[ChoiceItem]:
    rng = np.random.default_rng([seed, 44])
    images = tuple(
        ImageRef(key=f"{COURSE}{seed}/{visit}", image_id=f"{COURSE}{seed}/{visit}", when=f"T{visit + 1}")
        for visit in range(VISITS)
    )
    for item in (_appearance(levels, rng), _order(levels, rng), _course(seed, levels, rng)):
        if item is not None:
            family, kind, question, options, answer, keys = item
            choices = dict(zip(LETTERS, options, strict=True))
            yield ChoiceItem(
                item_id=f"{COURSE}{seed}/{kind}",
                patient_id=f"{COURSE}{seed}",
                family=family,
                kind=kind,
                images=images,
                question=question,
                choices=choices,
                answer=next(letter for letter, text in choices.items() if text == answer),
                findings=keys,
            )


_Made = tuple[ChoiceFamily, str, str, list[str], str, tuple[str, ...]]
NEVER = "There is no new appearance"


def _appearance(levels: Levels, rng: Generator) -> _Made | None:
    never = rng.random() < ABSENT_SHARE
    keys = [key for key in PHANTOM_FINDINGS if (first_appearance(levels[key]) is None) == never]
    if not keys:
        return None
    key = keys[int(rng.integers(len(keys)))]
    first_visit = first_appearance(levels[key])
    options = [f"T{visit} → T{visit + 1}" for visit in range(1, VISITS)]
    answer = NEVER if first_visit is None else options[first_visit - 1]
    question = f"Between which studies does {finding_name(key)} first newly appear?"
    return ChoiceFamily.EVENT, "single_emergence", question, [*options, NEVER], answer, (key,)


def _order(levels: Levels, rng: Generator) -> _Made | None:
    """Three findings that first appear on three different films; five of the six orders."""
    first = {key: visit for key in PHANTOM_FINDINGS if (visit := first_appearance(levels[key])) is not None}
    chosen: dict[int, str] = {}
    for key in rng.permutation(list(first)):
        # One finding for each film: two that first appear on the same film have no order.
        chosen.setdefault(first[str(key)], str(key))
    if len(chosen) < 3:
        return None
    keys = [chosen[visit] for visit in sorted(chosen)][:3]
    answer = order_text(keys)
    wrong = [order_text(other) for other in permutations(keys) if list(other) != keys]
    options = [answer, *[wrong[int(number)] for number in rng.permutation(len(wrong))[: len(LETTERS) - 1]]]
    question = "In which order do these findings first newly appear?"
    return ChoiceFamily.ORDER, "order", question, _shuffle(options, rng), answer, tuple(keys)


def order_text(keys: Sequence[str]) -> str:
    """ "edema, then fracture, then pacemaker"."""
    return ", then ".join(finding_name(key) for key in keys)


def _course(seed: int, levels: Levels, rng: Generator) -> _Made | None:
    keys = [key for key in PHANTOM_FINDINGS if len(set(levels[key])) > 1]
    if not keys:
        return None
    key = keys[int(rng.integers(len(keys)))]
    answer = course_text(levels[key])
    # The reversed course is always an option: it is what a reader says who takes the films in the wrong order.
    options = dict.fromkeys([answer, course_text(levels[key][::-1])])
    other = seed
    while len(options) < len(LETTERS):
        # Far from any seed that is used for films, so that no other patient's course is given away.
        other += 1_000_003
        story = sample_story(other)
        if len(story.seen) >= VISITS and len(set(course := levels_of(story)[key])) > 1:
            options[course_text(course)] = None
    question = f"Which statement describes the course of {finding_name(key)} across the studies?"
    return ChoiceFamily.COURSE, "course", question, _shuffle(list(options), rng), answer, (key,)


def _shuffle(options: Sequence[str], rng: Generator) -> list[str]:
    return [options[int(number)] for number in rng.permutation(len(options))]
