"""A radiologist's workplace for tests: Orthanc with DICOMweb and OHIF's built pages on one origin."""

from __future__ import annotations

import http.client
import json
import mimetypes
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.common import REPOSITORY, free_port, listening, program, wait_until

OHIF_VERSION = "3.13.2"
OHIF = REPOSITORY / ".cache" / "ohif"
PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")

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


def ohif_pages() -> Path:
    """The viewer's built pages; fetched once by name from the npm registry, the test skips where that is refused."""
    pages = OHIF / "package" / "dist"
    if not (pages / "index.html").is_file():
        npm = program("npm")
        OHIF.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            [npm, "pack", f"@ohif/app@{OHIF_VERSION}"], cwd=OHIF, capture_output=True, text=True, timeout=240
        )
        archives = sorted(OHIF.glob("ohif-app-*.tgz"))
        if packed.returncode != 0 or not archives:
            pytest.skip("npm cannot fetch @ohif/app here")
        shutil.unpack_archive(archives[0], OHIF, "gztar", filter="data")
        archives[0].unlink()
    return pages


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """An Orthanc with the DICOMweb plugin on loopback; gives its HTTP port."""
    binary = program("Orthanc")
    plugins = [p for folder_name in PLUGIN_FOLDERS for p in Path(folder_name).glob("libOrthancDicomWeb.so*")]
    if not plugins:
        pytest.skip("Orthanc has no DICOMweb plugin here (Debian package orthanc-dicomweb)")
    port = free_port()
    configuration = {
        "Name": "TEST",
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugins[0])],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([binary, str(path)], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: listening(port) or process.poll() is not None, what="Orthanc")
            assert process.poll() is None, (folder / "orthanc.log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(20)


def upload(port: int, content: bytes) -> None:
    """Put one DICOM file into Orthanc; fails the test with Orthanc's own words where it refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/instances", content, {"Content-Type": "application/dicom"})
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    assert answer.status == 200, said


@contextmanager
def viewer(pages: Path, orthanc_port: int) -> Iterator[str]:
    """OHIF and Orthanc's DICOMweb behind one origin; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/dicom-web"):
                self._forward()
            else:
                self._page()

        def _forward(self) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", orthanc_port, timeout=30)
            kept = {k: v for k, v in self.headers.items() if k.lower() in {"accept", "content-type"}}
            connection.request("GET", self.path, headers=kept | {"Host": self.headers["Host"]})
            answer = connection.getresponse()
            self._send(answer.status, answer.getheader("Content-Type") or "application/octet-stream", answer.read())
            connection.close()

        def _page(self) -> None:
            name = self.path.split("?")[0].lstrip("/")
            if name == "app-config.js":
                self._send(200, "text/javascript", APP_CONFIG.encode())
                return
            path = (pages / name).resolve()
            if not path.is_file() or not path.is_relative_to(pages.resolve()):
                path = pages / "index.html"
            self._send(200, mimetypes.guess_type(path.name)[0] or "application/octet-stream", path.read_bytes())

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the browser's own log says what failed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
