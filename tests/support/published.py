"""Writes small data sets in exactly the published formats, with made-up content: what the reader tests read.

Columns and layout: LUMEN.md sections 2 and 3. Nothing here is anybody's data: ids, dates, labels and pixels are drawn
from a seed.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from model.ontology import ontology
from model.questions.battery import QuestionType, lumen_question
from model.questions.grammar import Event, EventKind, write_events
from training.readers.labels import CHEXPERT_LABELS
from training.readers.mimic import image_folder

DIFFVQA_NAMES = tuple(concept.key for concept in ontology().findings.values() if concept.diffvqa)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV file; gzipped where the name ends so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One made-up study of the MIMIC family."""

    subject: str
    study: str
    dicom: str
    view: str
    date: str
    time: str
    order: int
    labels: Mapping[str, str]
    split: str


def mimic_studies(subjects: int, *, seed: int = 0) -> list[Study]:
    """One to four studies of each subject, a month apart, with CheXpert labels."""
    chance = random.Random(seed)
    studies: list[Study] = []
    for number in range(subjects):
        subject = str(10_000_000 + number * 137)
        split = ("train", "train", "train", "validate", "test")[number % 5]
        for order in range(1, chance.randint(1, 4) + 1):
            labels = {name: chance.choice(["1.0", "0.0", "-1.0", "", ""]) for name in CHEXPERT_LABELS[:8]}
            studies.append(
                Study(
                    subject=subject,
                    study=str(50_000_000 + len(studies)),
                    dicom=f"{chance.getrandbits(128):032x}",
                    view=chance.choice(["PA", "AP"]),
                    date=f"2180{order:02d}{chance.randint(1, 28):02d}",
                    time=str(chance.choice([82530.5, 5.0, 213015.123])),
                    order=order,
                    labels=labels,
                    split=split,
                )
            )
    return studies


def write_mimic_tables(
    root: Path, studies: Sequence[Study], *, extra_metadata: Sequence[Sequence[object]] = ()
) -> None:
    """The metadata, split, chexpert and negbio tables of MIMIC-CXR-JPG 2.1.0, gzipped as published."""
    metadata = (
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
        "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
        "PatientOrientationCodeSequence_CodeMeaning",
    )  # fmt: skip
    rows = [
        (s.dicom, s.subject, s.study, "CHEST (PA AND LAT)", s.view, 3056, 2544, s.date, s.time, "", "", "Erect")
        for s in studies
    ]
    write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", metadata, [*rows, *extra_metadata])
    write_csv(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        ("dicom_id", "study_id", "subject_id", "split"),
        [(s.dicom, s.study, s.subject, s.split) for s in studies],
    )
    for name in ("chexpert", "negbio"):
        write_csv(
            root / f"mimic-cxr-2.0.0-{name}.csv.gz",
            ("subject_id", "study_id", *CHEXPERT_LABELS),
            [(s.subject, s.study, *(s.labels.get(label, "") for label in CHEXPERT_LABELS)) for s in studies],
        )


def write_jpgs(root: Path, studies: Sequence[Study], *, side: int = 16) -> None:
    """A small grey JPEG for each study, where MIMIC-CXR-JPG keeps it; no two alike. side: 32 and more decode."""
    for number, study in enumerate(studies):
        folder = root / image_folder(study.subject, study.study)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{study.dicom}.jpg")


def write_dicoms(root: Path, studies: Sequence[Study]) -> None:
    """MIMIC-CXR 2.1.0: a small DX object for each study, its report, and the two lists."""
    for study in studies:
        folder = root / image_folder(study.subject, study.study)
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / f"s{study.study}.txt").write_text("FINAL REPORT: made up.\n")
        _dicom(study).save_as(folder / f"{study.dicom}.dcm", enforce_file_format=True)
    write_csv(
        root / "cxr-record-list.csv.gz",
        ("subject_id", "study_id", "dicom_id", "path"),
        [(s.subject, s.study, s.dicom, f"{image_folder(s.subject, s.study)}/{s.dicom}.dcm") for s in studies],
    )
    write_csv(
        root / "cxr-study-list.csv.gz",
        ("subject_id", "study_id", "path"),
        [(s.subject, s.study, f"{image_folder(s.subject, s.study)}.txt") for s in studies],
    )


def _dicom(study: Study) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[study.dicom])
    ds.PatientID, ds.StudyDate = study.subject, study.date
    ds.Manufacturer = "ACME "
    ds.StudyTime, ds.ViewPosition = study.time.split(".")[0].zfill(6), study.view
    ds.Rows = ds.Columns = 8
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 7, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(64)
    return ds


