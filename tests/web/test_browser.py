"""A person in Debian's Chromium: work list → study → feedback → reprocess → dead letter retry, by mouse and by keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import select

from dicom_node.index.tables.core import Delivery, DeliveryState, Feedback, Job, JobKind
from dicom_node.notifications import raise_notice
from tests.support.common import REPOSITORY, program
from tests.support.delivery_node import run_due
from tests.support.faulty_pacs import Fault, Pacs, running
from tests.support.web_site import PASSWORD, Site, running_site

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
PICTURES = Path(os.environ.get("DICOM_NODE_ARTEFACTS", REPOSITORY / "artefacts")) / "web"


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    with running(Pacs(faults={Fault.REFUSES})) as pacs:
        yield pacs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pacs: Pacs) -> Iterator[Site]:
    where = {"name": "pacs", "port": pacs.port, "ae_title": "FAULTY", "verify": "find"}
    folder = tmp_path_factory.mktemp("site")
    german = {"data_dir": folder / "data", "language": "de"}
    with running_site(folder, where, delivery={"refused_attempts": 1}, node=german) as site:
        run_due(site.node)
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = program("chromium")
    expect.set_options(timeout=60_000)  # a busy machine may take longer than the five seconds of the default
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


def enter(browser: Browser, site: Site, name: str, *, scheme: str = "light", phone: bool = False) -> Page:
    """A page of a logged-in user; errors of its scripts fail the test."""
    page = browser.new_page(viewport=PHONE if phone else DESK, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
    page.goto(site.base)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Work list")).to_be_visible()
    return page


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def grey_levels(page: Page, role: str) -> tuple[float, float]:
    """Mean and spread of what the canvas shows."""
    script = """role => {
      const canvas = document.querySelector(`canvas[data-role=${role}]`);
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0, squares = 0, count = data.length / 4;
      for (let i = 0; i < data.length; i += 4) { sum += data[i]; squares += data[i] * data[i]; }
      return [sum / count, Math.sqrt(squares / count - (sum / count) ** 2)];
    }"""
    mean, spread = page.evaluate(script, role)
    return float(mean), float(spread)


def red_over_blue(page: Page, role: str) -> float:
    """The sum of red minus blue over the canvas: 0 for a grey image."""
    script = """role => {
      const canvas = document.querySelector(`canvas[data-role=${role}]`);
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0;
      for (let i = 0; i < data.length; i += 4) sum += data[i] - data[i + 2];
      return sum / data.length;
    }"""
    return float(page.evaluate(script, role))


def test_from_the_work_list_to_a_delivered_dead_letter(site: Site, browser: Browser, pacs: Pacs) -> None:
    page = enter(browser, site, "administrator")
    picture(page, "worklist")
    page.get_by_role("link", name="Phantom").first.click()
    expect(page.locator("canvas[data-role=current][data-ready]")).to_be_visible()
    expect(page.locator("canvas[data-role=prior][data-ready]")).to_be_visible()
    assert grey_levels(page, "current")[1] > 20, "a radiograph, not a black square"
    assert grey_levels(page, "prior")[1] > 20
    before = grey_levels(page, "current")[0]
    page.get_by_label("Regions").check()
    assert grey_levels(page, "current")[0] != before, "the region is drawn"
    picture(page, "study")
    expect(page.locator("#legend button")).to_have_count(1)  # what is only possible has no outline
    chip = page.get_by_role("button", name="new: pleural effusion L", exact=True)
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "false")
    assert grey_levels(page, "current")[0] == before, "a finding can be switched off by itself"
    chip.click()
    page.get_by_label("Regions").uncheck()
    page.get_by_label("Heat map").check()
    warm = red_over_blue(page, "current")
    picture(page, "heat-map")
    page.get_by_label("Heat map").uncheck()
    assert warm > red_over_blue(page, "current"), "the heat map is drawn"
    assert red_over_blue(page, "prior") == 0, "and only on the image that it is of"
    page.get_by_label("Invert").check()
    assert abs(grey_levels(page, "current")[0] - (255 - before)) < 1
    page.get_by_label("Invert").uncheck()
    page.get_by_role("slider", name="Level").fill("90")
    assert grey_levels(page, "current")[0] < before, "a higher level is a darker picture"
    page.get_by_role("button", name="Reset").click()

    page.get_by_role("button", name="Bones, tubes").click()
    assert grey_levels(page, "current")[0] < before, "a preset sets window and level"
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator("#zoom-value")).to_have_text("150 %")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#zoom-value")).to_have_text("100 %")
    expect(page.get_by_label("All images of this patient").get_by_role("link")).to_have_count(2)

    page.get_by_label("Correct pleural effusion").click()
    row = page.locator("#finding-pleural_effusion")
    row.locator("select[name=change]").select_option(label="larger or worse")
    row.locator("select[name=level]").select_option("severe")
    row.get_by_role("button", name="Save correction").click()
    expect(page.get_by_text("your feedback is saved")).to_be_visible()
    expect(page.locator("ul.words")).to_contain_text("larger or worse")
    expect(page.locator("ul.words")).to_contain_text("severe")

    page.get_by_role("link", name="Explain prior", exact=True).click()
    expect(page.get_by_role("heading", name="Why this prior")).to_be_visible()
    decided = page.get_by_label("The decision of the analysis")
    expect(decided).to_contain_text(site.prior_sop)
    expect(page.locator("tr.chosen")).to_contain_text("used by the analysis")
    picture(page, "explain-prior")
    page.get_by_role("link", name="Back to the study").click()
    page.get_by_role("button", name="Reprocess").click()
    expect(page.get_by_text("the study will be analysed again")).to_be_visible()

    page.get_by_role("link", name="Jobs").click()
    expect(page.locator("tr.attention")).to_have_count(2)
    picture(page, "jobs")
    pacs.faults.clear()
    page.get_by_role("button", name="Retry all 2 failed jobs").click()
    expect(page.get_by_text("2 jobs will be tried again")).to_be_visible()
    run_due(site.node)
    page.goto(f"{site.base}/studies/{site.study_instance_uid}")
    expect(page.locator(".timeline")).to_contain_text("proven delivered")
    page.close()
    with site.node.database.read() as session:
        assert [row.value for row in session.scalars(select(Feedback))] == ["worsening", "severe"]
        assert session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE)).one().payload["generation"] == 2
        assert set(session.scalars(select(Delivery.state))) == {DeliveryState.CONFIRMED}


def test_the_same_by_keys_alone(site: Site, browser: Browser) -> None:
    page = enter(browser, site, "radiologist")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("Phantom")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("2 studies")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    canvas = page.locator("canvas[data-role=current][data-ready]")
    expect(canvas).to_be_visible()
    before = grey_levels(page, "current")[0]
    page.keyboard.press("o")
    expect(page.get_by_label("Regions")).to_be_checked()
    canvas.focus()
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    assert grey_levels(page, "current")[0] < before
    page.keyboard.press("r")
    page.keyboard.press("g")
    page.keyboard.press("d")
    expect(page.get_by_role("heading", name="Deliveries")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(site: Site, browser: Browser, scheme: str) -> None:
    page = enter(browser, site, "viewer", scheme=scheme, phone=True)
    study = f"/studies/{site.study_instance_uid}"
    menu = page.get_by_role("navigation", name="Main")
    expect(menu).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    menu.get_by_role("link", name="Deliveries").click()
    expect(page.get_by_role("heading", name="Deliveries")).to_be_visible()
    for path in ("/", study, f"{study}/priors", "/feedback", "/jobs", "/deliveries", "/destinations", "/models"):
        page.goto(site.base + path)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} pixels wider than the phone"
    page.goto(site.base + study)
    expect(page.locator("canvas[data-role=current][data-ready]")).to_be_visible()
    assert page.get_by_text("Your feedback").count() == 0, "a viewer gives no feedback"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(16, 20, 24)") == (scheme == "dark")
    picture(page, f"phone-{scheme}")
    page.close()


AXE = REPOSITORY / ".tools" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = (
    "/",
    "/studies/{uid}",
    "/studies/{uid}/priors",
    "/feedback",
    "/jobs",
    "/deliveries",
    "/destinations",
    "/models",
    "/models/runs",
    "/drift",
    "/notices",
    "/results/1/report.html",
)


@pytest.mark.parametrize(("scheme", "phone"), [("light", False), ("dark", True)])
def test_no_page_breaks_a_rule_of_wcag_aa(site: Site, browser: Browser, scheme: str, *, phone: bool) -> None:
    """With data on the pages, a report in German, and the form of corrections open."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed; scripts/install_test_tools.sh installs it where npm may")
    with site.node.database.write() as session:
        raise_notice(session, key="test", kind="dead letter", text="deliveries to pacs fail", now=site.clock())
    page = enter(browser, site, "radiologist", scheme=scheme, phone=phone)
    faults = []
    for path in PAGES:
        if path.endswith("report.html"):  # it comes in a sandbox without scripts, where axe-core cannot run
            page.goto("about:blank")
            page.set_content(page.request.get(site.base + path).text())
        else:
            page.goto(site.base + path.format(uid=site.study_instance_uid))
        if "{uid}" in path and "priors" not in path:
            expect(page.locator("canvas[data-role=current][data-ready]")).to_be_visible()
            page.get_by_label("Regions").check()
            page.get_by_label("Correct pleural effusion").click()
        page.evaluate(AXE.read_text("utf-8"))
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
        found = page.evaluate("rules => axe.run(document, rules)", rules)["violations"]
        faults += [f"{path}: {one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]
    page.close()
    assert not faults, "\n".join(faults)


def test_lists_keep_themselves_up_to_date_without_a_reload(site: Site, browser: Browser) -> None:
    page = enter(browser, site, "viewer")
    page.goto(f"{site.base}/deliveries")
    expect(page.locator("tbody tr").first).to_contain_text("Phantom")
    page.evaluate("window.sameDocument = true")
    with site.node.database.write() as session:
        delivery = session.scalars(select(Delivery).order_by(Delivery.id)).first()
        assert delivery is not None
        delivery.last_error = "the archive was asked again"
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("tbody")).to_contain_text("the archive was asked again")
    assert page.evaluate("window.sameDocument") is True
    page.close()


def test_link_to_the_viewer_holds_the_study(tmp_path: Path, browser: Browser) -> None:
    users_viewer = {"viewer_url": "https://pacs.example.org/view?study={study_instance_uid}&id={patient_id}"}
    with running_site(tmp_path, web_settings=users_viewer) as own:
        page = enter(browser, own, "viewer")
        page.goto(f"{own.base}/studies/{own.study_instance_uid}")
        link = page.get_by_role("link", name="Open in the viewer")
        expect(link).to_have_attribute(
            "href", f"https://pacs.example.org/view?study={own.study_instance_uid}&id={own.patient_id}"
        )
        page.close()
