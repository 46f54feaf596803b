"""The pair picture: prior and current side by side with their dates, what changed marked and named once an image."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dicom_node.report.render.fonts import faces
from dicom_node.report.render.marks import (
    LINE_STYLES,
    Colour,
    Point,
    bounding_box,
    finding_colour,
    place_labels,
    strokes,
)
from dicom_node.report.render.shown import Caption, Outline, ShownImage, ShownReport, shown_report
from dicom_node.report.request import ReportRequest
from model.schema import DisplayImage, ImageRole

PANEL = 640
"""Height of an image in the picture, in pixels; wider images are scaled to at most this width as well."""
HEADER, LINE, MARGIN, SAMPLE = 34, 24, 8, 40
"""Pixels: the titles' height, a caption's height, the gap between panels, the length of a caption's line sample."""
JPEG_QUALITY = 90
RENDERING = "1"
"""Of this drawing; raise it when the same report would give another picture, so that no cached one is shown."""

_SPELLED = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "…": "...", "–": "-"}
)
_BLACK, _WHITE, _GREY = (0, 0, 0), (240, 240, 240), (150, 150, 150)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One image of the picture: its pixels and how a stored point gets onto it."""

    image: Image.Image
    shown: ShownImage
    left: int = 0
    top: int = 0

    def point(self, column: float, row: float) -> Point:
        """(column, row) in stored pixels → (x, y) in the picture, never outside the panel."""
        geometry = self.shown.geometry
        if geometry is None:
            raise ValueError("a panel without an image has no points")
        x = (column - geometry.left) / geometry.width * self.image.width
        y = (row - geometry.top) / geometry.height * self.image.height
        x, y = min(max(x, 0.0), self.image.width - 1.0), min(max(y, 0.0), self.image.height - 1.0)
        return self.left + x, self.top + y


def pair_picture(request: ReportRequest) -> Image.Image:
    """RGB. Left the prior (or a field that says that there is none), right the current image, captions below."""
    prior = request.prior.image if request.prior is not None else None
    return draw_pair(shown_report(request), prior=prior, current=request.current.image)


def pair_jpeg(shown: ShownReport, *, prior: DisplayImage | None, current: DisplayImage | None) -> bytes:
    """The picture as JPEG without chroma subsampling, which would blur the thin coloured lines."""
    buffer = BytesIO()
    draw_pair(shown, prior=prior, current=current).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def draw_pair(shown: ShownReport, *, prior: DisplayImage | None, current: DisplayImage | None) -> Image.Image:
    """Draw the picture of a kept report over its two images; None where one is not to be had any more."""
    left = _image(shown.prior, prior, PANEL // 2 if not shown.prior.sop_instance_uid else PANEL)
    right = _image(shown.current, current, PANEL)
    width = left.width + right.width + 3 * MARGIN
    lines = _wrap_captions(shown.captions, width - 2 * MARGIN - SAMPLE)
    picture = Image.new("RGB", (width, HEADER + PANEL + 2 * MARGIN + LINE * len(lines)), _BLACK)
    draw = ImageDraw.Draw(picture)
    start = MARGIN
    for role, source, image in ((ImageRole.PRIOR, shown.prior, left), (ImageRole.CURRENT, shown.current, right)):
        panel = _Panel(image=image, shown=source, left=start, top=HEADER + (PANEL - image.height) // 2)
        picture.paste(image, (panel.left, panel.top))
        draw.text((panel.left, 8), _drawable(source.title), fill=_WHITE, font=_font(18))
        if source.geometry is not None:
            _draw_marks(draw, panel, [outline for outline in shown.outlines if outline.role is role])
        start += image.width + MARGIN
    for number, (caption, text, is_first) in enumerate(lines):
        plain = _GREY if caption is shown.captions[-1] else _WHITE
        _draw_caption(draw, caption, text, HEADER + PANEL + MARGIN + number * LINE, plain, with_sample=is_first)
    return picture


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The machine's DejaVu Sans; else pillow's own font, which has ASCII only (see `_drawable`)."""
    installed = faces()
    return ImageFont.truetype(str(installed[0].regular), size) if installed else ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """The text in characters that the font has: "Ödem" as "Oedem" where the machine has no other font."""
    if faces():
        return text
    spelled = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    return spelled.encode("ascii", "ignore").decode()


