"""The prognosis head: missing inputs have a state of their own, what is not given changes only what it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.checkpoints.manifest import Manifest, read_manifest, rewrite_manifest, write_manifest
from model.checkpoints.prognosis_evidence import PrognosisEvidence, SettingFigures
from model.engine.engine import Engine
from model.errors import CheckpointError
from model.ontology import ontology
from model.predict import load_predictor
from model.prognosis.foresight import within_gap, without_contradictions
from model.prognosis.head import FILE, PrognosisHead, read_head
from model.prognosis.inputs import SETTINGS, Known, Vocabulary, flag_of, inputs_of, reading_of, setting_of
from model.questions.answers import CHANGE_ANSWERS, DEGREE_CHANGES
from model.schema import Change, Finding, PatientContext, Presence, PrognosisItem, StudyPair
from tests.model.test_study import image, study
from tests.support.tiny_nvila import FINDINGS, save_tiny

WORDS = Vocabulary(findings=FINDINGS, labs=("CRP", "BNP"), treatments=("diuretics",))
CHART = PatientContext(labs={"CRP": "182 mg/L very high"}, treatments=("diuretics",))


def reading(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(4), len(FINDINGS))


def known(images: int = 4, *, context: PatientContext | None = CHART) -> Known:
    days = tuple(2 * (images - 1 - number) for number in range(images - 1))
    return Known(readings=tuple(reading(number) for number in range(images)), days=days, context=context)


def head(seed: int = 0, hidden: int = 5) -> PrognosisHead:
    rng = np.random.default_rng(seed)
    width, count = inputs_of(known(), WORDS).shape[1], len(FINDINGS)
    shapes = {
        "first": (count, width, hidden),
        "first_bias": (count, hidden),
        "second": (count, hidden, len(CHANGE_ANSWERS)),
        "second_bias": (count, len(CHANGE_ANSWERS)),
    }
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return PrognosisHead(vocabulary=WORDS, weights=weights, temperature=1.3)


def test_every_number_of_images_and_every_chart_has_inputs_of_its_own() -> None:
    shapes = {inputs_of(known(n, context=c), WORDS).shape for n in range(1, 9) for c in (None, CHART)}
    assert len(shapes) == 1
    rows = [inputs_of(known(n, context=c), WORDS).tobytes() for n in range(1, 9) for c in (None, CHART)]
    assert len(set(rows)) == len(rows)


def test_a_reading_of_one_half_is_nothing_special() -> None:
    """A current reading of exactly one half once counted the finding as absent where it has been present."""
    half, nearly = known(3), known(3)
    half.readings[-1][:, 0], nearly.readings[-1][:, 0] = 0.5, 0.5 + 1e-9
    assert np.allclose(inputs_of(half, WORDS), inputs_of(nearly, WORDS), atol=1e-6)


def test_an_older_image_changes_the_inputs_of_no_newer_one() -> None:
    whole, two = inputs_of(known(4), WORDS), inputs_of(known(4).newest(2), WORDS)
    assert np.array_equal(whole[:, :9], two[:, :9]), "current and prior"
    other = replace(known(4), readings=(reading(77), *known(4).readings[1:]))
    assert np.array_equal(inputs_of(other.newest(3), WORDS), inputs_of(known(4).newest(3), WORDS))
    assert not np.array_equal(inputs_of(other, WORDS), whole)


def test_a_missing_laboratory_value_is_no_normal_one() -> None:
    def chart(**labs: str) -> bytes:
        context = PatientContext(labs={"BNP": "80 pg/mL normal", **labs})
        return inputs_of(known(context=context), WORDS).tobytes()

    assert len({chart(), chart(CRP="3 mg/L normal"), chart(CRP="40 mg/L high")}) == 3
    assert chart() == chart(potassium="4.1 mmol/L normal"), "what nobody learned is not shown"
    assert chart() == chart(CRP="see comment"), "a value without a flag counts as missing"


def test_age_and_sex_are_no_chart() -> None:
    person = PatientContext(age_years=70, sex="F")
    assert inputs_of(known(context=person), WORDS).tobytes() == inputs_of(known(context=None), WORDS).tobytes()
    assert setting_of(known(context=person)) == "all"
    assert {setting_of(known(n, context=c)) for n in (1, 2, 5) for c in (None, CHART)} == set(SETTINGS)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("182 mg/L very high", 2),
        ("47 mg/L High", 1),
        ("3 mg/L normal", 0),
        ("182 mg/L HH", 2),
        ("9 g/dL L", 0),
        ("182 mg/L", None),
        ("", None),
    ],
)
def test_flags_are_read_from_words_and_from_hl7(text: str, flag: int | None) -> None:
    assert flag_of(text) == flag


def test_a_reading_is_a_distribution_and_a_device_has_no_degree() -> None:
    shares = {f"presence/{key}": {"yes": 0.7, "no": 0.3} for key in FINDINGS}
    rows = reading_of(shares, FINDINGS)
    assert rows.sum(1) == pytest.approx(np.ones(len(FINDINGS)))
    for row, key in enumerate(FINDINGS):
        if not ontology().findings[key].graded:
            assert rows[row].tolist() == pytest.approx([0.3, 0.7, 0, 0])
    with pytest.raises(KeyError, match="presence/"):
        reading_of({}, FINDINGS)


def test_probabilities_are_distributions_over_what_makes_sense() -> None:
    for key, shares in head().probabilities(known()).items():
        assert tuple(shares) == CHANGE_ANSWERS
        assert sum(shares.values()) == pytest.approx(1.0)
        if not ontology().findings[key].graded:
            assert all(shares[answer] == 0 for answer in DEGREE_CHANGES)


def test_a_head_comes_back_as_it_was_saved_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert read_head(tmp_path) is None
    head().save(tmp_path)
    again = read_head(tmp_path)
    assert again is not None
    assert again.probabilities(known()) == head().probabilities(known())
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(CheckpointError, match=FILE):
        read_head(tmp_path)


def save_with_head(folder: Path, stated: dict[str, tuple[str, ...]], *, prognosis: bool = True) -> Path:
    save_tiny(folder)
    old = read_manifest(folder)
    head().save(folder)
    values = {name: getattr(old, name) for name in Manifest.model_fields if name not in ("device_uid", "files")}
    write_manifest(folder, **values | {"prognosis": prognosis, "prognosis_findings": stated})
    return folder


@pytest.mark.parametrize(
    ("days", "longest", "kept"),
    [
        ([0, 2, 3, 4], None, 4),
        ([0, 2, 3, 4], 2, 4),
        ([0, 3, 4, 5], 2, 3),
        ([0, 1, 9, 10], 2, 2),
        ([0, 1, 2, 30], 2, 1),
        ([0, None, 3, 4], 2, 2),
        ([0, 1, 2, None], 2, 1),
        ([5], 2, 1),
        ([4, 4], 0, 2),
    ],
)
def test_a_course_ends_at_a_gap_that_was_not_measured(days: list[int | None], longest: int | None, kept: int) -> None:
    whole = study(days)
    assert within_gap(whole, longest).images == whole.images[len(days) - kept :]


def test_what_contradicts_the_present_is_not_foretold() -> None:
    def found(key: str, presence: Presence) -> Finding:
        return Finding(key=key, presence=presence, probability=0.5)

    findings = [
        found("edema", Presence.PRESENT),
        found("fracture", Presence.ABSENT),
        found("pneumothorax", Presence.ABSTAINED),
    ]
    items = [
        PrognosisItem(key=key, change=change, probability=0.9)
        for key in ("edema", "fracture", "pneumothorax", "cardiomegaly")
        for change in (Change.NEW, Change.STABLE, Change.RESOLVED)
    ]
    kept = {(item.key, item.change) for item in without_contradictions(items, findings)}
    assert kept == {("edema", Change.STABLE), ("edema", Change.RESOLVED), ("fracture", Change.NEW)}


def evidence(setting: str) -> PrognosisEvidence:
    figures = SettingFigures(answers=9, accuracy=(0.8, 0.7, 0.9), commonest=0.6, calibration_error=0.02)
    return PrognosisEvidence(data="phantom courses", kinds=("phantom",), settings={setting: figures})


def test_only_what_the_figures_allow_is_foretold(tmp_path: Path) -> None:
    stated = {"all": FINDINGS, "both": FINDINGS[:1]}
    predictor = load_predictor(save_with_head(tmp_path / "tiny", stated))
    predictor.engine = Engine(predictor.vlm, max_new_tokens=2)
    four = study([0, 1, 2, 3])
    assert {item.key for item in predictor.predict(four.newest(2)).prognosis} <= set(FINDINGS[:1])
    assert predictor.predict(four.newest(1)).prognosis == ()
    assert predictor.predict(StudyPair(current=image(1), context=CHART)).prognosis == ()
    assert predictor.foresight is not None
    said = predictor.predict(four).prognosis
    expected = head().probabilities(predictor.foresight.known(four))
    for item in said:
        assert item.probability == pytest.approx(max(expected[item.key].values()))
    silent = load_predictor(save_with_head(tmp_path / "silent", stated, prognosis=False))
    assert silent.foresight is None
    assert silent.predict(four).prognosis == ()


def test_where_nobody_can_tell_the_kind_of_image_the_evidence_allows_nothing(tmp_path: Path) -> None:
    folder = save_with_head(tmp_path / "tiny", {"both": FINDINGS})
    predictor = load_predictor(folder)
    predictor.engine = Engine(predictor.vlm, max_new_tokens=2)
    assert predictor.predict(study([0, 1])).prognosis
    rewrite_manifest(folder, prognosis_evidence=evidence("both"))
    limited = load_predictor(folder)
    limited.engine = predictor.engine
    assert limited.films is None
    assert limited.predict(study([0, 1])).prognosis == ()


def test_a_setting_without_figures_is_not_stated(tmp_path: Path) -> None:
    folder = save_with_head(tmp_path / "tiny", {"both": FINDINGS, "all": ()})
    rewrite_manifest(folder, prognosis_evidence=evidence("both"))
    with pytest.raises(CheckpointError, match=r"stated in \['both'\], for which there are no figures"):
        rewrite_manifest(folder, prognosis_evidence=evidence("all"))


def test_dropping_the_oldest_image_changes_the_prognosis_and_nothing_else(tmp_path: Path) -> None:
    predictor = load_predictor(save_with_head(tmp_path / "tiny", {"all": FINDINGS}))
    predictor.engine = Engine(predictor.vlm, max_new_tokens=2)
    four = study([0, 1, 2, 3])
    whole, fewer = predictor.predict(four), predictor.predict(four.newest(3))
    assert whole.findings == fewer.findings
    assert whole.difference_text == fewer.difference_text
    assert predictor.foresight is not None
    readings = predictor.foresight.known(four).readings
    for ours, alone in zip(readings[1:], predictor.foresight.known(four.newest(3)).readings, strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)
