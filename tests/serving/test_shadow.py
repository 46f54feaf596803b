"""The shadow: what counts as a disagreement, and that a challenger which fails or hangs harms no result."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from dicom_node.context import NodeContext
from dicom_node.errors import UsageError
from dicom_node.index.tables.core import Job, JobKind, JobState, Notice, Outcome, Result
from dicom_node.index.tables.models import ModelEvent, ShadowResult
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.serving import shadow
from dicom_node.serving import shadow_comparison as shadow_figures
from dicom_node.serving.promotion import ModelsError, promote
from dicom_node.serving.shadow import ShadowModel
from tests.support.checkpoints import paper_checkpoint
from tests.support.web_site import Site, running_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as site:
        paper_checkpoint(site.node.models_dir / "challenger", seed=1)  # verified, and yet no model: it fails to load
        paper_checkpoint(site.node.models_dir / "champion", seed=2)
        yield site


def _finding(key: str, presence: str, change: str | None) -> dict[str, Any]:
    return {"key": key, "presence": presence, "probability": 0.5, "change": change, "change_probability": None}


findings = st.lists(
    st.builds(
        _finding,
        st.sampled_from(["edema", "fracture", "atelectasis"]),
        st.sampled_from(["present", "absent", "abstained"]),
        st.sampled_from([None, "new", "stable"]),
    ),
    unique_by=lambda finding: finding["key"],
    max_size=3,
)


@given(findings, findings)
def test_disagreements_are_symmetric_and_none_with_oneself(
    one: list[dict[str, Any]], other: list[dict[str, Any]]
) -> None:
    assert shadow_figures.differences(one, one) == []
    there, back = shadow_figures.differences(one, other), shadow_figures.differences(other, one)
    places = {(d["finding"], d["aspect"], d["champion"], d["challenger"]) for d in there}
    assert places == {(d["finding"], d["aspect"], d["challenger"], d["champion"]) for d in back}
    both = {f["key"] for f in one} & {f["key"] for f in other}
    assert {d["finding"] for d in there} <= both


def _result(node: NodeContext) -> Result:
    with node.database.read() as session:
        return session.scalars(select(Result)).one()


def _claim(node: NodeContext) -> ClaimedJob:
    with node.database.write() as session:
        job = jobs.claim(session, kinds=[JobKind.SHADOW], owner="here:1:shadow")
    assert job is not None
    return job


def _enqueued(node: NodeContext) -> bool:
    with node.database.write() as session:
        return shadow.enqueue(session, node, session.scalars(select(Result)).one())


def test_only_a_chosen_challenger_is_asked_and_each_choice_is_in_the_journal(site: Site) -> None:
    node = site.node
    assert not _enqueued(node)
    assert shadow.choose(node, "challenger", who="ada") == "challenger"
    promote(node, "champion", who="ada")
    with pytest.raises(UsageError, match="agree with itself"):
        shadow.choose(node, "champion", who="ada")
    with pytest.raises(ModelsError, match="no checkpoint"):
        shadow.choose(node, "nobody", who="ada")
    assert _enqueued(node)
    assert not _enqueued(node), "the same pair is asked once"
    assert shadow.choose(node, "off", who="ada") == ""
    model = ShadowModel(node)
    model.handle(_claim(node), node)  # it was chosen when this was enqueued, and is not any more
    with node.database.read() as session:
        assert session.scalars(select(ShadowResult)).all() == []
        kinds = [event.kind.value for event in session.scalars(select(ModelEvent).order_by(ModelEvent.id))]
    assert kinds == ["shadow on", "promoted", "shadow off"]


def test_it_gives_way_while_an_analysis_waits_and_its_attempt_is_not_counted(site: Site) -> None:
    node = site.node
    shadow.choose(node, "challenger", who="ada")
    assert _enqueued(node)
    with node.database.write() as session:
        jobs.enqueue(session, JobKind.ANALYSE, "analyse:waiting", {})
    job = _claim(node)
    ShadowModel(node).handle(job, node)
    with node.database.read() as session:
        row = session.get_one(Job, job.id)
        assert (row.state, row.attempts) == (JobState.READY, 0)
        assert row.run_at > node.clock()


def test_one_that_does_not_load_costs_a_row_and_a_notice_and_no_result(site: Site) -> None:
    node = site.node
    shadow.choose(node, "challenger", who="ada")
    before = _result(node)
    assert _enqueued(node)
    model = ShadowModel(node)
    job = _claim(node)
    model.handle(job, node)
    model.close()
    with node.database.read() as session:
        row = session.scalars(select(ShadowResult)).one()
        assert "cannot be loaded" in row.error
        assert row.differences == []
        assert session.get_one(Job, job.id).state is JobState.DONE, "not a dead letter: nobody needs to mend a study"
        assert session.scalars(select(Notice).where(Notice.kind == "model not loaded")).one()
        assert shadow_figures.summary(session, "challenger")["failed"] == 1
        after = session.get_one(Result, before.id)
        assert (after.prediction, after.is_current, after.outcome) == (before.prediction, True, Outcome.COMPARED)
    with node.database.write() as session:
        assert shadow.forget(session, before=node.clock() - dt.timedelta(days=1)) == 0
        assert shadow.forget(session, before=node.clock() + dt.timedelta(days=1)) == 1


def test_one_that_hangs_is_cut_off(tmp_path: Path) -> None:
    """It answers once, is then stopped by a signal, and is given up when the time for the same pair is over."""
    with running_site(tmp_path, model={"timeout_seconds": 120, "shadow_nice": 0}) as site:
        from tests.support.checkpoints import tiny_checkpoint

        tiny_checkpoint(site.node.models_dir / "challenger", seed=1)
        shadow.choose(site.node, "challenger", who="ada")
        assert _enqueued(site.node)
        before = {child.pid for child in multiprocessing.active_children()}
        model = ShadowModel(site.node)
        model.handle(_claim(site.node), site.node)
        children = [child for child in multiprocessing.active_children() if child.pid not in before]
        (child,) = (child for child in children if child.name == "model")
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        assert model._process is not None
        model._process._section = site.node.settings.model.model_copy(update={"timeout_seconds": 1.0})
        with site.node.database.write() as session:
            session.execute(update(Job).where(Job.kind == JobKind.SHADOW).values(state=JobState.READY))
        model.handle(_claim(site.node), site.node)
        model.close()
        assert not child.is_alive()
        with site.node.database.read() as session:
            assert "was stopped" in session.scalars(select(ShadowResult)).one().error
