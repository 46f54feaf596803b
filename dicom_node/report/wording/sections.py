"""What a result says in words: sections of sentences made from the structured result and from nothing else.

Text, page, PDF and the reading report all print these sections, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dicom_node.report.patient import clean_header, whole_number
from dicom_node.report.request import ReportRequest
from dicom_node.report.wording.catalogue import Catalogue, catalogue, sentence
from dicom_node.report.wording.dates import full_date, is_child, prior_date
from dicom_node.report.wording.phrases import change_key, change_word, is_device, name_of, phrase
from dicom_node.report.wording.reasons import in_language
from model.schema import Change, Finding, Presence


class SectionKey(StrEnum):
    """The sections of a reading report, in the order in which it prints them."""

    IMPRESSIONS = "impressions"
    """What changed, worst first."""
    FINDINGS = "findings"
    """Every finding asked for."""
    COMPARISON = "comparison"
    """Which prior, or why none."""
    PROGNOSIS = "prognosis"
    """What is likely on the next film; only where the checkpoint is asked for it."""
    LIMITATIONS = "limitations"
    """What the result cannot say."""
    ORIGIN = "origin"
    """Model, version, disclaimer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading and its sentences."""

    key: SectionKey
    sentences: tuple[str, ...]


CHANGE_ORDER = (
    Change.NEW,
    Change.WORSENING,
    Change.NOT_COMPARABLE,
    Change.STABLE,
    Change.IMPROVING,
    Change.RESOLVED,
)
"""Worst first. A new device is no worsening: it stands behind what is new or worse."""
_MOVED = frozenset({Change.NEW, Change.WORSENING, Change.IMPROVING, Change.RESOLVED})
NEGLIGIBLE = 0.01
"""Below it absent findings are named together: the same figure behind each of a dozen names says nothing."""
_SEVERITY = ("massive", "severe", "moderate to severe", "moderate to large", "moderate", "mild to moderate", "mild")


def sections(request: ReportRequest) -> tuple[Section, ...]:
    """Every section that has something to say."""
    words = catalogue(request.language)
    made = (
        Section(key=SectionKey.IMPRESSIONS, sentences=_impressions(request, words)),
        Section(key=SectionKey.FINDINGS, sentences=_findings(request, words)),
        Section(key=SectionKey.COMPARISON, sentences=_comparison(request, words)),
        Section(key=SectionKey.PROGNOSIS, sentences=_prognosis(request, words)),
        Section(key=SectionKey.LIMITATIONS, sentences=_limitations(request, words)),
        Section(key=SectionKey.ORIGIN, sentences=origin(request, words)),
    )
    return tuple(section for section in made if section.sentences)


def impressions(request: ReportRequest) -> tuple[str, ...]:
    """What the report opens with, in its language: what changed since when, or why nothing is said."""
    return _impressions(request, catalogue(request.language))


def answered(request: ReportRequest) -> bool:
    """Whether there is an answer of the model to report."""
    return request.prediction is not None and request.prediction.abstained is None and bool(request.prediction.findings)


def worst_first(findings: tuple[Finding, ...]) -> list[Finding]:
    """Ordered by change, then abnormalities before devices, then degree, then probability."""

    def rank(finding: Finding) -> tuple[int, int, int, float]:
        device = is_device(finding)
        change = CHANGE_ORDER.index(finding.change) if finding.change is not None else len(CHANGE_ORDER)
        if device and finding.change is Change.NEW:
            change = CHANGE_ORDER.index(Change.WORSENING)
        degree = _SEVERITY.index(finding.level) if finding.level in _SEVERITY else len(_SEVERITY)
        return change, device, degree, -(finding.change_probability or finding.probability)

    return sorted(findings, key=rank)


def change_sentence(finding: Finding, date: str, words: Catalogue) -> str:
    """What became of the finding, as a sentence with the prior's date."""
    if finding.change is None:
        raise ValueError(f"finding {finding.key!r} states no change")
    certainty = ""
    if finding.change_probability is not None:
        certainty = words.text("certainty.note", value=words.percent(finding.change_probability))
    return sentence(
        words.text(
            f"change.{change_key(finding, finding.change)}",
            finding=phrase(finding, words),
            date=date,
            certainty=certainty,
        )
    )


def no_result_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """That there is no answer and why: the coded reason in this language, then its detail, else the free sentence."""
    prediction = request.prediction
    if prediction is None or prediction.abstained is None:
        free = in_language(request.reason.strip(), words).rstrip(".")
        reason, detail = free[:1].lower() + free[1:] or words.text("reason.other"), ""
    else:
        reason, detail = (
            words.text(f"reason.{prediction.abstained.name.lower()}"),
            in_language(prediction.abstained_detail, words),
        )
    first = words.text("no_result.impression", reason=reason)
    return (first, full_sentence(detail)) if detail else (first,)


def full_sentence(text: str) -> str:
    """A free text of the analysis as a sentence: a capital letter first, a full stop last."""
    return f"{sentence(text.strip().rstrip('.'))}."


