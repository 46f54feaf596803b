"""The reading of a report's text, as lines for a terminal and as a page: which rule read which characters."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.labeller.report import ReportFinding, combine
from model.labeller.rules import Reading, Stated, read_text, version
from model.labeller.targets import Target
from model.labeller.text.parts import Mark
from model.labeller.text.plain_text import plain_text

_COLOURS = {"yes": "#f6c6c1", "no": "#c9e7cc", "uncertain": "#f7e3ae", "not stated": "#dcdfe4"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2128}
pre{white-space:pre-wrap;font:inherit;background:#f6f7f9;padding:1rem;border-radius:6px;line-height:2}
mark{border-radius:3px;padding:1px 2px;border-bottom:2px solid #6b7280}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e6ea;vertical-align:top}
h3{margin:1.2rem 0 .2rem;font-size:1rem}small{color:#5b6470}
""".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Characters of the text, the rule that read them, and the findings that it read them for."""

    start: int
    end: int
    text: str
    rule: str
    findings: tuple[str, ...] = ()
    outcome: str = ""
    """"yes", "no", "uncertain" or "not stated": of a finding's own phrase."""


def phrases(reading: Reading) -> list[Phrase]:
    """Return the phrases of a sentence that a rule read, in the order of the text."""
    by_span: dict[tuple[int, int], Phrase] = {}
    for mark in reading.statement.marks:
        rule = mark.role or ", ".join(str(part) for part in mark.parts)
        if rule and mark.start != mark.end and mark.role != "repeated":
            by_span[mark.start, mark.end] = _phrase(reading, mark, rule)
    for target in reading.targets:
        for rule, mark in target.notes:
            known = by_span.get((mark.start, mark.end))
            names = tuple(dict.fromkeys((*(known.findings if known else ()), *target.named.keys)))
            if known is not None and known.findings and rule not in known.rule.split("; "):
                rule = f"{known.rule}; {rule}"  # one "no" may deny one finding and leave another open
            outcome = _outcome(target) if rule.startswith(("finding", "part", "predicate")) else ""
            outcome = outcome or (known.outcome if known else "")
            by_span[mark.start, mark.end] = _phrase(reading, mark, rule, names, outcome)
    return [by_span[span] for span in sorted(by_span)]


def _phrase(reading: Reading, mark: Mark, rule: str, findings: tuple[str, ...] = (), outcome: str = "") -> Phrase:
    start = reading.sentence.start
    written = " ".join(reading.sentence.raw[mark.start : mark.end].split())
    return Phrase(
        start=start + mark.start,
        end=start + mark.end,
        text=written,
        rule=rule,
        findings=findings,
        outcome=outcome,
    )


def _outcome(target: Target) -> str:
    if not target.named.keys:
        return "not stated"
    return "not stated" if target.left_out or not target.presence else target.presence


def reading_lines(text: str) -> Iterator[str]:
    """Yield the lines that show how a report is read: each sentence with its phrases, then the report as a whole."""
    readings = read_text(text)
    yield f"{version()}: {len(readings)} sentences read; characters count in the text without markup"
    for reading in readings:
        section = f"{reading.sentence.section}: " if reading.sentence.section else ""
        yield ""
        yield f"{section}{reading.sentence.text}"
        for phrase in phrases(reading):
            names = f"  ({', '.join(phrase.findings)})" if phrase.findings else ""
            yield f"  {phrase.start:>5}-{phrase.end:<5} {phrase.text:<28} {phrase.rule}{names}"
        yield from (f"  = {_describe_finding(label.finding, label)}" for label in reading.labels)
        for target in reading.not_stated:
            yield f"  - {', '.join(target.named.keys)}: not stated, {target.left_out}"
    yield ""
    yield "The report as a whole:"
    yield from (f"  {line}" for line in _settle_statements(readings))


def _settle_statements(readings: Sequence[Reading]) -> Iterator[str]:
    settled = combine(label for reading in readings for label in reading.labels)
    for key, finding in settled.items():
        if finding.contradiction:
            yield f"{key}: contradicts itself, not used: {finding.contradiction}"
            continue
        replaced = "; ".join(f'"{label.sentence}"' for label in finding.overruled)
        yield _describe_finding(key, finding) + (f"; an addendum replaces {replaced}" if replaced else "")
    left = sum(len(reading.not_stated) for reading in readings)
    named = sum(len(reading.labels) for reading in readings)
    yield f"{named} statements read, {left} findings named without a statement on this image"


def _describe_finding(key: str, found: ReportFinding | object) -> str:
    """Return a finding's statement in words."""
    words = [str(getattr(found, name)) for name in ("side", "level", "change", "certainty") if getattr(found, name)]
    presence = getattr(found, "presence", None)
    return f"{key}: {presence or Stated.UNCERTAIN}" + (f", {', '.join(words)}" if words else "")


def reading_page(text: str) -> str:
    """Return an HTML page of its own that shows the text with its phrases marked, and a table for each sentence."""
    plain = plain_text(text)
    readings = read_text(text)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>A report, read</title>",
        f"<style>{_STYLE}</style>",
    ]
    parts.append(
        f"<h1>A report, read</h1><p><small>{html.escape(version())}. Colours: {_legend()}. Rest on a phrase for "
    )
    parts.append(
        f"its rule; text without a mark is read by no rule.</small></p><pre>{_mark_text(plain, readings)}</pre>"
    )
    parts.append("<h2>The report as a whole</h2><ul>")
    parts += [f"<li>{html.escape(line)}" for line in _settle_statements(readings)]
    parts.append("</ul><h2>Sentence by sentence</h2>")
    for reading in readings:
        parts.append(f"<h3>{html.escape(reading.sentence.text)}</h3><table><tr><th>characters<th>phrase<th>rule<th>of")
        parts += [_row(phrase) for phrase in phrases(reading)]
        parts.append("</table>")
        outcomes = [_describe_finding(label.finding, label) for label in reading.labels]
        outcomes += [f"{', '.join(target.named.keys)}: not stated, {target.left_out}" for target in reading.not_stated]
        parts.append(f"<p>{'<br>'.join(map(html.escape, outcomes)) or '<small>states no finding</small>'}</p>")
    return "\n".join(parts) + "\n"


def _legend() -> str:
    return " ".join(f'<mark style="background:{colour}">{name}</mark>' for name, colour in _COLOURS.items())


def _row(phrase: Phrase) -> str:
    cells = (f"{phrase.start}-{phrase.end}", phrase.text, phrase.rule, ", ".join(phrase.findings))
    return "<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in cells)


def _mark_text(plain: str, readings: Sequence[Reading]) -> str:
    out: list[str] = []
    written = 0
    for phrase in (phrase for reading in readings for phrase in phrases(reading)):
        if phrase.start < written:
            continue
        title = html.escape(": ".join(filter(None, (phrase.rule, ", ".join(phrase.findings)))), quote=True)
        colour = _COLOURS.get(phrase.outcome, "transparent")
        words = html.escape(plain[phrase.start : phrase.end])
        out.append(html.escape(plain[written : phrase.start]))
        out.append(f'<mark style="background:{colour}" title="{title}">{words}</mark>')
        written = phrase.end
    return "".join(out) + html.escape(plain[written:])
