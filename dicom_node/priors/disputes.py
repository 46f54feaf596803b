"""Images whose UID was also sent for another patient: which of the two is right, nobody here can know."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.dicom.read import read_object
from dicom_node.errors import StorageError, UnreadableObjectError
from dicom_node.index.tables.core import Quarantine, QuarantineReason
from dicom_node.logs import get_logger
from dicom_node.priors.facts import patient_of
from dicom_node.priors.identity import Identity, compare_identity
from dicom_node.priors.types import Patient, PriorPolicy

log = get_logger(__name__)

DISPUTED = "another object with its UID came for another patient and was set aside"


def find_disputed_uids(node: NodeContext, held: Mapping[str, Patient], policy: PriorPolicy) -> frozenset[str]:
    """SOPInstanceUIDs among `held` (with whose they are here) that a quarantined object claims for somebody else.

    An administrator who has settled the quarantine (`dicom-node quarantine --settle`) ends the dispute.
    """
    if not held:
        return frozenset()
    disputed: set[str] = set()
    open_conflict = (Quarantine.reason == QuarantineReason.CONFLICT) & Quarantine.resolved_at.is_(None)
    uids = sorted(held)
    for start in range(0, len(uids), 500):  # SQLite takes a limited number of parameters
        with node.database.read() as session:
            rows = session.execute(
                select(Quarantine.sop_instance_uid, Quarantine.path).where(
                    open_conflict, Quarantine.sop_instance_uid.in_(uids[start : start + 500])
                )
            ).all()
        disputed.update(uid for uid, path in rows if not _is_same_person(node, path, held[uid], policy))
    return frozenset(disputed)


def _is_same_person(node: NodeContext, path: str, ours: Patient, policy: PriorPolicy) -> bool:
    """Tell whether the object set aside is proven the same person's; of one that cannot be read nothing is."""
    try:
        header = read_object(node.store.path(path))
    except (OSError, UnreadableObjectError, StorageError) as error:
        log.error("quarantined object cannot be read", why=str(error))
        return False
    patient = patient_of(header)
    if patient.key == ours.key and patient.birth_date == ours.birth_date and patient.name == ours.name:
        return True  # the same words, or the same silence: another rendition of one film
    return compare_identity(ours, patient, policy).identity is Identity.SAME
