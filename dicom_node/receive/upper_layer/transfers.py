"""Transfers over one association, by study: the book from which its closing audit messages are written. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from dicom_node.audit.messages import AboutStudy
from dicom_node.dicom.header import InstanceHeader


@dataclass(slots=True, kw_only=True)
class StudyTransfer:
    """The instances of one study that were taken on one association."""

    header: InstanceHeader
    """Of its first instance: the patient that the messages name."""
    sop_classes: Counter[str] = field(default_factory=Counter)
    new: int = 0
    """The number of them that were not held before."""

    def about(self) -> AboutStudy:
        """The study as the audit message has it."""
        return about(self.header, tuple(sorted(self.sop_classes.items())))


class TransferBook:
    """One association's book; used by its one thread."""

    def __init__(self) -> None:
        self._studies: dict[str, StudyTransfer] = {}

    def __contains__(self, study_instance_uid: str) -> bool:
        return study_instance_uid in self._studies

    def __iter__(self) -> Iterator[StudyTransfer]:
        return iter(self._studies.values())

    def add(self, header: InstanceHeader, sop_class_uid: str, *, is_new: bool) -> None:
        """One instance was answered with Success."""
        transfer = self._studies.setdefault(header.study_instance_uid, StudyTransfer(header=header))
        transfer.sop_classes[sop_class_uid] += 1
        transfer.new += is_new


def about(header: InstanceHeader, sop_classes: tuple[tuple[str, int], ...] = ()) -> AboutStudy:
    """The study and patient of a header, as the audit message has them."""
    return AboutStudy(
        study_instance_uid=header.study_instance_uid,
        patient_id=header.patient_id,
        patient_name=header.patient_name,
        accession_number=header.accession_number,
        sop_classes=sop_classes,
    )
