"""Certificates of an authority that exists only for one test run, made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.common import program


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    certificate: Path
    key: Path


def authority(folder: Path, name: str = "ca") -> Pair:
    """A self-signed authority."""
    pair = Pair(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-keyout", str(pair.key), "-out", str(pair.certificate)),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
    )
    return pair


def issued(folder: Path, ca: Pair, name: str, *, days: int = 2) -> Pair:
    """A certificate of that authority for localhost; negative days: it has expired."""
    pair = Pair(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")
    request = folder / f"{name}.csr"
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
        *("-keyout", str(pair.key), "-out", str(request)),
    )
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    validity = ("-days", str(days)) if days > 0 else ("-not_before", "20200101000000Z", "-not_after", "20200201000000Z")
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(ca.certificate), "-CAkey", str(ca.key), "-CAcreateserial"),
        *("-extfile", str(extensions), "-out", str(pair.certificate), *validity),
    )
    return pair


def client_context(ca: Pair, own: Pair | None = None) -> ssl.SSLContext:
    """The TLS context of a well-behaved client."""
    context = ssl.create_default_context(cafile=str(ca.certificate))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def _openssl(*arguments: str) -> None:
    subprocess.run([program("openssl"), *arguments], check=True, capture_output=True)
