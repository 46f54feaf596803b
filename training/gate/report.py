"""A decision of the gate for people: a model card in Markdown, and a page with plots that stands alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from training.evaluation.plots import reliability_plot
from training.evaluation.report import figure
from training.gate.decision import Decision, GateCheck
from training.metrics.classification import ReliabilityBin

_WIDTH, _ROW, _LABEL = 620, 22, 300
_CURVE_WIDTH, _CURVE_HEIGHT = 460, 160


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRun:
    """The context of the decision. All of it is plain text or numbers.

    champion, challenger: names for people. counts: of the snapshot (dicom_node.retrain). losses: (step, loss) of the
    training. reliability: "champion presence" and so on → bins. facts: (what, words) for the card's head.
    """

    run: str
    produced_at: str
    champion: str
    challenger: str
    base: str
    licence: str
    demonstration: bool
    snapshot: str
    counts: Mapping[str, Any]
    facts: tuple[tuple[str, str], ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    reliability: Mapping[str, Sequence[ReliabilityBin]] | None = None


def page(decision: Decision, about: GateRun) -> str:
    """The whole page; styles and plots are inside it."""
    return (
        _environment().get_template("decision.html").render(decision=decision, about=about, body=body(decision, about))
    )


def body(decision: Decision, about: GateRun) -> Markup:
    """The page without its head, for a site that has one of its own; no styles and no scripts in it."""
    plots = [(name, reliability_plot(bins)) for name, bins in (about.reliability or {}).items() if bins]
    text = (
        _environment()
        .get_template("decision_body.html")
        .render(
            decision=decision,
            about=about,
            differences=difference_plot([check for check in decision.checks if check.low is not None]),
            losses=loss_plot(about.losses) if len(about.losses) > 1 else None,
            reliability=plots,
        )
    )
    return Markup(text)  # rendered with autoescape


def card(decision: Decision, about: GateRun) -> str:
    """The model card, Markdown."""
    environment = Environment(loader=PackageLoader("training", "templates"), autoescape=False, trim_blocks=True)
    environment.filters["figure"] = figure
    environment.filters["cell"] = _cell
    return environment.get_template("model_card.md").render(decision=decision, about=about)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("training", "templates"), autoescape=select_autoescape(), trim_blocks=True
    )
    environment.filters["figure"] = figure
    return environment


def _cell(value: object) -> str:
    """Text that cannot end a cell of a Markdown table or begin anything else."""
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def difference_plot(checks: Sequence[GateCheck]) -> Markup:
    """Challenger − champion with 95 % intervals, one row each; the red line is what is allowed."""
    spread = [abs(v) for c in checks for v in (c.low, c.high) if v is not None and math.isfinite(v)]
    reach = max([0.1, *spread])

    def x(value: float) -> float:
        return _LABEL + (value / reach + 1) / 2 * (_WIDTH - _LABEL - 10)

    parts = [f'<line x1="{x(0):.1f}" y1="0" x2="{x(0):.1f}" y2="{_ROW * len(checks)}" stroke="#8c959f"/>']
    for number, check in enumerate(checks):
        middle = _ROW * number + _ROW / 2
        colour = {True: "#1a7f37", False: "#cf222e", None: "#8c959f"}[check.passed]
        parts.append(
            f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end" font-size="12">{Markup.escape(check.name)}'
            "</text>"
        )
        if check.low is not None and check.high is not None:
            parts.append(
                f'<line x1="{x(check.low):.1f}" y1="{middle:.1f}" x2="{x(check.high):.1f}" y2="{middle:.1f}" '
                f'stroke="{colour}" stroke-width="2"/>'
            )
        if check.champion is not None and check.challenger is not None:
            at = x(check.challenger - check.champion)
            parts.append(f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="4" fill="{colour}"/>')
        if check.champion is not None and check.limit is not None:
            allowed = x(check.limit - check.champion)
            parts.append(
                f'<line x1="{allowed:.1f}" y1="{middle - 8:.1f}" x2="{allowed:.1f}" y2="{middle + 8:.1f}" '
                'stroke="#cf222e"/>'
            )
    height = max(1, _ROW * len(checks))
    return Markup(  # formatted numbers and escaped names
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">{"".join(parts)}</svg>'
    )


def loss_plot(losses: Sequence[tuple[int, float]]) -> Markup:
    """The loss over the steps, from nought."""
    highest = max(loss for _, loss in losses) or 1.0
    last = max(step for step, _ in losses) or 1
    points = " ".join(
        f"{step / last * _CURVE_WIDTH:.1f},{(1 - loss / highest) * _CURVE_HEIGHT:.1f}" for step, loss in losses
    )
    return Markup(  # formatted numbers alone
        f'<svg viewBox="0 0 {_CURVE_WIDTH} {_CURVE_HEIGHT}" width="{_CURVE_WIDTH}" height="{_CURVE_HEIGHT}" '
        f'role="img"><polyline points="{points}" fill="none" stroke="#0969da" stroke-width="1.5"/></svg>'
    )
