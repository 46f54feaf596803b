"""Identity and reading rules of checkpoints that this project did not make, and of a checkpoint with an expert."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from model.checkpoints.files import sha256_of
from model.checkpoints.manifest import CheckpointKind, Manifest
from model.derived_uids import uid_of_digest
from model.questions.battery import QuestionType
from model.schema import ModelIdentity

FOREIGN_TYPES = tuple(
    kind.value
    for kind in (
        QuestionType.PRESENCE,
        QuestionType.PRIOR_PRESENCE,
        QuestionType.CHANGE,
        QuestionType.SIDE,
        QuestionType.GRADE,
        QuestionType.DIFFERENCE,
    )
)
"""The question types for a checkpoint without a manifest of this project."""


def device_uid_of(manifest: Manifest, expert: str | None) -> str:
    """The manifest's own, or one that depends on the expert too: its weights are part of what answers (IHE AIR 1.2).

    expert: fingerprint of its files; None without one.
    """
    if expert is None:
        return manifest.device_uid
    digest = hashlib.sha256(f"{manifest.device_uid} {expert}".encode()).digest()
    return uid_of_digest(digest)


def identity_of(manifest: Manifest, expert: str | None) -> ModelIdentity:
    """The identity of a checkpoint that answers by this manifest. expert: as for `device_uid_of`."""
    return ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        device_uid=device_uid_of(manifest, expert),
        demonstration=manifest.demonstration,
        licence=manifest.licence,
        images=manifest.images,
        context=manifest.context,
    )


def foreign_manifest(
    source: str | Path, resolved: str | Path, revision: str | None, kind: CheckpointKind, findings: Sequence[str]
) -> Manifest:
    """Reading rules of a checkpoint that is not ours: no calibration, no thresholds, an identity from its bytes."""
    parts = [str(source), revision or ""]
    # Source and revision name a Hub checkpoint; a folder has no revision, so its bytes speak.
    if isinstance(resolved, Path):
        parts += [f"{path.name} {sha256_of(path)}" for path in sorted(resolved.rglob("*")) if path.is_file()]
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    name = "".join(character if character.isalnum() else "-" for character in Path(str(source)).name).strip("-")
    return Manifest(
        name=name or "model",
        version=(revision or digest.hex())[:12],
        kind=kind,
        files={},
        findings=tuple(findings),
        question_types=FOREIGN_TYPES,
        device_uid=uid_of_digest(digest),
        base=str(source),
    )
