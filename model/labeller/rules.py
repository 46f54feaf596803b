"""From a radiologist's sentence to findings with presence, certainty, side, degree and change, by rules.

The word list is `word_list.toml`. A sentence becomes phrases (tokens), phrases get their parts (rewriting), segments
(statement), and each cue its scope (scope): after Chapman et al. 2001 (NegEx), Harkema et al. 2009 (ConText) and Irvin
et al. 2019 (CheXpert labeller). No model, no torch: the same text gives the same labels, each with the phrases that
decided. Measured in docs/labeller.md, beside medspaCy's ConText in docs/adr/0015.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from model.labeller import scope
from model.labeller.attributes import give_changes, give_levels
from model.labeller.denial import find_denied
from model.labeller.sides import give_sides
from model.labeller.statement import SentenceStatement, statement
from model.labeller.targets import Target, at, leave_out, targets_of
from model.labeller.text.language import has_foreign_denial, is_english
from model.labeller.text.parts import Part
from model.labeller.text.sentences import Sentence, sentences
from model.labeller.text.word_list import word_list
from model.ontology import ontology
from model.schema import Change


class Stated(StrEnum):
    """A report's statement on a finding."""

    YES = "yes"
    """It is there."""
    NO = "no"
    """It is not."""
    UNCERTAIN = "uncertain"
    """It may be there: no use as truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One sentence's statement on one finding.

    finding: ontology key. side: "left", "right" or "bilateral", only of findings that have one; an absence with a side
    is one of that side only. level: a level word of the ontology. certainty: of what is uncertain, "probable",
    "possible" or "unlikely". general: inferred from a sentence on the whole ("the lungs are clear"); explicit words
    outweigh it. rule: the words that decided.
    """

    finding: str
    presence: Stated
    side: str | None = None
    level: str | None = None
    change: Change | None = None
    certainty: str = ""
    general: bool = False
    sentence: str = ""
    section: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A sentence read: its phrases, its findings with the rules that read them, and the labels that follow."""

    sentence: Sentence
    statement: SentenceStatement
    targets: tuple[Target, ...]
    labels: tuple[Label, ...]

    @property
    def not_stated(self) -> tuple[Target, ...]:
        """The findings that are named and of which nothing is stated, each with the reason."""
        return tuple(target for target in self.targets if target.left_out and target.named.keys)


_TIPS = ("tip", "tips", "end", "ends", "distal", "side", "side hole", "sidehole")
_BETWEEN = ("versus", "vs", "over")
"""Make what stands before them doubtful, and what stands after them."""


def version() -> str:
    """Return which word list: kept beside each label."""
    return f"rules {word_list().version}"


def label_report(text: str) -> list[Label]:
    """Return the labels of every sentence of a report that may state findings, in order."""
    return [label for reading in read_text(text) for label in reading.labels]


def read_text(text: str) -> list[Reading]:
    """Return every sentence of a report that may state findings, read. A report in another language states nothing."""
    parts = sentences(text)
    english = is_english(" ".join(sentence.raw for sentence in parts))
    return [read_sentence(sentence, is_readable=english) for sentence in parts]


def label_sentence(text: str, *, section: str = "") -> list[Label]:
    """Return the labels of one sentence, each finding, side and presence once; explicit ones before inferred ones."""
    return list(read_sentence(Sentence(raw=text, section=section)).labels)


def read_sentence(sentence: Sentence, *, is_readable: bool = True) -> Reading:
    """Read one sentence. is_readable: False where the report is not in English."""
    read = statement(sentence.raw)
    targets = targets_of(read)
    # The order counts: doubt comes after denials, which it does not overturn, and sides before changes, because an
    # exchanged device is compared by its side.
    _apply_unsaid(read, targets)
    _apply_denials(read, targets)
    _apply_known(read, targets)
    _apply_doubt(read, targets)
    _apply_cues_behind(read, targets)
    give_sides(read, targets)
    give_changes(read, targets)
    give_levels(read, targets)
    leave_out(read, targets)
    if not is_readable or has_foreign_denial(sentence.raw):
        for target in targets.values():
            target.left_out = "not in English"
    labels: list[Label] = []
    # Explicit before inferred, plain before doubtful: of two labels that say the same the first one stays.
    for target in sorted(targets.values(), key=lambda target: (target.named.general, target.presence == "uncertain")):
        for label in _labels(target, sentence):
            same = next((n for n, other in enumerate(labels) if _says_already(other, label)), None)
            if same is None:
                labels.append(label)
            elif (labels[same].side, labels[same].presence) == (label.side, label.presence):
                labels[same] = _join_labels(labels[same], label)
    return Reading(sentence=sentence, statement=read, targets=tuple(targets.values()), labels=tuple(labels))


def _says_already(other: Label, label: Label) -> bool:
    """Return whether an earlier label of the sentence leaves nothing to a later one."""
    if other.finding != label.finding:
        return False
    # A general word of the same finding and side adds nothing to the special one before it.
    if label.general:
        return label.side is None or other.side is None or other.side in (label.side, "bilateral")
    if label.presence is Stated.UNCERTAIN and other.presence is Stated.YES:
        return label.side in (None, other.side)
    return (other.side, other.presence) == (label.side, label.presence)


def _join_labels(label: Label, later: Label) -> Label:
    """Return a label with the degree and change that a later one of the same finding adds."""
    level, change = label.level or later.level, label.change or later.change
    if (level, change) == (label.level, label.change):
        return label
    return dataclasses.replace(label, level=level, change=change, rule=f"{label.rule}; {later.rule}")


def _apply_unsaid(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Leave out what stands in a question, a plan or a history."""
    places = set(targets)
    for cue, mark in enumerate(read.marks):
        if mark.has(Part.UNSAID_BEFORE):
            for target in at(targets, scope.unsaid(read, cue, places)):
                target.left_out = "a question, a plan or a history"
                target.note("no statement", mark)


