"""Medical-Diff-VQA 1.0.1: 700,703 published questions over MIMIC-CXR images, held compactly and given pair by pair.

Columns: PhysioNet, Medical-Diff-VQA 1.0.1 (LUMEN.md section 2). study_id is the main (current) image, ref_id the
reference (prior). Reversed pairs (version 1.0.0 has them) are recognised by the studies' dates and swapped or dropped.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from model.questions.battery import QuestionType
from training.readers.diffvqa_truth import pair_truth, single_truth
from training.readers.labels import CHEXPERT_LABELS, Known, chexpert_known, frontal_view
from training.readers.mimic import SPLIT_WORDS
from training.readers.tables import find_table, read_rows
from training.records.drops import DataError, DropReport
from training.records.record import Asked, ImageRef, Record, Split, swapped

QUESTIONS, STUDIES, DISEASES = "mimic_pair_questions.csv", "mimic_all.csv", "all_diseases.json"

ImagePath = Callable[[str, str, str], Path]
"""(subject_id, study_id, dicom_id) → file; `mimic.jpg_path` or `mimic.dicom_path` with the root bound."""
_TYPES = {
    "abnormality": QuestionType.ABNORMALITY,
    "presence": QuestionType.PRESENCE,
    "view": QuestionType.VIEW,
    "location": QuestionType.LOCATION,
    "level": QuestionType.LEVEL,
    "type": QuestionType.TYPE,
    "difference": QuestionType.DIFFERENCE,
}
_TYPE_LIST = tuple(_TYPES.values())
_DIFFERENCE = _TYPE_LIST.index(QuestionType.DIFFERENCE)
_SPLIT_LIST = (Split.TRAIN, Split.VALIDATE, Split.TEST)


class Reversed(StrEnum):
    """The treatment of a pair whose main image is older than its reference."""

    SWAP = "swap"
    """Exchange the images and invert the answer; dropped where the answer cannot be inverted with certainty."""
    DROP = "drop"
    """Leave it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaStudy:
    """One row of mimic_all.csv. moment: (study_date, study_order), comparable within a subject."""

    subject_id: str
    dicom_id: str
    view: str
    moment: tuple[int, int]
    known: Known


@dataclass(slots=True, kw_only=True)
class _Table:
    """All questions as columns of numbers beside tables of distinct texts: some 40 bytes a question, not 700."""

    study: array[int] = field(default_factory=lambda: array("q"))
    reference: array[int] = field(default_factory=lambda: array("q"))
    type: array[int] = field(default_factory=lambda: array("b"))
    split: array[int] = field(default_factory=lambda: array("b"))
    question: array[int] = field(default_factory=lambda: array("i"))
    answer: array[int] = field(default_factory=lambda: array("i"))
    texts: dict[str, int] = field(default_factory=dict)

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))


def read_studies(folder: Path, report: DropReport) -> dict[str, VqaStudy]:
    """study_id → its frontal image, PA before AP; doubles, lateral views and malformed rows are counted."""
    columns = ("subject_id", "study_id", "dicom_id", "view", "study_date", "study_order", *CHEXPERT_LABELS)
    shared: dict[tuple[tuple[str, bool], ...], dict[str, bool]] = {}
    result: dict[str, VqaStudy] = {}
    for row in read_rows(find_table(folder, STUDIES), columns, report):
        subject_id, study_id, dicom_id, word, date, order, *labels = row
        view = frontal_view(word)
        if view is None:
            report.drop(f"{STUDIES}: not a frontal view", dicom_id)
        elif not (study_id.isdigit() and date.isdigit() and order.isdigit()):
            report.drop(f"{STUDIES}: study_id, study_date or study_order is no number", dicom_id)
        else:
            known = chexpert_known(dict(zip(CHEXPERT_LABELS, labels, strict=True)))
            # Some thousand distinct label sets serve 200,000 studies: share them.
            known = shared.setdefault(tuple(known.items()), known)
            moment = (int(date), int(order))
            study = VqaStudy(subject_id=subject_id, dicom_id=dicom_id, view=view, moment=moment, known=known)
            other = result.get(study_id)
            if other is not None:
                study, left = sorted((study, other), key=lambda item: (item.view != "PA", item.dicom_id))
                report.drop(f"{STUDIES}: another image of the same study", left.dicom_id)
            result[study_id] = study
    return result


