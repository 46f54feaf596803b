"""The summary before a training begins: the data, what is missing, the expected time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.config import RetrainSection
from dicom_node.index.tables.retrain import RetrainSplit
from dicom_node.retrain.types import Contents

_SIDE = (RetrainSplit.TRAIN, RetrainSplit.VALIDATE)


def describe(contents: Contents) -> list[str]:
    """Counts by split, finding, change and source, and everything that was left out."""
    counts = contents.counts()
    patients, images = counts["patients"], counts["images"]
    lines = [
        f"labelled: {sum(images.values())} images of {sum(patients.values())} patients, "
        f"{counts['pairs']} compared with a prior",
        *(
            f"  {split.value}: {images[split.value]} images of {patients[split.value]} patients"
            for split in RetrainSplit
        ),
    ]
    for key, counted in counts["findings"].items():
        lines.append(f"  {key}: {counted.get('present', 0)} present, {counted.get('absent', 0)} absent")
    for title, counted in (("changes", counts["changes"]), ("sources", counts["sources"])):
        listed = ", ".join(f"{name} {number}" for name, number in counted.items())
        lines.append(f"  {title}: {listed or 'none'}")
    for reason, number in contents.left_out.items():
        named = ", ".join(contents.examples.get(reason, [])[:3])
        lines.append(f"  left out {number}: {reason}" + (f" (for example {named})" if named else ""))
    return lines


def missing(contents: Contents, section: RetrainSection) -> list[str]:
    """Why nothing is trained yet; empty where nothing is missing."""
    lines = []
    side = contents.patients(*_SIDE)
    if side < section.min_patients:
        lines.append(
            f"{section.min_patients} patients with labels are needed on the training side, there are {side}: "
            f"{section.min_patients - side} more ([retrain] min_patients)"
        )
    frozen = contents.patients(RetrainSplit.FROZEN)
    if frozen < section.frozen_patients:
        lines.append(
            f"{section.frozen_patients} patients are needed to compare models on, there are {frozen}: "
            f"{section.frozen_patients - frozen} more ([retrain] frozen_patients; {section.frozen_share:.0%} of new "
            "patients go there until then)"
        )
    if not lines and not contents.of(RetrainSplit.TRAIN):
        lines.append("no labelled image is left to train on")
    return lines


def rare(contents: Contents, findings: Sequence[str], fewest: int) -> list[str]:
    """Findings of the model that the gate cannot judge by themselves: too few frozen cases of an answer."""
    seen: dict[str, dict[str, int]] = {key: {"present": 0, "absent": 0} for key in findings}
    for item in contents.of(RetrainSplit.FROZEN):
        for finding, aspect, value in item.findings:
            if aspect == "presence" and finding in seen:
                seen[finding][value] += 1
    few = [f"{key} {answer} ({n})" for key, both in seen.items() for answer, n in both.items() if n < fewest]
    if not few:
        return []
    return [f"too few in the frozen set to judge by themselves (fewer than {fewest}): {', '.join(few)}"]


def duration(*, steps: int, step_seconds: float, pairs: int, pair_seconds: float) -> str:
    """The expected time of a run, from what was measured."""
    training, asking = steps * step_seconds, pairs * pair_seconds
    return (
        f"it will take about {_spoken(training + asking)}: {steps} steps of {step_seconds:.2f} s, "
        f"{pairs} pairs of {pair_seconds:.2f} s (measured just now at this load)"
    )


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
