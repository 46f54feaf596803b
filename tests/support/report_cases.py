"""Hand-built results of every kind, for the tests of the report writer. Values only: no model is asked."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
from pydicom import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from dicom_node.dicom.uids import derive_uid
from dicom_node.index.tables.core import Outcome
from dicom_node.report.request import ReportRequest, SourceImage
from model.ontology import ontology
from model.schema import (
    AbstainReason,
    Change,
    DisplayImage,
    Finding,
    ImageRole,
    ModelIdentity,
    Prediction,
    Presence,
    PrognosisItem,
    Region,
    SourceGeometry,
)

ROWS, COLUMNS = 600, 500
PRODUCED = dt.datetime(2026, 11, 23, 14, 30, 5, tzinfo=dt.UTC)
MODEL = ModelIdentity(
    name="LUMEN demonstration",
    version="1.0.0",
    device_uid=derive_uid("tests", "device"),
    demonstration=True,
    licence="Apache-2.0",
)
BATTERY = ("pleural_effusion", "pneumothorax", "consolidation", "edema", "cardiomegaly", "endotracheal_tube")


def header(name: str, date: str, time: str = "081500") -> Dataset:
    """A complete, valid header of a frontal chest radiograph; `name` makes its UIDs."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = derive_uid("tests", "instance", name)
    ds.SeriesInstanceUID = derive_uid("tests", "series", name)
    ds.StudyInstanceUID = derive_uid("tests", "study", name)
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Example^Erika", "T-0001", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex = "19500102", "F"
    ds.StudyDate, ds.StudyTime = date, time
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = f"ACC{date}", "1", "Referrer^Rita"
    ds.StudyDescription, ds.Modality, ds.ViewPosition = "Chest PA", "CR", "PA"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    return ds


def image(seed: int) -> DisplayImage:
    """A grey picture with two dark fields, cropped by 20 pixels on each side of its stored image."""
    height, width = ROWS - 40, COLUMNS - 40
    y, x = np.mgrid[0:height, 0:width]
    pixels = 0.75 + 0.05 * np.sin((x + seed) / 40.0)
    for centre in (0.3, 0.7):
        pixels -= 0.5 * (((x / width - centre) / 0.16) ** 2 + ((y / height - 0.45) / 0.32) ** 2 < 1)
    geometry = SourceGeometry(rows=ROWS, columns=COLUMNS, top=20, left=20, height=height, width=width)
    return DisplayImage(pixels=pixels.astype(np.float32), geometry=geometry, view="PA")


CURRENT = SourceImage(header=header("current", "20260310"), image=image(1))
PRIOR = SourceImage(header=header("prior", "20260301"), image=image(2))
BOX = ((300.0, 350.0), (420.0, 350.0), (420.0, 480.0), (300.0, 480.0), (300.0, 350.0))


def finding(key: str, change: Change | None = None, **values: object) -> Finding:
    """A present finding with this change; an absent one without `presence` given is made by `absent`."""
    present = change is not Change.RESOLVED
    made = Finding(
        key=key,
        presence=Presence.PRESENT if present else Presence.ABSENT,
        probability=0.93 if present else 0.04,
        change=change,
        change_probability=None if change is None else 0.88,
    )
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def absent(key: str) -> Finding:
    return Finding(key=key, presence=Presence.ABSENT, probability=0.03)


def prediction(*said: Finding, **values: object) -> Prediction:
    """The given findings and every other one of the battery as absent, in ontology order."""
    known = {f.key: f for f in said}
    order = [key for key in ontology().findings if key in known or key in BATTERY]
    made = Prediction(findings=tuple(known.get(key) or absent(key) for key in order), model=MODEL)
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def request(said: Prediction | None, *, prior: SourceImage | None = PRIOR, **values: object) -> ReportRequest:
    made = ReportRequest(
        current=CURRENT,
        prior=prior,
        outcome=Outcome.COMPARED if prior is not None else Outcome.FINDINGS_ONLY,
        reason="" if prior is not None else "No earlier chest radiograph of this patient was found.",
        prior_reasons=("It is the latest earlier frontal chest radiograph of this patient", "Same view (PA)")
        if prior is not None
        else ("The local index and 1 query peer were asked",),
        prediction=said,
        model=MODEL,
        produced_at=PRODUCED,
    )
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def region(role: ImageRole = ImageRole.CURRENT) -> Region:
    return Region(role=role, points=BOX, method="occlusion relevance")


def kinds() -> dict[str, ReportRequest]:
    """One request for every kind of result."""
    effusion = finding("pleural_effusion", Change.NEW, location="left", level="moderate", regions=(region(),))
    both = (region(), region(ImageRole.PRIOR))
    return {
        "new": request(prediction(effusion, finding("endotracheal_tube", Change.NEW))),
        "worse": request(
            prediction(
                finding("edema", Change.WORSENING, level="severe", regions=both, prior_probability=0.7),
                finding("cardiomegaly", Change.STABLE),
            )
        ),
        "stable": request(prediction(finding("cardiomegaly", Change.STABLE, level="mild"))),
        "better": request(prediction(finding("consolidation", Change.IMPROVING, location="right lower"))),
        "resolved": request(
            prediction(
                finding("pneumothorax", Change.RESOLVED, regions=(region(ImageRole.PRIOR),), prior_probability=0.9)
            )
        ),
        "nothing": request(prediction()),
        "no prior": request(prediction(finding("pleural_effusion", location="bilateral", level="mild")), prior=None),
        "unsure": request(
            prediction(
                finding("edema", Change.NOT_COMPARABLE, change_probability=0.4),
                finding("consolidation", presence=Presence.ABSTAINED, probability=0.48),
            )
        ),
        "abstained": request(
            Prediction(findings=(), model=MODEL, abstained=AbstainReason.LOW_CERTAINTY),
            outcome=Outcome.NOT_ANALYSED,
            reason="The certainty is too low.",
        ),
        "refused": request(
            None, prior=None, outcome=Outcome.NOT_ANALYSED, reason="The study has no frontal chest image."
        ),
        "prognosis": request(
            prediction(effusion, prognosis=(PrognosisItem(key="edema", change=Change.NEW, probability=0.31),))
        ),
    }
