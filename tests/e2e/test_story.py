"""The whole story with real processes: storescu → `dicom-node serve` → Orthanc, and back comes what changed."""

from __future__ import annotations

import calendar
import csv
import datetime as dt
import functools
import io
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.demo.peers import send
from dicom_node.index.tables.core import Instance, Outcome, Result, Study
from model.schema import Change
from tests.support.common import shared, wait_until
from tests.support.dcmtk import echoscu, storescu
from tests.support.node import Node, destination, new_node, running
from tests.support.orthanc import Orthanc, running_orthanc
from training.phantom.dicom import Subject, write_study_pair

PATIENTS = ("HAN-0664ee2b", "HAN-0664ee2b_OTHER", "HAN-2d1f1ee8", "HAN-530a29b3", "NIH-00001108")
SIDE = 512
"""Pixels of the longer side of films whose size is not asked about; one pair has its full size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A node and the archive that it delivers to."""

    node: Node
    orthanc: Orthanc

    def results(self) -> dict[str, Result]:
        """Current results by Study Instance UID."""
        with self.node.database() as database, database.read() as session:
            rows = session.execute(
                select(Study.study_instance_uid, Result).join(Result.study).where(Result.is_current)
            ).all()
        return dict(rows)

    def reports(self, study_instance_uid: str) -> dict[str, Dataset]:
        """The SR documents of a study that Orthanc holds, by kind."""
        found: dict[str, Dataset] = {}
        for item in self.orthanc.instances(StudyInstanceUID=study_instance_uid, Modality="SR"):
            dataset = pydicom.dcmread(io.BytesIO(self.orthanc.file(item["ID"])))
            title = dataset.ConceptNameCodeSequence[0].CodeValue
            kind = {"126000": "machine", "18748-4": "reading"}[title]
            assert kind not in found, "one current document of each kind, never two"
            found[kind] = dataset
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    # priors are followed here; whether a film is like those of training is asked elsewhere
    node = new_node(folder / "node", extra='[model]\nunfamiliar = "warn"\n')
    with running_orthanc(folder / "orthanc", modalities={"LUMEN": ("127.0.0.1", node.port)}) as orthanc:
        with node.config.open("a") as config:
            config.write(destination("pacs", orthanc.ae_title, orthanc.dicom_port, "commitment"))
            config.write('documents = ["machine", "reading", "pdf", "capture"]\n')
        with running(node):
            yield Site(node=node, orthanc=orthanc)


def _texts(dataset: Dataset) -> str:
    """All text values of an SR, in order."""
    found = []
    for item in dataset.get("ContentSequence", []):
        if "TextValue" in item:
            found.append(str(item.TextValue))
        found.append(_texts(item))
    return "\n".join(text for text in found if text)


def _evidence(dataset: Dataset, keyword: str) -> set[str]:
    return {
        reference.ReferencedSOPInstanceUID
        for study in dataset.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }


def _spoken(date: str) -> str:
    """A DA value as the English report says it: "10 March 2026"."""
    day = dt.date(int(date[:4]), int(date[4:6]), int(date[6:]))
    return f"{day.day} {calendar.month_name[day.month]} {day.year}"


def orthanc_of(site: Site, study_instance_uid: str, modality: str) -> list[object]:
    """The instances of one modality that the archive holds of a study."""
    return site.orthanc.instances(StudyInstanceUID=study_instance_uid, Modality=modality)


def _is_alone(site: Site, study: str, modality: str) -> bool:
    return len(orthanc_of(site, study, modality)) == 1


def _has_reports(site: Site, study: str, count: int) -> bool:
    return len(site.reports(study)) == count


def _has_reading(site: Site, study: str) -> bool:
    return "reading" in site.reports(study)


def test_echo(site: Site) -> None:
    assert echoscu(site.node.port) == 0


def test_a_phantom_pair_is_compared(site: Site, tmp_path: Path) -> None:
    made = write_study_pair(tmp_path, 11)
    storescu([*made.prior.files, *made.current.files], site.node.port)
    uids = (made.prior.study_instance_uid, made.current.study_instance_uid)
    wait_until(lambda: set(uids) <= set(site.results()), seconds=120, what="both phantom studies")
    first, second = (site.results()[uid] for uid in uids)
    assert first.outcome is Outcome.FINDINGS_ONLY
    assert second.outcome is Outcome.COMPARED
    assert second.prior_study_instance_uid == made.prior.study_instance_uid
    wait_until(lambda: len(site.reports(uids[1])) == 2, what="both documents at the archive")
    reports = site.reports(uids[1])
    current, prior = (pydicom.dcmread(study.files[0]) for study in (made.current, made.prior))
    for report in reports.values():
        assert _evidence(report, "CurrentRequestedProcedureEvidenceSequence") == {current.SOPInstanceUID}
        assert _evidence(report, "PertinentOtherEvidenceSequence") == {prior.SOPInstanceUID}
        assert report.StudyInstanceUID == uids[1]
        assert report.PatientID == current.PatientID
    text = _texts(reports["reading"])
    for study in (current, prior):
        assert _spoken(study.StudyDate) in text
    allowed = {*Change, None}
    for finding in second.prediction["findings"]:
        assert finding["change"] in allowed
    assert any(finding["change"] is not None for finding in second.prediction["findings"])
    for modality in ("DOC", "OT"):  # the PDF and the capture that this destination asks for
        wait_until(functools.partial(_is_alone, site, uids[1], modality), what=f"the {modality} document")
    for finding in first.prediction["findings"]:
        assert finding["change"] is None, "without a prior there is no change"


