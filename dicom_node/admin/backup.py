"""Backup of index and files while the node runs, and their return: nothing that was acknowledged is lost by either.

The index is copied first and the files after it. So every file that the copy names is there, unless retention removed
it meanwhile, and newer files come along without a row: the receiver indexes them at its next start. A second backup
into the same folder copies only what is new, or has another length or time: instances never change, secrets do.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import make_url, text

from dicom_node.config import Settings
from dicom_node.errors import NodeError, UsageError
from dicom_node.index.database import Database
from dicom_node.logs import get_logger
from dicom_node.storage.spool import fsync_folder

log = get_logger(__name__)

INDEX: Final = "index.db"
DUMP: Final = "index.dump"
FOLDERS: Final = ("instances/files", "instances/quarantine", "documents", "models")
SECRETS: Final = ("web-secret",)
_PAGES_AT_ONCE: Final = 1000
_SAME_TIME_SECONDS: Final = 2.0
"""Some file systems keep the time of a file to two seconds only."""
_OTHERS: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)
Watch = Callable[[str, Iterable[Path], int], Iterable[Path]]
"""Gives files on and shows how far it is: (stage in words, files, how many)."""


def _watch_nothing(what: str, files: Iterable[Path], count: int) -> Iterable[Path]:
    return files


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """The outcome of a backup or a restore."""

    copied: int
    there: int
    """Files that were there already."""
    bytes: int


def back_up(settings: Settings, target: Path, *, watch: Watch = _watch_nothing) -> Copied:
    """Copy index, instances, documents and models into a folder. Raises NodeError saying what failed."""
    data = settings.node.data_dir
    if target.resolve() == data.resolve() or data.resolve() in target.resolve().parents:
        raise UsageError(f"{target}: a backup lies outside of node.data_dir ({data})")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{target}: no folder for a backup can be made there: {error.strerror}") from error
    try:
        # The index before the files: what arrives meanwhile is a file without a row, which a restore indexes; the other
        # way round would be a row without a file.
        if settings.database.url.startswith("sqlite"):
            _copy_sqlite(_sqlite_file(settings), target / INDEX)
        else:
            _run_postgresql("pg_dump", settings, ["--format=custom", f"--file={target / DUMP}.part"])
            # By rename: a dump that was cut off never bears the name of a whole one.
            (target / f"{DUMP}.part").replace(target / DUMP)
        return _copy_all(data, target, "backing up", watch, is_there=_is_same)
    except (OSError, sqlite3.Error) as error:
        raise NodeError(f"the backup is not complete: {error}; run the command again and it continues") from error


def restore(settings: Settings, source: Path, *, now: dt.datetime, watch: Watch = _watch_nothing) -> Copied:
    """Bring a backup back into an installation that is stopped. Files that are there stay; an index is set aside.

    So is a file of another length than in the backup, such as one that a damaged disk cut off.

    An older index over newer files is no loss: the receiver indexes at its start what the index does not name. Raises
    UsageError where the folder is no backup, NodeError saying what failed.
    """
    is_sqlite = settings.database.url.startswith("sqlite")
    saved = source / (INDEX if is_sqlite else DUMP)
    if not saved.is_file():
        raise UsageError(f"{source}: no backup of this kind of index ({saved.name} is missing)")
    data = settings.node.data_dir
    try:
        data.mkdir(parents=True, exist_ok=True)
        aside = data / f"files.before-{now:%Y%m%dT%H%M%S}"
        # Files first, for the same reason as in a backup: an index must not name what is not there yet.
        copied = _copy_all(source, data, "restoring", watch, is_there=_has_same_length, aside=aside)
        if is_sqlite:
            _replace_sqlite(saved, _sqlite_file(settings), now)
        else:
            _replace_postgresql(saved, settings, data / f"index.before-{now:%Y%m%dT%H%M%S}.dump")
    except (OSError, sqlite3.Error) as error:
        raise NodeError(f"the restore is not complete: {error}; run the command again and it continues") from error
    return copied


def _sqlite_file(settings: Settings) -> Path:
    return Path(make_url(settings.database.url).database or "")


def _copy_sqlite(source: Path, target: Path) -> None:
    """A consistent copy while others write (sqlite3's backup): a copy of the file alone lacks what is in its WAL."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    if not source.is_file():
        raise OSError(f"{source}: no such file")
    with sqlite3.connect(source) as live, sqlite3.connect(part) as copy:
        live.backup(copy, pages=_PAGES_AT_ONCE)
    live.close()
    copy.close()
    with sqlite3.connect(part) as copy:
        if (verdict := copy.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"the copy of the index is damaged: {verdict}")
    copy.close()
    _name_durably(part, target)


def _replace_sqlite(saved: Path, target: Path, now: dt.datetime) -> None:
    part = target.with_name(f"{target.name}.restored")
    shutil.copyfile(saved, part)
    aside = f"{target.name}.before-{now:%Y%m%dT%H%M%S}"
    if target.exists():
        # A second name, not another one: a kill must not leave a node without an index, which would begin a new one.
        os.link(target, target.with_name(aside))
    for suffix in ("-wal", "-shm"):
        old = target.with_name(target.name + suffix)
        if old.exists():
            old.rename(target.with_name(f"{aside}{suffix}"))
    _name_durably(part, target)


def _replace_postgresql(saved: Path, settings: Settings, aside: Path) -> None:
    """Set what is there aside and bring the saved index back in one transaction: a kill leaves the one or the other."""
    _require_alone(settings)
    _run_postgresql("pg_dump", settings, ["--format=custom", f"--file={aside}"])
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction"]
    _run_postgresql("pg_restore", settings, [*options, str(saved)])


def _require_alone(settings: Settings) -> None:
    """Raise UsageError while somebody else is connected to the database: another node would write into both."""
    database = Database(settings.database.url)
    try:
        with database.connection() as connection:
            others = connection.scalar(text(_OTHERS))
    finally:
        database.close()
    if others:
        raise UsageError(f"{others} connections to the index are open; stop all nodes and tools that use it first")


def _copy_all(
    source: Path,
    target: Path,
    what: str,
    watch: Watch,
    *,
    is_there: Callable[[Path, Path], bool],
    aside: Path | None = None,
) -> Copied:
    """Copy what `is_there` does not find in the target; `aside`: where a file goes whose place another one takes."""
    copied = skipped = size = 0
    files = list(_files(source))
    for relative in watch(what, files, len(files)):
        destination = target / relative
        if destination.is_file() and is_there(source / relative, destination):
            skipped += 1
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        part = destination.with_name(f"{destination.name}.part")
        try:
            shutil.copy2(source / relative, part)
        except FileNotFoundError:
            continue  # retention removed it since it was listed
        if aside is not None and destination.is_file():
            (aside / relative).parent.mkdir(parents=True, exist_ok=True)
            destination.rename(aside / relative)
        length = part.stat().st_size
        _name_durably(part, destination)
        copied, size = copied + 1, size + length
    return Copied(copied=copied, there=skipped, bytes=size)


def _is_same(source: Path, copy: Path) -> bool:
    """Tell by length and time whether a copy is of this file as it is now."""
    original, copied = source.stat(), copy.stat()
    return original.st_size == copied.st_size and abs(original.st_mtime - copied.st_mtime) <= _SAME_TIME_SECONDS


def _has_same_length(source: Path, there: Path) -> bool:
    return source.stat().st_size == there.stat().st_size


def _files(root: Path) -> Iterator[Path]:
    """Everything that a backup holds beside the index, relative to the root."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix != ".part":
                yield path.relative_to(root)
    yield from (Path(name) for name in SECRETS if (root / name).is_file())


def _name_durably(part: Path, target: Path) -> None:
    """Give a written file its name once its bytes are on the disk."""
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(target)
    fsync_folder(target.parent)


def _run_postgresql(program: str, settings: Settings, arguments: list[str]) -> None:
    """Run one of PostgreSQL's programs against the index. Raises NodeError with its words."""
    url = make_url(settings.database.url)
    # In the environment, because arguments are there for every user of the machine to read.
    environment = {**os.environ, "PGPASSWORD": url.password or ""}
    where: list[tuple[str, Callable[[], str | int | None]]] = [
        ("--host", lambda: url.host),
        ("--port", lambda: url.port),
        ("--username", lambda: url.username),
        ("--dbname", lambda: url.database),
    ]
    command = [program, *(f"{name}={value()}" for name, value in where if value()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError as error:
        raise NodeError(f"{program} is not installed here; it comes with PostgreSQL's client programs") from error
    if done.returncode:
        raise NodeError(f"{program}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