def read_medical_diff_vqa(
    folder: Path,
    images: ImagePath,
    report: DropReport,
    *,
    reversed_pairs: Reversed = Reversed.SWAP,
    check_images: bool = True,
) -> Iterator[Record]:
    """Records of Medical-Diff-VQA: for each main study one record of its single-image questions, then one for each
    of its pairs with the difference questions. The published split is by row; `splits` makes a patient-disjoint one.
    """
    studies, table = read_studies(folder, report), _read_questions(folder, report)
    context = _Context(
        studies=studies,
        images=images,
        report=report,
        reversed_pairs=reversed_pairs,
        check_images=check_images,
        texts=list(table.texts),
        pairs=frozenset(
            (study, reference, _SPLIT_LIST[split])
            for study, reference, split in zip(table.study, table.reference, table.split, strict=True)
            if reference
        ),
    )
    for rows in _groups(table):
        record = context.record(table, rows)
        if record is not None:
            report.keep()
            yield record


def _read_questions(folder: Path, report: DropReport) -> _Table:
    table = _Table()
    columns = ("study_id", "subject_id", "ref_id", "question_type", "question", "answer", "split")
    for study, _, reference, type, question, answer, split in read_rows(find_table(folder, QUESTIONS), columns, report):
        reference = reference.removesuffix(".0")  # a column with blanks is often written as floats
        if type not in _TYPES:
            report.drop("unknown question_type", f"{study}: {type!r}")
        elif split not in SPLIT_WORDS or SPLIT_WORDS[split] not in _SPLIT_LIST:
            report.drop("unknown split", f"{study}: {split!r}")
        elif not study.isdigit() or (type == "difference" and not reference.isdigit()):
            report.drop("study_id or ref_id is no number", f"{study}, {reference}")
        elif not question or not answer:
            report.drop("question or answer is empty", study)
        else:
            is_difference = type == "difference"
            table.study.append(int(study))
            # Single-image questions carry a ref_id too; it has no meaning for them and must not split the group.
            table.reference.append(int(reference) if is_difference else 0)
            table.type.append(_TYPE_LIST.index(_TYPES[type]))
            table.split.append(_SPLIT_LIST.index(SPLIT_WORDS[split]))
            table.question.append(table.text(question))
            table.answer.append(table.text(answer))
    return table


