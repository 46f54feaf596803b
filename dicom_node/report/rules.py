"""Rules on what a report may say of a model's answer. Pure, numbered; docs/hazards.md names those that protect a
patient.

1. Say what is believed. A finding is *seen* from its own threshold and at least `MIN_BELIEF`; between `possible_from`
   and that it is *possible*, stands under Findings and is neither outlined nor tagged; below it is *not seen*. A change
   is stated from `MIN_BELIEF` of its belief (and the certainty floor); below it is "possibly new" at the most. What has
   reached its own threshold on less than `possible_from` is neither seen nor excluded: the checkpoint takes it for
   present, so "not seen" would deny its own decision, and the belief is too little for "possible". So is what lies
   above `Finding.deny_below`: too many of the films on which radiologists marked it had so little belief. What an
   uncalibrated model says is presence alone: no change, no percent. A finding that the checkpoint may not state on
   films of this kind (`Prediction.unstated`) gets no statement, not even that it is not seen.
2. Words, not decimals: `Seen` and the words of a change are the same in every document. A percentage stands under
   Findings only, and none that contradicts its word.
3. Order: critical, new, larger or worse, smaller or better, no longer seen, not comparable, unchanged (`Rank`). That
   nothing (else) is seen is said only where nothing is possible, left open or not judged.
4. A region must agree with its sentence (`report.region_rules`).
5. Consistent over time: what a change implies for the prior must not contradict what the prior's own result said
   (`EarlierStatement`), and a change that is too fast for its finding is not stated (`report.courses`).
6. An image unlike those of training is not read as if it were one of them (`model.schema.Prediction.is_unfamiliar`).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from dicom_node.report.courses import MAGNIFIED_BY_PROJECTION, is_plausible
from model.ontology import FindingKind, ontology
from model.schema import ON_PRIOR, Change, Finding, Prediction, Presence

MIN_BELIEF = 0.5
"""Rule 1: what is believed less than its opposite is not stated."""
MIN_POSSIBLE = 0.25
"""Rule 1: below one in four nothing is called possible, however low the checkpoint's certainty floor."""
CRITICAL = frozenset({"pneumothorax", "pneumomediastinum"})
"""Findings that open the report unless they are known and no worse: they may need action within the hour."""
SEVERITY = ("massive", "severe", "moderate to severe", "moderate to large", "moderate", "mild to moderate", "mild")
"""Degrees, worst first."""
MOVED = frozenset({Change.NEW, Change.WORSENING, Change.IMPROVING, Change.RESOLVED})


class Seen(StrEnum):
    """Rule 1: what is said of a finding on one image."""

    SEEN = "seen"
    POSSIBLE = "possible"
    NOT_SEEN = "not seen"
    UNDECIDED = "no statement"
    """Neither seen nor excluded: two possibilities are exactly equal, or the finding has reached its own threshold on
    too little belief to be called possible."""


class Doubt(StrEnum):
    """Why a change is not stated although there is a prior."""

    LOW_CERTAINTY = "low certainty"
    UNCALIBRATED = "uncalibrated model"
    EARLIER_DIFFERS = "earlier reading differs"
    IMPLAUSIBLE = "implausible course"
    PROJECTION = "different projections"


