"""For the whole suite: no line that our code logs at INFO and above may name a patient (see log_watch)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import (  # noqa: F401 - fixtures
    database,
    each_index,
    each_index_of_module,
    postgres_template,
    sqlite_template,
)
from tests.support.log_watch import LogWatch, leaks
from tests.support.object_store import s3_server  # noqa: F401 - a fixture
from tests.support.postgres import postgres_server  # noqa: F401 - a fixture


@pytest.fixture(scope="session", autouse=True)
def log_watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogWatch]:
    """The session's log; a worker of xdist has a session of its own and looks at the end of it."""
    watch = LogWatch(tmp_path_factory.getbasetemp())
    watch.ensure()
    yield watch
    watch.close()
    found = leaks(watch.lines(), watch.words())
    assert not found, "patients are named in our logs:\n" + "\n".join(found[:20])


@pytest.fixture(autouse=True)
def _logged_like_a_node(log_watch: LogWatch) -> None:
    log_watch.ensure()
