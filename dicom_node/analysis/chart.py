"""The chart as it was known when an image was taken: from its header, and from results and orders that came by HL7.

Nothing is told to a model that its reader could not have known: a laboratory value counts from when it was reported, an
order from when it was placed, and a correction from when it was made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.chart.vocabulary import chart_vocabulary
from dicom_node.config import ChartSection
from dicom_node.hl7.times import ClockTime, from_text
from dicom_node.index.tables.chart import ChartEntry, ChartKind
from dicom_node.priors import PriorPolicy, linked_ids, patient_of
from dicom_node.priors.identity import canonical, names_nobody
from dicom_node.priors.types import PatientKey
from dicom_node.report.chart_facts import ChartFact, FactKind
from dicom_node.report.patient import text_of
from model.images.exposure import da, exposure_of
from model.questions.prompts import clean_text
from model.schema import PatientContext

MAX_INDICATION = 200
"""Characters of the free text of a request that are told."""
MAX_AGE_YEARS = 120
"""More is a birth date that stands for none, such as 1 January 1900."""
_FLAG_WORDS = {"N": "normal", "H": "high", "HH": "very high"}
"""As the courses of training say it (docs/courses.md); a low value keeps its HL7 letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownChart:
    """The chart as a model is told it, and the same for the report."""

    context: PatientContext
    facts: tuple[ChartFact, ...]

    def restrict_to(self, names: Collection[str]) -> KnownChart | None:
        """Only the laboratory values and treatments with these names; None where none is left."""
        facts = tuple(fact for fact in self.facts if fact.name in names)
        labs = {name: text for name, text in self.context.labs.items() if name in names}
        treatments = tuple(name for name in self.context.treatments if name in names)
        return KnownChart(context=PatientContext(labs=labs, treatments=treatments), facts=facts) if facts else None


def known_chart(session: Session, header: Dataset, settings: ChartSection, policy: PriorPolicy) -> KnownChart | None:
    """The chart at the exposure of the image with this header; None where nothing is known, or no time is."""
    exposure = exposure_of(header)
    if exposure is None:
        return None
    # DICOM gives a zone or none (Timezone Offset From UTC, PS3.3 C.12.1); a time without one stays local, never UTC.
    zone = None if exposure.zone is None else int(exposure.zone.total_seconds() // 60)
    taken = ClockTime(local=exposure.moment, zone=zone)
    entries = _entries(session, header, policy)
    labs = _labs(entries, taken, dt.timedelta(hours=settings.lab_hours))
    treatments = _treatments(entries, taken, dt.timedelta(days=settings.order_days))
    units = {name: lab.unit for name, lab in chart_vocabulary(settings).labs.items()}
    person = _person(header, exposure.moment.date())
    texts = {entry.name: _lab_text(entry, units[entry.name]) for entry in labs}
    facts = [
        *person,
        *(
            ChartFact(kind=FactKind.LAB, name=entry.name, text=texts[entry.name], before=_since(entry, taken))
            for entry in labs
        ),
        *(ChartFact(kind=FactKind.TREATMENT, name=entry.name, before=_since(entry, taken)) for entry in treatments),
    ]
    if not facts:
        return None
    person_facts = {fact.kind: fact.text for fact in person}
    context = PatientContext(
        age_years=int(person_facts[FactKind.AGE]) if FactKind.AGE in person_facts else None,
        sex=person_facts.get(FactKind.SEX),
        indication=person_facts.get(FactKind.INDICATION),
        labs={entry.name: f"{texts[entry.name]} {_FLAG_WORDS.get(entry.flag, entry.flag)}".strip() for entry in labs},
        treatments=tuple(entry.name for entry in treatments),
    )
    return KnownChart(context=context, facts=tuple(facts))


def _entries(session: Session, header: Dataset, policy: PriorPolicy) -> list[ChartEntry]:
    """Entries of this very patient: the same ID and issuer after the site's merges; of a placeholder ID none."""
    patient = patient_of(header)
    own = canonical(patient.key, policy)
    if not patient.key.patient_id or names_nobody(patient.key.patient_id) or names_nobody(own.patient_id):
        return []
    rows = session.scalars(
        select(ChartEntry)
        .where(ChartEntry.patient_id.in_(linked_ids(patient, policy)), ~ChartEntry.is_withdrawn)
        .order_by(ChartEntry.begins_at, ChartEntry.item_key)
    )
    return [row for row in rows if canonical(PatientKey(patient_id=row.patient_id, issuer=row.issuer), policy) == own]


def _labs(entries: Sequence[ChartEntry], taken: ClockTime, longest: dt.timedelta) -> list[ChartEntry]:
    """The newest of each laboratory value that was known then, by name."""
    newest: dict[str, ChartEntry] = {}
    for entry in entries:
        if entry.kind is ChartKind.LAB and entry.value is not None and _was_known(entry, taken):
            since = _since(entry, taken)
            if since is not None and since <= longest:
                # Entries come in order of time, so that the newest overwrites the ones before it.
                newest[entry.name] = entry
    return [newest[name] for name in sorted(newest)]


def _treatments(entries: Sequence[ChartEntry], taken: ClockTime, longest: dt.timedelta) -> list[ChartEntry]:
    """The treatments that were given or planned then, one entry for each name."""
    given: dict[str, ChartEntry] = {}
    for entry in entries:
        if entry.kind is not ChartKind.TREATMENT or not entry.name or not _was_known(entry, taken):
            continue
        end = from_text(entry.ends_at, entry.ends_zone)
        since = _since(entry, taken)
        # An order without an end counts as given for a while only: many systems never say that a treatment has stopped.
        is_over = not end.is_after(taken) if end is not None else since is None or since > longest
        if not is_over:
            given.setdefault(entry.name, entry)
    return [given[name] for name in sorted(given)]


def _was_known(entry: ChartEntry, taken: ClockTime) -> bool:
    begins, known = from_text(entry.begins_at, entry.begins_zone), from_text(entry.known_at, entry.known_zone)
    return begins is not None and known is not None and not begins.is_after(taken) and not known.is_after(taken)


def _since(entry: ChartEntry, taken: ClockTime) -> dt.timedelta | None:
    begins = from_text(entry.begins_at, entry.begins_zone)
    return taken.since(begins) if begins is not None else None


def _lab_text(entry: ChartEntry, unit: str) -> str:
    """Four digits, never as a power of ten: 35000 pg/mL, not 3.5e+04."""
    amount = np.format_float_positional(float(f"{entry.value:.4g}"), trim="-")
    return f"{entry.comparator}{amount} {unit}"


def _person(header: Dataset, day: dt.date) -> list[ChartFact]:
    """Age and sex, and why the film was asked for, as the header says it."""
    born, sex = da(text_of(header, "PatientBirthDate")), text_of(header, "PatientSex").upper()
    facts, years = [], None
    if born and born <= f"{day:%Y%m%d}":
        # A year less where this year's birthday is still to come (True is 1).
        years = day.year - int(born[:4]) - (f"{day:%m%d}" < born[4:])
    if years is not None and years <= MAX_AGE_YEARS:
        facts.append(ChartFact(kind=FactKind.AGE, text=str(years)))
    if sex in ("F", "M"):
        facts.append(ChartFact(kind=FactKind.SEX, text=sex))
    reasons = [
        clean_text(text_of(header, keyword, MAX_INDICATION))
        for keyword in ("ReasonForTheRequestedProcedure", "AdmittingDiagnosesDescription")
    ]
    if reasons := [reason for reason in dict.fromkeys(reasons) if reason]:
        facts.append(ChartFact(kind=FactKind.INDICATION, text="; ".join(reasons)))
    return facts
