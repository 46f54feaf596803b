"""The predictor end to end on a tiny random checkpoint; the rules of reading have tests of their own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dicom_node.config import ModelSection
from dicom_node.serving.predictor import load
from model.checkpoints.registry import promote, rewrite_manifest
from model.engine.engine import Engine
from model.errors import CheckpointError, InferenceError
from model.experts.expert import BUILDERS, CONFIGURATION, LABELS, WEIGHTS
from model.images.display import from_grey
from model.ontology import ontology
from model.predict import Predictor, load_predictor
from model.schema import DisplayImage, Presence, StudyPair
from tests.model.checkpoints.test_registry import NOW
from tests.model.prognosis.test_prognosis import save_with_head
from tests.support.tiny_nvila import FINDINGS, save_tiny


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


def test_the_node_asks_for_no_text_and_finds_the_same(folder: Path, predictor: Predictor) -> None:
    served = load(ModelSection(source=str(folder)))
    pair = StudyPair(current=image(1), prior=image(2))
    prediction, whole = served.predict(pair), predictor.predict(pair)
    assert prediction.difference_text is None
    assert whole.difference_text is not None
    assert [(f.key, f.presence, f.change, f.location, f.level) for f in prediction.findings] == [
        (f.key, f.presence, f.change, f.location, f.level) for f in whole.findings
    ]
    for left, right in zip(prediction.findings, whole.findings, strict=True):
        assert left.probability == pytest.approx(right.probability, abs=1e-5)
    assert [item.key for item in prediction.prognosis] == [item.key for item in whole.prognosis]


def test_side_and_degree_are_asked_of_what_is_present_alone(tmp_path: Path, folder: Path) -> None:
    """And what is stated is what asking everything states."""
    pair, there = StudyPair(current=image(1), prior=image(2)), ("edema", "pleural_effusion")
    told = tmp_path / "told"
    shutil.copytree(folder, told)
    rewrite_manifest(told, thresholds={key: 0.0 if key in there else 1.0 for key in FINDINGS})
    served, whole = load_predictor(told), load_predictor(told)
    served.asks_everything = False
    job = served.jobs(pair)[0]
    late = {question.key for question in job.late}
    assert {key.split("/")[0] for key in late} == {"side", "grade"}
    asked = served.engine.ask([job])[0].closed.keys()
    assert asked & late == {key for key in late if key.split("/")[1] in there}
    assert asked >= {f"change/{key}" for key in FINDINGS}
    assert not any(key.startswith("view") for key in asked)
    for left, right in zip(served.predict(pair).findings, whole.predict(pair).findings, strict=True):
        assert (left.key, left.presence, left.change) == (right.key, right.presence, right.change)
        assert (left.location, left.level) == (right.location, right.level)
        assert left.probability == pytest.approx(right.probability, abs=1e-5)


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


def test_a_model_that_gives_no_numbers_fails_and_says_nothing(folder: Path) -> None:
    """Not a number is below every threshold: read as it stands, it would be "absent" of everything."""
    broken = load_predictor(folder)
    with torch.no_grad():
        broken.vlm.model.llm.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InferenceError, match="gave no numbers"):
        broken.predict(StudyPair(current=image(1), prior=image(2)))


def test_a_model_that_would_rather_say_something_else_is_told_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_predictor(folder)  # random weights: no word is likely
    for _ in range(2):
        loaded.predict(StudyPair(current=image(1)))
    assert caplog.text.count("it would rather answer in other words") == 1


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


@pytest.fixture
def expert_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier of one layer, which speaks as quickly as a test wants it."""

    def small(labels: int) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(16, labels))

    monkeypatch.setitem(BUILDERS, "small", small)
    folder = tmp_path / "expert"
    folder.mkdir()
    torch.manual_seed(5)
    save_file(small(18).state_dict(), folder / WEIGHTS)
    (folder / CONFIGURATION).write_text(json.dumps({"architecture": "small", "labels": LABELS}), "utf-8")
    return folder


