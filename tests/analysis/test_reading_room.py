"""Reports on held-out phantoms raise none of the objections of the reading room; one that is there is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.config import ModelSection, Settings
from dicom_node.demo.reading_room import RoomReading, count, denies_the_rest, read_patients
from dicom_node.demo.viewer_labels import ScreenBox, complaints
from dicom_node.report.rules import Seen, Statement
from model.images.display import load_display_image
from model.schema import Change, ImageRole, Prediction, Region
from tests.support import report_cases as cases
from tests.support.report_cases import CURRENT, finding, prediction, request
from training.phantom.dicom import write_study_pair

SEED = 9_100_000


def test_reports_on_held_out_phantoms_raise_no_objection(tmp_path: Path) -> None:
    write_study_pair(tmp_path, SEED, wanted={"pleural_effusion": Change.NEW}, long_side=512)
    # A phantom that the model finds unfamiliar is read too: whether it is refused is not what is counted here.
    settings = Settings(model=ModelSection(unfamiliar="warn"))
    reading = read_patients([tmp_path], settings, say=lambda _line: None)
    assert reading.results == {"compared": 1, "findings only": 1}
    assert reading.changes > 0
    assert not reading.objections, reading.lines


def _counted(said: Prediction, earlier: Mapping[str, Sequence[Statement]] | None = None) -> RoomReading:
    reading = RoomReading()
    count(reading, [request(said)], earlier or {})
    return reading


def test_a_change_that_denies_the_priors_report_is_counted() -> None:
    before = Statement(finding=finding("edema"), seen=Seen.NOT_SEEN)
    said = {str(cases.PRIOR.header.SOPInstanceUID): (before,)}
    reading = _counted(prediction(finding("edema", Change.WORSENING)), said)
    assert reading.objections == {"contradictions with the prior's report": 1}


def test_a_region_on_the_wrong_side_is_counted(tmp_path: Path) -> None:
    pair = write_study_pair(tmp_path, SEED, wanted={"pleural_effusion": Change.NEW}, long_side=512)
    image = load_display_image(pair.current.files[0])
    width, height = image.geometry.columns, image.geometry.rows
    box = ((0.15, 0.5), (0.35, 0.5), (0.35, 0.7), (0.15, 0.7), (0.15, 0.5))
    region = Region(
        role=ImageRole.CURRENT, points=tuple((x * width, y * height) for x, y in box), method="occlusion relevance"
    )
    said = prediction(finding("pleural_effusion", Change.NEW, location="left", regions=(region,)))
    film = replace(request(said), current=replace(CURRENT, image=image))
    reading = RoomReading()
    count(reading, [film], {})
    assert reading.objections["regions on the wrong side"] == 1


def test_an_opening_that_denies_the_rest_is_found() -> None:
    assert denies_the_rest("Seen: edema. No other finding that was asked for is seen.", "en")
    assert denies_the_rest("None of the 6 findings asked for is seen.", "en")
    assert denies_the_rest("Keine Veränderung seit 1. März 2026.", "de")
    assert not denies_the_rest("One finding is possible, not certain: see Findings. Not seen: edema.", "en")


@pytest.mark.parametrize(
    ("boxes", "what"),
    [
        ([(10, 10, 60, 30)], []),
        ([(80, 10, 120, 30)], ["leaves the viewport"]),
        ([(10, 10, 60, 30), (40, 20, 90, 40)], ["covers", "stands twice"]),
        ([], ["is not drawn"]),
    ],
)
def test_labels_on_the_screen_are_measured(boxes: list[tuple[float, ...]], what: list[str]) -> None:
    drawn = [
        ScreenBox(text="edema: new", left=left, top=top, right=right, bottom=bottom)
        for left, top, right, bottom in boxes
    ]
    pane = ScreenBox(text="", left=0, top=0, right=100, bottom=100)
    said = complaints(drawn, pane, ["edema:  new"])
    assert [word for word in what if not any(word in line for line in said)] == []
    assert len(said) == len(what)
