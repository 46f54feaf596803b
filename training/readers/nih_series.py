"""Whole series of ChestX-ray14 in small films, and what radiologists marked on some of them (ChestX-Det).

Two data sets of one folder, because the two kinds of label disagree and neither may stand for the other:
`read_nih_series` gives every film with labels mined from reports, `read_nih_marks` the films that radiologists read,
with what they marked. `PairTruth.facts["labels"]` says which. Each film was read alone: a change is a difference of two
readings, and its degree a ratio of two outlined areas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.ontology import ontology
from model.schema import Change, PatientContext
from training.readers.labels import frontal_view
from training.readers.mimic import SPLIT_WORDS
from training.readers.nih import age_of, find_image_files, read_nih
from training.readers.tables import find_table, read_rows
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth

LABELS = "labels"
"""Key of `PairTruth.facts`; its values are the two below."""
MINED, MARKED = "mined from reports", "marked by radiologists"
MARKS: Mapping[str, str] = {
    "pleural_effusion": "pleural_effusion",
    "pneumothorax": "pneumothorax",
    "atelectasis": "atelectasis",
    "consolidation": "consolidation",
    "lung_nodule": "lung_nodule",
    "fracture": "fracture",
    "emphysema": "emphysema",
    "fibrosis": "fibrosis",
    "calcification": "calcification",
    "mass": "lung_mass",
}
"""Word of the tables → ontology key. A film that was read is known for all of them."""
_OTHER_FOLDER = "nih"
"""Beside the folder: the films that lie there at 512 px are not repeated here."""
_NOTHING = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class _NihFilm:
    """A film that was read. sides: ontology key → sides of its boxes; patient, context: from the films' own table."""

    image: ImageRef
    patient: str
    split: Split
    marked: frozenset[str]
    sides: Mapping[str, frozenset[str]]
    context: PatientContext

    def truth(self, key: str) -> ImageTruth:
        sides = self.sides.get(key, frozenset())
        side = "bilateral" if len(sides) > 1 else next(iter(sides), None)
        lateral = ontology().findings[key].lateral
        return ImageTruth(present=key in self.marked, side=side if lateral and key in self.marked else None)


def read_nih_series(root: Path, report: DropReport, *, check_images: bool = True) -> Iterator[Record]:
    """Every film, the later ones with the film before them, with labels mined from reports."""
    for record in read_nih(root, report, check_images=check_images):
        yield replace(record, truth=replace(record.truth, facts={**record.truth.facts, LABELS: MINED}))


def read_nih_marks(root: Path, report: DropReport, *, check_images: bool = True) -> Iterator[Record]:
    """Pairs of which radiologists read both films, then the films that are the current one of no such pair, alone.

    Films that lie in the folder `nih` beside this one are read there; without it they are dropped and counted.
    """
    films = _read_films(root, report, check_images=check_images)
    changes = _read_changes(root, report)
    paired = set[str]()
    for (prior, current), known in changes.items():
        if prior not in films or current not in films:
            report.drop("a film of the pair is missing", f"{current} against {prior}")
            continue
        paired.add(current)
        report.keep()
        yield _pair(films[prior], films[current], known)
    for name, film in films.items():
        if name not in paired:
            report.keep()
            yield _alone(film)


def _pair(prior: _NihFilm, current: _NihFilm, known: Mapping[str, Change]) -> Record:
    findings = {
        key: FindingTruth(key=key, current=current.truth(key), prior=prior.truth(key), change=known.get(key))
        for key in MARKS.values()
    }
    truth = PairTruth(
        pair_id=f"nih-marks/{current.image.image_id}/{prior.image.image_id}",
        patient_id=current.patient,
        findings=findings,
        view=current.image.view,
        prior_view=prior.image.view,
        facts={LABELS: MARKED},
    )
    return Record(truth=truth, current=current.image, prior=prior.image, context=current.context, split=current.split)


def _alone(film: _NihFilm) -> Record:
    truth = PairTruth(
        pair_id=f"nih-marks/{film.image.image_id}",
        patient_id=film.patient,
        findings={key: FindingTruth(key=key, current=film.truth(key)) for key in MARKS.values()},
        has_prior=False,
        view=film.image.view,
        facts={LABELS: MARKED},
    )
    return Record(truth=truth, current=film.image, context=film.context, split=film.split)


def _read_films(root: Path, report: DropReport, *, check_images: bool) -> dict[str, _NihFilm]:
    """Name → film, of those that were read."""
    sides: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, word, side in read_rows(find_table(root, "boxes.csv"), ("image", "finding", "side"), report):
        if word in MARKS and side:
            sides[name][MARKS[word]].add(side)
    about = _read_table(root, report)
    files = find_image_files(root)
    other = root.parent / _OTHER_FOLDER
    # What this folder lacks is looked up in the other one beside it; where both have a film, this one wins.
    if other.is_dir():
        about = _read_table(other, report) | about
        files = find_image_files(other) | files
    films: dict[str, _NihFilm] = {}
    for name, split, words in read_rows(find_table(root, "read.csv"), ("image", "split", "findings"), report):
        marked = [word for word in words.split("|") if word]
        path = files.get(Path(name).stem)
        if name not in about or (check_images and path is None):
            report.drop("image file missing", name)
        elif unknown := [word for word in marked if word not in MARKS]:
            report.drop(f"unknown mark {unknown[0]!r}", name)
        else:
            patient, view, context = about[name]
            films[name] = _NihFilm(
                image=ImageRef(key=str(path or name), image_id=name, study_id=name, view=view),
                patient=patient,
                split=SPLIT_WORDS.get(split, Split.TRAIN),
                marked=frozenset(MARKS[word] for word in marked),
                sides={key: frozenset(stated_sides) for key, stated_sides in sides[name].items()},
                context=context,
            )
    return films


def _read_table(root: Path, report: DropReport) -> dict[str, tuple[str, str | None, PatientContext]]:
    """Name → patient, view and context, of the films' own table."""
    columns = ("Image Index", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    return {
        name: (f"nih/{patient}", frontal_view(view), PatientContext(age_years=age_of(age), sex=sex or None))
        for name, patient, age, sex, view in read_rows(find_table(root, "metadata.csv"), columns, report)
    }


def _read_changes(root: Path, report: DropReport) -> dict[tuple[str, str], dict[str, Change]]:
    """(prior, current) → ontology key → change; empty where both films show nothing."""
    changes: dict[tuple[str, str], dict[str, Change]] = defaultdict(dict)
    columns = ("prior", "current", "finding", "change")
    for prior, current, word, change in read_rows(find_table(root, "pairs_read.csv"), columns, report):
        # Made even where nothing follows: a pair without any finding was read all the same.
        known = changes[prior, current]
        if change == _NOTHING:
            continue
        if word not in MARKS or change not in {item.value for item in Change}:
            raise DataError(f"pairs_read.csv: {word!r} {change!r} is no finding and change; the words are {[*MARKS]}")
        known[MARKS[word]] = Change(change)
    return changes
