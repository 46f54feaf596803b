"""Entries of the chart in the index: added and corrected by messages in any order, forgotten in time."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.chart.messages import ChartItem, ChartMessage
from dicom_node.chart.not_understood import count_part
from dicom_node.hl7.times import ClockTime
from dicom_node.index.tables.chart import ChartEntry, ChartKind
from dicom_node.index.tables.core import Instance, Series, Study
from dicom_node.index.upsert import insert_if_absent


def keep(session: Session, message: ChartMessage, *, now: dt.datetime, audited: audit.Participant, site: str) -> int:
    """Write a message's items, its unknown parts and one audit message, in the caller's transaction.

    Returns how many rows changed: none where the message came before, whatever its control id.
    """
    changed = sum(_keep_item(session, item, message, now=now) for item in message.items)
    if changed:  # a message that comes again adds nothing
        audit.record(
            session,
            audit.AuditedEvent.PATIENT_RECORD,
            now=now,
            participants=(audit.Participant(user_id=message.sender, role="source"), audited),
            patient_id=message.items[0].patient[0],
            site=site,
        )
    for part in message.unknown:
        count_part(session, part, now=now)
    return changed


def _keep_item(session: Session, item: ChartItem, message: ChartMessage, *, now: dt.datetime) -> bool:
    values = _values(item, message) | {"received_at": now}
    if insert_if_absent(session, ChartEntry, values, unique=["item_key"]) is not None:
        return True
    row = session.scalars(select(ChartEntry).where(ChartEntry.item_key == item.key).with_for_update()).one()
    columns = {name: value for name, value in _values(item, message).items() if name not in ("item_key", "kind")}
    is_older = message.at.text < row.message_at
    stands = (row.is_withdrawn, row.value, row.comparator)
    differs = item.kind is ChartKind.LAB and stands != (item.is_withdrawn, item.value, item.comparator)
    if is_older and differs:  # what stands was made known by the later message, whenever the laboratory reported
        columns = {"known_at": max(row.known_at, row.message_at)} if row.known_at else {}
    elif is_older:  # it can only fill in what a later message left open, such as a cancellation that came first
        columns = {name: value for name, value in columns.items() if getattr(row, name) in ("", None)}
    elif item.ends is not None and item.begins is None:  # the end of an order says nothing of its begin
        columns = {name: columns[name] for name in ("ends_at", "ends_zone", "message_at")}
    elif item.value is not None and not differs:
        del columns["known_at"], columns["known_zone"]  # said again: it was known before
    elif differs and item.known is not None and message.at.is_after(item.known):
        columns["known_at"] = message.at.text  # corrected under the status and the time of the first report
    changes = {name: value for name, value in columns.items() if getattr(row, name) != value}
    for name, value in changes.items():
        setattr(row, name, value)
    return bool(changes)


def _values(item: ChartItem, message: ChartMessage) -> dict[str, object]:
    return {
        "item_key": item.key,
        "kind": item.kind,
        "patient_id": item.patient[0],
        "issuer": item.patient[1],
        "sender": message.sender[:255],
        "name": item.name,
        "value": item.value,
        "comparator": item.comparator,
        "flag": item.flag,
        **_time("begins", item.begins),
        **_time("known", item.known),
        **_time("ends", item.ends),
        "message_at": message.at.text,
        "is_withdrawn": item.is_withdrawn,
    }


def _time(name: str, time: ClockTime | None) -> dict[str, object]:
    return {f"{name}_at": time.text if time else "", f"{name}_zone": time.zone if time else None}


def forget(session: Session, *, before: dt.datetime) -> int:
    """Delete entries that came before this, and those of patients of whom studies were held and no image is any more.

    Returns how many went.
    """
    of_patient = Study.patient_id == ChartEntry.patient_id
    has_studies = exists(select(Study.id).where(of_patient))
    has_images = exists(
        select(Instance.id)
        .join(Series, Instance.series_pk == Series.id)
        .join(Study, Series.study_pk == Study.id)
        .where(of_patient)
    )
    deleted = session.execute(
        delete(ChartEntry)
        .where((ChartEntry.received_at < before) | (has_studies & ~has_images))
        .returning(ChartEntry.id)
        .execution_options(synchronize_session=False)
    )
    return len(deleted.all())
