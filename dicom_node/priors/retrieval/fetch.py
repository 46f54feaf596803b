"""Bring one study of an archive into store and index, as comparison material, and count what arrived.

An archive's "success" is believed when as many images are in the index as it listed.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from dicom_node.config import QueryPeer, Retrieve
from dicom_node.context import NodeContext
from dicom_node.dicom.dimse_status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.read import read_object
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import (
    IndexUnavailableError,
    RetrieveError,
    StorageError,
    TooManyImagesError,
    UnreadableObjectError,
)
from dicom_node.index.queries import instances_of_study, study_by_uid
from dicom_node.index.tables.core import ExpectedRetrieval, Instance, QuarantineReason, Series, Study
from dicom_node.logs import get_logger
from dicom_node.priors.current import select_current
from dicom_node.priors.facts import facts_of
from dicom_node.priors.retrieval.archive import (
    Archive,
    RemoteSeries,
    RemoteStudy,
    count_instances_of,
    select_series,
)
from dicom_node.priors.retrieval.dimse import DimseArchive, Sink
from dicom_node.priors.types import ImageFacts, PriorPolicy
from dicom_node.storage.instance_store import StoredFile
from dicom_node.studies.received_instance import PRIOR, ReceivedInstance
from dicom_node.studies.register import Registered, Registration, register_instance
from dicom_node.studies.reopen import quarantine_instance, replace_lost

log = get_logger(__name__)

_T = TypeVar("_T")
SETTLE_SECONDS = 5.0
"""Some archives say success before the last image is through: so long without a new one, and it will not come."""
LATE_SECONDS = 120.0
"""So long after a C-MOVE its images are still known for what they are."""
POLL_SECONDS = 0.1


class Fetched(StrEnum):
    """The outcome of fetching one study."""

    BROUGHT = "brought"
    """It was retrieved, and as many images arrived as the archive listed."""
    HELD = "held"
    """All of it was here already."""
    UNSUITABLE = "unsuitable"
    """No series of it may hold a frontal chest radiograph."""


def open_archive(peer: QueryPeer, node: NodeContext) -> Archive:
    """The peer behind its protocol."""
    priors = node.settings.priors
    if peer.retrieve is Retrieve.DICOMWEB:
        from dicom_node.priors.retrieval.dicomweb import WebArchive  # it brings a library of HTTP

        return WebArchive(
            peer=peer,
            query_seconds=priors.query_seconds,
            retrieve_seconds=priors.retrieve_seconds,
            stop=node.stop,
            sink=_sink(peer, node),
        )
    return DimseArchive(
        peer=peer,
        own_ae_title=node.settings.node.ae_title,
        query_seconds=priors.query_seconds,
        retrieve_seconds=priors.retrieve_seconds,
        stop=node.stop,
        sink=_sink(peer, node),
    )


def fetch_study(study: RemoteStudy, archive: Archive, peer: QueryPeer, node: NodeContext) -> Fetched:
    """Bring one study. Raises RetrieveError where not all of it came."""
    uid = study.study_instance_uid
    try:
        listed = archive.series(uid)
    except RetrieveError as error:
        # A peer may answer queries at STUDY level only: then the whole study is fetched.
        log.info("series are not listed", peer=peer.name, why=str(error))
        listed = []
    series = select_series(listed, study)
    if listed and not series:
        return Fetched.UNSUITABLE
    expected = count_instances_of(series) if series else study.instances
    if expected is not None and expected > node.settings.priors.fetch_instances:
        raise TooManyImagesError(f"a study has {expected} images, more than priors.fetch_instances allows")
    if expected is not None and _count_arrived(node, uid, series) >= expected:
        return Fetched.HELD
    expect_retrieval(peer, uid, node, expected=True)
    try:
        _retrieve(uid, series, expected, archive, peer, node)
    finally:
        expect_retrieval(peer, uid, node, expected=False)
    return Fetched.BROUGHT


def _retrieve(
    uid: str, series: Sequence[RemoteSeries], expected: int | None, archive: Archive, peer: QueryPeer, node: NodeContext
) -> None:
    """Retrieve and count. What counts is what arrived: an error of a peer that sent everything is none."""
    failure: RetrieveError | None = None
    for series_uid in [s.series_instance_uid for s in series] or [""]:
        try:
            archive.retrieve(uid, series_uid)
        except RetrieveError as error:
            failure = error
            break
    # An archive that gives no number has one image at least, or it would not have listed the study.
    arrived = _wait_for_images(node, uid, series, expected or 1, patient=failure is None)
    if arrived < (expected or 1):
        outcome = str(failure) if failure else f"the archive {peer.name!r} said success"
        raise RetrieveError(f"{outcome}; {arrived} of {expected if expected is not None else 'the'} images arrived")
    # Without a number from the archive nobody can tell whether all of it came before the failure.
    if failure is not None and expected is None:
        raise failure


def _wait_for_images(
    node: NodeContext, uid: str, series: Sequence[RemoteSeries], expected: int, *, patient: bool
) -> int:
    """Wait until all images are here or no more come; returns the number that are here."""
    arrived = _count_arrived(node, uid, series)
    # Each image that arrives buys more time; an archive that sends nothing more does not hold up the report.
    quiet_until = time.monotonic() + (SETTLE_SECONDS if patient else 1.0)
    while arrived < expected and time.monotonic() < quiet_until and not node.stop.wait(POLL_SECONDS):
        now_here = _count_arrived(node, uid, series)
        if now_here > arrived:
            arrived, quiet_until = now_here, time.monotonic() + SETTLE_SECONDS
    return arrived


def _count_arrived(node: NodeContext, uid: str, series: Sequence[RemoteSeries]) -> int:
    condition = Study.study_instance_uid == uid
    if series:
        condition &= Series.series_instance_uid.in_([s.series_instance_uid for s in series])
    counted = select(func.count(Instance.id)).select_from(Instance).join(Instance.series).join(Series.study)
    with node.database.read() as session:
        return session.scalar(counted.where(condition)) or 0


def holds_frontal_chest(uid: str, policy: PriorPolicy, node: NodeContext) -> bool:
    """Tell whether a fetched study holds a film to compare with. One that does not uses up no place: see `job.search`.

    Many archives keep neither body part nor view in their index, so that only the image itself tells.
    """
    return bool(select_current(facts_of_held(uid, node), policy).chosen)


def facts_of_held(uid: str, node: NodeContext) -> list[ImageFacts]:
    """Return what the headers of a study's stored objects say; nothing of those that cannot be read."""
    with node.database.read() as session:
        study = study_by_uid(session, uid)
        rows = instances_of_study(session, study.id) if study is not None else []
    facts = []
    for row in rows:
        try:
            header = read_object(node.store.path(row.path))
        except (OSError, UnreadableObjectError, StorageError) as error:
            log.error("fetched image cannot be read", instance_pk=row.id, why=str(error))
            continue
        facts.append(facts_of(header, has_pixels=row.rows is not None))
    return facts


