"""Evolution of a synthetic patient's findings: every parameter of the courses, and the chains that they make.

One step is one day. A finding with a degree has a hidden trend (worsening, steady, improving): the trend may turn by
itself or because of a treatment, and a moving finding moves by one degree in a step with the probability of its pace. A
film shows the degree and never the trend; laboratory flags tell of the trend, treatments turn it. Treatments are begun
and ended by what the film shows, and act from that film on. All of it is synthetic: the names are those of medicine,
the numbers are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from training.phantom.chain import Chain, Matrix, product, stationary

WORSE, STEADY, BETTER = range(3)
TRENDS = 3
BREWING = 1 + 3 * TRENDS
"""Absent still, but about to appear: no film shows it, laboratory values do."""
RESTING = BREWING + 1
"""Absent after it was there, and about to come back: only films of its earlier presence tell."""
GRADED_STATES = RESTING + 1
"""Absent, three degrees with three trends each, brewing, resting."""
FLAGS = ("normal", "high", "very high")
MEASURED = 0.8
"""Probability that a laboratory value is taken with a film."""
FILMS = (3, 8)
"""Fewest and most films of a course: two to be shown at least, and one to be predicted."""
CADENCES: Mapping[int, float] = {1: 0.6, 2: 0.4}
"""Days between the films of a course -> how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamics:
    """The movement in one step of a finding with a degree.

    onset: probability that it begins to brew; from there it appears, mild, with the probability `pace`. onset_trends:
    the trend with which it appears. turn: probability that the trend is drawn again, from turned_trends, and that what
    brews comes to nothing. pace: probability that a moving finding moves by one degree. response: probability that a
    treatment, while given, turns the trend to improving. relapse: probability that what resolves rests for a step and
    then brews again. Trends: worsening, steady, improving.
    """

    onset: float
    turn: float
    pace: float
    onset_trends: tuple[float, float, float] = (0.55, 0.30, 0.15)
    turned_trends: tuple[float, float, float] = (0.10, 0.25, 0.65)
    response: float = 0.0
    relapse: float = 0.0


