"""Drift: chance alone alarms as rarely as stated, a shift alarms, small sites and first weeks do not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sqlalchemy import select

from dicom_node.config import DriftSection
from dicom_node.drift import weekly as weeks
from dicom_node.drift.baselines import FIRST_WEEKS, VALIDATION, of_samples, of_validation, validation_sets
from dicom_node.drift.limits import count_by_bin, judge_distribution, predictive_limits, share_of
from dicom_node.drift.pixels import FIGURES, pixel_figures
from dicom_node.drift.samples import WEEK, DriftSample, output_distributions, start_of
from dicom_node.index.tables.core import Notice, Outcome, Result, Study
from dicom_node.index.tables.models import DriftFigure, ModelServing, PairStatistics
from model.checkpoints.registry import rewrite_manifest
from model.checkpoints.validation_counts import ValidationSet, bin_counts, edges_of
from model.schema import DisplayImage, SourceGeometry
from tests.support.checkpoints import open_context, paper_checkpoint

MONDAY = dt.date(2026, 1, 5)
SECTION = DriftSection(baseline_weeks=4, min_pairs=50, false_alarms=0.01)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(20, 400),
    st.integers(50, 1500),
    st.floats(0.005, 0.995),
    st.sampled_from([0.01, 0.001, 0.0003]),
)
def test_a_share_that_has_not_changed_alarms_no_more_often_than_stated(
    n: int, m: int, rate: float, alpha: float
) -> None:
    """Exact: summed over every baseline and every week that can be, no sampling. A quarter more is the discreteness."""
    before = np.arange(m + 1)
    weight = binom.pmf(before, m, rate)
    kept = before[weight > weight.max() * 1e-4]
    kept = kept[:: max(1, len(kept) // 60)]  # a regular sample of the baselines; the weights are made whole below
    counts, total = np.arange(n + 1), 0.0
    chance = binom.pmf(counts, n, rate)
    for count in kept:
        low, high = predictive_limits(n, before=int(count), m=m, alpha=alpha)
        total += weight[count] * (chance[:low].sum() + chance[high + 1 :].sum())
    assert total / weight[kept].sum() <= 1.25 * alpha


def test_a_share_that_has_shifted_alarms() -> None:
    low, high = predictive_limits(200, before=80, m=800, alpha=share_of(0.01, 30))
    assert low <= 20 <= high
    assert high < 50, "a tenth that became a quarter"
    low, _ = predictive_limits(200, before=480, m=800, alpha=share_of(0.01, 30))
    assert low > 80, "six tenths that became four"


def test_a_distribution_that_has_not_changed_alarms_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(5)
    alpha, trials, alarms = 0.02, 1500, 0
    for _ in range(trials):
        before, now = (rng.normal(0.5, 0.1, size) for size in (400, 100))
        edges = edges_of(before.tolist())
        verdict = judge_distribution(
            count_by_bin(now.tolist(), edges), count_by_bin(before.tolist(), edges), alpha=alpha
        )
        assert verdict is not None
        alarms += verdict.alarm
    assert alarms <= binom.ppf(0.9999, trials, alpha)


def test_a_distribution_that_has_shifted_alarms() -> None:
    rng = np.random.default_rng(6)
    before = rng.normal(0.5, 0.1, 400)
    edges = edges_of(before.tolist())
    now = rng.normal(0.6, 0.1, 100)  # one standard deviation brighter
    verdict = judge_distribution(
        count_by_bin(now.tolist(), edges), count_by_bin(before.tolist(), edges), alpha=share_of(0.01, 12)
    )
    assert verdict is not None
    assert verdict.alarm
    other = judge_distribution({"MAKER B": 40, "MAKER A": 60}, {"MAKER A": 400}, alpha=share_of(0.01, 12))
    assert other is not None
    assert other.alarm, "a new manufacturer"


def test_trifles_and_single_values_do_not_alarm() -> None:
    same = judge_distribution({"PA": 60}, {"PA": 400}, alpha=0.01)
    assert same is None, "there is nothing to tell apart"
    slight = judge_distribution({"PA": 52_000, "AP": 48_000}, {"PA": 500_000, "AP": 500_000}, alpha=0.01)
    assert slight is not None
    assert not slight.alarm, "significant, and of no importance"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_every_value_falls_into_one_bin(before: list[float], now: list[float]) -> None:
    assert sum(count_by_bin(now, edges_of(before)).values()) == len(now)


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 9), (1200, 900)])
def test_pixel_figures_of_any_shape(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(1).random(shape, dtype=np.float32)
    geometry = SourceGeometry(rows=shape[0], columns=shape[1], top=0, left=0, height=shape[0], width=shape[1])
    figures = pixel_figures(DisplayImage(pixels=grey, geometry=geometry))
    assert tuple(figures) == FIGURES
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["aspect"] == pytest.approx(shape[0] / shape[1], abs=1e-4)


def _finding(rng: random.Random, key: str, rate: float) -> dict[str, object]:
    present = rng.random() < rate
    p = rng.uniform(0.6, 1.0) if present else rng.uniform(0.0, 0.4)
    change = rng.choice(["new", "stable", "improving"]) if present else None
    return {"key": key, "presence": "present" if present else "absent", "probability": p, "change": change}


def _pairs(
    week: int, n: int, seed: int, *, device: str = "1.2.3", rate: float = 0.2, bright: float = 0.5
) -> list[DriftSample]:
    rng = random.Random(f"{seed} {week}")
    start = start_of(MONDAY + week * WEEK)
    return [
        DriftSample(
            at=start + dt.timedelta(minutes=number),
            device_uid=device,
            answered=rng.random() > 0.05,
            pixels={name: rng.gauss(bright, 0.1) for name in FIGURES},
            modality="DX",
            manufacturer=rng.choice(["MAKER A", "MAKER B"]),
            view=rng.choice(["PA", "AP"]),
            prior_age_days=rng.randrange(1, 900) if rng.random() < 0.7 else None,
            findings=[_finding(rng, key, rate) for key in ("edema", "pneumothorax")],
        )
        for number in range(n)
    ]


def _alarms(now: Sequence[DriftSample], before: Sequence[DriftSample], *, output: bool) -> set[str]:
    verdicts = weeks.judge(now, of_samples(before, output=output), SECTION, output=output)
    return {name for name, verdict in verdicts.items() if verdict.alarm}


def test_weeks_of_one_distribution_raise_hardly_an_alarm_and_a_shifted_one_names_what_shifted() -> None:
    before = [sample for week in range(4) for sample in _pairs(week, 100, 1)]
    judged = [_alarms(_pairs(week, 100, 1), before, output=output) for week in range(4, 29) for output in (False, True)]
    assert sum(bool(alarms) for alarms in judged) <= 4, "of fifty, at one in a hundred each"
    brighter = _alarms(_pairs(30, 100, 1, bright=0.62), before, output=False)
    assert {"pixels mean", "pixels median"} <= brighter
    assert "view" not in brighter
    assert {"rate of edema", "rate of pneumothorax"} <= _alarms(_pairs(31, 100, 1, rate=0.6), before, output=True)


def _store(folder: Path, samples: Sequence[DriftSample]) -> None:
    with open_context(folder, migrate=False) as node, node.database.write() as session:
        study = Study(
            study_instance_uid=f"1.9.{samples[0].at:%Y%m%d}",
            first_instance_at=samples[0].at,
            last_instance_at=samples[0].at,
        )
        session.add(study)
        session.flush()
        for number, sample in enumerate(samples):
            result = Result(
                study_pk=study.id,
                revision=1,
                sop_instance_uid=f"1.8.{sample.at:%Y%m%d}.{number}",
                outcome=Outcome.COMPARED if sample.answered else Outcome.NOT_ANALYSED,
                prediction={"findings": list(sample.findings)},
                device_uid=sample.device_uid,
                created_at=sample.at,
            )
            session.add(result)
            session.flush()
            session.add(
                PairStatistics(
                    result_pk=result.id,
                    created_at=sample.at,
                    modality=sample.modality,
                    manufacturer=sample.manufacturer,
                    view=sample.view,
                    prior_age_days=sample.prior_age_days,
                    pixels=dict(sample.pixels),
                )
            )


def test_closed_weeks_are_judged_once_and_an_alarm_is_a_notice(tmp_path: Path) -> None:
    with open_context(tmp_path):
        pass
    for week in range(4):
        _store(tmp_path, _pairs(week, 60, 2))
    _store(tmp_path, _pairs(4, 60, 2, bright=0.8))
    _store(tmp_path, _pairs(5, 20, 2, bright=0.8))  # too few to judge
    with open_context(tmp_path, migrate=False) as node:
        for day, judged in ((MONDAY + 4 * WEEK, 0), (MONDAY + 6 * WEEK, 1), (MONDAY + 6 * WEEK, 1)):
            with node.database.read() as session:
                found = list(weeks.verdicts(session, SECTION, start_of(day)))
            with node.database.write() as session:
                for one in found:
                    weeks.keep(session, one, start_of(day))
                rows = session.scalars(select(DriftFigure)).all()
                assert len({row.week for row in rows}) == judged
        with node.database.read() as session:
            assert {row.week for row in rows} == {MONDAY + 4 * WEEK}
            assert {row.device_uid for row in rows} == {"", "1.2.3"}
            assert {row.figure for row in rows if row.alarm} >= {"pixels mean"}
            notice = session.scalars(select(Notice).where(Notice.kind == "drift")).one()
            assert "pixels mean" in notice.text
            assert weeks.latest(session)[0].alarm


def _validation(rate: float, pairs: int = 400) -> ValidationSet:
    """The validation set of a checkpoint that answers like `_pairs`, with each finding at the given rate."""
    samples = [sample for sample in _pairs(99, pairs, 7, rate=rate) if sample.answered]
    figures = output_distributions(samples)
    edges = edges_of([float(value) for value in figures["certainty"]])
    present = {
        key: sum(f["presence"] == "present" for sample in samples for f in sample.findings if f["key"] == key)
        for key in ("edema", "pneumothorax")
    }
    return ValidationSet(
        pairs=len(samples),
        with_prior=len(figures["change"]),
        present=present,
        abstained=0,
        changes={},
        pair_changes=Counter(str(value) for value in figures["change"]),
        certainty_edges=tuple(edges),
        certainty=tuple(bin_counts([float(value) for value in figures["certainty"]], edges)),
    )


@pytest.mark.parametrize(("rate", "alarms"), [(0.2, set()), (0.7, {"rate of edema", "rate of pneumothorax"})])
def test_the_validation_set_is_a_baseline_from_the_first_week_on(tmp_path: Path, rate: float, alarms: set[str]) -> None:
    with open_context(tmp_path):
        pass
    _store(tmp_path, _pairs(0, 60, 8, device="1.2.3"))
    _store(tmp_path, _pairs(1, 60, 8, device="1.2.4"))  # another checkpoint, whose manifest has none
    with open_context(tmp_path, migrate=False) as node, node.database.read() as session:
        now = start_of(MONDAY + 2 * WEEK)
        assert not list(weeks.verdicts(session, SECTION, now)), "too early for first weeks"
        (found,) = weeks.verdicts(session, SECTION, now, {"1.2.3": _validation(rate)})
    assert (found.week, found.device_uid) == (MONDAY, "1.2.3")
    assert set(found.figures) == {"rate of edema", "rate of pneumothorax", "abstained on a finding"} | (
        {"certainty", "change"} & set(found.figures)
    )
    assert set(found.sources.values()) == {VALIDATION}
    assert {name for name, verdict in found.figures.items() if verdict.alarm} - {"certainty", "change"} == alarms


def test_what_the_validation_set_does_not_know_is_held_against_the_first_weeks() -> None:
    before = of_samples(_pairs(0, 200, 9), output=True)
    both = before.replace_by(of_validation(_validation(0.2)))
    verdicts = weeks.judge(_pairs(1, 100, 9), both, SECTION, output=True)
    assert {name: both.source(name) for name in verdicts if both.source(name) == FIRST_WEEKS} == {
        "not analysed": FIRST_WEEKS
    }
    rate = verdicts["rate of edema"].baseline
    assert rate == pytest.approx(_validation(0.2).present["edema"] / _validation(0.2).pairs)


def test_the_setting_decides_and_the_checkpoint_that_answered_brings_it(tmp_path: Path) -> None:
    with open_context(tmp_path) as node:
        bare = paper_checkpoint(node.models_dir / "bare", seed=1)
        paper_checkpoint(node.models_dir / "brings", seed=2, findings=("edema", "pneumothorax"))
        brings = rewrite_manifest(node.models_dir / "brings", validation=_validation(0.7))
        with node.database.write() as session:
            session.add(
                ModelServing(
                    worker="host:1", folder="brings", device_uid="1.2.9", since=node.clock(), seen_at=node.clock()
                )
            )
        with node.database.read() as session:
            found = validation_sets(session, node.settings, node.models_dir)
    assert bare.device_uid not in found
    assert found[brings.device_uid] == found["1.2.9"] == _validation(0.7), "an expert makes another Device UID of it"
    _store(tmp_path, _pairs(0, 60, 10, device=brings.device_uid))
    for baseline, sources in (("first-weeks", set()), ("validation", {VALIDATION})):
        with open_context(tmp_path, migrate=False) as node:
            drift = node.settings.drift.model_copy(update={"baseline": baseline})
            node = dataclasses.replace(
                node,
                settings=node.settings.model_copy(update={"drift": drift}),
                clock=lambda: start_of(MONDAY + WEEK),
            )
            weeks.run(node)
            with node.database.read() as session:
                rows = session.scalars(select(DriftFigure)).all()
                assert {weeks.source_of(row) for row in rows} == sources
                notices = session.scalars(select(Notice.text)).all()
    assert "(validation)" in notices[0]
