"""The impression: what a radiologist reads first, at most about five sentences in the order of `report.rules` rule 3.

1. doubts about the patient's identity, or why there is no result
2. that the model is a demonstration or not calibrated; which of several images of the study this is
3. what is critical; new; larger or worse; seen (without a prior); smaller or better; no longer seen; not comparable
4. what is otherwise unchanged, and that nothing else is seen
5. why there is no comparison, or why a newer image was not compared with
"""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import MOVED, Doubt, Rank, Seen, Statement, in_order
from dicom_node.report.statements import has_answer, is_compared, statements
from dicom_node.report.wording.catalogue import Catalogue, sentence
from dicom_node.report.wording.dates import film_date, prior_date, said_of
from dicom_node.report.wording.phrases import change_word, name_of, phrase, size_form
from dicom_node.report.wording.reasons import names_attributes

_GROUPS = (
    Rank.CRITICAL,
    Rank.NEW,
    Rank.WORSE,
    Rank.SEEN,
    Rank.BETTER,
    Rank.GONE,
    Rank.UNCERTAIN,
    Rank.VANISHED,
)
"""Each is one sentence at the most."""


def impression_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """The sentences that the report opens with."""
    cautions = [full_sentence(said_of(request, caution, words)) for caution in request.cautions]
    if not has_answer(request):
        return (*cautions, *no_result_sentences(request, words), *_marks(request, words), *_number(request, words))
    ordered = in_order(statements(request))
    lines = [*cautions, *_marks(request, words), *_number(request, words)]
    groups = {rank: [one for one in ordered if one.rank is rank] for rank in Rank}
    date = prior_date(request, words)
    lines += [_group_sentence(rank, groups[rank], date, words) for rank in _GROUPS if groups[rank]]
    lines.append(_rest(request, ordered, date, words))
    undecided = [name_of(one.finding.key, words) for one in ordered if one.seen is Seen.UNDECIDED]
    if undecided:
        lines.append(words.text("impression.no_statement", findings=words.join(undecided)))
    return (*lines, *_comparison_notes(request, words))


def no_result_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """That there is no answer and why: the coded reason in this language, then its detail, else the free sentence."""
    prediction = request.prediction
    if prediction is None or prediction.abstained is None:
        free = said_of(request, request.reason.strip(), words).rstrip(".")
        reason, detail = free[:1].lower() + free[1:] or words.text("reason.other"), ""
    else:
        reason = words.text(f"reason.{prediction.abstained.name.lower()}")
        detail = said_of(request, prediction.abstained_detail, words)
        detail = "" if names_attributes(detail) else detail  # it stands under Limitations
    first = words.text("no_result.impression", reason=reason)
    return (first, full_sentence(detail)) if detail else (first,)


def full_sentence(text: str) -> str:
    """A free text of the analysis as a sentence: a capital letter first, a full stop last."""
    return f"{sentence(text.strip().rstrip('.'))}."


def doubt_text(doubt: Doubt, words: Catalogue) -> str:
    """Why a change is not stated, as a clause."""
    return words.text(f"doubt.{doubt.name.lower()}")


def _marks(request: ReportRequest, words: Catalogue) -> list[str]:
    """The marks of the model that a reader must know before any statement."""
    lines = []
    if request.model.demonstration:
        lines.append(words.text("impression.demonstration"))
    if request.prediction is not None and not request.prediction.is_calibrated:
        lines.append(words.text("impression.uncalibrated"))
    if request.prediction is not None and request.prediction.is_unfamiliar:
        lines.append(words.text("impression.unfamiliar"))
    return lines


def _number(request: ReportRequest, words: Catalogue) -> list[str]:
    """The one of several frontal images of the study that this report is about."""
    if request.frontal_images < 2:
        return []
    values = {"number": request.frontal_number, "count": request.frontal_images}
    return [words.text("impression.one_of", date=film_date(request, request.current, words), **values)]


def _group_sentence(rank: Rank, group: Sequence[Statement], date: str, words: Catalogue) -> str:
    """One sentence on the statements of a rank."""
    if rank is Rank.CRITICAL:
        items = [_critical(one, date, words) for one in group]
        return words.text("impression.critical", findings="; ".join(items))
    if rank in (Rank.UNCERTAIN, Rank.VANISHED):
        items = [_sentence_of_doubt(one, words) for one in group]
    else:
        items = [phrase(one.finding, words) for one in group]
    key = rank.name.lower()
    if rank in (Rank.WORSE, Rank.BETTER):
        key = f"{key}_{size_form([one.finding.key for one in group])}"
    return words.text(f"impression.{key}", date=date, findings=words.join(items))


def _sentence_of_doubt(statement: Statement, words: Catalogue) -> str:
    reason = doubt_text(statement.doubt or Doubt.LOW_CERTAINTY, words)
    return words.text("impression.doubted_item", finding=phrase(statement.finding, words), reason=reason)


def _critical(statement: Statement, date: str, words: Catalogue) -> str:
    finding = phrase(statement.finding, words)
    if statement.change is not None:
        change = change_word(statement.finding.key, statement.change, words)
        return words.text("impression.critical_change", finding=finding, change=change, date=date)
    if statement.doubt is None or statement.doubt is Doubt.UNCALIBRATED:
        return finding
    reason = doubt_text(statement.doubt, words)
    return words.text("impression.critical_doubt", finding=finding, date=date, reason=reason)


def _rest(request: ReportRequest, ordered: Sequence[Statement], date: str, words: Catalogue) -> str:
    """The unchanged findings, and that nothing else is seen: one line of one or two sentences."""
    unchanged = [phrase(one.finding, words) for one in ordered if one.rank is Rank.UNCHANGED]
    has_seen = any(one.seen is Seen.SEEN for one in ordered)
    has_open = any(one.seen in (Seen.POSSIBLE, Seen.UNDECIDED) or one.possible_change for one in ordered)
    has_moved = any(one.change in MOVED or one.rank in (Rank.UNCERTAIN, Rank.VANISHED) for one in ordered)
    parts = []
    if unchanged:
        key = "impression.otherwise_unchanged" if has_moved else "impression.unchanged"
        parts.append(words.text(key, date=date, findings=words.join(unchanged)))
    elif is_compared(request) and not has_seen and not has_moved and not has_open:
        parts.append(words.text("impression.no_change", date=date))
    possible = "_possible" if any(one.seen is Seen.POSSIBLE for one in ordered) else ""
    key = "no_other" if has_seen or any(one.rank is Rank.GONE for one in ordered) else "none"
    if count := sum(not one.is_omitted for one in ordered):
        parts.append(words.text(f"impression.{key}{possible}", count=count))
    return " ".join(parts)


def _comparison_notes(request: ReportRequest, words: Catalogue) -> list[str]:
    """Why nothing is said about change, and why a newer image was not compared with."""
    lines = []
    if request.prior is None:
        reason = full_sentence(said_of(request, request.reason, words)) if request.reason.strip() else ""
        lines.append(reason or words.text("impression.no_prior"))
    elif not is_compared(request):
        lines.append(words.text("impression.uncalibrated_change"))
    if request.newer_prior.strip():
        lines.append(full_sentence(said_of(request, request.newer_prior, words)))
    return lines
