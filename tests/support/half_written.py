"""Files of a receiver that are being written, or were left so."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dicom_node.storage.instance_store import final_name


def half_written(data: Path) -> list[Path]:
    """Find those without a name, and those under a reserved name that have no lasting one yet, below a folder."""
    found = list(data.rglob("*.part"))
    for path in data.rglob("*.reserved"):
        with suppress(FileNotFoundError):  # its name was given back between the two looks
            if path.stat().st_size and not (path.parents[2] / final_name(path.stem)).exists():
                found.append(path)
    return found
