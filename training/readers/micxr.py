"""MI-CXR: five-way questions over five visits of one patient (arXiv 2605.15574); a test set only.

`micxr_test.jsonl`, one object a line: `qid` (in the copy on the Hugging Face Hub `q_id`), `group_type` (TEL, ICR, GTS),
`qtype`, `images` ({"T1": "files/p14/….jpg", …, "T5": …}, paths below a MIMIC-CXR-JPG folder), `question`, `choices`
({"A": …, …, "E": …}), `answer` (a letter). Options of TEL are short ("T2 → T3", "T1, T5", "There is no …"); those of
ICR and GTS are prose.

The layout was taken from the repository's README and the Hub's preview; the file itself was not seen. The images
need PhysioNet credentials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from model.ontology import ontology
from training.records.choices import LETTERS, VISITS, ChoiceFamily, ChoiceItem
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef

TABLE = "micxr_test.jsonl"
_PATIENT = re.compile(r"(?:^|/)p(\d{5,})/")


def read_mi_cxr(folder: Path, images: Path, report: DropReport, *, check_images: bool = True) -> Iterator[ChoiceItem]:
    """The questions of a folder with TABLE (or of the file itself). images: the MIMIC-CXR-JPG folder with `files/`.

    Raises DataError where there is no table. What does not fit the layout is dropped and counted.
    """
    path = folder if folder.is_file() else folder / TABLE
    try:
        stream = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: MI-CXR's {TABLE} cannot be read: {error.strerror}") from error
    seen: set[str] = set()
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            item = _item_of(line, f"line {number}", images, report)
            if item is None:
                continue
            if item.item_id in seen:
                report.drop("duplicate question", item.item_id)
            elif check_images and (missing := next((i.key for i in item.images if not Path(i.key).is_file()), None)):
                report.drop("image file missing", missing)
            else:
                seen.add(item.item_id)
                report.keep()
                yield item


def _item_of(line: str, where: str, images: Path, report: DropReport) -> ChoiceItem | None:
    try:
        row = json.loads(line)
        number = row["qid"] if "qid" in row else row["q_id"]
        paths = _paths_of(row["images"])
        # The patient is read from the paths: the splits of the training sets are by patient, and the table does not
        # name one.
        patients = {match[1] for path in paths if (match := _PATIENT.search(path)) is not None}
        if len(patients) != 1:
            report.drop("images of no or of several patients", where)
            return None
        choices = {str(letter): str(text) for letter, text in row["choices"].items()}
        if tuple(sorted(choices)) != LETTERS:
            report.drop("not five options", where)
            return None
        return ChoiceItem(
            item_id=f"micxr/{number}",
            patient_id=f"mimic/{patients.pop()}",
            family=ChoiceFamily(row["group_type"]),
            kind=str(row["qtype"]),
            images=tuple(
                ImageRef(key=str(images / path), image_id=Path(path).stem, when=f"T{visit}")
                for visit, path in enumerate(paths, start=1)
            ),
            question=str(row["question"]),
            choices=choices,
            answer=str(row["answer"]).strip(),
            findings=findings_named(str(row["question"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        report.drop("malformed question", f"{where}: {error}")
        return None


def _paths_of(value: Any) -> list[str]:
    """The paths in order of the visits; a mapping from T1 to T5, or a list of five."""
    if isinstance(value, Mapping):
        return [str(value[f"T{visit}"]) for visit in range(1, VISITS + 1)]
    if not isinstance(value, list):
        raise TypeError(f"images are {type(value).__name__}, neither a mapping nor a list")
    return [str(path) for path in value]


@cache
def _names() -> tuple[tuple[str, str], ...]:
    """(name in lower case, ontology key), the longest first."""
    keys: dict[str, str] = {}
    for key, concept in ontology().findings.items():
        for name in (concept.name, *concept.synonyms, key.replace("_", " ")):
            keys.setdefault(name.lower(), key)
    return tuple(sorted(keys.items(), key=lambda pair: -len(pair[0])))


def findings_named(text: str) -> tuple[str, ...]:
    """Ontology keys of the findings that a text names, in their order in the text; longer names first."""
    rest = text.lower()
    places: dict[str, int] = {}
    for name, key in _names():
        for match in re.finditer(rf"\b{re.escape(name)}\b", rest):
            places.setdefault(key, match.start())
            # Blanked in place, so that a shorter name inside of it is not found again and the others keep their places.
            rest = rest[: match.start()] + " " * len(name) + rest[match.end() :]
    return tuple(sorted(places, key=lambda key: places[key]))
