"""The analysed pairs in the index, and figures computed from them; no verdicts."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.drift.pixels import FIGURES
from dicom_node.index.tables.core import Outcome, Result
from dicom_node.index.tables.models import PairStatistics
from dicom_node.report.stored import model_answers
from model.checkpoints.validation_counts import pair_certainty, pair_change
from model.schema import Presence

WEEK = dt.timedelta(days=7)
NOT_ANALYSED, ABSTAINED = "not analysed", "abstained on a finding"
"""Figures of pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSample:
    """One result that was current once. findings: as in result.json. pixels: empty where no image was decoded."""

    at: dt.datetime
    device_uid: str
    answered: bool
    pixels: Mapping[str, float]
    modality: str
    manufacturer: str
    view: str
    prior_age_days: int | None
    findings: Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """count of n."""

    count: int
    n: int


def week_of(moment: dt.datetime) -> dt.date:
    """The Monday of a moment's week, UTC."""
    day = moment.astimezone(dt.UTC).date()
    return day - dt.timedelta(days=day.weekday())


def start_of(week: dt.date) -> dt.datetime:
    """The first moment of a week."""
    return dt.datetime.combine(week, dt.time(), dt.UTC)


def load_samples(session: Session, *, since: dt.datetime, until: dt.datetime) -> list[DriftSample]:
    """First results of study revisions in [since, until): a study that was processed again counts once."""
    rows = session.execute(
        select(Result.created_at, Result.device_uid, Result.outcome, Result.prediction, PairStatistics)
        # Outer: a result without statistics of its images still counts as a sample.
        .outerjoin(PairStatistics, PairStatistics.result_pk == Result.id)
        .where(Result.created_at >= since, Result.created_at < until, Result.generation == 1)
        .order_by(Result.created_at)
    )
    return [
        DriftSample(
            at=row.created_at,
            device_uid=row.device_uid,
            answered=row.outcome is not Outcome.NOT_ANALYSED,
            pixels=row.PairStatistics.pixels if row.PairStatistics is not None else {},
            modality=row.PairStatistics.modality if row.PairStatistics is not None else "",
            manufacturer=row.PairStatistics.manufacturer if row.PairStatistics is not None else "",
            view=row.PairStatistics.view if row.PairStatistics is not None else "",
            prior_age_days=row.PairStatistics.prior_age_days if row.PairStatistics is not None else None,
            findings=model_answers(row.prediction),
        )
        for row in rows
    ]


def input_figures(samples: Iterable[DriftSample]) -> dict[str, list[float] | list[str]]:
    """Each figure of the images as one value for each pair: numbers, or words."""
    seen = [sample for sample in samples if sample.pixels]
    figures: dict[str, list[float] | list[str]] = {
        f"pixels {name}": [float(sample.pixels[name]) for sample in seen if name in sample.pixels] for name in FIGURES
    }
    figures["modality"] = [sample.modality or "unknown" for sample in seen]
    figures["manufacturer"] = [sample.manufacturer or "unknown" for sample in seen]
    figures["view"] = [sample.view or "unknown" for sample in seen]
    figures["age of the prior"] = [float(s.prior_age_days) for s in seen if s.prior_age_days is not None]
    return figures


def output_distributions(samples: Iterable[DriftSample]) -> dict[str, list[float] | list[str]]:
    """Each figure of the answers as one value for each pair: findings of one pair are not independent of each other."""
    answered = [sample for sample in samples if sample.answered and sample.findings]
    return {
        "certainty": [certainty_of(sample.findings) for sample in answered],
        "change": [
            pair_change(_word(finding["change"]) for finding in sample.findings)
            for sample in answered
            if sample.prior_age_days is not None
        ],
    }


def output_shares(samples: Iterable[DriftSample]) -> dict[str, Share]:
    """Finding rates, abstentions, priors found; counts of pairs."""
    everything = list(samples)
    answered = [sample for sample in everything if sample.answered]
    present: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for sample in answered:
        for finding in sample.findings:
            key = str(finding["key"])
            asked[key] += 1
            present[key] += finding["presence"] == Presence.PRESENT.value
    shares = {rate_of(key): Share(count=present[key], n=n) for key, n in sorted(asked.items())}
    abstained = sum(any(f["presence"] == Presence.ABSTAINED.value for f in sample.findings) for sample in answered)
    shares[ABSTAINED] = Share(count=abstained, n=len(answered))
    shares[NOT_ANALYSED] = Share(count=len(everything) - len(answered), n=len(everything))
    return shares


def rate_of(finding: str) -> str:
    """The figure's name."""
    return f"rate of {finding}"


def certainty_of(findings: Sequence[Mapping[str, object]]) -> float:
    """Mean of |2p - 1| over the findings of a pair as result.json has them; at least one."""
    return pair_certainty([float(str(finding["probability"])) for finding in findings])


def _word(value: object) -> str | None:
    return None if value is None else str(value)
