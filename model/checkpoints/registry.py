"""The checkpoints and the one that serves: a folder of checkpoints and one pointer to the champion.

The pointer is a small file that is replaced in one rename, so a node that reads it while a retraining promotes sees
the old champion or the new one. It keeps the order of promotions, which is what `rollback` goes back along.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model.checkpoints.files import MANIFEST_NAME, PLAIN_NAME, FileEntry, write_text_atomically
from model.checkpoints.manifest import CheckpointKind, Manifest, read_manifest, rewrite_manifest, write_manifest
from model.errors import CheckpointError, UnknownCheckpointError

CHAMPION_NAME = "champion.json"
DEMO = "demo"
"""The source that means the bundled demonstration checkpoint."""


class Promotion(BaseModel):
    """One entry of the pointer's history: folder name, when (aware UTC), by whom and why.

    promoted: of a withdrawn one, the entry that it had in the history, so that no promotion is ever forgotten.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    at: dt.datetime
    who: str = ""
    reason: str = ""
    promoted: Promotion | None = None


class ChampionPointer(BaseModel):
    """The champion is the last of `history`; a rollback drops it and keeps it in `withdrawn`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history: tuple[Promotion, ...] = ()
    withdrawn: tuple[Promotion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One folder of the models directory; `manifest` is None where it is refused, and `problem` says why."""

    folder: Path
    champion: bool
    manifest: Manifest | None = None
    problem: str = ""


def list_models(directory: str | Path) -> tuple[ModelEntry, ...]:
    """Every checkpoint folder by name, refused ones included; files are not hashed (that takes long), `show` does."""
    directory = Path(directory)
    if not directory.is_dir():
        return ()
    champion = champion_folder(directory)
    return tuple(
        _entry(folder, champion=folder == champion, verify=False)
        for folder in sorted(directory.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    )


def show_model(directory: str | Path, name: str) -> ModelEntry:
    """One checkpoint, fully verified; raises CheckpointError for a name that is not there."""
    folder = _folder(Path(directory), name)
    return _entry(folder, champion=folder == champion_folder(directory), verify=True)


def champion_folder(directory: str | Path) -> Path | None:
    """The folder that serves, or None where nothing was promoted yet. Raises CheckpointError for a broken pointer."""
    pointer = read_pointer(directory)
    return Path(directory) / pointer.history[-1].folder if pointer.history else None


def resolve_source(source: str | Path) -> str | Path:
    """The folder or Hub id that a source names: the bundled folder, a champion's folder, or the text as it stands."""
    if source == DEMO:
        with resources.as_file(resources.files("model").joinpath("demo")) as folder:
            if not (folder / MANIFEST_NAME).is_file():
                raise CheckpointError("the bundled demonstration checkpoint is not in this installation")
            return folder
    folder = Path(source)
    # Perhaps a Hub id; whether there is one by this name shows when it is opened.
    if not folder.is_dir():
        return str(source)
    if (folder / CHAMPION_NAME).is_file():
        champion = champion_folder(folder)
        if champion is None:
            raise CheckpointError(f"{folder}: no checkpoint was promoted here")
        return champion
    return folder


def read_pointer(directory: str | Path) -> ChampionPointer:
    """The pointer with its history; empty where there is none."""
    path = Path(directory) / CHAMPION_NAME
    if not path.is_file():
        return ChampionPointer()
    try:
        pointer = ChampionPointer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: not a champion pointer: {error}") from error
    # Names become paths: a pointer that was written by hand must not lead out of the folder.
    for promotion in (*pointer.history, *pointer.withdrawn):
        if not PLAIN_NAME.fullmatch(promotion.folder):
            raise CheckpointError(f"{path}: {promotion.folder!r} is not a plain folder name")
    return pointer


def promote(directory: str | Path, name: str, *, at: dt.datetime, who: str = "", reason: str = "") -> Manifest:
    """Make a checkpoint the champion. Raises CheckpointError where it does not pass verification."""
    directory = Path(directory)
    # Verified before the lock is taken: hashing gigabytes must not keep a rollback waiting.
    manifest = read_manifest(_folder(directory, name))
    with _lock(directory):
        # Read again under the lock, for the history holds what others have promoted meanwhile.
        pointer = read_pointer(directory)
        if pointer.history and pointer.history[-1].folder == name:
            return manifest
        entry = Promotion(folder=name, at=_aware(at), who=who, reason=reason)
        _write_pointer(directory, pointer.model_copy(update={"history": (*pointer.history, entry)}))
    return manifest


def rollback(directory: str | Path, *, at: dt.datetime, who: str = "", reason: str = "") -> Manifest | None:
    """Go back to the champion before this one; None where that was the bundled model (nothing promoted before).

    Raises CheckpointError where nothing was ever promoted, or where the earlier champion does not pass verification:
    then the pointer stays as it is.
    """
    directory = Path(directory)
    with _lock(directory):
        pointer = read_pointer(directory)
        if not pointer.history:
            raise CheckpointError(f"{directory}: nothing was promoted, so there is nothing to roll back")
        *earlier, last = pointer.history
        # Here under the lock: which one is the earlier champion must not change until the pointer is written.
        manifest = read_manifest(_folder(directory, earlier[-1].folder)) if earlier else None
        withdrawal = Promotion(folder=last.folder, at=_aware(at), who=who, reason=reason, promoted=last)
        _write_pointer(directory, ChampionPointer(history=tuple(earlier), withdrawn=(*pointer.withdrawn, withdrawal)))
    return manifest


def _entry(folder: Path, *, champion: bool, verify: bool) -> ModelEntry:
    try:
        return ModelEntry(folder=folder, champion=champion, manifest=read_manifest(folder, verify=verify))
    except CheckpointError as error:
        return ModelEntry(folder=folder, champion=champion, problem=str(error))


def _folder(directory: Path, name: str) -> Path:
    if not PLAIN_NAME.fullmatch(name):
        raise UnknownCheckpointError(f"{name!r} is not a plain checkpoint name; {_known_names(directory)}")
    if not (directory / name).is_dir():
        raise UnknownCheckpointError(f"{directory} holds no checkpoint {name!r}; {_known_names(directory)}")
    return directory / name


def _known_names(directory: Path) -> str:
    known = [entry.folder.name for entry in list_models(directory)]
    return f"there are: {', '.join(known) or 'none'}"


def _aware(moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        raise ValueError("a promotion needs an aware time")
    return moment.astimezone(dt.UTC)


def _write_pointer(directory: Path, pointer: ChampionPointer) -> None:
    write_text_atomically(directory / CHAMPION_NAME, pointer.model_dump_json(indent=2) + "\n")


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """One writer at a time; the lock is the kernel's and ends with the process."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".champion.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


__all__ = [
    "CHAMPION_NAME",
    "DEMO",
    "MANIFEST_NAME",
    "ChampionPointer",
    "CheckpointKind",
    "FileEntry",
    "Manifest",
    "ModelEntry",
    "Promotion",
    "champion_folder",
    "list_models",
    "promote",
    "read_manifest",
    "read_pointer",
    "resolve_source",
    "rewrite_manifest",
    "rollback",
    "show_model",
    "write_manifest",
]
