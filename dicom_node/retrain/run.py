"""`dicom-node retrain`: from what radiologists said to a decision, in one run that may be killed and gone on with.

The story of a run is `_go_on`; each of its states is a row (`RunState`), and each stage may be done twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.errors import UsageError
from dicom_node.index.tables.retrain import Promote, RetrainRun, RetrainSnapshot, RetrainSplit, RunState
from dicom_node.logs import get_logger
from dicom_node.retrain import prepare as preparing
from dicom_node.retrain import runs, snapshots
from dicom_node.retrain.estimate import describe, duration, missing, rare
from dicom_node.retrain.file_names import DECISION_FILE, PAGE_FILE, PROBE_FILE
from dicom_node.retrain.plan import Plan, read_plan, write_plan
from dicom_node.retrain.select import gather
from dicom_node.retrain.stages import Stage
from dicom_node.retrain.subprocess import run_stage
from dicom_node.retrain.types import Contents, Folders, RetrainError, RetrainStopped, Talk, folders_of
from dicom_node.serving import promotion as models
from dicom_node.system.file_lock import FileLock

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainOptions:
    """recipe: another than the configured one. promote: None: as configured. again: also where nothing is new.

    estimate: measure first how long it will take; costs loading the model twice.
    """

    who: str
    recipe: Path | None = None
    promote: Promote | None = None
    dry_run: bool = False
    again: bool = False
    estimate: bool = True


class RunOutcome(StrEnum):
    """The end of a call in which nothing went wrong."""

    DRY = "dry run"
    """It was only said what there is."""
    TOO_FEW = "too few labels"
    """There are not yet so many labelled patients as [retrain] asks for; more come with time."""
    NOTHING_NEW = "nothing new"
    """The labels and the champion are those of the last comparison."""
    REFUSED = "refused"
    """The challenger did not pass; the champion serves on."""
    KEPT = "kept"
    """It passed and lies beside the champion."""
    PROMOTED = "promoted"
    """It passed and serves."""


def run_retrain(node: NodeContext, options: RetrainOptions, talk: Talk) -> RunOutcome:
    """Go on with the unfinished run, or begin one.

    Raises RetrainError where something is missing or wrong, RetrainStopped where it was asked to stop, UsageError for
    a recipe that does not fit. Whatever happens, the champion serves on until a better one is promoted.
    """
    folders = folders_of(node)
    with _sole(folders):
        preparing.reconcile(node)
        with node.database.read() as session:
            run = runs.find_unfinished(session)
        if run is None:
            return _begin(node, options, talk, folders)
        if options.recipe is not None:
            raise UsageError(f"run {run.name} is unfinished and has its recipe; continue it without --recipe")
        talk.say(f"run {run.name} is unfinished ({run.state.value}) and continues")
        if options.dry_run:
            return RunOutcome.DRY
        return _go_on(node, run.id, talk)


def release_snapshot(node: NodeContext, name: str) -> int:
    """Let retention have a snapshot's studies again; returns how many. Raises UsageError, RetrainError."""
    with _sole(folders_of(node)), node.database.write() as session:
        run = runs.find_unfinished(session)
        if run is not None and run.snapshot.name == name:
            raise RetrainError(f"run {run.name} is unfinished and needs its snapshot")
        if not runs.is_snapshot(session, name):
            raise UsageError(f"no snapshot {name!r}")
        return snapshots.release(session, name)


def _begin(node: NodeContext, options: RetrainOptions, talk: Talk, folders: Folders) -> RunOutcome:
    with node.database.read() as session:
        name = runs.new_name(session, node.clock())
    start = preparing.start_of(node, options.recipe)
    contents = _gather_contents(node, options, talk, start, folders.snapshots / f"{name}.draft")
    if isinstance(contents, RunOutcome):
        return contents
    if options.dry_run:
        talk.say("dry run: nothing was locked, nothing was trained")
        return RunOutcome.DRY
    talk.say(f"snapshot {name}: every image is hashed again")

    def tick_hashing(done: int, total: int) -> None:
        if node.stop.is_set():
            raise RetrainStopped("stopped before the snapshot was locked; nothing was trained")
        talk.progress("hashing", done, total)

    snapshots.lock(
        node,
        name,
        contents,
        progress=tick_hashing,
        also=lambda session, snapshot: _new_run(session, node, options, snapshot, start, contents),
    )
    with node.database.read() as session:
        run_pk = session.scalars(select(RetrainRun.id).where(RetrainRun.name == name)).one()
    return _go_on(node, run_pk, talk)


def _gather_contents(
    node: NodeContext, options: RetrainOptions, talk: Talk, start: preparing.Start, draft: Path
) -> Contents | RunOutcome:
    """The contents of the snapshot, or the outcome of a run for which there is too little or nothing new."""
    draft.mkdir(parents=True, exist_ok=True)
    try:
        contents = gather(node, draft)
        for line in describe(contents):
            talk.say(line)
        lacking = missing(contents, node.settings.retrain)
        if lacking:
            talk.say("nothing is trained yet: " + "; ".join(lacking))
            return RunOutcome.TOO_FEW
        for line in rare(contents, start.findings, preparing.FEWEST):
            talk.say(line)
        if not options.again and _has_nothing_new(node, contents, start):
            talk.say("no new label since the last comparison, and the same champion: nothing to do (--again trains)")
            return RunOutcome.NOTHING_NEW
        if options.estimate:
            _say_duration(node, contents, start, draft, talk)
        return contents
    finally:
        # A draft is for counting; the snapshot is made anew under the lock, from the same contents.
        shutil.rmtree(draft, ignore_errors=True)


