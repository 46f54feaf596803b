"""Strangers may store, and nothing else: they swap no image, withdraw none, teach nothing and confirm no delivery."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.config import Destination, QueryPeer, ReceivePeer
from dicom_node.context import utc_now
from dicom_node.index.tables.core import ExpectedRetrieval, QuarantineReason, Study
from dicom_node.index.tables.reports import ReceivedReport
from dicom_node.receive.upper_layer.access_rules import Rules
from tests.support.chain import encoded, rejection
from tests.support.receiver import CR, RunningNode, radiograph, running_node, send
from tests.support.scripted_peer import EXPLICIT, Peer

pytestmark = pytest.mark.usefixtures("each_index")

ARCHIVE = QueryPeer(name="archive", ae_title="ARCHIVE", host="127.0.0.1")
ARCHIVE_AT = "127.0.0.1"
STRANGER_AT = "127.66.6.6"
SR = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path, query=[ARCHIVE], destinations=[Destination(name="pacs", ae_title="PACS")]) as running:
        yield running


def store(
    node: RunningNode, data_set: Dataset, *, calling: str = "STRANGER", source: str = STRANGER_AT, **more: str
) -> int:
    with Peer(node.port, source=source) as peer:
        peer.associate([(str(data_set.SOPClassUID), [EXPLICIT])], calling=calling)
        uid = str(data_set.SOPInstanceUID)
        return peer.store(1, str(data_set.SOPClassUID), uid, encoded(data_set), **more).status


def fetch_is_open(node: RunningNode, film: Dataset) -> None:
    until = utc_now() + dt.timedelta(minutes=5)
    with node.database.write() as session:
        session.add(
            ExpectedRetrieval(study_instance_uid=film.StudyInstanceUID, calling_ae_title=ARCHIVE.ae_title, until=until)
        )


def purpose(node: RunningNode, film: Dataset) -> str:
    with node.database.read() as session:
        found = session.query(Study).filter(Study.study_instance_uid == film.StudyInstanceUID).one()
        return str(found.purpose)


def other_content(film: Dataset, **elements: object) -> Dataset:
    uids = {name: film[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**{**uids, "PixelData": bytes(128), **elements})


def stored(node: RunningNode, film: Dataset) -> bytes:
    (row,) = [row for row in node.instances() if row.sop_instance_uid == film.SOPInstanceUID]
    return node.store.read_data_set(row.path)


def test_object_that_names_this_node_as_originator_is_routed_all_the_same(node: RunningNode) -> None:
    film = radiograph()
    assert store(node, film, move_originator="LUMEN") == 0
    assert purpose(node, film) == "routed"


def test_later_object_under_an_acknowledged_uid_is_quarantined_whatever_the_originator_says(node: RunningNode) -> None:
    film = radiograph()
    assert store(node, film, calling="MODALITY", source=ARCHIVE_AT) == 0
    assert store(node, other_content(film), move_originator="LUMEN") == 0xC002
    assert stored(node, film) == encoded(film)
    assert [row.reason for row in node.quarantined()] == [QuarantineReason.CONFLICT]


def test_forged_film_that_comes_first_does_not_swallow_the_true_one(node: RunningNode) -> None:
    film = radiograph()
    assert store(node, other_content(film), move_originator="LUMEN") == 0
    assert store(node, film, calling="MODALITY", source=ARCHIVE_AT) == 0xC002, "never Success without keeping it"
    (kept,) = node.quarantined()
    assert node.store.read_data_set(kept.path) == encoded(film)


@pytest.mark.parametrize(
    ("calling", "source", "expected"),
    [("ARCHIVE", ARCHIVE_AT, "prior"), ("NODE2", ARCHIVE_AT, "prior"), ("ARCHIVE", STRANGER_AT, "routed")],
)
def test_fetched_object_is_a_prior_only_from_the_archives_address(
    node: RunningNode, calling: str, source: str, expected: str
) -> None:
    film = radiograph()
    fetch_is_open(node, film)
    assert store(node, film, calling=calling, source=source, move_originator="LUMEN") == 0
    assert purpose(node, film) == expected


@pytest.mark.parametrize(("calling", "source", "status"), [("PACS", ARCHIVE_AT, 0), ("STRANGER", STRANGER_AT, 0xC002)])
def test_fetched_rendition_is_replaced_by_a_named_peer_only(
    node: RunningNode, calling: str, source: str, status: int
) -> None:
    film = radiograph()
    fetch_is_open(node, film)
    assert store(node, film, calling="ARCHIVE", source=ARCHIVE_AT, move_originator="LUMEN") == 0
    better = other_content(film)
    assert store(node, better, calling=calling, source=source) == status
    assert stored(node, film) == encoded(better if status == 0 else film)
    assert len(node.files()) == (1 if status == 0 else 2)


@pytest.mark.parametrize("patient", ["P1", ""])
def test_rejection_note_of_a_stranger_withdraws_nothing(node: RunningNode, patient: str) -> None:
    film = radiograph()
    assert send(node, film) == [0]
    assert store(node, rejection(film, PatientID=patient)) == 0x0124
    assert [row.reason for row in node.quarantined()] == [QuarantineReason.NOT_ALLOWED]


@pytest.mark.parametrize(("patient", "status"), [("P1", 0), ("", 0xC003), ("P2", 0xC003)])
def test_rejection_note_of_the_archive_acts_for_its_patient_only(node: RunningNode, patient: str, status: int) -> None:
    film = radiograph()
    assert send(node, film) == [0]
    assert store(node, rejection(film, PatientID=patient), calling="PACS", source=ARCHIVE_AT) == status


def test_strangers_claim_on_a_uid_puts_nothing_in_doubt(node: RunningNode) -> None:
    film = radiograph()
    assert send(node, film) == [0]
    claim = other_content(film, PatientID="EVIL", PatientBirthDate="19010101", StudyInstanceUID=generate_uid())
    assert store(node, claim) == 0xC002
    assert [row.reason for row in node.quarantined()] == [QuarantineReason.CLAIM]


@pytest.mark.parametrize(("calling", "source", "reports"), [("STRANGER", STRANGER_AT, 0), ("PACS", ARCHIVE_AT, 1)])
def test_report_teaches_only_from_a_named_peer(node: RunningNode, calling: str, source: str, reports: int) -> None:
    report = radiograph(SOPClassUID=SR, Modality="SR", VerificationFlag="VERIFIED", PixelData=None)
    assert store(node, report, calling=calling, source=source) == 0
    assert node.count(ReceivedReport) == reports


def test_roles_of_a_peer_are_what_its_table_says(tmp_path: Path) -> None:
    peers = [
        ReceivePeer(ae_title="RIS", store=False, report=True),
        ReceivePeer(ae_title="CR1", query=False, commit=False, addresses=(ipaddress.ip_network("10.0.0.0/8"),)),
    ]
    with running_node(tmp_path, receive={"peers": peers, "unnamed_query": False}) as node:
        rules = Rules(node.settings)
        ris, modality, other = (rules.of(title, "10.1.1.1") for title in ("RIS", "CR1", "OTHER"))
        assert (ris.store, ris.report, ris.reject, ris.is_named) == (False, True, False, True)
        assert (modality.store, modality.query, modality.commit) == (True, False, False)
        assert (other.store, other.query, other.reject, other.report, other.is_named) == (
            True,
            False,
            False,
            False,
            False,
        )
        assert rules.rejection(called="LUMEN", calling="CR1", address="127.0.0.1") is not None
        assert CR in other.sop_classes


@pytest.mark.parametrize(
    ("calling", "source", "counts"),
    [("PACS", ARCHIVE_AT, True), ("STRANGER", ARCHIVE_AT, False), ("PACS", STRANGER_AT, False)],
)
def test_commitment_report_counts_only_from_the_destination(
    node: RunningNode, calling: str, source: str, counts: bool
) -> None:
    known = Rules(node.settings).known
    assert known.is_destination("pacs", ae_title=calling, address=source) is counts
    assert not known.is_destination("other", ae_title=calling, address=source)