def _image(shown: ShownImage, image: DisplayImage | None, width: int) -> Image.Image:
    """The image at the picture's size, or a dark field with the notice."""
    if image is None:
        field = Image.new("RGB", (width, PANEL), (24, 24, 24))
        notice = _drawable(shown.notice)
        ImageDraw.Draw(field).text((width // 2, PANEL // 2), notice, fill=_GREY, font=_font(18), anchor="mm")
        return field
    scale = PANEL / max(image.pixels.shape)
    size = (max(1, round(image.pixels.shape[1] * scale)), max(1, round(image.pixels.shape[0] * scale)))
    # NaN would become any grey at all.
    pixels = np.clip(np.nan_to_num(image.pixels) * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).convert("RGB")


def _draw_marks(draw: ImageDraw.ImageDraw, panel: _Panel, outlines: list[Outline]) -> None:
    """Outlines first, labels on top of all of them."""
    labels: list[tuple[str, Colour, tuple[float, float, tuple[float, float, float, float]]]] = []
    for outline in outlines:
        colour = finding_colour(outline.finding)
        points = [panel.point(*point) for point in outline.points]
        _draw_line(draw, points, outline, colour)
        if outline.label:
            text = _shorten(_drawable(outline.label), panel.image.width - 8)
            box = draw.textbbox((0, 0), text, font=_font(15))
            labels.append((text, colour, (box[2] + 8, box[3] + 6, bounding_box(points))))
    # All labels are placed together, after all lines are drawn: a label may lie on a line, never below one.
    bounds = (panel.left, panel.top, panel.left + panel.image.width, panel.top + panel.image.height)
    for (text, colour, size), corner in zip(labels, place_labels([label[2] for label in labels], bounds), strict=True):
        if corner is not None:
            x, y = corner
            draw.rectangle((x, y, x + size[0], y + size[1]), fill=_BLACK)
            draw.text((x + 4, y + 2), text, fill=colour, font=_font(15))


def _draw_line(draw: ImageDraw.ImageDraw, points: list[Point], mark: Outline | Caption, colour: Colour) -> None:
    """A dark line below the coloured one keeps it visible over bright bone."""
    style = LINE_STYLES[mark.change]
    if not style.dashes:
        draw.line(points, fill=_BLACK, width=style.width + 2, joint="curve")
        draw.line(points, fill=colour, width=style.width, joint="curve")
        return
    # All of the dark line first: drawn dash by dash, its ends would cover the coloured dashes beside them.
    for below, fill in ((2, _BLACK), (0, colour)):
        for start, end in strokes(points, style.dashes):
            draw.line((start, end), fill=fill, width=style.width + below)


def _shorten(text: str, width: float) -> str:
    """The text, or its beginning with an ellipsis where it is wider than the image."""
    font, kept = _font(15), text
    while kept and font.getlength(text) > width:
        kept = kept[:-1].rstrip()
        text = _drawable(f"{kept}…")
    return text


def _wrap_captions(captions: tuple[Caption, ...], width: float) -> list[tuple[Caption, str, bool]]:
    """(caption, line, whether it is the caption's first line): no caption leaves the picture."""
    font = _font(16)
    lines: list[tuple[Caption, str, bool]] = []
    for caption in captions:
        rows = [""]
        for word in _drawable(caption.text).split():
            joined = f"{rows[-1]} {word}".strip()
            if rows[-1] and font.getlength(joined) > width:
                rows.append(word)
            else:
                rows[-1] = joined
        lines += [(caption, row, number == 0) for number, row in enumerate(rows)]
    return lines


def _draw_caption(
    draw: ImageDraw.ImageDraw, caption: Caption, text: str, top: int, plain: Colour, *, with_sample: bool
) -> None:
    """The finding's name in its colour behind a sample of its line; plain: the colour of a line on no finding."""
    if not caption.finding:
        draw.text((MARGIN, top), text, fill=plain, font=_font(16))
        return
    colour = finding_colour(caption.finding)
    if with_sample:
        _draw_line(draw, [(MARGIN, top + 11), (MARGIN + SAMPLE - 8, top + 11)], caption, colour)
    draw.text((MARGIN + SAMPLE, top), text, fill=colour, font=_font(16))
