"""The current results on a patient's earlier films, and whether they have changed since they were read.

A report rests on these results. Another worker may store one of them while this study is being analysed; the commit
then sees that what was read is no longer so, and the study is analysed once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Result
from dicom_node.priors import PriorChoice
from dicom_node.report.request import CoursePoint, ReportRequest
from dicom_node.report.rules import EarlierStatement
from dicom_node.report.stored import earlier_statements


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierReadings:
    """statements: SOP Instance UID → finding → statement, of one checkpoint. by_others: films of others alone."""

    statements: Mapping[str, Mapping[str, EarlierStatement]] = field(default_factory=dict)
    by_others: int = 0


Readings = Callable[[Sequence[str], str], EarlierReadings]
"""(SOP Instance UIDs, Device UID of the checkpoint) → what the current results on these images say."""


class EarlierResults:
    """Reads results and remembers which. Not for several threads."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._read: dict[tuple[str, ...], frozenset[int]] = {}

    def read(self, sop_instance_uids: Sequence[str], device_uid: str) -> EarlierReadings:
        """The current results on these images, those of the checkpoint with this Device UID apart from others'."""
        key = tuple(sorted(set(sop_instance_uids)))
        with self._node.database.read() as session:
            rows = _current(session, key)
        # Kept for the commit: where these results have changed until then, the report would rest on what no longer
        # holds.
        self._read[key] = frozenset(row.id for row in rows)
        statements, others = {}, set()
        for row in rows:
            stated = earlier_statements(row.prediction)
            if stated and row.device_uid == device_uid:
                statements[row.sop_instance_uid] = stated
            elif stated:
                others.add(row.sop_instance_uid)
        return EarlierReadings(statements=statements, by_others=len(others - set(statements)))

    def have_changed(self, session: Session) -> bool:
        """Tell whether one of the results that were read was replaced, or one came that was not there."""
        return any(frozenset(row.id for row in _current(session, key)) != ids for key, ids in self._read.items())


def _current(session: Session, sop_instance_uids: Sequence[str]) -> list[Result]:
    """At most some fifty images are admitted for a patient (`index.queries.MOST_STUDIES`)."""
    if not sop_instance_uids:
        return []
    chosen = select(Result).where(Result.sop_instance_uid.in_(sop_instance_uids), Result.is_current)
    return list(session.scalars(chosen.order_by(Result.id)))


def with_course(request: ReportRequest, choice: PriorChoice, readings_of: Readings) -> ReportRequest:
    """Add what was said of the prior and of the other earlier films, one of each study."""
    if choice.prior is None:
        return request
    admitted = [verdict.image for verdict in choice.verdicts if verdict.is_admitted]
    readings = readings_of([image.sop_instance_uid for image in admitted], request.model.device_uid)
    points: dict[str, CoursePoint] = {}
    for image in admitted:  # the best of each study first
        stated = readings.statements.get(image.sop_instance_uid)
        if stated is not None and image.taken_at is not None and image.study_instance_uid not in points:
            points[image.study_instance_uid] = CoursePoint(
                sop_instance_uid=image.sop_instance_uid,
                taken=image.taken_at,
                statements=stated,
                study_instance_uid=image.study_instance_uid,
                series_instance_uid=image.series_instance_uid,
                sop_class_uid=image.sop_class_uid,
            )
    return replace(
        request,
        earlier=readings.statements.get(choice.prior.sop_instance_uid),
        course=tuple(sorted(points.values(), key=lambda point: (point.taken, point.sop_instance_uid))),
        course_left_out=readings.by_others,
    )
