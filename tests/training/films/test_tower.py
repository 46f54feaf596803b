"""Heads on the vision tower: what is fitted ranks as the labels do, and counts only where it helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.experts.film_network import FEATURES, GRADED, GRID, MARKED, MINED, SIDE
from training.films.film_set import MASK_SIDE, UNKNOWN, FilmSet, is_validation_patient
from training.films.outputs import FilmOutputTable
from training.films.tower import SHARES, TowerTable, blend_outputs, fit_tower_heads
from training.metrics.classification import auroc

FILMS, WIDTH = 900, 12
EFFUSION, EDEMA = MINED.index("Effusion"), MINED.index("Edema")


@pytest.fixture(scope="module")
def films() -> FilmSet:
    """Mined labels at random, nothing marked."""
    rng = np.random.default_rng(0)
    return FilmSet(
        squares=np.zeros((FILMS, SIDE, SIDE), np.uint8),
        names=np.array([str(number) for number in range(FILMS)]),
        patients=np.array([f"nih/{number}" for number in range(FILMS)]),
        splits=np.array(["train"] * FILMS),
        pixels=np.full(FILMS, SIDE),
        views=np.array(["PA"] * FILMS),
        ages=np.full(FILMS, 50),
        sexes=np.array(["F"] * FILMS),
        mined=(rng.random((FILMS, len(MINED))) < 0.3).astype(np.float32),
        marked=np.full((FILMS, len(MARKED)), UNKNOWN, np.float32),
        areas=np.zeros((FILMS, len(MARKED)), np.float32),
        mask_rows=np.full(FILMS, -1),
        masks=np.zeros((0, len(MARKED), MASK_SIDE, MASK_SIDE), np.float16),
    )


@pytest.fixture(scope="module")
def table(films: FilmSet) -> TowerTable:
    """Features of which the first tells effusion, and none anything else."""
    features = np.random.default_rng(1).normal(0.0, 1.0, (FILMS, WIDTH)).astype(np.float32)
    features[:, 0] += 2.0 * films.mined[:, EFFUSION]
    return TowerTable(rows=np.arange(FILMS), features=features * 3.0 + 5.0)


@pytest.fixture(scope="module")
def networks(films: FilmSet) -> FilmOutputTable:
    """Networks that know edema and nothing else."""
    held = np.flatnonzero(films.is_validation)
    mined = np.random.default_rng(2).normal(0.0, 1.0, (len(held), len(MINED))).astype(np.float32)
    mined[:, EDEMA] += 4.0 * films.mined[held, EDEMA]
    return FilmOutputTable(
        mined=mined,
        marked=np.zeros((len(held), len(MARKED)), np.float32),
        amounts=np.zeros((len(held), len(GRADED)), np.float32),
        maps=np.zeros((len(held), len(MARKED), GRID, GRID), np.float32),
        features=np.zeros((len(held), FEATURES), np.float32),
    )


def test_heads_help_where_the_tower_knows_and_leave_alone_what_the_networks_know(
    films: FilmSet, table: TowerTable, networks: FilmOutputTable
) -> None:
    held = np.flatnonzero(films.is_validation)
    heads = fit_tower_heads(films, table, networks)
    blended = blend_outputs(networks, heads, table.of(held))
    effusion = (films.mined[held, EFFUSION] > 0).tolist()
    assert auroc(effusion, blended.mined[:, EFFUSION].tolist()) > 0.75
    assert auroc(effusion, networks.mined[:, EFFUSION].tolist()) < 0.65
    edema = (films.mined[held, EDEMA] > 0).tolist()
    assert auroc(edema, blended.mined[:, EDEMA].tolist()) > 0.9
    assert float(heads.share[EFFUSION]) > float(heads.share[EDEMA])
    assert float(heads.share[EFFUSION]) >= max(SHARES) / 2.0


def test_table_is_kept_and_names_a_film_that_is_not_there(table: TowerTable, tmp_path: Path) -> None:
    table.save(tmp_path / "tower.npz")
    again = TowerTable.load(tmp_path / "tower.npz")
    assert np.allclose(again.of(np.array([7, 3])), table.features[[7, 3]], atol=0.02)
    with pytest.raises(KeyError):
        again.of(np.array([FILMS]))


def test_validation_patients_are_some_of_them(films: FilmSet) -> None:
    share = float(np.mean([is_validation_patient(patient) for patient in films.patients]))
    assert 0.1 < share < 0.2
