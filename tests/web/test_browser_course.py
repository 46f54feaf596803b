"""A patient's films and a question in Debian's Chromium: strip, a line for each finding, the question box by keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from dicom_node.index.tables.core import Outcome, Result, Study
from dicom_node.index.tables.questions import StudyQuestion
from tests.support.web_site import Site, add_image, running_site
from tests.web.test_browser import AXE, browser, enter, picture
from training.phantom.dicom import write_study_pair

__all__ = ["browser"]
ANSWER = "Yes, moderate left pleural effusion is seen."


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A patient with three films, each read by the same checkpoint."""
    folder = tmp_path_factory.mktemp("site")
    with running_site(folder) as site:
        _add_oldest_film(site, folder / "oldest")
        with site.node.database.write() as session:
            shown = session.scalars(select(Result)).one()
            earlier = session.scalars(select(Study).where(Study.id != shown.study_pk).order_by(Study.study_date)).all()
            for study, seen in zip(earlier, ("seen", "not seen"), strict=True):
                session.add(_reading(study, seen, device_uid=shown.device_uid, now=site.clock.now))
        yield site


def _add_oldest_film(site: Site, folder: Path) -> None:
    path = write_study_pair(folder, 4, long_side=320).prior.files[0]
    film = pydicom.dcmread(path)
    film.PatientID, film.PatientName = site.patient_id, site.patient_name
    film.StudyDate = film.AcquisitionDate = film.ContentDate = film.SeriesDate = "20251201"
    film.save_as(path)
    add_image(site.node, path)


def _reading(study: Study, seen: str, **values: Any) -> Result:
    level = "mild" if seen == "seen" else None
    finding = {"key": "pleural_effusion", "name": "Pleural effusion", "seen": seen, "level": level, "change": None}
    return Result(
        study_pk=study.id,
        revision=1,
        outcome=Outcome.FINDINGS_ONLY,
        sop_instance_uid="",
        prediction={"findings": [finding | {"presence": "present", "probability": 0.9}]},
        device_uid=values["device_uid"],
        created_at=values["now"],
    )


def _open(browser: Browser, site: Site, **how: Any) -> Page:
    page = enter(browser, site, "radiologist", **how)
    page.goto(f"{site.base}/studies/{site.study_instance_uid}")
    expect(page.locator("canvas[data-role=current][data-ready]")).to_be_visible()
    return page


def test_films_stand_in_a_strip_with_a_line_for_each_finding(site: Site, browser: Browser) -> None:
    page = _open(browser, site)
    films = page.get_by_role("navigation", name="All images of this patient").get_by_role("link")
    expect(films).to_have_count(3)
    expect(films.and_(page.locator("[aria-current=true]"))).to_have_count(1)
    line = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="effusion"))
    expect(line.get_by_role("cell")).to_have_text(["● small", "○ not seen", "● moderate"])
    page.get_by_role("columnheader").get_by_role("link").first.click()
    expect(page).not_to_have_url(f"{site.base}/studies/{site.study_instance_uid}")
    page.close()


def test_a_question_is_asked_answered_and_refused_by_keys_alone(site: Site, browser: Browser) -> None:
    page = _open(browser, site)
    for question in ("Is there a pleural effusion on the left?", "How many ribs are there?"):
        page.keyboard.press("q")
        expect(page.get_by_label("Ask about one finding")).to_be_focused()
        page.keyboard.type(question)
        page.keyboard.press("Enter")
        expect(page.get_by_role("term").filter(has_text=question)).to_be_visible()
    answers = page.locator("dl.questions dd")
    expect(answers).to_contain_text(["not trained", ANSWER])
    expect(answers.locator("visible=true").and_(page.locator(".refused"))).to_have_count(1)
    page.reload()
    expect(answers).to_have_count(2)
    picture(page, "questions")
    page.close()
    with site.node.database.read() as session:
        kept = session.scalars(select(StudyQuestion).order_by(StudyQuestion.id)).all()
    assert [(row.author, row.is_refused) for row in kept] == [("radiologist", False), ("radiologist", True)]


@pytest.mark.parametrize(("scheme", "phone"), [("light", False), ("dark", True)])
def test_strip_and_answers_break_no_rule_of_wcag_aa(site: Site, browser: Browser, scheme: str, phone: bool) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed; scripts/install_test_tools.sh installs it where npm may")
    page = _open(browser, site, scheme=scheme, phone=phone)
    expect(page.locator("dl.questions dd")).not_to_have_count(0)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.evaluate(AXE.read_text("utf-8"))
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = page.evaluate("rules => axe.run(document, rules)", rules)["violations"]
    picture(page, f"course-{scheme}")
    page.close()
    assert [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]] == []
    assert wide <= 0
