"""A web archive that misbehaves: whatever it does, in the end each document is there once, proven; 409 is success."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import json
import ssl
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from sqlalchemy import select

from dicom_node.dicom.bounded_answers import MAX_JSON_BYTES
from dicom_node.index.tables.core import AuditEvent, DeliveryState, JobState
from tests.support.certificates import Authority
from tests.support.common import free_port
from tests.support.delivery_node import Clock, all_jobs, deliveries, make_node, make_result, run_due, run_until_quiet

ALREADY_THERE, OTHER = 0x0111, 0x0110
BOMB = gzip.compress(b"[" + bytes(2 * MAX_JSON_BYTES), 1)


class Fault(StrEnum):
    """A fault of the archive."""

    CUTS = "cuts"
    """Keeps the object and closes the connection instead of answering: the next try finds it there (409)."""
    LOSES = "loses"
    """Answers 200 with a list of what it stored, and has not."""
    DOWN = "down"
    """503."""
    NOT_ALLOWED = "not allowed"
    """403."""
    GARBAGE = "garbage"
    """200, and words that are no data set."""
    CONFLICT = "conflict"
    """409 for a reason of its own, and keeps nothing."""
    BUSY = "busy"
    """429."""
    ANONYMOUS = "anonymous"
    """401."""
    FAILS_POLITELY = "fails politely"
    """202 (some were not stored), and in the list the object has failed."""
    INFLATES = "inflates"
    """Keeps the object and answers 200 with a bomb."""
    DRIPS = "drips"
    """Keeps the object and answers 200 with a blank every now and then, for ever."""
    HEAD_DRIPS = "head drips"
    """Keeps the object and never comes to the end of the answer's header."""
    ODD = "odd"
    """Keeps the object and answers 409 with a failure reason that is no number."""
    ELSEWHERE = "elsewhere"
    """307 to `elsewhere`."""


@dataclass(slots=True, kw_only=True)
class WebArchive:
    """State of the archive. `faults` may change while it runs."""

    faults: set[Fault] = field(default_factory=set)
    names_reason: bool = True
    """A 409 carries failure reason 0111H; many services send none."""
    kept: dict[str, int] = field(default_factory=dict)
    posts: int = 0
    port: int = 0
    elsewhere: str = ""
    warning: int = 0
    """Warning Reason (PS3.18 table I.2-1) of what is stored, with 202."""
    authorisations: set[str | None] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def take(self, body: bytes, boundary: bytes) -> tuple[int, Dataset]:
        """Status and answer to a STOW-RS request of one object (PS3.18 section 10.5)."""
        part = body.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        sent = pydicom.dcmread(io.BytesIO(part))
        uid, item, answer = str(sent.SOPInstanceUID), Dataset(), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sent.SOPClassUID, uid
        if Fault.CONFLICT in self.faults or uid in self.kept:
            item.FailureReason = OTHER if Fault.CONFLICT in self.faults else ALREADY_THERE
            if self.names_reason:
                answer.FailedSOPSequence = [item]
            return 409, answer
        if Fault.FAILS_POLITELY in self.faults:
            item.FailureReason = OTHER
            answer.FailedSOPSequence = [item]
            return 202, answer
        if Fault.LOSES not in self.faults:
            self.kept[uid] = self.kept.get(uid, 0) + 1
        if self.warning:
            item.WarningReason = self.warning
        answer.ReferencedSOPSequence = [item]
        return 202 if self.warning else 200, answer


