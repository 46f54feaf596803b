"""A result in words: sections of sentences made from the structured result and from nothing else.

Text, page, PDF and the reading report all print these sections, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dicom_node.report.dropped_regions import RegionFault
from dicom_node.report.exposure import taken
from dicom_node.report.patient import clean_header
from dicom_node.report.request import ReportRequest
from dicom_node.report.statements import drawn_statements, has_answer, has_other_projection, is_compared
from dicom_node.report.wording.catalogue import Catalogue, catalogue, sentence
from dicom_node.report.wording.chart import chart_sentences
from dicom_node.report.wording.course import course_sentences
from dicom_node.report.wording.dates import film_date, is_born_later, is_child, is_in_future, prior_date, said_of
from dicom_node.report.wording.findings import finding_sentences
from dicom_node.report.wording.impression import full_sentence, impression_sentences
from dicom_node.report.wording.phrases import name_of
from dicom_node.report.wording.reasons import header_statements, names_attributes


class SectionKey(StrEnum):
    """The sections of a reading report, in the order in which it prints them."""

    IMPRESSIONS = "impressions"
    """The main points, most important first."""
    FINDINGS = "findings"
    """Every finding asked for."""
    COURSE = "course"
    """When a finding was first seen, most marked and gone, over the patient's films."""
    COMPARISON = "comparison"
    """The prior, or the reason why there is none."""
    PROGNOSIS = "prognosis"
    """The likely findings on the next film; only where the checkpoint is asked for it."""
    LIMITATIONS = "limitations"
    """The limits of the result."""
    ORIGIN = "origin"
    """Model, version, disclaimer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSection:
    """One heading and its sentences."""

    key: SectionKey
    sentences: tuple[str, ...]


def sections(request: ReportRequest) -> tuple[ReportSection, ...]:
    """Every section that has something to say."""
    words = catalogue(request.language)
    everything = (
        ReportSection(key=SectionKey.IMPRESSIONS, sentences=impression_sentences(request, words)),
        ReportSection(key=SectionKey.FINDINGS, sentences=_findings(request, words)),
        ReportSection(key=SectionKey.COURSE, sentences=course_sentences(request, words)),
        ReportSection(key=SectionKey.COMPARISON, sentences=_comparison(request, words)),
        ReportSection(key=SectionKey.PROGNOSIS, sentences=_prognosis(request, words)),
        ReportSection(key=SectionKey.LIMITATIONS, sentences=_limitations(request, words)),
        ReportSection(key=SectionKey.ORIGIN, sentences=origin(request, words)),
    )
    return tuple(section for section in everything if section.sentences)


def impressions(request: ReportRequest) -> tuple[str, ...]:
    """The sentences that the report opens with, in its language."""
    return impression_sentences(request, catalogue(request.language))


def origin(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """Who made this: the last section, and the whole of what every document must say."""
    model = request.model
    lines = [words.text("origin.model", name=model.name, version=model.version, device_uid=model.device_uid)]
    lines.append(words.text("origin.unverified"))
    if model.demonstration:
        lines.append(words.text("origin.demonstration"))
    if request.prediction is not None and not request.prediction.is_calibrated:
        lines.append(words.text("origin.uncalibrated"))
    if model.licence:
        lines.append(words.text("origin.licence", licence=model.licence))
    return tuple(lines)


def _findings(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    if not has_answer(request):
        return (words.text("no_result.findings"),)
    return finding_sentences(request, words)


def _comparison(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    return (*_pair_sentences(request, words), *chart_sentences(request, words))


def _pair_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    reasons = [full_sentence(said_of(request, reason, words)) for reason in request.prior_reasons if reason.strip()]
    if request.prior is None or not has_answer(request):
        if request.reason.strip() and has_answer(request):
            reasons.insert(0, full_sentence(said_of(request, request.reason, words)))
        says_so = any(reason.startswith("No comparison:") for reason in (request.reason, *request.prior_reasons))
        opening = () if says_so and has_answer(request) else (words.text("comparison.without"),)
        return tuple(dict.fromkeys((*opening, *reasons)))
    if not is_compared(request):
        return (words.text("comparison.without"), words.text("impression.uncalibrated_change"), *reasons)
    dates = {"current": film_date(request, request.current, words), "date": prior_date(request, words)}
    return (words.text("comparison.with", **dates), *also_seen(request, words), *reasons)


def also_seen(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """The images beside the pair that the answer rests on; nothing where it was the pair alone."""
    dates = [film_date(request, image, words) for image in request.earlier_images]
    if not dates or not has_answer(request):
        return ()
    key = "comparison.also_one" if len(dates) == 1 else "comparison.also"
    return (words.text(key, dates=words.join(dates)),)


def _prognosis(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    prediction = request.prediction
    if prediction is None or not has_answer(request) or not prediction.prognosis:
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
    if request.prediction is not None and has_answer(request):
        lines.append(words.text("limitations.scope"))
        if request.prediction.is_calibrated:
            lines.append(words.text("limitations.probability"))
        lines.append(words.text("limitations.one_view"))
        lines += _about_the_images(request, words)
        if any(statement.finding.regions for statement in drawn_statements(request)):
            lines.append(words.text("limitations.regions"))
        lines += _dropped_regions(request, words)
    else:
        lines += _about_the_refusal(request, words)
    lines += _about_the_dates(request, words)
    if stated := header_statements("; ".join(request.header_contradictions)):
        lines.append(words.text("limitations.contradicts", elements="; ".join(stated)))
    faults = clean_header(request.current.header).faults
    if faults:
        lines.append(words.text("limitations.header", elements=", ".join(faults)))
    return tuple(lines)


def _about_the_dates(request: ReportRequest, words: Catalogue) -> list[str]:
    """Dates of the current image that cannot be right, or are missing."""
    lines = []
    if taken(request.current) is None:
        lines.append(words.text("limitations.undated"))
    if is_in_future(request.current, request.produced_at):
        lines.append(words.text("limitations.future", date=film_date(request, request.current, words)))
    if is_born_later(request.current):
        lines.append(words.text("limitations.born_later"))
    return lines


def _about_the_refusal(request: ReportRequest, words: Catalogue) -> list[str]:
    """The elements of the header that the refusal rests on, by name: the impression has it in words."""
    detail = (request.prediction.abstained_detail if request.prediction is not None else "") or request.reason
    if stated := header_statements(detail):
        return [words.text("limitations.header_states", elements="; ".join(stated))]
    return [full_sentence(detail)] if names_attributes(detail) else []


def _dropped_regions(request: ReportRequest, words: Catalogue) -> list[str]:
    """The regions that are not drawn, with the reasons (`report.region_rules`)."""
    drawn = {statement.finding.key for statement in drawn_statements(request)}
    names: dict[RegionFault, list[str]] = {}
    for dropped in request.dropped_regions:
        if dropped.finding in drawn:
            names.setdefault(dropped.fault, []).append(name_of(dropped.finding, words))
    return [
        words.text(f"limitations.region_{fault.name.lower()}", findings=words.join(list(dict.fromkeys(names[fault]))))
        for fault in RegionFault
        if fault in names
    ]


def _about_the_images(request: ReportRequest, words: Catalogue) -> list[str]:
    """Facts about these very images that a reader must know before believing the statements on them."""
    lines = []
    if request.frontal_images > 1:
        lines.append(words.text("limitations.several", count=request.frontal_images))
    if has_other_projection(request):
        now, then = (
            source.image.view if source and source.image else "" for source in (request.current, request.prior)
        )
        lines.append(words.text("limitations.other_view", current=now, prior=then))
    if is_child(request.current):
        lines.append(words.text("limitations.child"))
    return lines
