"""Fonts for text that may be of any script: which free font files this machine has, and what each can show.

DejaVu Sans (a licence of its own, free) has Latin, Greek, Cyrillic and more; Droid Sans Fallback (Apache-2.0) Chinese
and Japanese, Nanum Gothic (OFL) Korean. They come from Debian's packages; DejaVu also from the extra `train`, whose
matplotlib ships it. None is required: what no font has is said on the page, never printed wrong.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError

SHARE = Path("/usr/share/fonts")
CANDIDATES = (
    ("truetype/dejavu/DejaVuSans.ttf", "truetype/dejavu/DejaVuSans-Bold.ttf"),
    ("truetype/droid/DroidSansFallbackFull.ttf", ""),
    ("truetype/nanum/NanumGothic.ttf", "truetype/nanum/NanumGothicBold.ttf"),
)
"""(regular, bold or "") below SHARE, the first that has a character shows it."""
SAMPLES = {"Greek": "Ω", "Cyrillic": "Ж", "Chinese": "中", "Japanese": "か", "Korean": "한"}
"""One character of each script that a page is expected to show."""
PLACEHOLDER = "?"
RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
SHAPED = ((0x0900, 0x109F), (0x1780, 0x17FF), (0x1A00, 0x1CFF), (0xA800, 0xAAFF))
"""Blocks of Indic and South-East Asian scripts: their letters join, which needs a shaping engine; we have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FontFace:
    """A font file and its characters. bold: its bold sister, or the same file."""

    regular: Path
    bold: Path
    characters: frozenset[int]


def faces() -> tuple[FontFace, ...]:
    """The fonts of this machine, the preferred one first; () where there is none."""
    return _faces(SHARE)


@cache
def _faces(share: Path) -> tuple[FontFace, ...]:
    pairs = [(share / regular, share / bold if bold else share / regular) for regular, bold in CANDIDATES]
    if not pairs[0][0].is_file() and (spec := find_spec("matplotlib")) is not None and spec.origin:
        folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
        pairs.insert(0, (folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf"))
    available = []
    for regular, bold in pairs:
        characters = _characters(regular)
        if characters:
            available.append(FontFace(regular=regular, bold=bold if bold.is_file() else regular, characters=characters))
    return tuple(available)


def _characters(path: Path) -> frozenset[int]:
    """The characters for which the file has a glyph; none where it is missing or no font."""
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            # Numbers instead of the glyphs' names, which nobody asks for: to read those took ten times as long.
            font.setGlyphOrder(range(font["maxp"].numGlyphs))
            return frozenset(font.getBestCmap() or ())
    except (OSError, TTLibError):
        return frozenset()


def showable(text: str, having: Iterable[FontFace]) -> tuple[str, int]:
    """The text with a placeholder for what cannot be shown rightly, and how many characters that were.

    Without a font the standard PDF fonts show Latin-1. Right-to-left and joining scripts count as not showable: their
    letters would stand apart or backwards.
    """
    fonts = list(having)
    shown = []
    missing = 0
    for character in unicodedata.normalize("NFC", text):
        if _has(character, fonts):
            shown.append(character)
        else:
            shown.append(PLACEHOLDER)
            missing += 1
    return "".join(shown), missing


def _has(character: str, fonts: list[FontFace]) -> bool:
    number = ord(character)
    if not fonts:
        return number < 0x100
    # Letters that must be turned or joined (Arabic, Devanagari) would be shown one by one in the wrong order: no text
    # is better than that.
    if unicodedata.bidirectional(character) in RIGHT_TO_LEFT or any(low <= number <= high for low, high in SHAPED):
        return False
    return character == "\n" or any(number in face.characters for face in fonts)


def first_with(character: str, having: Sequence[FontFace]) -> int:
    """The place of the first font that has the character; 0 where none has."""
    return next((number for number, face in enumerate(having) if ord(character) in face.characters), 0)


def missing_scripts() -> list[str]:
    """The scripts of SAMPLES that a page cannot show on this machine (`dicom-node doctor` says so)."""
    return [script for script, sample in SAMPLES.items() if showable(sample, faces())[1]]
