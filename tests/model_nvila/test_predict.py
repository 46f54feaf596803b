"""The predictor end to end on a tiny random checkpoint, and the rules that keep its statements consistent."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine import Engine
from model.errors import CheckpointError
from model.ontology import ontology
from model.pixels import from_grey
from model.predict import Predictor, load_predictor
from model.questions_answers import CHANGE_ANSWERS
from model.reading import FindingAnswers, read_finding, shifted
from model.registry import promote, rewrite_manifest
from model.schema import Change, DisplayImage, Presence, StudyPair
from tests.model_nvila.test_registry import NOW
from tests.model_nvila.tiny import FINDINGS, save_tiny


def image(seed: int) -> DisplayImage:
    grey = np.kron(np.random.default_rng(seed).random((8, 6)), np.ones((20, 20))).astype(np.float32)
    return from_grey(grey, crop=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-1", manifest={"prognosis": True})


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    loaded = load_predictor(folder)
    loaded.engine = Engine(loaded.vlm, max_new_tokens=8)
    return loaded


def test_pair_gets_every_finding_in_ontology_order(predictor: Predictor) -> None:
    prediction = predictor.predict(StudyPair(current=image(1), prior=image(2)))
    order = [key for key in ontology().findings if key in FINDINGS]
    assert [finding.key for finding in prediction.findings] == order
    assert prediction.model == predictor.identity
    assert prediction.model.demonstration
    assert prediction.difference_text is not None
    for finding in prediction.findings:
        assert 0.0 <= finding.probability <= 1.0
        assert finding.prior_probability is not None
        if finding.presence is not Presence.PRESENT:
            assert finding.location is None
            assert finding.level is None
    assert {item.key for item in prediction.prognosis} <= set(FINDINGS)


def test_without_a_prior_nothing_is_said_on_change(predictor: Predictor) -> None:
    prediction = predictor.predict(StudyPair(current=image(1)))
    assert prediction.difference_text is None
    for finding in prediction.findings:
        assert finding.change is None
        assert finding.change_probability is None
        assert finding.prior_probability is None


def test_several_pairs_at_once_give_what_each_gives_alone(predictor: Predictor) -> None:
    pairs = [StudyPair(current=image(n), prior=image(n + 10) if n != 1 else None) for n in range(3)]
    for together, pair in zip(predictor.predict_many(pairs), pairs, strict=True):
        alone = predictor.predict(pair)
        assert together.difference_text == alone.difference_text
        for left, right in zip(together.findings, alone.findings, strict=True):
            assert (left.key, left.presence, left.change) == (right.key, right.presence, right.change)
            assert left.probability == pytest.approx(right.probability, abs=1e-4)


def test_only_trained_findings_and_types_are_asked(tmp_path: Path, folder: Path) -> None:
    narrow = tmp_path / "narrow"
    shutil.copytree(folder, narrow)
    rewrite_manifest(narrow, findings=("edema",), question_types=("presence",), prognosis=False)
    predictor = load_predictor(narrow)
    asked = [
        question.key
        for job in predictor.jobs(StudyPair(current=image(1), prior=image(2)))
        for question in job.questions
    ]
    assert asked == ["presence/edema"]
    finding = predictor.predict(StudyPair(current=image(1), prior=image(2))).findings[0]
    assert finding.change is None
    assert finding.prior_probability is None


def test_temperature_and_threshold_of_the_manifest_apply(tmp_path: Path, folder: Path) -> None:
    pair = StudyPair(current=image(1), prior=image(2))
    plain = load_predictor(folder).predict(pair).finding("edema").probability
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    rewrite_manifest(changed, calibration={"presence": 4.0}, thresholds={"edema": 0.0 if plain < 0.5 else 1.0})
    softened = load_predictor(changed).predict(pair).finding("edema")
    assert abs(softened.probability - 0.5) < abs(plain - 0.5)
    assert softened.presence is (Presence.PRESENT if plain < 0.5 else Presence.ABSENT)


def test_tampered_and_foreign_checkpoints_are_refused(tmp_path: Path, folder: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "config.json").write_text((broken / "config.json").read_text() + " ")
    with pytest.raises(CheckpointError, match=r"config\.json was changed"):
        load_predictor(broken)
    (broken / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="half-written or foreign"):
        load_predictor(broken)
    with pytest.raises(CheckpointError, match="40 hexadecimal"):
        load_predictor("somebody/some-model", findings=("edema",))
    foreign = load_predictor(broken, findings=("edema",))
    assert foreign.findings == ("edema",)
    assert foreign.identity.device_uid.startswith("2.25.")


def test_the_champion_of_a_models_folder_is_loaded(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "tiny-1")
    promote(tmp_path, "tiny-1", at=NOW)
    assert load_predictor(tmp_path).identity.version == "1"


shares = st.lists(st.floats(1e-6, 1.0), min_size=6, max_size=6).map(
    lambda numbers: dict(zip(CHANGE_ANSWERS, [number / sum(numbers) for number in numbers], strict=True))
)
probability = st.floats(0.0, 1.0)


@given(
    presence=probability,
    prior=st.none() | probability,
    change=st.none() | shares,
    threshold=st.floats(0.01, 0.99),
    floor=st.floats(0.0, 1.0),
)
def test_presence_and_change_never_contradict(
    presence: float, prior: float | None, change: dict[str, float] | None, threshold: float, floor: float
) -> None:
    answers = FindingAnswers(presence=presence, prior_presence=prior, change=change)
    finding = read_finding("edema", answers, threshold=threshold, floor=floor, with_prior=True)
    there = presence >= threshold
    if finding.presence is not Presence.ABSTAINED:
        assert (finding.presence is Presence.PRESENT) == there
    if finding.change is Change.RESOLVED:
        assert finding.presence is Presence.ABSENT
    if finding.change in (Change.NEW, Change.WORSENING, Change.STABLE, Change.IMPROVING):
        assert finding.presence is Presence.PRESENT
    if finding.change is None:
        assert finding.change_probability is None
    elif finding.change is not Change.NOT_COMPARABLE:
        assert finding.change_probability is not None
        assert finding.change_probability >= floor


@given(presence=probability, change=shares)
def test_without_prior_there_is_no_change(presence: float, change: dict[str, float]) -> None:
    answers = FindingAnswers(presence=presence, change=change)
    assert read_finding("edema", answers, threshold=0.5, floor=0.0, with_prior=False).change is None


def clear(answer: str, strength: float = 0.9) -> dict[str, float]:
    rest = (1.0 - strength) / 5
    return {name: strength if name == answer else rest for name in CHANGE_ANSWERS}


@pytest.mark.parametrize(
    ("presence", "prior", "change", "expected"),
    [
        (0.9, 0.1, "new", Change.NEW),
        (0.1, 0.9, "resolved", Change.RESOLVED),
        (0.9, 0.9, "worsening", Change.WORSENING),
        (0.1, 0.1, "none", None),
        (0.95, 0.95, "none", Change.NOT_COMPARABLE),  # says "none" of what it sees twice: no state fits well
        (0.9, 0.45, "new", Change.NEW),  # a doubtful prior gives way to a clear change
        (0.6, 0.95, "resolved", Change.NOT_COMPARABLE),  # present, yet resolved: contradiction
    ],
)
def test_rules_by_example(presence: float, prior: float, change: str, expected: Change | None) -> None:
    answers = FindingAnswers(presence=presence, prior_presence=prior, change=clear(change))
    finding = read_finding("edema", answers, threshold=0.5, floor=0.3, with_prior=True)
    assert finding.change is expected


def test_presence_without_a_change_question() -> None:
    new = read_finding(
        "edema", FindingAnswers(presence=0.9, prior_presence=0.1), threshold=0.5, floor=0.0, with_prior=True
    )
    assert new.change is Change.NEW
    both = read_finding(
        "edema", FindingAnswers(presence=0.9, prior_presence=0.9), threshold=0.5, floor=0.0, with_prior=True
    )
    assert both.change is Change.NOT_COMPARABLE


@given(probability=probability, threshold=st.floats(0.01, 0.99))
def test_the_threshold_becomes_one_half(probability: float, threshold: float) -> None:
    assert (shifted(probability, threshold) >= 0.5 - 1e-9) == (probability >= threshold - 1e-9) or np.isclose(
        probability, threshold, atol=1e-6
    )
