"""A real Orthanc on loopback: DICOM, REST and DICOMweb on free ports, everything in a folder that goes away."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.common import free_port, program, wait_until

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """A running Orthanc."""

    ae_title: str
    dicom_port: int
    http_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> Any:
        """The JSON answer of a REST route."""
        answer = httpx.get(self.url + path, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def upload(self, content: bytes) -> None:
        """Store a DICOM file over REST."""
        httpx.post(f"{self.url}/instances", content=content, timeout=60, trust_env=False).raise_for_status()

    def file(self, orthanc_id: str) -> bytes:
        """A stored instance as Part 10 bytes."""
        answer = httpx.get(f"{self.url}/instances/{orthanc_id}/file", timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.content

    def instances(self, **tags: str) -> list[Any]:
        """Instances whose simplified tags match, for example Modality="SR"; Orthanc's expanded JSON of each."""
        query = {"Level": "Instance", "Expand": True, "Query": tags, "RequestedTags": ["StudyInstanceUID", "Modality"]}
        answer = httpx.post(f"{self.url}/tools/find", json=query, timeout=30, trust_env=False)
        answer.raise_for_status()
        return list(answer.json())


@contextmanager
def running_orthanc(
    folder: Path, *, modalities: Mapping[str, tuple[str, int]] | None = None, dicomweb: bool = True, **options: Any
) -> Iterator[Orthanc]:
    """Start Orthanc; `modalities` maps AE titles to (host, port) that it may move to and report commitments to.

    options: further keys of its configuration. Skips the test where Orthanc or the wanted plugin is not installed.
    """
    binary = program("Orthanc")
    if dicomweb and not DICOMWEB_PLUGIN.exists():
        pytest.skip("the package orthanc-dicomweb is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    configuration = {
        "Name": "test archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {title: [title, host, port] for title, (host, port) in (modalities or {}).items()},
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "Plugins": [str(DICOMWEB_PLUGIN)] if dicomweb else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "SynchronousCMove": True,
        **options,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration), "utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([binary, str(path)], stdout=log, stderr=subprocess.STDOUT)
    orthanc = Orthanc(ae_title="ORTHANC", dicom_port=dicom_port, http_port=http_port, process=process)
    try:
        wait_until(lambda: _answers(orthanc), seconds=60, what="Orthanc to answer")
        yield orthanc
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(orthanc: Orthanc) -> bool:
    if orthanc.process.poll() is not None:
        pytest.fail(f"Orthanc ended with status {orthanc.process.returncode}")
    try:
        return bool(orthanc.get("/system"))
    except httpx.HTTPError:
        return False
