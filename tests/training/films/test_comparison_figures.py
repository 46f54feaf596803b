"""Figures beside the model's: either kind of label as a reader for the other."""

from __future__ import annotations

from training.films.comparison_figures import agreement_tables
from training.films.figures import auroc_interval
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth

KEYS = ("pleural_effusion", "atelectasis")


def _truth(number: int, *, effusion: bool) -> PairTruth:
    truth = FindingTruth(key="pleural_effusion", current=ImageTruth(present=effusion))
    return PairTruth(pair_id=str(number), patient_id=f"nih/{number}", findings={truth.key: truth}, has_prior=False)


def _record(number: int, *, effusion: bool) -> Record:
    image = ImageRef(key=f"{number}.webp", image_id=f"{number}.png", study_id=str(number))
    return Record(truth=_truth(number, effusion=effusion), current=image, split=Split.VALIDATE)


def test_labels_read_for_each_other_and_films_without_a_report_are_left_out() -> None:
    marked = [_record(number, effusion=number < 4) for number in range(10)]
    mined = {f"{number}.png": _truth(number, effusion=number in (0, 1, 2, 9)) for number in range(1, 10)}
    reports, radiologists = agreement_tables(marked, mined, KEYS)
    assert len(reports["pleural_effusion"]) == len(radiologists["pleural_effusion"]) == 9
    assert reports["atelectasis"] == []
    # Marked: 1, 2, 3; mentioned: 1, 2, 9. Sensitivity 2/3, specificity 5/6.
    assert abs(auroc_interval(reports["pleural_effusion"]).value - (2 / 3 + 5 / 6) / 2) < 1e-9
    assert ("nih/9", True, 0.0) in radiologists["pleural_effusion"]
