"""The findings section: one line for each finding that is seen or in doubt, and one each for what is possible, what is
neither seen nor excluded, what is not seen and what was not judged.

Percentages are probabilities that the finding is on the current image, whole numbers, and stand nowhere else
(`report.rules` rule 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import Doubt, Rank, Seen, Statement, in_order
from dicom_node.report.statements import statements
from dicom_node.report.wording.catalogue import Catalogue, sentence
from dicom_node.report.wording.dates import prior_date
from dicom_node.report.wording.impression import doubt_text
from dicom_node.report.wording.phrases import change_word, name_of, phrase
from model.schema import Change


def finding_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """A sentence on everything that was asked for."""
    stated = statements(request)
    ordered = in_order(stated)
    date = prior_date(request, words)
    lines = [_line(statement, date, words) for statement in ordered if _has_line(statement)]
    possible = [statement for statement in ordered if statement.seen is Seen.POSSIBLE]
    if possible:
        items = [f"{name_of(statement.finding.key, words)}{_percent(statement, words)}" for statement in possible]
        lines.append(words.text("finding_line.possible", findings=words.join(items)))
    undecided = [
        name_of(statement.finding.key, words)
        for statement in stated
        if statement.seen is Seen.UNDECIDED and not statement.is_omitted
    ]
    if undecided:
        lines.append(words.text("finding_line.undecided", findings=words.join(undecided)))
    not_seen = [statement for statement in stated if statement.seen is Seen.NOT_SEEN and not _has_line(statement)]
    if not_seen:
        lines.append(_not_seen(not_seen, words))
    omitted = [name_of(statement.finding.key, words) for statement in stated if statement.is_omitted]
    if omitted:
        text = words.text("finding_line.not_judged", findings=words.join(omitted))
        lines.append(f"{text} {words.text('finding_line.why_not_judged')}")
    return tuple(lines)


def _has_line(statement: Statement) -> bool:
    """Tell whether the finding deserves a sentence of its own."""
    is_moved = statement.rank in (Rank.GONE, Rank.VANISHED) or statement.possible_change is not None
    return statement.seen is Seen.SEEN or (statement.seen is Seen.NOT_SEEN and is_moved)


def _line(statement: Statement, date: str, words: Catalogue) -> str:
    finding = statement.finding
    values = {"finding": sentence(phrase(finding, words)), "percent": _percent(statement, words), "date": date}
    word = "seen" if statement.seen is Seen.SEEN else "not_seen"
    if statement.change is not None:
        change = change_word(finding.key, statement.change, words)
        key = "gone" if statement.rank is Rank.GONE else "seen_change"
        return words.text(f"finding_line.{key}", change=change, **values)
    possible = statement.possible_change
    if possible is not None and possible is not Change.STABLE:  # "possibly unchanged" would be read as unchanged
        change = change_word(finding.key, possible, words)
        return words.text(f"finding_line.{word}_possibly", change=change, **values)
    if statement.doubt is Doubt.LOW_CERTAINTY and statement.seen is Seen.SEEN:
        return words.text("finding_line.seen_uncertain", **values)
    if statement.doubt is not None and statement.doubt is not Doubt.UNCALIBRATED:
        return words.text(f"finding_line.{word}_doubt", reason=doubt_text(statement.doubt, words), **values)
    return words.text("finding_line.seen", **values)


def _not_seen(group: Sequence[Statement], words: Catalogue) -> str:
    """All that is not seen with the largest of their probabilities: a figure behind each of a dozen says nothing."""
    names = words.join([name_of(statement.finding.key, words) for statement in group])
    if not group[0].is_calibrated:
        return words.text("finding_line.not_seen", findings=names)
    if len(group) == 1:
        return words.text("finding_line.not_seen", findings=f"{names}{_percent(group[0], words)}")
    # Rounded up: "each below 5 %" must hold for every one of them.
    most = max(math.ceil(round(statement.finding.probability * 100, 6)) for statement in group)
    return words.text("finding_line.not_seen_each", findings=names, value=max(most, 1))


def _percent(statement: Statement, words: Catalogue) -> str:
    """ " (78%)", nothing where no percentage may stand beside the word."""
    shown = statement.percent_shown
    return "" if shown is None else words.text("finding_line.percent", value=words.percent(shown))
