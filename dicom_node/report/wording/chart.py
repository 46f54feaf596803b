"""The sentence on what was considered beside the images: "Also considered: CRP 184 mg/L, 2 h before." """

from __future__ import annotations

import datetime as dt

from dicom_node.report.chart_facts import ChartFact, FactKind
from dicom_node.report.request import ReportRequest
from dicom_node.report.wording.catalogue import Catalogue

_PLANNED = " planned"
"""The end of the names of what was ordered and is still to be done (`dicom_node.config.chart.TREATMENT_NAMES`)."""
_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def chart_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """One sentence, or none where the answer rests on the images alone."""
    if not request.chart:
        return ()
    return (words.text("chart.considered", facts="; ".join(_fact(fact, words) for fact in request.chart)),)


def _fact(fact: ChartFact, words: Catalogue) -> str:
    name = words.word(fact.kind.value, fact.name) if fact.kind in (FactKind.LAB, FactKind.TREATMENT) else ""
    if fact.kind is FactKind.TREATMENT and fact.name.endswith(_PLANNED) and fact.before is not None:
        return words.text("chart.plan", name=name, before=_before(fact.before, words))
    if fact.before is None:
        return words.text(f"chart.{fact.kind.value}", name=name, text=fact.text)
    return words.text(f"chart.{fact.kind.value}", name=name, text=fact.text, before=_before(fact.before, words))


def _before(interval: dt.timedelta, words: Catalogue) -> str:
    if interval < _HOUR:
        return words.text("chart.minutes", value=int(interval.total_seconds() // 60))
    if interval < 2 * _DAY:
        return words.text("chart.hours", value=round(interval / _HOUR))
    return words.text("chart.days", value=interval.days)
