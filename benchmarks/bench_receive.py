"""The receiver beside DCMTK storescp and Orthanc, in one run, same sender, same files: `make bench-receive`.

Every peer gets the same files from DCMTK storescu with TCP_NODELAY=1 (without it DCMTK and Orthanc stall about 50 ms
per instance). Rounds are interleaved, so that a busy machine is busy for all of them; the table holds medians.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"8 MB": (2048, 2048), "0.5 MB": (512, 512)}
"""Rows and columns of 16 bit images."""
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running receiver."""

    name: str
    port: int
    ae_title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    size: str
    senders: int
    files_per_sender: int


CASES = (
    Case(size="8 MB", senders=1, files_per_sender=40),
    Case(size="8 MB", senders=4, files_per_sender=20),
    Case(size="0.5 MB", senders=1, files_per_sender=150),
    Case(size="0.5 MB", senders=4, files_per_sender=75),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    parser.add_argument("--only", default="", help="names of targets, with | between them")
    parser.add_argument("--busy", action="store_true", help="note that the machine had other work")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT, prefix="bench-") as folder, ExitStack() as running:
        work = Path(folder)
        targets = [
            running.enter_context(node(work / "node1", processes=1)),
            running.enter_context(node(work / "node2", processes=2)),
            running.enter_context(storescp(work / "storescp")),
            running.enter_context(orthanc(work / "orthanc")),
        ]
        if arguments.only:
            targets = [target for target in targets if target.name in arguments.only.split("|")]
        figures = measure(targets, arguments.rounds, work)
    report = table(targets, figures, arguments.rounds, busy=arguments.busy)
    print(report)
    if arguments.write:
        write_section(ROOT / "docs" / "benchmarks.md", "Receiving", report)


def measure(targets: list[Target], rounds: int, work: Path) -> dict[tuple[str, Case], list[float]]:
    """Instances per second, per target and case, one figure per round."""
    figures: dict[tuple[str, Case], list[float]] = {}
    for number in range(rounds):
        for case in CASES:
            for target in targets:
                rate = one_run(target, case, work / "send")
                figures.setdefault((target.name, case), []).append(rate)
                print(f"round {number + 1} {case.size} x{case.senders} {target.name}: {rate:.1f}/s", file=sys.stderr)
    return figures


