"""HL7 v2 ORU^R01 over MLLP: acknowledged when durable, matched and read; corrected, cancelled, hostile messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.context import NodeContext
from dicom_node.errors import ConfigurationError
from dicom_node.feedback.reports.hl7_listener import Hl7Listener
from dicom_node.feedback.reports.hl7_message import Hl7Error, acknowledgement, envelope, reports_of
from dicom_node.index.tables.reports import ReportState
from tests.support.delivery_node import START, Clock
from tests.support.reporting import (
    STUDY,
    MllpPeer,
    add_study,
    oru,
    read_reports,
    receive,
    report_sr,
    reporting_node,
    reports,
    words,
)


@contextmanager
def listening(folder: Path, **hl7: Any) -> Iterator[tuple[NodeContext, Clock, int]]:
    with reporting_node(folder, hl7={"enabled": True, "port": 0, **hl7}) as (node, clock):
        add_study(node)
        listener = Hl7Listener(node)
        listener.start()
        try:
            yield node, clock, listener.port
        finally:
            listener.stop()


def test_report_is_acknowledged_and_read(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        assert peer.ask(oru()) == "MSA|AA|MSG1|"
        (report,) = reports(node)  # durable with the acknowledgement
        assert (report.state, report.study_instance_uid) == (ReportState.PENDING, STUDY)
        assert read_reports(node) == 1
        assert reports(node)[0].author == "Curie^Marie"
        assert words(node)["pleural_effusion", "change"] == ("new", "correct", "worsening")
        assert peer.ask(oru()) == "MSA|AA|MSG1|"  # sent again: nothing is added
        assert len(reports(node)) == 1


def test_matched_by_accession_number_and_patient(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        peer.ask(oru(study_uid=""))
        peer.ask(oru("No edema.", study_uid="", patient_id="OTHER", control="MSG2", filler="FILL-2"))
        read_reports(node)
        assert [row.state for row in reports(node)] == [ReportState.USED, ReportState.UNMATCHED]


def test_corrected_message_takes_the_earlier_back(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        peer.ask(oru("Right pneumothorax. Mild edema.", status="P", at="20260301230000"))
        peer.ask(oru("Right pneumothorax. Mild edema.", at="20260301230500"))
        read_reports(node)
        assert words(node)["pneumothorax", "presence"] == ("absent", "correct", "present")
        peer.ask(oru("No pneumothorax.", status="C", at="20260302080000", control="MSG3"))
        read_reports(node)
        assert words(node) == {("pneumothorax", "presence"): ("absent", "agree", "")}
        assert [row.state for row in reports(node)] == [ReportState.REFUSED, ReportState.SUPERSEDED, ReportState.USED]


def test_cancelled_report_is_withdrawn(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        peer.ask(oru())
        read_reports(node)
        assert words(node)
        assert peer.ask(oru("", status="X", at="20260302080000", control="MSG2")) == "MSA|AA|MSG2|"
        read_reports(node)
        assert not words(node)


def test_same_report_by_both_ways_counts_once(tmp_path: Path) -> None:
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        receive(node, report_sr("Right pneumothorax."))
        read_reports(node)
        before = words(node)
        # the SR's text stands under the heading of its item, the message's does not
        peer.ask(oru("Right pneumothorax."))
        read_reports(node)
        assert words(node) == before
        assert ReportState.DUPLICATE in {row.state for row in reports(node)}


def test_headings_and_escapes(tmp_path: Path) -> None:
    text = "INDICATION: rule out pneumothorax\nFINDINGS: Left effusion \\T\\ mild edema.\\.br\\IMPRESSION: No fracture."
    (values,) = reports_of(oru(text).encode(), charset="utf-8")
    assert "Left effusion & mild edema.\nIMPRESSION: No fracture." in values["text"]
    assert values["accession_numbers"] == ["ACC-55019", "FILL-1", "PLACE-1"]
    assert values["patient_ids"] == [["PID-77120", "HOSP"]]


@pytest.mark.parametrize(("charset", "encoding"), [("8859/1", "iso-8859-1"), ("UNICODE UTF-8", "utf-8"), ("", "utf-8")])
def test_character_sets(charset: str, encoding: str) -> None:
    (values,) = reports_of(oru("Größe unverändert.", charset=charset).encode(encoding), charset="utf-8")
    assert "Größe unverändert." in values["text"]


@pytest.mark.parametrize(
    ("message", "code", "why"),
    [
        (oru(kind="ADT^A01^ADT_A01"), "AR", "ADT"),
        (oru(charset="KLINGON"), "AE", "KLINGON"),
        (oru(text=""), "AE", "no text"),
        ("PID|1||X\r", "AR", "MSH"),
        (b"MSH\rA|^~\\&|", "AR", "MSH"),
        (b"MSHPID|1||X\r", "AR", "MSH"),
        (b"MSH\0|^~\\&|A", "AR", "MSH"),
        ("\r".join(line for line in oru().split("\r") if not line.startswith("PID")), "AE", "PID"),
        (oru().replace("|P|2.5.1", "|T|2.5.1"), "AR", "trials"),
        (oru("Größe.").encode("iso-8859-1"), "AE", "MSH-18"),
        (oru("x" + "^" * 60_000), "AR", "fields"),
    ],
)
def test_what_is_not_taken_is_said_why(tmp_path: Path, message: str | bytes, code: str, why: str) -> None:
    with listening(tmp_path) as (node, _clock, port), MllpPeer(port) as peer:
        answer = peer.ask(message)
        assert answer.startswith(f"MSA|{code}|")
        assert why in answer
        assert not reports(node)
        assert peer.ask(oru()).startswith("MSA|AA|")  # and the connection goes on


def test_unframed_oversize_and_slow_peers_are_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path / "wrong", max_message_kib=4) as (node, _clock, port):
        with MllpPeer(port) as peer:
            peer.send(b"GET / HTTP/1.1\r\n\r\n", framed=False)
            assert peer.answer() == ""
        with MllpPeer(port) as peer:
            peer.send(b"\x0b" + b"x" * 20_000, framed=False)
            assert "MSA|AR|" in peer.answer()
            assert peer.answer() == ""
        assert not reports(node)
    with listening(tmp_path / "slow", message_seconds=0.3, idle_seconds=0.3) as (node, _clock, port):
        with MllpPeer(port) as peer:
            peer.send(b"\x0bMSH|^~\\&|", framed=False)  # and no more
            assert peer.answer() == ""
        with MllpPeer(port) as peer:
            assert peer.answer() == ""  # says nothing at all
        assert not reports(node)


def test_only_allowed_addresses_may_connect(tmp_path: Path) -> None:
    with (
        listening(tmp_path / "a", addresses=["192.0.2.0/24"]) as (_node, _clock, port),
        MllpPeer(port) as peer,
    ):
        assert peer.answer() == ""


def test_longest_idle_connection_gives_way_where_there_are_too_many(tmp_path: Path) -> None:
    """A RIS that lost its power leaves connections behind; those must not keep it out for ten minutes."""
    with (
        listening(tmp_path, max_connections=2) as (_node, _clock, port),
        MllpPeer(port) as first,
        MllpPeer(port) as second,
    ):
        for peer, control in ((first, "1"), (second, "2"), (first, "3")):
            assert peer.ask(oru(control=control)).startswith("MSA|AA|")
        with MllpPeer(port) as third:
            assert third.ask(oru(control="4")).startswith("MSA|AA|")
            assert second.answer() == ""
            assert first.ask(oru(control="5")).startswith("MSA|AA|")
        for number in range(40):  # a crowd of silent ones
            with MllpPeer(port) as silent:
                assert silent.ask(oru(control=f"S{number}")).startswith("MSA|AA|")


def test_taken_port_is_said_at_the_start(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as (_node, _clock, port):
        taken = {"enabled": True, "port": port}
        with (
            reporting_node(tmp_path / "b", hl7=taken) as (node, _),
            pytest.raises(ConfigurationError, match=r"hl7\.port"),
        ):
            Hl7Listener(node).start()


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="MSHPIDOBRX|^~\\&\r0123", max_size=200).map(str.encode))
def test_any_bytes_are_answered(tail: bytes) -> None:
    """Whatever comes, it is a report or an Hl7Error, and the answer is a well-formed acknowledgement."""
    for data in (tail, oru().encode()[:90] + tail, b"MSH|^~\\&|" + tail):
        code, found = "AA", []
        try:
            found = reports_of(data, charset="utf-8")
        except Hl7Error as error:
            code = error.code
        assert code in ("AE", "AR") if not found else code == "AA"
        assert all(values["text"] or values["reason"] for values in found)
        answer = acknowledgement(envelope(data), "AE", "because", now=START).decode("ascii")
        lines = answer.split("\r")
        assert lines[0].startswith("MSH|^~\\&|")
        assert lines[1].startswith("MSA|AE|")
        assert lines[2:] == [""]
