"""Predictions with a known quality, made from the truth: what the metrics are tested on."""

from __future__ import annotations

from dataclasses import replace

from model.schema import Change, Finding, ModelIdentity, Prediction, Presence
from training.records.truth import PairTruth

IDENTITY = ModelIdentity(name="oracle", version="1", device_uid="2.25.1")


def told(truth: PairTruth, *, confidence: float = 1.0) -> Prediction:
    """The truth as a prediction that is `confidence` sure of everything."""
    findings = []
    for key, known in truth.findings.items():
        current = known.current
        assert current is not None
        findings.append(
            Finding(
                key=key,
                presence=Presence.PRESENT if current.present else Presence.ABSENT,
                probability=confidence if current.present else 1 - confidence,
                change=known.change,
                change_probability=None if known.change is None else confidence,
                location=current.side,
                level=current.grade,
            )
        )
    return Prediction(findings=tuple(findings), model=IDENTITY)


def unchanged(prediction: Prediction) -> Prediction:
    """The same model's answers to the same image twice: stable where a finding is present, else none."""
    findings = tuple(
        replace(finding, change=Change.STABLE if finding.presence is Presence.PRESENT else None)
        for finding in prediction.findings
    )
    return replace(prediction, findings=findings)
