"""Audit messages and counters of what comes in: one message for each study and association, alerts for strangers."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from sqlalchemy import select

from dicom_node.index.tables.core import AuditEvent, Tally
from dicom_node.receive import audit_trail as auditing
from dicom_node.receive.upper_layer.access_rules import ALERTS
from tests.support.audit_schema import faults
from tests.support.authority import authority, issued
from tests.support.common import wait_until
from tests.support.receiver import RunningNode, echo, radiograph, running_node, send
from tests.support.scripted_peer import Peer

BEGIN, TRANSFERRED, QUERY, ALERT = "110102", "110104", "110112", "110113"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def messages(node: RunningNode, event_id: str) -> list[ET.Element]:
    with node.database.read() as session:
        wanted = select(AuditEvent.message).where(AuditEvent.event_id == event_id).order_by(AuditEvent.id)
        texts = list(session.scalars(wanted))
    assert [fault for text in texts for fault in faults(text)] == [], "by the Standard's schema"
    return [ET.fromstring(text) for text in texts]


def attribute(message: ET.Element, path: str, name: str) -> str:
    found = message.find(path)
    assert found is not None, path
    return found.attrib[name]


def study_of(message: ET.Element) -> str:
    return attribute(message, "ParticipantObjectIdentification", "ParticipantObjectID")


def counts(node: RunningNode) -> dict[tuple[str, str], int]:
    with node.database.read() as session:
        return {(row.name, row.label): row.value for row in session.scalars(select(Tally))}


def alert_texts(node: RunningNode) -> list[str]:
    values = [attribute(m, ".//ParticipantObjectDetail", "value") for m in messages(node, ALERT)]
    return [base64.b64decode(value).decode() for value in values]


def test_one_begin_and_one_transferred_for_each_study_and_association(tmp_path: Path) -> None:
    first, second = generate_uid(), generate_uid()
    films = [radiograph(StudyInstanceUID=uid) for uid in (first, first, second)]
    with running_node(tmp_path, audit={"site": "St. Vitus"}) as node:
        assert send(node, *films, films[0]) == [0, 0, 0, 0]
        wait_until(lambda: len(messages(node, TRANSFERRED)) == 2, what="the closing messages")
        assert [study_of(message) for message in messages(node, BEGIN)] == [first, second]
        closing = messages(node, TRANSFERRED)
        assert [study_of(message) for message in closing] == [first, second]
        assert [attribute(m, ".//SOPClass", "NumberOfInstances") for m in closing] == ["3", "1"], (
            "the one sent twice counts twice"
        )
        assert [attribute(m, "EventIdentification", "EventActionCode") for m in closing] == ["C", "C"]
        sender, we = closing[0].findall("ActiveParticipant")
        assert (sender.attrib["UserID"], sender.attrib["NetworkAccessPointID"]) == ("TESTSCU", "127.0.0.1")
        assert [attribute(one, "RoleIDCode", "csd-code") for one in (sender, we)] == ["110153", "110152"]
        assert [one.text for one in closing[0].iter("ParticipantObjectName")] == [None, "Doe^Jane"]
        assert send(node, films[0]) == [0]
        wait_until(lambda: len(messages(node, TRANSFERRED)) == 3, what="the second association's message")
        again = messages(node, TRANSFERRED)[-1]
        assert attribute(again, "EventIdentification", "EventActionCode") == "R", "we held it already"
    assert counts(node) == {(auditing.RECEIVED, "new"): 3, (auditing.RECEIVED, "held already"): 2}


def test_what_is_refused_is_counted_and_is_no_transfer(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        assert send(node, radiograph(StudyInstanceUID="not.a.uid")) == [0xC001]
        assert messages(node, BEGIN) == []
    assert messages(node, TRANSFERRED) == []
    assert counts(node) == {(auditing.INSTANCE_REFUSED, "C001"): 1}


def test_an_association_that_is_cut_off_is_audited_as_far_as_it_came(tmp_path: Path) -> None:
    film = radiograph()
    with running_node(tmp_path) as node:
        ae = AE(ae_title="TESTSCU")
        ae.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", node.port, ae_title="LUMEN")
        assert int(association.send_c_store(film).Status) == 0
        assert [study_of(message) for message in messages(node, BEGIN)] == [film.StudyInstanceUID]
        association.abort()
        wait_until(lambda: len(messages(node, TRANSFERRED)) == 1, what="the closing message")


def test_a_query_is_kept_as_it_was_asked(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        ae = AE(ae_title="CURIOUS")
        ae.add_requested_context(STUDY_ROOT_FIND, "1.2.840.10008.1.2")
        association = ae.associate("127.0.0.1", node.port, ae_title="LUMEN")
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.PatientID = "STUDY", "P-4711"
        assert [status.Status for status, _ in association.send_c_find(asked, STUDY_ROOT_FIND)] == [0]
        association.release()
        (message,) = messages(node, QUERY)
    assert study_of(message) == STUDY_ROOT_FIND
    identifier = base64.b64decode(message.find(".//ParticipantObjectQuery").text)  # type: ignore[union-attr,arg-type]
    assert b"P-4711" in identifier
    syntax = attribute(message, ".//ParticipantObjectDetail", "value")
    assert base64.b64decode(syntax) == b"1.2.840.10008.1.2"
    assert attribute(message, "ActiveParticipant", "UserID") == "CURIOUS"


def test_strangers_are_security_alerts_and_a_thousand_knocks_are_few_rows(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    own = issued(tmp_path, ca, "node")
    tls = {"port": 0, "certificate": own.certificate, "key": own.key, "client_certificate": "none"}
    access = {"calling_ae_titles": ["KNOWN"], "addresses": ["127.0.0.0/30"]}
    with running_node(tmp_path / "node", tls=tls, access=access) as node:
        assert echo(node.port, calling="KNOWN") == 0
        assert echo(node.port, calling="STRANGER") is None
        assert echo(node.port, calling="KNOWN", called="SOMEONE") is None
        with Peer(node.receiver.tls_port) as plain:
            plain.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
            assert plain.is_closed()
        for _ in range(200):
            with Peer(node.port, source="127.0.0.9") as peer:
                assert peer.is_closed()
        whys = {"calling AE title not recognised", "called AE title not recognised", "TLS refused"}
        wanted = {(auditing.ASSOCIATION_REFUSED, why): 1 for why in whys}
        wanted |= {(auditing.ASSOCIATION_REFUSED, "address not allowed"): 200}
        wait_until(lambda: counts(node) == wanted, what="the refusals to be counted")
        texts = alert_texts(node)
        for alert in messages(node, ALERT):
            reporting, performing = alert.findall("ActiveParticipant")
            assert reporting.attrib["AlternativeUserID"] == "AETITLES=LUMEN"
            assert performing.attrib["UserIsRequestor"] == "false", "table A.5.3.11-1"
        assert {text.split(":")[0] for text in texts} == ALERTS
        knocks = [text for text in texts if text.startswith("address not allowed")]
        assert sum(int(text.split()[-2]) for text in knocks) == 200
        assert len(knocks) < 50, "written every few seconds, not for every knock"
        nodes = {study_of(message) for message in messages(node, ALERT)}
        assert nodes == {"127.0.0.1", "127.0.0.9"}


@pytest.mark.parametrize("first_words", [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x01x"])
def test_a_port_scanner_is_counted_and_no_alert(tmp_path: Path, first_words: bytes) -> None:
    with running_node(tmp_path) as node, Peer(node.port) as peer:
        peer.send(first_words)
        assert peer.is_closed()
    assert counts(node) == {(auditing.ASSOCIATION_REFUSED, "no association request"): 1}
    assert messages(node, ALERT) == []


def test_a_name_with_control_characters_still_makes_readable_xml(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        assert send(node, radiograph(PatientName="Do\x1be^J\x07ane", AccessionNumber="A<&>1")) == [0]
        wait_until(lambda: len(messages(node, TRANSFERRED)) == 1, what="the closing message")
        assert attribute(messages(node, BEGIN)[0], ".//Accession", "Number") == "A<&>1"
