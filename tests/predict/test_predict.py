"""`dicom-node predict`: the rules of the service, every file accounted for, and nothing lost or doubled by SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.admin.import_folder import files_below, import_files, summary
from dicom_node.bulk.work import BulkError
from dicom_node.cli.predict import register
from dicom_node.config import ModelSection, Settings, StorageSection
from dicom_node.errors import UsageError
from dicom_node.index.queries import prior_candidates, study_by_uid
from dicom_node.index.tables.core import StudyPurpose
from dicom_node.predict.headers import HeaderWork
from dicom_node.predict.inputs import list_inputs
from dicom_node.predict.locations import Locations
from dicom_node.predict.plan import StudyItem, plan_studies
from dicom_node.predict.rows import COLUMNS, encode_rows
from dicom_node.predict.run import PredictOptions, predict
from dicom_node.predict.work import AnalysisRules, Answerer, IdentityWork, PredictWork
from dicom_node.priors import PriorPolicy
from dicom_node.storage.bucket import Bucket
from model.errors import InferenceError
from model.schema import ModelIdentity, Prediction, StudyPair
from tests.support.checkpoints import open_context
from tests.support.common import REPOSITORY, wait_until
from tests.support.forked import ForkedProcess
from tests.support.object_store import S3Server, s3_server
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair

__all__ = ["s3_server"]  # a fixture
SEEDS = (51, 52, 53)
app = Typer()
register(app)
NO_BUCKET = StorageSection()
NOBODY = ModelIdentity(name="none", version="0", device_uid="2.25.1")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with two studies each, a text, half a film, a second copy, and one UID of two patients."""
    folder = tmp_path_factory.mktemp("films")
    for seed in SEEDS:
        write_study_pair(folder / f"patient-{seed}", seed, long_side=384)
    (folder / "read me.txt").write_text("no film")
    whole = (folder / "patient-51/current/image.dcm").read_bytes()
    (folder / "zz-half.dcm").write_bytes(whole[:700])
    (folder / "zz-copy.dcm").write_bytes(whole)
    stranger = pydicom.dcmread(folder / "patient-53/prior/image.dcm")
    stranger.PatientID, stranger.PatientName = "SOMEBODY", "Else^Some"
    stranger.save_as(folder / "zz-stranger.dcm")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", layers=2, brief=True)


def _planned(
    inputs: Sequence[str], out: Path, storage: StorageSection = NO_BUCKET, cache: Path | None = None
) -> list[StudyItem]:
    files = list_inputs(inputs, Locations(storage), out=out)
    headers = HeaderWork(storage=storage, policy=PriorPolicy(), cache=cache).open_reader()(files)
    return plan_studies(files, headers, look_back_days=PriorPolicy().look_back_days)


def _work(checkpoint: Path, storage: StorageSection = NO_BUCKET, cache: Path | None = None) -> PredictWork:
    model = ModelSection(source=str(checkpoint))
    rules = AnalysisRules(model=model, storage=storage, policy=PriorPolicy(), cache=cache)
    [identity] = IdentityWork(rules=rules).open_answerer()(None)
    return PredictWork(rules=rules, identity=identity, node_version="0")


