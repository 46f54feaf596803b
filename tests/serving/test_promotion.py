"""The champion's pointer: killed at any step it is the old one or the new one, and journal and audit follow, once."""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import func, select

from dicom_node import notifications as notify
from dicom_node.context import NodeContext
from dicom_node.errors import UsageError
from dicom_node.index.tables.core import AuditEvent, Notice, Outcome, Result, Study
from dicom_node.index.tables.models import ModelEvent, ModelEventKind, ModelServing
from dicom_node.serving import promotion as models
from dicom_node.serving.promotion import ModelsError
from dicom_node.serving.status import figure_lines, wait_for_effect
from model.checkpoints import registry
from model.checkpoints.registry import CHAMPION_NAME
from tests.support.checkpoints import open_context, paper_checkpoint

FILE_STEPS = frozenset({"open", "write", "flush", "fsync", "rename", "replace", "flock", "close"})
"""C functions through which the pointer reaches the disk; a kill falls before and after each call of one."""
NODE_STEPS = frozenset({"fsync", "replace", "commit"})
"""The same for the whole promotion, with the journal's commits."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    with open_context(tmp_path) as context:
        for number, name in enumerate(("first", "second", "third")):
            paper_checkpoint(context.models_dir / name, seed=number)
        yield context


def _chain(node: NodeContext) -> list[str]:
    return [candidate.folder for candidate in models.candidates(node.settings, node.models_dir)]


def _journal(node: NodeContext) -> list[tuple[str, str]]:
    with node.database.read() as session:
        return [
            (event.kind.value, event.folder) for event in session.scalars(select(ModelEvent).order_by(ModelEvent.at))
        ]


def test_figures_stand_beside_what_the_majority_has() -> None:
    metrics = {
        "phantom:20": {
            "pairs": 20,
            "figures": {
                "presence_auroc": {"value": 0.531, "low": 0.4, "high": 0.6, "baselines": {"majority": 0.5}},
                "presence_ece": {"value": 0.1, "low": 0.0, "high": 0.2},
            },
        },
        "films": {"statements": 3},
    }
    beside = "presence auroc 0.53; majority 0.50 (20 pairs of phantom:20)"
    assert figure_lines(metrics, only=("presence_auroc",)) == [beside]
    assert figure_lines(metrics) == [beside, "presence ece 0.10 (20 pairs of phantom:20)"]


def test_first_promotion_can_be_undone_back_to_the_configured_model(node: NodeContext) -> None:
    assert _chain(node) == [""]
    manifest = models.promote(node, "first", who="ada", reason="better")
    assert _chain(node) == ["first", ""]
    assert models.rollback(node, who="ada", reason="worse after all") is None
    assert _chain(node) == [""]
    assert _journal(node) == [("promoted", "first"), ("rolled back", "first")]
    with node.database.read() as session:
        audits = [
            event.message for event in session.scalars(select(AuditEvent).where(AuditEvent.event_type == "110131"))
        ]
        notices = [notice.text for notice in session.scalars(select(Notice).order_by(Notice.id))]
        event = session.scalars(select(ModelEvent).where(ModelEvent.kind == ModelEventKind.PROMOTED)).one()
    assert len(audits) == 2
    assert all('UserID="ada"' in message for message in audits)
    assert [text.split(" by ")[0] for text in notices] == ["model first promoted", "model first rolled back"]
    assert (event.device_uid, event.who, event.reason) == (manifest.device_uid, "ada", "better")
    with pytest.raises(ModelsError, match="nothing was promoted"):
        models.rollback(node, who="ada")


def test_a_change_of_model_is_told_once_whoever_hears_of_it_first(node: NodeContext) -> None:
    """Promoted: the journal tells. Exchanged by configuration: its first result tells. Each once, at every tick."""

    def answers(device_uid: str) -> None:
        with node.database.write() as session:
            now = node.clock()
            study = session.scalars(select(Study)).one_or_none()
            if study is None:
                study = Study(study_instance_uid="1.9", first_instance_at=now, last_instance_at=now)
                session.add(study)
                session.flush()
            count = session.scalar(select(func.count(Result.id))) or 0
            session.add(
                Result(
                    study_pk=study.id,
                    revision=1,
                    sop_instance_uid=f"1.8.{count}",
                    outcome=Outcome.COMPARED,
                    prediction={},
                    device_uid=device_uid,
                    model_version="7",
                    created_at=now,
                )
            )
        for _ in range(2):
            models.catch_up(node)
            notify.run(node)

    def told() -> list[str]:
        with node.database.read() as session:
            return list(session.scalars(select(Notice.text).where(Notice.kind == "model change").order_by(Notice.id)))

    answers("1.2.3")
    assert told() == []
    manifest = models.promote(node, "first", who="ada")
    answers(manifest.device_uid)
    assert [text.split(" by ")[0] for text in told()] == ["model first promoted"]
    models.rollback(node, who="ada")
    answers("1.2.3")
    assert [text.split(" by ")[0] for text in told()][1:] == ["model first rolled back"]
    answers("1.2.4")
    assert told()[2:] == ["results now come from model version 7, device UID 1.2.4"]


def test_an_error_about_another_model_is_no_answer_to_the_newest_wish(node: NodeContext) -> None:
    """A worker that has not seen the newest pointer yet still says why the one before it cannot be loaded."""
    line = {"worker": "here/1/a", "folder": "first", "wanted": "second", "error": "second cannot be loaded"}
    times = {"since": node.clock(), "seen_at": node.clock()}
    named = {"model_name": "", "model_version": "", "device_uid": ""}
    with node.database.write() as session:
        session.add(ModelServing(**line, **times, **named))
    assert wait_for_effect(node, "second", seconds=60.0).errors == ("second cannot be loaded",)
    effect = wait_for_effect(node, "first", seconds=0.0)
    assert (len(effect.waiting), effect.workers, effect.errors) == (1, (), ())
    with node.database.write() as session:
        session.scalars(select(ModelServing)).one().wanted = "first"
    assert len(wait_for_effect(node, "first", seconds=60.0).workers) == 1


def test_who_may_answer_next_never_counts_a_withdrawn_one(node: NodeContext) -> None:
    for name in ("first", "second", "third"):
        models.promote(node, name, who="ada")
    assert _chain(node) == ["third", "second", "first", ""]
    models.rollback(node, who="ada")
    assert _chain(node) == ["second", "first", ""]
    models.promote(node, "first", who="ada")
    assert _chain(node) == ["first", "second", ""]
    models.rollback(node, who="ada")
    assert _chain(node) == ["second", ""], "first was withdrawn after its first promotion as well"
    models.rollback(node, who="ada")
    assert _chain(node) == ["first", ""], "it is the champion again because a person went back to it"


def test_refused_checkpoints_change_nothing(node: NodeContext) -> None:
    models.promote(node, "first", who="ada")
    weights = node.models_dir / "second" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    for name, said in (("second", "was changed"), ("nobody", "no checkpoint"), ("../x", "not a plain")):
        with pytest.raises(ModelsError, match=said):
            models.promote(node, name, who="ada")
    assert _chain(node) == ["first", ""]
    assert _journal(node) == [("promoted", "first")]
    (node.models_dir / CHAMPION_NAME).write_text("{")
    with pytest.raises(ModelsError, match="not a champion pointer"):
        _chain(node)


def test_a_model_on_a_server_is_not_promoted_here(tmp_path: Path) -> None:
    with open_context(tmp_path, backend="openai", base_url="http://127.0.0.1:9/v1") as context:
        paper_checkpoint(context.models_dir / "first")
        with pytest.raises(UsageError, match="at the server"):
            models.promote(context, "first", who="ada")
        assert _chain(context) == [""]


def _killed_at(step: int, steps: frozenset[str], act: Callable[[], object]) -> bool:
    """Do `act` in a child that is killed by SIGKILL at the given step; whether it was killed."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
        return os.WIFSIGNALED(status)
    left = step

    def count(_frame: FrameType, event: str, function: Any) -> None:
        nonlocal left
        if event in ("c_call", "c_return") and getattr(function, "__name__", "") in steps:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    status = 1
    try:
        sys.setprofile(count)
        act()
        status = 0
    except BaseException:  # noqa: BLE001 (the end of a process of its own)
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.mark.parametrize("back", [False, True], ids=["promote", "rollback"])
def test_killed_at_every_file_step_the_champion_is_the_old_or_the_new(tmp_path: Path, back: bool) -> None:
    paper_checkpoint(tmp_path / "old", seed=1)
    paper_checkpoint(tmp_path / "new", seed=2)
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    registry.promote(tmp_path, "old", at=at)
    if back:
        registry.promote(tmp_path, "new", at=at)
    start = (tmp_path / CHAMPION_NAME).read_bytes()

    def act() -> None:
        registry.rollback(tmp_path, at=at) if back else registry.promote(tmp_path, "new", at=at)

    seen, step, killed = set(), 0, True
    while killed:
        (tmp_path / CHAMPION_NAME).write_bytes(start)
        killed = _killed_at(step, FILE_STEPS, act)
        folder = registry.champion_folder(tmp_path)
        assert folder is not None
        seen.add(folder.name)
        (tmp_path / CHAMPION_NAME).write_bytes(start)
        act()  # what a killed one left behind is in nobody's way
        folder = registry.champion_folder(tmp_path)
        assert folder == tmp_path / ("old" if back else "new")
        step += 1
    assert seen == {"old", "new"}
    assert step > 12, f"only {step} steps were killed"


