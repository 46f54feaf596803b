"""Phantom courses as DICOM studies, one for each film, with treatments and laboratory values beside them.

    python -m training.phantom.course_dicom FOLDER --seed 7

writes FOLDER/film-1/image.dcm and so on, oldest first, and FOLDER/chart.json: for each film its date, treatments,
laboratory values and what is truly on it.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from training.phantom.course import ClinicalOptions, sample_course
from training.phantom.dicom import LONG_SIDE, PhantomStudy, Storage, Subject, film_dataset, render_stored_pixels
from training.phantom.scene import PhantomCourse, PhantomFilm

CHART = "chart.json"
_FIRST_DAY = dt.datetime(2026, 1, 5, 8, 0)  # noqa: DTZ001 (DICOM local time has no zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseStudies:
    """A course on disk, oldest study first. chart: the file beside them."""

    patient_id: str
    studies: tuple[PhantomStudy, ...]
    chart: Path


def write_course(
    folder: Path,
    seed: int,
    *,
    options: ClinicalOptions | None = None,
    long_side: int = LONG_SIDE,
    storage: Storage = Storage.DX,
) -> CourseStudies:
    """Write a course; the same arguments give the same bytes."""
    course = sample_course(seed, options)
    rng = np.random.default_rng([seed, 43])
    first = _FIRST_DAY + dt.timedelta(days=int(rng.integers(0, 300)))
    studies, facts = [], []
    patient_id = ""
    for number, film in enumerate(course.films, start=1):
        when = first + dt.timedelta(days=film.day, minutes=int(rng.integers(0, 300)))
        study, patient_id = _write_film(folder, seed, number, course, film, when, long_side, storage)
        studies.append(study)
        facts.append(_facts(study, film))
    chart = folder / CHART
    chart.write_text(json.dumps({"patient": patient_id, "studies": facts}, indent=1) + "\n", "utf-8")
    return CourseStudies(patient_id=patient_id, studies=tuple(studies), chart=chart)


def _write_film(
    folder: Path,
    seed: int,
    number: int,
    course: PhantomCourse,
    film: PhantomFilm,
    when: dt.datetime,
    long_side: int,
    storage: Storage,
) -> tuple[PhantomStudy, str]:
    role = f"film-{number}"
    pixels = render_stored_pixels(course.patient, film.states, film.acquisition, long_side, Subject.FRONTAL)
    dataset = film_dataset(seed, role, when, pixels, film.acquisition.view, storage, Subject.FRONTAL)
    dataset.AccessionNumber = f"PH{seed % 10**8:08d}F{number}"
    dataset.StudyID = str(number)
    path = folder / role / "image.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    study = PhantomStudy(
        files=(path,),
        study_instance_uid=str(dataset.StudyInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        acquired=when,
        findings=dict(film.states),
    )
    return study, str(dataset.PatientID)


def _facts(study: PhantomStudy, film: PhantomFilm) -> dict[str, Any]:
    return {
        "study": study.study_instance_uid,
        "date": study.acquired.date().isoformat(),
        "treatments": list(film.treatments),
        "labs": dict(film.labs),
        "findings": {key: state.grade or "present" for key, state in film.states.items()},
    }


def main(
    folder: Path,
    seed: Annotated[int, typer.Option(help="the same seed gives the same course")] = 1,
    long_side: Annotated[int, typer.Option(help="pixels of the longer side of a film")] = LONG_SIDE,
) -> None:
    """Write a phantom course into FOLDER."""
    written = write_course(folder, seed, long_side=long_side)
    print(f"{written.patient_id}: {len(written.studies)} studies, {written.chart}")


if __name__ == "__main__":
    typer.run(main)
