"""The files of a checkpoint folder: which may be there, their hashes, and a text written in one step."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from model.errors import CheckpointError

MANIFEST_NAME = "manifest.json"
HEADS_FILE = "heads.safetensors"
"""The auxiliary heads beside a checkpoint's weights; serving needs the outline head alone."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""The permitted names of a checkpoint, version or file: never a path."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack")
_CODE = (".py", ".pyc", ".so")
_BLOCK = 1 << 20


class FileEntry(BaseModel):
    """One file of the folder: SHA-256 in hexadecimal and size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """Every file below the folder by its POSIX path there, but the manifest itself."""
    files = []
    # The Hub's cache keeps each file once and links to it (models--…/snapshots/COMMIT → models--…/blobs).
    blobs = folder.resolve().parents[1] / "blobs" if folder.resolve().parent.name == "snapshots" else None
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and (blobs is None or path.resolve().parent != blobs):
            raise CheckpointError(f"{folder}: {name} is a link; a checkpoint holds plain files")
        if "__pycache__" in path.parts:
            continue
        if path.is_file() and name not in (MANIFEST_NAME, f"{MANIFEST_NAME}.tmp"):
            files.append((name, path))
    return files


def refuse_unsafe(folder: Path, name: str) -> None:
    if name.lower().endswith(_PICKLED):
        raise CheckpointError(f"{folder}: {name} may hold pickled objects; weights must be safetensors")
    if name.lower().endswith(_CODE):
        raise CheckpointError(f"{folder}: {name} is code; a checkpoint holds none")


def refuse_unsafe_files(folder: Path) -> None:
    """Raise CheckpointError where the folder holds code, pickles, or links that lead out of it."""
    for name, _ in files_of(folder):
        refuse_unsafe(folder, name)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    entries = {}
    for name, path in files_of(folder):
        refuse_unsafe(folder, name)
        entries[name] = FileEntry(sha256=sha256_of(path), size=path.stat().st_size)
    return entries


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_text_atomically(path: Path, text: str) -> None:
    """Temporary file, fsync, rename, fsync of the folder: a reader sees the old text or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
