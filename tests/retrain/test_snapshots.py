"""A snapshot: what it holds, that it is held, that every byte of it is looked at, and that its split stays."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import func, select

from dicom_node.index.tables.core import Hold, Instance, Result
from dicom_node.index.tables.retrain import RetrainItem, RetrainPatient, RetrainSnapshot, RetrainSplit
from dicom_node.retention import removal as retention
from dicom_node.retrain import prepare as preparing
from dicom_node.retrain import snapshots
from dicom_node.retrain.estimate import describe, missing
from dicom_node.retrain.select import gather
from dicom_node.retrain.types import Contents, RetrainError, folders_of
from model.checkpoints.manifest import read_manifest
from model.predict import load_predictor
from tests.support.champions import untrained
from tests.support.retrain_site import Hospital, open_hospital, turned
from training.phantom.dicom import PhantomStudies
from training.readers.site import read_site
from training.readers.splits import require_no_leakage
from training.records.drops import DropReport

PATIENTS = 10


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return untrained(tmp_path_factory.mktemp("champion") / "tiny")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A hospital with ten labelled patients."""

    hospital: Hospital
    studies: list[PhantomStudies]
    champion: Path

    def gathered(self, name: str = "draft") -> Contents:
        folder = folders_of(self.hospital.node).snapshots / f"{name}.draft"
        folder.mkdir(parents=True, exist_ok=True)
        return gather(self.hospital.node, folder)

    def more(self, seeds: range) -> list[PhantomStudies]:
        made = self.hospital.receive(seeds)
        self.hospital.answered_before(load_predictor(self.champion))
        return made

    def path_of(self, sop_instance_uid: str) -> Path:
        with self.hospital.node.database.read() as session:
            path = session.scalars(select(Instance.path).where(Instance.sop_instance_uid == sop_instance_uid)).one()
        return self.hospital.node.store.path(path)


@pytest.fixture
def place(tmp_path: Path, champion: Path) -> Iterator[Place]:
    hospital = open_hospital(
        tmp_path,
        champion,
        {"name": "pacs", "port": 1},
        sections={"retention": {"keep_days": 1, "keep_as_prior_days": 0}},
        min_patients=4,
        frozen_patients=4,
        frozen_share=0.4,
        validate_share=0.2,
    )
    made = Place(hospital=hospital, studies=[], champion=champion)
    made.studies.extend(made.more(range(PATIENTS)))
    hospital.report(made.studies)
    yield made
    hospital.node.database.close()


def test_rows_manifest_and_files_say_the_same(place: Place) -> None:
    node = place.hospital.node
    contents = place.gathered()
    told: list[tuple[int, int]] = []
    key = snapshots.lock(node, "one", contents, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2 * PATIENTS, 2 * PATIENTS), "every film and every prior was hashed"
    folder = folders_of(node).snapshots / "one"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    with node.database.read() as session:
        snapshot = session.get_one(RetrainSnapshot, key)
        rows = {row.sop_instance_uid: row for row in snapshot.items}
        patients = {row.patient: row.split for row in session.scalars(select(RetrainPatient))}
    assert snapshot.manifest_sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    snapshots.verify_files(folder, snapshot.manifest_sha256)
    assert (
        {item["image"] for item in manifest["items"]}
        == set(rows)
        == {pair.current.sop_instance_uid for pair in place.studies}
    )
    for pair in place.studies:
        row = rows[pair.current.sop_instance_uid]
        assert row.prior_sop_instance_uid == pair.prior.sop_instance_uid, "the prior that service compared with"
        assert row.study_instance_uid == pair.current.study_instance_uid
        assert patients[row.patient] is row.split
    counts = {split: sum(where is split for where in patients.values()) for split in RetrainSplit}
    assert counts == {RetrainSplit.FROZEN: 4, RetrainSplit.VALIDATE: 2, RetrainSplit.TRAIN: 4}
    records = []
    for split in RetrainSplit:
        found = list(read_site(folder / f"{split.value}.jsonl", DropReport()))
        assert {record.current.image_id for record in found} == {u for u, row in rows.items() if row.split is split}
        assert all(record.truth.findings for record in found)
        records += found
    require_no_leakage(records)
    assert "Phantom^" not in (folder / "manifest.json").read_text("utf-8"), "no names"