def test_an_expert_speaks_to_whom_was_trained_with_it(tmp_path: Path, folder: Path, expert_folder: Path) -> None:
    pair = StudyPair(current=image(1), prior=image(2))
    untrained = load_predictor(folder, experts=expert_folder)
    assert untrained.expert is None
    assert all(job.layout.expert is None for job in untrained.jobs(pair))
    taught = tmp_path / "taught"
    shutil.copytree(folder, taught)
    manifest = rewrite_manifest(taught, expert=True)
    without, told = load_predictor(taught), load_predictor(taught, experts=expert_folder)
    assert without.identity.device_uid == manifest.device_uid
    assert told.identity.device_uid != manifest.device_uid
    assert told.expert is not None
    together, alone = told.jobs(pair)
    assert together.layout.expert == told.expert.text([image(2), image(1)])
    assert alone.layout.expert == told.expert.text([image(1)])
    prompt = told.vlm.prompt(together.layout, "is there edema in the current image?")
    assert "expert on the prior image: atelectasis" in prompt
    assert prompt.index("expert on the current image") < prompt.index("is there edema")
    heard, unheard = told.predict(pair), without.predict(pair)
    assert [f.probability for f in heard.findings] != [f.probability for f in unheard.findings]
    assert heard.model.device_uid == told.identity.device_uid
    with pytest.raises(CheckpointError, match="no expert"):
        load_predictor(taught, experts=tmp_path / "nothing")


def test_dropping_the_expert_changes_no_reading_that_the_prognosis_rests_on(
    tmp_path: Path, expert_folder: Path
) -> None:
    taught = save_with_head(tmp_path / "taught", {"both": FINDINGS})
    rewrite_manifest(taught, expert=True)
    pair, read, said = StudyPair(current=image(1), prior=image(2)), [], []
    for experts in (None, expert_folder):
        predictor = load_predictor(taught, experts=experts)
        predictor.engine = Engine(predictor.vlm, max_new_tokens=2)
        assert (predictor.expert is None) == (experts is None)
        assert predictor.foresight is not None
        read.append(predictor.foresight.known(pair).readings)
        said.append(predictor.predict(pair))
    for without, told in zip(*read, strict=True):
        assert np.array_equal(without, told)
    unheard, heard = ({(item.key, item.change): item.probability for item in one.prognosis} for one in said)
    common = unheard.keys() & heard.keys()  # what contradicts a finding is left out, and the findings may differ
    assert common
    assert all(unheard[item] == pytest.approx(heard[item], abs=1e-6) for item in common)
    first, second = ([finding.probability for finding in one.findings] for one in said)
    assert first != second, "the expert did speak"


def test_regions_are_sought_under_the_prompt_that_was_answered(
    tmp_path: Path, folder: Path, expert_folder: Path
) -> None:
    """With an expert's line in the prompt the answer is another one, and so is what was relevant to it."""
    taught = tmp_path / "taught"
    shutil.copytree(folder, taught)
    rewrite_manifest(
        taught, expert=True, localisation=dict.fromkeys(FINDINGS, 0.9), thresholds=dict.fromkeys(FINDINGS, 0.0)
    )
    told = load_predictor(taught, experts=expert_folder)
    assert told.localiser is not None
    pair = StudyPair(current=image(1), prior=image(2))
    found = told.predict(pair)
    assert found.finding("edema").presence is Presence.PRESENT
    bare = replace(found, findings=tuple(replace(finding, regions=()) for finding in found.findings))
    same = told.localiser.add_regions(pair, bare, layout=told.jobs(pair)[0].layout)
    other = told.localiser.add_regions(pair, bare)
    assert [f.regions for f in same.findings] == [f.regions for f in found.findings]
    assert [f.regions for f in other.findings] != [f.regions for f in found.findings]


def test_the_node_loads_the_expert_of_its_configuration(tmp_path: Path, folder: Path, expert_folder: Path) -> None:
    taught = tmp_path / "taught"
    shutil.copytree(folder, taught)
    rewrite_manifest(taught, expert=True)
    loaded = load(ModelSection(source=str(taught), experts=expert_folder))
    assert isinstance(loaded, Predictor)
    assert loaded.expert is not None
    plain = load(ModelSection(source=str(folder), experts=expert_folder))
    assert isinstance(plain, Predictor)
    assert plain.expert is None
