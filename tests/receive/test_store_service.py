"""C-ECHO and C-STORE against a real receiver: statuses, bytes, rows, and what stays on the disk."""

from __future__ import annotations

import pytest

from dicom_node.index.tables import Study
from tests.receive.node import RunningNode, echo, radiograph, running_node, send


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


def test_echo(node: RunningNode) -> None:
    assert echo(node.port) == 0x0000


def test_a_stored_instance_is_a_file_and_a_row(node: RunningNode) -> None:
    data_set = radiograph(PatientName="山田^太郎=やまだ^たろう")
    assert send(node, data_set) == [0x0000]
    row = node.instances()[-1]
    assert row.sop_instance_uid == data_set.SOPInstanceUID
    assert node.store.meta(row.path).sop_instance_uid == data_set.SOPInstanceUID
    assert (row.rows, row.columns, row.view_position, row.acquired_at) == (8, 8, "PA", "20260102101213.500000")
    with node.database.read() as session:
        assert session.query(Study).order_by(Study.id.desc()).first().patient_name == "山田^太郎=やまだ^たろう"
