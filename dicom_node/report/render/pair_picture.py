"""The pair picture: prior and current side by side with their dates, what changed marked and named once an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import Statement
from dicom_node.report.statements import drawn_statements
from dicom_node.report.wording.catalogue import Catalogue, catalogue
from dicom_node.report.wording.dates import date_text, prior_date
from dicom_node.report.wording.phrases import label
from dicom_node.report.wording.sections import impressions
from model.schema import Change, ImageRole, Region

PANEL = 640
"""Height of an image in the picture, in pixels; wider images are scaled to at most this width as well."""
HEADER, LINE, MARGIN = 34, 24, 8

COLOURS: dict[Change | None, tuple[int, int, int]] = {
    Change.NEW: (255, 92, 92),
    Change.WORSENING: (255, 150, 60),
    Change.NOT_COMPARABLE: (200, 200, 200),
    Change.STABLE: (240, 220, 110),
    Change.IMPROVING: (120, 210, 140),
    Change.RESOLVED: (110, 190, 255),
    None: (240, 220, 110),
}
"""Of marks and captions; every mark carries its word too, so that nothing hangs on colour alone."""

_BLACK, _WHITE, _GREY = (0, 0, 0), (240, 240, 240), (150, 150, 150)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One image of the picture: its pixels and how a stored point gets onto it."""

    image: Image.Image
    source: SourceImage | None
    title: str

    def point(self, column: float, row: float) -> tuple[float, float]:
        """(column, row) in stored pixels → (x, y) in the panel."""
        if self.source is None or self.source.image is None:
            raise ValueError("a panel without an image has no points")
        geometry = self.source.image.geometry
        x = (column - geometry.left) / geometry.width * self.image.width
        y = (row - geometry.top) / geometry.height * self.image.height
        return x, y


def pair_picture(request: ReportRequest) -> Image.Image:
    """RGB. Left the prior (or a field that says that there is none), right the current image, captions below."""
    words = catalogue(request.language)
    panels = {ImageRole.PRIOR: _prior_panel(request, words), ImageRole.CURRENT: _current_panel(request, words)}
    captions = _captions(request, words)
    width = sum(panel.image.width for panel in panels.values()) + 3 * MARGIN
    height = HEADER + PANEL + MARGIN + LINE * len(captions) + MARGIN
    picture = Image.new("RGB", (width, height), _BLACK)
    draw = ImageDraw.Draw(picture)
    left = MARGIN
    for role, panel in panels.items():
        top = HEADER + (PANEL - panel.image.height) // 2
        picture.paste(panel.image, (left, top))
        draw.text((left, 8), panel.title, fill=_WHITE, font=_font(18))
        _mark(draw, request, panel, role, (left, top), words)
        left += panel.image.width + MARGIN
    for number, (text, colour) in enumerate(captions):
        draw.text((MARGIN, HEADER + PANEL + MARGIN + number * LINE), text, fill=colour, font=_font(16))
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _prior_panel(request: ReportRequest, words: Catalogue) -> _Panel:
    if request.prior is None:
        return _blank(words.text("title.no_prior"), words.text("title.no_prior"), PANEL // 2)
    title = f"{words.text('title.prior')}: {prior_date(request, words)}"
    return _panel(request.prior, title, words)


def _current_panel(request: ReportRequest, words: Catalogue) -> _Panel:
    return _panel(request.current, f"{words.text('title.current')}: {date_text(request.current, words)}", words)


def _panel(source: SourceImage, title: str, words: Catalogue) -> _Panel:
    if source.image is None:
        return _blank(title, words.text("title.no_image"), PANEL)
    pixels = np.clip(np.nan_to_num(source.image.pixels) * 255.0, 0, 255).astype(np.uint8)
    scale = PANEL / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).convert("RGB")
    return _Panel(image=image, source=source, title=title)


def _blank(title: str, text: str, width: int) -> _Panel:
    image = Image.new("RGB", (width, PANEL), (24, 24, 24))
    ImageDraw.Draw(image).text((width // 2, PANEL // 2), text, fill=_GREY, font=_font(18), anchor="mm")
    return _Panel(image=image, source=None, title=title)


def _mark(
    draw: ImageDraw.ImageDraw,
    request: ReportRequest,
    panel: _Panel,
    role: ImageRole,
    origin: tuple[int, int],
    words: Catalogue,
) -> None:
    if panel.source is None or request.prediction is None:
        return
    for statement in drawn_statements(request):
        regions = [region for region in statement.finding.regions if region.role is role]
        for number, region in enumerate(sorted(regions, key=_extent, reverse=True)):
            name = label(statement, words) if number == 0 else ""
            _outline(draw, panel, region, origin, name, _colour(statement))


def _extent(region: Region) -> float:
    """Area of the region's bounding box: the largest one bears the finding's name."""
    columns, rows = zip(*region.points, strict=True)
    return float((max(columns) - min(columns)) * (max(rows) - min(rows)))


def _outline(
    draw: ImageDraw.ImageDraw,
    panel: _Panel,
    region: Region,
    origin: tuple[int, int],
    name: str,
    colour: tuple[int, int, int],
) -> None:
    points = [panel.point(*point) for point in region.points]
    placed = [(origin[0] + x, origin[1] + y) for x, y in points]
    draw.line(placed, fill=colour, width=2, joint="curve")
    if not name:
        return
    font = _font(15)
    box = draw.textbbox((0, 0), name, font=font)
    x = min(min(p[0] for p in placed), origin[0] + panel.image.width - box[2] - 4)
    y = max(min(p[1] for p in placed) - 20, origin[1])
    place = (max(x, origin[0]), y)
    draw.rectangle(draw.textbbox(place, name, font=font), fill=_BLACK)
    draw.text(place, name, fill=colour, font=font)


def _captions(request: ReportRequest, words: Catalogue) -> list[tuple[str, tuple[int, int, int]]]:
    lines = [(label(one, words), _colour(one)) for one in drawn_statements(request)]
    mark = "origin.demonstration_mark" if request.model.demonstration else "origin.unverified"
    return [*(lines or [(impressions(request)[-1], _WHITE)]), (words.text(mark), _GREY)]


def _colour(statement: Statement) -> tuple[int, int, int]:
    return COLOURS[statement.coded_change]
