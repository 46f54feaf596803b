"""The rows of runs: which one is unfinished, every step from state to state, and what the gate decided."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.retrain import (
    ENDED,
    Promote,
    RetrainDecision,
    RetrainItem,
    RetrainRun,
    RetrainSnapshot,
    RetrainSplit,
    RunState,
)
from dicom_node.notifications import raise_notice

WORKING = (RunState.PREPARED, RunState.TRAINING, RunState.EVALUATING)
"""States that the next `dicom-node retrain` goes on from."""


def find_unfinished(session: Session) -> RetrainRun | None:
    """The run to go on with: one that works, or one that passed and was to be promoted without asking."""
    return session.scalars(
        select(RetrainRun)
        .where(
            RetrainRun.state.in_(WORKING)
            | ((RetrainRun.state == RunState.DECIDED) & (RetrainRun.promote == Promote.AUTO))
        )
        .order_by(RetrainRun.id)
    ).first()


def waiting(session: Session) -> list[RetrainRun]:
    """Runs whose challenger passed and waits for a person."""
    return list(session.scalars(select(RetrainRun).where(RetrainRun.state == RunState.DECIDED).order_by(RetrainRun.id)))


def move(node: NodeContext, run_pk: int, state: RunState, *, reason: str = "", **values: Any) -> None:
    """Bring a run to a state; its end is told to people by a notice."""
    now = node.clock()
    with node.database.write() as session:
        run = session.get_one(RetrainRun, run_pk)
        run.state, run.updated_at = state, now
        if reason:
            run.reason = reason
        for name, value in values.items():
            setattr(run, name, value)
        if state in ENDED:
            run.ended_at = now
        if state in (*ENDED, RunState.DECIDED):
            text = f"retraining {run.name}: {state.value}. {run.reason}"[:1000]
            raise_notice(session, key=f"retraining:{run.name}:{state.value}", kind="retraining", text=text, now=now)


def note_decision(node: NodeContext, run_pk: int, decision: dict[str, Any]) -> None:
    """Keep what the gate decided; noted once for each pair of checkpoints."""
    with node.database.write() as session:
        known = session.scalars(
            select(RetrainDecision).where(
                RetrainDecision.run_pk == run_pk,
                RetrainDecision.champion_device_uid == decision["champion"],
                RetrainDecision.challenger_device_uid == decision["challenger"],
            )
        ).first()
        if known is not None:
            return
        session.add(
            RetrainDecision(
                run_pk=run_pk,
                passed=bool(decision["passed"]),
                champion_device_uid=decision["champion"],
                challenger_device_uid=decision["challenger"],
                reasons=list(decision["reasons"]),
                figures=decision,
                decided_at=node.clock(),
            )
        )


def decision_of(session: Session, run_pk: int) -> RetrainDecision | None:
    """The newest decision on a run."""
    return session.scalars(
        select(RetrainDecision).where(RetrainDecision.run_pk == run_pk).order_by(RetrainDecision.id.desc())
    ).first()


def is_snapshot(session: Session, name: str) -> bool:
    """True if there is a snapshot of this name."""
    return session.scalar(select(RetrainSnapshot.id).where(RetrainSnapshot.name == name)) is not None


def labels_of(session: Session, snapshot_pk: int) -> set[tuple[str, str, RetrainSplit]]:
    """The contents of a snapshot: (image, version of its label, split)."""
    rows = session.execute(
        select(RetrainItem.sop_instance_uid, RetrainItem.label_version, RetrainItem.split).where(
            RetrainItem.snapshot_pk == snapshot_pk
        )
    )
    return {(uid, version, split) for uid, version, split in rows}


def last_compared(session: Session) -> RetrainRun | None:
    """The newest run that came to a decision."""
    decided = (RunState.DECIDED, RunState.PROMOTED, RunState.REFUSED)
    return session.scalars(
        select(RetrainRun).where(RetrainRun.state.in_(decided)).order_by(RetrainRun.id.desc())
    ).first()


def new_name(session: Session, now: dt.datetime) -> str:
    """A name by the time, free in runs and snapshots: "20260301-220000", or with "-2" behind it."""
    taken = set(session.scalars(select(RetrainSnapshot.name))) | set(session.scalars(select(RetrainRun.name)))
    stem = f"{now:%Y%m%d-%H%M%S}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
