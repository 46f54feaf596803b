"""An archive's past: small phantom films of some patients over three months, and studies that are none of a chest."""

from __future__ import annotations

import copy
import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from sqlalchemy import func, select

from dicom_node.analysis import job as analyse_job
from dicom_node.backfill import job as backfill
from dicom_node.backfill import runs
from dicom_node.backfill.drive import drive
from dicom_node.config import QueryPeer
from dicom_node.context import NodeContext, utc_now
from dicom_node.dicom.uids import derive_uid
from dicom_node.index.tables.backfill import BackfillItem, BackfillRange, BackfillRun
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import queue as jobs
from tests.support.fixed_model import FixedTimeModel
from tests.support.receiver import running_node
from training.phantom.dicom import Subject, write_study_pair


class SetClock:
    """A clock that a test sets."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


PATIENTS = 3
DATES = ("20240105", "20240110", "20240220")
"""Each patient has a film on each of them."""
SPAN = ("2024-01-01", "2024-03-31")


def film(base: Dataset, name: str, patient: str, date: str, time: str, **elements: Any) -> Dataset:
    """A film like `base`, but of another study and of pixels of its own."""
    made = copy.deepcopy(base)
    shift = int(derive_uid("pixels", name)[-4:]) % 200 + 1
    pixels = np.frombuffer(base.PixelData, "<u2").astype(np.int32)
    values: dict[str, Any] = {
        "PatientID": patient,
        "PatientName": f"Past^{patient}",
        "PatientBirthDate": "19600101",
        "PatientSex": "F",
        "StudyInstanceUID": derive_uid("past", name),
        "SeriesInstanceUID": derive_uid("past", name, "1"),
        "SOPInstanceUID": derive_uid("past", name, "1", "1"),
        "AccessionNumber": f"PAST-{name}"[:16],  # "empty" alone stands in many a log line
        "PixelData": np.clip(pixels + shift, 0, 4095).astype("<u2").tobytes(),
        **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), date),
        **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), time),
        **elements,
    }
    for keyword, value in values.items():
        if value is None:
            if keyword in made:
                delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def frontal_films(folder: Path) -> list[Dataset]:
    """PATIENTS times DATES frontal films, in order of time; those of one patient look different."""
    pairs = [write_study_pair(folder / str(seed), seed, long_side=256) for seed in (31, 33)]
    bases = [pydicom.dcmread(study.files[0]) for pair in pairs for study in (pair.prior, pair.current)]
    return [
        film(bases[number], f"{patient}-{date}", f"P{patient}", date, f"{8 + patient:02d}{number:02d}00")
        for number, date in enumerate(DATES)
        for patient in range(PATIENTS)
    ]


def other_films(folder: Path) -> dict[str, Dataset]:
    """Studies of the same months that get no findings: name → film."""
    pair = write_study_pair(folder, 32, long_side=256, current_subject=Subject.LATERAL)
    base, lateral = (pydicom.dcmread(study.files[0]) for study in (pair.prior, pair.current))
    return {
        "knee": film(base, "knee", "X1", "20240112", "120000", BodyPartExamined="KNEE", StudyDescription="Knee"),
        "ct": film(base, "ct", "X2", "20240113", "120000", SOPClassUID=str(CTImageStorage), Modality="CT"),
        "lateral": film(lateral, "lateral", "X3", "20240114", "120000"),
        "empty": film(base, "empty", "X4", "20240115", "120000", PixelData=None),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillSite:
    """A node with a backfill beside an archive."""

    node: NodeContext

    def start(self, name: str = "past", **changes: Any) -> None:
        """Begin a run over SPAN, or as `changes` say."""
        first, last = (dt.date.fromisoformat(day) for day in SPAN)
        values: dict[str, Any] = {
            "archive": self.node.settings.query[0].name,
            "dates": (first, last),
            "studies": (),
            "sends_reports": False,
            "limits": runs.BackfillLimits(per_minute=1e6, at_once=4),
            "most_answers": 100,
            **changes,
        }
        new = runs.NewRun(name=name, **values)
        with self.node.database.write() as session:
            runs.start_run(session, new, settings=self.node.settings, now=self.node.clock(), who="test")

    def step(self, *kinds: JobKind) -> bool:
        """Do the next job of these kinds as a worker does; returns whether there was one."""
        with self.node.database.write() as session:
            job = jobs.claim(session, kinds=kinds, owner="test")
        if job is None:
            return False
        handlers = {
            JobKind.BACKFILL: backfill.handle,
            JobKind.ANALYSE: analyse_job.handler(FixedTimeModel(0.0)),  # type: ignore[arg-type]
        }
        handlers[job.kind](job, self.node)
        return True

    def work(self, *kinds: JobKind, until: Callable[[], bool] = lambda: False) -> None:
        """Drive the runs and do their jobs until nothing is left to do just now."""
        while not until():
            drive(self.node)
            if not self.step(*(kinds or (JobKind.BACKFILL, JobKind.ANALYSE))):
                return

    def run(self, name: str = "past") -> BackfillRun:
        with self.node.database.read() as session:
            return runs.run_named(session, name)

    def items(self) -> dict[str, BackfillItem]:
        """Each study of all runs by its UID."""
        with self.node.database.read() as session:
            return {item.study_instance_uid: item for item in session.scalars(select(BackfillItem))}

    def ranges(self) -> list[BackfillRange]:
        with self.node.database.read() as session:
            return list(session.scalars(select(BackfillRange).order_by(BackfillRange.id)))

    def count(self, *where: Any) -> int:
        with self.node.database.read() as session:
            return session.scalar(select(func.count()).where(*where)) or 0


@contextmanager
def backfill_site(
    folder: Path, peers: Sequence[QueryPeer], *, port: int = 0, clock: SetClock | None = None, **sections: Any
) -> Iterator[BackfillSite]:
    """A node that listens and knows these archives."""
    sections = {
        "query": [peer.model_dump() for peer in peers],
        "priors": {"query_seconds": 20, "retrieve_seconds": 20},
        "retention": {"keep_free_percent": 0.0, "emergency_free_percent": 0.0},
        "model": {"unfamiliar": "warn"},
        **sections,
    }
    with running_node(folder, node={"port": port}, **sections) as running:
        node = NodeContext(
            settings=running.settings,
            database=running.database,
            store=running.store,
            clock=clock or utc_now,
            stop=threading.Event(),
        )
        try:
            yield BackfillSite(node=node)
        finally:
            node.stop.set()
