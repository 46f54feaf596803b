"""Labels of published sets turned into truths: which label means which finding, and what two images' labels say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from model.ontology import ontology
from model.schema import Change
from training.records.truth import FindingTruth, ImageTruth

Known = Mapping[str, bool]
"""Ontology key → present; a key that is missing is not known."""

_UNSPECIFIC = frozenset({"Support Devices"})
"""Labels that no single finding of the ontology means: some device is there, not which."""

VIEWS: Mapping[str, str] = {
    "AP": "AP",
    "PA": "PA",
    "ANTERO-POSTERIOR": "AP",
    "POSTERO-ANTERIOR": "PA",
}
"""View words of the published tables → ours; every other view is not frontal."""

CHEXPERT_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)


@cache
def chexpert_keys() -> Mapping[str, str]:
    """CheXpert label → ontology key, without the unspecific ones."""
    concepts = ontology().findings.values()
    return {c.chexpert: c.key for c in concepts if c.chexpert is not None and c.chexpert not in _UNSPECIFIC}


@cache
def nih_keys() -> Mapping[str, str]:
    """ChestX-ray14 label → ontology key."""
    return {concept.nih: concept.key for concept in ontology().findings.values() if concept.nih is not None}


def frontal_view(word: str) -> str | None:
    """ "AP" or "PA"; None for lateral and unknown views."""
    return VIEWS.get(word.strip().upper())


def chexpert_known(values: Mapping[str, str]) -> dict[str, bool]:
    """CheXpert columns → what is known: 1 present, 0 absent, −1 and blank not known.

    "No Finding" = 1 makes every finding of the label set absent unless its own column says otherwise.
    """
    known: dict[str, bool] = {}
    if _number(values.get("No Finding", "")) == 1:
        known = dict.fromkeys(chexpert_keys().values(), False)
    for label, key in chexpert_keys().items():
        value = _number(values.get(label, ""))
        if value in (0, 1):
            known[key] = value == 1
        # Uncertain beats "No Finding": the report spoke of it.
        elif value == -1:
            known.pop(key, None)
    return known


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def single_findings(known: Known) -> dict[str, FindingTruth]:
    """Truths of one image, in ontology order."""
    return {
        key: FindingTruth(key=key, current=ImageTruth(present=known[key]))
        for key in ontology().findings
        if key in known
    }


def pair_findings(current: Known, prior: Known) -> dict[str, FindingTruth]:
    """Truths of a pair from the labels of its two images.

    A finding that is on one of them only is new or resolved; on both, its change is not known: per-image labels say
    nothing of degree.
    """
    result = {}
    for key in ontology().findings:
        now, before = current.get(key), prior.get(key)
        if now is None and before is None:
            continue
        # Not labelled on one image is unknown, not absent.
        change = None
        if now is not None and before is not None and now != before:
            change = Change.NEW if now else Change.RESOLVED
        result[key] = FindingTruth(
            key=key,
            current=None if now is None else ImageTruth(present=now),
            prior=None if before is None else ImageTruth(present=before),
            change=change,
        )
    return result
