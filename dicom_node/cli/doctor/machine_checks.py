"""The doctor's checks of this machine: rights, disk, clock, TLS files, fonts, the audit collector."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import smtplib
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from dicom_node.config import OidcSection, Settings, TlsSection
from dicom_node.report.render.fonts import missing_scripts

SLOW_DISK_MB_PER_SECOND = 20.0
"""Below it a busy hour of 0.5 MB images at 2 studies per second would not fit on the disk in time."""
DISK_PROBE_BYTES = 16 << 20
FSYNC_LIMIT_SECONDS = 0.25
CERTIFICATE_WARNING_DAYS = 30
TIME_ERROR = 5
"""Result of adjtimex(2) while nothing synchronises the kernel's clock."""
OLDEST_YEAR = 2026
MAIL_SECONDS = 10.0


class Grade(StrEnum):
    """The grade of one check."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line."""

    what: str
    grade: Grade
    text: str


def write_rights(folder: Path) -> Check:
    """Make the data folder and a file in it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".doctor-{secrets.token_hex(8)}"
    probe.write_bytes(b"")
    probe.unlink()
    return Check(what="data folder", grade=Grade.GOOD, text=f"{folder} can be written")


def disk_speed(folder: Path) -> Check:
    """Write and fsync: what each received instance waits for."""
    probe = folder / f".doctor-{secrets.token_hex(8)}"
    data = os.urandom(1 << 20)
    started = time.perf_counter()
    try:
        with probe.open("wb") as file:
            for _ in range(DISK_PROBE_BYTES // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            speed = DISK_PROBE_BYTES / 10**6 / (time.perf_counter() - started)
            started = time.perf_counter()
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            sync = time.perf_counter() - started
    finally:
        probe.unlink(missing_ok=True)
    slow = speed < SLOW_DISK_MB_PER_SECOND or sync > FSYNC_LIMIT_SECONDS
    text = f"{speed:.0f} MB/s written and synced, one fsync {1000 * sync:.1f} ms"
    return Check(what="disk speed", grade=Grade.WARNING if slow else Grade.GOOD, text=text)


def tls_files(tls: TlsSection) -> Check:
    """Certificate and key fit, the authority can be read, and nothing ran out. Raises OSError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    # CPython has no public reader of certificates; this one is what its own tests use.
    certificate = ssl._ssl._test_decode_cert(str(tls.certificate))  # type: ignore[attr-defined]  # private, so without a type
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    days = (ends - datetime.now(UTC)).days
    if days < 0:
        return Check(what="TLS files", grade=Grade.BAD, text=f"{tls.certificate} ran out on {ends:%Y-%m-%d}")
    grade = Grade.WARNING if days < CERTIFICATE_WARNING_DAYS else Grade.GOOD
    return Check(what="TLS files", grade=grade, text=f"certificate and key fit; valid until {ends:%Y-%m-%d}")


def files(settings: Settings) -> Iterator[Check]:
    """Every file that the configuration names can be read; otherwise one line for each that cannot, by its key."""
    missing = []
    for key, path in _paths_in(settings, ""):
        if key not in FOLDERS and not os.access(path, os.R_OK):
            why = "this user may not read it" if path.exists() else "no such file"
            missing.append(Check(what="files", grade=Grade.BAD, text=f"{key}: {path}: {why}"))
    yield from missing or [Check(what="files", grade=Grade.GOOD, text="every file that is named can be read")]


FOLDERS = ("node.data_dir", "retrain.folder")
"""Made where they are not there."""


def _paths_in(value: object, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths_in(getattr(value, name), f"{key}.{name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _paths_in(item, f"{key}.{number}")


def mail_server(settings: Settings) -> Check:
    """Connect to the mail server that notices go to. Raises OSError."""
    notify = settings.notify
    where = f"{notify.smtp_host}:{notify.smtp_port}"
    try:
        with smtplib.SMTP(notify.smtp_host, notify.smtp_port, timeout=MAIL_SECONDS) as server:
            server.noop()
    except smtplib.SMTPException as error:
        raise OSError(f"{where} speaks no SMTP: {error}") from error
    except OSError as error:
        raise OSError(f"notify.smtp_host, smtp_port: {where}: {error.strerror or error}") from error
    return Check(what="mail server", grade=Grade.GOOD, text=f"{where} answers")


def clock() -> Check:
    """A year that cannot be, and whether the kernel says that a time service keeps its clock (adjtimex)."""
    now = datetime.now(UTC)
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now.year < OLDEST_YEAR:
        return Check(what="clock", grade=Grade.BAD, text=f"the clock says {text}: set it")
    if not _is_kept():
        return Check(what="clock", grade=Grade.WARNING, text=f"{text}; kept by no time service: TLS needs one")
    return Check(what="clock", grade=Grade.GOOD, text=f"{text}, kept by a time service")


def _is_kept() -> bool:
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:  # not Linux
        return False
    read_only = ctypes.create_string_buffer(512)  # struct timex with modes 0, and room to spare
    return int(adjtimex(read_only)) not in (TIME_ERROR, -1)


def free_disk(settings: Settings) -> Check:
    """Room on the data folder's disk, against what the receiver and retention ask for."""
    usage = shutil.disk_usage(settings.node.data_dir)
    percent, mib = 100 * usage.free / usage.total, usage.free // (1 << 20)
    text = f"{mib / 1024:.1f} GiB free, {percent:.0f} %"
    if mib < settings.receive.min_free_mib:
        return Check(what="disk space", grade=Grade.BAD, text=f"{text}; below receive.min_free_mib all is refused")
    if percent < settings.retention.keep_free_percent:
        return Check(what="disk space", grade=Grade.WARNING, text=f"{text}; below retention.keep_free_percent")
    return Check(what="disk space", grade=Grade.GOOD, text=text)


def fonts() -> Check:
    """Only where a destination asks for a PDF: whose names it could not show."""
    missing = missing_scripts()
    if missing:
        text = f"no font for {', '.join(missing)}: install fonts-dejavu-core, fonts-droid-fallback, fonts-nanum"
        return Check(what="fonts of the PDF", grade=Grade.WARNING, text=text)
    return Check(what="fonts of the PDF", grade=Grade.GOOD, text="they show every script that is looked for")


def log_in_provider(settings: OidcSection) -> Check:
    """Read the discovery document of the log-in provider and its keys. Raises LogInError."""
    from dicom_node.web.oidc import OidcProvider

    OidcProvider(settings, secret="").check()
    return Check(what="log-in provider", grade=Grade.GOOD, text=f"{settings.issuer} answers, and its keys can be read")


def merged_ids(settings: Settings) -> Check:
    """Read the file of merged patient IDs as the node does. Raises ConfigurationError."""
    from dicom_node.priors.policy import policy_of  # heavier than the other checks

    count = len(policy_of(settings).merged_keys)
    return Check(what="merged IDs", grade=Grade.GOOD, text=f"{count} merged patient IDs")


def collector(settings: Settings) -> Check:
    """Connect to the audit collector, with TLS if configured. Raises OSError."""
    from dicom_node.audit.syslog import connect

    connect(settings.audit).close()
    text = f"{settings.audit.host}:{settings.audit.port} takes connections by {settings.audit.transport}"
    return Check(what="audit collector", grade=Grade.GOOD, text=text)
