"""Text of a data set: which character sets a peer declared, and what its bytes say (PS3.3 section C.12.1.1.2).

The index, the reports and the comparison of patients read a name by this one module, so that the same bytes are the
same name everywhere.
"""

from __future__ import annotations

from typing import Final

from pydicom.charset import decode_bytes, python_encoding

TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""VRs that the Specific Character Set applies to (PS3.5 section 6.1.2.3)."""
_DEFAULT_ENCODING: Final = python_encoding[""]
_ASCII_STAYS: Final[tuple[list[str], ...]] = ([], ["latin_1"], ["UTF8"])
"""Encodings, as the data set declares them, in which an ASCII character is itself; nearly all objects declare one."""
_BREAKS: Final = "\t\n\x0b\x0c\r\x85"
_STEERING: Final = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Marks that turn the direction in which what follows is shown, a report's own words and dates too."""
_SHOWN: Final = {
    **dict.fromkeys((*range(32), *range(127, 160), *range(55296, 57344), *map(ord, _STEERING))),
    **{ord(character): " " for character in _BREAKS},
}


def character_sets(value: bytes) -> list[str]:
    """Python encodings for SpecificCharacterSet; [] for the default repertoire. Unknown terms count as the default.

    Only names of DICOM's own table are looked up: a peer must not choose among all of Python's codecs.
    """
    names = value.decode("ascii", "replace").replace("\x00", "").upper().split("\\")
    encodings = []
    for name in (" ".join(name.replace("_", " ").replace("-", " ").split()) for name in names):
        # Writers leave out or exchange the underscore and the blank of "ISO_IR 100" and "ISO 2022 IR 87".
        for spelled in (name, name.replace("ISO IR", "ISO_IR"), name.replace("ISO2022", "ISO 2022")):
            if spelled in python_encoding:
                encodings.append(python_encoding[spelled])
                break
        else:
            encodings.append(_DEFAULT_ENCODING)
    return [] if encodings == [_DEFAULT_ENCODING] else encodings


def encodings_that_decode(value: bytes, declared: list[str]) -> list[str]:
    """The encodings by which a value can be read: the declared ones, else UTF-8, else Latin-1. Never raises.

    Parameters
    ----------
    value
        The encoded text.
    declared
        Python encodings of the data set, [] if it declares none but the default repertoire.
    """
    # ESC is ASCII too, but switches the character set (ISO 2022): what follows may be Japanese in seven bits.
    if value.isascii() and b"\x1b" not in value:
        return declared or [_DEFAULT_ENCODING]
    for encodings in (declared or ["ascii"], ["utf-8"]):
        if _decode_by(value, encodings) is not None:
            return encodings
    return ["latin-1"]


def decode_text(value: bytes, declared: list[str]) -> str:
    """Text of a value by the encodings that decode it, without NULs and blanks around it. Never raises."""
    if declared in _ASCII_STAYS and value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").replace("\x00", "").strip()
    text = _decode_by(value, encodings_that_decode(value, declared))
    return (value.decode("latin-1") if text is None else text).replace("\x00", "").strip()


def without_controls(text: str) -> str:
    """The text on one line, without characters that show nothing: a sentence that quotes a header is kept and shown.

    PostgreSQL refuses NUL, and a mark of direction would show the rest of the sentence backwards. Joiners stay: Persian
    and Indic names need them.
    """
    if text.isascii() and text.isprintable():
        return text  # most are, and each received object has two dozen
    return text.translate(_SHOWN)


def _decode_by(value: bytes, encodings: list[str]) -> str | None:
    """The text, or None if these encodings do not fit."""
    try:
        text = decode_bytes(value, encodings, set()) if b"\x1b" in value else value.decode(encodings[0])
    except (UnicodeError, LookupError, ValueError):
        return None
    # pydicom replaces what it cannot decode by U+FFFD and warns, where it is not told to be strict.
    return None if "\ufffd" in text else text
