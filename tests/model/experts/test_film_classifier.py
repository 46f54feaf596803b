"""The film classifier of a checkpoint folder: what is loaded is what was written, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.experts.expert import load_expert
from model.experts.film_classifier import (
    CONFIGURATION,
    WEIGHTS,
    Domains,
    FilmKind,
    has_film_classifier,
    load_film_classifier,
    side_of,
)
from model.experts.film_network import FEATURES, GRID, MINED, SIDE, FilmNetwork
from model.images.display import from_grey
from training.films.finish import write_classifier
from training.films.outputs import domains_of


def _network(seed: int) -> FilmNetwork:
    torch.manual_seed(seed)
    return FilmNetwork().eval()


def _domains() -> Domains:
    rng = np.random.default_rng(0)
    people = rng.normal(0.0, 1.0, (300, FEATURES)).astype(np.float32)
    phantoms = rng.normal(3.0, 1.0, (300, FEATURES)).astype(np.float32)
    return domains_of([people[:200], phantoms[:200]], [people[200:], phantoms[200:]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier")
    write_classifier(path, [_network(1), _network(2)], _domains())
    return path


def test_outputs_are_the_mean_of_the_members(folder: Path) -> None:
    classifier = load_film_classifier(folder)
    assert classifier is not None
    grey = np.random.default_rng(1).random((1, 1, SIDE, SIDE), dtype=np.float32)
    view = classifier.look_at_squares(torch.from_numpy(grey))[0]
    with torch.inference_mode():
        given = torch.stack([_network(seed)(torch.from_numpy(grey)).mined for seed in (1, 2)]).mean(0)[0]
    assert list(view.mined) == list(MINED)
    assert np.allclose(list(view.mined.values()), given.numpy(), atol=0.02)  # half precision on disk
    assert view.maps["consolidation"].shape == (GRID, GRID)


def test_films_are_looked_at_in_their_order(folder: Path) -> None:
    classifier = load_film_classifier(folder)
    assert classifier is not None
    rng = np.random.default_rng(2)
    images = [from_grey(rng.random((150, 120), dtype=np.float32)) for _ in range(3)]
    together, alone = classifier.look(images), [classifier.look([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one.marked == pytest.approx(other.marked, abs=1e-4)
    assert classifier.look([]) == []


def test_kinds_and_unfamiliarity_follow_the_features() -> None:
    domains = _domains()
    rng = np.random.default_rng(3)
    person = torch.from_numpy(rng.normal(0.0, 1.0, (200, FEATURES)).astype(np.float32))
    distances = domains.distances(torch.cat([person, person + 3.0, person - 20.0]))
    assert list(FilmKind)[int(distances[0].argmin())] is FilmKind.PERSON
    assert (distances[:200].argmin(1) == 0).all()
    assert (distances[200:400].argmin(1) == 1).all()
    assert float((distances[:200, 0] > 1.0).float().mean()) < 0.06
    assert (distances[400:].min(1).values > 1.0).all()


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert not has_film_classifier(tmp_path)
    assert load_film_classifier(tmp_path) is None


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (tmp_path / CONFIGURATION).write_text((folder / CONFIGURATION).read_text("utf-8"), "utf-8")
    save_file({name: value for name, value in tensors.items() if name != "1.mined.bias"}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"lacks mined\.bias"):
        load_film_classifier(tmp_path)
    save_file(tensors | {"0.mined.bias": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_film_classifier(tmp_path)
    (tmp_path / CONFIGURATION).write_text(json.dumps({"architecture": "oracle", "members": 1}), "utf-8")
    with pytest.raises(CheckpointError, match="'oracle'"):
        load_film_classifier(tmp_path)
    (tmp_path / CONFIGURATION).write_text("{}", "utf-8")
    with pytest.raises(CheckpointError, match="no film classifier"):
        load_film_classifier(tmp_path)


def test_side_is_the_patients() -> None:
    grid = np.zeros((GRID, GRID), np.float32)
    assert side_of(grid) is None
    grid[4, 2] = 0.9
    assert side_of(grid) == "right"
    grid[4, 13] = 0.8
    assert side_of(grid) == "bilateral"
    assert side_of(grid[:, ::-1] * (np.arange(GRID) < GRID // 2)) == "right"


def test_network_serves_as_an_expert(tmp_path: Path) -> None:
    network = _network(4)
    save_file(
        {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()},
        tmp_path / "expert.safetensors",
    )
    configuration = {"architecture": "dicom-node.FilmNetwork", "labels": list(MINED), "thresholds": None}
    (tmp_path / "expert.json").write_text(json.dumps(configuration), "utf-8")
    expert = load_expert(tmp_path)
    image = from_grey(np.random.default_rng(5).random((SIDE, SIDE), dtype=np.float32))
    shares = expert.probabilities([image, image])
    assert shares.shape == (2, len(MINED))
    assert "pleural thickening" in expert.text([image])
