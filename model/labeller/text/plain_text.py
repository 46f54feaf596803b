"""A report's text without markup: HTML, RTF and line-break escapes become lines."""

from __future__ import annotations

import html
import re

_TAGS = (
    r"br|p|div|html|head|body|b|i|u|em|strong|span|font|table|thead|tbody|tr|td|th|ul|ol|li|h[1-6]|pre|center|hr|a|sub|sup|small"
    r"|style|script|title|meta|blockquote|section|article|img|s|strike|code|col|colgroup|xml|o:p|!doctype|paragraph|content"
    r"|list|item|text"
)
_TAG = re.compile(rf"<\s*(/?)\s*({_TAGS})\b(?:\s[^<>]*)?/?\s*>", re.IGNORECASE)
_HIDDEN = re.compile(r"<\s*(style|script|head|title)\b[^<>]*>.*?<\s*/\s*\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_IN_LINE = frozenset(
    ("b", "i", "u", "em", "strong", "span", "font", "a", "sub", "sup", "small", "s", "strike", "code", "content")
)
_ITEM = frozenset(("li", "item"))
_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-f]{1,5}|[a-z]{2,8}\d?);", re.IGNORECASE)

_RTF = re.compile(
    r"\\'(?P<byte>[0-9a-fA-F]{2})|\\u(?P<unicode>-?\d{1,5}) ?\??|\\(?P<word>[a-zA-Z]{1,32})(?P<number>-?\d{1,10})? ?"
    r"|\\(?P<symbol>[^a-zA-Z])|(?P<group>[{}])|[\r\n]+|(?P<text>[^\\{}\r\n]+)"
)
_RTF_LINES = frozenset(("par", "line", "row", "sect", "page", "pard_end"))
_RTF_SPACES = frozenset(("tab", "cell", "emspace", "enspace"))
_RTF_HIDDEN = re.compile(
    "fonttbl|colortbl|stylesheet|info|pict|header[flr]?|footer[flr]?|footnote|listtable|listoverridetable|generator|themedata"
    "|colorschememapping|datastore|latentstyles|rsidtbl|xmlnstbl|object"
)
_RTF_CHARACTERS = {
    "bullet": "•",
    "endash": "–",
    "emdash": "—",
    "lquote": "'",
    "rquote": "'",
    "ldblquote": '"',
    "rdblquote": '"',
}

_LINE_BREAK = re.compile(r"\\\.(?:br|sp|ce)[+-]?\d*\\?", re.IGNORECASE)
_WRITTEN_BREAK = re.compile(r"\\r\\n|\\n(?=[A-Z0-9\s•*-]|$)|\\X0[AD]\\(?:\\X0[AD]\\)?", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\u200b-\u200f\u2060]")
_LINE_ENDS = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")


def plain_text(text: str) -> str:
    r"""Return the text with "\n" as its only line end and without markup or control characters.

    Understood: HTML with its entities, RTF (RTF 1.9.1: control words, groups, escaped characters), the HL7 formatting
    escapes (``\.br\``) that a sender wrote out, and line ends of every kind. A "<" that opens no known tag stays.
    """
    if "{\\rtf" in text:
        begin = text.index("{\\rtf")
        text = text[:begin] + _text_of_rtf(text[begin:])
    text = _WRITTEN_BREAK.sub("\n", _LINE_BREAK.sub("\n", text))
    if _TAG.search(text):
        text = _text_of_html(text)
    elif _ENTITY.search(text):
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text)).replace("\xa0", " ")
    return re.sub(r"\n{3,}", "\n\n", text)


def _text_of_html(text: str) -> str:
    def replacement(tag: re.Match[str]) -> str:
        name = tag[2].lower()
        if name in _ITEM and not tag[1]:
            return "\n- "
        if name in ("td", "th"):
            return " "
        return "" if name in _IN_LINE else "\n"

    text = _TAG.sub(replacement, _HIDDEN.sub(" ", text))
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _text_of_rtf(text: str) -> str:
    """Return the text of an RTF document, without groups that hold none of the report (fonts, colours, pictures)."""
    out: list[str] = []
    hidden: list[bool] = [False]
    for token in _RTF.finditer(text):
        if token["group"] == "{":
            hidden.append(hidden[-1])
        elif token["group"] == "}":
            if len(hidden) > 1:
                hidden.pop()
        # \* marks a group that a reader which does not know it may leave out.
        elif token["symbol"] == "*" or _RTF_HIDDEN.fullmatch(token["word"] or ""):
            hidden[-1] = True
        elif not hidden[-1]:
            out.append(_rtf_character(token))
    return "".join(out)


def _rtf_character(token: re.Match[str]) -> str:
    if token["text"] is not None:
        return token["text"]
    if token["byte"] is not None:
        return bytes.fromhex(token["byte"]).decode("cp1252", "replace")
    if token["unicode"] is not None:
        # \u takes a signed number of 16 bits: characters from U+8000 on are written as negative ones (RTF 1.9.1).
        return chr(int(token["unicode"]) % 0x10000)
    if token["symbol"] is not None:
        return {"~": " ", "_": "-", "-": "", "\n": "\n", "\r": "\n"}.get(token["symbol"], token["symbol"])
    word = token["word"] or ""
    if word in _RTF_LINES:
        return "\n"
    return " " if word in _RTF_SPACES else _RTF_CHARACTERS.get(word, "")
