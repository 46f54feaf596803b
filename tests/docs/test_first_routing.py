"""docs/tutorials/first-routing.md as it stands: its configuration and its Orthanc rule, with real programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from dicom_node.index.tables.core import Instance
from tests.support.common import REPOSITORY
from tests.support.dcmtk import storescu
from tests.support.node import Node, new_node, running
from tests.support.orthanc import running_orthanc
from training.phantom.dicom import write_study_pair

PAGE = REPOSITORY / "docs" / "tutorials" / "first-routing.md"


def snippet(name: str) -> str:
    """The code block that follows the marker `<!-- test: NAME -->`."""
    text = PAGE.read_text("utf-8")
    block = re.search(rf"<!-- test: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert block, f"{PAGE.name} has no snippet {name!r}"
    return block[1]


def configured(node: Node, archive_port: int) -> None:
    """Write the page's configuration with this test's ports and a shorter quiet time."""
    text = snippet("node configuration").replace("port = 11112", f'port = {node.port}\nhost = "127.0.0.1"')
    text = text.replace("port = 4242", f"port = {archive_port}").replace("quiet_seconds = 60", "quiet_seconds = 0.5")
    node.config.write_text(text + "\n[web]\nenabled = false\n", "utf-8")


@pytest.mark.timeout(1800)
def test_the_page_routes_a_study_and_brings_its_reports_back(tmp_path: Path) -> None:
    rule = tmp_path / "route-to-lumen.lua"
    rule.write_text(snippet("orthanc rule"), "utf-8")
    node = new_node(tmp_path / "node")
    options: dict[str, Any] = {
        "modalities": {"LUMEN": ("127.0.0.1", node.port)},
        "dicomweb": False,
        "LuaScripts": [str(rule)],
    }
    with running_orthanc(tmp_path / "orthanc", **options) as orthanc:
        configured(node, orthanc.dicom_port)
        made = write_study_pair(tmp_path / "films", 5, long_side=384)
        with running(node):
            storescu([*made.prior.files, *made.current.files], orthanc.dicom_port, ae_title="ORTHANC")
            node.wait_for_results(2)
            for study in (made.prior, made.current):
                assert len(orthanc.instances(StudyInstanceUID=study.study_instance_uid, Modality="SR")) == 2
            with node.database() as database, database.read() as session:
                received = session.scalar(select(func.count()).select_from(Instance))
            assert received == 2, "the rule routes images only: no report came back to the node"
