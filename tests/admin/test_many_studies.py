"""Thousands of studies: the work list answers at once whatever it is narrowed to, and so does the plan of retention."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import insert

from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
    Instance,
    Outcome,
    Result,
    Series,
    Study,
    StudyState,
)
from dicom_node.retention import removal as retention
from tests.support.delivery_node import START
from tests.support.web_site import Site, running_site

STUDIES = 4000
SECONDS = 5.0
"""Of the processor. A tenth of a second is usual. A look at every delivery for each study took fifteen."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("many")
    rules = {"keep_days": 1, "keep_as_prior_days": 0}
    with running_site(folder, {"name": "pacs", "port": 1}, with_study=False, retention=rules) as site:
        fill(site)
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    with site.client("viewer") as client:
        yield client


def fill(site: Site) -> None:
    """Analysed studies with one image and one proven document each, newest last."""
    numbers = range(1, STUDIES + 1)
    at = {number: START - dt.timedelta(days=9, minutes=STUDIES - number) for number in numbers}
    tables: dict[type[object], list[dict[str, object]]] = {
        Study: [
            {
                **{"id": n, "study_instance_uid": f"1.2.3.{n}", "patient_name": f"Family{n}^Given"},
                **{"patient_id": f"P{n}", "issuer_of_patient_id": "", "study_date": f"{at[n]:%Y%m%d}"},
                **{"first_instance_at": at[n], "last_instance_at": at[n], "state": StudyState.ANALYSED},
            }
            for n in numbers
        ],
        Series: [{"id": n, "study_pk": n, "series_instance_uid": f"1.2.4.{n}"} for n in numbers],
        Instance: [
            {
                **{"series_pk": n, "sop_instance_uid": f"1.2.5.{n}", "sop_class_uid": "1", "transfer_syntax_uid": "1"},
                **{"path": f"files/00/{n:032x}.dcm", "sha256": "", "size_bytes": 1, "received_at": at[n]},
            }
            for n in numbers
        ],
        Result: [
            {
                **{"id": n, "study_pk": n, "revision": 1, "sop_instance_uid": f"1.2.5.{n}", "created_at": at[n]},
                **{"outcome": Outcome.COMPARED, "prediction": {"findings": []}},
            }
            for n in numbers
        ],
        Document: [
            {
                **{"id": n, "result_pk": n, "kind": "machine", "sop_instance_uid": f"1.2.6.{n}", "sop_class_uid": "1"},
                **{"series_instance_uid": "1", "path": "", "sha256": ""},
            }
            for n in numbers
        ],
        Delivery: [
            {
                **{"document_pk": n, "destination": "pacs", "created_at": at[n], "updated_at": at[n]},
                "state": DeliveryState.CONFIRMED if n > 1 else DeliveryState.STORED,
            }
            for n in numbers
        ],
    }
    with site.node.database.write() as session:
        for table, rows in tables.items():
            session.execute(insert(table), rows)


@pytest.mark.parametrize(
    ("query", "total", "first"),
    [
        ("", STUDIES, STUDIES),
        (f"?offset={STUDIES - 50}", STUDIES, 50),
        ("?q=Family77", 11, 779),  # 77 and 770 to 779
        ("?q=nobody", 0, None),
        ("?delivery=confirmed", STUDIES - 1, STUDIES),
        ("?delivery=confirmed&outcome=compared&state=analysed", STUDIES - 1, STUDIES),
        ("?delivery=stored", 1, 1),
    ],
)
def test_the_work_list_answers_at_once(client: httpx.Client, query: str, total: int, first: int | None) -> None:
    began = time.process_time()  # of the server's threads too: they are of this process
    values = client.get(f"/api/studies{query}").json()
    assert client.get(f"/{query}").status_code == 200
    assert time.process_time() - began < SECONDS
    assert values["total"] == total
    assert len(values["studies"]) == min(values["total"], 50)
    if first is not None:
        assert values["studies"][0]["study_instance_uid"] == f"1.2.3.{first}"


def test_paging_shows_every_study_once(client: httpx.Client) -> None:
    seen: list[str] = []
    while len(seen) < STUDIES:
        page = client.get(f"/api/studies?limit=500&offset={len(seen)}").json()["studies"]
        assert page
        seen += [line["study_instance_uid"] for line in page]
    assert len(set(seen)) == STUDIES


def test_retention_plans_and_removes_at_once(site: Site) -> None:
    began = time.process_time()  # of the server's threads too: they are of this process
    plan = retention.plan_now(site.node)
    assert len(plan) == STUDIES - 1, "all but the one that is not proven"
    assert retention.carry_out(site.node, plan[:20]) == 20
    assert time.process_time() - began < SECONDS
