"""A radiologist's workplace on loopback: Orthanc with DICOMweb, and OHIF's built pages on the same origin.

Orthanc (Debian: orthanc, orthanc-dicomweb) and the npm package `@ohif/app` are the user's own; nothing is fetched here.
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dicom_node.demo.ports import accepts, free_port
from dicom_node.errors import NodeError

PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0
FORWARDED_HEADERS = frozenset({"accept", "content-type"})

APP_CONFIG = """
window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true, defaultDataSourceName: 'dicomweb',
  investigationalUseDialog: { option: 'never' },
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'dicomweb',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc', wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web',
      wadoRoot: '/dicom-web', qidoSupportsIncludeField: false, imageRendering: 'wadors',
      thumbnailRendering: 'wadors', enableStudyLazyLoad: true, supportsFuzzyMatching: false,
      supportsWildcard: true, omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true },
    },
  }],
};
"""
"""OHIF's configuration: one DICOMweb source on the page's own origin."""


class ViewerMissingError(NodeError):
    """A part of the workplace is not installed; the message names it."""


def orthanc_program() -> tuple[str, Path]:
    """Orthanc and its DICOMweb plugin. Raises ViewerMissingError naming the Debian package that is missing."""
    binary = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        raise ViewerMissingError("Orthanc is not installed (Debian: apt-get install orthanc orthanc-dicomweb)")
    plugins = [path for folder in PLUGIN_FOLDERS for path in Path(folder).glob("libOrthancDicomWeb.so*")]
    if not plugins:
        raise ViewerMissingError("Orthanc has no DICOMweb plugin (Debian: apt-get install orthanc-dicomweb)")
    return binary, plugins[0]


@contextmanager
def running_dicomweb(folder: Path) -> Iterator[int]:
    """An Orthanc with DICOMweb on loopback that keeps its files in `folder`; gives its HTTP port.

    Raises ViewerMissingError where it is not installed, NodeError where it does not start.
    """
    binary, plugin = orthanc_program()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = {
        "Name": "VIEWER",
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration), "utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([binary, str(path)], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(port, process, folder / "orthanc.log")
            yield port
        finally:
            process.terminate()
            process.wait(20)


def upload(port: int, content: bytes) -> None:
    """Put one DICOM file into Orthanc. Raises NodeError with Orthanc's own words where it refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST", "/instances", content, {"Content-Type": "application/dicom"})
        answer = connection.getresponse()
        refusal = answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise NodeError(f"Orthanc refuses the object: {refusal}")


@contextmanager
def running_viewer(pages: Path, orthanc_port: int) -> Iterator[str]:
    """OHIF's built pages and Orthanc's DICOMweb behind one origin on loopback; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(pages.resolve(), orthanc_port))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _handler(pages: Path, orthanc_port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/dicom-web"):
                self._forward()
            else:
                self._send_page()

        def _forward(self) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", orthanc_port, timeout=ANSWER_SECONDS)
            kept = {name: value for name, value in self.headers.items() if name.lower() in FORWARDED_HEADERS}
            # Orthanc builds the URLs of its answers from this header: they must lead back to this origin.
            connection.request("GET", self.path, headers=kept | {"Host": self.headers["Host"]})
            answer = connection.getresponse()
            self._send(answer.status, answer.getheader("Content-Type") or "application/octet-stream", answer.read())
            connection.close()

        def _send_page(self) -> None:
            name = self.path.split("?")[0].lstrip("/")
            if name == "app-config.js":
                self._send(200, "text/javascript", APP_CONFIG.encode())
                return
            path = (pages / name).resolve()
            if not path.is_file() or not path.is_relative_to(pages):
                path = pages / "index.html"  # the viewer's own routes
            self._send(200, mimetypes.guess_type(path.name)[0] or "application/octet-stream", path.read_bytes())

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            # OHIF's decoders use SharedArrayBuffer, which browsers give to isolated origins only.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet: the browser's own log says what failed."""

    return Handler


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not accepts(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise NodeError(f"Orthanc did not start: {log.read_text('utf-8', 'replace')[-500:]}")
        time.sleep(0.05)
