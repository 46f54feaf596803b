"""A Record as one compact JSON row and back, nothing lost: what the index of a data set keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model.questions.battery import QuestionType
from model.schema import Change, PatientContext
from training.records.record import Asked, ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth


def record_to_row(record: Record) -> dict[str, Any]:
    """The record as JSON values; images oldest first."""
    truth = record.truth
    row: dict[str, Any] = {
        "id": truth.pair_id,
        "patient": truth.patient_id,
        "split": record.split.value,
        "images": [[i.key, i.image_id, i.study_id, i.view, i.when] for i in record.images],
        "prior": record.prior is not None,
        "views": [truth.view, truth.prior_view],
        "findings": _findings(truth),
    }
    optional: dict[str, Any] = {
        "proxy": truth.proxy,
        "facts": dict(truth.facts),
        "asked": [[a.type.value, a.question, a.answer] for a in record.asked],
        "context": _context(record.context),
        "future": _future(record.future),
    }
    return row | {name: value for name, value in optional.items() if value}


def row_to_record(row: Mapping[str, Any]) -> Record:
    """The inverse of `record_to_row`; raises KeyError, TypeError or ValueError for anything else."""
    images = [ImageRef(key=k, image_id=i, study_id=s, view=v, when=w) for k, i, s, v, w in row["images"]]
    has_prior = bool(row["prior"])
    return Record(
        truth=PairTruth(
            pair_id=row["id"],
            patient_id=row["patient"],
            findings=_truths(row["findings"]),
            has_prior=has_prior,
            view=row["views"][0],
            prior_view=row["views"][1],
            proxy=bool(row.get("proxy", False)),
            facts=row.get("facts", {}),
        ),
        current=images[-1],
        prior=images[-2] if has_prior else None,
        earlier=tuple(images[:-2]) if has_prior else (),
        asked=tuple(Asked(type=QuestionType(t), question=q, answer=a) for t, q, a in row.get("asked", ())),
        context=_patient_context(row["context"]) if row.get("context") else None,
        future=_future_truth(row["future"], row["patient"]) if row.get("future") else None,
        split=Split(row["split"]),
    )


def _image(truth: ImageTruth | None) -> list[Any] | None:
    if truth is None:
        return None
    exact = [] if truth.severity is None else [truth.severity]
    return [truth.present, truth.side, truth.grade, *exact]


def _truth(values: Sequence[Any] | None) -> ImageTruth | None:
    if values is None:
        return None
    severity = values[3] if len(values) > 3 else None
    return ImageTruth(present=values[0], side=values[1], grade=values[2], severity=severity)


def _findings(truth: PairTruth) -> dict[str, Any]:
    return {
        key: [_image(t.current), _image(t.prior), t.change.value if t.change else None]
        for key, t in truth.findings.items()
    }


def _truths(rows: Mapping[str, Sequence[Any]]) -> dict[str, FindingTruth]:
    return {
        key: FindingTruth(key=key, current=_truth(now), prior=_truth(before), change=Change(change) if change else None)
        for key, (now, before, change) in rows.items()
    }


def _future(truth: PairTruth | None) -> dict[str, Any] | None:
    if truth is None:
        return None
    return {
        "id": truth.pair_id,
        "views": [truth.view, truth.prior_view],
        "findings": _findings(truth),
        "proxy": truth.proxy,
        "facts": dict(truth.facts),
    }


def _future_truth(row: Mapping[str, Any], patient: str) -> PairTruth:
    return PairTruth(
        pair_id=row["id"],
        patient_id=patient,
        findings=_truths(row["findings"]),
        view=row["views"][0],
        prior_view=row["views"][1],
        proxy=row["proxy"],
        facts=row["facts"],
    )


def _context(context: PatientContext | None) -> dict[str, Any] | None:
    if context is None:
        return None
    values = {"age_years": context.age_years, "sex": context.sex, "indication": context.indication}
    kept: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    kept |= {"labs": dict(context.labs)} if context.labs else {}
    return kept | ({"treatments": list(context.treatments)} if context.treatments else {})


def _patient_context(values: Mapping[str, Any]) -> PatientContext:
    return PatientContext(**{**values, "treatments": tuple(values.get("treatments", ()))})
