"""The impression: what a radiologist reads first, at most about five sentences in the order of `report.rules` rule 3.

1. doubts about the patient's identity, or why there is no result
2. that the model is a demonstration or not calibrated; which of several images of the study this is
3. what is critical, or possible and then critical; new; larger or worse; seen (without a prior); smaller or better; no
   longer seen; not comparable
4. what is otherwise unchanged; that nothing else is seen, or what is not excluded, possible, not seen and not judged
5. why there is no comparison, or why a newer image was not compared with
"""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import CRITICAL, MOVED, Doubt, Rank, Seen, Statement, in_order, possible_from
from dicom_node.report.statements import has_answer, is_compared, statements
from dicom_node.report.wording.catalogue import Catalogue, catalogue, sentence
from dicom_node.report.wording.dates import film_date, is_born_later, prior_date, said_of
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
"""Each is one sentence at the most, `Rank.UNCERTAIN` two."""
MAX_NAMED, MAX_UNJUDGED_NAMED = 6, 3
"""At most so many findings are named of what is not seen, and of what was not judged."""


def impression_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """The sentences that the report opens with."""
    cautions = [full_sentence(said_of(request, caution, words)) for caution in request.cautions]
    cautions += [words.text("limitations.born_later")] if is_born_later(request.current) else []
    if not has_answer(request):
        return (*cautions, *no_result_sentences(request, words), *_marks(request, words), *_number(request, words))
    ordered = in_order(statements(request))
    lines = [*cautions, *_marks(request, words), *_number(request, words)]
    groups = {rank: [statement for statement in ordered if statement.rank is rank] for rank in Rank}
    date = prior_date(request, words)
    for rank in _GROUPS:
        lines += _group_sentences(rank, groups[rank], date, words)
        lines += _possible_critical(ordered, words) if rank is Rank.CRITICAL else []
    return (*lines, *_rest(request, statements(request), date, words), *_comparison_notes(request, words))


def summary_sentence(request: ReportRequest) -> str:
    """The one sentence that stands below a pair without outlines: why there is no result, or what is not seen."""
    words = catalogue(request.language)
    if not has_answer(request):
        return no_result_sentences(request, words)[0]
    stated = statements(request)
    return (*_possible_critical(stated, words), *_rest(request, stated, prior_date(request, words), words))[0]


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


def _possible_critical(stated: Sequence[Statement], words: Catalogue) -> list[str]:
    """The critical findings that are possible, by name: a reader must know of them before looking any further."""
    names = _names_of_critical_and_open(Seen.POSSIBLE, stated, words)
    return [words.text("impression.possible_critical", findings=words.join(names))] if names else []


def _names_of_critical_and_open(seen: Seen, stated: Sequence[Statement], words: Catalogue) -> list[str]:
    return [
        name_of(statement.finding.key, words)
        for statement in stated
        if _is_critical_and_open(statement) and statement.seen is seen
    ]


def _is_critical_and_open(statement: Statement) -> bool:
    return (
        statement.finding.key in CRITICAL
        and statement.seen in (Seen.POSSIBLE, Seen.UNDECIDED)
        and not statement.is_omitted
    )


def _group_sentences(rank: Rank, group: Sequence[Statement], date: str, words: Catalogue) -> list[str]:
    """The sentence on the statements of a rank; two where some lack certainty alone and others have another doubt."""
    if rank is not Rank.UNCERTAIN:
        return [_group_sentence(rank, group, date, words)] if group else []
    unsure = [phrase(statement.finding, words) for statement in group if statement.doubt is Doubt.LOW_CERTAINTY]
    doubted = [statement for statement in group if statement.doubt is not Doubt.LOW_CERTAINTY]
    first = [words.text("impression.change_uncertain", date=date, findings=words.join(unsure))] if unsure else []
    return [*first, *([_group_sentence(rank, doubted, date, words)] if doubted else [])]


def _group_sentence(rank: Rank, group: Sequence[Statement], date: str, words: Catalogue) -> str:
    """One sentence on the statements of a rank."""
    if rank is Rank.CRITICAL:
        items = [_critical(statement, date, words) for statement in group]
        return words.text("impression.critical", findings="; ".join(items))
    if rank in (Rank.UNCERTAIN, Rank.VANISHED):
        items = [_sentence_of_doubt(statement, words) for statement in group]
    else:
        items = [phrase(statement.finding, words) for statement in group]
    key = rank.name.lower()
    if rank in (Rank.WORSE, Rank.BETTER):
        key = f"{key}_{size_form([statement.finding.key for statement in group])}"
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
    if statement.doubt is Doubt.LOW_CERTAINTY:
        return words.text("impression.critical_uncertain", finding=finding, date=date)
    reason = doubt_text(statement.doubt, words)
    return words.text("impression.critical_doubt", finding=finding, date=date, reason=reason)


