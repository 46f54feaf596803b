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
    images = [*record.earlier, *([record.prior] if record.prior is not None else []), record.current]
    row: dict[str, Any] = {
        "id": truth.pair_id,
        "patient": truth.patient_id,
        "split": record.split.value,
        "images": [[i.key, i.image_id, i.study_id, i.view, i.when] for i in images],
        "prior": record.prior is not None,
        "views": [truth.view, truth.prior_view],
        "findings": {
            key: [_image(t.current), _image(t.prior), t.change.value if t.change else None]
            for key, t in truth.findings.items()
        },
    }
    optional: dict[str, Any] = {
        "proxy": truth.proxy,
        "facts": dict(truth.facts),
        "asked": [[a.type.value, a.question, a.answer] for a in record.asked],
        "context": _context(record.context),
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
            findings={
                key: FindingTruth(
                    key=key, current=_truth(now), prior=_truth(before), change=Change(change) if change else None
                )
                for key, (now, before, change) in row["findings"].items()
            },
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
        context=PatientContext(**row["context"]) if row.get("context") else None,
        split=Split(row["split"]),
    )


def _image(truth: ImageTruth | None) -> list[Any] | None:
    return None if truth is None else [truth.present, truth.side, truth.grade]


def _truth(values: Sequence[Any] | None) -> ImageTruth | None:
    return None if values is None else ImageTruth(present=values[0], side=values[1], grade=values[2])


def _context(context: PatientContext | None) -> dict[str, Any] | None:
    if context is None:
        return None
    values = {"age_years": context.age_years, "sex": context.sex, "indication": context.indication}
    kept: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return kept | ({"labs": dict(context.labs)} if context.labs else {})
