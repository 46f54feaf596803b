"""Patient IDs that the site merged (HL7 ADT^A40), from a CSV file: old_id, old_issuer, new_id, new_issuer."""

from __future__ import annotations

import csv
from pathlib import Path

from dicom_node.errors import ConfigurationError
from dicom_node.priors.types import PatientKey

COLUMNS = ("old_id", "old_issuer", "new_id", "new_issuer")


def read_merged(path: Path) -> tuple[tuple[PatientKey, PatientKey], ...]:
    """(old key, the key it was merged into) for each line. Raises ConfigurationError naming file and line.

    The first line names the columns; the issuers may be empty. An ID may be merged once: a second, different target
    would make the person depend on the order of the lines.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigurationError(f"priors.merged_ids: {path}: the first line must name {', '.join(COLUMNS)}")
            merged: dict[PatientKey, PatientKey] = {}
            for row in reader:
                _add(merged, {name: (row[name] or "").strip() for name in COLUMNS}, f"{path}:{reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"priors.merged_ids: {path} cannot be read: {error}") from error
    return tuple(sorted(merged.items()))


def _add(found: dict[PatientKey, PatientKey], row: dict[str, str], where: str) -> None:
    old = PatientKey(patient_id=row["old_id"], issuer=row["old_issuer"])
    new = PatientKey(patient_id=row["new_id"], issuer=row["new_issuer"])
    if not old.patient_id or not new.patient_id:
        raise ConfigurationError(f"priors.merged_ids: {where}: old_id and new_id must both be given")
    if found.setdefault(old, new) != new:
        raise ConfigurationError(f"priors.merged_ids: {where}: this ID is merged into two different ones")
