"""Against a PACS that others wrote: Orthanc takes the documents, commits to them, and lists each once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from dicom_node.deliver import peer
from dicom_node.deliver.stow import check
from dicom_node.index.tables import DeliveryState
from dicom_node.receive import Receiver
from tests.deliver.nodes import Clock, deliveries, make_node, make_result, run_due
from tests.support import free_port, program, wait_until

PLUGINS = Path("/usr/share/orthanc/plugins")


@dataclass(frozen=True, slots=True)
class Orthanc:
    dicom_port: int
    http_port: int

    def get(self, path: str) -> list[str]:
        answer = httpx.get(f"http://127.0.0.1:{self.http_port}{path}", trust_env=False)
        answer.raise_for_status()
        found: list[str] = answer.json()
        return found

    def sop_instance_uids(self) -> list[str]:
        tags = [f"/instances/{one}/content/0008-0018" for one in self.get("/instances")]
        base = f"http://127.0.0.1:{self.http_port}"
        return sorted(httpx.get(base + tag, trust_env=False).text.strip("\x00 ") for tag in tags)


@contextmanager
def orthanc(folder: Path, *, report_port: int = 0) -> Iterator[Orthanc]:
    """Orthanc with its DICOMweb plugin on loopback; its commitment reports go to `report_port`."""
    folder.mkdir()
    dicom_port, http_port = free_port(), free_port()
    configuration = {
        "Name": "TEST",
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomModalities": {"lumen": ["LUMEN", "127.0.0.1", report_port or free_port()]},
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration), "utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(http_port), seconds=60, what="Orthanc")
        yield Orthanc(dicom_port, http_port)
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/system", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_orthanc_commits_to_each_document_by_a_report_to_our_own_receiver(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, node={"data_dir": tmp_path / "data", "host": "127.0.0.1", "port": 0})
    receiver = Receiver(node.settings, node.database, node.store)
    receiver.start()
    try:
        with orthanc(tmp_path / "orthanc", report_port=receiver.port) as pacs:
            where = {"name": "pacs", "ae_title": "ORTHANC", "port": pacs.dicom_port, "same_association_seconds": 0}
            node = make_node(tmp_path, clock, where, delivery={"connect_seconds": 5, "response_seconds": 20})
            uids = make_result(node) + make_result(node)
            run_due(node)
            wait_until(
                lambda: {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED},
                seconds=30,
                what="Orthanc's commitment reports",
            )
            assert {row.proof for row in deliveries(node)} == {"commitment"}
            assert pacs.sop_instance_uids() == sorted(uids)
            result = peer.echo(node.settings.destinations[0], node.settings.delivery, calling_ae_title="LUMEN")
            assert "storage commitment" in result.services
    finally:
        receiver.stop()


@pytest.mark.parametrize(("verify", "proof"), [("find", "find"), ("none", "stow")])
def test_the_same_by_stow_and_qido_and_twice_is_still_one_copy(tmp_path: Path, verify: str, proof: str) -> None:
    clock = Clock()
    with orthanc(tmp_path / "orthanc") as pacs:
        where = {"name": "web", "url": f"http://127.0.0.1:{pacs.http_port}/dicom-web", "verify": verify}
        node = make_node(tmp_path, clock, where)
        check(node.settings.destinations[0], node.settings.delivery)
        uids = make_result(node)
        run_due(node)
        assert [(row.state, row.proof) for row in deliveries(node)] == [(DeliveryState.CONFIRMED, proof)] * 2
        from dicom_node.deliver.queue import resend

        with node.database.write() as session:
            resend(session, [row.id for row in deliveries(node)], now=clock.now, settings=node.settings.delivery)
        run_due(node)
        assert {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}
        assert pacs.sop_instance_uids() == sorted(uids)
