"""Both reports as a radiologist sees them: opened in OHIF in a real browser, over Orthanc's DICOMweb."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.report.chart_facts import ChartFact, FactKind
from dicom_node.report.documents import build_documents
from dicom_node.report.request import CoursePoint, ReportRequest, SourceImage
from dicom_node.report.rules import EarlierStatement, Seen
from tests.support import report_cases as cases
from tests.support.common import REPOSITORY, program, wait_until
from tests.support.report_cases import kinds
from tests.support.viewer import ohif_pages, orthanc, upload, viewer

ARTEFACTS = REPOSITORY / "artefacts" / "ohif"
BROWSER = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


def _with_timeline(request: ReportRequest) -> ReportRequest:
    """The same after two films that were read before, with a laboratory value: all that a course adds to a report."""
    points = []
    for day, level in ((dt.datetime(2026, 2, 20, 9), "mild"), (dt.datetime(2026, 3, 1, 8, 15), "moderate")):  # noqa: DTZ001
        points.append(
            CoursePoint(
                taken=day,
                statements={"edema": EarlierStatement(seen=Seen.SEEN, level=level)},
                sop_instance_uid=f"2.25.1{day:%d}",
                study_instance_uid=f"2.25.2{day:%d}",
                series_instance_uid=f"2.25.3{day:%d}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            )
        )
    value = ChartFact(kind=FactKind.LAB, name="BNP", text="2076 pg/mL", before=dt.timedelta(hours=2))
    return dataclasses.replace(request, course=tuple(points), chart=(value,))


REQUEST = _with_timeline(kinds()["worse"])


def _with_pixels(source: SourceImage) -> Dataset:
    """The header with the pixels that its display image was cropped from, 12 bit."""
    assert source.image is not None
    ds = copy.deepcopy(source.header)
    stored = np.zeros((cases.ROWS, cases.COLUMNS))
    stored[20:-20, 20:-20] = source.image.pixels
    ds.PixelData = (stored * 4095).astype("<u2").tobytes()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.WindowCenter, ds.WindowWidth, ds.ImagerPixelSpacing = 2048, 4096, [0.7, 0.7]
    ds.InstanceNumber = ds.SeriesNumber = 1
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _content(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _colours(page: Page) -> tuple[float, int]:
    """(share of pixels of the viewport that are not black, number of green ones: the region that OHIF draws)."""
    shot = page.locator("[data-cy=viewport-grid]").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return float((pixels.max(-1) > 60).mean()), int(((green > 180) & (red < 90) & (blue < 90)).sum())


def test_both_reports_open_and_say_what_they_should(tmp_path: Path) -> None:
    chromium = program("chromium")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    assert REQUEST.prior is not None
    with orthanc(tmp_path) as port, viewer(ohif_pages(), port) as address, sync_playwright() as playwright:
        for source in (REQUEST.current, REQUEST.prior):
            upload(port, _content(_with_pixels(source)))
        for document in build_documents(REQUEST):
            upload(port, _content(document.dataset))
        browser = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        page.goto(f"{address}/viewer?StudyInstanceUIDs={REQUEST.current.header.StudyInstanceUID}")
        reports = page.locator("[data-cy=study-browser-thumbnail-no-image]")
        expect(reports).to_have_count(2)
        _open_text(page)
        _open_measurements(page)
        browser.close()


def _open_text(page: Page) -> None:
    """The reading report, whichever of the two entries it is, with its sentences on lines of their own."""
    reports = page.locator("[data-cy=study-browser-thumbnail-no-image]")
    impressions = page.get_by_text("Impressions")
    last = 11
    for attempt in range(last + 1):  # a busy machine may take longer than one wait
        reports.nth((attempt + 1) % 2).dblclick(timeout=60_000)
        try:
            impressions.wait_for(timeout=10_000)
            break
        except TimeoutError as error:  # the other entry is the one
            if attempt == last:
                pytest.fail(f"no entry opens the text: {error}")
    body = page.inner_text("body")
    for sentence in (
        "Worse since 1 March 2026: severe pulmonary edema.",
        "Pulmonary edema: seen on the first film read, 20 February 2026, most marked on 10 March 2026.",
        "Also considered: BNP 2076 pg/mL, 2 h before.",
        "Otherwise unchanged: cardiomegaly. No other finding that was asked for is seen.",
        "The chest radiograph of 10 March 2026 was compared with that of 1 March 2026.",
        "The model is a demonstration, not for clinical use.",
    ):
        assert sentence in [line.strip() for line in body.splitlines()], sentence
    page.screenshot(path=ARTEFACTS / "reading.png")


def _open_measurements(page: Page) -> None:
    """The machine report: an image that is not black, with a region in OHIF's green and its label beside it."""
    reports = page.locator("[data-cy=study-browser-thumbnail-no-image]")
    impressions = page.get_by_text("Impressions")
    for number in (0, 1):
        reports.nth(number).dblclick(timeout=60_000)
        page.wait_for_load_state("networkidle")
        if impressions.count() == 0:
            break
    wait_until(lambda: _colours(page)[1] > 200, what="a region drawn in the measurement viewport")
    lit, _ = _colours(page)
    assert lit > 0.3, f"only {lit:.0%} of the viewport is not black"
    expect(page.locator("svg text, svg tspan").filter(has_text="pulmonary edema: worse").first).to_be_attached()
    page.screenshot(path=ARTEFACTS / "measurement.png")
