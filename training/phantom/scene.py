"""The scene of a phantom, as plain values: the person, how each film was taken, and the findings with their degree.

No pixels here. `training.phantom.render` renders these values; the truth of a pair is computed from them and never
from pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from model.ontology import ontology
from model.schema import Change

GRADED = (
    "pleural_effusion",
    "pneumothorax",
    "consolidation",
    "atelectasis",
    "edema",
    "cardiomegaly",
    "lung_nodule",
)
"""Findings with a degree, in ontology order."""
UNGRADED = ("fracture", "endotracheal_tube", "central_line", "feeding_tube", "chest_tube", "pacemaker")
"""Findings that are there or not."""
PHANTOM_FINDINGS = GRADED + UNGRADED
LATERAL = frozenset(key for key in PHANTOM_FINDINGS if ontology().findings[key].lateral)
BILATERAL = frozenset({"pleural_effusion", "consolidation", "atelectasis"})
"""Findings that the phantom may show on both sides at once."""

GRADE_RANGES: Mapping[str, tuple[float, float]] = {
    "mild": (0.10, 0.32),
    "moderate": (0.44, 0.62),
    "severe": (0.78, 1.00),
}
"""Severity (0..1) of each grade. The gaps keep the truth free of borderline cases: a grade is never a coin toss."""
GRADES = tuple(GRADE_RANGES)
STABLE_JITTER = 0.03
"""A stable finding may differ by this much in severity, but never by a grade."""
ZONES = ("upper", "middle", "lower")


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingState:
    """One finding on one film.

    severity: 0..1; 1 for the ungraded ones. side: "left", "right" or "bilateral" (the patient's), None if not lateral.
    zone: "upper", "middle" or "lower" lung, where it applies. seed: fixes its place and shape on both films of a pair.
    """

    key: str
    severity: float
    side: str | None = None
    zone: str | None = None
    seed: int = 0

    @property
    def grade(self) -> str | None:
        """The level word, None for what has no degree."""
        return grade_of(self.severity) if self.key in GRADED else None

    def on(self, side: str) -> bool:
        """Tell whether it lies on this side of the patient ("left" or "right")."""
        return self.side in (side, "bilateral")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomPatient:
    """Anatomy that both films of a pair share. Lengths are in half widths of the standard field (1 = field's edge)."""

    seed: int
    width: float
    lung_top: float
    diaphragm: float
    body: float
    breast: float
    heart: float
    aorta: float
    scoliosis: float
    rib_slope: float
    rib_spacing: float
    rib_contrast: float
    vessel: float
    gastric_air: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """The acquisition of one film; nothing of it is a change in the patient.

    roll: rotation in the image plane, radians. turn: rotation of the person about the long axis, -1..1 of a strong one.
    zoom_x, zoom_y, shift_x, shift_y: field of view. inspiration: shift of the diaphragm. gain, offset, gamma: exposure
    and display. noise: standard deviation of quantum noise at 160 px. blur: half width of the focus, field units.
    aspect: rows / columns of the film.
    """

    seed: int
    view: str = "PA"
    roll: float = 0.0
    turn: float = 0.0
    zoom_x: float = 1.0
    zoom_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    inspiration: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    noise: float = 0.012
    blur: float = 0.004
    marker: bool = True
    leads: bool = False
    collimation: float = 0.0
    aspect: float = 1.0

    def shape(self, long_side: int) -> tuple[int, int]:
        """Rows and columns of this film when its longer side has `long_side` pixels; `aspect` is rows / columns."""
        if self.aspect >= 1:
            return long_side, max(1, round(long_side / self.aspect))
        return max(1, round(long_side * self.aspect)), long_side


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomFilm:
    """One film of a course. states: findings by ontology key; a key that is missing is absent. day: counted from the
    first film. treatments: given from this film on. labs: laboratory values taken with it, as text."""

    states: Mapping[str, FindingState]
    acquisition: Acquisition
    day: int = 0
    treatments: tuple[str, ...] = ()
    labs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomCourse:
    """A person over two films or more, oldest first, with the exact truth."""

    patient: PhantomPatient
    films: tuple[PhantomFilm, ...]

    def pair(self, current: int = -1) -> PhantomPair:
        """The film with this number against the one before it; raises ValueError for the first film."""
        index = range(len(self.films))[current]
        if index == 0:
            raise ValueError("the first film of a course has no prior")
        prior, shown = self.films[index - 1], self.films[index]
        return PhantomPair(
            patient=self.patient,
            prior=prior.states,
            current=shown.states,
            prior_film=prior.acquisition,
            current_film=shown.acquisition,
            changes=changes_between(prior.states, shown.states),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomPair:
    """A person twice, with the exact truth. findings: by ontology key; a key that is missing is absent."""

    patient: PhantomPatient
    prior: Mapping[str, FindingState]
    current: Mapping[str, FindingState]
    prior_film: Acquisition
    current_film: Acquisition
    changes: Mapping[str, Change] = field(default_factory=dict)

    @property
    def course(self) -> PhantomCourse:
        """The same two films as a course."""
        prior = PhantomFilm(states=self.prior, acquisition=self.prior_film)
        return PhantomCourse(
            patient=self.patient,
            films=(prior, PhantomFilm(states=self.current, acquisition=self.current_film)),
        )

    def swapped(self) -> PhantomPair:
        """The same two films in the other order, with the truth of that order."""
        return replace(
            self,
            prior=self.current,
            current=self.prior,
            prior_film=self.current_film,
            current_film=self.prior_film,
            changes=changes_between(self.current, self.prior),
        )


def grade_of(severity: float) -> str:
    """The level word of a severity; between two ranges the nearer one."""
    middles = {grade: (low + high) / 2 for grade, (low, high) in GRADE_RANGES.items()}
    return min(middles, key=lambda grade: abs(middles[grade] - severity))


def change_of(before: FindingState | None, after: FindingState | None) -> Change | None:
    """The truth of change of one finding; None where it is on neither film."""
    if before is None and after is None:
        return None
    if before is None:
        return Change.NEW
    if after is None:
        return Change.RESOLVED
    # A device has no degree: there on both films is no change.
    if before.grade == after.grade or before.grade is None or after.grade is None:
        return Change.STABLE
    return Change.WORSENING if GRADES.index(after.grade) > GRADES.index(before.grade) else Change.IMPROVING


def changes_between(before: Mapping[str, FindingState], after: Mapping[str, FindingState]) -> dict[str, Change]:
    """Change of every finding that is on at least one of the films, in ontology order."""
    changes = {key: change_of(before.get(key), after.get(key)) for key in PHANTOM_FINDINGS}
    return {key: change for key, change in changes.items() if change is not None}


def sample_patient(seed: int) -> PhantomPatient:
    """A person from a seed."""
    rng = np.random.default_rng([seed, 1])
    return PhantomPatient(
        seed=seed,
        width=float(rng.uniform(0.92, 1.08)),
        lung_top=float(rng.uniform(-0.80, -0.70)),
        diaphragm=float(rng.uniform(0.38, 0.52)),
        body=float(rng.uniform(0.85, 1.15)),
        breast=float(max(0.0, rng.uniform(-0.6, 0.9))),
        heart=float(rng.uniform(0.0, 1.0)),
        aorta=float(rng.uniform(0.5, 1.3)),
        scoliosis=float(rng.normal(0.0, 0.012)),
        rib_slope=float(rng.uniform(0.75, 1.25)),
        rib_spacing=float(rng.uniform(0.125, 0.150)),
        rib_contrast=float(rng.uniform(0.7, 1.25)),
        vessel=float(rng.uniform(0.75, 1.25)),
        gastric_air=float(rng.uniform(0.0, 1.0)),
    )


def sample_acquisition(seed: int, *, strength: float = 1.0) -> Acquisition:
    """Positioning, exposure and noise of one film; `strength` scales how far it may stray from a perfect one."""
    rng = np.random.default_rng([seed, 2])
    portable = bool(rng.random() < 0.45)
    spread = strength * (1.25 if portable else 0.8)
    return Acquisition(
        seed=seed,
        view="AP" if portable else "PA",
        roll=float(np.clip(rng.normal(0, 0.035), -0.1, 0.1) * spread),
        turn=float(np.clip(rng.normal(0, 0.35), -1, 1) * spread),
        zoom_x=float(1 + rng.uniform(-0.07, 0.07) * spread),
        zoom_y=float(1 + rng.uniform(-0.09, 0.09) * spread),
        shift_x=float(rng.normal(0, 0.03) * spread),
        shift_y=float(rng.normal(0, 0.035) * spread),
        inspiration=float(np.clip(rng.normal(-0.01, 0.025), -0.06, 0.05) * spread),
        gain=float(1 + rng.uniform(-0.16, 0.16) * strength),
        offset=float(rng.uniform(-0.07, 0.07) * strength),
        gamma=float(np.exp(rng.uniform(-0.28, 0.28) * strength)),
        noise=float(rng.uniform(0.004, 0.022)),
        blur=float(rng.uniform(0.002, 0.008)),
        marker=bool(rng.random() < 0.6),
        leads=bool(portable and rng.random() < 0.5),
        collimation=float(max(0.0, rng.uniform(-0.12, 0.07))),
        aspect=float(rng.uniform(0.84, 1.20)),
    )
