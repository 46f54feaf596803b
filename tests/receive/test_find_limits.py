"""C-FIND by the Standard, and within limits: lists, identifiers and audit rows of strangers stay small."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.index.tables.core import AuditEvent
from dicom_node.receive.c_find import MAX_IDENTIFIER_BYTES
from dicom_node.receive.c_find_query import MAX_VALUES, BadKeyError, QueryLevel, _values, find
from tests.support.receiver import RunningNode, radiograph, running_node, send
from tests.support.scripted_peer import IMPLICIT, Peer, command, data_pdus, p_data

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder: Path = tmp_path_factory.mktemp("find")
    with running_node(folder) as running:
        films = [
            radiograph(PatientName="Müller^Jörg", PatientID="find01", StudyDate="20260102"),
            radiograph(PatientName="Doe^Jane", PatientID="FIND01", StudyDate="20260103", Modality="DX"),
        ]
        assert send(running, *films) == [0, 0]
        yield running


def answers(node: RunningNode, **keys: str) -> list[str]:
    identifier = Dataset()
    identifier.PatientID = ""
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    with node.database.read() as session:
        return sorted(str(found.PatientID) for found in find(session, identifier, QueryLevel.STUDY))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ModalitiesInStudy": "*"}, ["FIND01", "find01"]),
        ({"ModalitiesInStudy": "C*"}, ["find01"]),
        ({"ModalitiesInStudy": "DX\\MR"}, ["FIND01"]),
        ({"PatientName": "MÜLLER*"}, ["find01"]),
        ({"PatientName": "müller^jörg"}, ["find01"]),
        ({"PatientID": "find01"}, ["find01"]),
        ({"PatientID": "FIND*"}, ["FIND01"]),
        ({"PatientID": "f[i]nd*"}, []),
        ({"StudyDate": "2026.01.02"}, ["find01"]),
        ({"StudyDate": "2026.01.02-20260103"}, ["FIND01", "find01"]),
    ],
)
def test_keys_match_by_the_standard(node: RunningNode, keys: dict[str, str], expected: list[str]) -> None:
    assert answers(node, **keys) == expected


def test_list_of_many_values_is_refused_before_sql_is_built(node: RunningNode) -> None:
    with pytest.raises(BadKeyError, match="PatientID"):
        answers(node, PatientID="\\".join(f"A{number}*" for number in range(MAX_VALUES + 1)))


@pytest.mark.parametrize("number", ["9" * 25, str(-(2**31) - 1)])
def test_number_that_no_element_holds_is_refused(node: RunningNode, number: str) -> None:
    """SQLite raised at more than 64 bits, and the query ended without an answer."""
    identifier = Dataset()
    identifier.InstanceNumber = number
    with node.database.read() as session, pytest.raises(BadKeyError, match="InstanceNumber"):
        list(find(session, identifier, QueryLevel.IMAGE))


def test_key_with_a_nul_inside_is_one_that_a_database_takes() -> None:
    assert _values("1.2\x003") == ["1.2?3"]
    assert _values(["1.2\0", "\0", None]) == ["1.2"]


def test_long_identifier_is_refused_and_not_audited(node: RunningNode) -> None:
    before = node.count(AuditEvent)
    blob = b"A" * (MAX_IDENTIFIER_BYTES + 2)
    identifier = struct.pack("<HHI", 8, 0x52, 6) + b"STUDY " + struct.pack("<HHI", 9, 0x1001, len(blob)) + blob
    with Peer(node.port) as peer:
        peer.associate([(FIND, [IMPLICIT])])
        peer.send(p_data(1, 3, command({2: FIND, 0x100: 0x20, 0x110: 1, 0x700: 0, 0x800: 1})))
        peer.send(data_pdus(1, identifier))
        assert peer.response().status == 0xC000
    assert node.count(AuditEvent) == before
