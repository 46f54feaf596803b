"""Objects set apart that need a person: the list, and the record that one is settled."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.admin import operations
from dicom_node.context import NodeContext
from dicom_node.dicom.read import read_object
from dicom_node.errors import StorageError, UnreadableObjectError, UsageError
from dicom_node.index.tables.core import Instance, Quarantine, QuarantineReason, Series, Study
from dicom_node.logs import get_logger
from dicom_node.priors import policy_in_service
from dicom_node.priors.disputes import find_disputed_uids
from dicom_node.priors.facts import patient_of
from dicom_node.priors.types import Patient
from dicom_node.studies.reopen import reopen_resting_on

log = get_logger(__name__)


def waiting(session: Session, *, limit: int) -> list[Quarantine]:
    """Objects set apart and not yet settled, newest first."""
    unsettled = select(Quarantine).where(Quarantine.resolved_at.is_(None))
    return list(session.scalars(unsettled.order_by(Quarantine.received_at.desc(), Quarantine.id).limit(limit)))


def settle(node: NodeContext, ids: Collection[int], *, who: str) -> int:
    """A person has looked into these objects: what the index holds is right. Returns how many studies are opened anew.

    An image of ours that such an object claimed for another patient may be used again, so its study is analysed once
    more. The objects' files are deleted. Raises UsageError where one is not in quarantine, or settled already, and then
    changes nothing.
    """
    freed = _find_claimed_uids(node, ids)
    with node.database.write() as session:
        rows = _find_open_entries(session, ids)
        now = node.clock()
        for row in rows:
            row.resolved_at = now
        session.flush()
        holding = select(Study).join(Study.series).join(Series.instances)
        studies = session.scalars(holding.where(Instance.sop_instance_uid.in_(freed)).distinct()).all()
        for study in studies:
            reopen_resting_on(session, study.study_instance_uid, now=now)
            operations.record_change(session, node.settings, study, now=now, who=who)
        paths = [row.path for row in rows]
    for path in paths:
        node.store.delete(path)
    log.info("quarantine settled", objects=len(paths), studies=len(studies))
    return len(studies)


def _find_open_entries(session: Session, ids: Collection[int]) -> Sequence[Quarantine]:
    rows = session.scalars(select(Quarantine).where(Quarantine.id.in_(ids), Quarantine.resolved_at.is_(None))).all()
    others = sorted(set(ids) - {row.id for row in rows})
    if others:
        raise UsageError(f"not in quarantine: {', '.join(map(str, others))}; `dicom-node quarantine` lists what is")
    return rows


def _find_claimed_uids(node: NodeContext, ids: Collection[int]) -> frozenset[str]:
    """SOPInstanceUIDs of ours that these objects, and perhaps others, claim for another patient."""
    with node.database.read() as session:
        conflicts = [row for row in _find_open_entries(session, ids) if row.reason is QuarantineReason.CONFLICT]
        ours = select(Instance.sop_instance_uid, Instance.path).where(
            Instance.sop_instance_uid.in_([row.sop_instance_uid for row in conflicts])
        )
        held = {uid: _patient(node, path) for uid, path in session.execute(ours)}
    return find_disputed_uids(node, held, policy_in_service(node.settings))


def _patient(node: NodeContext, path: str) -> Patient:
    try:
        return patient_of(read_object(node.store.path(path)))
    except (OSError, UnreadableObjectError, StorageError):
        return patient_of(Dataset())