def test_killed_anywhere_in_a_promotion_the_journal_catches_up(tmp_path: Path) -> None:
    with open_context(tmp_path) as context:
        paper_checkpoint(context.models_dir / "new", seed=2)

    def act() -> None:
        with open_context(tmp_path, migrate=False) as child:
            models.promote(child, "new", who="eve")

    journalled, step, killed = set(), 0, True
    while killed:
        (tmp_path / "models" / CHAMPION_NAME).unlink(missing_ok=True)
        killed = _killed_at(step, NODE_STEPS, act)
        with open_context(tmp_path, migrate=False) as context:
            assert models.champion(context.models_dir) in ("", "new")
            before = len(_journal(context))
            models.catch_up(context)
            journalled.add(len(_journal(context)) - before)
            models.catch_up(context)
            _assert_journal_is_the_pointer(context)
        step += 1
    assert journalled == {0, 1}, "some kills fell between the pointer and the journal, others before or after both"


def _assert_journal_is_the_pointer(context: NodeContext) -> None:
    changes = list(models.changes_of(registry.read_pointer(context.models_dir)))
    with context.database.read() as session:
        for change in changes:
            assert session.scalar(select(func.count()).where(ModelEvent.key == change.key)) == 1
            assert session.scalar(select(func.count()).where(Notice.key == f"model:{change.key}")) == 1
        events = session.scalar(select(func.count()).select_from(ModelEvent))
        assert session.scalar(select(func.count()).where(AuditEvent.event_type == "110131")) == events


def test_two_at_once_make_two_promotions_one_after_the_other(node: NodeContext) -> None:
    threads = [
        threading.Thread(target=models.promote, args=(node, name), kwargs={"who": "x"}) for name in ("first", "second")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(_chain(node)) == {"first", "second", ""}
    assert sorted(_journal(node)) == [("promoted", "first"), ("promoted", "second")]
