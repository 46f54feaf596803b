"""The index at a hospital's size: prior look-up and insertion of one study, at 10,000 and at 1,000,000 studies.

`make bench-index`, or with the counts of studies as arguments. SQLite on the local disk, PostgreSQL in a cluster of its
own with fsync. Four studies to a patient. Times are of the node's own code: `prior_candidates`, `register_instance`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, text

from dicom_node.dicom.header import InstanceHeader
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.queries import prior_candidates, study_by_uid
from dicom_node.index.tables.core import Instance, Series, Study, StudyState
from dicom_node.storage.instance_store import StoredFile
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import register_instance
from tests.support.postgres import running_postgres

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
STUDIES_PER_PATIENT = 4
BATCH = 5000
ROUNDS = 400
SIZES = (10_000, 1_000_000)
KEY_SPACE = 1000
"""Each filling has primary keys of its own, beyond what was inserted between the fillings."""
CR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1"


def day(number: int) -> str:
    return (dt.date(2015, 1, 1) + dt.timedelta(days=number * 7919 % 4000)).strftime("%Y%m%d")


def study_row(n: int, key: int) -> dict[str, Any]:
    return {
        "id": key,
        "study_instance_uid": f"1.2.3.{n}",
        "patient_id": f"P{n // STUDIES_PER_PATIENT:07}",
        "issuer_of_patient_id": "HOSPITAL",
        "patient_name": f"Name{n // STUDIES_PER_PATIENT}^Given",
        "patient_birth_date": "19600130",
        "patient_sex": "M",
        "accession_number": f"A{n}",
        "study_date": day(n),
        "study_time": "083000.000000",
        "state": StudyState.ANALYSED,
        "first_instance_at": NOW,
        "last_instance_at": NOW,
    }


def series_row(n: int, key: int) -> dict[str, Any]:
    return {
        "id": key,
        "study_pk": key,
        "series_instance_uid": f"1.2.4.{n}",
        "modality": "CR",
        "body_part_examined": "CHEST",
    }


def instance_row(n: int, key: int) -> dict[str, Any]:
    digest = hashlib.sha256(str(n).encode()).hexdigest()
    return {
        "id": key,
        "series_pk": key,
        "sop_instance_uid": f"1.2.5.{n}",
        "sop_class_uid": CR,
        "transfer_syntax_uid": EXPLICIT,
        "path": f"files/{digest[:2]}/{digest[:32]}.dcm",
        "sha256": digest,
        "size_bytes": 8_000_000,
        "received_at": NOW,
        "view_position": "AP",
        "rows": 2000,
        "columns": 2000,
        "acquired_at": f"{day(n)}083000.000000",
    }


def fill(database: Database, first: int, last: int) -> None:
    """Rows of the studies first..last-1, one image each, in batches."""
    for start in range(first, last, BATCH):
        numbers = range(start, min(start + BATCH, last))
        with database.write() as session:
            for table, row in ((Study, study_row), (Series, series_row), (Instance, instance_row)):
                session.execute(insert(table), [row(n, first * KEY_SPACE + n) for n in numbers])
    with database.write() as session:
        session.execute(text("ANALYZE"))
        if not database.is_sqlite:
            for name in ("study", "series", "instance"):
                session.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), {last * KEY_SPACE})"))


def look_up(database: Database, studies: int, rng: random.Random) -> Callable[[], object]:
    uid = f"1.2.3.{rng.randrange(1, studies)}"

    def run() -> object:
        with database.read() as session:
            study = study_by_uid(session, uid)
            assert study is not None
            return prior_candidates(session, study, look_back_days=1826)

    return run


def insertion(database: Database, studies: int, rng: random.Random) -> Callable[[], object]:
    """One study with one image, of a patient who is known."""
    token = rng.getrandbits(90)
    digest = hashlib.sha256(str(token).encode()).hexdigest()
    header = InstanceHeader(
        sop_class_uid=CR,
        sop_instance_uid=f"1.2.9.{token}.3",
        study_instance_uid=f"1.2.9.{token}.1",
        series_instance_uid=f"1.2.9.{token}.2",
        patient_id=f"P{rng.randrange(studies // STUDIES_PER_PATIENT):07}",
        issuer_of_patient_id="HOSPITAL",
        study_date="20260101",
        study_time="083000.000000",
        modality="CR",
        elements=30,
    )
    stored = StoredFile(path=f"files/{digest[:2]}/{digest[:32]}.dcm", sha256=digest, size_bytes=8_000_000)
    received = ReceivedInstance(
        stored=stored,
        header=header,
        sop_class_uid=CR,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT,
    )

    def run() -> object:
        with database.write() as session:
            return register_instance(session, received, now=NOW)

    return run


def percentiles(make: Callable[[], Callable[[], object]]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds of ROUNDS calls, after a tenth as many to warm up."""
    times = []
    for number in range(-ROUNDS // 10, ROUNDS):
        run = make()
        begun = time.perf_counter()
        run()
        if number >= 0:
            times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def measure(name: str, url: str, sizes: list[int]) -> Iterator[str]:
    database = Database(url)
    schema.upgrade(database)
    rng = random.Random(7)
    filled = 1
    for size in sizes:
        begun = time.perf_counter()
        fill(database, filled, size + 1)
        seconds, filled = time.perf_counter() - begun, size + 1
        found = percentiles(partial(look_up, database, size, rng))
        made = percentiles(partial(insertion, database, size, rng))
        yield (
            f"| {name} | {size:,} | {found[0]:.2f} | {found[1]:.2f} | {made[0]:.2f} | {made[1]:.2f} | {seconds:.0f} s |"
        )
    database.close()


def main() -> None:
    """Print a row for each database and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES, help="counts of studies (default 10000 1000000)")
    sizes = parser.parse_args().sizes
    print("| database | studies | look-up median ms | p95 ms | insert median ms | p95 ms | filled in |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for line in measure("SQLite", f"sqlite:///{folder}/index.db", sizes):
            print(line, flush=True)
    with suppress(pytest.skip.Exception), running_postgres(durable=True) as server:
        for line in measure("PostgreSQL 15", server.new_database(), sizes):
            print(line, flush=True)


if __name__ == "__main__":
    main()
