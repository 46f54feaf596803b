"""Completion by count: a study is complete when a query peer holds exactly as many of its instances as we do."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.errors import RetrieveError
from dicom_node.index.queries import count_instances
from dicom_node.index.tables.core import Study, StudyPurpose, StudyState
from dicom_node.logs import get_logger
from dicom_node.priors.retrieval.fetch import open_archive
from dicom_node.studies.completion import close_counted

log = get_logger(__name__)

MOST_AT_ONCE = 20


@dataclass(slots=True, kw_only=True)
class CountAgreement:
    """A tick's action. Remembers when it asked about a study, so that an archive is not asked every second.

    A peer that fails is left alone for `pause`; the quiet period closes the study then, as without a peer.
    """

    pause: dt.timedelta = dt.timedelta(seconds=60)
    _asked: dict[str, dt.datetime] = field(default_factory=dict)
    _failed: dict[str, dt.datetime] = field(default_factory=dict)

    def __call__(self, node: NodeContext) -> None:
        """Ask about every open study that has been quiet for `count_seconds`, and close those that agree."""
        seconds = node.settings.completion.count_seconds
        if not node.settings.query or seconds <= 0 or seconds >= node.settings.completion.quiet_seconds:
            return
        now = node.clock()
        since = now - dt.timedelta(seconds=seconds)
        with node.database.read() as session:
            due = session.scalars(
                select(Study.study_instance_uid)
                .where(
                    Study.state == StudyState.OPEN,
                    Study.purpose == StudyPurpose.ROUTED,
                    Study.last_instance_at <= since,
                )
                .order_by(Study.last_instance_at)
                .limit(MOST_AT_ONCE)
            ).all()
        # At most once in `count_seconds`; after that again, because more images may have come.
        self._asked = {uid: when for uid, when in self._asked.items() if when > since}
        for uid in due:
            if uid not in self._asked and not node.stop.is_set():
                self._asked[uid] = now
                self._ask(uid, node)

    def _ask(self, uid: str, node: NodeContext) -> None:
        for peer in node.settings.query:
            if self._failed.get(peer.name, dt.datetime.min.replace(tzinfo=dt.UTC)) + self.pause > node.clock():
                continue
            try:
                count = open_archive(peer, node).count(uid)
            except RetrieveError as error:
                self._failed[peer.name] = node.clock()
                log.warning("instances not counted", why=str(error))
                continue
            with node.database.read() as session:
                held = count_instances(session, uid)
            # Equal only: an archive that has more is still to send it, and one that has fewer is not where it came
            # from.
            if count is not None and count == held:
                with node.database.write() as session:
                    if close_counted(session, study_instance_uid=uid, count=count, now=node.clock()):
                        log.info("study complete by count", instances=count, peer=peer.name)
                return
