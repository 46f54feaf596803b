"""A run counted without beginning it: the archive is asked, and nothing is fetched or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from dicom_node.backfill.listing import ask_in_parts
from dicom_node.backfill.runs import NewRun, peer_named
from dicom_node.backfill.spans import months
from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Study, StudyPurpose
from dicom_node.priors.retrieval.fetch import open_archive

_PAGE = 500


@dataclass(slots=True, kw_only=True)
class DryRun:
    """Counts of a run's studies; incomplete: sentences on dates whose studies may be missing."""

    radiographs: int = 0
    of_unknown_modality: int = 0
    of_other_modalities: int = 0
    known: int = 0
    incomplete: list[str] = field(default_factory=list)

    @property
    def to_fetch(self) -> int:
        """Studies that the run would fetch, without their priors."""
        return self.radiographs - self.known

    def values(self) -> dict[str, object]:
        """The counts for people and programs."""
        return {
            "studies_with_radiographs": self.radiographs,
            "of_these_of_unknown_modality": self.of_unknown_modality,
            "of_other_modalities": self.of_other_modalities,
            "already_analysed": self.known,
            "to_fetch": self.to_fetch,
            "incomplete": self.incomplete,
        }


def dry_run(new: NewRun, node: NodeContext) -> DryRun:
    """Count the studies of some dates, or of a list, of which the archive is not asked. Raises RetrieveError."""
    counted = DryRun()
    uids = set(new.studies)
    if new.dates is not None:
        archive = open_archive(peer_named(node.settings, new.archive), node)
        unknown: set[str] = set()
        for month in months(*new.dates):
            for span, answer in ask_in_parts(archive, month, most=new.most_answers):
                counted.of_other_modalities += answer.others
                uids.update(study.study_instance_uid for study in answer.radiographs)
                unknown.update(study.study_instance_uid for study in answer.radiographs if not study.modalities)
                if answer.cut:
                    counted.incomplete.append(f"{span.dates} {span.times}: the archive {answer.cut}")
        counted.of_unknown_modality = len(unknown)
    counted.radiographs = len(uids)
    counted.known = _count_known(sorted(uids), node)
    return counted


def _count_known(uids: Sequence[str], node: NodeContext) -> int:
    """Those of the studies that this node was sent, or has analysed."""
    known = 0
    with node.database.read() as session:
        for start in range(0, len(uids), _PAGE):  # SQLite takes a limited number of parameters
            chosen = Study.study_instance_uid.in_(uids[start : start + _PAGE])
            own = Study.purpose.in_((StudyPurpose.ROUTED, StudyPurpose.BACKFILL))
            known += len(session.scalars(select(Study.id).where(chosen, own)).all())
    return known
