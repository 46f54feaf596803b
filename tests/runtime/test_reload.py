"""SIGHUP to a running node: peers and certificates as the file has them now; a wrong file changes nothing."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator

import pytest
from pynetdicom import AE

from dicom_node.index import schema
from dicom_node.index.database import Database
from tests.support.certificates import Authority
from tests.support.common import free_port, wait_until
from tests.support.node import Node, new_node
from tests.support.postgres import PostgresServer
from tests.support.receiver import CR, radiograph

CLOSED = "[receive]\nmin_free_mib = 0\nunnamed_store = false\n"
NAMED = '[[receive.peers]]\nae_title = "MODALITY"\naddresses = ["127.0.0.1"]\n'


class Reloading:
    """A node of role receive (no model to load) and its configuration file."""

    def __init__(self, node: Node, tls_port: int) -> None:
        self.node, self.tls_port, self.base = node, tls_port, node.config.read_text("utf-8")

    def send_hup(self, more: str) -> None:
        """Write the file anew and have it read."""
        self.node.config.write_text(self.base + more, "utf-8")
        ready = self.node.log.count("node ready")
        assert self.node.process is not None
        self.node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.node.log.count("node ready") > ready, seconds=120, what="the node to be ready again")

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


def test_wrong_file_or_another_data_folder_leaves_the_node_as_it_was(reloading: Reloading) -> None:
    reloading.send_hup(NAMED)
    reloading.send_hup("[receive\n")
    assert "configuration not reloaded: the old one stays in force" in reloading.node.log
    assert reloading.store() == 0
    base, reloading.base = reloading.base, reloading.base.replace("[node]\n", '[node]\ndata_dir = "elsewhere"\n')
    reloading.send_hup("")
    reloading.base = base
    assert "cannot be changed while the node runs" in reloading.node.log
    assert reloading.store() == 0
    assert reloading.node.process is not None
    assert reloading.node.process.poll() is None
