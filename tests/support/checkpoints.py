"""Checkpoints for tests of the models' life: some that are never loaded, tiny ones that answer, broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dicom_node.config import ModelSection, NodeSection, Settings
from dicom_node.context import NodeContext
from dicom_node.index.database import Database
from dicom_node.storage.folder_store import FolderStore
from model.checkpoints.files import MANIFEST_NAME
from model.checkpoints.registry import Manifest, read_manifest, write_manifest
from tests.support.databases import add_tables


def paper_checkpoint(folder: Path, *, seed: int = 0, findings: tuple[str, ...] = ("edema",)) -> Manifest:
    """A folder that passes verification, and that nobody loads."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.full(4, seed, np.float32)}, folder / "model.safetensors")
    return write_manifest(folder, name="paper", version=folder.name, kind="nvila", findings=findings)


def tiny_checkpoint(folder: Path, *, seed: int) -> Manifest:
    """A tiny random model that answers."""
    from tests.support.tiny_nvila import save_tiny  # torch: seconds that most tests here need not wait

    save_tiny(folder, seed=seed, manifest={"version": folder.name}, layers=2)
    return read_manifest(folder)


def broken_checkpoint(folder: Path) -> Manifest:
    """Verified byte by byte, and yet its weights fit no model: only loading it tells."""
    from tests.support.tiny_nvila import save_tiny

    save_tiny(folder, seed=9, layers=2)
    (folder / MANIFEST_NAME).unlink()
    save_file({"weight": np.zeros(4, np.float32)}, folder / "model.safetensors")
    return write_manifest(folder, name="tiny", version="broken", kind="nvila", findings=("edema",))


@contextmanager
def open_context(folder: Path, *, migrate: bool = True, **model: object) -> Iterator[NodeContext]:
    """A node's context over the SQLite index in `folder`, made where `migrate` says so; `model`: values of [model]."""
    database = Database(f"sqlite:///{folder}/index.db")
    if migrate:
        add_tables(database)
    section = ModelSection.model_validate(model)
    settings = Settings(node=NodeSection(data_dir=folder), model=section)
    try:
        yield NodeContext(settings=settings, database=database, store=FolderStore(folder / "instances"))
    finally:
        database.close()
