"""Agreement of labels with sentences labelled by hand: precision and recall per finding, change, side and level.

The file's form stands at the head of tests/model/labeller/sentences_development.txt.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import LabellerError
from model.labeller.report import read_report
from model.labeller.rules import Label, Stated
from model.ontology import ontology
from model.schema import Change

CERTAINTIES = ("probable", "possible", "unlikely")
Labeller = Callable[[str], Sequence[Label]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldReport:
    """One sentence and what it states."""

    sentence: str
    gold: tuple[Label, ...]
    kind: str = ""


@dataclass(slots=True)
class Score:
    """Counts of one class. precision and recall are None where nothing was said or nothing was there."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def precision(self) -> float | None:
        """right / (right + wrong)."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        """right / (right + missed)."""
        return self.right / (self.right + self.missed) if self.right + self.missed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Scores by class. findings: a finding with its presence is one item, right only where both are."""

    sentences: int
    exact: int
    """Sentences in which every label is right in every respect."""
    polarity_errors: int
    """Labels that say yes where the sentence says no of the finding, or the other way round."""
    kinds: Mapping[str, tuple[int, int]]
    """The number of sentences of each kind that are right in every respect, and of all."""
    findings: Mapping[str, Score]
    presences: Mapping[str, Score]
    changes: Mapping[str, Score]
    sides: Mapping[str, Score]
    levels: Mapping[str, Score]
    errors: tuple[str, ...] = field(default=(), repr=False)


def read_cases(path: Path) -> list[GoldReport]:
    """The sentences of a file. Raises LabellerError naming the line."""
    cases: list[GoldReport] = []
    sentence, gold, kind = "", [], ""
    # An empty line more, so that the last case ends as all others do.
    for number, line in enumerate([*path.read_text("utf-8").splitlines(), ""], start=1):
        if line.startswith("#"):
            continue
        if line.startswith("== "):
            kind = line.strip("= ")
        elif line.startswith("  = "):
            if line != "  = nothing":
                gold.append(_label(line[4:].split(), f"{path.name}, line {number}"))
        elif not line.strip():
            if sentence:
                cases.append(GoldReport(sentence=sentence, gold=tuple(gold), kind=kind))
            sentence, gold = "", []
        elif sentence:
            raise LabellerError(f"{path.name}, line {number}: two sentences without an empty line between")
        else:
            sentence = line
    return cases


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCase:
    """One whole report and what it settles."""

    name: str
    text: str
    gold: tuple[Label, ...]