def _apply_denials(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Apply "no", "without" and the like; of two denials before a finding the nearer one counts."""
    places, devices = set(targets), {position for position, target in targets.items() if target.is_device}
    for cue, mark in enumerate(read.marks):
        if not mark.has(Part.NEGATION_BEFORE):
            continue
        for member in find_denied(read, cue, places, devices):
            target = targets[member.position]
            # "No new effusion": an old one may be there, so nothing is known.
            if member.is_open and target.named.presence == "yes":
                target.left_out = target.left_out or "only a new or a large one is denied"
                target.note("denied, left open", mark)
            elif target.named.presence == "yes":
                target.presence = "no"
                target.note("denial", mark)
            else:
                target.left_out = target.left_out or "what it is instead is not said"
                target.note("denial", mark)


def _apply_known(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Mark what is called known or previous: it counts only with what became of it."""
    places = set(targets)
    for cue, mark in enumerate(read.marks):
        if mark.has(Part.KNOWN) and not mark.has(Part.IGNORED):
            for target in at(targets, scope.known(read, cue, places)):
                target.is_known = True
                target.note("known before", mark)


def _apply_doubt(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Apply words of doubt, before or behind a finding. "No effusion is suspected" stays a denial."""
    places = set(targets)
    for cue, mark in enumerate(read.marks):
        if not mark.has(Part.UNCERTAINTY_BEFORE, Part.UNCERTAINTY_AFTER):
            continue
        ahead = list(scope.find_doubted(read, cue, places)) if mark.has(Part.UNCERTAINTY_BEFORE) else []
        if mark.text in ("?", "suspected", "likely", "possible", "probable") and _stands_behind(read, cue, places):
            ahead = []
        behind: list[int] = []
        is_asked_ahead = (
            mark.text == "?" and cue + 1 < len(read.marks) and read.marks[cue + 1].start == mark.end
        )  # "?TB"
        looks_back = mark.has(Part.UNCERTAINTY_AFTER) and not is_asked_ahead
        if looks_back and (not ahead or mark.text.endswith(_BETWEEN)):
            behind = scope.before(read, cue, places)
            behind = behind[-1:] if ahead else behind
        for group, part in ((ahead, Part.UNCERTAINTY_BEFORE), (behind, Part.UNCERTAINTY_AFTER)):
            for target in at(targets, group):
                # A denial stays one; a word that names an absence by itself ("clear") can be doubted.
                if target.presence != "no" or target.named.presence == "no":
                    target.presence, target.certainty = "uncertain", str(mark.parts[part])
                    target.note("doubt", mark)


def _stands_behind(read: SentenceStatement, cue: int, places: set[int]) -> bool:
    """Return whether a word of doubt ends its segment, behind a finding of it."""
    segment = read.segments[read.number(cue)]
    return any(segment.start <= position < cue for position in places) and not any(
        cue < position < segment.end for position in places
    )


def _apply_cues_behind(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Apply "is absent", "not seen", "is recommended": they stand behind what they govern."""
    places = set(targets)
    for cue, mark in enumerate(read.marks):
        if mark.has(Part.UNSAID_AFTER):
            crosses = mark.role != "plan" and scope.is_alone(read, cue)
            governed = scope.before(read, cue, places, crosses=crosses)
            if not governed and mark.text.endswith(("advised", "recommended", "suggested", "requested")):
                governed = list(scope.unsaid(read, cue, places))
            for target in at(targets, _without_tips(read, cue, targets, governed)):
                target.left_out = target.left_out or "a question, a plan or a history"
                target.note("no statement", mark)
        elif mark.has(Part.NEGATION_AFTER) and not _denies_ahead(read, cue, places):
            governed = scope.before(read, cue, places)
            for target in at(targets, _without_tips(read, cue, targets, governed)):
                # "Not seen, but possible": the later word counts.
                doubted_later = any(rule == "doubt" and other.start > mark.start for rule, other in target.notes)
                if target.named.presence == "yes" and not doubted_later:
                    target.presence, target.certainty = "no", ""
                    target.note("denial", mark)


def _without_tips(read: SentenceStatement, cue: int, targets: dict[int, Target], governed: list[int]) -> list[int]:
    """Return the governed findings but devices of which only the tip is spoken of ("NG tube tip not seen")."""
    return [
        position
        for position in governed
        if not (targets[position].is_device and any(mark.text in _TIPS for mark in read.marks[position:cue]))
    ]


def _denies_ahead(read: SentenceStatement, cue: int, places: set[int]) -> bool:
    """Return whether a word that may stand on either side ("negative") has its finding after it."""
    mark = read.marks[cue]
    segment = read.segments[read.number(cue)]
    return mark.has(Part.NEGATION_BEFORE) and any(cue < position < segment.end for position in places)


def _labels(target: Target, sentence: Sentence) -> Iterator[Label]:
    if target.left_out or not target.presence:
        return
    side = None
    if target.sides:
        side = target.sides[0] if len(set(target.sides)) == 1 else "bilateral"
    presence = Stated(target.presence)
    for key in target.named.keys:
        concept = ontology().findings[key]
        if presence is Stated.NO and side in ("left", "right") and not concept.lateral and target.named.general:
            continue  # "the right lung is clear" denies no edema
        change = target.change if presence is Stated.YES or target.change is Change.RESOLVED else None
        yield Label(
            finding=key,
            presence=presence,
            side=side if concept.lateral and not (presence is Stated.NO and side == "bilateral") else None,
            level=target.level if concept.graded and presence is not Stated.NO else None,
            change=change if presence is not Stated.UNCERTAIN else None,
            certainty=target.certainty if presence is Stated.UNCERTAIN else "",
            general=target.named.general,
            sentence=sentence.text,
            section=sentence.section,
            rule="; ".join(f'{rule} "{mark.text}"' for rule, mark in target.notes),
        )