def _rest(request: ReportRequest, stated: Sequence[Statement], date: str, words: Catalogue) -> list[str]:
    """The sentences on the rest: unchanged, possible, neither seen nor excluded; then what is not seen and not judged.

    That nothing (else) is seen is said only where nothing is open: a reader takes it for the whole answer.
    """
    has_moved = any(
        statement.change in MOVED or statement.rank in (Rank.UNCERTAIN, Rank.VANISHED) for statement in stated
    )
    has_named = has_moved or any(
        statement.seen is Seen.SEEN or _is_critical_and_open(statement) for statement in stated
    )
    unchanged = [phrase(statement.finding, words) for statement in in_order(stated) if statement.rank is Rank.UNCHANGED]
    first = []
    if unchanged:
        key = "impression.otherwise_unchanged" if has_moved else "impression.unchanged"
        first.append(words.text(key, date=date, findings=words.join(unchanged)))
    if not any(statement.seen in (Seen.POSSIBLE, Seen.UNDECIDED) for statement in stated):
        if is_compared(request) and not has_named:
            is_open = any(statement.possible_change for statement in stated)
            first.append(
                words.text("impression.no_statement_on_change" if is_open else "impression.no_change", date=date)
            )
        first.append(words.text("impression.no_other" if has_named else "impression.none", count=len(stated)))
        return [" ".join(first)]
    first += _open_sentence(stated, words, has_named=has_named)
    states_change = has_moved or bool(unchanged)
    if is_compared(request) and not states_change and any(_is_open(statement) for statement in stated):
        first.append(words.text("impression.no_statement_on_change", date=date))
    as_before = is_compared(request) and not states_change and not first and _was_as_empty(stated, request)
    second = [*_not_seen(stated, words, date if as_before else ""), *_not_judged(stated, words)]
    return [" ".join(sentences) for sentences in (first, second) if sentences]


def _is_open(statement: Statement) -> bool:
    """Tell whether the finding was judged, and it or its change is neither stated nor denied."""
    return not statement.is_omitted and (
        statement.seen in (Seen.POSSIBLE, Seen.UNDECIDED) or statement.possible_change is not None
    )


def _open_sentence(stated: Sequence[Statement], words: Catalogue, *, has_named: bool) -> list[str]:
    """The number of findings that are possible, or neither seen nor excluded; without names, which would be headlines.

    A critical one that is not excluded is named here and not at the top: a checkpoint that can never exclude it would
    open every report with it, and readers would learn to skip the line that says a critical finding is possible.
    """
    names = _names_of_critical_and_open(Seen.UNDECIDED, stated, words)
    not_excluded = [words.text("finding_line.undecided", findings=words.join(names))] if names else []
    open_ = [
        statement
        for statement in stated
        if statement.seen in (Seen.POSSIBLE, Seen.UNDECIDED) and not statement.is_omitted
    ]
    seen = [statement.seen for statement in open_ if not _is_critical_and_open(statement)]
    if not seen:
        return not_excluded
    if names and set(seen) == {Seen.UNDECIDED}:
        others = words.text(f"impression.and_other{'_one' if len(seen) == 1 else ''}", count=len(seen))
        return [words.text("finding_line.undecided", findings=words.join([*names, others]))]
    how = "both" if len(set(seen)) == 2 else "possible" if seen[0] is Seen.POSSIBLE else "undecided"
    key = f"impression.open{'_other' if has_named else ''}{'_one' if len(seen) == 1 else ''}"
    return [*not_excluded, words.text(key, count=len(seen), how=words.text(f"impression.open_how_{how}"))]


def _was_as_empty(stated: Sequence[Statement], request: ReportRequest) -> bool:
    """Tell whether nothing of what is not seen now was believed on the prior either, nor reported on it."""
    floor = request.prediction.certainty_floor if request.prediction is not None else 0.0
    before = [statement.finding.prior_probability for statement in stated if statement.seen is Seen.NOT_SEEN]
    earlier = request.earlier or {}
    earlier_states = [earlier[statement.finding.key].seen for statement in stated if statement.finding.key in earlier]
    return (
        all(belief is not None and belief < possible_from(floor) for belief in before)
        and Seen.SEEN not in earlier_states
    )


def _not_seen(stated: Sequence[Statement], words: Catalogue, date: str) -> list[str]:
    """The names of what was judged and is not seen; their number where they are many and all others are named.

    date: of a prior on which they were not seen either, "" where that is not to be said.
    """
    names = [
        name_of(statement.finding.key, words)
        for statement in stated
        if statement.seen is Seen.NOT_SEEN and statement.rank is Rank.NONE
    ]
    if not names:
        return []
    if len(names) > MAX_NAMED and not any(statement.is_omitted for statement in stated):
        return [words.text("impression.others_not_seen", count=len(names))]
    if date:
        return [words.text("impression.not_seen_as_before", date=date, findings=words.join(names))]
    return [words.text("finding_line.not_seen", findings=words.join(names))]


def _not_judged(stated: Sequence[Statement], words: Catalogue) -> list[str]:
    """The findings on which nothing may be said of this film: by name where they are few."""
    names = [name_of(statement.finding.key, words) for statement in stated if statement.is_omitted]
    if len(names) > MAX_UNJUDGED_NAMED:
        return [words.text("impression.not_judged", count=len(names))]
    return [words.text("finding_line.not_judged", findings=words.join(names))] if names else []


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
