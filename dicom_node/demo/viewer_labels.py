"""The labels that OHIF draws beside the marked regions, measured on the screen of a real Chromium.

Playwright is a dependency of the tests alone and is imported where a browser is opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicom_node.demo.reading_room import RoomReading
from dicom_node.demo.viewer import ViewerMissingError, running_dicomweb, running_viewer, upload
from dicom_node.dicom.write import part10_bytes
from dicom_node.report.documents import build_documents
from dicom_node.report.request import ReportRequest
from dicom_node.report.sr.uids import header_uid
from dicom_node.report.statements import drawn_statements
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.phrases import region_label
from model.schema import ImageRole

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREEN = {"width": 1400, "height": 900}
BROWSER_OPTIONS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
WAIT_MILLISECONDS = 90_000
SLACK = 2.0
"""Pixels: a browser rounds a box up."""
_FIND_BOXES = """() => {
  const pane = document.querySelector('[data-cy=viewport-pane]') || document.querySelector('[data-cy=viewport-grid]');
  const texts = [...pane.querySelectorAll('svg text')].map(text => {
    const box = text.getBoundingClientRect();
    return {text: text.textContent, left: box.left, top: box.top, right: box.right, bottom: box.bottom};
  });
  const whole = pane.getBoundingClientRect();
  return {texts, pane: {left: whole.left, top: whole.top, right: whole.right, bottom: whole.bottom}};
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenBox:
    """A label on the screen, in pixels."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: ScreenBox) -> bool:
        """Tell whether the two cover a common place."""
        across = self.left < other.right - SLACK and other.left < self.right - SLACK
        return across and self.top < other.bottom - SLACK and other.top < self.bottom - SLACK


def count_in_viewer(reading: RoomReading, pages: Path, folder: Path, *, shots: Path | None = None) -> None:
    """Open each result with regions in OHIF and count labels that are cut, overlap, are missing or stand twice.

    Raises ViewerMissingError where Orthanc or Chromium is not installed.
    """
    marked = [request for request in reading.requests if _labels(request)]
    with running_dicomweb(folder) as port, running_viewer(pages, port) as address, open_browser() as browser:
        for request in marked:
            _upload(port, request, reading.files)
        for number, request in enumerate(marked, start=1):
            page = open_regions(browser, address, header_uid(request.current, "StudyInstanceUID"))
            boxes, pane = label_boxes_on(page, _labels(request))
            for complaint in complaints(boxes, pane, _labels(request)):
                reading.object_to("labels cut or overlapping", request, f"in OHIF: {complaint}")
            if shots is not None:
                shots.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=shots / f"ohif-{number:02d}.png")
            page.close()


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A Chromium of this machine. Raises ViewerMissingError where there is none, or no Playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ViewerMissingError("Playwright is not installed (pip install playwright)") from error
    if chromium is None:
        raise ViewerMissingError("Chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


def open_regions(browser: Browser, address: str, study_instance_uid: str) -> Page:
    """A page with the study in OHIF and its machine report opened: the image with what is marked on it."""
    page = browser.new_page(viewport=SCREEN)  # type: ignore[arg-type]  # a dict in the form of Playwright's
    page.set_default_timeout(WAIT_MILLISECONDS)
    page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
    page.goto(f"{address}/viewer?StudyInstanceUIDs={study_instance_uid}")
    entry = page.locator("[data-cy=study-browser-thumbnail-no-image]").filter(has_text="regions").first
    entry.dblclick()
    page.locator("svg text").first.wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    return page


def label_boxes_on(page: Page, labels: Sequence[str]) -> tuple[list[ScreenBox], ScreenBox]:
    """The labels that are drawn, and the viewport that they are drawn in."""
    on_page: dict[str, Any] = page.evaluate(_FIND_BOXES)
    names = {_collapse_spaces(label) for label in labels}
    boxes = [ScreenBox(**values) for values in on_page["texts"] if _collapse_spaces(values["text"]) in names]
    return boxes, ScreenBox(text="", **on_page["pane"])


def complaints(boxes: Sequence[ScreenBox], pane: ScreenBox, labels: Sequence[str]) -> list[str]:
    """The faults of the labels on the screen, one sentence each."""
    faults = [
        f"{label!r} is not drawn"
        for label in labels
        if _collapse_spaces(label) not in {_collapse_spaces(box.text) for box in boxes}
    ]
    for number, box in enumerate(boxes):
        inside = box.left >= pane.left - SLACK and box.right <= pane.right + SLACK
        if not (inside and box.top >= pane.top - SLACK and box.bottom <= pane.bottom + SLACK):
            faults.append(f"{box.text!r} leaves the viewport")
        for other in boxes[:number]:
            if box.overlaps(other):
                faults.append(f"{box.text!r} covers {other.text!r}")
            if _collapse_spaces(box.text) == _collapse_spaces(other.text):
                faults.append(f"{box.text!r} stands twice")
    return faults


def _labels(request: ReportRequest) -> list[str]:
    """The labels of the current image: the viewport that opens first."""
    words = catalogue("en")
    drawn = [
        statement
        for statement in drawn_statements(request)
        if any(r.role is ImageRole.CURRENT for r in statement.finding.regions)
    ]
    return [region_label(statement, ImageRole.CURRENT, words).line for statement in drawn]


def _collapse_spaces(text: str) -> str:
    """The text as a browser shows it: one space between words."""
    return " ".join(text.split())


def _servable(path: Path) -> bytes:
    """The file, inflated where it is deflated: Orthanc keeps such an object but answers 500 for its frames."""
    dataset = dcmread(path)
    if dataset.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return path.read_bytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return part10_bytes(dataset)


def _upload(port: int, request: ReportRequest, files: Mapping[str, Path]) -> None:
    """Put the images of a result, and its documents, into the viewer's archive."""
    for source in (request.current, request.prior):
        if source is not None:
            upload(port, _servable(files[header_uid(source, "SOPInstanceUID")]))
    for document in build_documents(request):
        upload(port, part10_bytes(document.dataset))
