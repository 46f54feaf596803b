"""The removal of old studies, and its order. Never what is not proven delivered, never what is held.

Which studies may go, and which are needed as priors, says `removable`. Order: too old; then, oldest first, until size
and disk watermark hold. In an emergency (free space below `emergency_free_percent`) priors go too, oldest first; what
is undelivered or held stays even then.
Removed are the images, the documents' files and the image rows; the study, its results and feedback stay as rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.chart import store as chart
from dicom_node.config import RetentionSection
from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Document, Instance, Result, Series, Study
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice
from dicom_node.retention.candidates import RetentionCandidate, candidates
from dicom_node.retention.disk import Usage, disk_usage
from dicom_node.serving import shadow

log = get_logger(__name__)

GIGABYTE = 10**9
BATCH = 200


class RemovalReason(StrEnum):
    """Why a study goes."""

    AGE = "age"
    """Older than keep_days."""
    SIZE = "size"
    """The store holds more than max_gigabytes."""
    DISK = "disk"
    """Free space is below keep_free_percent."""
    EMERGENCY = "emergency"
    """Free space is below emergency_free_percent: priors go too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One study that goes, and why."""

    candidate: RetentionCandidate
    why: RemovalReason


def plan(
    candidates: Sequence[RetentionCandidate], usage: Usage, settings: RetentionSection, now: dt.datetime
) -> list[Removal]:
    """The studies to remove now, in order. Pure: the same input gives the same plan."""
    oldest_first = sorted(candidates, key=lambda c: (c.last_instance_at, c.study_pk))
    # `images` and `free` are carried along, so that each removal is judged by what those before it have freed.
    removals: dict[int, Removal] = {}
    images, free = usage.images, usage.free

    def remove(candidate: RetentionCandidate, why: RemovalReason) -> None:
        nonlocal images, free
        removals[candidate.study_pk] = Removal(candidate=candidate, why=why)
        images -= candidate.size_bytes
        free += candidate.size_bytes

    def free_percent() -> float:
        return 100.0 * free / usage.total if usage.total else 100.0

    spare = [candidate for candidate in oldest_first if not candidate.needed_as_prior]
    for candidate in spare:
        too_old = settings.keep_days and candidate.last_instance_at < now - dt.timedelta(days=settings.keep_days)
        if too_old:
            remove(candidate, RemovalReason.AGE)
        elif settings.max_gigabytes and images > settings.max_gigabytes * GIGABYTE:
            remove(candidate, RemovalReason.SIZE)
        elif free_percent() < settings.keep_free_percent:
            remove(candidate, RemovalReason.DISK)
    # The disk is nearly full: now priors go too, because a node that cannot store anything is worse than a missing
    # comparison.
    for candidate in oldest_first:
        if free_percent() >= settings.emergency_free_percent:
            break
        if candidate.study_pk not in removals:
            remove(candidate, RemovalReason.EMERGENCY)
    return list(removals.values())


def usage_of(node: NodeContext, session: Session) -> Usage:
    """Total and free bytes of the disk that holds the images, and their bytes; a bucket has no disk that runs full."""
    images = int(session.scalar(select(func.coalesce(func.sum(Instance.size_bytes), 0))) or 0)
    if _is_in_bucket(node):
        return Usage(total=0, free=0, images=images)
    disk = disk_usage(node)
    return Usage(total=disk.total, free=disk.free, images=images)


def _is_in_bucket(node: NodeContext) -> bool:
    """Return whether images lie in a bucket, so that removing them frees nothing on this machine's disk."""
    return node.settings.storage.kind == "s3"


def plan_now(node: NodeContext) -> list[Removal]:
    """The studies that `run` would remove now."""
    settings, now = node.settings.retention, node.clock()
    with node.database.read() as session:
        removable = candidates(session, settings, destinations=node.settings.destinations, now=now)
        return plan(removable, usage_of(node, session), settings, now)


