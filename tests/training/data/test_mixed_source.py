"""Training on any reader's records: numbered samples, exact mixing, loud drops, little memory, real runs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.questions.answers import CHANGE_ANSWERS
from model.questions.prompts import Turn
from model.schema import Change, PatientContext
from tests.support.records import image_of, recipe_of, write_mimic_with_questions
from training.data.data_log import REPORT, DataLog, read_dropped
from training.data.index import SetSpec, set_index
from training.data.jsonl import Rows, RowWriter
from training.data.mixed_source import MixedSource
from training.data.mixing import BLOCK, MixSchedule, quotas, set_shares
from training.data.pictures import Pictures
from training.data.record_rows import record_to_row, row_to_record
from training.data.samples import UNKNOWN, Dropped, Sample
from training.data.sources import Place, source_of
from training.data.targets import VisibleImages, targets_of_truth
from training.instructions.streams import InstructionOptions, Stream
from training.loop.train import TrainingStopped, train
from training.readers.diffvqa import read_medical_diff_vqa
from training.readers.mimic import jpg_path, read_mimic_cxr_jpg
from training.recipe.recipe import Objective, RecipeError
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef
from training.records.truth import FindingTruth, ImageTruth, PairTruth


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic_with_questions(folder)
    return folder


DATA = """
kind = "records"
sets = ["diff-vqa:{root},{root}"]
streams = {{ diagnostic = 2, difference = 1, prediction = 1 }}
"""


def mixed(tmp_path: Path, data: str, *, fresh: bool = True, more: str = "") -> MixedSource:
    recipe = recipe_of(tmp_path, data, more=more)
    source = source_of(recipe, Place(work=tmp_path / "work", size=32, fresh=fresh))
    assert isinstance(source, MixedSource)
    return source


def assert_equal(one: Sample, other: Sample) -> None:
    assert (one.turns, one.layout, one.dropped) == (other.turns, other.layout, other.dropped)
    assert len(one.images) == len(other.images)
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


# --- mixing ---


@settings(deadline=None)
@given(st.lists(st.just(0.0) | st.floats(1e-6, 1000), min_size=1, max_size=12).filter(lambda shares: sum(shares) > 0))
def test_quotas_fill_a_block_and_keep_the_shares(shares: list[float]) -> None:
    counts = quotas(shares)
    assert sum(counts) == BLOCK
    for share, count in zip(shares, counts, strict=True):
        assert (count > 0) == (share > 0)
        assert abs(count - BLOCK * share / sum(shares)) <= len(shares)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=4), st.integers(0, 99))
def test_every_item_comes_once_before_any_comes_twice(sizes: list[int], seed: int) -> None:
    schedule = MixSchedule(sizes, [1.0] * len(sizes), seed=seed)
    places = [schedule.place(number) for number in range(3 * BLOCK)]
    assert places == [MixSchedule(sizes, [1.0] * len(sizes), seed=seed).place(number) for number in range(3 * BLOCK)]
    for pool, size in enumerate(sizes):
        items = [item for owner, item in places if owner == pool]
        for start in range(0, len(items) - size + 1, size):
            assert sorted(items[start : start + size]) == list(range(size))


def test_temperature_lies_between_sizes_and_weights() -> None:
    assert set_shares([900, 100], [1, 1], 1) == pytest.approx([0.9, 0.1])
    assert set_shares([900, 100], [1, 3], 1e9) == pytest.approx([0.25, 0.75])
    assert 0.5 < set_shares([900, 100], [1, 1], 2)[0] < 0.9
    with pytest.raises(ValueError, match="at least 1"):
        set_shares([1], [1], 0.5)


# --- rows on disk ---


def test_records_survive_the_disk(root: Path) -> None:
    paths = partial(jpg_path, root)
    records = [*read_medical_diff_vqa(root, paths, DropReport()), *read_mimic_cxr_jpg(root, DropReport())]
    context = PatientContext(age_years=67, sex="F", indication="dyspnea", labs={"CRP": "12 mg/l"})
    records += [replace(records[-1], context=context)]
    assert any(record.earlier for record in records)
    for record in records:
        assert row_to_record(json.loads(json.dumps(record_to_row(record)))) == record


def test_a_cut_off_file_of_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with RowWriter(path) as writer:
        for number in range(5):
            writer.add({"number": number, "text": "ä" * number})
    rows = Rows(path)
    assert [rows[n]["number"] for n in (4, 0, 2)] == [4, 0, 2]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="cut off"):
        Rows(path)
    with pytest.raises(DataError, match="not a readable"):
        Rows(tmp_path / "none.jsonl")


def test_a_failed_reading_leaves_no_index(tmp_path: Path, root: Path) -> None:
    spec = SetSpec(data=f"diff-vqa:{tmp_path},{root}")
    with pytest.raises(DataError, match=r"mimic_all\.csv"):
        set_index(spec, InstructionOptions(), tmp_path / "work", fresh=True)
    assert not list((tmp_path / "work").rglob("*.json*"))


# --- samples ---


def test_the_same_number_gives_the_same_sample_whatever_became_of_the_tables(tmp_path: Path, root: Path) -> None:
    own = tmp_path / "mimic"
    shutil.copytree(root, own)
    data = DATA.format(root=own)
    first = mixed(tmp_path, data)
    before = {number: first.sample(number) for number in (0, 7, 5 * BLOCK + 3)}
    (own / "mimic_pair_questions.csv").unlink()  # the run's own index is used when it goes on
    again = mixed(tmp_path, data, fresh=False)
    for number, sample in before.items():
        assert_equal(again.sample(number), sample)
    with pytest.raises(DataError, match="mimic_pair_questions"):
        mixed(tmp_path, data)


def test_streams_show_the_right_images_in_their_shares(tmp_path: Path, root: Path) -> None:
    source = mixed(tmp_path, DATA.format(root=root))
    seen: Counter[str] = Counter()
    for number in range(120):
        place, _ = source.schedule.place(number)
        stream = source.pools[place].name.rpartition(", ")[2]
        sample = source.sample(number)
        seen[stream] += 1
        assert len(sample.images) == (2 if stream == "difference" else 1)
        assert sample.layout.priors == len(sample.images) - 1
        assert sample.turns
        assert all(turn.answer for turn in sample.turns)
        assert all(image.shape == (32, 32) and image.dtype == np.uint8 for image in sample.images)
    assert sum(count for _, count in Counter(source.schedule.place(n)[0] for n in range(BLOCK)).items()) == BLOCK
    assert [round(4 * share) for share in source.shares] == [2, 1, 1]
    assert set(seen) == {"diagnostic", "difference", "prediction"}


def test_only_the_wanted_split_trains(tmp_path: Path, root: Path) -> None:
    def ids(split: str, by_patient: str) -> set[str]:
        data = f'kind = "records"\nsets = [{{ data = "mimic-jpg:{root}", split = "{split}"{by_patient} }}]'
        pool = mixed(tmp_path, data).pools[0]
        return {pool.record(item).patient_id for item in range(pool.size)}  # type: ignore[attr-defined]

    for by_patient in ("", ", by_patient = true"):
        train_ids, test_ids = ids("train", by_patient), ids("test", by_patient)
        assert train_ids
        assert test_ids
        assert not train_ids & test_ids


def test_an_unreadable_image_is_replaced_the_same_way_every_time_and_named(tmp_path: Path, root: Path) -> None:
    own = tmp_path / "mimic"
    shutil.copytree(root, own)
    data = DATA.format(root=own)
    mixed(tmp_path, data)
    studies = write_mimic_with_questions(tmp_path / "same")
    broken = {study.dicom for study in studies[::3]}
    for study in studies[::3]:
        image_of(own, study).write_bytes(b"\xff\xd8 no picture")
    one, other = mixed(tmp_path, data, fresh=False), mixed(tmp_path, data, fresh=False)
    named: set[str] = set()
    for number in range(60):
        sample = one.sample(number)
        assert_equal(sample, other.sample(number))
        assert all(each.reason.startswith("image cannot be decoded") for each in sample.dropped)
        named |= {each.which for each in sample.dropped}
    assert named
    assert named <= broken


def test_nothing_readable_stops_with_a_question(tmp_path: Path, root: Path) -> None:
    own = tmp_path / "mimic"
    shutil.copytree(root, own)
    source = mixed(tmp_path, DATA.format(root=own))
    shutil.rmtree(own / "files")
    with pytest.raises(DataError, match=r"50 samples .* Is the folder of the images there\?"):
        source.sample(0)


def test_too_many_replaced_samples_stop_the_run(tmp_path: Path) -> None:
    log = DataLog(tmp_path, rank=0, most=0.1)
    drop = Dropped(pool="set, difference", reason="image cannot be decoded: cut off", which="1.2.3")
    log.note(200, [drop] * 20)
    with pytest.raises(DataError, match=r"data\.max_dropped = 0\.1"):
        log.note(1, [drop])
    assert read_dropped(tmp_path) == [drop]
    with (tmp_path / "dropped-1.jsonl").open("w") as file:
        file.write('{"pool": "cut')  # a kill in the middle of a line
    assert read_dropped(tmp_path) == [drop]


def test_decoded_pictures_are_kept_and_made_anew_when_the_file_changes(tmp_path: Path, root: Path) -> None:
    studies = write_mimic_with_questions(tmp_path / "mimic")
    path = image_of(tmp_path / "mimic", studies[0])
    image = ImageRef(key=str(path), image_id="1")
    kept = Pictures(size=32, cache=tmp_path / "cache")
    first = kept.get(image)
    assert np.array_equal(first, Pictures(size=32).get(image))
    (stored,) = (tmp_path / "cache").rglob("*.npy")
    stored.write_bytes(stored.read_bytes()[:100])  # a full disc
    assert np.array_equal(kept.get(image), first)
    path.write_bytes(image_of(tmp_path / "mimic", studies[1]).read_bytes())
    assert not np.array_equal(kept.get(image), first)


def test_targets_say_what_is_known_and_nothing_else() -> None:
    findings = {
        "edema": FindingTruth(
            key="edema",
            current=ImageTruth(present=True, grade="severe"),
            prior=ImageTruth(present=True, grade="mild"),
            change=Change.WORSENING,
        ),
        "pleural_effusion": FindingTruth(
            key="pleural_effusion", current=ImageTruth(present=True, side="left"), prior=ImageTruth(present=False)
        ),
    }
    truth = PairTruth(pair_id="p", patient_id="q", findings=findings)
    names = ("edema", "pleural_effusion", "hernia")
    pair = targets_of_truth(truth, names, VisibleImages.PAIR)
    assert pair.present[:, 0].tolist() == [1, 1]
    assert pair.severity[0, 0] < pair.severity[1, 0]
    assert (pair.left[1, 1], pair.right[1, 1]) == (1, 0)
    assert np.isnan(pair.severity[1, 1])
    assert pair.severity[0, 1] == 0
    assert pair.change.tolist() == [CHANGE_ANSWERS.index("worsening"), UNKNOWN, UNKNOWN]
    assert np.isnan(pair.present[:, 2]).all()
    alone = targets_of_truth(truth, names, VisibleImages.PRIOR)
    assert alone.present[1, :2].tolist() == [1, 0]
    assert np.isnan(alone.present[0]).all()
    assert (alone.change == UNKNOWN).all()


# --- runs ---


def test_a_run_on_records_ends_with_a_report(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mimic"
    studies = write_mimic_with_questions(own, reverse_every=5)
    for study in studies[::4]:
        image_of(own, study).write_bytes(b"\xff\xd8 no picture")
    recipe = recipe_of(tmp_path, DATA.format(root=own) + "max_dropped = 1.0\nworkers = 2\n", steps=6)
    final = train(recipe, tmp_path / "out", quiet=False)
    report = json.loads((tmp_path / "out" / REPORT).read_text("utf-8"))
    assert sum(report["not_shown"].values()) == len(read_dropped(tmp_path / "out")) > 0
    said = capsys.readouterr().out
    assert "of the samples: diff-vqa:" in said
    assert "noted" in said
    assert "not shown, " in said
    assert (final / "config.json").is_file()
    losses = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in losses] == list(range(1, 7))
    assert all({"answers", "presence"} <= set(line) for line in losses)


def test_a_stopped_run_goes_on_with_the_very_same_samples(tmp_path: Path, root: Path) -> None:
    own = tmp_path / "mimic"
    shutil.copytree(root, own)
    recipe = recipe_of(tmp_path, DATA.format(root=own), steps=5)
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"tensorboard": True})})
    train(recipe, tmp_path / "whole", quiet=True)
    asked = iter([False, False, True])
    with pytest.raises(TrainingStopped, match="after step 3"):
        train(recipe, tmp_path / "out", quiet=True, between=lambda: next(asked))
    (own / "mimic_all.csv").unlink()  # the tables may change: the run has its index
    train(recipe, tmp_path / "out", quiet=True)
    whole, stopped = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text("utf-8").splitlines()]
        for name in ("whole", "out")
    )
    assert stopped == pytest.approx(whole, abs=1e-4)
    assert len(stopped) == 5
    assert list((tmp_path / "whole" / "tensorboard").glob("events*"))


def test_phantoms_and_records_mix_and_warm_the_heads(tmp_path: Path, root: Path) -> None:
    from training.phantom.cache import fill
    from training.phantom.render import PHANTOM_FINDINGS

    fill(tmp_path / "cache", pairs=6, first_seed=500, size=32)
    findings = json.dumps(list(PHANTOM_FINDINGS))
    data = f"""
    kind = "records"
    sets = [{{ data = "diff-vqa:{root},{root}", weight = 1.0 }},
            {{ data = "phantom-cache:{tmp_path}/cache", weight = 2.0 }},
            {{ data = "phantom:4", weight = 0.5 }}]
    temperature = 1e9
    findings = {findings}
    """
    recipe = recipe_of(tmp_path, data, steps=3)
    source = source_of(recipe, Place(work=tmp_path / "work", size=32))
    assert isinstance(source, MixedSource)
    assert sum(s for p, s in zip(source.pools, source.shares, strict=True) if "cache" in p.name) == pytest.approx(4 / 7)
    train(recipe, tmp_path / "out", quiet=True)
    losses = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text("utf-8").splitlines()]
    assert all(np.isfinite(list(line.values())).all() for line in losses)
    heads = recipe.model_copy(update={"run": recipe.run.model_copy(update={"objective": Objective.HEADS})})
    train(heads, tmp_path / "heads", quiet=True)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ('kind = "records"', "needs sets"),
        ('kind = "instructions"', "needs instructions"),
        ('kind = "records"\nsets = [{ data = "nih:x", wieght = 2 }]', r"wieght"),
        ('kind = "records"\nsets = ["nih:x"]\nstreams = { diagnosis = 1 }', r"streams\.diagnosis"),
        ('kind = "records"\nsets = ["nih:x"]\nstreams = { diagnostic = 0 }', "not all 0"),
        ('kind = "records"\nsets = ["nih:x"]\ntemperature = 0.5', "temperature"),
        ('kind = "records"\nsets = ["nih:x"]\nfindings = ["oedema"]', "oedema.*are not in the ontology"),
    ],
)
def test_wrong_data_sections_are_refused_by_name(tmp_path: Path, data: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        recipe_of(tmp_path, data)


def test_a_set_that_cannot_teach_the_stream_says_what_it_holds(tmp_path: Path, root: Path) -> None:
    from model.errors import ModelError

    data = f'kind = "records"\nsets = ["mimic-jpg:{root}"]\nstreams = {{ long = 1 }}'
    with pytest.raises(ModelError, match=r"can teach none of the streams long:\n.*records"):
        mixed(tmp_path, data)
    with pytest.raises(DataError, match="names no data set"):
        mixed(tmp_path, 'kind = "records"\nsets = ["mimik:x"]')


def test_long_answers_teach_their_stream(tmp_path: Path, root: Path) -> None:
    report = DropReport()
    records = [r for r in read_medical_diff_vqa(root, partial(jpg_path, root), report) if r.prior is not None]
    answers = {record.record_id: "New edema has appeared." for record in records}
    (tmp_path / "long.json").write_text(json.dumps({"answers": answers}), "utf-8")
    data = f"""
    kind = "records"
    sets = [{{ data = "diff-vqa:{root},{root}", long_answers = "{tmp_path}/long.json", split = "all" }}]
    streams = {{ long = 1 }}
    """
    source = mixed(tmp_path, data)
    assert source.size == len(records)
    assert all(isinstance(turn, Turn) and turn.answer == "New edema has appeared." for turn in source.sample(3).turns)
    assert source.pools[0].name.endswith(Stream.LONG.value)
