"""TLS of the receiver by PS3.15 annex B (BCP 195): 1.2 and 1.3, forward secrecy and AEAD only, checked at start."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicom_node.config import TlsSection
from dicom_node.errors import ConfigurationError

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK"
"""For TLS 1.2 (RFC 9325 section 4.2); the suites of TLS 1.3 are all of this kind."""


def server_context(tls: TlsSection) -> ssl.SSLContext:
    """The context of the TLS port. Raises ConfigurationError naming the key whose file is wrong."""
    for key, path in (("certificate", tls.certificate), ("key", tls.key), ("ca", tls.ca)):
        if path is not None:
            _require_readable(f"tls.{key}", path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # Compression leaks secrets by the length of records (RFC 9325 section 3.3), and renegotiation in TLS 1.2 lets a
    # client make the server work at will (section 3.5).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password(tls.key))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"tls.certificate {tls.certificate} and tls.key {tls.key} do not make a pair: {error}"
        ) from error
    if tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except ssl.SSLError as error:
            raise ConfigurationError(f"tls.ca {tls.ca}: no certificate of an authority: {error.reason}") from error
    _rehearse(context, tls.certificate)
    if tls.client_certificate == "required":
        # Set after the rehearsal, whose client has no certificate to show.
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_readable(key: str, path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ConfigurationError(f"{key} {path}: {error.strerror}") from error


def _no_password(key: Path) -> Callable[[], str]:
    """Without it OpenSSL would ask for the password on the terminal, and a service would hang there."""

    def refuse() -> str:
        raise ValueError(f"{key} is encrypted; a service cannot be asked for a password: protect the file by its owner")

    return refuse


def _rehearse(context: ssl.SSLContext, certificate: Path) -> None:
    """A handshake with ourselves in memory: certificate, key and ciphers work, and the certificate is valid today."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # The certificate itself is the trust anchor here: its authority's may be unknown to this machine.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)]
    try:
        # In each pass an end goes as far as it can with the bytes that it has; TLS 1.2, the longer of the two, needs
        # three.
        for _ in range(4):
            ends = [end for end in ends if not _finish_handshake(end)]
    except ssl.SSLCertVerificationError as error:
        raise ConfigurationError(f"tls.certificate {certificate}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ConfigurationError(f"tls.certificate {certificate}: cannot be used: {error.reason}") from error
    if ends:
        raise ConfigurationError(f"tls.certificate {certificate}: a handshake with it does not end")


def _finish_handshake(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