@pytest.mark.shared_data
def test_real_patients_are_compared_with_their_own_priors(site: Site) -> None:
    folder = shared("data", "studies")
    with (folder / "manifest.csv").open(encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["file"].split("/")[0] in PATIENTS]
    rows.sort(key=lambda row: (row["study_date"], row["study_time"]))
    storescu([folder / row["file"] for row in rows], site.node.port)
    wanted = {row["study_instance_uid"] for row in rows}
    wait_until(lambda: wanted <= set(site.results()), seconds=240, what="all studies")
    results = site.results()
    expected: dict[str, str] = {}
    latest: dict[str, str] = {}
    for row in rows:
        person = row["file"].split("/")[0]
        expected[row["study_instance_uid"]] = latest.get(person, "")
        latest[person] = row["study_instance_uid"]
    chosen = {uid: results[uid].prior_study_instance_uid for uid in wanted}
    assert chosen == expected
    for row in rows:
        uid = row["study_instance_uid"]
        wait_until(functools.partial(_has_reports, site, uid, 2), what="both documents at the archive")
        text = _texts(site.reports(uid)["reading"])
        if not expected[uid]:
            assert "No comparison" in text
            continue
        prior_row = next(other for other in rows if other["study_instance_uid"] == expected[uid])
        for dated in (row, prior_row):
            assert _spoken(dated["study_date"]) in text


_CHEST = {"BodyPartExamined": "CHEST", "ViewPosition": "PA", "SeriesDescription": "Chest PA"}


def _variant(path: Path, target: Path, **changes: object) -> tuple[Path, str]:
    """A copy with other UIDs, another patient and the given elements; returns the file and its study's UID."""
    ds = pydicom.dcmread(path)
    study = pydicom.uid.generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, pydicom.uid.generate_uid()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.PatientID = str(changes.pop("PatientID", "OUTCOME-" + study[-6:]))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(target)
    return target, study


def test_every_other_study_ends_in_a_clear_outcome(site: Site, tmp_path: Path) -> None:
    image = write_study_pair(tmp_path / "source", 12, long_side=SIDE).current.files[0]
    whole = pydicom.dcmread(image)
    rows = int(whole.Rows)
    noise = np.random.default_rng(0).integers(0, 1 << int(whole.BitsStored), whole.pixel_array.shape, np.uint16)
    noisy = noise.astype(whole.pixel_array.dtype).tobytes()
    hand = write_study_pair(tmp_path / "hand", 13, long_side=SIDE, current_subject=Subject.NO_CHEST).current
    lateral = write_study_pair(tmp_path / "lateral", 14, long_side=SIDE, current_subject=Subject.LATERAL).current
    cases = {
        "no chest": (hand.files[0], hand.study_instance_uid),
        "lateral": (lateral.files[0], lateral.study_instance_uid),
        "noise that its header calls a chest": _variant(image, tmp_path / "n.dcm", PixelData=noisy, **_CHEST),
        "unreadable": _variant(image, tmp_path / "c.dcm", Rows=rows * 7),
    }
    storescu([path for path, _ in cases.values()], site.node.port)
    wanted = {uid for _, uid in cases.values()}
    wait_until(lambda: wanted <= set(site.results()), seconds=120, what="an outcome of every study")
    for name, (_, uid) in cases.items():
        result = site.results()[uid]
        assert result.outcome is Outcome.NOT_ANALYSED, name
        assert len(result.reason) > 10, name
        wait_until(functools.partial(_has_reading, site, uid), what=f"the report of {name}")
        assert result.reason.split(".")[0] in _texts(site.reports(uid)["reading"]), name


def test_an_object_that_is_not_wanted_is_refused(site: Site, tmp_path: Path) -> None:
    ct = _variant(
        write_study_pair(tmp_path / "source", 13, long_side=SIDE).current.files[0],
        tmp_path / "ct.dcm",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        Modality="CT",
    )[0]
    ds = pydicom.dcmread(ct)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.save_as(ct)
    with pytest.raises(subprocess.CalledProcessError):
        storescu([ct], site.node.port)


def test_our_own_reports_are_never_input(site: Site, tmp_path: Path) -> None:
    """The PACS routes everything of the study to us, our SR too."""
    made = write_study_pair(tmp_path, 14, long_side=SIDE)
    uid = made.current.study_instance_uid
    storescu(made.current.files, site.node.port)
    wait_until(lambda: len(site.reports(uid)) == 2, seconds=120, what="the reports")
    before = site.results()[uid]
    files = []
    for kind, report in site.reports(uid).items():
        files.append(tmp_path / f"{kind}.dcm")
        report.save_as(files[-1])
    assert send(files, "127.0.0.1", site.node.port, "LUMEN") == {}, "a failure would only make the PACS try for ever"
    assert site.node.log.count("loop guard: our own document came back") == 2
    with site.node.database() as database, database.read() as session:
        instances = session.scalars(select(Instance.sop_instance_uid)).all()
    assert not set(instances) & {str(report.SOPInstanceUID) for report in site.reports(uid).values()}
    assert site.results()[uid].id == before.id
