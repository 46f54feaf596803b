"""A DICOMweb archive whose answers are odd or damaged: what can be used is used, the rest is said."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dicom_node.config import QueryPeer, Retrieve
from dicom_node.dicom.part10 import FileMeta
from dicom_node.errors import RetrieveError
from dicom_node.priors.retrieval.dicomweb import WebArchive
from tests.dicom.test_json import STUDY
from tests.support.receiver import radiograph


@dataclass(slots=True, kw_only=True)
class Archive:
    """What the service answers, and what came of it."""

    kind: str = "application/dicom+json"
    body: bytes = b"[]"
    arrived: list[FileMeta] = field(default_factory=list)
    port: int = 0

    def open(self) -> WebArchive:
        """The archive as the node asks it."""

        def sink(_: bytes, meta: FileMeta) -> int:
            self.arrived.append(meta)
            return 0

        return WebArchive(
            peer=QueryPeer(
                name="web", url=f"http://127.0.0.1:{self.port}/dicom-web", retrieve=Retrieve.DICOMWEB, ae_title="WEB"
            ),
            query_seconds=10,
            retrieve_seconds=10,
            stop=threading.Event(),
            sink=sink,
        )


@pytest.fixture
def archive() -> Iterator[Archive]:
    state = Archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state
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
