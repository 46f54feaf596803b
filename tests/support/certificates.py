"""Certificates of a test's own authority, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.common import program


class Authority:
    """An authority in `folder`; `issue` gives certificate and key of a loopback peer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
            *("-subj", "/CN=test authority", "-keyout", str(self._key), "-out", str(self.certificate)),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
        )

    def issue(self, address: str, name: str = "peer") -> tuple[Path, Path]:
        """Certificate and key for an IP address."""
        key, request, certificate = (self._folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        extension = self._folder / f"{name}.ext"
        extension.write_text(f"subjectAltName=IP:{address}\n", "ascii")
        self._openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", str(key), "-out", str(request)),
        )
        self._openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-days", "30", "-extfile", str(extension), "-out", str(certificate)),
        )
        return certificate, key

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run([program("openssl"), *arguments], check=True, capture_output=True)
