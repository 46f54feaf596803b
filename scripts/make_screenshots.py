"""Make the pictures of the documentation: OHIF, pages, phone and PDF of a demonstration with synthetic patients.

    python scripts/make_screenshots.py [--viewer OHIF/package/dist] [--out docs/images]

Runs `dicom-node demo --keep` on three synthetic patients and looks at it with Chromium. Without --viewer, or without
Orthanc, the pictures of OHIF are left as they are. Needs Chromium, and pdftoppm (Debian: poppler-utils) for the PDF.
"""

from __future__ import annotations

import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image

from dicom_node.demo.viewer_labels import open_browser, open_regions
from model.schema import Change
from training.phantom.dicom import write_study_pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENTS: Mapping[int, Mapping[str, Change]] = {
    9_200_001: {"pleural_effusion": Change.NEW},
    9_200_002: {"pneumothorax": Change.NEW, "endotracheal_tube": Change.STABLE},
    9_200_004: {"edema": Change.IMPROVING},
}
"""Seeds beyond those of training, and the change to be shown."""
LONG_SIDE = 1024
DESK, PHONE = {"width": 1280, "height": 1100}, {"width": 360, "height": 740}
QUALITY = 82
WIDEST = 1280
_PAGES = re.compile(r"pages:\s+(\S+)\s+user (\S+), password (\S+)")
_VIEWER = re.compile(r"viewer: (.+)")


def main(
    viewer: Annotated[Path | None, typer.Option(help="OHIF's built pages (npm @ohif/app, package/dist).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("docs/images"),
) -> None:
    """Make all pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="screenshots-") as work:
        folder = Path(work)
        studies = {
            seed: write_study_pair(folder / "studies" / str(seed), seed, wanted=wanted, long_side=LONG_SIDE)
            for seed, wanted in PATIENTS.items()
        }
        shown = [studies[seed].current.study_instance_uid for seed in PATIENTS]
        with _demonstration(folder, viewer) as said, open_browser() as browser:
            base, user, password = said["pages"]
            _shoot_pages(browser, base, user, password, shown[0], out)
            _shoot_phone(browser, base, user, password, shown[0], out)
            if "viewer" in said:
                _shoot_viewer(browser, said["viewer"][0], shown[1], out)
    for path in sorted(out.glob("*.webp")):
        print(f"{path} {path.stat().st_size // 1024} KiB")


@contextmanager
def _demonstration(folder: Path, viewer: Path | None) -> Iterator[dict[str, tuple[str, ...]]]:
    """A kept demonstration; gives the addresses that it prints."""
    command = [sys.executable, "-m", "dicom_node", "demo", "--keep", "--studies", str(folder / "studies")]
    command += ["--out", str(folder / "out"), *(["--viewer", str(viewer)] if viewer is not None else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said: dict[str, tuple[str, ...]] = {}
    try:
        for line in process.stdout:
            print(line, end="", file=sys.stderr)
            if found := _PAGES.search(line):
                said["pages"] = found.groups()
            elif (found := _VIEWER.search(line)) and found[1].startswith("http"):
                said["viewer"] = (found[1].strip(),)
            if "Ctrl-C ends" in line:
                break
        if "pages" not in said:
            raise SystemExit("the demonstration did not start; its log is above")
        yield said
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _page(browser: Browser, base: str, user: str, password: str, size: Mapping[str, int]) -> Page:
    page = browser.new_page(viewport=dict(size), color_scheme="light", device_scale_factor=2 if size is PHONE else 1)  # type: ignore[arg-type]
    page.set_default_timeout(120_000)
    page.goto(base)
    page.get_by_label("Name").fill(user)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Work list").wait_for()
    return page


def _shoot_pages(browser: Browser, base: str, user: str, password: str, study: str, out: Path) -> None:
    """Work list, study page, jobs, report and PDF."""
    page = _page(browser, base, user, password, DESK)
    _save(page.screenshot(), out / "worklist.webp")
    page.goto(f"{base}/studies/{study}")
    page.wait_for_load_state("networkidle")
    page.get_by_label("Regions").check()
    page.locator("#viewer").scroll_into_view_if_needed()
    _save(page.screenshot(), out / "study.webp")
    page.get_by_label("Regions").uncheck()
    page.get_by_label("Heat map").check()
    _save(page.screenshot(), out / "heat-map.webp")
    link = page.get_by_role("link", name="Report as a page")
    report = base + str(link.get_attribute("href"))
    pdf = page.request.get(report.replace(".html", ".pdf")).body()
    _save(_first_page(pdf), out / "pdf.webp")
    page.goto(report)
    page.wait_for_load_state("networkidle")
    _save(page.screenshot(full_page=False), out / "report.webp")
    for name, path in (("deliveries", "/deliveries"), ("jobs", "/jobs?state=done")):
        page.goto(base + path)
        _save(page.screenshot(), out / f"{name}.webp")
    page.close()


def _shoot_phone(browser: Browser, base: str, user: str, password: str, study: str, out: Path) -> None:
    page = _page(browser, base, user, password, PHONE)
    _save(page.screenshot(), out / "phone-worklist.webp")
    page.goto(f"{base}/studies/{study}")
    page.wait_for_load_state("networkidle")
    _save(page.screenshot(), out / "phone-study.webp")
    page.close()


def _shoot_viewer(browser: Browser, address: str, study: str, out: Path) -> None:
    """OHIF with the regions, and with the reading report."""
    page = open_regions(browser, address, study)
    _save(page.screenshot(), out / "ohif.webp")
    page.locator("[data-cy=study-browser-thumbnail-no-image]").filter(has_text="reading").first.dblclick()
    page.get_by_text("Impressions").first.wait_for()
    _save(page.screenshot(), out / "ohif-reading.webp")
    page.close()


def _first_page(pdf: bytes) -> bytes:
    tool = shutil.which("pdftoppm")
    if tool is None:
        raise SystemExit("pdftoppm is not installed (Debian: apt-get install poppler-utils)")
    done = subprocess.run(
        [tool, "-r", "90", "-f", "1", "-l", "1", "-png", "-"], input=pdf, capture_output=True, check=True
    )
    return done.stdout


def _save(png: bytes, path: Path) -> None:
    """The picture as WebP, at most WIDEST pixels wide."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
    picture.save(path, "WEBP", quality=QUALITY, method=6)


if __name__ == "__main__":
    typer.run(main)