def run(node: NodeContext) -> None:
    """Tick: remove what may go, old audit messages and old answers of challengers."""
    removals = plan_now(node)
    carry_out(node, removals)
    with node.database.write() as session:
        now, settings = node.clock(), node.settings.retention
        audit.forget(session, before=now - dt.timedelta(days=settings.audit_days))
        shadow.forget(session, before=now - dt.timedelta(days=settings.shadow_days))
        chart.forget(session, before=now - dt.timedelta(days=node.settings.chart.keep_days))


def carry_out(node: NodeContext, removals: Sequence[Removal]) -> int:
    """Remove these studies, each looked at again in its own transaction; returns how many went."""
    removed = 0
    for removal in removals:
        paths = _forget_rows(node, removal)
        if paths is None:
            continue
        # Only after the commit: a crash here leaves files without rows, which the store finds at its next start.
        instances, documents = paths
        for path in instances:
            node.store.delete(path)
        for folder in {Path(path).parent.as_posix() for path in documents if Path(path).parent != Path()}:
            node.documents.remove(folder)
        removed += 1
    if removed:
        log.info("studies removed", count=removed, reasons=",".join(sorted({r.why.value for r in removals})))
    return removed


def _forget_rows(node: NodeContext, removal: Removal) -> tuple[list[str], list[str]] | None:
    """Delete the image rows of one study with its audit message; None where it may not go any more."""
    settings, now = node.settings.retention, node.clock()
    with node.database.write() as session:
        pk, destinations = removal.candidate.study_pk, node.settings.destinations
        # Asked again under this transaction: since the plan an image may have come, or a person may have held the
        # study.
        still = candidates(session, settings, destinations=destinations, now=now, study_pk=pk)
        candidate = still[0] if still else None
        if candidate is None or (candidate.needed_as_prior and removal.why is not RemovalReason.EMERGENCY):
            return None
        study = session.get_one(Study, candidate.study_pk)
        series = select(Series.id).where(Series.study_pk == study.id)
        instances, documents, counts = _contents(session, study, series)
        session.execute(delete(Instance).where(Instance.series_pk.in_(series)))
        session.execute(delete(Series).where(Series.study_pk == study.id))
        audit.record(
            session,
            audit.AuditedEvent.STUDY_DELETED,
            now=now,
            participants=(audit.this_node(node.settings.node.ae_title, requestor=True),),
            study=audit.AboutStudy(
                study_instance_uid=study.study_instance_uid,
                patient_id=study.patient_id,
                patient_name=study.patient_name,
                accession_number=study.accession_number,
                sop_classes=counts,
            ),
            site=node.settings.audit.site,
        )
    return instances, documents


def _contents(
    session: Session, study: Study, series: Select[int]
) -> tuple[list[str], list[str], tuple[tuple[str, int], ...]]:
    """Paths of the study's images, paths of its documents, and the number of images of each SOP class."""
    instances = list(session.scalars(select(Instance.path).where(Instance.series_pk.in_(series))))
    of_study = select(Document.path).join(Result, Document.result_pk == Result.id).where(Result.study_pk == study.id)
    counts = session.execute(
        select(Instance.sop_class_uid, func.count())
        .where(Instance.series_pk.in_(series))
        .group_by(Instance.sop_class_uid)
    ).all()
    return instances, list(session.scalars(of_study)), tuple((uid, count) for uid, count in counts)


def guard_disk(node: NodeContext) -> None:
    """Tick: tell people when the disk runs full, and clear it in an emergency without waiting for the hour."""
    usage, settings = disk_usage(node), node.settings.retention
    if usage.free_percent >= settings.keep_free_percent:
        return
    now = node.clock()
    with node.database.write() as session:
        text = f"the disk of the data folder has {usage.free_percent:.1f} % free"
        raise_notice(session, key=f"disk:{now:%Y-%m-%d}", kind="disk", text=text, now=now)
    if usage.free_percent < settings.emergency_free_percent and not _is_in_bucket(node):
        carry_out(node, plan_now(node)[:BATCH])