class Rank(IntEnum):
    """Rule 3: where a statement stands in the impression, first to last."""

    CRITICAL = 0
    NEW = 1
    WORSE = 2
    SEEN = 3
    """Seen without a prior."""
    BETTER = 4
    GONE = 5
    UNCERTAIN = 6
    """Seen, and how it changed is not certain."""
    VANISHED = 7
    """Not seen although it should be, and no statement on change: rule 5 forbids "no longer seen"."""
    UNCHANGED = 8
    NONE = 9
    """Not in the impression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStatement:
    """The statement of the prior image's own result on a finding, by the same checkpoint. location, level: words."""

    seen: Seen
    location: str | None = None
    level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The facts that the rules know beside the answer on one finding.

    certainty_floor: of the checkpoint, 0..1. interval: between the exposures, None where a date is missing.
    has_other_projection: one image is AP, the other PA. earlier: finding → what the prior's own result said; None where
    the same checkpoint has not read the prior.
    """

    has_prior: bool
    is_calibrated: bool = True
    certainty_floor: float = 0.0
    interval: dt.timedelta | None = None
    has_other_projection: bool = False
    earlier: Mapping[str, EarlierStatement] | None = None
    omitted: frozenset[str] = frozenset()
    """Findings on which nothing may be said of this image: no figure on films of its kind allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The report's statement on one finding.

    finding: the model's answer. change: the stated one, None where none is. possible_change: one that is believed too
    little to be stated. doubt: why no change is stated, where there is a prior and something to compare.
    """

    finding: Finding
    seen: Seen
    change: Change | None = None
    possible_change: Change | None = None
    doubt: Doubt | None = None
    is_calibrated: bool = True
    is_omitted: bool = False
    """Nothing may be said of the finding on this image, not even that it is not seen."""

    @property
    def rank(self) -> Rank:
        """Rule 3."""
        if self.change is Change.RESOLVED:
            return Rank.GONE
        # Not seen, with a doubt: an earlier report had it, and a reader will ask where it went.
        if self.seen is not Seen.SEEN:
            return Rank.NONE if self.doubt in (None, Doubt.LOW_CERTAINTY) else Rank.VANISHED
        if self.finding.key in CRITICAL and self.change not in (Change.STABLE, Change.IMPROVING):
            return Rank.CRITICAL
        if self.change is not None:
            return _RANKS[self.change]
        return Rank.SEEN if self.doubt in (None, Doubt.UNCALIBRATED) else Rank.UNCERTAIN

    @property
    def percent_shown(self) -> float | None:
        """Rule 2: the probability (0..1) that may stand beside the word, None where it would contradict it."""
        if not self.is_calibrated or self.seen is Seen.UNDECIDED:
            return None
        probability = self.finding.probability
        return probability if (probability >= MIN_BELIEF) is (self.seen is Seen.SEEN) else None

    @property
    def presence(self) -> Presence:
        """As CID 240 codes it: what is only possible is undetermined."""
        return _PRESENCES.get(self.seen, Presence.ABSTAINED)

    @property
    def coded_change(self) -> Change | None:
        """The change as it is coded: the stated one, "not comparable" where there is a doubt."""
        return self.change if self.doubt is None else Change.NOT_COMPARABLE


_RANKS = {
    Change.NEW: Rank.NEW,
    Change.WORSENING: Rank.WORSE,
    Change.IMPROVING: Rank.BETTER,
    Change.RESOLVED: Rank.GONE,
    Change.STABLE: Rank.UNCHANGED,
}
_PRESENCES = {Seen.SEEN: Presence.PRESENT, Seen.NOT_SEEN: Presence.ABSENT}


def statements_of(prediction: Prediction, circumstances: Circumstances) -> tuple[Statement, ...]:
    """The permitted statement on each finding, in the prediction's order."""
    return tuple(statement_of(finding, circumstances) for finding in prediction.findings)


def statement_of(finding: Finding, circumstances: Circumstances) -> Statement:
    """Rules 1 and 5 on one finding."""
    if finding.key in circumstances.omitted:
        return Statement(finding=finding, seen=Seen.UNDECIDED, is_omitted=True)
    seen = seen_of(finding, circumstances)
    calibrated = circumstances.is_calibrated
    if not circumstances.has_prior:
        return Statement(finding=finding, seen=seen, is_calibrated=calibrated)
    # Without calibration a probability has no meaning that a threshold on change could rest on: presence only, and
    # doubted.
    if not calibrated:
        doubt = Doubt.UNCALIBRATED if seen is Seen.SEEN else None
        return Statement(finding=finding, seen=seen, doubt=doubt, is_calibrated=False)
    change, possible = _judge_change(finding, seen, circumstances.certainty_floor)
    doubt = _objection(finding, seen, change, circumstances)
    if doubt is not None:
        return Statement(finding=finding, seen=seen, doubt=doubt)
    if change is None and (seen is Seen.SEEN or possible is not None):
        doubt = Doubt.LOW_CERTAINTY
    return Statement(finding=finding, seen=seen, change=change, possible_change=possible, doubt=doubt)


def seen_of(finding: Finding, circumstances: Circumstances) -> Seen:
    """Rule 1 on presence."""
    probability = finding.probability
    if not math.isfinite(probability):  # every comparison below would be false and call it open
        raise ValueError(f"{finding.key}: its probability is {probability}")
    if not circumstances.is_calibrated:
        words = {Presence.PRESENT: Seen.SEEN, Presence.ABSENT: Seen.NOT_SEEN, Presence.ABSTAINED: Seen.UNDECIDED}
        return words[finding.presence]
    if finding.presence is Presence.ABSTAINED and probability == MIN_BELIEF:
        return Seen.UNDECIDED
    is_stated = finding.presence is Presence.PRESENT and probability >= finding.threshold
    if is_stated and probability >= max(MIN_BELIEF, circumstances.certainty_floor):
        return Seen.SEEN
    if probability >= possible_from(circumstances.certainty_floor):
        return Seen.POSSIBLE
    may_deny = finding.deny_below is None or probability < finding.deny_below
    return Seen.NOT_SEEN if may_deny and finding.presence is not Presence.PRESENT else Seen.UNDECIDED


