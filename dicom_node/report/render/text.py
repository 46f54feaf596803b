"""The printed report: what a terminal shows, opening with what changed."""

from __future__ import annotations

import textwrap

from dicom_node.report.render.shown import ShownReport, shown_report
from dicom_node.report.request import ReportRequest

WIDTH = 80


def as_text(request: ReportRequest) -> str:
    """The whole report as lines of at most `WIDTH` characters, without markup, ending in a newline."""
    return text_of_shown(shown_report(request))


def text_of_shown(shown: ShownReport) -> str:
    """The same of a kept report."""
    facts = {fact.key: fact for fact in shown.facts}
    lines = [shown.title, "=" * len(shown.title)]
    lines += [f"{facts[key].name}: {facts[key].value}" for key in ("current", "prior") if key in facts]
    who = "  ".join(facts[key].value for key in ("patient", "id") if key in facts)
    if who:
        lines.append(who)
    for section in shown.sections:
        lines += ["", section.heading.upper()]
        for sentence in section.sentences:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    return "\n".join(lines) + "\n"
