"""Training sequences of the study on courses: two films of each patient, and what the next one will show.

The tower is that of the bundled model and never learns, so each film's features are computed once, and so is the
expert's opinion on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.experts.expert import Expert, expert_text
from model.nvila.modeling import NvilaForConditionalGeneration
from model.nvila.processing import NvilaProcessor
from model.questions.prompts import PromptLayout
from training.arms.data import EXPERT_DROPOUT, STUDY_FINDINGS
from training.data.features import compute_features
from training.data.samples import Sample
from training.instructions.turns import prediction_turns
from training.phantom.cache import film_pixels
from training.phantom.course import ClinicalOptions, sample_course
from training.phantom.scene import PhantomCourse
from training.phantom.truth import truth_of_phantom
from training.records.truth import PairTruth

OPTIONS = ClinicalOptions(films=(3, 3))
SHOWN_FILMS = 2
"""Of each course of three films: prior and current. The next one is what is foretold."""
COURSES_IN_PART = 20
"""Courses in one file of what is computed of them; an interruption loses no more."""
SEQUENCES_ALIKE = 8
"""So many sequences after one another show the same number of films: a batch of them needs no padding."""


@dataclass(slots=True, kw_only=True)
class StudyCourses:
    """Clinical courses by number, whose films lie in a folder. first_seed: of the courses. side: of the square films.

    features: float16 [films, patches, C], opinions: float32 [films, labels]; None until they are computed. Films stand
    one course after another, SHOWN_FILMS of each: the next film is foretold and never rendered.
    """

    folder: Path
    first_seed: int
    courses: int
    side: int
    features: NDArray[np.float16] | None = None
    opinions: NDArray[np.float32] | None = None
    _films: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self._films = self._compute("films", self._render)

    def course(self, index: int) -> PhantomCourse:
        """The truth of one course."""
        return sample_course(self.first_seed + index, OPTIONS)

    def films(self, index: int) -> NDArray[np.uint8]:
        """The films of one course that are shown, uint8 [SHOWN_FILMS, side, side]."""
        return np.asarray(self._films[index * SHOWN_FILMS : (index + 1) * SHOWN_FILMS])

    def compute_features(self, model: NvilaForConditionalGeneration, processor: NvilaProcessor) -> None:
        """Run the tower on every film, once."""
        self.features = self._compute("features", lambda part: compute_features(model, processor, self._of(part)))

    def compute_opinions(self, expert: Expert) -> None:
        """Ask the expert of every film, once."""
        self.opinions = self._compute(
            "opinions", lambda part: expert.probabilities_of_squares(np.stack(self._of(part)))
        )

    def _render(self, part: range) -> NDArray[np.uint8]:
        courses = (self.course(index) for index in part)
        shown = [(course.patient, film) for course in courses for film in course.films[:SHOWN_FILMS]]
        return np.stack([film_pixels(patient, film, self.side) for patient, film in shown])

    def _of(self, part: range) -> list[NDArray[np.uint8]]:
        return [film for index in part for film in self.films(index)]

    def _compute(self, name: str, of_part: Callable[[range], NDArray[Any]]) -> NDArray[Any]:
        """The values of all films, from files of COURSES_IN_PART courses that are written where they are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in range(0, self.courses, COURSES_IN_PART):
            part = range(start, min(start + COURSES_IN_PART, self.courses))
            path = self.folder / f"{name}-{start}-{part.stop}.npy"
            if not path.exists():
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, of_part(part))
                partial.replace(path)  # half a file would be taken for the whole one
            parts.append(np.load(path))
        return np.concatenate(parts)


def study_truth(course: PhantomCourse, current: int) -> PairTruth:
    """The truth of a film beside the one before it, on the study's findings; raises ValueError for the first film."""
    truth = truth_of_phantom(course.pair(current), "phantom-course")
    return replace(truth, findings={key: truth.findings[key] for key in STUDY_FINDINGS})


@dataclass(slots=True, kw_only=True)
class CourseArmSource:
    """Training sequences of one arm; the same number gives the same one.

    labels: of the expert, whose text half of the sequences show; empty: none does.
    """

    courses: StudyCourses
    seed: int
    labels: tuple[str, ...] = ()
    findings: tuple[str, ...] = STUDY_FINDINGS

    def films(self, count: int) -> NDArray[np.uint8]:
        """Current films spread over the courses."""
        places = np.linspace(0, self.courses.courses - 1, count).astype(int)
        return np.stack([self.courses.films(int(index))[-1] for index in places])

    def sample(self, number: int) -> Sample:
        """Draw a course and the films of it that are shown, and ask how each finding will change to the next film."""
        assert self.courses.features is not None
        rng = np.random.default_rng([self.seed, number])
        index = int(rng.integers(self.courses.courses))
        shown = draw_films(number // SEQUENCES_ALIKE % 2 == 1, rng)
        course = self.courses.course(index)
        # Drawn in every arm, so that arms of one seed see the same films and questions and differ by the text alone.
        is_told = rng.random() >= EXPERT_DROPOUT
        expert = expert_line(self.courses, index, shown, self.labels) if self.labels and is_told else None
        return Sample(
            images=(),
            features=tuple(np.asarray(self.courses.features[index * SHOWN_FILMS + film]) for film in shown),
            layout=PromptLayout(priors=len(shown) - 1, days=days_before(course, shown), expert=expert),
            turns=tuple(turn for turn, _ in prediction_turns(study_truth(course, shown[-1] + 1))),
        )


def expert_line(courses: StudyCourses, index: int, shown: tuple[int, ...], labels: tuple[str, ...]) -> str:
    """The expert's text on these films of a course."""
    assert courses.opinions is not None
    return expert_text(courses.opinions[[index * SHOWN_FILMS + film for film in shown]], labels)


def draw_films(both: bool, rng: Generator) -> tuple[int, ...]:
    """The numbers of the films that a sequence shows: both, or one of them; another film comes after each."""
    return tuple(range(SHOWN_FILMS)) if both else (int(rng.integers(SHOWN_FILMS)),)


def days_before(course: PhantomCourse, shown: tuple[int, ...]) -> tuple[int, ...]:
    """Days between each earlier film that is shown and the current one."""
    return tuple(course.films[shown[-1]].day - course.films[film].day for film in shown[:-1])
