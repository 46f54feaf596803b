"""Twelve typical results word for word, in both languages, as they were read aloud.

After an intended change: `REGENERATE_GOLDEN=1 pytest tests/report/wording/test_typical.py`, then read them aloud again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.report.render.text import as_text
from dicom_node.report.wording.catalogue import languages
from dicom_node.report.wording.reasons import names_attributes
from tests.support.typical_results import typical

GOLDEN = Path(__file__).parents[1] / "golden"


def _texts(language: str) -> dict[str, str]:
    return {name: as_text(replace(one, language=language)) for name, one in typical().items()}


@pytest.mark.parametrize("language", languages())
def test_typical_results_read_as_they_were_read_aloud(language: str) -> None:
    path = GOLDEN / f"typical-{language}.txt"
    text = "\n".join(f"### {name}\n{said}" for name, said in _texts(language).items())
    if os.environ.get("REGENERATE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), f"{path.name} differs; see the head of this file"


@pytest.mark.parametrize("language", languages())
def test_attributes_of_the_header_are_named_under_limitations_alone(language: str) -> None:
    for name, text in _texts(language).items():
        heading = {"en": "LIMITATIONS", "de": "EINSCHRÄNKUNGEN"}[language]
        assert not names_attributes(text.split(heading)[0]), name


def test_an_abstained_change_is_never_called_unchanged() -> None:
    text = _texts("en")["uncertain, and other projection"]
    assert "nchanged" not in text
    assert "No change" not in text
