"""The statements of a whole report on each finding: its sentences' labels combined, or their contradiction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model.labeller.rules import Label, Stated, label_report
from model.labeller.text.word_list import word_list
from model.ontology import ontology
from model.questions.vocabulary import grade_of_level
from model.schema import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFinding:
    """One finding as the whole report states it.

    presence: None where the report contradicts itself; `contradiction` then says how. change: None where nothing is
    said of it, or another thing on each side. certainty: of what is uncertain. labels: what decided, for the list and
    the audit. overruled: what the report had said before an addendum said otherwise.
    """

    finding: str
    presence: Stated | None
    side: str | None = None
    level: str | None = None
    change: Change | None = None
    certainty: str = ""
    contradiction: str = ""
    labels: tuple[Label, ...] = ()
    overruled: tuple[Label, ...] = ()


def read_report(text: str) -> dict[str, ReportFinding]:
    """Return `combine` of the labels of a report."""
    return combine(label_report(text))


def combine(labels: Iterable[Label]) -> dict[str, ReportFinding]:
    """Return the findings that are stated, in ontology order. Rules:

    - What an addendum or correction says of a finding replaces all that was said of it before.
    - Explicit words outweigh inferred ones ("the lungs are clear" beside "small granuloma").
    - Yes and no on the same side, or without a side, contradict each other. Yes on one side and no on the other is yes.
    - Doubt beside a plain yes or no: the impression's word counts; where it says nothing, doubt remains.
    - A denial of one side alone denies nothing of the patient and is left out; of both sides it is a no.
    - Changes: the same on all sides counts; different ones on different sides settle nothing; different ones on the
      same side contradict each other.
    """
    by_finding: dict[str, list[Label]] = {}
    for label in labels:
        by_finding.setdefault(label.finding, []).append(label)
    findings = {}
    for key in ontology().findings:
        if key in by_finding:
            standing, overruled = _standing(by_finding[key])
            combined = _combine(key, _explicit(standing))
            if combined is not None:
                findings[key] = dataclasses.replace(combined, overruled=overruled)
    return findings


def _standing(labels: Sequence[Label]) -> tuple[list[Label], tuple[Label, ...]]:
    """Return the labels that count, and those that a later addendum replaced by another word."""
    later = [label for label in labels if label.section in word_list().replacing and not label.general]
    if not later:
        return list(labels), ()
    earlier = [label for label in labels if label not in later]
    return later, tuple(label for label in earlier if label.presence not in {newer.presence for newer in later})


def _explicit(labels: Sequence[Label]) -> list[Label]:
    explicit = [label for label in labels if not label.general]
    return explicit or list(labels)


def _combine(key: str, labels: Sequence[Label]) -> ReportFinding | None:
    yes = [label for label in labels if label.presence is Stated.YES]
    no = [label for label in labels if label.presence is Stated.NO]
    doubt = [label for label in labels if label.presence is Stated.UNCERTAIN]
    clash = next(((first, other) for first in yes for other in no if _is_same_side(first, other)), None)
    if clash is not None:
        how = f'"{clash[0].sentence}" and "{clash[1].sentence}"'
        return ReportFinding(finding=key, presence=None, contradiction=how, labels=tuple(labels))
    plain = yes or _denials(no)
    if not plain and not doubt:
        return None  # one side is denied, of the other nothing is said
    if doubt and not _is_decided(plain, doubt):
        return ReportFinding(
            finding=key, presence=Stated.UNCERTAIN, certainty=doubt[-1].certainty, labels=tuple(labels)
        )
    change, contradiction = _change(yes or no)
    presence = Stated.YES if yes else Stated.NO
    sides = {label.side for label in plain if label.side is not None}
    levels = [label.level for label in yes if label.level is not None]
    grades = {grade_of_level(level) for level in levels}
    return ReportFinding(
        finding=key,
        presence=presence if not contradiction else None,
        side=("bilateral" if len(sides) > 1 else next(iter(sides))) if yes and sides else None,
        # Of two words for one grade the last counts, which is the impression's; two grades settle nothing.
        level=levels[-1] if len(grades) == 1 else None,
        change=change,
        contradiction=contradiction,
        labels=tuple(labels),
    )


def _is_same_side(yes: Label, no: Label) -> bool:
    """Tell whether an assertion and a denial speak of the same side; what has no side speaks of all."""
    return no.side is None or yes.side == no.side


def _denials(no: Sequence[Label]) -> list[Label]:
    """The denials, where together they deny the finding in the whole patient. A removed device is denied."""
    sides = {label.side for label in no}
    # "No effusion on the left" denies nothing of the right; both sides, or none named, deny it in the patient.
    lateral = None not in sides and not {"left", "right"} <= sides and "bilateral" not in sides
    is_removed = any(label.change is Change.RESOLVED for label in no)
    return [] if lateral and not is_removed else list(no)


def _is_decided(plain: Sequence[Label], doubt: Sequence[Label]) -> bool:
    """Tell whether the impression says plainly what another part of the report doubts."""
    deciding = word_list().deciding
    return any(label.section in deciding for label in plain) and all(label.section not in deciding for label in doubt)


def _change(labels: Sequence[Label]) -> tuple[Change | None, str]:
    """The one change that all sentences state, and how they contradict each other where they do."""
    changed = [label for label in labels if label.change is not None]
    by_side: dict[str | None, dict[Change, Label]] = {}
    for label in changed:
        assert label.change is not None
        by_side.setdefault(label.side, {}).setdefault(label.change, label)
    for side, changes in by_side.items():
        if side is not None:
            # A change without a side is one of either side.
            changes.update(by_side.get(None, {}))
        if len(changes) > 1:
            first, second = list(changes.values())[:2]
            return None, f'"{first.sentence}" and "{second.sentence}"'
    changes_of_all = {change for changes in by_side.values() for change in changes}
    return (changes_of_all.pop() if len(changes_of_all) == 1 else None), ""


def values_of_finding(finding: ReportFinding) -> Mapping[str, str]:
    """A settled finding in the words of feedback: aspect → value; empty where nothing may serve as truth."""
    if finding.presence not in (Stated.YES, Stated.NO):
        return {}
    values = {"presence": "present" if finding.presence is Stated.YES else "absent"}
    if finding.change is not None:
        values["change"] = finding.change.value
    if finding.presence is Stated.YES and finding.side is not None:
        values["location"] = finding.side
    if finding.presence is Stated.YES and finding.level is not None:
        values["level"] = finding.level
    return values
