"""The weekly look: each closed week's figures against the baseline, as rows; an alarm is a notice as well.

Baseline of the input: the first `baseline_weeks` weeks of the site with at least `min_pairs` pairs. Baseline of the
output: the same of each checkpoint, because another checkpoint answers otherwise; or, where the configuration says so
and its manifest has one, what it said of its validation set.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.config import DriftSection
from dicom_node.context import NodeContext
from dicom_node.drift.baselines import (
    FIRST_WEEKS,
    VALIDATION,
    Baseline,
    of_samples,
    of_validation,
    validation_sets,
)
from dicom_node.drift.limits import DriftVerdict, judge_distribution, judge_share, share_of
from dicom_node.drift.prognosis import CAME_TRUE, STATED, judge_prognoses, load_judged_prognoses
from dicom_node.drift.samples import (
    WEEK,
    DriftSample,
    Share,
    input_figures,
    load_samples,
    output_distributions,
    output_shares,
    start_of,
    week_of,
)
from dicom_node.feedback import agreement
from dicom_node.index.tables.core import Result
from dicom_node.index.tables.models import DriftFigure
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice
from model.checkpoints.validation_counts import ValidationSet

log = get_logger(__name__)

LOOK_BACK_WEEKS = 8
"""Closed weeks that are judged if nobody has done so: a node that was off for a month catches up."""
INPUT = ""
"""In place of a Device UID: figures of the images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekVerdicts:
    """One week of one checkpoint, or of the input. sources: figure → what it was held against."""

    week: dt.date
    device_uid: str
    figures: Mapping[str, DriftVerdict]
    sources: Mapping[str, str]


class WeeklyDriftTick:
    """Tick: once a week, and once after each start, judge what nobody has judged yet. Reads every result since then."""

    def __init__(self) -> None:
        self._looked_in: dt.date | None = None

    def __call__(self, node: NodeContext) -> None:
        """Judge where a week has closed since the last look."""
        week = week_of(node.clock())
        if week != self._looked_in:
            run(node)
            self._looked_in = week


def run(node: NodeContext) -> None:
    """Judge the closed weeks that nobody has judged yet."""
    settings, now = node.settings.drift, node.clock()
    with node.database.read() as session:
        known = validation_sets(session, node.settings, node.models_dir) if settings.baseline == VALIDATION else {}
        judged = list(verdicts(session, settings, now, known))
        foretold = list(prognosis_verdicts(session, settings, now))
    for verdict in judged:
        with node.database.write() as session:
            keep(session, verdict, now)
    for verdict in foretold:
        with node.database.write() as session:
            keep(session, verdict, now, what="prognosis")


def prognosis_verdicts(session: Session, settings: DriftSection, now: dt.datetime) -> Iterator[WeekVerdicts]:
    """The verdicts on prognoses that the studies of the closed weeks judge, where there are no rows of them yet."""
    this_week = week_of(now)
    known = {
        (row.week, row.device_uid)
        for row in session.execute(
            select(DriftFigure.week, DriftFigure.device_uid).where(DriftFigure.figure.startswith(CAME_TRUE)).distinct()
        )
    }
    # The oldest week first; a node that was down over a week's end makes up for it here.
    for back in range(LOOK_BACK_WEEKS, 0, -1):
        week = this_week - back * WEEK
        judged = load_judged_prognoses(session, since=start_of(week), until=start_of(week + WEEK))
        for device_uid, prognoses in sorted(judged.items()):
            if (week, device_uid) in known:
                continue
            figures = judge_prognoses(prognoses, min_items=settings.min_pairs, false_alarms=settings.false_alarms)
            if figures:
                sources = dict.fromkeys(figures, STATED)
                yield WeekVerdicts(week=week, device_uid=device_uid, figures=figures, sources=sources)


def verdicts(
    session: Session, settings: DriftSection, now: dt.datetime, validation: Mapping[str, ValidationSet] | None = None
) -> Iterator[WeekVerdicts]:
    """Verdicts on closed weeks that have no rows yet. A week or checkpoint without enough pairs has none.

    validation: Device UID → what the checkpoint said of its validation set, for those to be held against it.
    """
    first = session.scalar(select(func.min(Result.created_at)))
    this_week = week_of(now)
    if first is None or week_of(first) >= this_week:
        return
    known = _weeks_with_verdicts(session)
    samples = load_samples(session, since=start_of(week_of(first)), until=start_of(this_week))
    weeks = by_week(samples)
    recent = [week for week in weeks if week >= this_week - LOOK_BACK_WEEKS * WEEK]
    devices = sorted({sample.device_uid for week in recent for sample in weeks[week] if sample.device_uid})
    for device in (INPUT, *devices):
        own = {w: [s for s in rows if device == INPUT or s.device_uid == device] for w, rows in weeks.items()}
        base_weeks = baseline_weeks(own, settings)
        brought = (validation or {}).get(device)
        for week in recent:
            if (week, device) in known or len(own[week]) < settings.min_pairs:
                continue
            # Only a week behind a complete baseline: one of the baseline's own weeks would be compared with itself.
            over = len(base_weeks) == settings.baseline_weeks and week > base_weeks[-1]
            before = [sample for base in base_weeks for sample in own[base]] if over else []
            if not before and brought is None:
                continue
            baseline = of_samples(before, output=device != INPUT)
            if brought is not None:
                baseline = baseline.replace_by(of_validation(brought))
            words = _agreement(session, device, base_weeks, week) if before and device != INPUT else {}
            figures = judge(own[week], baseline, settings, output=device != INPUT, words=words)
            if figures:
                sources = {name: baseline.source(name) for name in figures}
                yield WeekVerdicts(week=week, device_uid=device, figures=figures, sources=sources)


