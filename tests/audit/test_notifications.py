"""Audit messages to a syslog collector, notices by webhook and e-mail, and logs that name no patient."""

from __future__ import annotations

import http.server
import io
import json
import logging
import socket
import ssl
import threading
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import structlog
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError

from dicom_node import notifications as notify
from dicom_node.admin.listings import Filter, work_list
from dicom_node.audit import messages as audit
from dicom_node.audit import syslog
from dicom_node.audit.messages import AuditedEvent, EventType, Participant
from dicom_node.audit.syslog import AuditError
from dicom_node.config import LoggingSection
from dicom_node.index.tables.core import AuditEvent, Job, JobState, Notice, QuarantineReason, Result, Study
from dicom_node.logs import bound, configure, get_logger
from dicom_node.notifications import NotifyError
from dicom_node.retention import removal as retention
from dicom_node.retention.disk import disk_usage
from dicom_node.storage.instance_store import StoredFile
from dicom_node.studies.reopen import quarantine_instance
from tests.support.certificates import Authority
from tests.support.common import free_port, wait_until
from tests.support.delivery_node import (
    ACCESSION,
    PATIENT_ID,
    PATIENT_NAME,
    START,
    Clock,
    make_node,
    make_result,
    run_due,
    run_until_quiet,
)
from tests.support.faulty_pacs import Fault, Pacs, running


@contextmanager
def collector(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A syslog collector; yields its port and the messages, unframed."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    messages: list[bytes] = []
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                plain, _ = listener.accept()
            except TimeoutError:
                continue
            try:
                connection = context.wrap_socket(plain, server_side=True) if context else plain
                with connection, connection.makefile("rb") as stream:
                    while head := _until_space(stream):
                        messages.append(stream.read(int(head)))
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], messages
    finally:
        ended.set()
        thread.join()
        listener.close()


def _until_space(stream: io.BufferedIOBase) -> bytes:
    head = b""
    while (byte := stream.read(1)) not in (b"", b" "):
        head += byte
    return head


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_audit_messages_reach_the_collector_once_and_in_order(tmp_path: Path, transport: str) -> None:
    authority = Authority(tmp_path)
    context = None
    if transport == "tls":
        certificate, key = authority.issue("127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    with collector(context) as (port, messages):
        tls = {"ca": authority.certificate} if transport == "tls" else None
        where = {"host": "127.0.0.1", "port": port, "transport": transport, "tls": tls, "site": "St. Vitus"}
        node = make_node(tmp_path, Clock(), audit=where)
        with node.database.write() as session:
            for name in ("Müller", 'a" <b>&c'):
                audit.record(
                    session,
                    AuditedEvent.USER_AUTHENTICATION,
                    event_type=EventType.LOGIN,
                    now=START,
                    participants=(Participant(user_id=name, requestor=True, address="10.1.1.1"),),
                    site="St. Vitus",
                )
        syslog.send_waiting(node)
        syslog.send_waiting(node)
        wait_until(lambda: len(messages) >= 2, what="the messages")
    assert len(messages) == 2
    head, _, body = messages[0].partition(b"\xef\xbb\xbf")
    assert head.startswith(b"<85>1 2026-03-01T22:00:00.000+00:00 ")
    assert head.split()[5:] == [b"DICOM+RFC3881", b"-"], "MSGID, structured data (PS3.15 section A.6)"
    root = ET.fromstring(body)
    assert root.find("EventIdentification/EventID").get("csd-code") == "110114"  # type: ignore[union-attr]
    users = [ET.fromstring(m.partition(b"\xef\xbb\xbf")[2])[1].get("UserID") for m in messages]
    assert users == ["Müller", 'a" <b>&c']


def test_the_end_by_tls_is_said_and_not_only_made(tmp_path: Path) -> None:
    """RFC 5425 section 4.4: close_notify, without which a collector cannot tell the end from a cut wire."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ends: list[str] = []

    def take_one() -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as connection:
            try:
                while connection.recv(65536):
                    pass
                ends.append("said")
            except ssl.SSLError as error:
                ends.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take_one)
        thread.start()
        where = {"host": "127.0.0.1", "port": listener.getsockname()[1], "tls": {"ca": authority.certificate}}
        node = make_node(tmp_path, Clock(), audit=where)
        with node.database.write() as session:
            audit.record(
                session, AuditedEvent.APPLICATION_ACTIVITY, now=START, participants=(audit.this_node("LUMEN"),)
            )
        syslog.send_waiting(node)
        thread.join(10)
    assert ends == ["said"]
    with node.database.read() as session:
        assert session.scalars(select(AuditEvent.sent_at)).one() == START


def test_a_collector_that_is_down_loses_nothing(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), audit={"host": "127.0.0.1", "port": free_port(), "transport": "tcp"})
    with node.database.write() as session:
        audit.record(session, AuditedEvent.APPLICATION_ACTIVITY, now=START, participants=(audit.this_node("LUMEN"),))
    with pytest.raises(AuditError):
        syslog.send_waiting(node)
    with node.database.read() as session:
        assert session.scalars(select(AuditEvent.sent_at)).one() is None


@contextmanager
def webhook() -> Iterator[tuple[str, list[str], list[int]]]:
    """A web server that keeps bodies and answers with the statuses it is told, 200 when none is left."""
    bodies: list[str] = []
    statuses: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", bodies, statuses
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """A mail server that takes one message after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    mails: list[str] = []
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection, connection.makefile("rwb") as stream:
                _smtp(stream, mails)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], mails
    finally:
        ended.set()
        thread.join()
        listener.close()