def expect_retrieval(peer: QueryPeer, uid: str, node: NodeContext, *, expected: bool) -> None:
    """Mark what this node asks a peer for by C-MOVE: only such objects, from that peer, are comparison material.

    An image may arrive a little after the peer has said that all are sent, so the mark outlives the request; not so
    where the image itself does not say whose request it answers, because the next one may be routed.
    """
    if peer.retrieve is not Retrieve.MOVE:
        return
    now = node.clock()
    seconds = 4 * node.settings.priors.retrieve_seconds if expected else LATE_SECONDS
    with node.database.write() as session:
        is_over = (ExpectedRetrieval.study_instance_uid == uid) | (ExpectedRetrieval.until < now)
        session.execute(delete(ExpectedRetrieval).where(is_over))
        # A late image that names our request (Move Originator, PS3.7 9.1.1.1) can be told from a routed one.
        if expected or peer.names_originator:
            until = now + dt.timedelta(seconds=seconds)
            session.add(ExpectedRetrieval(study_instance_uid=uid, calling_ae_title=peer.ae_title, until=until))


def _sink(peer: QueryPeer, node: NodeContext) -> Sink:
    """Store and index images that come by C-GET or WADO-RS as those that come by C-STORE, marked as a prior."""

    def take(data_set: bytes, meta: FileMeta) -> int:
        header = read_header(data_set, meta.transfer_syntax_uid)
        uids = (header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)
        if not all(map(is_uid, uids)) or header.sop_instance_uid != meta.sop_instance_uid:
            return CANNOT_UNDERSTAND
        try:
            stored = node.store.put(data_set, meta)
            received = ReceivedInstance.from_meta(meta, stored, header, calling_ae_title=peer.ae_title, purpose=PRIOR)
            with node.database.write() as session:
                registration = register_instance(session, received, now=node.clock())
            _keep_or_drop(peer, node, received, registration, stored)
        except (StorageError, IndexUnavailableError) as error:
            log.error("fetched image not stored", why=str(error))
            return OUT_OF_RESOURCES
        return SUCCESS if registration.outcome in (Registered.NEW, Registered.DUPLICATE) else CANNOT_UNDERSTAND

    return take


def _keep_or_drop(
    peer: QueryPeer, node: NodeContext, received: ReceivedInstance, registration: Registration, stored: StoredFile
) -> None:
    """Keep the file as the row's own, in place of a lost one or set apart as evidence, or delete a superfluous one."""
    # The row is of this very file: nothing to decide.
    if registration.path == stored.path:
        return
    if registration.disputes:
        _quarantine(peer, node, received, registration, stored)
        return

    def run(work: Callable[[Session], _T]) -> _T:
        with node.database.write() as session:
            return work(session)

    if registration.outcome is not Registered.DUPLICATE or not replace_lost(
        node.store,
        run,
        lost=registration.path,
        stored=stored,
        sop_instance_uid=received.sop_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
    ):
        node.store.delete(stored.path)


def _quarantine(
    peer: QueryPeer, node: NodeContext, received: ReceivedInstance, registration: Registration, stored: StoredFile
) -> None:
    moved = replace(stored, path=node.store.quarantine(stored.path))
    with node.database.write() as session:
        is_first = quarantine_instance(
            session,
            reason=QuarantineReason.CONFLICT,
            detail=registration.detail,
            stored=moved,
            sop_class_uid=received.sop_class_uid,
            sop_instance_uid=received.sop_instance_uid,
            calling_ae_title=peer.ae_title[:16],
            address=peer.host,
            now=node.clock(),
            disputes=registration.disputes,
        )
    log.error("fetched image quarantined", detail=registration.detail, peer=peer.name)
    # The same bytes were set apart before, and one copy is evidence enough.
    if not is_first:
        node.store.delete(moved.path)