@contextmanager
def archive(made: WebArchive, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[WebArchive]:
    """Run it on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.posts += 1
            made.authorisations.add(self.headers["Authorization"])
            if Fault.ELSEWHERE in made.faults:
                self.say(307, b"", Location=made.elsewhere + self.path)
                return
            for fault, status in (
                (Fault.DOWN, 503),
                (Fault.NOT_ALLOWED, 403),
                (Fault.BUSY, 429),
                (Fault.ANONYMOUS, 401),
            ):
                if fault in made.faults:
                    self.say(status, b"")
                    return
            boundary = self.headers["Content-Type"].split('boundary="')[1].split('"')[0].encode()
            status, answer = made.take(body, boundary)
            if Fault.CUTS in made.faults:
                self.close_connection = True
                return
            if made.faults & {Fault.DRIPS, Fault.HEAD_DRIPS}:
                self.drip()
                return
            if Fault.INFLATES in made.faults:
                self.say(200, BOMB, **{"Content-Encoding": "gzip"})
                return
            if Fault.ODD in made.faults:
                self.say(
                    409, b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": ["soon"]}}, 7]}}'
                )
                return
            text = b"<html>all is well" if Fault.GARBAGE in made.faults else answer.to_json().encode()
            self.say(status, text)

        def drip(self) -> None:
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            if Fault.DRIPS in made.faults:
                self.wfile.write(b"Content-Type: application/dicom+json\r\n\r\n")
            with contextlib.suppress(OSError):
                while not made.ended.wait(0.02):
                    self.wfile.write(b" " if Fault.DRIPS in made.faults else b"a")

        def do_GET(self) -> None:
            wanted = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query).get("SOPInstanceUID", [""])[0]
            found = [{"00080018": {"vr": "UI", "Value": [wanted]}}] if wanted in made.kept else []
            self.say(200, json.dumps(found).encode())

        def say(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def to(port: int, **more: Any) -> dict[str, Any]:
    return {"name": "web", "url": f"http://127.0.0.1:{port}/dicom-web", "verify": "find", **more}


@pytest.mark.parametrize(
    "fault",
    [
        Fault.CUTS,
        Fault.LOSES,
        Fault.DOWN,
        Fault.NOT_ALLOWED,
        Fault.GARBAGE,
        Fault.CONFLICT,
        Fault.BUSY,
        Fault.ANONYMOUS,
        Fault.FAILS_POLITELY,
        Fault.ODD,
    ],
)
def test_a_fault_that_passes_leaves_one_proven_copy(tmp_path: Path, fault: Fault) -> None:
    clock = Clock()
    with archive(WebArchive(faults={fault})) as web:
        node = make_node(tmp_path, clock, to(web.port), delivery={"proof_timeout_seconds": 60})
        uids = make_result(node)
        run_due(node)
        if fault not in (Fault.GARBAGE, Fault.ODD):
            assert DeliveryState.CONFIRMED not in {row.state for row in deliveries(node)}
        web.faults.clear()
        run_until_quiet(node, clock)
        assert web.kept == dict.fromkeys(uids, 1)
        assert [(row.state, row.proof) for row in deliveries(node)] == [(DeliveryState.CONFIRMED, "find")] * 2
        assert {job.state for job in all_jobs(node)} == {JobState.DONE}


ENDLESS = {
    Fault.INFLATES: "the answer to STOW-RS is too long: more than 64 MiB",
    Fault.DRIPS: "the answer to STOW-RS is too long: not whole after 1 s",
    Fault.HEAD_DRIPS: "destination down: STOW-RS: ConnectionError",
}


@pytest.mark.parametrize("fault", ENDLESS)
def test_answer_without_an_end_is_left_at_the_limit_and_the_document_is_there_once(
    tmp_path: Path, fault: Fault
) -> None:
    clock = Clock()
    with archive(WebArchive(faults={fault})) as web:
        node = make_node(tmp_path, clock, to(web.port), delivery={"response_seconds": 1})
        uids = make_result(node)
        run_due(node)
        assert ENDLESS[fault] in {row.last_error for row in deliveries(node)}
        web.faults.clear()
        run_until_quiet(node, clock)
        assert web.kept == dict.fromkeys(uids, 1)
        assert {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}


@pytest.mark.parametrize("names_reason", [True, False])
@pytest.mark.parametrize(("verify", "proof"), [("find", "find"), ("none", "stow")])
def test_already_there_is_success_whether_or_not_the_service_says_why(
    tmp_path: Path, names_reason: bool, verify: str, proof: str
) -> None:
    clock = Clock()
    with archive(WebArchive(names_reason=names_reason)) as web:
        node = make_node(tmp_path, clock, to(web.port, verify=verify))
        uids = make_result(node)
        web.kept = dict.fromkeys(uids, 1)
        run_due(node)
        assert web.posts == 2
        assert web.kept == dict.fromkeys(uids, 1)
        assert [(row.state, row.proof) for row in deliveries(node)] == [(DeliveryState.CONFIRMED, proof)] * 2


@pytest.mark.parametrize("names_reason", [True, False])
def test_a_conflict_for_another_reason_is_a_refusal(tmp_path: Path, names_reason: bool) -> None:
    clock = Clock()
    with archive(WebArchive(faults={Fault.CONFLICT}, names_reason=names_reason)) as web:
        node = make_node(tmp_path, clock, to(web.port))
        make_result(node)
        run_until_quiet(node, clock)
        assert {row.state for row in deliveries(node)} == {DeliveryState.DEAD}
        assert all("409" in row.last_error for row in deliveries(node))
        assert web.posts == 2 * node.settings.delivery.refused_attempts


def test_a_service_that_is_down_for_a_day_only_delays(tmp_path: Path) -> None:
    clock = Clock()
    port = free_port()
    node = make_node(tmp_path, clock, to(port))
    uids = make_result(node)
    back = clock.now.replace(day=clock.now.day + 1)
    while clock.now < back:
        run_due(node)
        clock.now = min(job.run_at for job in all_jobs(node))
    assert {row.state for row in deliveries(node)} == {DeliveryState.PENDING}
    with archive(WebArchive(), port=port) as web:
        run_due(node)
        assert web.kept == dict.fromkeys(uids, 1)
    assert {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}


def test_by_tls_only_to_who_proves_to_be_the_archive(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger")
    with archive(WebArchive(), tls=context) as web:
        url = f"https://127.0.0.1:{web.port}/dicom-web"
        for folder, ca, arrives in (("a", stranger.certificate, False), ("b", authority.certificate, True)):
            node = make_node(tmp_path / folder, Clock(), to(web.port, url=url, tls={"ca": ca}))
            make_result(node)
            run_due(node)
            assert ({row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}) == arrives
            assert len(web.kept) == (2 if arrives else 0)


def test_a_redirect_takes_no_document_elsewhere(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "token").write_text("open sesame", "utf-8")
    with archive(WebArchive(faults={Fault.ELSEWHERE})) as web, archive(WebArchive()) as other:
        web.elsewhere = f"http://127.0.0.1:{other.port}"
        node = make_node(tmp_path, clock, to(web.port, token_file=tmp_path / "token"))
        uids = make_result(node)
        run_due(node)
        assert (other.posts, other.kept) == (0, {})
        assert web.authorisations == {"Bearer open sesame"}
        assert all("redirected elsewhere: set the destination's url" in row.last_error for row in deliveries(node))
        web.faults.clear()
        run_until_quiet(node, clock)
        assert web.kept == dict.fromkeys(uids, 1)


def test_a_web_archive_is_audited_by_its_address(tmp_path: Path) -> None:
    with archive(WebArchive()) as web:
        node = make_node(tmp_path, Clock(), to(web.port))
        make_result(node)
        run_due(node)
        with node.database.read() as session:
            messages = [ET.fromstring(text) for text in session.scalars(select(AuditEvent.message))]
    assert len(messages) == 2
    for message in messages:
        theirs = message.findall("ActiveParticipant")[1].attrib
        url = f"http://127.0.0.1:{web.port}/dicom-web"
        assert (theirs["UserID"], theirs["NetworkAccessPointID"], theirs["NetworkAccessPointTypeCode"]) == (
            url,
            url,
            "5",
        )


@pytest.mark.parametrize(("verify", "proof"), [("find", "find"), ("none", "stow")])
def test_stored_with_a_warning_is_stored(tmp_path: Path, verify: str, proof: str) -> None:
    with archive(WebArchive(warning=0xB000)) as web:
        node = make_node(tmp_path, Clock(), to(web.port, verify=verify))
        uids = make_result(node)
        run_due(node)
        assert web.kept == dict.fromkeys(uids, 1)
        assert {(row.state, row.proof) for row in deliveries(node)} == {(DeliveryState.CONFIRMED, proof)}


@pytest.mark.parametrize("verify", ["find", "none"])
@pytest.mark.parametrize("fault", [Fault.FAILS_POLITELY, Fault.ANONYMOUS])
def test_a_polite_failure_is_a_failure(tmp_path: Path, fault: Fault, verify: str) -> None:
    clock = Clock()
    with archive(WebArchive(faults={fault})) as web:
        node = make_node(tmp_path, clock, to(web.port, verify=verify))
        make_result(node)
        run_until_quiet(node, clock)
        assert {row.state for row in deliveries(node)} == {DeliveryState.DEAD}
        assert web.posts == 2 * node.settings.delivery.refused_attempts
        assert web.kept == {}
