"""Regions: relevance is the model's own, outlines lie where the relevance is, and in stored pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from model.checkpoints.files import HEADS_FILE
from model.engine.vlm import NvilaVlm
from model.errors import CheckpointError
from model.images.display import fit_grey, from_grey
from model.localise.outline import RASTER, outlines, peak, spread
from model.localise.relevance import (
    Heatmap,
    Localiser,
    Method,
    choose_regions,
    heat_picture,
    read_outline_head,
)
from model.nvila import Tiling
from model.questions.battery import QuestionType, closed_question
from model.questions.prompts import PromptLayout
from model.schema import Change, DisplayImage, Finding, ImageRole, ModelIdentity, Prediction, Presence, StudyPair
from tests.support.tiny_nvila import picture, tiny_nvila
from training.evaluation.pointing_game import Pointing, _overlap, localisation_of, measure_pointing
from training.phantom.render import render_pair, sample_pair

KEYS = ("pleural_effusion", "edema", "pneumothorax")


@pytest.fixture(scope="module")
def vlm() -> NvilaVlm:
    model, processor = tiny_nvila(longitudinal={"difference_tokens": 4, "no_prior_tokens": 1})
    return NvilaVlm(model, processor, Tiling.NEVER)


@pytest.fixture(scope="module")
def pair() -> StudyPair:
    return StudyPair(current=from_grey(picture(1, 224)), prior=from_grey(picture(2, 224)))


def _head_file(folder: Path, width: int, count: int) -> Path:
    generator = torch.Generator().manual_seed(5)
    save_file(
        {
            "outline.0.weight": torch.ones(width),
            "outline.0.bias": torch.zeros(width),
            "outline.1.weight": torch.randn(count, width, generator=generator),
            "outline.1.bias": torch.randn(count, generator=generator),
        },
        folder / HEADS_FILE,
    )
    return folder


def _finding(key: str, presence: Presence, change: Change | None = None) -> Finding:
    return Finding(key=key, presence=presence, probability=0.9, change=change)


def _prediction(*findings: Finding) -> Prediction:
    return Prediction(findings=findings, model=ModelIdentity(name="tiny", version="1", device_uid="2.25.9"))


# --- outlines ---


def _bordered() -> DisplayImage:
    """A stored film of 600 × 500 pixels of which 400 × 300 show something."""
    whole = np.zeros((600, 500), dtype=np.float32)
    whole[120:520, 80:380] = np.random.default_rng(0).uniform(0.3, 0.9, (400, 300))
    image = from_grey(whole)
    assert image.geometry.top > 100
    return image


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 0.8), st.floats(0.1, 0.9), st.sampled_from([8, 14, 32]))
def test_an_outline_lies_around_the_relevance(u: float, v: float, side: int) -> None:
    """A blob at a known place of the film comes back as an outline around that place in stored pixels."""
    image = _bordered()
    size = 448
    height, width = image.pixels.shape
    film_width = size * width / height
    x, y = (size - film_width) / 2 + u * film_width, v * size
    rows, columns = np.mgrid[:side, :side]
    cell = size / side
    distance = np.hypot((columns + 0.5) * cell - x, (rows + 0.5) * cell - y)
    grid = np.exp(-((distance / (1.2 * cell)) ** 2)).astype(np.float32)
    found = outlines(grid, image, size)
    assert len(found) == 1
    points = np.asarray(found[0])
    assert (points[0] == points[-1]).all()
    true_column, true_row = image.geometry.to_source(u, v)
    stored_cell = cell * height / size
    assert points[:, 0].min() - stored_cell <= true_column <= points[:, 0].max() + stored_cell
    assert points[:, 1].min() - stored_cell <= true_row <= points[:, 1].max() + stored_cell
    assert points[:, 0].min() >= image.geometry.left
    assert points[:, 0].max() <= image.geometry.left + image.geometry.width
    assert points[:, 1].max() <= image.geometry.top + image.geometry.height
    column, row = peak(grid, image, size)
    assert abs(column - true_column) <= stored_cell
    assert abs(row - true_row) <= stored_cell


def test_two_places_two_outlines_and_the_weaker_ones_none() -> None:
    grid = np.zeros((16, 16), dtype=np.float32)
    grid[4, 3], grid[5, 12], grid[12, 8] = 1.0, 0.9, 0.6
    image = from_grey(np.random.default_rng(0).uniform(0.3, 0.9, (300, 300)).astype(np.float32))
    found = outlines(grid, image, 448)
    assert len(found) == 2
    middles = sorted(float(np.mean([x for x, _ in points])) for points in found)
    assert middles == pytest.approx([3.5 / 16 * 300, 12.5 / 16 * 300], abs=10)


@pytest.mark.parametrize("grid", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.full((8, 8), -1.0)])
def test_nothing_relevant_no_outline(grid: np.ndarray) -> None:
    assert outlines(grid.astype(np.float32), _bordered(), 448) == []


def test_relevance_beside_the_film_does_not_count() -> None:
    grid = np.zeros((16, 16), dtype=np.float32)
    grid[:, 0] = 5.0  # the black bar beside a film that is higher than wide
    grid[8, 8] = 1.0
    column, row = peak(grid, _bordered(), 448)
    assert (column, row) == pytest.approx((80 + 150, 120 + 212), abs=20)


def test_the_heat_picture_reddens_where_it_is_hot() -> None:
    grid = np.zeros((8, 8), dtype=np.float32)
    grid[2, 5] = 3.0
    out = heat_picture(np.full((64, 64), 100, dtype=np.uint8), Heatmap(grid=grid, method=Method.GRADIENT))
    assert out.shape == (64, 64, 3)
    assert out[20, 44, 0] > 150 > out[20, 44, 2]
    assert (out[60, 4] == 100).all()
    assert spread(grid, RASTER).shape == (RASTER, RASTER)


# --- the model's own relevance ---


def test_gradient_relevance_is_the_derivative_of_the_answer(vlm: NvilaVlm, pair: StudyPair) -> None:
    """Grad × token is the first-order effect of scaling a token: compared with scaling it a little and asking again."""
    question = closed_question(QuestionType.PRESENCE, "edema").text
    layout: PromptLayout = vlm.layout(priors=1)
    pictures = [vlm.picture(pair.prior or pair.current), vlm.picture(pair.current)]
    inputs = vlm.inputs(vlm.prompt(layout, question), pictures)
    yes, no = (vlm.token_ids(vlm.continuation(layout, question, answer))[0] for answer in ("yes", "no"))
    model = vlm.model
    plain = model.encode_images

    def odds(scale: torch.Tensor | None) -> float:
        features = plain(inputs["pixel_values"])
        if scale is not None:
            features.sequences[1] = features.sequences[1] * scale[:, None]
        model.encode_images = lambda *_: features
        try:
            logits = model(**inputs, logits_to_keep=1).logits[0, -1].double()
        finally:
            model.encode_images = plain
        return float(logits[yes] - logits[no])

    localiser = Localiser(vlm, measured={"edema": 1.0})
    grid = localiser.heatmaps(pair, [("edema", ImageRole.CURRENT)])["edema", ImageRole.CURRENT].grid.ravel()
    with torch.no_grad():
        for token in range(0, grid.size, 3):
            scales = []
            for step in (1e-2, -1e-2):
                scale = torch.ones(grid.size)
                scale[token] += step
                scales.append(odds(scale))
            slope = (scales[0] - scales[1]) / 2e-2
            assert max(slope, 0.0) == pytest.approx(float(grid[token]), abs=0.02 * float(grid.max()) + 1e-4)
    assert grid.max() > 0


def test_the_outline_head_sees_the_patches_of_each_image(vlm: NvilaVlm, pair: StudyPair, tmp_path: Path) -> None:
    head = read_outline_head(_head_file(tmp_path, 48, 3), KEYS)
    assert head is not None
    localiser = Localiser(vlm, head=head, measured=dict.fromkeys(KEYS, 0.9))
    assert localiser.method is Method.OUTLINE_HEAD
    wanted = [("edema", ImageRole.CURRENT), ("edema", ImageRole.PRIOR), ("pneumothorax", ImageRole.PRIOR)]
    maps = localiser.heatmaps(pair, wanted)
    swapped = localiser.heatmaps(pair.swapped(), wanted)
    assert maps.keys() == set(wanted)
    assert np.allclose(maps["edema", ImageRole.CURRENT].grid, swapped["edema", ImageRole.PRIOR].grid, atol=1e-6)
    assert not np.allclose(maps["edema", ImageRole.CURRENT].grid, maps["edema", ImageRole.PRIOR].grid, atol=1e-3)
    assert maps["edema", ImageRole.CURRENT].grid.shape == (4, 4)
    assert all(((m.grid > 0) & (m.grid < 1)).all() for m in maps.values())


def test_a_head_that_is_overwritten_stays_what_it_was(tmp_path: Path) -> None:
    head = read_outline_head(_head_file(tmp_path, 48, 3), KEYS)
    assert head is not None
    before = head.weight.clone()
    with (tmp_path / HEADS_FILE).open("r+b") as stream:
        stream.write(bytes((tmp_path / HEADS_FILE).stat().st_size))
    assert torch.equal(head.weight, before)


def test_a_head_that_does_not_fit_is_refused_and_none_is_no_head(tmp_path: Path) -> None:
    assert read_outline_head(tmp_path, KEYS) is None
    with pytest.raises(CheckpointError, match="3 outlines for 2 findings"):
        read_outline_head(_head_file(tmp_path, 48, 3), KEYS[:2])


@pytest.mark.parametrize("with_head", [True, False])
def test_positive_and_changed_findings_get_regions_with_the_name_of_the_method(
    vlm: NvilaVlm, pair: StudyPair, tmp_path: Path, with_head: bool
) -> None:
    head = read_outline_head(_head_file(tmp_path, 48, 3), KEYS) if with_head else None
    localiser = Localiser(vlm, head=head, measured={"edema": 0.8, "pneumothorax": 0.7})
    before = _prediction(
        _finding("pleural_effusion", Presence.PRESENT, Change.NEW),  # not measured: no region
        _finding("edema", Presence.PRESENT, Change.WORSENING),
        _finding("pneumothorax", Presence.ABSENT, Change.RESOLVED),
    )
    after = localiser.add_regions(pair, before)
    assert after.finding("pleural_effusion").regions == ()
    roles = {region.role for region in after.finding("edema").regions}
    assert roles == {ImageRole.CURRENT, ImageRole.PRIOR}
    assert {region.role for region in after.finding("pneumothorax").regions} <= {ImageRole.PRIOR}
    name = "outline head" if with_head else "gradient relevance"
    for finding in after.findings:
        for region in finding.regions:
            assert region.method == name
            assert region.points[0] == region.points[-1]
            assert all(0 <= x <= 224 and 0 <= y <= 224 for x, y in region.points)
    assert after.seconds["localise"] > 0
    assert [f.key for f in after.findings] == [f.key for f in before.findings]


def test_without_a_prior_nothing_is_looked_for_there(vlm: NvilaVlm, pair: StudyPair) -> None:
    alone = StudyPair(current=pair.current)
    after = Localiser(vlm, measured={"edema": 0.8}).add_regions(alone, _prediction(_finding("edema", Presence.PRESENT)))
    assert {region.role for region in after.finding("edema").regions} == {ImageRole.CURRENT}


def test_which_findings_deserve_a_region() -> None:
    findings = [
        _finding("a", Presence.PRESENT),
        _finding("b", Presence.ABSENT),
        _finding("c", Presence.ABSTAINED, Change.NOT_COMPARABLE),
        _finding("d", Presence.PRESENT, Change.NEW),
    ]
    wanted = choose_regions(findings, dict.fromkeys("abcd", 1.0))
    assert wanted == [("a", ImageRole.CURRENT), ("d", ImageRole.CURRENT)]


# --- the pointing game ---


def test_a_localiser_that_knows_the_truth_wins_and_a_blind_one_does_not(vlm: NvilaVlm) -> None:
    """The measure itself: fed with the true outlines it gives 1, fed with one fixed corner about chance."""
    seeds = list(range(3_500_000, 3_500_014))
    shown_films = [render_pair(sample_pair(seed), 192, 192, masks=True)[1] for seed in seeds]

    class Told(Localiser):
        corner = False

        def heatmaps(
            self, pair: StudyPair, wanted: Sequence[tuple[str, ImageRole]], *, layout: PromptLayout | None = None
        ) -> dict[tuple[str, ImageRole], Heatmap]:
            film = next(films)
            result = {}
            for key, role in wanted:
                grid = np.zeros((32, 32), dtype=np.float32)
                if self.corner:
                    grid[0, 0] = 1.0
                else:
                    grid = from_grey(film.masks[key].astype(np.float32), crop=False).pixels
                    box = pair.current.geometry
                    grid = grid[box.top : box.top + box.height, box.left : box.left + box.width]
                    grid = fit_grey(np.ascontiguousarray(grid), 96).astype(np.float32)
                result[key, role] = Heatmap(grid=grid, method=Method.GRADIENT)
            return result

    told = Told(vlm, measured={})
    for corner, expected in ((False, True), (True, False)):
        told.corner = corner
        films = iter(shown_films)
        table = measure_pointing(
            told, vlm, ("pleural_effusion", "consolidation", "edema"), seeds, cells=32, long_side=192
        )
        shown = sum(one.shown for one in table.values())
        hits = sum(one.hits for one in table.values())
        assert shown >= 5
        assert (hits == shown) is expected
        assert all(0 < one.chance < 0.9 for one in table.values() if one.shown)
        if expected:
            assert np.mean([one.overlap for one in table.values() if one.shown]) > 0.5


def test_only_what_is_clearly_better_than_chance_is_localised() -> None:
    table = {
        "good": Pointing(shown=100, hits=80, chance=0.1, overlap=0.4),
        "few": Pointing(shown=3, hits=2, chance=0.3, overlap=0.4),
        "everywhere": Pointing(shown=100, hits=80, chance=0.6, overlap=0.4),
        "never": Pointing(shown=0, hits=0, chance=0.0, overlap=0.0),
    }
    assert localisation_of(table) == {"good": 0.8}
    assert table["good"].lower == pytest.approx(0.711, abs=0.002)


def test_overlap_of_boxes() -> None:
    square = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]
    assert _overlap(square, (0, 0, 10, 10)) == 1.0
    assert _overlap(square, (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert _overlap(square, (20, 20, 30, 30)) == 0.0
    assert _overlap([], (0, 0, 1, 1)) == 0.0
