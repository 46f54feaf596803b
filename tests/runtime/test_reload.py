"""SIGHUP to a running node: peers and certificates as the file has them now; a wrong file changes nothing."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE

from benchmarks.bench_soak import send
from dicom_node.index import schema
from dicom_node.index.database import Database
from tests.support.certificates import Authority
from tests.support.common import free_port, wait_until
from tests.support.faulty_pacs import Pacs
from tests.support.faulty_pacs import running as running_pacs
from tests.support.node import Node, destination, new_node, running
from tests.support.postgres import PostgresServer
from tests.support.receiver import CR, radiograph
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair

CLOSED = "[receive]\nmin_free_mib = 0\nunnamed_store = false\n"
NAMED = '[[receive.peers]]\nae_title = "MODALITY"\naddresses = ["127.0.0.1"]\n'


class Reloading:
    """A node of role receive (no model to load) and its configuration file."""

    def __init__(self, node: Node, tls_port: int) -> None:
        self.node, self.tls_port, self.base = node, tls_port, node.config.read_text("utf-8")

    def send_hup(self, more: str, *, told: str = "node ready") -> None:
        """Write the file anew, have it read, and wait for what the log then tells."""
        self.node.config.write_text(self.base + more, "utf-8")
        before = self.node.log.count(told)
        assert self.node.process is not None
        self.node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.node.log.count(told) > before, seconds=120, what=f"the node to say {told!r}")

    def served_certificate(self) -> bytes | None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.tls_port), timeout=30) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return secured.getpeercert(binary_form=True)

    def store(self) -> int | None:
        """The status of a C-STORE of MODALITY; None where it is not let in with that."""
        ae = AE("MODALITY")
        ae.add_requested_context(CR, "1.2.840.10008.1.2.1")
        association = ae.associate("127.0.0.1", self.node.port, ae_title="LUMEN")
        try:
            if not association.is_established:
                return None
            return int(association.send_c_store(radiograph()).Status)
        finally:
            association.abort()


@pytest.fixture(scope="module")
def reloading(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Reloading]:
    folder = tmp_path_factory.mktemp("reload")
    url, tls_port = postgres_server.new_database(), free_port()
    database = Database(url)
    schema.upgrade(database)
    database.close()
    authority = Authority(folder)
    for name in ("first", "second"):
        authority.issue("127.0.0.1", name)
    tls = f'[tls]\nport = {tls_port}\ncertificate = "node.crt"\nkey = "node.key"\nclient_certificate = "none"\n'
    for end in ("crt", "key"):
        (folder / f"node.{end}").write_bytes((folder / f"first.{end}").read_bytes())
    node = new_node(folder, extra=f'[database]\nurl = "{url}"\n{tls}{CLOSED}')
    node.role = "receive"
    node.start()
    try:
        yield Reloading(node, tls_port)
    finally:
        node.stop()


def test_peer_and_certificate_of_the_new_file_count_at_once(reloading: Reloading) -> None:
    folder = reloading.node.folder
    before = reloading.served_certificate()
    assert reloading.store() != 0
    for end in ("crt", "key"):
        (folder / f"node.{end}").write_bytes((folder / f"second.{end}").read_bytes())
    reloading.send_hup(NAMED)
    after = reloading.served_certificate()
    assert after == ssl.PEM_cert_to_DER_cert((folder / "second.crt").read_text())
    assert after != before
    assert reloading.store() == 0
    assert "configuration reloaded" in reloading.node.log


def test_file_that_the_node_could_not_run_with_leaves_it_as_it_was(reloading: Reloading) -> None:
    """A wrong setting is found before anything is stopped: no port closes, not even for the time of a restart."""
    reloading.send_hup(NAMED)
    folder, base, ready = reloading.node.folder, reloading.base, reloading.node.log.count("node ready")
    certificate = (folder / "node.crt").read_bytes()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        elsewhere = base.replace("[node]\n", '[node]\ndata_dir = "elsewhere"\n')
        busy = base.replace(f"port = {reloading.node.port}\n", f"port = {taken.getsockname()[1]}\n")
        assert busy != base
        for text, reason in (
            (f"{base}[receive\n", "config.toml"),
            (elsewhere, "cannot be changed while the node runs"),
            (busy, "node.port"),
        ):
            reloading.base = text
            reloading.send_hup("", told="configuration not reloaded: the old one stays in force")
            assert reason in reloading.node.log
            assert reloading.store() == 0
    reloading.base = base
    other = "first" if certificate == (folder / "second.crt").read_bytes() else "second"
    (folder / "node.crt").write_bytes((folder / f"{other}.crt").read_bytes())  # and not its key
    reloading.send_hup(NAMED, told="do not make a pair")
    assert reloading.served_certificate() == ssl.PEM_cert_to_DER_cert(certificate.decode())
    (folder / "node.crt").write_bytes(certificate)
    assert reloading.store() == 0
    assert reloading.node.process is not None
    assert reloading.node.process.poll() is None
    assert reloading.node.log.count("node ready") == ready


def test_destination_of_the_new_file_gets_what_is_made_from_then_on(tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    film = pydicom.dcmread(write_study_pair(tmp_path / "films", 21, long_side=256).current.files[0])
    with running_pacs(Pacs()) as first, running_pacs(Pacs()) as second:
        tables = [destination(name, "FAULTY", pacs.port, "none") for name, pacs in (("a", first), ("b", second))]
        more = f'[model]\nsource = "{tiny}"\n[receive]\nmin_free_mib = 0\n'
        node = new_node(tmp_path / "node", destinations=tables[0], extra=more)
        with running(node):
            assert send(film, 1, node.port) == 0
            wait_until(lambda: len(first.kept) == 2, seconds=300, what="the reports at the first destination")
            reloading = Reloading(node, 0)
            reloading.send_hup(tables[1])
            assert send(film, 2, node.port) == 0
            wait_until(lambda: len(first.kept) == 4 and len(second.kept) == 2, seconds=300, what="the reports at both")
