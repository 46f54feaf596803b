"""The phantom: truth that inverts with the pair, findings where the truth says, DICOM that validators accept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.dicom.uids import is_uid
from model.errors import ModelError
from model.images.display import load_display_image
from model.schema import INVERSE_CHANGE, Change
from tests.support.common import program
from training.phantom.cache import MARK_SIDE, fill, read_shards, write_shard
from training.phantom.dicom import Storage, Subject, write_study_pair
from training.phantom.render import (
    GRADED,
    PHANTOM_FINDINGS,
    FindingState,
    composite,
    finding_marks,
    render,
    render_pair,
    sample_acquisition,
    sample_pair,
    sample_patient,
)
from training.phantom.scene import GRADE_RANGES

seeds = st.integers(min_value=0, max_value=10**9)


@given(seed=seeds)
@settings(max_examples=200, deadline=None)
def test_swapping_a_pair_inverts_every_change(seed: int) -> None:
    pair = sample_pair(seed)
    swapped = pair.swapped()
    assert swapped.changes == {key: INVERSE_CHANGE[change] for key, change in pair.changes.items()}
    assert swapped.swapped() == pair


@given(seed=seeds)
@settings(max_examples=200, deadline=None)
def test_the_truth_of_change_agrees_with_the_states(seed: int) -> None:
    pair = sample_pair(seed)
    for key in PHANTOM_FINDINGS:
        before, after = pair.prior.get(key), pair.current.get(key)
        change = pair.changes.get(key)
        assert (change is None) == (before is None and after is None)
        assert (change is Change.NEW) == (before is None and after is not None)
        assert (change is Change.RESOLVED) == (after is None and before is not None)
        for state in (before, after):
            if state is not None and state.grade is not None:
                low, high = GRADE_RANGES[state.grade]
                assert low <= state.severity <= high
        if before is not None and after is not None:
            assert (before.side, before.zone, before.seed) == (after.side, after.zone, after.seed)
            if change is Change.WORSENING:
                assert after.severity - before.severity > 0.1


@pytest.mark.parametrize("change", [Change.NEW, Change.WORSENING, Change.STABLE, Change.IMPROVING, Change.RESOLVED])
@pytest.mark.parametrize("key", GRADED)
def test_a_wanted_change_is_what_the_pair_shows(key: str, change: Change) -> None:
    assert sample_pair(5, wanted={key: change}).changes == {key: change}


def _state(key: str, side: str | None, severity: float = 0.9) -> FindingState:
    zone = "lower" if key in ("consolidation", "lung_nodule") else None
    return FindingState(key=key, severity=severity, side=side, zone=zone, seed=3)


SIDED = ["pleural_effusion", "pneumothorax", "consolidation", "atelectasis", "lung_nodule", "fracture", "chest_tube"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("key", SIDED)
def test_a_finding_changes_its_own_side_and_lies_in_its_outline(key: str, side: str) -> None:
    patient, film = sample_patient(1), sample_acquisition(1, strength=0.0)
    states = {key: _state(key, side)}
    with_it = render(patient, states, film, 200, 200, masks=True)
    without = render(patient, {}, film, 200, 200)
    difference = np.abs(with_it.pixels - without.pixels)
    halves = {"right": difference[:, :96].sum(), "left": difference[:, 104:].sum()}  # the patient's left is ours right
    assert halves[side] > 5 * halves["left" if side == "right" else "right"]
    mask = with_it.masks[key]
    assert mask.any()
    assert difference[mask].mean() > 4 * difference[~mask].mean()
    box = with_it.box(key)
    assert box is not None
    assert (box[0] + box[2] > 1.0) == (side == "left")


@pytest.mark.parametrize("key", [*GRADED, "endotracheal_tube", "central_line", "feeding_tube", "pacemaker"])
def test_every_finding_is_visible(key: str) -> None:
    patient, film = sample_patient(2), sample_acquisition(2, strength=0.0)
    side = "left" if key in ("central_line", "pacemaker", *SIDED) else None
    shown = render(patient, {key: _state(key, side)}, film, 160, 160).pixels
    plain = render(patient, {}, film, 160, 160).pixels
    # the same film seed gives the same noise, so any difference is the finding
    assert np.abs(shown - plain).max() > 0.05


@pytest.mark.parametrize("key", ["pleural_effusion", "pneumothorax", "cardiomegaly", "lung_nodule", "consolidation"])
def test_a_higher_degree_covers_more(key: str) -> None:
    patient, film = sample_patient(3), sample_acquisition(3, strength=0.0)
    side = None if key == "cardiomegaly" else "right"
    areas = [
        float(finding_marks(patient, {key: _state(key, side, severity)}, film, 120, 120)[key].sum())
        for severity in (0.2, 0.55, 0.9)
    ]
    assert areas[0] < areas[1] < areas[2]


def test_rendering_is_repeatable_and_in_range() -> None:
    pair = sample_pair(17)
    first, second = (render_pair(pair, 150, 130) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.pixels.dtype == np.float32
        assert a.pixels.shape == (150, 130)
        assert np.array_equal(a.pixels, b.pixels)
        assert 0.0 <= a.pixels.min() < a.pixels.max() <= 1.0
    assert not np.array_equal(first[0].pixels, first[1].pixels)


def test_a_composite_leaves_the_other_lung_of_the_real_film_alone() -> None:
    background = render(sample_patient(9), {}, sample_acquisition(9, strength=0.3), 160, 160).pixels
    film = sample_acquisition(4, strength=0.0)
    patient = sample_patient(4)
    assert np.allclose(composite(background, patient, {}, film), background, atol=1e-6)
    shown = composite(background, patient, {"pleural_effusion": _state("pleural_effusion", "left")}, film)
    assert np.abs(shown - background)[:, 100:].mean() > 0.02
    assert np.abs(shown - background)[:, :70].max() < 1e-3


@pytest.mark.parametrize(
    ("storage", "subject"),
    [
        (Storage.DX, Subject.FRONTAL),
        (Storage.CR, Subject.FRONTAL),
        (Storage.DX, Subject.LATERAL),
        (Storage.DX, Subject.NO_CHEST),
        (Storage.CR, Subject.NO_CHEST),
    ],
)
def test_dicom_files_pass_dciodvfy(tmp_path: Path, storage: Storage, subject: Subject) -> None:
    made = write_study_pair(tmp_path, 31, long_side=128, storage=storage, current_subject=subject)
    for study in (made.prior, made.current):
        for path in study.files:
            checked = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
            assert "Error" not in checked.stdout + checked.stderr


def test_dicom_studies_are_one_person_at_two_times(tmp_path: Path) -> None:
    made = write_study_pair(tmp_path / "a", 8, long_side=160)
    again = write_study_pair(tmp_path / "b", 8, long_side=160)
    other = write_study_pair(tmp_path / "c", 9, long_side=160)
    prior, current = (pydicom.dcmread(study.files[0]) for study in (made.prior, made.current))
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"):
        assert prior[keyword].value == current[keyword].value
    assert (prior.StudyDate, prior.StudyTime) < (current.StudyDate, current.StudyTime)
    uids = {str(ds[k].value) for ds in (prior, current) for k in ("StudyInstanceUID", "SOPInstanceUID")}
    assert len(uids) == 4
    assert all(is_uid(uid) for uid in uids)
    assert made.current.files[0].read_bytes() == again.current.files[0].read_bytes()
    assert other.patient_id != made.patient_id
    assert other.current.study_instance_uid not in uids


def test_dicom_pixels_are_the_rendered_ones(tmp_path: Path) -> None:
    pair = sample_pair(3, wanted={"pleural_effusion": Change.NEW})
    made = write_study_pair(tmp_path, 3, pair=pair, long_side=256)
    shown = load_display_image(made.current.files[0])
    rows, columns = pair.current_film.shape(256)
    rendered = render(pair.patient, pair.current, pair.current_film, rows, columns).pixels
    box = shown.geometry
    kept = rendered[box.top : box.top + box.height, box.left : box.left + box.width]
    assert shown.pixels.shape == kept.shape
    assert np.corrcoef(shown.pixels.ravel(), kept.ravel())[0, 1] > 0.99


def test_the_cache_gives_back_what_was_drawn(tmp_path: Path) -> None:
    fill(tmp_path, pairs=5, first_seed=70, size=48, shard_pairs=3)
    shards = read_shards(tmp_path)
    assert [shard.courses for shard in shards] == [3, 2]
    assert shards[1].course(1).pair() == sample_pair(74)
    assert shards[0].pixels().shape == (6, 48, 48)
    marks = shards[0].marks()
    assert marks is not None
    assert marks.shape == (6, len(PHANTOM_FINDINGS), MARK_SIDE, MARK_SIDE)
    for place, film in enumerate(shards[0].course(0).films):
        seen = {key for number, key in enumerate(PHANTOM_FINDINGS) if marks[place, number].any()}
        assert seen == set(film.states)


def test_the_cache_of_pairs_of_version_1_is_read(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "one", first_seed=70, courses=2, size=32)
    about = json.loads(shard.path.with_suffix(".json").read_text())
    old = {name: about[name] for name in ("first_seed", "size", "backgrounds", "options")} | {"format": 1, "pairs": 2}
    shard.path.with_suffix(".json").write_text(json.dumps(old))
    pixels = np.array(shard.pixels())
    np.save(shard.path, pixels.reshape(2, 2, 32, 32))
    (again,) = read_shards(tmp_path)
    assert again.films == (2, 2)
    assert np.array_equal(again.pixels(), pixels)
    assert again.course(1) == shard.course(1)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "one", first_seed=1, courses=2, size=32)
    shard.path.write_bytes(shard.path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"one\.json"):
        read_shards(tmp_path)