DYNAMICS: Mapping[str, Dynamics] = {
    "pleural_effusion": Dynamics(onset=0.05, turn=0.05, pace=0.80, response=0.90, relapse=0.5),
    "pneumothorax": Dynamics(onset=0.04, turn=0.05, pace=0.80, response=0.90, relapse=0.5),
    "consolidation": Dynamics(onset=0.08, turn=0.05, pace=0.80, response=0.90, relapse=0.4),
    "atelectasis": Dynamics(onset=0.05, turn=0.08, pace=0.80, relapse=0.7),
    "edema": Dynamics(onset=0.08, turn=0.05, pace=0.80, response=0.90, relapse=0.4),
    "cardiomegaly": Dynamics(onset=0.04, turn=0.08, pace=0.50),
    "lung_nodule": Dynamics(onset=0.03, turn=0.08, pace=0.50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """When a treatment is begun and ended in one step.

    begin: finding -> probability by its degree (mild, moderate, severe); of several findings the greatest counts.
    end: probability once none of them is there.
    """

    begin: Mapping[str, tuple[float, float, float]]
    end: float


DIURETICS, ANTIBIOTICS = "diuretics", "antibiotics"
TREATMENTS: Mapping[str, Treatment] = {
    "chest_tube": Treatment(
        begin={"pneumothorax": (0.03, 0.20, 0.45), "pleural_effusion": (0.01, 0.08, 0.30)},
        end=0.60,
    ),
    DIURETICS: Treatment(begin={"edema": (0.08, 0.20, 0.35)}, end=0.80),
    ANTIBIOTICS: Treatment(begin={"consolidation": (0.08, 0.20, 0.35)}, end=0.80),
}
"""The chest tube is seen on the film, the drugs stand in the chart."""

LASTING: Mapping[str, tuple[float, float]] = {"fracture": (0.03, 0.06), "pacemaker": (0.02, 0.05)}
"""Probability in one step that it appears, and that it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryDevice:
    """A device that is left in place for about a fixed time.

    placed: probability in one step that it is placed. days: stages of its stay; each lasts a step with the probability
    `kept`, else longer. planned: what the chart says in the last stage.
    """

    placed: float
    planned: str
    days: int = 3
    kept: float = 0.92


STAYS: Mapping[str, TemporaryDevice] = {
    "endotracheal_tube": TemporaryDevice(placed=0.15, planned="extubation planned"),
    "central_line": TemporaryDevice(placed=0.15, planned="line removal planned"),
    "feeding_tube": TemporaryDevice(placed=0.15, planned="feeding tube removal planned"),
}

LAB_TRENDS: Mapping[str, str] = {
    "BNP": "edema",
    "CRP": "consolidation",
    "leukocytes": "consolidation",
    "creatinine": "pleural_effusion",
}
"""Laboratory value -> the finding whose trend it tells."""
FLAG_SHARES: Mapping[str, tuple[float, float, float]] = {
    "absent": (0.94, 0.05, 0.01),
    "improving": (0.80, 0.15, 0.05),
    "steady": (0.15, 0.70, 0.15),
    "worsening": (0.03, 0.12, 0.85),
}
"""Probability of each of FLAGS by trend."""
LAB_RANGES: Mapping[str, tuple[str, tuple[tuple[int, int], ...]]] = {
    "BNP": ("pg/mL", ((20, 100), (150, 600), (900, 3000))),
    "CRP": ("mg/L", ((1, 5), (20, 80), (120, 320))),
    "leukocytes": ("/nL", ((5, 10), (11, 14), (16, 28))),
    "creatinine": ("umol/L", ((60, 100), (110, 160), (190, 380))),
}
"""Unit and range of the number for each flag; within a flag the number says nothing more."""


def level_of(state: int) -> int:
    """The degree (0 to 3) of a state of a finding with a degree."""
    return 0 if state in (0, BREWING, RESTING) else 1 + (state - 1) // TRENDS


def trend_of(state: int) -> int | None:
    """The trend of such a state, worsening where it brews; None where the finding is absent."""
    if state == BREWING:
        return WORSE
    return None if state in (0, RESTING) else (state - 1) % TRENDS


def _state(level: int, trend: int) -> int:
    return 0 if level == 0 else 1 + (level - 1) * TRENDS + trend


def graded_step(dynamics: Dynamics, *, treated: bool) -> Matrix:
    """One step [12, 12] of a finding with a degree: the trend turns or not, then the finding moves or not."""
    step = np.zeros((GRADED_STATES, GRADED_STATES))
    # An onset is not seen at once: it brews for a while, and the film of that day is still clear. So the next image
    # can be foretold from more than the present one.
    step[0, 0], step[0, BREWING] = 1 - dynamics.onset, dynamics.onset
    step[BREWING, 0] = fades = dynamics.response if treated else dynamics.turn
    for trend, share in enumerate(dynamics.onset_trends):
        step[BREWING, _state(1, trend)] = (1 - fades) * dynamics.pace * share
    step[BREWING, BREWING] = (1 - fades) * (1 - dynamics.pace)
    step[RESTING, BREWING] = 1.0
    for state in range(1, BREWING):
        level, trend = level_of(state), (state - 1) % TRENDS
        # First the trend: it stays, turns by itself, or is turned for the better by the treatment.
        trends = np.array(dynamics.turned_trends) * dynamics.turn
        trends[trend] += 1 - dynamics.turn
        if treated:
            trends *= 1 - dynamics.response
            trends[BETTER] += dynamics.response
        for after, share in enumerate(trends):
            # Then the degree follows the trend, at the finding's pace.
            moved = {WORSE: min(level + 1, 3), STEADY: level, BETTER: level - 1}[after]
            if moved:
                step[state, _state(moved, after)] += share * dynamics.pace
            else:
                step[state, 0] += share * dynamics.pace * (1 - dynamics.relapse)
                # It looks healed and is not: from here it brews again.
                step[state, RESTING] += share * dynamics.pace * dynamics.relapse
            step[state, _state(level, after)] += share * (1 - dynamics.pace)
    return step


def _decision_probability(treatment: Treatment, levels: Mapping[str, int], *, given: bool) -> float:
    """Probability that the treatment is given after a film with these degrees."""
    worst = max((treatment.begin[key][level - 1] for key, level in levels.items() if level), default=0.0)
    if given:
        return 1.0 if any(levels.values()) else 1 - treatment.end
    return worst


def treated_chain(keys: tuple[str, ...], name: str) -> Chain:
    """Findings with a degree under one treatment: first they move as treated or not, then it is decided on."""
    # One chain over the product of the findings' states, for one decision to treat depends on all of them. The second
    # half of its states is the same again under treatment.
    count = GRADED_STATES ** len(keys)
    places = np.unravel_index(np.arange(count), (GRADED_STATES,) * len(keys))
    levels = {key: np.array([level_of(int(s)) for s in states]) for key, states in zip(keys, places, strict=True)}
    moved = {}
    for treated in (False, True):
        parts = [graded_step(DYNAMICS[key], treated=treated) for key in keys]
        rows = [product([part[states[n]] for part, states in zip(parts, places, strict=True)]) for n in range(count)]
        moved[treated] = np.stack(rows)
    step = np.zeros((2 * count, 2 * count))
    for given in (False, True):
        decided = np.array(
            [
                _decision_probability(TREATMENTS[name], {key: int(levels[key][n]) for key in keys}, given=given)
                for n in range(count)
            ]
        )
        # `decided` runs along the columns: by the degrees after the move, which is what the film of that day shows.
        own = slice(count, None) if given else slice(0, count)
        step[own, count:] = moved[given] * decided
        step[own, :count] = moved[given] * (1 - decided)
    doubled = {key: np.tile(value, 2) for key, value in levels.items()}
    given_states = np.arange(2 * count) >= count
    on_film = name == "chest_tube"  # seen on the film itself; of the others only the chart tells
    shown = doubled | ({name: given_states.astype(np.int64)} if on_film else {})
    flags = {
        lab: np.stack([_flag_shares(int(s)) for s in np.tile(places[keys.index(key)], 2)])
        for lab, key in LAB_TRENDS.items()
        if key in keys
    }
    return Chain(step=step, levels=shown, treatments={} if on_film else {name: given_states}, flags=flags)


def _flag_shares(state: int) -> Matrix:
    trend = trend_of(state)
    name = "absent" if trend is None else ("worsening", "steady", "improving")[trend]
    return np.array(FLAG_SHARES[name])


def graded_chain(key: str) -> Chain:
    """A finding with a degree that nothing treats."""
    levels = np.array([level_of(state) for state in range(GRADED_STATES)])
    return Chain(step=graded_step(DYNAMICS[key], treated=False), levels={key: levels})


def lasting_chain(key: str) -> Chain:
    """The chain of a finding that is there or not, for long."""
    appears, goes = LASTING[key]
    step = np.array([[1 - appears, appears], [goes, 1 - goes]])
    return Chain(step=step, levels={key: np.array([0, 1])})


def stay_chain(key: str) -> Chain:
    """A device: absent, or in one of the stages of its stay; after the last one it is taken out."""
    stay = STAYS[key]
    step = np.zeros((stay.days + 1, stay.days + 1))
    step[0, 0], step[0, 1] = 1 - stay.placed, stay.placed
    for stage in range(1, stay.days + 1):
        step[stage, (stage + 1) % (stay.days + 1)] = stay.kept
        step[stage, stage] += 1 - stay.kept
    stages = np.arange(stay.days + 1)
    return Chain(step=step, levels={key: (stages > 0).astype(np.int64)}, treatments={stay.planned: stages == stay.days})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """A chain and the distribution that its courses start in."""

    chain: Chain
    start: Matrix


@cache
def groups() -> tuple[Group, ...]:
    """All chains of a patient, in a fixed order."""
    chains = [
        treated_chain(("pneumothorax", "pleural_effusion"), "chest_tube"),
        treated_chain(("edema",), DIURETICS),
        treated_chain(("consolidation",), ANTIBIOTICS),
        *(graded_chain(key) for key in ("atelectasis", "cardiomegaly", "lung_nodule")),
        *(stay_chain(key) for key in STAYS),
        *(lasting_chain(key) for key in LASTING),
    ]
    return tuple(Group(chain=chain, start=stationary(chain)) for chain in chains)