def vqa_studies_table(path: Path, studies: Sequence[Study]) -> Path:
    """mimic_all.csv of Medical-Diff-VQA 1.0.1: labels as floats, views in words."""
    words = {"PA": "postero-anterior", "AP": "antero-posterior"}
    return write_csv(
        path,
        ("subject_id", "study_id", *CHEXPERT_LABELS, "dicom_id", "view", "split", "study_date", "study_order"),
        [
            (s.subject, s.study, *(s.labels.get(label, "") for label in CHEXPERT_LABELS), s.dicom, words[s.view],
             s.split.replace("validate", "val"), s.date, s.order)
            for s in studies
        ],
    )  # fmt: skip


VQA_HEADER = ("study_id", "subject_id", "ref_id", "question_type", "question", "answer", "split")


def vqa_questions(studies: Sequence[Study], *, seed: int = 0, reverse_every: int = 0) -> list[tuple[object, ...]]:
    """Questions of all seven types for each study, and a difference question for each consecutive pair.

    reverse_every: every so many pairs have main and reference exchanged, as version 1.0.0 had.
    """
    chance = random.Random(seed)
    rows: list[tuple[object, ...]] = []
    splits = ("train",) * 8 + ("val", "test")  # by row, as published
    for before, study in zip([None, *studies[:-1]], studies, strict=True):
        finding = chance.choice(DIFFVQA_NAMES)
        reference = before.study if before is not None and before.subject == study.subject else ""
        asked = (
            ("abnormality", lumen_question(QuestionType.ABNORMALITY), "pleural effusion, lung opacity"),
            ("presence", lumen_question(QuestionType.PRESENCE, 1, finding=finding), chance.choice(["yes", "no"])),
            ("view", lumen_question(QuestionType.VIEW), f"{study.view} view"),
            ("location", lumen_question(QuestionType.LOCATION, 2, finding="atelectasis"), "left side"),
            ("level", lumen_question(QuestionType.LEVEL, finding="edema"), chance.choice(ontology().levels)),
            ("type", lumen_question(QuestionType.TYPE, finding="atelectasis"), chance.choice(ontology().types)),
        )
        rows += [(study.study, study.subject, reference, *item, chance.choice(splits)) for item in asked]
        if reference and before is not None:
            pair = (study.study, reference)
            if reverse_every and len(rows) % reverse_every == 0:
                pair = (reference, study.study)
            answer = write_events(random_events(chance))
            question = lumen_question(QuestionType.DIFFERENCE)
            rows.append((pair[0], study.subject, pair[1], "difference", question, answer, chance.choice(splits)))
    return rows


LUMEN_SHARES = {"none": 4_544, "new": 7_515, "resolved": 7_105, "both": 11_902, "level": 489, "mixed": 1_206}
"""Rows of validation and test of Medical-Diff-VQA 1.0.1 by what their answer says (LUMEN.md section 2)."""


def lumen_answers(seed: int = 0) -> list[tuple[str, str]]:
    """(what it says, difference answer) in exactly the published numbers, in the published grammar, shuffled."""
    chance = random.Random(seed)
    answers = []
    for said, count in LUMEN_SHARES.items():
        for _ in range(count):
            names = chance.sample(DIFFVQA_NAMES, chance.choices(range(2, 11), [30, 20, 12, 8, 4, 2, 1, 1, 1])[0])
            kinds = {
                "none": [],
                "new": [EventKind.NEW] * (1 if chance.random() < 0.5 else len(names)),
                "resolved": [EventKind.RESOLVED] * (1 if chance.random() < 0.5 else len(names)),
                "both": [EventKind.NEW, *[EventKind.RESOLVED] * (len(names) - 1)],
                "level": [EventKind.LEVEL],
                "mixed": [EventKind.LEVEL, *chance.choices([EventKind.NEW, EventKind.RESOLVED], k=len(names) - 1)],
            }[said]
            events = []
            for kind, finding in zip(kinds, names, strict=False):
                before, after = chance.sample(["mild", "moderate", "severe", "minimal", "small"], 2)
                level = {"before": before, "after": after} if kind is EventKind.LEVEL else {}
                events.append(Event(kind=kind, finding=finding, **level))
            answers.append((said, write_events(events)))
    chance.shuffle(answers)
    return answers


def random_events(chance: random.Random) -> list[Event]:
    """Up to four events on different findings, none of them with an ambiguous degree."""
    events = []
    for finding in chance.sample(DIFFVQA_NAMES, chance.choice([0, 1, 1, 2, 2, 3, 4])):
        kind = chance.choice([EventKind.NEW, EventKind.RESOLVED, EventKind.NEW, EventKind.RESOLVED, EventKind.LEVEL])
        if kind is EventKind.LEVEL:
            before, after = chance.sample(["mild", "moderate", "severe"], 2)
            events.append(Event(kind=kind, finding=finding, before=before, after=after))
        else:
            events.append(Event(kind=kind, finding=finding))
    return events
