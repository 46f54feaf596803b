"""Person names made comparable over character sets, groups, spellings and cutting (PS3.5 section 6.2.1)."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

_PLACEHOLDERS = frozenset(
    {"anonymous", "anonymized", "anonymised", "anonym", "unknown", "unbekannt", "none", "noname", "na"}
)
"""Names that name nobody."""
_EXPANSIONS = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "ø": "oe", "æ": "ae", "œ": "oe", "ñ": "n"}
_FLAT = {"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_SEPARATORS = re.compile(r"[\W_]+")
_KATAKANA_TO_HIRAGANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}


class NameAgreement(StrEnum):
    """The result of comparing two names."""

    AGREE = "agree"
    """A group that both have is the same name."""
    FAMILY_DIFFERS = "family name differs"
    """The given names agree, the family names do not: marriage, or another person."""
    DIFFER = "differ"
    UNKNOWN = "unknown"
    """One has no name, or they have no group in common: neither proof nor contradiction."""


def compare_names(a: str, b: str) -> NameAgreement:
    """Compare two PN values in Unicode. Symmetric.

    The strongest group that both have decides: ideographs first, because homophones share a transliteration; then the
    alphabetic group; then the phonetic one.
    """
    alphabetic, ideographic, phonetic = zip(_groups(a), _groups(b), strict=True)
    for group_a, group_b in (ideographic, alphabetic, phonetic):
        if group_a and group_b:
            return _compare_group(group_a, group_b)
    return NameAgreement.UNKNOWN


def _groups(name: str) -> tuple[str, str, str]:
    """Alphabetic, ideographic and phonetic group, "" where missing, undecodable or a placeholder.

    A name that stands in a group where it does not belong (ideographs without "=") is put where it belongs.
    """
    parts = ([*name.split("="), "", "", ""])[:3]
    alphabetic, ideographic, phonetic = (_usable(part) for part in parts)
    if alphabetic and not ideographic and _is_written_in(alphabetic, ("CJK",)):
        alphabetic, ideographic = "", alphabetic
    # Hangul and kana belong into the phonetic group (PS3.5 annexes H and I).
    elif alphabetic and not phonetic and _is_written_in(alphabetic, ("HANGUL", "HIRAGANA", "KATAKANA", "HALFWIDTH")):
        alphabetic, phonetic = "", alphabetic
    return alphabetic, ideographic, phonetic


def _usable(group: str) -> str:
    if "\ufffd" in group or "?" in group:
        return ""  # a name that lost letters to a wrong character set proves nothing either way
    flat = _SEPARATORS.sub("", group.casefold())
    return "" if not flat or flat in _PLACEHOLDERS else group


def _is_written_in(text: str, scripts: tuple[str, ...]) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and all(unicodedata.name(c, "").startswith(scripts) for c in letters)


def _compare_group(a: str, b: str) -> NameAgreement:
    if a == b:
        return NameAgreement.AGREE  # whatever script it is in: code points without letters have no spelling below
    if "^" not in a.strip("^ ") or "^" not in b.strip("^ "):
        # One is not split into components: compare the words, whatever their order.
        return NameAgreement.AGREE if _has_same_words(a, b) else NameAgreement.DIFFER
    family_a, given_a, middle_a = _components(a)
    family_b, given_b, middle_b = _components(b)
    if not _is_same_given(given_a, middle_a, given_b, middle_b):
        return NameAgreement.DIFFER
    return NameAgreement.AGREE if _spellings(family_a) & _spellings(family_b) else NameAgreement.FAMILY_DIFFERS


def _components(group: str) -> tuple[str, str, str]:
    """Family, given and middle name; prefix and suffix ("Dr.") identify nobody."""
    family, given, middle = ([*group.split("^"), "", "", ""])[:3]
    return family, given, middle


def _is_same_given(given_a: str, middle_a: str, given_b: str, middle_b: str) -> bool:
    """ "Hans^Peter" is "Hans Peter" is "Hans" is "H."; "Hans^Peter" is not "Hans^Paul"."""
    words_a, words_b = _words(f"{given_a} {middle_a}"), _words(f"{given_b} {middle_b}")
    if not words_a or not words_b:
        return not words_a and not words_b
    # As far as both go: a second given name may be left out.
    return all(_is_same_or_initial(x, y) for x, y in zip(words_a, words_b, strict=False))


def _is_same_or_initial(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    if len(short) == 1:
        return any(s.startswith(short) for s in _spellings(long))
    return bool(_spellings(a) & _spellings(b))


def _has_same_words(a: str, b: str) -> bool:
    if _spellings(a) & _spellings(b):
        return True
    words_a, words_b = _words(a), _words(b)
    if len(words_a) != len(words_b):
        return False
    rest = list(words_b)
    for word in words_a:
        match = next((other for other in rest if _spellings(word) & _spellings(other)), None)
        if match is None:
            return False
        # Each word of one name answers for one of the other: "Anna Anna" is not "Anna Maria".
        rest.remove(match)
    return True


def _words(text: str) -> list[str]:
    return [word for word in _SEPARATORS.split(unicodedata.normalize("NFKC", text).casefold()) if word]


def _spellings(text: str) -> frozenset[str]:
    """The ways to write it in plain letters: Müller → muller, mueller; ﾔﾏﾀﾞ and ヤマダ → やまだ."""
    lower = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())
    lower = lower.translate(_KATAKANA_TO_HIRAGANA)
    expanded = "".join(_EXPANSIONS.get(c, c) for c in lower)
    flat = "".join(_FLAT.get(c, c) for c in lower)
    return frozenset(spelling for spelling in (_bare(lower), _bare(expanded), _bare(flat)) if spelling)


def _bare(text: str) -> str:
    """Without accents, spaces, hyphens and apostrophes. Kana keep their voicing marks: は and ば are two letters."""
    kept = []
    for character in text:
        if "\u3040" <= character <= "\u30ff":
            kept.append(character)
            continue
        kept.extend(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c) and c.isalnum())
    return unicodedata.normalize("NFC", "".join(kept))
