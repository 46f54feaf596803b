"""The expert's text, from a small real network in a folder, and from TorchXRayVision where that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from model.errors import CheckpointError, InferenceError
from model.experts import BUILDERS, CONFIGURATION, LABELS, WEIGHTS, Expert, expert_text, load_expert
from model.pixels import from_grey
from model.prompts import clean_text


def _small(labels: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(16, labels))


def _folder(folder: Path, network: nn.Module, architecture: str = "small") -> Path:
    save_file(network.state_dict(), folder / WEIGHTS)
    (folder / CONFIGURATION).write_text(json.dumps({"architecture": architecture, "labels": LABELS}), "utf-8")
    return folder


def _films() -> list:
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
    broken[2].bias.data[3] = float("nan")  # type: ignore[union-attr,operator]
    with pytest.raises(InferenceError, match="no numbers"):
        Expert(broken, LABELS).probabilities(_films())


def test_torchxrayvision_by_the_same_door(tmp_path: Path) -> None:
    """With the extra: random weights of its DenseNet through a folder. Without it: the refusal says what to install."""
    try:
        import torchxrayvision
    except ImportError:
        with pytest.raises(CheckpointError, match="experts"):
            load_expert(_folder(tmp_path, _small(18), "torchxrayvision.DenseNet"))
        return
    assert tuple(torchxrayvision.datasets.default_pathologies) == LABELS
    network = BUILDERS["torchxrayvision.DenseNet"](18)
    expert = load_expert(_folder(tmp_path, network, "torchxrayvision.DenseNet"))
    assert expert.probabilities(_films()).shape == (2, 18)
