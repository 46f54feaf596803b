"""An S3 service for tests: moto's server in a process of its own. It shows the protocol, never durability."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from dicom_node.config import StorageSection
from tests.support.common import free_port, listening, wait_until

KEY, SECRET = "test-access-key", "test-secret-of-the-bucket"
SERVER = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_request(self, *_arguments):
        pass

service = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), service, threaded=True, request_handler=Quiet)
"""


@dataclass(slots=True)
class S3Server:
    """The running service. `pause` makes it one that accepts connections and never answers."""

    port: int
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self, folder: Path, **values: object) -> StorageSection:
        """Make a bucket and return the section of the configuration that names it, credentials in a file."""
        bucket = f"instances-{os.getpid()}-{next(self._numbers)}"
        httpx.put(f"{self.endpoint}/{bucket}", timeout=30).raise_for_status()  # moto looks at no signature
        credentials = folder / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
        given = {"kind": "s3", "endpoint": self.endpoint, "bucket": bucket, "prefix": "node", "request_seconds": 5.0}
        return StorageSection.model_validate({**given, "credentials_file": credentials, **values})

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One service for all tests of this process."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
    try:
        wait_until(lambda: listening(port), seconds=60, what="the S3 service to listen")
        yield S3Server(port, process)
    finally:
        process.kill()
        process.wait()