def test_what_is_said_counts_findings_changes_and_sources(place: Place) -> None:
    contents = place.gathered()
    lines = "\n".join(describe(contents))
    assert f"{PATIENTS} images of {PATIENTS} patients, {PATIENTS} compared with a prior" in lines
    there = sum("cardiomegaly" in pair.current.findings for pair in place.studies)
    assert f"cardiomegaly: {there} present, {PATIENTS - there} absent" in lines
    assert "sources: csv 3, report 3, web 4" in lines
    assert missing(contents, place.hospital.node.settings.retrain) == []
    more = place.hospital.node.settings.retrain.model_copy(update={"min_patients": 50, "frozen_patients": 9})
    assert [line.split(":")[0] for line in missing(contents, more)] == [
        "50 patients with labels are needed on the training side, there are 6",
        "9 patients are needed to compare models on, there are 4",
    ]


def test_retention_leaves_a_snapshots_studies_until_it_is_released(place: Place) -> None:
    node = place.hospital.node
    place.hospital.clock.forward(days=1000)  # the phantoms are dated up to a year ahead

    def may_go() -> set[str]:
        return {removal.candidate.study_instance_uid for removal in retention.plan_now(node)}

    everything = {study.study_instance_uid for pair in place.studies for study in (pair.prior, pair.current)}
    assert may_go() == everything
    snapshots.lock(node, "one", place.gathered())
    assert may_go() == set()
    retention.run(node)
    assert all(place.path_of(pair.prior.sop_instance_uid).is_file() for pair in place.studies)
    with node.database.write() as session:
        assert snapshots.release(session, "one") == len(everything)
    assert may_go() == everything


def test_a_changed_and_a_missing_film_are_named_and_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    node = place.hospital.node
    contents = place.gathered()
    train = contents.of(RetrainSplit.TRAIN)
    changed, gone = train[0], train[1]
    data = bytearray(changed.current.path.read_bytes())
    data[-7] ^= 1
    changed.current.path.write_bytes(bytes(data))
    assert gone.prior is not None
    gone.prior.path.unlink()
    with pytest.raises(RetrainError, match="2 of 10 labelled images are missing or changed") as refused:
        snapshots.lock(node, "one", contents)
    assert changed.current.sop_instance_uid in str(refused.value)
    assert gone.prior.sop_instance_uid in str(refused.value)

    monkeypatch.setattr(snapshots, "MOST_DAMAGED", 0.5)
    contents = place.gathered("again")  # the missing file is found by the export, the changed one by its hash
    snapshots.lock(node, "two", contents)
    manifest = json.loads((folders_of(node).snapshots / "two" / "manifest.json").read_text("utf-8"))
    left_out = {uid for named in manifest["left_out"].values() for uid in named}
    assert {changed.current.sop_instance_uid, gone.current.sop_instance_uid} <= left_out
    assert {item["image"] for item in manifest["items"]}.isdisjoint(left_out)
    with node.database.read() as session:
        held = set(session.scalars(select(Hold.study_instance_uid).where(Hold.holder == "snapshot two")))
    assert changed.current.study_instance_uid not in held


def test_the_frozen_set_stays_and_new_patients_join_the_training_side(place: Place) -> None:
    node = place.hospital.node
    snapshots.lock(node, "one", place.gathered())
    with node.database.read() as session:
        before = {row.patient: row.split for row in session.scalars(select(RetrainPatient))}
    place.hospital.report(place.more(range(20, 26)))
    contents = place.gathered("again")
    snapshots.lock(node, "two", contents)
    with node.database.read() as session:
        after = {row.patient: row.split for row in session.scalars(select(RetrainPatient))}
        frozen = [
            set(
                session.scalars(
                    select(RetrainItem.sop_instance_uid)
                    .join(RetrainSnapshot)
                    .where(RetrainSnapshot.name == name, RetrainItem.split == RetrainSplit.FROZEN)
                )
            )
            for name in ("one", "two")
        ]
    assert {patient: after[patient] for patient in before} == before
    assert all(split is not RetrainSplit.FROZEN for patient, split in after.items() if patient not in before)
    assert frozen[0] == frozen[1]
    assert len(after) == len(before) + 6