def possible_from(certainty_floor: float) -> float:
    """The least probability of what is called possible; a floor above one half bounds what is stated, not this."""
    return max(min(certainty_floor, MIN_BELIEF), MIN_POSSIBLE)


def in_order(statements: Iterable[Statement]) -> list[Statement]:
    """Rule 3: by rank, then abnormalities before devices, then degree, then probability."""

    def key(statement: Statement) -> tuple[int, bool, int, float]:
        finding = statement.finding
        degree = SEVERITY.index(finding.level) if finding.level in SEVERITY else len(SEVERITY)
        return statement.rank, is_device(finding.key), degree, -finding.probability

    return sorted(statements, key=key)


def select_outlined(statements: Iterable[Statement]) -> list[Statement]:
    """Those whose regions are drawn: what the impression singles out; where nothing is, what is unchanged."""
    ordered = [statement for statement in in_order(statements) if statement.rank not in (Rank.VANISHED, Rank.NONE)]
    singled_out = [statement for statement in ordered if statement.rank is not Rank.UNCHANGED]
    return singled_out or ordered


def is_device(key: str) -> bool:
    """Tell whether the finding is a tube, a line or an implant."""
    concept = ontology().findings.get(key)
    return concept is not None and concept.kind is FindingKind.DEVICE


def _judge_change(finding: Finding, seen: Seen, floor: float) -> tuple[Change | None, Change | None]:
    """Rule 1 on change: (the stated one, the possible one)."""
    change, belief = finding.change, finding.change_probability
    is_absent = change in (None, Change.RESOLVED)
    # A change is stated only where it agrees with presence: "worse" of what is seen, "resolved" of what is not.
    fits = (seen is Seen.SEEN and not is_absent) or (seen is Seen.NOT_SEEN and change is Change.RESOLVED)
    if change is None or change is Change.NOT_COMPARABLE or belief is None or not fits:
        return None, None
    if belief >= max(MIN_BELIEF, floor):
        return change, None
    return None, change if belief >= possible_from(floor) else None


def _objection(finding: Finding, seen: Seen, change: Change | None, circumstances: Circumstances) -> Doubt | None:
    """Rule 5: what forbids this statement, None where nothing does."""
    if seen not in (Seen.SEEN, Seen.NOT_SEEN):
        return None
    earlier = (circumstances.earlier or {}).get(finding.key)
    if earlier is not None and _contradicts(finding, seen, change, earlier):
        return Doubt.EARLIER_DIFFERS
    if change is not None and not is_plausible(finding.key, change, circumstances.interval):
        return Doubt.IMPLAUSIBLE
    is_magnified = circumstances.has_other_projection and finding.key in MAGNIFIED_BY_PROJECTION
    return Doubt.PROJECTION if is_magnified and change in MOVED else None


def _contradicts(finding: Finding, seen: Seen, change: Change | None, earlier: EarlierStatement) -> bool:
    """Tell whether the statement implies another prior than the one that was reported."""
    if change in ON_PRIOR:
        if earlier.seen is Seen.NOT_SEEN:
            return True
        sides = {side_of(finding.location), side_of(earlier.location)} - {None, "bilateral"}
        return change is not Change.RESOLVED and len(sides) == 2
    if change is Change.NEW:
        return earlier.seen is Seen.SEEN
    # No change is stated, the finding is gone, and the earlier report had it: then "resolved" should have been said.
    return seen is Seen.NOT_SEEN and earlier.seen is Seen.SEEN


def side_of(location: str | None) -> str | None:
    """ "left", "right" or "bilateral" of words such as "right lower lobe"; None where they name no side."""
    words = (location or "").lower().replace("-sided", "").replace("bibasilar", "bilateral").split()
    sides = {word for word in words if word in ("left", "right", "bilateral")}
    if sides >= {"left", "right"}:
        return "bilateral"
    return sides.pop() if len(sides) == 1 else None