def one_run(target: Target, case: Case, folder: Path) -> float:
    """Send fresh files by `senders` parallel storescu; instances per second. Raises CalledProcessError."""
    lists = [make_files(folder / str(number), case) for number in range(case.senders)]
    command = [program("storescu"), "-xe", "--scan-directories", "-aec", target.ae_title, "127.0.0.1", str(target.port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    began = time.perf_counter()
    senders = [subprocess.Popen([*command, str(path)], env=environment, stderr=subprocess.PIPE) for path in lists]
    for sender in senders:
        _, errors = sender.communicate()
        if sender.returncode or b"Failure" in errors:
            raise SystemExit(f"{target.name}: storescu failed: {errors.decode()}")
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    return case.senders * case.files_per_sender / seconds


def make_files(folder: Path, case: Case) -> Path:
    """Fresh instances of one study, so that nobody can answer "known already"."""
    folder.mkdir(parents=True)
    rows, columns = SIZES[case.size]
    pixels = np.random.default_rng(1).integers(0, 4095, (rows, columns), dtype=np.uint16).tobytes()
    study, series = generate_uid(), generate_uid()
    for number in range(case.files_per_sender):
        image(study, series, number, rows, columns, pixels).save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def image(study: str, series: str, number: int, rows: int, columns: int, pixels: bytes) -> Dataset:
    data_set = Dataset()
    data_set.SOPClassUID = DigitalXRayImageStorageForPresentation
    data_set.SOPInstanceUID = generate_uid()
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = study, series
    data_set.PatientID, data_set.PatientName = f"P{study[-12:]}", "Bench^Mark"
    data_set.PatientBirthDate, data_set.PatientSex = "19700101", "O"
    data_set.StudyDate, data_set.StudyTime = "20260101", "120000"
    data_set.AccessionNumber, data_set.StudyID, data_set.Modality = "A", "1", "DX"
    data_set.SeriesNumber, data_set.InstanceNumber = 1, number + 1
    data_set.ViewPosition, data_set.PresentationIntentType = "PA", "FOR PRESENTATION"
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns = rows, columns
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 16, 12, 11, 0
    data_set.PixelData = pixels
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data_set


@contextmanager
def node(folder: Path, *, processes: int) -> Iterator[Target]:
    """Our receiver as separate processes on one port."""
    folder.mkdir()
    port = free_port()
    config = folder / "config.toml"
    config.write_text(
        f'[node]\nae_title = "NODE"\nhost = "127.0.0.1"\nport = {port}\nreceivers = {processes}\n'
        "[receive]\nmin_free_mib = 0\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "dicom_node.receive", str(config)]
    log = (folder / "log").open("w")
    started = []
    for _ in range(processes):
        started.append(subprocess.Popen(command, stderr=log, stdout=log))
        wait_for(port)
        time.sleep(1.0)  # the second process listens on the same port: nothing to wait for from outside
    yield from until_closed(started, Target(name=f"node, {plural(processes)}", port=port, ae_title="NODE"))


def plural(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


@contextmanager
def storescp(folder: Path) -> Iterator[Target]:
    """DCMTK's receiver, a process per association; no index, no fsync."""
    folder.mkdir()
    port = free_port()
    command = [program("storescp"), "--fork", "-aet", "STORESCP", "-od", str(folder), "+xa", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"}, stderr=subprocess.DEVNULL)
    wait_for(port)
    yield from until_closed([process], Target(name="storescp --fork", port=port, ae_title="STORESCP"))


@contextmanager
def orthanc(folder: Path) -> Iterator[Target]:
    """Orthanc as Debian ships it, with its SQLite index."""
    folder.mkdir()
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    command = [program("Orthanc"), str(folder / "orthanc.json")]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    yield from until_closed([process], Target(name="Orthanc", port=port, ae_title="ORTHANC"))


def until_closed(processes: list[subprocess.Popen[bytes]], target: Target) -> Iterator[Target]:
    try:
        yield target
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def table(targets: list[Target], figures: dict[tuple[str, Case], list[float]], rounds: int, *, busy: bool) -> str:
    """The figures as Markdown: medians in instances per second, and the ratios of the one-process node to the peers."""
    names = [target.name for target in targets]
    lines = [
        f"`make bench-receive`, {dt.datetime.now(dt.UTC):%Y-%m-%d}, {machine()}"
        f"{', busy with other work' if busy else ''};"
        f" medians of {rounds} interleaved rounds, instances per second, sender DCMTK storescu on the same machine,"
        " TCP_NODELAY=1, node with fsync of file, folder and index.",
        "",
        "| case | " + " | ".join(names) + " | node ÷ storescp | node ÷ Orthanc |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for case in CASES:
        medians = {name: statistics.median(figures[name, case]) for name in names}
        ours = max((rate for name, rate in medians.items() if name.startswith("node")), default=float("nan"))
        ratios = [f"{ours / medians[peer]:.2f}" if peer in medians else "–" for peer in ("storescp --fork", "Orthanc")]
        cells = [f"{medians[name]:.1f}" for name in names] + ratios
        senders = "1 sender" if case.senders == 1 else f"{case.senders} senders"
        lines.append(f"| {case.size}, {senders} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "The ratios take the faster of the two node columns."])


def machine() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{os.cpu_count()} shared cores, {model}"


def write_section(path: Path, title: str, body: str) -> None:
    """Replace or append one section of the benchmark page, without touching what people wrote under `### `."""
    text = path.read_text("utf-8") if path.exists() else "# Benchmarks\n"
    head = f"## {title}\n"
    if head in text:
        before, rest = text.split(head, 1)
        following = rest.find("\n## ")
        notes_at = rest.find("\n### ")
        notes = rest[notes_at : following if following >= 0 else None] if notes_at >= 0 else ""
        if following >= 0 and notes_at > following:
            notes = ""
        after = rest[following:] if following >= 0 else "\n"
        text = before + head + "\n" + body + "\n" + notes.rstrip() + "\n" + after
    else:
        text = text.rstrip() + f"\n\n{head}\n{body}\n"
    path.write_text(text, "utf-8")


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        raise SystemExit(f"{name} is not installed: scripts/install_test_tools.sh installs it")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}")


if __name__ == "__main__":
    main()
