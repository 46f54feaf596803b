"""Values of retraining: errors, folders, the items of a snapshot, and the protocol of a run's messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dicom_node.config import RetrainSection
from dicom_node.context import NodeContext
from dicom_node.errors import NodeError
from dicom_node.index.tables.retrain import RetrainSplit

SPLIT_FILES = {split: f"{split.value}.jsonl" for split in RetrainSplit}
"""In a snapshot's folder: one site export for each split."""
MANIFEST_FILE = "manifest.json"


class RetrainError(NodeError):
    """A retraining cannot be done; the message says what is missing or wrong, and what serves goes on serving."""


class RetrainStopped(RetrainError):
    """It was asked to stop; what was done is kept, and the next `dicom-node retrain` goes on."""


class Talk(Protocol):
    """The messages of a run to its caller."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        ...

    def confirm(self, question: str) -> bool | None:
        """Ask; None where nobody is there to answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where things lie below the retraining folder."""

    root: Path

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def lock(self) -> Path:
        return self.root / "retrain.lock"


def folders_of(node: NodeContext) -> Folders:
    """The configured folder, or "retrain" in the data folder."""
    section: RetrainSection = node.settings.retrain
    return Folders(root=section.folder or node.settings.node.data_dir / "retrain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A stored image as the index knows it. path: of the file. sha256: of its data set."""

    sop_instance_uid: str
    study_instance_uid: str
    sha256: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One labelled image with the prior that service compared it with. line: of the site export, whole.

    findings: (finding, aspect, settled value) that it teaches. sources: of the words. label_version: their SHA-256.
    """

    split: RetrainSplit
    patient: str
    current: Film
    prior: Film | None
    label_version: str
    sources: tuple[str, ...]
    findings: tuple[tuple[str, str, str], ...]
    line: str

    def as_json(self) -> dict[str, Any]:
        """For the manifest: identifiers, hashes and versions, no clinical content."""
        prior = self.prior
        return {
            "split": self.split.value,
            "patient": self.patient,
            "study": self.current.study_instance_uid,
            "image": self.current.sop_instance_uid,
            "sha256": self.current.sha256,
            "prior_study": prior.study_instance_uid if prior else "",
            "prior_image": prior.sop_instance_uid if prior else "",
            "prior_sha256": prior.sha256 if prior else "",
            "label_version": self.label_version,
            "label_sources": list(self.sources),
        }


@dataclass(slots=True, kw_only=True)
class Contents:
    """The contents of a possible snapshot, and what was left out and why. patients: split → number."""

    items: list[Item] = field(default_factory=list)
    new_patients: dict[str, RetrainSplit] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, which: str) -> None:
        """Count one image that is left out; `which` is its UID."""
        self.left_out[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < 5:
            named.append(which)

    def patients(self, *splits: RetrainSplit) -> int:
        """The number of people in these splits."""
        return len({item.patient for item in self.items if item.split in splits})

    def of(self, split: RetrainSplit) -> list[Item]:
        """The items of one split, in order."""
        return [item for item in self.items if item.split is split]

    def counts(self) -> dict[str, Any]:
        """Images, patients, findings, changes and sources, by split where that matters."""
        findings: dict[str, Counter[str]] = {}
        changes: Counter[str] = Counter()
        sources: Counter[str] = Counter()
        for item in self.items:
            sources.update(item.sources)
            for finding, aspect, value in item.findings:
                if aspect == "presence":
                    findings.setdefault(finding, Counter())[value] += 1
                elif aspect == "change":
                    changes[value] += 1
        return {
            "images": {split.value: len(self.of(split)) for split in RetrainSplit},
            "pairs": sum(item.prior is not None for item in self.items),
            "patients": {split.value: self.patients(split) for split in RetrainSplit},
            "findings": {key: dict(sorted(count.items())) for key, count in sorted(findings.items())},
            "changes": dict(sorted(changes.items())),
            "sources": dict(sorted(sources.items())),
            "left_out": dict(self.left_out),
        }
