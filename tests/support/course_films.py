"""A patient's films as a modality sends them, and the messages of the laboratory and the wards that belong to them."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_node.hl7.times import FORM
from model.schema import PatientContext
from tests.support.chart_messages import lab, order
from training.phantom.course import ClinicalOptions
from training.phantom.course_dicom import write_course

CODES = {
    "CRP": ("1988-5^C reactive protein^LN", "mg/L"),
    "BNP": ("30934-4^BNP^LN", "pg/mL"),
    "leukocytes": ("6690-2^Leukocytes^LN", "10*9/L"),
    "creatinine": ("14682-9^Creatinine^LN", "umol/L"),
    "diuretics": ("C03CA01^Furosemide^ATC", ""),
    "antibiotics": ("J01CR05^Piperacillin^ATC", ""),
}
"""Name of a laboratory value or treatment → code and unit of a sender; planned removals have the site's own codes."""
SITE_CODES = """[[chart.treatments]]
code = "EXT"
means = "extubation planned"
[[chart.treatments]]
code = "LINE"
means = "line removal planned"
[[chart.treatments]]
code = "NGT"
means = "feeding tube removal planned"
"""
_PLANNED = {"extubation planned": "EXT", "line removal planned": "LINE", "feeding tube removal planned": "NGT"}
_FLAGS = {"normal": "N", "high": "H", "very high": "HH"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFilm:
    """One film. labs: name → text with its flag, as a model is told it. treatments: given when it was taken."""

    path: Path
    header: Dataset
    taken: dt.datetime
    labs: dict[str, str]
    treatments: tuple[str, ...]

    @property
    def study_uid(self) -> str:
        return str(self.header.StudyInstanceUID)

    @property
    def context(self) -> PatientContext:
        return PatientContext(labs=self.labs, treatments=self.treatments)

    def at(self, **before: float) -> str:
        """A time stamp of HL7 so long before the exposure; negative values are after it."""
        return (self.taken - dt.timedelta(**before)).strftime(FORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """The films of one patient, oldest first, and who it is in PID-3."""

    films: tuple[SentFilm, ...]

    @property
    def patient_id(self) -> str:
        return str(self.films[0].header.PatientID)

    @property
    def pid(self) -> str:
        return f"{self.patient_id}^^^{self.films[0].header.IssuerOfPatientID}"

    @property
    def study_uids(self) -> list[str]:
        return [film.study_uid for film in self.films]

    def messages(self) -> list[str]:
        """Laboratory results two hours before each film and reported one before it; orders as they begin and end."""
        sent = []
        for number, film in enumerate(self.films):
            for name, text in sorted(film.labs.items()):
                value, _, rest = text.partition(" ")
                code, unit = CODES[name]
                flag = _FLAGS[rest.partition(" ")[2]]
                times = {"taken": film.at(hours=2), "reported": film.at(hours=1), "at": film.at(hours=1)}
                filler = f"L-{number}-{name}"
                sent.append(lab(value, code=code, unit=unit, flag=flag, patient=self.pid, filler=filler, **times))
            before = self.films[number - 1].treatments if number else ()
            for name in film.treatments:
                if name not in before:
                    begun = film.at(hours=24 if number == 0 else 3)
                    sent.append(self._order("NW", name, number=number, placed=begun, begins=begun))
            for name in (one for one in before if one not in film.treatments):
                sent.append(self._order("DC", name, placed=film.at(hours=3), number=self._begun(name, number)))
        return sent

    def _order(self, control: str, name: str, *, number: int, placed: str, begins: str = "") -> str:
        code = CODES[name][0] if name in CODES else f"{_PLANNED[name]}^{name}^HIS"
        return order(
            control,
            code=code if control == "NW" else "",
            number=f"O-{number}-{name}",
            placed=placed,
            begins=begins,
            patient=self.pid,
        )

    def _begun(self, name: str, ended: int) -> int:
        """The film with which an order began that ended before the film `ended`."""
        start = ended - 1
        while start and name in self.films[start - 1].treatments:
            start -= 1
        return start


def write_patient(folder: Path, seed: int, *, films: int, patient_id: str, side: int = 320) -> Patient:
    """Write a phantom course under this ID; under another ID it has the same pixels and dates."""
    made = write_course(folder, seed, options=ClinicalOptions(films=(films, films)), long_side=side)
    facts = json.loads(made.chart.read_text("utf-8"))["studies"]
    return Patient(
        films=tuple(
            _film(study.files[0], study.acquired, fact, patient_id)
            for study, fact in zip(made.studies, facts, strict=True)
        )
    )


def _film(path: Path, taken: dt.datetime, facts: dict[str, object], patient_id: str) -> SentFilm:
    film = pydicom.dcmread(path)
    film.PatientID = patient_id
    film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = (
        generate_uid(entropy_srcs=[patient_id, str(film[keyword].value)])
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    film.save_as(path)
    del film.PixelData
    labs, treatments = facts["labs"], facts["treatments"]
    assert isinstance(labs, dict)
    assert isinstance(treatments, list)
    return SentFilm(path=path, header=film, taken=taken.replace(microsecond=0), labs=labs, treatments=tuple(treatments))