def _say_duration(node: NodeContext, contents: Contents, start: preparing.Start, draft: Path, talk: Talk) -> None:
    """Train a few steps and ask a few pairs on a copy, and say what a whole run will take."""
    snapshots.write_splits(draft, contents, node)
    plan = preparing.plan_of(node, start, name="probe", folder=draft / "run", snapshot=draft, contents=contents)
    write_plan(plan)
    run_stage(node, plan, Stage.PROBE, lambda what, done, total: None)
    measured = json.loads((plan.folder / PROBE_FILE).read_text("utf-8"))
    asked = 2 * len(contents.of(RetrainSplit.FROZEN)) + len(contents.of(RetrainSplit.VALIDATE)) + 2 * plan.known_pairs
    talk.say(
        duration(
            steps=int(plan.recipe["run"]["steps"]),
            step_seconds=measured["step"],
            pairs=asked,
            pair_seconds=measured["pair"],
        )
    )


def _has_nothing_new(node: NodeContext, contents: Contents, start: preparing.Start) -> bool:
    with node.database.read() as session:
        last = runs.last_compared(session)
        if last is None:
            return False
        before = runs.labels_of(session, last.snapshot_pk)
    now = {(item.current.sop_instance_uid, item.label_version, item.split) for item in contents.items}
    # Both: what was promoted and rolled back since must not be made again from the same labels the next night.
    return now == before and start.device_uid in (last.champion_device_uid, last.challenger_device_uid)


def _new_run(
    session: Session,
    node: NodeContext,
    options: RetrainOptions,
    snapshot: RetrainSnapshot,
    start: preparing.Start,
    contents: Contents,
) -> None:
    """The run of a snapshot, in the snapshot's own transaction: neither is ever there without the other."""
    lacking = missing(contents, node.settings.retrain)
    if lacking:
        raise RetrainError("after leaving out damaged images: " + "; ".join(lacking))
    folders, now = folders_of(node), node.clock()
    plan = preparing.plan_of(
        node,
        start,
        name=snapshot.name,
        folder=folders.runs / snapshot.name,
        snapshot=folders.root / snapshot.folder,
        contents=contents,
        manifest_sha256=snapshot.manifest_sha256,
    )
    write_plan(plan)  # before the commit: a row without its folder could not be gone on with
    session.add(
        RetrainRun(
            name=snapshot.name,
            snapshot_pk=snapshot.id,
            promote=options.promote or Promote(node.settings.retrain.promote),
            base=str(start.folder),
            champion_device_uid=start.device_uid,
            started_by=options.who,
            started_at=now,
            updated_at=now,
        )
    )


def _go_on(node: NodeContext, run_pk: int, talk: Talk) -> RunOutcome:
    """A run from wherever it stands to its end."""
    run = _run(node, run_pk)
    plan = read_plan(folders_of(node).runs / run.name)
    try:
        if run.state in (RunState.PREPARED, RunState.TRAINING):
            preparing.require_unchanged(node, run.snapshot_pk, plan)
            runs.move(node, run_pk, RunState.TRAINING, attempts=run.attempts + 1)
            talk.say(f"training {plan.challenger} from {run.base}")
            run_stage(node, plan, Stage.TRAIN, talk.progress)
            runs.move(node, run_pk, RunState.EVALUATING, challenger=plan.challenger)
        plan = preparing.against_champion(node, run_pk, plan)
        if _run(node, run_pk).state is RunState.EVALUATING:
            talk.say("champion and challenger answer the frozen set")
            run_stage(node, plan, Stage.EVALUATE, talk.progress)
            _record_decision(node, run_pk, plan, talk)
    except RetrainError as error:
        preparing.fail_for_good(node, run_pk, error)
        raise
    return _end(node, run_pk, plan, talk)


def _record_decision(node: NodeContext, run_pk: int, plan: Plan, talk: Talk) -> None:
    decision = json.loads((plan.folder / DECISION_FILE).read_text("utf-8"))["decision"]
    runs.note_decision(node, run_pk, decision)
    state = RunState.DECIDED if decision["passed"] else RunState.REFUSED
    reason = " ".join(f"{text}." for text in decision["reasons"])
    runs.move(node, run_pk, state, reason=reason, challenger_device_uid=decision["challenger"])
    talk.say("the challenger passes the gate" if decision["passed"] else "the challenger does not pass the gate:")
    for text in decision["reasons"]:
        talk.say(f"  {text}")
    talk.say(f"all figures: {plan.folder / PAGE_FILE}")


def _end(node: NodeContext, run_pk: int, plan: Plan, talk: Talk) -> RunOutcome:
    run = _run(node, run_pk)
    if run.state is RunState.REFUSED:
        return RunOutcome.REFUSED
    is_promoted: bool | None = {Promote.AUTO: True, Promote.NEVER: False}.get(run.promote)
    if run.promote is Promote.ASK:
        is_promoted = talk.confirm(f"promote {plan.challenger} now?")
    if not is_promoted:
        talk.say(f"it is kept beside the champion: `dicom-node models promote {plan.challenger}` makes it serve")
        return RunOutcome.KEPT
    models.promote(node, plan.challenger, who=run.started_by, reason=f"retraining {run.name}: {run.reason}"[:500])
    runs.move(node, run_pk, RunState.PROMOTED)
    talk.say(f"{plan.challenger} is the champion; `dicom-node models rollback` goes back")
    return RunOutcome.PROMOTED


def _run(node: NodeContext, run_pk: int) -> RetrainRun:
    with node.database.read() as session:
        return session.get_one(RetrainRun, run_pk)


@contextmanager
def _sole(folders: Folders) -> Iterator[None]:
    """One retraining at a time; the lock is the kernel's and ends with the process. Raises RetrainError."""
    folders.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock.try_acquire(folders.lock)
    if lock is None:
        raise RetrainError("another retraining runs on this folder")
    with lock:
        yield
