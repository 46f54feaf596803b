"""Targets of the auxiliary heads from what is known of a record; what is not known is NaN and costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from model.questions.answers import CHANGE_ANSWERS
from training.data.samples import UNKNOWN, Targets
from training.phantom.scene import GRADE_RANGES
from training.records.truth import ImageTruth, PairTruth


class VisibleImages(StrEnum):
    """The images of a record that a sequence shows."""

    PAIR = "pair"
    """Prior and current (and perhaps earlier ones)."""
    CURRENT = "current"
    """The current image alone."""
    PRIOR = "prior"
    """The prior image alone; it then stands in the place of the current one."""


def unknown_targets(findings: Sequence[str]) -> Targets:
    """Nothing is known."""
    count = len(findings)
    present, left, right, severity = (np.full((2, count), np.nan, np.float32) for _ in range(4))
    change = np.full(count, UNKNOWN, np.int64)
    return Targets(present=present, left=left, right=right, severity=severity, change=change)


def targets_of_truth(truth: PairTruth, findings: Sequence[str], shown: VisibleImages) -> Targets:
    """Targets of the heads for the images shown: presence; side of what is present and has one; degree.

    A degree that is known by its grade alone is the middle of the grade's range in the phantom's severities; it is 0
    for what is absent.
    """
    targets = unknown_targets(findings)
    for column, key in enumerate(findings):
        finding = truth.findings.get(key)
        if finding is None:
            continue
        if shown is VisibleImages.PAIR:
            _fill(targets, 0, column, finding.prior)
            _fill(targets, 1, column, finding.current)
            if (answer := finding.change_answer) is not None:
                targets.change[column] = CHANGE_ANSWERS.index(answer)
        else:
            _fill(targets, 1, column, finding.current if shown is VisibleImages.CURRENT else finding.prior)
    return targets


def _fill(targets: Targets, place: int, column: int, image: ImageTruth | None) -> None:
    if image is None:
        return
    targets.present[place, column] = image.present
    if not image.present:
        # Absent is degree 0; unknown stays NaN and is not learnt.
        targets.severity[place, column] = 0.0
        return
    if image.severity is not None:
        targets.severity[place, column] = image.severity
    elif image.grade is not None:
        low, high = GRADE_RANGES[image.grade]
        targets.severity[place, column] = (low + high) / 2
    if image.side is not None:
        targets.left[place, column] = image.side in ("left", "bilateral")
        targets.right[place, column] = image.side in ("right", "bilateral")
