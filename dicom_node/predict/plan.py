"""From the files of a run to its studies: which objects are one study, and which others may hold its prior.

The candidates are those of the service (`dicom_node.index.queries.prior_candidates`): other studies under any ID that
is said to be this person's, dated before or with the study, inside the look-back window, the newest MOST_STUDIES of
them. The rules then decide (`dicom_node.priors`).
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dicom_node.index.queries import MOST_STUDIES
from dicom_node.predict.headers import FileHeader
from dicom_node.predict.inputs import InputFile


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyItem:
    """One study to be analysed, or one file that no study can be made of.

    images: objects of the study. earlier: objects of other studies that may be this person's. disputed: SOP Instance
    UIDs that two files claim for two people. fault: why there is no study; `images` then holds the one file.
    """

    study_uid: str
    images: tuple[InputFile, ...]
    earlier: tuple[InputFile, ...] = ()
    disputed: tuple[str, ...] = ()
    fault: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Study:
    """A study while the files are gone through."""

    uid: str
    date: str = ""
    time: str = ""
    files: list[InputFile] = field(default_factory=list)
    patient_ids: set[str] = field(default_factory=set)
    own_ids: set[str] = field(default_factory=set)

    def add(self, file: InputFile, header: FileHeader) -> None:
        self.files.append(file)
        self.date, self.time = self.date or header.study_date, self.time or header.study_time
        self.patient_ids.update(header.patient_ids)
        self.own_ids.update({header.patient_id} - {""})


def plan_studies(files: Sequence[InputFile], headers: Sequence[FileHeader], *, look_back_days: int) -> list[StudyItem]:
    """The studies of the run in the order of their first files, then the files that are no part of one."""
    studies: dict[str, _Study] = {}
    faults: list[StudyItem] = []
    held: dict[str, tuple[InputFile, FileHeader]] = {}
    disputed: set[str] = set()
    for file, header in zip(files, headers, strict=True):
        # Of two files with one UID the first is used; where they name two people, neither, and studies that rest on it
        # are marked as disputed.
        fault = header.fault or _duplicate(file, header, held, disputed)
        if fault:
            faults.append(StudyItem(study_uid=header.study_uid, images=(file,), fault=fault))
            continue
        held[header.sop_instance_uid] = (file, header)
        studies.setdefault(header.study_uid, _Study(uid=header.study_uid)).add(file, header)
    by_patient: defaultdict[str, list[_Study]] = defaultdict(list)
    for study in studies.values():
        # A study may bear several IDs of one person; priors are looked for under each.
        for patient_id in study.own_ids:
            by_patient[patient_id].append(study)
    at = {file.location: (file, header) for file, header in held.values()}
    items = []
    for study in studies.values():
        images = tuple(file for file in study.files if file.is_analysed)
        if not images:
            continue
        earlier = _candidates(study, by_patient, at, look_back_days)
        uids = {at[file.location][1].sop_instance_uid for file in (*images, *earlier)}
        items.append(
            StudyItem(
                study_uid=study.uid, images=images, earlier=tuple(earlier), disputed=tuple(sorted(uids & disputed))
            )
        )
    return [*items, *faults]


def _duplicate(
    file: InputFile, header: FileHeader, held: Mapping[str, tuple[InputFile, FileHeader]], disputed: set[str]
) -> str:
    """Why a file whose SOP Instance UID came before is not used; "" for one that is new."""
    if header.sop_instance_uid not in held:
        return ""
    first, known = held[header.sop_instance_uid]
    if known.person == header.person and known.study_uid == header.study_uid:
        return f"its SOP Instance UID is that of {first.location}, which is used"
    disputed.add(header.sop_instance_uid)
    return f"its SOP Instance UID is that of {first.location}, which names another patient or study; neither is used"


def _candidates(
    study: _Study,
    by_patient: Mapping[str, list[_Study]],
    at: Mapping[str, tuple[InputFile, FileHeader]],
    look_back_days: int,
) -> list[InputFile]:
    """The objects that may be compared with: those that the table names, else those of the person's earlier studies."""
    named = [file.priors for file in study.files if file.is_analysed and file.priors is not None]
    if named:
        known = (
            at[location]
            for location in dict.fromkeys(location for some in named for location in some)
            if location in at
        )
        return [file for file, header in known if header.study_uid != study.uid]
    first = _first_day(study.date, look_back_days)
    candidates = {
        other.uid: other
        for patient_id in sorted(study.patient_ids)
        for other in by_patient.get(patient_id, ())
        if other is not study
        and (not other.date or (other.date >= first and (not study.date or other.date <= study.date)))
    }
    # Two stable sorts: the newest first, and by UID among those of one moment, so that the same files give the same
    # plan.
    newest = sorted(candidates.values(), key=lambda other: other.uid)
    newest.sort(key=lambda other: (other.date, other.time), reverse=True)
    return [file for other in newest[:MOST_STUDIES] for file in other.files]


def _first_day(study_date: str, look_back_days: int) -> str:
    """The first day of the window; one more than asked, because time of day is the rules' business."""
    try:
        day = dt.datetime.strptime(study_date, "%Y%m%d").date().toordinal()  # noqa: DTZ007 - DICOM dates are local
    except ValueError:
        return ""
    return dt.date.fromordinal(max(day - look_back_days - 1, 1)).strftime("%Y%m%d")