def test_words_that_contradict_one_another_teach_nothing(place: Place) -> None:
    place.hospital.report(place.studies[:1], says=turned, author="another reader")
    uid = place.studies[0].current.sop_instance_uid
    contents = place.gathered()
    assert all(item.current.sop_instance_uid != uid for item in contents.items)
    assert any("contradict" in reason for reason in contents.left_out)


def test_another_word_is_another_version_of_the_label(place: Place) -> None:
    before = {item.current.sop_instance_uid: item.label_version for item in place.gathered().items}
    place.hospital.clock.forward(hours=1)
    place.hospital.report(place.studies[:1], says=turned)
    after = {item.current.sop_instance_uid: item.label_version for item in place.gathered("again").items}
    assert {uid for uid in after if after[uid] != before[uid]} == {place.studies[0].current.sop_instance_uid}


def test_an_image_that_the_node_did_not_answer_is_left_out(place: Place) -> None:
    uid = place.studies[3].current.sop_instance_uid
    with place.hospital.node.database.write() as session:
        row = session.scalars(select(Result).where(Result.sop_instance_uid == uid)).one()
        row.outcome = "not analysed"  # type: ignore[assignment]
    contents = place.gathered()
    assert all(item.current.sop_instance_uid != uid for item in contents.items)
    assert contents.examples["the node gave no answer on it"] == [uid]


def test_holds_of_a_snapshot_that_was_never_finished_go_with_the_next_one(place: Place) -> None:
    node = place.hospital.node
    with node.database.write() as session:
        session.add(Hold(study_instance_uid="1.2.3", holder="snapshot killed", created_at=node.clock()))
        session.add(Hold(study_instance_uid="1.2.3", holder="a lawyer", created_at=node.clock()))
    snapshots.lock(node, "one", place.gathered())
    with node.database.read() as session:
        holders = dict(session.execute(select(Hold.holder, func.count()).group_by(Hold.holder)).all())
    assert set(holders) == {"snapshot one", "a lawyer"}


def test_a_film_that_changes_after_the_snapshot_stops_the_training_by_name(place: Place) -> None:
    node = place.hospital.node
    contents = place.gathered()
    key = snapshots.lock(node, "one", contents)
    with node.database.read() as session:
        sha256 = session.get_one(RetrainSnapshot, key).manifest_sha256
    start = preparing.Start(
        folder=place.champion,
        manifest=read_manifest(place.champion),
        recipe={"run": {"steps": 1}, "data": {"sets": [{"data": "site:SNAPSHOT/train.jsonl"}]}},
    )
    folders = folders_of(node)
    plan = preparing.plan_of(
        node,
        start,
        name="one",
        folder=folders.runs / "one",
        snapshot=folders.snapshots / "one",
        contents=contents,
        manifest_sha256=sha256,
    )
    preparing.require_unchanged(node, key, plan)
    film = contents.items[0].current
    film.path.write_bytes(film.path.read_bytes()[:-2])
    with pytest.raises(RetrainError, match="1 images of the snapshot are not what was locked") as refused:
        preparing.require_unchanged(node, key, plan)
    assert film.sop_instance_uid in str(refused.value)
    labels = folders.snapshots / "one" / "train.jsonl"
    labels.write_text(labels.read_text("utf-8").replace('"absent"', '"present"'), "utf-8")
    with pytest.raises(RetrainError, match=r"train\.jsonl was changed"):
        preparing.require_unchanged(node, key, plan)