@pytest.fixture(scope="module")
def rows(films: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of all films, answered in this process."""
    work = _work(checkpoint)
    read, answer = work.open_reader(), work.open_answerer()
    items = _planned([str(films)], tmp_path_factory.mktemp("out"))
    return [row for at in range(0, len(items), 2) for row in answer(read(items[at : at + 2]))]


def test_candidates_for_a_prior_are_those_of_the_service(films: Path, tmp_path: Path) -> None:
    items = {item.study_uid: item for item in _planned([str(films)], tmp_path) if not item.fault}
    assert len(items) == 6
    with open_context(tmp_path) as node:
        summary(import_files(files_below(films), node, purpose=StudyPurpose.ROUTED))
        with node.database.read() as session:
            for uid, item in items.items():
                study = study_by_uid(session, uid)
                assert study is not None
                rows = prior_candidates(session, study, look_back_days=PriorPolicy().look_back_days)
                mine = [str(pydicom.dcmread(file.location).SOPInstanceUID) for file in item.earlier]
                assert mine == [row.sop_instance_uid for row in rows]
    assert sorted(len(item.earlier) for item in items.values()) == [0, 0, 0, 1, 1, 1]


def test_every_file_has_its_row_and_currents_are_compared(rows: list[dict[str, Any]], films: Path) -> None:
    assert all(row.keys() == {column.name for column in COLUMNS} for row in rows)
    by_file = {Path(row["location"]).relative_to(films).as_posix(): row for row in rows}
    assert set(by_file) == {path.relative_to(films).as_posix() for path in films.rglob("*") if path.is_file()}
    current = by_file["patient-51/current/image.dcm"]
    assert current["outcome"] == "compared"
    assert current["prior_location"] == str(films / "patient-51/prior/image.dcm")
    assert current["prior_acquired"] < current["acquired"]
    assert current["finding"] is not None
    assert current["model_name"]
    assert by_file["patient-51/prior/image.dcm"]["outcome"] == "findings only"
    assert len([row for row in rows if row["location"] == current["location"]]) == 5
    faults = {name: row["reason"] for name, row in by_file.items() if row["outcome"] == "input error"}
    assert set(faults) == {"read me.txt", "zz-copy.dcm", "zz-half.dcm", "zz-stranger.dcm"}
    assert "current/image.dcm, which is used" in faults["zz-copy.dcm"]
    assert "another patient or study; neither is used" in faults["zz-stranger.dcm"]
    assert by_file["patient-53/prior/image.dcm"]["outcome"] == "not analysed"
    disputed = by_file["patient-53/current/image.dcm"]
    assert disputed["outcome"] == "findings only"
    assert any("names another patient" in reason for reason in disputed["prior_reasons"])


def test_a_table_names_what_headers_lack_and_the_prior(films: Path, tmp_path: Path) -> None:
    nameless = tmp_path / "nameless"
    for role in ("prior", "current"):
        film = pydicom.dcmread(films / f"patient-52/{role}/image.dcm")
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "IssuerOfPatientID"):
            if keyword in film:
                delattr(film, keyword)
        (nameless / role).mkdir(parents=True)
        film.save_as(nameless / role / "image.dcm")
    shutil.copy(films / "patient-51/prior/image.dcm", nameless / "other.dcm")
    columns = {
        "path": ["nameless/current", "nameless/prior", "nameless/other.dcm", "nameless/gone.dcm"],
        "patient": ["P52", "P52", "P52", ""],
        "prior": ["nameless/prior/image.dcm", "", None, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "films.parquet")
    lines = (",".join(value or "" for value in row) for row in zip(*columns.values(), strict=True))
    (tmp_path / "films.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    items = _planned([str(tmp_path / "films.csv")], tmp_path / "out")
    assert items == _planned([str(tmp_path / "films.parquet")], tmp_path / "out")
    current, prior, *faults = items
    assert [file.location for file in current.earlier] == [str(nameless / "prior/image.dcm")]
    assert prior.earlier == ()
    assert [fault.fault for fault in faults] == [
        "the table names another patient than the object's header",
        "the object cannot be read: No such file or directory",
    ]
    work = PredictWork(
        rules=AnalysisRules(model=ModelSection(), storage=NO_BUCKET, policy=PriorPolicy()),
        identity=NOBODY,
        node_version="0",
    )
    [prepared] = work.open_reader()([current])
    assert prepared.study is not None
    assert [pair.prior is not None for pair in prepared.study.pairs] == [True]

    (tmp_path / "bad.csv").write_text("path,date\nnameless,last year\n")
    with pytest.raises(UsageError, match="row 1: date 'last year'; allowed are"):
        _planned([str(tmp_path / "bad.csv")], tmp_path / "out")
    (tmp_path / "bad.csv").write_text("file\nnameless\n")
    with pytest.raises(UsageError, match="has no column `path`"):
        _planned([str(tmp_path / "bad.csv")], tmp_path / "out")


def test_a_bucket_gives_the_rows_of_its_folder(
    films: Path, tmp_path: Path, s3_server: S3Server, rows: list[dict[str, Any]], checkpoint: Path
) -> None:
    storage = s3_server.new_bucket(tmp_path, prefix="")
    bucket = Bucket(storage)
    for path in sorted((films / "patient-51").rglob("*.dcm")):
        bucket.put(f"films/{path.relative_to(films).as_posix()}", path.read_bytes())
    items = _planned([f"s3://{storage.bucket}/films"], tmp_path / "out", storage)
    work = _work(checkpoint, storage)
    given = work.open_answerer()(work.open_reader()(items))
    local = [row for row in rows if "/patient-51/" in row["location"]]
    places = ("location", "prior_location")
    assert [{k: v for k, v in row.items() if k not in places} for row in given] == [
        {k: v for k, v in row.items() if k not in places} for row in local
    ]
    assert given[0]["location"] == f"s3://{storage.bucket}/films/patient-51/current/image.dcm"
    bucket.delete("films/patient-51/current/image.dcm")
    [lost] = work.open_answerer()(work.open_reader()(items[:1]))
    assert lost["reason"] == "the object is gone from its bucket"


def test_an_object_is_fetched_once_for_header_study_and_prior(
    films: Path, tmp_path: Path, s3_server: S3Server, checkpoint: Path
) -> None:
    storage = s3_server.new_bucket(tmp_path, prefix="")
    bucket, cache = Bucket(storage), tmp_path / "cache"
    keys = [f"films/{role}.dcm" for role in ("current", "prior")]
    for key in keys:
        bucket.put(key, (films / "patient-51" / Path(key).stem / "image.dcm").read_bytes())
    inputs = [f"s3://{storage.bucket}/films"]
    items = _planned(inputs, tmp_path / "out", storage, cache)
    bucket.delete(keys)  # whoever asks for an object a second time gets none
    read = _work(checkpoint, storage, cache).open_reader()
    prepared = [one for item in items for one in read([item])]
    assert [len(one.study.pairs) if one.study else 0 for one in prepared] == [1, 1]
    assert any(pair.prior is not None for one in prepared if one.study for pair in one.study.pairs)
    assert list((cache / "blocks").iterdir()) == []


def test_a_cache_gives_no_old_copy_and_keeps_no_more_than_it_may(tmp_path: Path, s3_server: S3Server) -> None:
    storage = s3_server.new_bucket(tmp_path, prefix="")
    bucket, place = Bucket(storage), f"s3://{storage.bucket}/film.dcm"
    locations = Locations(storage, tmp_path / "cache")

    def content(stamp: str) -> bytes:
        with locations.fetch({place: stamp}) as local:
            return local[place].read_bytes()

    bucket.put("film.dcm", b"first")
    assert content("Monday") == b"first"
    bucket.put("film.dcm", b"second")
    assert (content("Monday"), content("Tuesday")) == (b"first", b"second")

    full = Locations(storage.model_copy(update={"cache_gigabytes": 1e-9}), tmp_path / "full")
    with full.fetch({place: "Monday"}) as local:
        assert not [path for path in (tmp_path / "full" / "objects").rglob("*") if path.is_file()]
        assert local[place].read_bytes() == b"second", "what is being read stays"


def test_killed_and_started_again_it_gives_the_same_rows_once(
    films: Path, checkpoint: Path, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = ["--model", str(checkpoint), "--processes", "1", "--batch", "2", "--shard", "2"]
    arguments = [str(films), "--out", str(out), *options]
    environment = {name: value for name, value in os.environ.items() if name != "DICOM_NODE_CONFIG"}
    log = tmp_path / "log"
    first = ForkedProcess("dicom_node", ["predict", *arguments], log=log, folder=tmp_path, environment=environment)
    try:
        wait_until(
            lambda: (out / "part-000000.parquet").exists() or first.poll() is not None, seconds=240, what="a shard"
        )
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (out / "part-000000.parquet").exists(), log.read_text("utf-8")
    kept = (out / "part-000000.parquet").stat().st_mtime_ns
    monkeypatch.delenv("DICOM_NODE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)  # no config.toml here
    second = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert second.exit_code == 0, second.output
    assert "6 studies by tiny" in second.stdout
    assert (out / "part-000000.parquet").stat().st_mtime_ns == kept
    found = pq.read_table(out).to_pylist()
    assert len(found) == len(rows)
    for mine, expected in zip(found, rows, strict=True):
        _assert_same(mine, expected)


def _assert_same(mine: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal but for the node's version; beliefs up to what another number of threads may round."""
    for name, value in expected.items():
        if name == "node_version":
            continue
        if isinstance(value, float):
            assert mine[name] == pytest.approx(value, abs=1e-4), name
        else:
            assert mine[name] == value, name


def test_a_ray_cluster_gives_the_same_rows(
    films: Path, checkpoint: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    settings = Settings(model=ModelSection(source=str(checkpoint)))
    options = PredictOptions(batch=2, shard=2, ray="local", answerers=1)
    try:
        summary = predict([str(films)], tmp_path, settings=settings, options=options)
    finally:
        ray.shutdown()
    assert (summary.studies, summary.shards, summary.kept) == (6, 5, 0)
    for mine, expected in zip(pq.read_table(tmp_path).to_pylist(), rows, strict=True):
        _assert_same(mine, expected)
    (tmp_path / "part-000001.parquet").unlink()
    again = predict([str(films)], tmp_path, settings=settings, options=replace(options, ray="", processes=1))
    assert again.kept == 4


def test_the_columns_are_those_that_the_documents_name() -> None:
    text = (REPOSITORY / "docs/howto/predict.md").read_text("utf-8")
    assert "".join(f"| `{c.name}` | {c.type} | {c.meaning} |\n" for c in COLUMNS) in text


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A model whose memory is gone."""

    identity: ModelIdentity

    def predict(self, pair: StudyPair) -> Prediction:
        raise InferenceError("the model ran out of memory")

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        raise InferenceError("the model ran out of memory")


def test_a_model_that_answers_nothing_any_more_stops_the_run(films: Path, tmp_path: Path) -> None:
    rules = AnalysisRules(model=ModelSection(), storage=NO_BUCKET, policy=PriorPolicy())
    work = PredictWork(rules=rules, identity=NOBODY, node_version="0")
    [item] = [item for item in _planned([str(films / "patient-52")], tmp_path) if item.earlier]
    prepared = work.open_reader()([item])
    answerer = Answerer(work, Exhausted(NOBODY))
    rows = [row for _ in range(9) for row in answerer.answer(prepared)]
    assert {row["abstained"] for row in rows} == {"the model failed"}
    with pytest.raises(BulkError, match="failed on 10 batches one after another, at last: the model ran out of memory"):
        answerer.answer(prepared)


def test_the_same_rows_give_the_same_bytes(rows: list[dict[str, Any]]) -> None:
    assert encode_rows(rows) == encode_rows(rows)
