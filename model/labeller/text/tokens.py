"""A sentence as phrases of the word list, each with its characters: abbreviations spelled out, typing errors mended."""

from __future__ import annotations

import re
from functools import lru_cache

from model.labeller.text.parts import Mark
from model.labeller.text.word_list import word_list

_TOKEN = re.compile(
    r"[+-]ve\b|[a-z0-9]+(?:[.'’/][a-z0-9]+)*\.?(?<=\bw/)|[a-z0-9]+(?:[.'’/][a-z0-9]+)*|\.{2,}|[…,;:()?=&+<>|]|[—–]|(?<=\s)-{1,2}(?=\s)"
    r"|(?<=\s)/(?=\s)|(?<![a-z0-9/])w/|\#(?!\d)",
    re.IGNORECASE,
)
_SIDES = {"R": "right", "L": "left"}
_SIGNS = {
    "#": ("fracture",),
    "…": (":",),
    ">": ("greater", "than"),
    "<": ("less", "than"),
    "—": ("-",),
    "–": ("-",),
    "--": ("-",),
    "|": ("-",),
}


def marks(sentence: str) -> list[Mark]:
    """Return the sentence as phrases, longest first from the left."""
    words, joined, position = word_list(), [], 0
    read = list(_tokens(sentence))
    spelled = tuple(token for token, _, _ in read)
    while position < len(read):
        # Candidates by first word, the longest first: "right lower lobe" before "right".
        for phrase in words.by_first.get(spelled[position], ()):
            if spelled[position : position + len(phrase)] == phrase:
                end = read[position + len(phrase) - 1][2]
                joined.append(
                    Mark(text=" ".join(phrase), start=read[position][1], end=end, parts=words.phrases[phrase])
                )
                position += len(phrase)
                break
        else:
            joined.append(Mark(text=spelled[position], start=read[position][1], end=read[position][2]))
            position += 1
    return joined


def _tokens(sentence: str) -> list[tuple[str, int, int]]:
    """Return (word, start, end): lower case; hyphens separate, a dash between blanks is a word."""
    tokens: list[tuple[str, int, int]] = []
    for match in _TOKEN.finditer(sentence):
        for piece, start in _pieces(match[0], match.start()):
            length = len(piece)
            if piece == "CM" and not (tokens and tokens[-1][0][0].isdigit()):
                piece = "cardiomegaly"  # in capitals, and no unit behind a number
            for word in _words(piece):
                tokens.append((word, start, start + length))
    return tokens


def _pieces(token: str, start: int) -> list[tuple[str, int]]:
    """Split "ETT/NGT" but not "s/p" or "and/or"; the slash stays a word of its own."""
    words = word_list()
    plain = token.lower()
    if "/" not in token or plain in words.abbreviations or plain in words.known or re.fullmatch(r"[\d./]+", token):
        return [(token, start)]
    return [(part[0], start + part.start()) for part in re.finditer(r"[^/]+|/", token)]


def _words(token: str) -> tuple[str, ...]:
    if token in _SIDES:
        return (_SIDES[token],)
    if token.startswith(".."):
        return (":",)
    if token in _SIGNS:
        return _SIGNS[token]
    plain = token.lower().replace("’", "'")
    spelled = word_list().abbreviations.get(plain)
    return spelled if spelled is not None else (_correct_spelling(plain),)


@lru_cache(maxsize=65_536)
def _correct_spelling(token: str) -> str:
    """Return the listed word that a misspelt one means: the only one near enough and long enough, else the token."""
    words = word_list()
    if token in words.known or len(token) < 5 or not token.isalpha():
        return token
    # The plural of a known word is no misspelling of another one.
    if token.endswith("s") and token[:-1] in words.known:
        return token
    if len(token) < words.min_letters:
        # A short word has too many near ones: only two letters that changed places are put right.
        swapped = {token[:at] + token[at + 1] + token[at] + token[at + 2 :] for at in range(1, len(token) - 1)}
        swapped &= words.known
        return swapped.pop() if len(swapped) == 1 else token
    for edits, least in ((1, words.min_letters), (2, words.min_letters_two_edits)):
        near = {
            known
            for length in range(max(len(token) - edits, least), len(token) + edits + 1)
            for known in words.letters.get(length, ())
            if (_is_one_edit(token, known) if edits == 1 else _is_two_edits(token, known))
        }
        if near:
            # Of two that are equally near nobody can tell which was meant.
            return near.pop() if len(near) == 1 else token
    return token


def _is_one_edit(one: str, other: str) -> bool:
    """Return whether one insertion, deletion, substitution or swap of neighbours makes `other` of `one`."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    swapped = len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0] and a[2:] == b[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped


def _is_two_edits(one: str, other: str) -> bool:
    """Return whether two edits inside a word make `other` of `one`."""
    if one[0] != other[0] or one[-2:] != other[-2:]:
        return False  # another ending makes another word
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    swapped = a[:2][::-1] == b[:2] and _is_one_edit(a[2:], b[2:])
    return swapped or _is_one_edit(a[1:], b[1:]) or _is_one_edit(a[1:], b) or _is_one_edit(a, b[1:])