def read_report_cases(path: Path) -> list[ReportCase]:
    """Return the reports of a file: "==== name", the text, "----", a line for each finding. Raises LabellerError."""
    cases: list[ReportCase] = []
    for block in re.split(r"^==== ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        name, _, rest = block.partition("\n")
        text, separator, gold = rest.partition("\n----\n")
        if not separator:
            raise LabellerError(f"{path.name}: the report {name!r} has no line ---- before its findings")
        labels = [
            _label(line[4:].split(), f"{path.name}, report {name!r}")
            for line in gold.splitlines()
            if line.startswith("  = ") and line != "  = nothing"
        ]
        cases.append(ReportCase(name=name, text=text, gold=tuple(labels)))
    return cases


def _label(words: list[str], where: str) -> Label:
    if len(words) < 2 or words[0] not in ontology().findings or words[1] not in set(Stated):
        raise LabellerError(
            f"{where}: wanted `finding presence …` with a key of the ontology, found {' '.join(words)!r}"
        )
    side = level = change = None
    certainty = ""
    for word in words[2:]:
        plain = word.replace("_", " ")
        if plain in CERTAINTIES:
            certainty = plain
        elif plain in ontology().sides:
            side = plain
        elif plain in set(Change):
            change = Change(plain)
        elif plain in ontology().levels:
            level = plain
        else:
            raise LabellerError(f"{where}: {word!r} is no side, level, change or certainty")
    return Label(
        finding=words[0], presence=Stated(words[1]), side=side, level=level, change=change, certainty=certainty
    )


def measure(cases: Iterable[GoldReport], labeller: Labeller) -> Measured:
    """Label every sentence and compare. Side, level and change are compared where the finding's presence is right."""
    tables: dict[str, dict[str, Score]] = {
        name: defaultdict(Score) for name in ("finding", "presence", "change", "side", "level")
    }
    total = exact = turned = 0
    kinds: dict[str, tuple[int, int]] = {}
    errors: list[str] = []
    for case in cases:
        labels = list(labeller(case.sentence))
        total += 1
        is_right = is_same(labels, case.gold)
        right, of = kinds.get(case.kind, (0, 0))
        kinds[case.kind] = (right + is_right, of + 1)
        exact += is_right
        turned += polarity_errors(labels, case.gold)
        if not is_right:
            expected, labelled = ([" ".join(map(str, _key(label))) for label in side] for side in (case.gold, labels))
            errors.append(f"{case.sentence}\n    wanted {sorted(expected)}\n    found  {sorted(labelled)}")
        _compare(case.gold, labels, tables)
    return Measured(
        sentences=total,
        exact=exact,
        polarity_errors=turned,
        kinds=kinds,
        findings=_in_order(tables["finding"], list(ontology().findings)),
        presences=_in_order(tables["presence"], [stated.value for stated in Stated]),
        changes=_in_order(tables["change"], [change.value for change in Change]),
        sides=_in_order(tables["side"], list(ontology().sides)),
        levels=_in_order(tables["level"], list(ontology().levels)),
        errors=tuple(errors),
    )


def is_same(made: Iterable[Label], gold: Iterable[Label]) -> bool:
    """Return whether two sets of labels agree in every respect; a certainty counts where the gold names one."""
    if Counter(map(_key, made)) != Counter(map(_key, gold)):
        return False
    certain = {(label.finding, label.side): label.certainty for label in gold if label.certainty}
    return all(
        certain.get((label.finding, label.side), label.certainty) == label.certainty
        for label in made
        if label.presence is Stated.UNCERTAIN
    )


def polarity_errors(made: Iterable[Label], gold: Iterable[Label]) -> int:
    """Return how many labels say the opposite of the gold: yes for no, or no for yes."""
    presences: dict[str, set[Stated]] = defaultdict(set)
    for label in gold:
        presences[label.finding].add(label.presence)
    opposite = {Stated.YES: Stated.NO, Stated.NO: Stated.YES}
    return sum(
        label.presence in opposite
        and opposite[label.presence] in presences[label.finding]
        and label.presence not in presences[label.finding]
        for label in made
    )


def settle_labels(text: str) -> list[Label]:
    """Return what a whole report settles, as labels; contradictions are left out."""
    return [
        Label(
            finding=finding.finding,
            presence=finding.presence,
            side=finding.side if finding.presence is Stated.YES else None,
            level=finding.level if finding.presence is Stated.YES else None,
            change=finding.change,
        )
        for finding in read_report(text).values()
        if finding.presence is not None
    ]


def settle_gold(case: ReportCase) -> list[Label]:
    """Return a report's gold as `settle_labels` writes it: an absence has no side, a doubt nothing but itself."""
    return [
        dataclasses.replace(
            label,
            side=label.side if label.presence is Stated.YES else None,
            level=label.level if label.presence is Stated.YES else None,
            change=label.change if label.presence is not Stated.UNCERTAIN else None,
            certainty="",
        )
        for label in case.gold
    ]


def _key(label: Label) -> tuple[str, ...]:
    return (label.finding, label.presence.value, label.side or "-", label.level or "-", label.change or "-")


def _compare(gold: Sequence[Label], made: Sequence[Label], tables: dict[str, dict[str, Score]]) -> None:
    left = list(made)
    for label in gold:
        same = [other for other in left if (other.finding, other.presence) == (label.finding, label.presence)]
        # The label that agrees in most is the one compared, or one error would count as two.
        match = min(same, key=lambda one: (one.side != label.side, one.change != label.change), default=None)
        _count(tables["finding"], label.finding, label.finding if match else None)
        _count(tables["presence"], label.presence.value, label.presence.value if match else None)
        if match is None:
            if label.change is not None:
                tables["change"][label.change].missed += 1
            continue
        left.remove(match)
        for name in ("change", "side", "level"):
            _count(tables[name], getattr(label, name), getattr(match, name))
    for other in left:
        _count(tables["finding"], None, other.finding)
        _count(tables["presence"], None, other.presence.value)
        if other.change is not None:
            tables["change"][other.change].wrong += 1


def _count(table: dict[str, Score], wanted: str | None, found: str | None) -> None:
    if wanted == found:
        if wanted is not None:
            table[str(wanted)].right += 1
        return
    if wanted is not None:
        table[str(wanted)].missed += 1
    if found is not None:
        table[str(found)].wrong += 1


def _in_order(table: dict[str, Score], order: list[str]) -> dict[str, Score]:
    return {key: table[key] for key in order if key in table}


def pool_classes(table: Mapping[str, Score]) -> Score:
    """All classes of one table together."""
    scores = list(table.values())
    return Score(sum(s.right for s in scores), sum(s.wrong for s in scores), sum(s.missed for s in scores))
