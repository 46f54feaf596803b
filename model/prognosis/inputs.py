"""The facts known when the next image is predicted, as numbers: readings, days between films, the chart.

Whatever is missing (an earlier image, a date, a laboratory value, the chart) has a place of its own that says so: a
missing input is a state that the head learns, never a zero that could mean something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.ontology import ontology
from model.schema import PatientContext

DEGREES = ("absent", "mild", "moderate", "severe")
"""Places of a reading; what has no degree uses the first two."""
GRADE_WORDS = DEGREES[1:]
Reading = NDArray[np.float64]
"""[findings, 4]: how likely each finding is absent, mild, moderate or severe on one image; rows sum to 1."""
LAGS = 4
"""Earlier images that are told apart: the prior, the one before it, and so on; older ones are averaged."""
GAP_EDGES = (1.5, 3.5, 10.5, 45.5)
"""Days since the prior: about one, a few, a week, a month, longer."""
FLAGS = ("normal", "high", "very high")
"""The endings of a laboratory value's text."""
_HL7_FLAGS = {"n": 0, "l": 0, "ll": 0, "h": 1, "hh": 2}
"""Abnormal flags of HL7 version 2 (table 0078); a low value is no high one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything that is known. readings: of the images, oldest first, the current one last. days: between each earlier
    image and the current one, as long as the readings but one. context: the chart; None where nobody gave one."""

    readings: tuple[Reading, ...]
    days: tuple[int | None, ...] = ()
    context: PatientContext | None = None

    def newest(self, images: int) -> Known:
        """The same with at most its `images` newest images."""
        dropped = max(0, len(self.readings) - images)
        return Known(readings=self.readings[dropped:], days=self.days[dropped:], context=self.context)


def has_chart(context: PatientContext | None) -> bool:
    """Tell whether somebody gave laboratory values or treatments; age and sex alone are no chart."""
    return context is not None and bool(context.labs or context.treatments)


def setting_of(known: Known) -> str:
    """The setting that a prediction is made in: "current", "both" or "all", and whether the chart was known."""
    images = {1: "current", 2: "both"}.get(len(known.readings), "all")
    return f"{images} and chart" if has_chart(known.context) else images


SETTINGS = tuple(f"{images}{chart}" for images in ("current", "both", "all") for chart in ("", " and chart"))
"""All that `setting_of` gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The findings, laboratory values and treatments that a head knows, in order."""

    findings: tuple[str, ...]
    labs: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()


def reading_of(calibrated: Mapping[str, Mapping[str, float]], findings: Sequence[str]) -> Reading:
    """From calibrated answers on one image (question key -> shares of the answers) to its reading.

    Raises KeyError where the presence of a finding was not asked. A degree that was not asked is spread evenly.
    """
    rows = np.zeros((len(findings), len(DEGREES)))
    for row, key in enumerate(findings):
        present = calibrated[f"presence/{key}"]["yes"]
        rows[row, 0] = 1.0 - present
        # Nothing to grade: all of "present" lies on one degree.
        if not ontology().findings[key].graded:
            rows[row, 1] = present
            continue
        grades = calibrated.get(f"grade/{key}", {})
        shares = np.array([grades.get(word, 1.0 / len(GRADE_WORDS)) for word in GRADE_WORDS])
        # Shares of the degrees given presence, so that the row sums to one.
        rows[row, 1:] = present * shares / shares.sum()
    return rows


def flag_of(text: str) -> int | None:
    """The place in FLAGS that a laboratory value's text ends with ("182 mg/L very high", "182 mg/L HH"), else None."""
    words = " ".join(text.lower().split())
    for index in reversed(range(len(FLAGS))):
        if words.endswith(FLAGS[index]):
            return index
    return _HL7_FLAGS.get(words.rpartition(" ")[2])


def inputs_of(known: Known, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """[findings, width]: for each finding its own course and what all share."""
    # Newest first from here on: place 0 of a course is the prior, whatever the number of images.
    current, earlier = known.readings[-1], known.readings[-2::-1]
    shared = np.concatenate([_present(current), _present(earlier[0]) if earlier else _blank(current)])
    shared = np.concatenate([shared, _gap(known.days), _chart(known.context, vocabulary)])
    rows = []
    for row in range(len(vocabulary.findings)):
        course = [reading[row] for reading in earlier]
        rows.append(np.concatenate([_own(current[row], course), shared]))
    return np.stack(rows).astype(np.float32)


def _own(now: NDArray[np.float64], course: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One finding's course: each image's reading, current against prior, and how long it has been as it is."""
    parts = [now]
    for lag in range(LAGS):
        is_known = lag < len(course)
        parts.append(np.append(course[lag] if is_known else np.zeros(len(DEGREES)), float(is_known)))
    older = course[LAGS:]
    parts.append(np.append(np.mean(older, axis=0) if older else np.zeros(len(DEGREES)), float(bool(older))))
    # The products of two readings say which degree followed which, which no sum of the two can.
    parts.append(np.outer(now, course[0]).ravel() if course else np.zeros(len(DEGREES) ** 2))
    parts.append(np.outer(now, course[1]).ravel() if len(course) > 1 else np.zeros(len(DEGREES) ** 2))
    absent = [float(reading[0]) for reading in (now, *course[:LAGS])]
    present = [1.0 - likelihood for likelihood in absent]
    for likelihoods in (present, absent):
        # How likely the finding has been there (then: has not been there) on this and each earlier image without a
        # break.
        stays = np.zeros(LAGS + 1)
        stays[: len(likelihoods)] = np.cumprod(likelihoods)
        parts.append(stays)
    return np.concatenate(parts)


def _present(reading: Reading) -> NDArray[np.float64]:
    return np.append(1.0 - reading[:, 0], 1.0)


def _blank(reading: Reading) -> NDArray[np.float64]:
    return np.zeros(len(reading) + 1)


def _gap(days: Sequence[int | None]) -> NDArray[np.float64]:
    """One place for each span of GAP_EDGES, one for longer, one for no date or no prior."""
    places = np.zeros(len(GAP_EDGES) + 2)
    last = days[-1] if days else None
    places[-1 if last is None else int(np.searchsorted(GAP_EDGES, last))] = 1.0
    return places


def _chart(context: PatientContext | None, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """The chart as numbers: its presence, the flag of each laboratory value or that it is missing, each treatment."""
    labs = np.zeros((len(vocabulary.labs), len(FLAGS) + 1))
    for row, name in enumerate(vocabulary.labs):
        text = context.labs.get(name) if context is not None else None
        flag = flag_of(text) if text is not None else None
        # The last column is "not known", which is something else than normal.
        labs[row, len(FLAGS) if flag is None else flag] = 1.0
    given = [float(context is not None and name in context.treatments) for name in vocabulary.treatments]
    return np.concatenate([[float(has_chart(context))], labs.ravel(), given])
