"""A receiver in a process of its own, and what the kernel says about it: memory, threads, open files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.common import free_port, listening, wait_until
from tests.support.forked import ForkedProcess
from tests.support.half_written import half_written

LISTENING = "receiver listening"
"""Said when the sockets are open and every thread has been started."""


@dataclass(slots=True, kw_only=True)
class ReceiverProcess:
    """`python -m dicom_node.receive` on a configuration of its own."""

    folder: Path
    port: int
    tls_port: int = 0
    cold: bool = True
    """Start an interpreter for it, as a hospital does: its memory is what such a one takes. Else it is forked."""
    process: subprocess.Popen[bytes] | ForkedProcess = field(init=False)

    def start(self) -> None:
        """Start it and wait until it listens, and all its threads run."""
        before = self.log().count(LISTENING)
        module, config, log = "dicom_node.receive", str(self.folder / "config.toml"), self.folder / "log"
        if self.cold:
            with log.open("ab") as said:
                self.process = subprocess.Popen([sys.executable, "-m", module, config], stdout=said, stderr=said)
        else:
            self.process = ForkedProcess(module, [config], log=log)
        wait_until(
            lambda: self._listens() and self.log().count(LISTENING) > before,
            seconds=60,
            what=f"the receiver to listen\n{self.log()[-2000:]}",
        )

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log()[-2000:]
        return listening(self.port) and (not self.tls_port or listening(self.tls_port))

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def peak_mib(self) -> float:
        """The most memory that was ever resident (VmHWM)."""
        return self._status("VmHWM") / 1024

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def open_sockets(self) -> int:
        count = 0
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                count += str(path.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue  # closed between two looks
        return count

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
        raise AssertionError(name)

    def part_files(self) -> list[Path]:
        return half_written(self.folder / "data")

    def stored_files(self) -> list[Path]:
        return list((self.folder / "data").rglob("*.dcm"))


@contextmanager
def receiver_process(
    folder: Path,
    *,
    receive: Mapping[str, object] | None = None,
    tls: Mapping[str, object] | None = None,
    storage: Mapping[str, object] | None = None,
    cold: bool = True,
) -> Iterator[ReceiverProcess]:
    """A running receiver process; killed at the end if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = ["[node]", f"port = {port}", 'host = "127.0.0.1"', "[receive]", "min_free_mib = 0"]
    lines += [f"{key} = {value}" for key, value in (receive or {}).items()]
    tls_port = 0
    if tls is not None:
        tls_port = free_port()
        lines += ["[tls]", f"port = {tls_port}", *(f'{key} = "{value}"' for key, value in tls.items())]
    if storage is not None:
        lines += ["[storage]", *(f"{key} = {json.dumps(value, default=str)}" for key, value in storage.items())]
    (folder / "config.toml").write_text("\n".join(lines) + "\n", "utf-8")
    running = ReceiverProcess(folder=folder, port=port, tls_port=tls_port, cold=cold)
    running.start()
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