def _weeks_with_verdicts(session: Session) -> set[tuple[dt.date, str]]:
    """Weeks and checkpoints that have verdicts."""
    query = select(DriftFigure.week, DriftFigure.device_uid).where(~DriftFigure.figure.startswith(CAME_TRUE)).distinct()
    return {(row.week, row.device_uid) for row in session.execute(query)}


def by_week(samples: Iterable[DriftSample]) -> dict[dt.date, list[DriftSample]]:
    """Samples by the Monday of their week, in order."""
    weeks: dict[dt.date, list[DriftSample]] = {}
    for sample in samples:
        weeks.setdefault(week_of(sample.at), []).append(sample)
    return dict(sorted(weeks.items()))


def baseline_weeks(weeks: Mapping[dt.date, Sequence[DriftSample]], settings: DriftSection) -> list[dt.date]:
    """The first weeks with enough pairs; fewer than wanted where there are not so many yet."""
    return [week for week, rows in weeks.items() if len(rows) >= settings.min_pairs][: settings.baseline_weeks]


def judge(
    now: Sequence[DriftSample],
    before: Baseline,
    settings: DriftSection,
    *,
    output: bool,
    words: Mapping[str, tuple[Share, Share]] | None = None,
) -> dict[str, DriftVerdict]:
    """Every figure of one week against the baseline; together they alarm by chance at most as often as set. Pure.

    words: agreement with radiologists by figure, this week's and the baseline's.
    """
    shares = _shares(now, before, words or {}, settings.min_pairs) if output else {}
    ours = output_distributions(now) if output else input_figures(now)
    bases = {
        name: base for name, base in before.distributions.items() if min(len(ours[name]), base.n) >= settings.min_pairs
    }
    # Bonferroni over everything that is judged this week: many figures, one promised rate of false alarms.
    alpha = share_of(settings.false_alarms, len(shares) + len(bases))
    by_figure = {
        name: judge_share(this.count, this.n, before=base.count, m=base.n, alpha=alpha)
        for name, (this, base) in shares.items()
    }
    for name, base in bases.items():
        verdict = judge_distribution(base.count(ours[name]), base.counts, alpha=alpha)
        if verdict is not None:
            by_figure[name] = verdict
    return by_figure


def _shares(
    now: Sequence[DriftSample], before: Baseline, words: Mapping[str, tuple[Share, Share]], least: int
) -> dict[str, tuple[Share, Share]]:
    ours = output_shares(now)
    pairs = {name: (ours[name], baseline) for name, baseline in before.shares.items() if name in ours} | dict(words)
    return {name: both for name, both in pairs.items() if min(both[0].n, both[1].n) >= least}


def _agreement(
    session: Session, device: str, base_weeks: Sequence[dt.date], week: dt.date
) -> dict[str, tuple[Share, Share]]:
    """Agreement of radiologists with the checkpoint, by finding: words of this week, words of the baseline's."""
    this = agreement.load_figures(session, since=start_of(week), until=start_of(week + WEEK), device_uid=device)
    start, end = start_of(base_weeks[0]), start_of(base_weeks[-1] + WEEK)
    base = agreement.load_figures(session, since=start, until=end, device_uid=device)
    return {
        f"agreement on {key}": (
            Share(count=this[key].agree, n=this[key].judged),
            Share(count=base[key].agree, n=base[key].judged),
        )
        for key in this
        if key in base and this[key].judged and base[key].judged
    }


def keep(session: Session, one: WeekVerdicts, now: dt.datetime, *, what: str = "drift") -> None:
    """Rows of one week, and one notice that names all of its alarms. what: "drift" or "prognosis"."""
    for name, verdict in one.figures.items():
        session.add(
            DriftFigure(
                week=one.week,
                device_uid=one.device_uid,
                figure=name,
                n=verdict.n,
                value=verdict.value,
                low=verdict.low,
                high=verdict.high,
                baseline=verdict.baseline,
                alarm=verdict.alarm,
                detail=one.sources[name],
                created_at=now,
            )
        )
    alarms = [
        f"{name} {verdict.value:.3f} outside {verdict.low:.3f} to {verdict.high:.3f} ({one.sources[name]})"
        for name, verdict in one.figures.items()
        if verdict.alarm
    ]
    where = f"answers of {one.device_uid}" if one.device_uid else "images"
    log.info("week judged", week=str(one.week), what=where, figures=len(one.figures), alarms=len(alarms))
    if alarms:
        text = f"{what} in the week of {one.week}, {where}: {'; '.join(alarms)}"
        # One notice with all alarms of the week: a person told ten times at once reads none of them.
        raise_notice(session, key=f"{what}:{one.week}:{one.device_uid}", kind="drift", text=text, now=now)


def latest(session: Session, weeks: int = 1) -> list[DriftFigure]:
    """The rows of the newest judged weeks, alarms first."""
    newest = session.scalars(select(DriftFigure.week).distinct().order_by(DriftFigure.week.desc()).limit(weeks)).all()
    return list(
        session.scalars(
            select(DriftFigure)
            .where(DriftFigure.week.in_(newest))
            .order_by(DriftFigure.week.desc(), DriftFigure.alarm.desc(), DriftFigure.device_uid, DriftFigure.figure)
        )
    )


def source_of(row: DriftFigure) -> str:
    """The baseline that a stored figure was compared with; rows of earlier releases do not say it and had only one."""
    return row.detail or FIRST_WEEKS
