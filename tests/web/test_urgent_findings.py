"""The work list shows at a glance what needs a look within the hour."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from dicom_node.index.tables.core import Result
from tests.support.web_site import running_site


def test_the_work_list_marks_what_the_report_calls_critical(tmp_path: Path) -> None:
    with running_site(tmp_path) as site, site.client("viewer") as client:
        assert "critical: " not in client.get("/").text
        with site.node.database.write() as session:
            result = session.scalars(select(Result).where(Result.is_current)).one()
            first, *rest = result.prediction["findings"]
            findings = [{**first, "rank": "critical", "change": None}, *rest]
            result.prediction = {**result.prediction, "findings": findings}
        text = client.get("/").text
        assert f'<span class="tag critical">critical: {first["name"]}</span>' in text
        assert f"seen: {first['name']}" not in text


def test_the_work_list_says_why_nothing_was_stated(tmp_path: Path) -> None:
    why = "no frontal chest image in the study"
    with running_site(tmp_path) as site, site.client("viewer") as client:
        with site.node.database.write() as session:
            result = session.scalars(select(Result).where(Result.is_current)).one()
            result.reason = why
        assert why not in client.get("/").text, "findings are stated"
        with site.node.database.write() as session:
            result = session.scalars(select(Result).where(Result.is_current)).one()
            result.prediction = {**result.prediction, "findings": []}
        assert f"<small>{why}</small>" in client.get("/").text
