"""The base class of the configuration's tables, and types that check their values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


def _ae_title(value: str) -> str:
    """PS3.5 section 6.2, VR AE: at most 16 characters of the default repertoire, no backslash, not only spaces."""
    stripped = value.strip()
    if not 1 <= len(stripped) <= 16 or "\\" in stripped or any(not 32 <= ord(c) < 127 for c in stripped):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters without a backslash")
    return stripped


def _peer_name(value: str) -> str:
    """It stands in job keys, pages' addresses and database columns."""
    if not 1 <= len(value) <= 64 or any(c in ":/\\" or not c.isprintable() for c in value) or value != value.strip():
        raise ValueError("a name has 1 to 64 printable characters without colon and slash, and no space at its ends")
    return value


def _web_address(value: str) -> str:
    parsed = urlsplit(value)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise ValueError("allowed are addresses such as https://archive.example/dicom-web")
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]


PeerName = Annotated[str, AfterValidator(_peer_name)]


AETitle = Annotated[str, AfterValidator(_ae_title)]


Port = Annotated[int, Field(ge=1, le=65535)]


ListenPort = Annotated[int, Field(ge=0, le=65535)]


Seconds = Annotated[float, Field(gt=0)]


LONGEST_TIME = {"_seconds": 100 * 365 * 86400, "_hours": 100 * 365 * 24, "_days": 100 * 365}
"""A century, by the unit that ends a key: more cannot be meant, and much more is beyond what a date can hold."""


class Section(BaseModel):
    """A table of the file; refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_no_truth_value(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation in (int, float):
            raise ValueError("allowed is a number")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _time_is_at_most_a_century(cls, value: object, info: ValidationInfo) -> object:
        longest = next((most for unit, most in LONGEST_TIME.items() if str(info.field_name).endswith(unit)), None)
        if longest is not None and isinstance(value, int | float) and value > longest:
            raise ValueError(f"at most {longest} (a hundred years)")
        return value


def refuse_duplicates(kind: str, names: Iterable[str]) -> None:
    """Raise ValueError for two tables of one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two [[{kind}]] tables are named {name!r}; each needs its own name")
        seen.add(name)