def _smtp(stream: io.BufferedRWPair, mails: list[str]) -> None:
    def say(text: str) -> None:
        stream.write(text.encode() + b"\r\n")
        stream.flush()

    say("220 here")
    while line := stream.readline().decode().strip():
        if line.upper() == "DATA":
            say("354 go on")
            text = ""
            while (part := stream.readline().decode()) != ".\r\n":
                text += part
            mails.append(text)
        if line.upper() == "QUIT":
            say("221 bye")
            return
        say("250 good")


def test_a_dead_letter_is_told_once_without_naming_the_patient(tmp_path: Path) -> None:
    clock = Clock()
    with webhook() as (url, bodies, statuses), mail_server() as (port, mails):
        told = {"webhook_url": url, "email_to": ["pacs@example.org"], "smtp_port": port}
        node = make_node(tmp_path, clock, {"name": "pacs", "port": 1}, notify=told)
        make_result(node)
        with node.database.write() as session:
            session.execute(update(Job).values(state=JobState.DEAD, finished_at=clock.now, last_error="refused"))
        statuses.append(500)
        with pytest.raises(NotifyError):
            notify.run(node)
        notify.run(node)
        assert len(bodies) == 1, "not before its time"
        clock.forward(seconds=31)
        notify.run(node)
        notify.run(node)
        assert len(bodies) == 2
        notices = json.loads(bodies[-1])["notices"]
        assert [notice["kind"] for notice in notices] == ["dead letter"], "one for the destination and the hour"
        assert "deliveries to pacs fail for good" in notices[0]["text"]
        assert "Subject: [LUMEN] dead letter" in mails[-1]
        for text in (*bodies, *mails):
            assert not any(word in text for word in (PATIENT_ID, "Marchetti", ACCESSION))
    with node.database.read() as session:
        assert all(row.sent_at == clock.now for row in session.scalars(select(Notice)))


def test_what_got_through_one_way_is_not_told_again_while_the_other_way_is_shut(tmp_path: Path) -> None:
    clock = Clock()
    with webhook() as (url, bodies, _):
        told = {"webhook_url": url, "email_to": ["pacs@example.org"], "smtp_port": free_port()}
        node = make_node(tmp_path, clock, {"name": "pacs", "port": 1}, notify=told)
        make_result(node)
        with node.database.write() as session:
            session.execute(update(Job).values(state=JobState.DEAD, finished_at=clock.now, last_error="refused"))
        for _ in range(3):
            with pytest.raises(NotifyError, match="e-mail: "):
                notify.run(node)
            clock.forward(seconds=3700)
        assert len(bodies) == 1
    with mail_server() as (port, mails):
        again = make_node(tmp_path, clock, {"name": "pacs", "port": 1}, notify={**told, "smtp_port": port})
        notify.run(again)
        assert len(mails) == 1
    with node.database.read() as session:
        assert all(row.sent_at == clock.now for row in session.scalars(select(Notice)))


def test_a_notice_does_not_repeat_what_others_said(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), {"name": "pacs", "port": 1})
    make_result(node)
    with node.database.write() as session:
        error = f"ValueError: no such patient as {PATIENT_ID}"
        session.execute(update(Job).values(state=JobState.DEAD, finished_at=START, last_error=error))
    notify.run(node)
    with node.database.read() as session:
        texts = list(session.scalars(select(Notice.text)))
    assert all("ValueError" in text and PATIENT_ID not in text for text in texts)


