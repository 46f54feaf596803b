"""The receiver beside DCMTK storescp and Orthanc, in one run, same sender, same files: `make bench-receive`.

Every peer gets the same files from DCMTK storescu with TCP_NODELAY=1 (without it DCMTK and Orthanc stall about 50 ms
per instance). Rounds are interleaved, so that a busy machine is busy for all of them; the tables hold medians, of
instances per second and of the processor time of the receiver's own processes. What an earlier run left to be written
is on the disk before the next one begins, or each target would wait for the disk of the one before it.

storescp syncs nothing. Where a C compiler is installed, it runs a second time with an fsync of each file before it is
closed and so before Success: what a receiver that loses nothing at a power cut costs without an index.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from benchmarks.receive_targets import ROOT, Target, all_targets, program
from dicom_node.admin.formats import amount

SIZES = {"8 MB": (2048, 2048), "0.5 MB": (512, 512)}
"""Rows and columns of 16 bit images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One case once, at one target."""

    per_second: float
    cpu_milliseconds: float
    """Of the target, for one instance."""


Figures = dict[tuple[str, "Case"], list[Run]]
"""Target's name and case → one run a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    size: str
    senders: int
    files_per_sender: int

    def __str__(self) -> str:
        return f"{self.size} x{self.senders}"


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
    parser.add_argument("--cases", default="", help="parts of the names of cases, with | between them: 8 MB x4")
    parser.add_argument("--beside", type=Path, help="another checkout, whose node runs in the same rounds")
    parser.add_argument("--busy", action="store_true", help="note that the machine had other work")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT, prefix="bench-") as folder, ExitStack() as running:
        work = Path(folder)
        wanted = arguments.only.split("|") if arguments.only else []
        starts = {name: start for name, start in all_targets(arguments.beside).items() if not wanted or name in wanted}
        targets = [running.enter_context(start(work, name)) for name, start in starts.items()]
        cases = [case for case in CASES if any(part in str(case) for part in arguments.cases.split("|"))]
        figures = measure(targets, cases, arguments.rounds, work)
    report = table(targets, cases, figures, arguments.rounds, busy=arguments.busy)
    print(report)
    if arguments.write:
        write_section(ROOT / "docs" / "benchmarks.md", "Receiving", report)


def measure(targets: list[Target], cases: list[Case], rounds: int, work: Path) -> Figures:
    """Run each case at each target, round by round."""
    figures: Figures = {}
    for number in range(rounds):
        for case in cases:
            for target in targets:
                run = one_run(target, case, work / "send")
                figures.setdefault((target.name, case), []).append(run)
                what = f"round {number + 1} {case} {target.name}"
                print(f"{what}: {run.per_second:.1f}/s, {run.cpu_milliseconds:.2f} CPU ms", file=sys.stderr)
    return figures


def one_run(target: Target, case: Case, folder: Path) -> Run:
    """Send fresh files by `senders` parallel storescu."""
    lists = [make_files(folder / str(number), case) for number in range(case.senders)]
    command = [program("storescu"), "-xe", "--scan-directories", "-aec", target.ae_title, "127.0.0.1", str(target.port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    os.sync()
    used = target.cpu_seconds()
    began = time.perf_counter()
    senders = [subprocess.Popen([*command, str(path)], env=environment, stderr=subprocess.PIPE) for path in lists]
    for sender in senders:
        _, errors = sender.communicate()
        if sender.returncode or b"Failure" in errors:
            raise SystemExit(f"{target.name}: storescu failed: {errors.decode()}")
    seconds = time.perf_counter() - began
    count = case.senders * case.files_per_sender
    used = target.cpu_seconds() - used
    shutil.rmtree(folder)
    return Run(per_second=count / seconds, cpu_milliseconds=1000 * used / count)


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


def table(targets: list[Target], cases: list[Case], figures: Figures, rounds: int, *, busy: bool) -> str:
    """The figures as Markdown: medians, and the ratios of the faster node to its peers."""
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
    for case in cases:
        medians = {name: statistics.median(run.per_second for run in figures[name, case]) for name in names}
        ours = max((rate for name, rate in medians.items() if name.startswith("node")), default=float("nan"))
        ratios = [f"{ours / medians[peer]:.2f}" if peer in medians else "–" for peer in ("storescp --fork", "Orthanc")]
        cells = [f"{medians[name]:.1f}" for name in names] + ratios
        lines.append(f"| {case.size}, {amount(case.senders, 'sender')} | " + " | ".join(cells) + " |")
    lines += ["", "The ratios take the faster node. Processor time of the receiver's processes, ms an instance:", ""]
    lines += ["| case | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for case in cases:
        used = [statistics.median(run.cpu_milliseconds for run in figures[name, case]) for name in names]
        cells = [f"{milliseconds:.2f}" for milliseconds in used]
        lines.append(f"| {case.size}, {amount(case.senders, 'sender')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


if __name__ == "__main__":
    main()
