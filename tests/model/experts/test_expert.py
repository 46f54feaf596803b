"""The expert's text, from a small real network in a folder, and from TorchXRayVision where that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from model.errors import CheckpointError, InferenceError
from model.experts.expert import BUILDERS, CONFIGURATION, LABELS, WEIGHTS, Expert, expert_text, load_expert
from model.experts.export import write_expert
from model.images.display import from_grey
from model.questions.prompts import clean_text
from model.schema import DisplayImage


def _small(labels: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(16, labels))


def _folder(folder: Path, network: nn.Module, architecture: str = "small") -> Path:
    save_file(network.state_dict(), folder / WEIGHTS)
    (folder / CONFIGURATION).write_text(json.dumps({"architecture": architecture, "labels": LABELS}), "utf-8")
    return folder


def _films() -> list[DisplayImage]:
    rng = np.random.default_rng(0)
    return [from_grey(rng.uniform(0.3, 0.9, (300, 260)).astype(np.float32) * scale) for scale in (1.0, 0.4)]


def test_the_text_says_what_the_network_says(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expert = load_expert(_folder(tmp_path, _small(18)), {"small": _small})
    films = _films()
    shares = expert.probabilities(films)
    assert shares.shape == (2, 18)
    assert not np.allclose(shares[0], shares[1])
    assert np.allclose(expert.probabilities(films[:1])[0], shares[0], atol=1e-6)
    text = expert.text(films)
    prior, current = text.split("; ")
    assert prior.startswith("expert on the prior image: atelectasis ")
    for part, row in ((prior, shares[0]), (current, shares[1])):
        said = [word.rsplit(" ", 1)[1] for word in part.split(": ")[1].split(", ")]
        assert said == ["yes" if share >= 0.5 else "no" for share in row]
    assert clean_text(text) == text, "it must pass into a prompt unchanged"
    assert expert.text(films[1:]).startswith("expert on the current image: ")


def test_wording_and_threshold() -> None:
    row = np.zeros((1, 18))
    row[0, [0, 9]] = 0.5
    text = expert_text(row)
    assert "atelectasis yes, consolidation no" in text
    assert "pleural thickening yes" in text
    assert text.count("yes") == 2
    with pytest.raises(ValueError, match="18 probabilities"):
        expert_text(np.zeros((3, 18)))


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no expert"):
        load_expert(tmp_path)
    with pytest.raises(CheckpointError, match="unknown"):
        load_expert(_folder(tmp_path, _small(18)))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_expert(_folder(tmp_path, _small(17)), {"small": _small})
    with pytest.raises(InferenceError, match="gave"):
        Expert(_small(5), LABELS).probabilities(_films())
    broken = _small(18)
    broken.get_parameter("2.bias").data[3] = float("nan")
    with pytest.raises(InferenceError, match="no numbers"):
        Expert(broken, LABELS).probabilities(_films())


def test_thresholds_and_labels_that_were_never_trained(tmp_path: Path) -> None:
    """An operating point is said to be 0.5, as TorchXRayVision's op_norm does; an output without a name is silent."""
    torch.manual_seed(2)
    network, labels = _small(4), ("Edema", "", "Effusion", "Mass")
    plain = Expert(network, ("a", "b", "c", "d")).probabilities(_films())
    cuts = [float(plain[0, 0]), 0.5, 0.25, 0.5]
    write_expert_to(tmp_path, network, labels, cuts)
    expert = load_expert(tmp_path, {"small": _small})
    assert expert.labels == ("Edema", "Effusion", "Mass")
    shares = expert.probabilities(_films())
    assert shares[0, 0] == pytest.approx(0.5, abs=1e-6)
    assert shares[:, 2] == pytest.approx(plain[:, 3])
    below = plain[:, 2] < 0.25
    assert shares[:, 1] == pytest.approx(np.where(below, plain[:, 2] * 2, 1 - (1 - plain[:, 2]) / 1.5), abs=1e-6)
    assert ((shares >= 0.5) == (plain[:, [0, 2, 3]] >= np.array([cuts[0], 0.25, 0.5]) - 1e-7)).all()
    for broken in ([0.5], [0.5, 0.5, 0.5, 1.0]):
        write_expert_to(tmp_path, network, labels, broken)
        with pytest.raises(CheckpointError, match="threshold"):
            load_expert(tmp_path, {"small": _small})


def write_expert_to(folder: Path, network: nn.Module, labels: tuple[str, ...], cuts: list[float]) -> None:
    save_file(network.state_dict(), folder / WEIGHTS)
    said = {"architecture": "small", "labels": labels, "thresholds": cuts}
    (folder / CONFIGURATION).write_text(json.dumps(said), "utf-8")


def test_torchxrayvision_weights_need_no_torchxrayvision(tmp_path: Path) -> None:
    """Random weights of its DenseNet through a folder; its layer names are the published ones."""
    torch.manual_seed(0)
    network = BUILDERS["torchxrayvision.DenseNet"](18).eval()
    names = set(network.state_dict())
    assert {"features.conv0.weight", "features.denseblock4.denselayer16.norm2.running_var", "classifier.bias"} <= names
    assert sum(value.numel() for value in network.parameters()) == 6_966_034
    with torch.inference_mode():
        features = network.get_submodule("features")(torch.zeros(1, 1, 64, 64))
    assert features.shape == (1, 1024, 2, 2)
    state = dict(network.state_dict()) | {"op_threshs": torch.full((18,), 0.3)}
    write_expert(tmp_path / "expert", state, LABELS, [0.3] * 17 + [float("nan")])
    expert = load_expert(tmp_path / "expert")
    assert expert.probabilities(_films()).shape == (2, 18)
    assert len(expert.fingerprint) == 64
    with pytest.raises(CheckpointError, match="already"):
        write_expert(tmp_path / "expert", state, LABELS, None)


def test_torchxrayvision_itself_agrees() -> None:
    torchxrayvision = pytest.importorskip(
        "torchxrayvision", reason="the extra `experts` is not installed", exc_type=ImportError
    )
    theirs = torchxrayvision.models.DenseNet(num_classes=18, in_channels=1).eval()
    ours = BUILDERS["torchxrayvision.DenseNet"](18).eval()
    ours.load_state_dict(theirs.state_dict())
    films = torch.randn(1, 1, 224, 224) * 300
    with torch.inference_mode():
        assert torch.allclose(ours(films), theirs(films), atol=1e-4)
    assert tuple(torchxrayvision.datasets.default_pathologies) == LABELS


def test_the_exporter_says_what_it_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.experts.export", str(tmp_path / "expert"), "--weights", "resnet"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode in (1, 2)
    assert "experts" in result.stderr or "resnet" in result.stderr
    assert not (tmp_path / "expert").exists()