def _impressions(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    prediction = request.prediction
    if prediction is None or not answered(request):
        return no_result_sentences(request, words)
    ordered = worst_first(prediction.findings)
    lines: list[str] = []
    if request.prior is None:
        present = [f for f in ordered if f.presence is Presence.PRESENT]
        lines += [_present(f, words) for f in present]
        if not present:
            lines.append(_none_present(ordered, words))
        if request.reason.strip():
            lines.append(
                words.text("impression.not_compared", reason=full_sentence(in_language(request.reason, words)))
            )
        else:
            lines.append(words.text("impression.no_prior"))
    else:
        date = prior_date(request, words)
        lines += [change_sentence(f, date, words) for f in ordered if f.change in _MOVED]
        if not lines:
            lines.append(words.text(no_change_key(prediction.findings), date=date))
        lines += [
            change_sentence(f, date, words) for f in ordered if f.change in (Change.STABLE, Change.NOT_COMPARABLE)
        ]
        # A model that was not asked how it changed still says that it is there.
        lines += [_present(f, words) for f in ordered if f.change is None and f.presence is Presence.PRESENT]
        if not any(f.change in _MOVED or f.presence is Presence.PRESENT for f in ordered):
            lines.append(_none_present(ordered, words))
    silent = [name_of(f.key, words) for f in ordered if f.presence is Presence.ABSTAINED]
    if silent:
        lines.append(words.text("impression.no_statement", findings=words.joined(silent)))
    return tuple(lines)


def no_change_key(findings: Iterable[Finding]) -> str:
    """Which message says that nothing changed: with an open question left, only that no change is stated."""
    open_question = any(
        f.presence is Presence.ABSTAINED
        or f.change is Change.NOT_COMPARABLE
        or (f.presence is Presence.PRESENT and f.change is None)
        for f in findings
    )
    return "impression.no_change_stated" if open_question else "impression.no_change"


def _present(finding: Finding, words: Catalogue) -> str:
    probability = words.percent(finding.probability)
    return sentence(words.text("impression.present", finding=phrase(finding, words), probability=probability))


def _none_present(findings: list[Finding], words: Catalogue) -> str:
    if any(f.presence is Presence.ABSTAINED for f in findings):
        return words.text("impression.none_seen")
    return words.text("impression.none_present", count=len(findings))


def _findings(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    prediction = request.prediction
    if prediction is None or not answered(request):
        return (words.text("no_result.findings"),)
    lines: list[str] = []
    absent: list[Finding] = []
    unlikely: list[Finding] = []
    for finding in worst_first(prediction.findings):
        probability = words.percent(finding.probability)
        values = {"finding": sentence(phrase(finding, words)), "probability": probability}
        if finding.presence is Presence.ABSTAINED:
            lines.append(words.text("finding_line.abstained", **values))
        elif finding.presence is Presence.ABSENT and finding.change is Change.RESOLVED:
            lines.append(words.text("finding_line.resolved", **values))
        elif finding.presence is Presence.ABSENT:
            (absent if finding.probability >= NEGLIGIBLE else unlikely).append(finding)
        elif finding.change is None:
            lines.append(words.text("finding_line.present", **values))
        else:
            change = change_word(finding, finding.change, words)
            lines.append(words.text("finding_line.present_change", change=change, **values))
    if absent:
        items = [
            words.text(
                "finding_line.absent_item", finding=name_of(f.key, words), probability=words.percent(f.probability)
            )
            for f in absent
        ]
        lines.append(words.text("finding_line.absent", findings=words.joined(items)))
    if unlikely:
        names = words.joined([name_of(f.key, words) for f in unlikely])
        lines.append(words.text("finding_line.unlikely", findings=names, probability=words.percent(0.0)))
    return tuple(lines)


def _comparison(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    reasons = [full_sentence(in_language(reason, words)) for reason in request.prior_reasons if reason.strip()]
    if request.prior is None or not answered(request):
        if request.reason.strip() and answered(request):
            reasons.insert(0, full_sentence(in_language(request.reason, words)))
        return tuple(dict.fromkeys((words.text("comparison.without"), *reasons)))
    dates = {"current": full_date(request.current, words), "date": full_date(request.prior, words)}
    return (words.text("comparison.with", **dates), *reasons)


def _prognosis(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    prediction = request.prediction
    if prediction is None or not answered(request) or not prediction.prognosis:
        return ()
    lines = [
        words.text(
            "prognosis.item",
            finding=sentence(name_of(item.key, words)),
            change=words.text(f"mark.{item.change.value.replace(' ', '_')}"),
            probability=words.percent(item.probability),
        )
        for item in prediction.prognosis
    ]
    return (*lines, words.text("prognosis.note"))


def _limitations(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    lines = []
    prediction = request.prediction
    if prediction is not None and answered(request):
        lines += [words.text("limitations.scope"), words.text("limitations.probability")]
        lines.append(words.text("limitations.one_view"))
        lines += _about_the_images(request, words)
        methods = sorted({region.method for f in prediction.findings for region in f.regions})
        if methods:
            lines.append(words.text("limitations.regions", method=words.joined(methods)))
    faults = clean_header(request.current.header).faults
    if faults:
        lines.append(words.text("limitations.header", elements=", ".join(faults)))
    return tuple(lines)


def _about_the_images(request: ReportRequest, words: Catalogue) -> list[str]:
    """What of these very images a reader must know before believing the statements on them."""
    lines = []
    if request.frontal_images > 1:
        number = whole_number(request.current.header, "InstanceNumber") or "–"
        date = full_date(request.current, words)
        count = request.frontal_images
        lines.append(words.text("limitations.several", count=count, number=number, date=date))
    now, then = (source.image.view if source and source.image else None for source in (request.current, request.prior))
    if now and then and now != then:
        lines.append(words.text("limitations.other_view", current=now, prior=then))
    if is_child(request.current):
        lines.append(words.text("limitations.child"))
    return lines


def origin(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """Who made this: the last section, and the whole of what every document must say."""
    model = request.model
    lines = [words.text("origin.model", name=model.name, version=model.version, device_uid=model.device_uid)]
    lines.append(words.text("origin.unverified"))
    if model.demonstration:
        lines.append(words.text("origin.demonstration"))
    if model.licence:
        lines.append(words.text("origin.licence", licence=model.licence))
    return tuple(lines)
