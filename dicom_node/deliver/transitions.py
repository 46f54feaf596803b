"""Every transition of a delivery's state. One row owns the state of one document at one destination.

    pending -A-> stored             C-STORE or STOW-RS was answered with Success; the proof is outstanding
    stored  -B-> confirmed          the proof came by the means that the destination is configured for
    dead    -B-> confirmed          … after the delivery had been given up
    stored  -C-> pending            the proof failed: send again
    pending or stored -D-> dead     given up: refused for good, out of attempts, or its job died
    pending or stored -E-> superseded   a newer result of the study exists, and the destination has not this one
    dead    -F-> abandoned          an administrator's decision
    dead    -G-> pending            an administrator's retry
    any     -H-> pending            an administrator's resend

Each function changes the row that it is given; the caller owns the transaction, in which the job changes too
(`dicom_node.jobs.queue`).
"""

from __future__ import annotations

import datetime as dt

from dicom_node.index.tables.core import Delivery, DeliveryState


def mark_stored(delivery: Delivery, sop_class_uid: str, now: dt.datetime) -> None:
    """Transition A: the destination accepted the document in this SOP class."""
    delivery.state = DeliveryState.STORED
    delivery.attempts += 1
    delivery.accepted_sop_class_uid = sop_class_uid
    delivery.stored_at = delivery.updated_at = now
    delivery.commitment_transaction_uid, delivery.commitment_asked_at = "", None
    delivery.proof_attempts, delivery.last_error = 0, ""


def ask_for_proof(delivery: Delivery, now: dt.datetime) -> None:
    """Count a request for the proof of what is stored; the state stays."""
    delivery.proof_attempts += 1
    delivery.updated_at = now


def ask_for_commitment(delivery: Delivery, transaction_uid: str, now: dt.datetime) -> None:
    """The same by storage commitment, whose report will name this transaction."""
    ask_for_proof(delivery, now)
    delivery.commitment_transaction_uid, delivery.commitment_asked_at = transaction_uid, now


def confirm(delivery: Delivery, proof: str, now: dt.datetime) -> None:
    """Transition B. proof: "commitment", "find", "stow" or "none"."""
    delivery.state, delivery.proof, delivery.last_error = DeliveryState.CONFIRMED, proof, ""
    delivery.confirmed_at = delivery.updated_at = now


def send_again(delivery: Delivery, error: str, now: dt.datetime) -> None:
    """Transition C: accepted, and lost or not committed to."""
    delivery.state = DeliveryState.PENDING
    delivery.commitment_transaction_uid, delivery.commitment_asked_at = "", None
    delivery.last_error, delivery.updated_at = error, now


def give_up(delivery: Delivery, error: str, now: dt.datetime) -> None:
    """Transition D."""
    delivery.state, delivery.last_error, delivery.updated_at = DeliveryState.DEAD, error, now


def supersede(delivery: Delivery, now: dt.datetime) -> None:
    """Transition E."""
    delivery.state, delivery.updated_at = DeliveryState.SUPERSEDED, now


def abandon(delivery: Delivery, reason: str, now: dt.datetime) -> None:
    """Transition F. reason: who decided it, and why."""
    delivery.state, delivery.last_error, delivery.updated_at = DeliveryState.ABANDONED, reason, now


def revive(delivery: Delivery, now: dt.datetime) -> None:
    """Transition G: its dead job is tried again from the first attempt."""
    delivery.state, delivery.attempts, delivery.updated_at = DeliveryState.PENDING, 0, now


def restart(delivery: Delivery, now: dt.datetime) -> None:
    """Transition H: send from the beginning, whatever became of it before."""
    delivery.state = DeliveryState.PENDING
    delivery.proof, delivery.last_error, delivery.commitment_transaction_uid = "", "", ""
    delivery.attempts = delivery.proof_attempts = 0
    delivery.stored_at = delivery.confirmed_at = delivery.commitment_asked_at = None
    delivery.updated_at = now
