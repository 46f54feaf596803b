"""A name for this process that no other process has, on this machine or another one, now or later.

Host names and process ids do not serve: containers repeat both. The name begins with the machine *as the kernel knows
it* (boot and PID namespace), in which a process id means one process; only there may a successor conclude from a
missing process that its worker is gone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dicom_node.system.child_process import is_running

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@cache
def boot() -> str:
    """Return a name for this run of the machine, from one start of its kernel to the next.

    Where the system does not tell (no Linux), the name is this process's own.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return secrets.token_hex(16)


@cache
def machine() -> str:
    """Return a name for the set of processes in which a process id is unique: one boot, one PID namespace.

    Where the system does not tell (no Linux), each process counts as a machine of its own: its lost jobs then come back
    when their leases run out.
    """
    try:
        boot_and_namespace = f"{_BOOT_ID.read_text('ascii').strip()}:{_PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return secrets.token_hex(6)
    return hashlib.sha256(boot_and_namespace.encode("ascii")).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """machine: see `machine`. pid: the process id there. nonce: drawn by the process, so that a reused id differs."""

    machine: str
    pid: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.machine}/{self.pid}/{self.nonce}"

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Read `str(identity)`, which may be followed by "/" and more; None where it is none."""
        parts = text.split("/")
        if len(parts) < 3 or not parts[1].isdecimal():
            return None
        return cls(machine=parts[0], pid=int(parts[1]), nonce=parts[2])

    def is_gone(self) -> bool:
        """Return True only where it is certain that the process has ended."""
        if self.machine != machine():
            return False
        if self.pid == os.getpid():
            # Our own process id in somebody else's row: a container gives the same number at each start, and the nonce
            # tells the life before from this one.
            return self.nonce != this_process().nonce
        return not is_running(self.pid)


@cache
def _identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity(machine=machine(), pid=pid, nonce=secrets.token_hex(8))


def describe_process() -> str:
    """Return this process's identity with the machine's name behind it, for people; it parses as the identity."""
    return f"{this_process()}/{socket.gethostname()}"


def shown_name(described: str) -> str:
    """Name a process for people by what `describe_process` wrote: its host and process id. Other text as it is."""
    identity = ProcessIdentity.parse(described)
    parts = described.split("/")
    return f"{parts[3]}, process {identity.pid}" if identity is not None and len(parts) == 4 else described


def this_process() -> ProcessIdentity:
    """Return the identity of this process; a forked child has one of its own."""
    return _identity_of(os.getpid())
