"""The release of a prognosis head: what its own figures allow is stated, and the manifest says on what they rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.checkpoints.manifest import read_manifest
from model.errors import CheckpointError
from model.prognosis.head import FILE, PrognosisHead, read_head
from model.prognosis.inputs import SETTINGS, inputs_of
from model.questions.answers import CHANGE_ANSWERS
from tests.support.tiny_nvila import save_tiny
from training.metrics.forecasts import SettingScore
from training.phantom.scene import PHANTOM_FINDINGS
from training.prognosis.phantoms import exact_cases, phantom_vocabulary
from training.prognosis.release import SETTINGS_IN_ORDER, findings_to_state, release


def score(setting: str, **changes: object) -> SettingScore:
    made = SettingScore(
        setting=setting,
        answers=900,
        accuracy=(0.8, 0.78, 0.82),
        common=0.6,
        ceiling=0.85,
        skill=(0.8, 0.75, 0.85),
        ece=0.0123456,
        log_loss=0.5,
        by_finding=dict.fromkeys(PHANTOM_FINDINGS, (0.8, 0.6, 0.85)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def head() -> PrognosisHead:
    words = phantom_vocabulary()
    known = exact_cases(1, 5)[0].known
    width, count = inputs_of(known, words).shape[1], len(words.findings)
    shapes = {
        "first": (count, width, 3),
        "first_bias": (count, 3),
        "second": (count, 3, len(CHANGE_ANSWERS)),
        "second_bias": (count, len(CHANGE_ANSWERS)),
    }
    return PrognosisHead(vocabulary=words, weights={name: np.ones(s, np.float32) for name, s in shapes.items()})


def test_settings_and_findings_are_stated_by_their_own_figures_only() -> None:
    weak = dict.fromkeys(PHANTOM_FINDINGS, (0.8, 0.6, 0.85)) | {"edema": (0.61, 0.6, 0.8)}
    scores = [score(setting) for setting in SETTINGS_IN_ORDER]
    scores[0] = score("current", skill=(0.6, 0.45, 0.7))
    scores[1] = score("both", ece=0.06)
    scores[2] = score("all", by_finding=weak)
    scores[3] = score("all and chart", skill=None, ceiling=None)
    stated = findings_to_state(scores)
    assert set(stated) == set(SETTINGS)
    assert stated["current"] == stated["both"] == stated["all and chart"] == ()
    assert stated["all"] == tuple(key for key in PHANTOM_FINDINGS if key != "edema")
    assert stated["both and chart"] == PHANTOM_FINDINGS


def test_a_release_is_a_copy_with_head_evidence_and_another_device(tmp_path: Path) -> None:
    old = read_manifest(save_tiny(tmp_path / "tiny"))
    scores = [score(setting) for setting in SETTINGS_IN_ORDER]
    made = release(tmp_path / "tiny", tmp_path / "next", head(), scores, "9", "900 answers")
    assert read_manifest(tmp_path / "next") == made
    assert not (tmp_path / "next.draft").exists()
    assert made.version == "9"
    assert made.prognosis
    assert made.prognosis_evidence is not None
    assert made.prognosis_evidence.kinds == ("phantom",)
    assert made.prognosis_evidence.longest_gap == 2
    figures = made.prognosis_evidence.settings["both"]
    assert (figures.accuracy, figures.ceiling, figures.calibration_error) == ((0.8, 0.78, 0.82), 0.85, 0.0123)
    assert set(made.files) == {*old.files, FILE}
    assert all(made.files[name] == entry for name, entry in old.files.items())
    assert made.device_uid != old.device_uid
    assert old.device_uid in made.base
    assert made.parameters == old.parameters + head().size
    again = read_head(tmp_path / "next")
    assert again is not None
    assert again.vocabulary == head().vocabulary
    with pytest.raises(CheckpointError, match="there already; a checkpoint is never overwritten"):
        release(tmp_path / "tiny", tmp_path / "next", head(), scores, "10", "900 answers")


def test_a_head_that_nothing_allows_is_released_silent(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    scores = [score(setting, ece=0.2) for setting in SETTINGS_IN_ORDER]
    made = release(tmp_path / "tiny", tmp_path / "next", head(), scores, "9", "900 answers")
    assert not made.prognosis
    assert not any(made.prognosis_findings.values())
