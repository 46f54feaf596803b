"""The message catalogue: every word of a report in one language, from `locales/<language>.toml`."""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

DEFAULT_LANGUAGE = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All messages of one language, flattened to dotted keys ("change.new")."""

    language: str
    messages: dict[str, str]

    def text(self, key: str, **values: object) -> str:
        """The message with its places filled; raises KeyError naming a key or place that there is not."""
        return self.messages[key].format(**values)

    def word(self, kind: str, word: str) -> str:
        """A single word ("finding", "pleural_effusion") in this language, or the word itself where it has none."""
        return self.messages.get(f"{kind}.{word}", word.replace("_", " "))

    def date(self, day: dt.date) -> str:
        """A date as a radiologist of this language writes it."""
        return self.text("date", day=day.day, month=self.messages[f"month.{day.month}"], year=day.year)

    def join(self, items: list[str]) -> str:
        """ "a", "a and b", "a, b and c"."""
        if len(items) < 2:
            return "".join(items)
        return self.text("list", first=", ".join(items[:-1]), last=items[-1])

    def percent(self, probability: float) -> str:
        """A probability (0..1) in whole percent; never 0 or 100, which would claim certainty."""
        if probability < 0.01:
            return self.text("percent.below", value=1)
        if probability > 0.99:
            return self.text("percent.above", value=99)
        return self.text("percent.value", value=round(probability * 100))


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


@cache
def languages() -> tuple[str, ...]:
    """The languages that there are catalogues for."""
    folder = resources.files("dicom_node.report").joinpath("locales")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


@cache
def catalogue(language: str) -> Catalogue:
    """The catalogue for a tag such as "de" or "de-AT"; English where there is none: a result must not fail on it."""
    tag = language.lower().replace("_", "-").split("-")[0]
    name = tag if tag in languages() else DEFAULT_LANGUAGE
    raw = resources.files("dicom_node.report").joinpath("locales", f"{name}.toml").read_text("utf-8")
    return Catalogue(language=name, messages=_flat(tomllib.loads(raw), ""))


def _flat(table: dict[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = str(value)
    return flat
