"""For the whole suite: the order of the files, and a watch on the log, which may name no patient (see log_watch)."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.databases import (  # noqa: F401 - fixtures
    database,
    each_index,
    each_index_of_module,
    postgres_template,
)
from tests.support.forked import fork_what_tests_spawn
from tests.support.log_watch import LogWatch, WordSearch, leaks
from tests.support.object_store import s3_server  # noqa: F401 - a fixture
from tests.support.postgres import postgres_server  # noqa: F401 - a fixture
from tests.support.time_zones import berlin  # noqa: F401 - a fixture

LONGEST_FIRST = (
    "tests/retrain/test_story.py",
    "tests/e2e/test_patient_course.py",
    "tests/deliver/test_proof.py",
    "tests/training/recipe/test_recipes.py",
    "tests/backfill/test_run.py",
    "tests/model/test_films_of_people.py",
    "tests/e2e/test_story.py",
    "tests/demo/test_keep.py",
    "tests/retrain/test_kill.py",
    "tests/training/loop/test_train.py",
    "tests/deliver/test_faulty_destination.py",
    "tests/report/sr/test_conformance.py",
    "tests/deploy/test_packages.py",
    "tests/chaos/test_group.py",
    "tests/backfill/test_kill.py",
    "tests/cli/test_bulk_training.py",
    "tests/model/nvila/test_nvila.py",
    "tests/model/prognosis/test_bundled.py",
    "tests/priors/retrieval/test_faults.py",
    "tests/runtime/test_scheduler.py",
    "tests/model/remote/test_remote.py",
    "tests/report/sr/test_studies.py",
    "tests/training/data/test_mixed_source.py",
    "tests/training/loop/test_sharded.py",
    "tests/docs/test_five_minutes.py",
    "tests/retrain/test_families.py",
    "tests/serving/test_batching.py",
    "tests/e2e/test_backfill.py",
    "tests/predict/test_predict.py",
    "tests/e2e/test_fetched_prior.py",
    "tests/serving/test_shadow.py",
    "tests/web/test_browser.py",
    "tests/deploy/test_deploy.py",
    "tests/deliver/test_kill.py",
    "tests/e2e/test_roles.py",
    "tests/e2e/test_restart.py",
    "tests/runtime/test_reload.py",
    "tests/docs/test_first_routing.py",
)
"""Files that take more than a minute, the longest first.

A worker of xdist takes a file whole: a long one that begins last leaves the other workers idle, so `make test` keeps
this order (--no-loadscope-reorder).
"""


def pytest_sessionstart() -> None:
    """Start no interpreter where a fork does."""
    fork_what_tests_spawn()


def pytest_collectstart() -> None:
    """Look for no garbage while tests are collected: what importing makes stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Never look through the libraries and the collected tests for garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.fixture(scope="session", autouse=True)
def log_watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogWatch]:
    """The session's log; a worker of xdist has a session of its own and looks at the end of it."""
    watch = LogWatch(tmp_path_factory.getbasetemp())
    watch.ensure()
    yield watch
    watch.close()
    search = WordSearch(watch.words())
    found = leaks(watch.lines(search.suspects), search)
    assert not found, "patients are named in our logs:\n" + "\n".join(found[:20])


@pytest.fixture(autouse=True)
def _logged_like_a_node(log_watch: LogWatch) -> None:
    log_watch.ensure()
