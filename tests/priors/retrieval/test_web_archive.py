"""A DICOMweb archive whose answers are odd or damaged: what can be used is used, the rest is said."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dicom_node.config import LoggingSection, QueryPeer, Retrieve
from dicom_node.dicom.bounded_answers import MAX_JSON_BYTES, MAX_PART_BYTES
from dicom_node.dicom.part10 import FileMeta
from dicom_node.errors import ArchiveUnreachableError, RetrieveError
from dicom_node.logs import configure, get_logger
from dicom_node.priors.retrieval.dicomweb import WebArchive
from tests.dicom.test_json import STUDY
from tests.support.receiver import radiograph


@dataclass(slots=True, kw_only=True)
class Archive:
    """The answers of the service, and the outcome."""

    kind: str = "application/dicom+json"
    body: bytes = b"[]"
    encoding: str = ""
    drips: bool = False
    """The answer never ends: a byte every now and then."""
    head_drips: bool = False
    """The same in its header."""
    more_header: tuple[tuple[str, str], ...] = ()
    arrived: list[FileMeta] = field(default_factory=list)
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def open(self, *, query_seconds: float = 10, part_bytes: int = MAX_PART_BYTES) -> WebArchive:
        """The archive as the node asks it."""

        def sink(_: bytes, meta: FileMeta) -> int:
            self.arrived.append(meta)
            return 0

        return WebArchive(
            peer=QueryPeer(
                name="web", url=f"http://127.0.0.1:{self.port}/dicom-web", retrieve=Retrieve.DICOMWEB, ae_title="WEB"
            ),
            query_seconds=query_seconds,
            retrieve_seconds=60,
            stop=threading.Event(),
            sink=sink,
            part_bytes=part_bytes,
        )


@pytest.fixture
def archive() -> Iterator[Archive]:
    state = Archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            with contextlib.suppress(OSError):
                while state.head_drips and not state.ended.wait(0.02):
                    self.flush_headers()
                    self.wfile.write(b"a")
            for line in state.more_header:
                self.send_header(*line)
            self.send_header("Content-Type", state.kind)
            if state.encoding:
                self.send_header("Content-Encoding", state.encoding)
            if not state.drips:
                self.send_header("Content-Length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)
            with contextlib.suppress(OSError):
                while state.drips and not state.ended.wait(0.02):
                    self.wfile.write(b" ")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state
    state.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_study_with_an_odd_element_is_found_beside_the_others(archive: Archive) -> None:
    odd = STUDY | {"0020000D": {"vr": "UI", "Value": ["1.2.4"]}, "00201208": {"vr": "IS", "Value": ["N/A"]}}
    archive.body = json.dumps([STUDY, odd]).encode()
    found = archive.open().studies("P1", "20200101-20260101")
    assert [(study.study_instance_uid, study.instances) for study in found] == [("1.2.3", 2), ("1.2.4", None)]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"<html>log in</html>", "that is no JSON"), (b"null", "that is not understood"), (b"\xff\xfe", "that is no")],
    ids=["a page", "null", "no text"],
)
def test_answer_that_cannot_be_used_is_said_as_such(archive: Archive, body: bytes, said: str) -> None:
    archive.body = body
    with pytest.raises(RetrieveError, match=f"'web' gave an answer to QIDO-RS {said}"):
        archive.open().studies("P1", "20200101-20260101")


def test_damaged_part_costs_itself_and_is_counted(archive: Archive) -> None:
    film = radiograph()
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    parts = [b"not a film " * 20, stream.getvalue(), b""]
    archive.kind = 'multipart/related; type="application/dicom"; boundary=B'
    archive.body = (
        b"".join(b"--B\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"
    )
    with pytest.raises(RetrieveError, match=r"sent [12] parts that are no DICOM objects"):
        archive.open().retrieve("1.2.3", "")
    assert [meta.sop_instance_uid for meta in archive.arrived] == [film.SOPInstanceUID]


def test_answer_that_inflates_without_end_is_left_at_the_limit(archive: Archive) -> None:
    archive.encoding = "gzip"
    archive.body = gzip.compress(b"[" + b" " * (2 * MAX_JSON_BYTES) + b"]", 1)
    with pytest.raises(RetrieveError, match="answer to QIDO-RS that is too long: more than 64 MiB"):
        archive.open().studies("P1", "20200101-20260101")


def test_gzipped_answer_is_read(archive: Archive) -> None:
    archive.encoding = "gzip"
    archive.body = gzip.compress(json.dumps([STUDY]).encode())
    assert len(archive.open().studies("P1", "20200101-20260101")) == 1


@pytest.mark.parametrize("kind", ["application/dicom+json", "application/dicom+json; charset=utf-8"])
def test_answer_that_begins_with_a_byte_order_mark_is_read(archive: Archive, kind: str) -> None:
    archive.kind, archive.body = kind, b"\xef\xbb\xbf" + json.dumps([STUDY]).encode()
    assert len(archive.open().studies("P1", "20200101-20260101")) == 1


def test_answer_that_drips_has_failed_after_the_time_of_a_query(archive: Archive) -> None:
    archive.drips = True
    with pytest.raises(RetrieveError, match=r"not whole after 0\.3 s"):
        archive.open(query_seconds=0.3).studies("P1", "20200101-20260101")


def test_odd_header_brings_no_patient_into_the_log(archive: Archive) -> None:
    """urllib3 warns of a header line that is none with the address and its query; the client quotes a Warning."""
    archive.body = json.dumps([STUDY]).encode()
    archive.more_header = (
        ("Warning", '299 pacs "fuzzy matching of SECRETPATIENT"'),
        ("X-Odd", "1\r\nno header line"),
    )
    out = io.StringIO()
    configure(LoggingSection(), stream=out)
    get_logger("test").warning("the log is written")
    archive.open().studies("SECRETPATIENT", "20200101-20260101")
    assert "the log is written" in out.getvalue()
    assert "SECRETPATIENT" not in out.getvalue()


def test_header_that_drips_is_cut_after_the_time_of_a_query(archive: Archive) -> None:
    archive.head_drips = True
    with pytest.raises(ArchiveUnreachableError, match="'web' cannot be reached by QIDO-RS"):
        archive.open(query_seconds=0.3).studies("P1", "20200101-20260101")


def test_part_without_end_is_left_at_the_limit_and_those_before_are_kept(archive: Archive) -> None:
    film = radiograph()
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    archive.kind = 'multipart/related; type="application/dicom"; boundary=B'
    head = b"--B\r\nContent-Type: application/dicom\r\n\r\n"
    archive.body = head + stream.getvalue() + b"\r\n" + head + bytes(8 << 20)
    with pytest.raises(RetrieveError, match="answer to WADO-RS that is too long: more than 4 MiB"):
        archive.open(part_bytes=4 << 20).retrieve("1.2.3", "")
    assert [meta.sop_instance_uid for meta in archive.arrived] == [film.SOPInstanceUID]