def test_quarantine_a_full_disk_and_a_new_model_are_told_once_each(tmp_path: Path) -> None:
    clock = Clock()
    with webhook() as (url, bodies, _):
        full = {"keep_free_percent": 50, "emergency_free_percent": 0}
        node = make_node(tmp_path, clock, notify={"webhook_url": url}, retention=full)
        make_result(node)
        with node.database.write() as session:
            stored = StoredFile(path="quarantine/x", sha256="0" * 64, size_bytes=1)
            quarantine_instance(
                session,
                reason=QuarantineReason.CONFLICT,
                detail=f"other content of {PATIENT_ID}",
                stored=stored,
                sop_class_uid="1.2.3",
                sop_instance_uid="1.2.3.4",
                calling_ae_title="MODALITY",
                address="10.0.0.1",
                now=clock.now,
            )
        make_result(node, study_uid="1.2.77")
        with node.database.write() as session:
            session.execute(update(Result).where(Result.id == 2).values(device_uid="1.2.9", model_version="2"))
        disk_is_full = disk_usage(node).free_percent < 50
        for _ in range(2):
            retention.guard_disk(node)
            notify.run(node)
            clock.forward(seconds=60)
        notices = [notice for body in bodies for notice in json.loads(body)["notices"]]
        wanted = ["model change", "quarantine"] + ["disk"] * disk_is_full
        assert sorted(notice["kind"] for notice in notices) == sorted(wanted)
        assert not any(word in body for body in bodies for word in (PATIENT_ID, "Marchetti", ACCESSION))


def test_a_study_of_the_future_is_told_once_and_marked_on_the_work_list(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock)
    dates = {"1.2.77": "20991231", "1.2.78": "UNKNOWN", "1.2.79": f"{clock.now:%Y%m%d}", "1.2.80": ""}
    for uid, date in dates.items():
        make_result(node, study_uid=uid)
        with node.database.write() as session:
            session.execute(update(Study).where(Study.study_instance_uid == uid).values(study_date=date))
    for _ in range(2):
        notify.run(node)
        clock.forward(seconds=60)
    with node.database.read() as session:
        told = session.scalars(select(Notice.text).where(Notice.kind == "date")).all()
        lines, _ = work_list(session, Filter())
    assert len(told) == 1
    assert "1.2.77" in told[0]
    assert PATIENT_ID not in told[0]
    assert {line.study_instance_uid for line in lines if line.is_dated_ahead} == {"1.2.77"}


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    stream = io.StringIO()
    yield stream
    root.handlers[:], _ = before
    root.setLevel(before[1])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_no_log_line_names_the_patient_whatever_goes_wrong(tmp_path: Path, log_stream: io.StringIO) -> None:
    configure(LoggingSection(level="info"), stream=log_stream)
    clock = Clock()
    for fault in (Fault.REFUSES, Fault.ABORTS, Fault.LOSES, Fault.DENIES):
        with running(Pacs(faults={fault})) as pacs:
            folder = tmp_path / fault.value
            folder.mkdir()
            node = make_node(folder, clock, {"name": "pacs", "port": pacs.port, "same_association_seconds": 5})
            make_result(node)
            run_due(node)
            pacs.faults.clear()
            run_until_quiet(node, clock)
    text = log_stream.getvalue()
    assert text.count("delivery confirmed") == 8
    assert not any(word in text for word in (PATIENT_ID, "Marchetti", "Ottavia", ACCESSION))


def test_an_error_of_others_is_logged_with_its_place_and_without_its_words(
    tmp_path: Path, log_stream: io.StringIO
) -> None:
    configure(LoggingSection(level="info"), stream=log_stream)
    node = make_node(tmp_path, Clock())
    try:
        try:
            raise ValueError(f"invalid value {PATIENT_NAME!r}")
        except ValueError as error:
            raise AuditError("our own words") from error
    except AuditError:
        get_logger("dicom_node.test").exception("ours")
        logging.getLogger("apscheduler").exception("theirs")
    try:
        with node.database.write() as session:
            session.execute(text("INSERT INTO study (patient_id) VALUES (:id)"), {"id": PATIENT_ID})
    except DBAPIError:
        get_logger("dicom_node.test").exception("the index")
    said = log_stream.getvalue()
    assert said.count("\n") == 3
    assert said.count("ValueError") == said.count("our own words") == 2
    assert "test_notifications.py" in said
    assert "IntegrityError" in said
    assert not any(word in said for word in (PATIENT_ID, "Marchetti"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_is_one_line_with_its_ids_and_without_what_names_a_patient(
    log_stream: io.StringIO, form: Literal["text", "json"]
) -> None:
    configure(LoggingSection(level="info", format=form), stream=log_stream)
    log = get_logger("dicom_node.test")
    with bound(job="deliver:1"):
        log.info("one", text="evil\nlevel=error event=forged", patient_name="Doe^Jane", accession_number="A1")
    log.debug("hidden", patient_name="Doe^Jane")
    warnings.warn("Invalid value for VR PN: 'Doe^Jane'", stacklevel=1)
    logging.getLogger("pydicom").warning("Doe^Jane")
    lines = log_stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "deliver:1" in lines[0]
    assert "Doe" not in log_stream.getvalue()
    assert "A1" not in log_stream.getvalue()
    if form == "json":
        assert json.loads(lines[0])["event"] == "one"