def _groups(table: _Table) -> Iterator[list[int]]:
    """Row numbers of each (study, reference, split), whatever the order of the file."""
    columns = [np.frombuffer(column, dtype=column.typecode) for column in (table.split, table.reference, table.study)]
    if not len(columns[0]):
        return
    # The last column sorts first. Sorted rows of one group lie together, so that the file need not be in any order, and
    # arrays do for its millions of rows.
    order = np.lexsort(columns)
    keys = np.stack([column[order].astype(np.int64) for column in columns])
    starts = np.flatnonzero(np.append(True, (np.diff(keys, axis=1) != 0).any(axis=0)))
    for start, stop in zip(starts, np.append(starts[1:], len(order)), strict=True):
        yield sorted(order[start:stop].tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Context:
    """Arguments that every group needs."""

    studies: Mapping[str, VqaStudy]
    images: ImagePath
    report: DropReport
    reversed_pairs: Reversed
    check_images: bool
    texts: list[str]
    pairs: frozenset[tuple[int, int, Split]]
    """(study, reference, split) of all difference questions, as published."""

    def record(self, table: _Table, rows: list[int]) -> Record | None:
        """The record of one group; None where it was dropped (counted once for each of its questions)."""
        first = rows[0]
        study_id, split = str(table.study[first]), _SPLIT_LIST[table.split[first]]
        asked = self._collect_questions(table, rows, study_id)
        if table.type[first] == _DIFFERENCE:
            return self._pair(study_id, str(table.reference[first]), asked, split)
        image = self._image(study_id, len(rows))
        if image is None:
            return None
        study = self.studies[study_id]
        truth = single_truth(
            f"diffvqa/{study_id}/{split.value}", f"mimic/{study.subject_id}", study.view, study.known, asked
        )
        return Record(truth=truth, current=image, asked=asked, split=split)

    def _collect_questions(self, table: _Table, rows: list[int], study_id: str) -> tuple[Asked, ...]:
        """The questions of a group, each once."""
        asked: dict[Asked, None] = {}
        for row in rows:
            item = Asked(
                type=_TYPE_LIST[table.type[row]],
                question=self.texts[table.question[row]],
                answer=self.texts[table.answer[row]],
            )
            if item in asked:
                self.report.drop("the same question and answer twice", study_id)
            asked[item] = None
        return tuple(asked)

    def _image(self, study_id: str, questions: int) -> ImageRef | None:
        study = self.studies.get(study_id)
        if study is None:
            self._drop_all(f"study is not in {STUDIES}", study_id, questions)
            return None
        path = self.images(study.subject_id, study_id, study.dicom_id)
        if self.check_images and not path.is_file():
            self._drop_all("image file missing", study.dicom_id, questions)
            return None
        # Six digits: times are compared as text.
        when = f"{study.moment[0]} {study.moment[1]:06d}"
        return ImageRef(key=str(path), image_id=study.dicom_id, study_id=study_id, view=study.view, when=when)

    def _pair(self, study_id: str, reference_id: str, asked: tuple[Asked, ...], split: Split) -> Record | None:
        current, prior = self._image(study_id, len(asked)), self._image(reference_id, len(asked))
        if current is None or prior is None:
            return None
        study, reference = self.studies[study_id], self.studies[reference_id]
        pair_name = f"{study_id} against {reference_id}"
        if study.subject_id != reference.subject_id:
            self._drop_all("pair of two subjects", pair_name, len(asked))
            return None
        if study.moment == reference.moment:
            self._drop_all("pair without an order in time", pair_name, len(asked))
            return None
        record = Record(
            truth=pair_truth(
                _pair_id(study_id, reference_id, split),
                f"mimic/{study.subject_id}",
                (study.view, reference.view),
                (study.known, reference.known),
                asked,
            ),
            current=current,
            prior=prior,
            asked=asked,
            split=split,
        )
        if study.moment > reference.moment:
            return record
        back = swapped(record) if self.reversed_pairs is Reversed.SWAP else None
        if back is None:
            self._drop_all("reversed pair", pair_name, len(asked))
            return None
        pair_id = _pair_id(reference_id, study_id, split)
        if (int(reference_id), int(study_id), split) in self.pairs:  # the release holds some pairs both ways round
            self._drop_all("reversed pair that is there forwards as well", pair_name, len(asked))
            return None
        self.report.note("reversed pair swapped")
        return replace(back, truth=replace(back.truth, pair_id=pair_id))

    def _drop_all(self, reason: str, which: str, questions: int) -> None:
        for _ in range(questions):
            self.report.drop(reason, which)


def _pair_id(current: str, prior: str, split: Split) -> str:
    """Unique: the split is by row, so one pair may stand in two of them."""
    return f"diffvqa/{current}/{prior}/{split.value}"


def read_diseases(folder: Path) -> Iterator[Mapping[str, object]]:
    """The entries of all_diseases.json (study_id, subject_id, entity, no_entity), for checks of the answers.

    Raises DataError where the file is missing, no JSON, or not a list of such entries. Held in memory once (the
    published file has some 160,000 entries).
    """
    path = folder / DISEASES
    if not path.is_file():
        raise DataError(f"{folder} holds no {DISEASES}")
    try:
        entries = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{DISEASES} is cut off or no JSON: {error}") from error
    if not isinstance(entries, list):
        raise DataError(f"{DISEASES} is no list")
    for number, entry in enumerate(entries):
        lacking = {"study_id", "subject_id", "entity", "no_entity"} - set(entry)
        if lacking:
            raise DataError(f"{DISEASES}: entry {number} lacks {sorted(lacking)}")
        yield entry
