"""A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, on a free loopback port.

Use: import the fixture `postgres_server` in a conftest (with `# noqa: F401`), then `postgres_server.new_database()`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.support.common import free_port, program

ACCOUNT = "postgres"
"""PostgreSQL refuses to run as root; as root it runs as this account (made by the Debian package)."""
_FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")


@dataclass(slots=True, kw_only=True)
class PostgresServer:
    """A running server; trusts every local client."""

    port: int
    restart: Callable[[], None]
    """End it as a crash does and start it again; only what was started as durable keeps its last commits."""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{ACCOUNT}@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, template: str = "template1") -> str:
        """Make a database, empty or a copy of `template`, to which nobody is connected; returns its SQLAlchemy URL."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        with psycopg.connect(host="127.0.0.1", port=self.port, user=ACCOUNT, dbname="postgres", autocommit=True) as db:
            db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)


@contextmanager
def running_postgres(*, durable: bool = False, options: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """Start a server and stop it at the end. durable: with fsync, as a hospital runs it (benchmarks); else fast."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    initdb = program("initdb", *map(str, reversed(folders)))
    control = program("pg_ctl", *map(str, reversed(folders)))
    # Not pytest's tmp_path: that is below a folder which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="dicom-node-pg-"))
    prefix: tuple[str, ...] = ()
    if os.getuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        os.chown(folder, account.pw_uid, account.pw_gid)
        prefix = (program("runuser"), "-u", ACCOUNT, "--")
    data, port = str(folder / "data"), free_port()

    def run(*command: str) -> None:
        subprocess.run((*prefix, *command), check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    try:
        run(initdb, "-D", data, "-A", "trust", "-U", ACCOUNT, "-E", "UTF8", "--locale=C", "--no-sync")
        settings = ("-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}")
        arguments = (*settings, *(() if durable else _FAST), *options)

        def start() -> None:
            run(control, "-D", data, "-w", "-t", "60", "-l", str(folder / "log"), "-o", " ".join(arguments), "start")

        def stop() -> None:
            run(control, "-D", data, "-w", "-m", "immediate", "stop")

        def restart() -> None:
            stop()
            start()

        start()
        try:
            yield PostgresServer(port=port, restart=restart)
        finally:
            stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests of this process."""
    with running_postgres() as server:
        yield server
