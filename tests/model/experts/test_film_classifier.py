"""The film classifier of a checkpoint folder: what is loaded is what was written, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.experts.efficientnet import LAST_CHANNELS
from model.experts.expert import load_expert
from model.experts.film_classifier import (
    CONFIGURATION,
    WEIGHTS,
    Domains,
    FilmKind,
    average_outputs,
    has_film_classifier,
    load_film_classifier,
    side_of,
)
from model.experts.film_files import write_classifier
from model.experts.film_network import FEATURES, GRID, JOINED, MARKED, MINED, SIDE, FilmNetwork, grow_heads
from model.experts.tower_heads import OUTPUTS, TowerHeads
from model.images.display import from_grey
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


def test_a_kind_of_output_may_be_one_members_alone(tmp_path: Path) -> None:
    write_classifier(
        tmp_path, [_network(1), _network(2)], _domains(), shares={"mined": [0.0, 1.0], "maps": [0.25, 0.75]}
    )
    classifier = load_film_classifier(tmp_path)
    assert classifier is not None
    grey = torch.from_numpy(np.random.default_rng(1).random((1, 1, SIDE, SIDE), dtype=np.float32))
    view = classifier.look_at_squares(grey)[0]
    mined, marked, _, maps, _ = zip(*(average_outputs([_network(seed)], grey) for seed in (1, 2)), strict=True)
    assert np.allclose(list(view.mined.values()), mined[1][0], atol=0.02)
    assert not np.allclose(mined[0][0], mined[1][0], atol=0.02), "the members differ, or this shows nothing"
    assert np.allclose(list(view.marked.values()), (marked[0][0] + marked[1][0]) / 2.0, atol=0.02)
    place = MARKED.index("consolidation")
    assert np.allclose(view.maps["consolidation"], maps[0][0, place] * 0.25 + maps[1][0, place] * 0.75, atol=0.02)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"mined": [1.0]}, "2 that add up to 1"),
        ({"mined": [0.4, 0.4]}, "add up to 1"),
        ({"mined": [1.5, -0.5]}, "add up to 1"),
        ({"mined": [float("nan"), 1.0]}, "add up to 1"),
        ({"sides": [0.5, 0.5]}, "known: mined, marked, amounts, maps"),
        ({"mined": "all"}, "no film classifier"),
        ([0.5, 0.5], "no film classifier"),
    ],
)
def test_shares_that_are_none_are_refused(folder: Path, tmp_path: Path, shares: object, words: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    configuration = json.loads((folder / CONFIGURATION).read_text("utf-8")) | {"shares": shares}
    (tmp_path / CONFIGURATION).write_text(json.dumps(configuration), "utf-8")
    with pytest.raises(CheckpointError, match=words):
        load_film_classifier(tmp_path)


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


def test_weights_from_before_the_whole_image_counted_give_what_they_gave() -> None:
    network = _network(6)
    with torch.no_grad():
        for head in (network.mined, network.marked, network.amount):
            head.weight[:, -LAST_CHANNELS:].zero_()
    state = network.state_dict()
    old = {name: value for name, value in state.items() if not name.startswith("body.last")}
    for name in ("mined", "marked", "amount"):
        old[f"{name}.weight"] = state[f"{name}.weight"][:, : JOINED - LAST_CHANNELS]
    again = FilmNetwork().eval()
    again.load_state_dict(grow_heads(old))
    grey = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(again(grey).mined, network(grey).mined, atol=1e-5)
    assert grow_heads(state).keys() == state.keys()


def test_heads_on_the_vision_tower_are_blended_in(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    heads = TowerHeads(
        weight=torch.randn(OUTPUTS, 3, generator=generator),
        bias=torch.randn(OUTPUTS, generator=generator),
        share=torch.linspace(0.0, 1.0, OUTPUTS),
    )
    write_classifier(tmp_path, [_network(1)], _domains(), heads)
    shown: list[int] = []

    def tower(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        shown.extend(int(picture.max()) for picture in pictures)
        return torch.ones(len(pictures), 3)

    classifier = load_film_classifier(tmp_path, tower)
    assert classifier is not None
    grey = torch.rand(2, 1, SIDE, SIDE, generator=generator)
    view = classifier.look_at_squares(grey)[1]
    with torch.inference_mode():
        alone = torch.stack([_network(1)(image).mined for image in (grey[1:], grey[1:].flip(-1))]).mean(0)[0]
    tell = heads.weight.sum(1) + heads.bias
    assert view.mined["Effusion"] == pytest.approx(float(alone[0]), abs=0.02)
    last = float(torch.lerp(alone[-1], tell[len(MINED) - 1], heads.share[len(MINED) - 1]))
    assert view.mined[MINED[-1]] == pytest.approx(last, abs=0.02)
    assert list(view.marked.values())[-1] == pytest.approx(float(tell[-1]), abs=1e-4)
    assert min(shown) > 250


def test_heads_without_their_tower_are_refused(tmp_path: Path) -> None:
    heads = TowerHeads(weight=torch.zeros(OUTPUTS, 3), bias=torch.zeros(OUTPUTS), share=torch.zeros(OUTPUTS))
    write_classifier(tmp_path, [_network(1)], _domains(), heads)
    with pytest.raises(CheckpointError, match="vision tower that the model does not have"):
        load_film_classifier(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: value for name, value in tensors.items() if name != "tower.bias"}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="not whole"):
        load_film_classifier(tmp_path, lambda pictures: torch.zeros(len(pictures), 3))
    save_file(tensors | {"tower.bias": torch.zeros(4)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"4 outputs instead of {OUTPUTS}"):
        load_film_classifier(tmp_path, lambda pictures: torch.zeros(len(pictures), 3))


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
