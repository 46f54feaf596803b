"""A day's load without end: studies at a steady rate through a whole node to a PACS, while every process is watched.

    PYTHONPATH=. python benchmarks/bench_soak.py --seconds 600 --rate 2 --write

A real `dicom-node serve` with SQLite, a model, retention that removes each study soon after its proof, and a PACS on
loopback that commits to what it gets. Memory (RSS) and open files of each process of the node, and the bytes of its
data folder, are sampled once a second; after the warm-up a straight line is fitted, and its rise over the rest is what
"flat" is judged by. Needs psutil, which comes with accelerate.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE
from sqlalchemy import func, select

from benchmarks.watcher import Trend, Watcher, trend
from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
    Instance,
    Job,
    JobState,
    Result,
    Study,
    StudyState,
)
from tests.support.common import wait_until
from tests.support.faulty_pacs import Pacs
from tests.support.faulty_pacs import running as running_pacs
from tests.support.node import Node, new_node
from tests.support.node import running as running_node
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair

WARM_UP = 1 / 3
"""Share of the run before memory is judged: allocators, caches and retention come to rest."""
FILMS = 6
"""Pairs of films that the studies are made of, each under new UIDs and another patient."""
LONG_SIDE = 576
"""Pixels: about 0.5 MB with 16 bits."""
RETENTION = """
[retention]
every_seconds = 5
keep_days = 0.0002
keep_as_prior_days = 0
"""


@dataclass(slots=True, kw_only=True)
class Soaked:
    """One run."""

    seconds: float
    rate: float
    model: str
    at_once: int
    sent: int = 0
    refused: int = 0
    send_p50: float = 0.0
    send_p95: float = 0.0
    backlog: int = 0
    """Studies without their result when the last was sent."""
    drained_in: float = 0.0
    studies: int = 0
    current_results: int = 0
    twice_current: int = 0
    documents: int = 0
    unproven: int = 0
    at_pacs: int = 0
    dead: int = 0
    images_left: int = 0
    trends: list[Trend] = field(default_factory=list)
    began: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    load: float = 0.0


def soak(folder: Path, *, seconds: float, rate: float, model: str, at_once: int = 1) -> Soaked:
    """Run it. model: "tiny" (random weights of the real architecture), or a source as in [model]; at_once:
    `[model] studies_at_once`."""
    source = str(save_tiny(folder / "tiny")) if model == "tiny" else model
    run = Soaked(seconds=seconds, rate=rate, model=model, at_once=at_once)
    films = make_films(folder / "films")
    with site(folder, source, at_once) as (node, pacs):
        with Watcher(node) as watcher:
            send_all(run, films, node)
            run.backlog = waiting(node)
            run.load = os.getloadavg()[0]
            began = time.monotonic()
            wait_until(lambda: waiting(node) == 0 and unproven(node) == 0, seconds=20 * seconds + 600, what="the rest")
            run.drained_in = time.monotonic() - began
            worked = seconds + run.drained_in
        wait_until(lambda: images_left(node) == 0, seconds=120, what="retention to remove the last studies")
        count(run, node, pacs)
    # Idle time after the last proof would make any slope look flat.
    busy = {name: [s for s in samples if s.at <= worked] for name, samples in watcher.samples.items()}
    found = [trend(name, samples, worked * WARM_UP) for name, samples in sorted(busy.items())]
    run.trends = [one for one in found if one is not None]
    return run


@contextmanager
def site(folder: Path, source: str, at_once: int, *, more: str = "") -> Iterator[tuple[Node, Pacs]]:
    """The node and its PACS; more: further tables of the configuration."""
    with running_pacs(Pacs()) as pacs:
        destination = (
            f'[[destinations]]\nname = "pacs"\nae_title = "FAULTY"\nport = {pacs.port}\n'
            'verify = "commitment"\nsame_association_seconds = 5\n'
        )
        model = f'[model]\nsource = "{source}"\nstudies_at_once = {at_once}\n'
        extra = f"{model}{RETENTION}\n[receive]\nmin_free_mib = 0\n{more}"
        node = new_node(folder / "node", destinations=destination, quiet_seconds=1, extra=extra)
        node.is_forked = False
        with running_node(node):
            yield node, pacs


def make_films(folder: Path) -> list[pydicom.Dataset]:
    films: list[pydicom.Dataset] = []
    for seed in range(FILMS):
        pair = write_study_pair(folder / str(seed), seed, long_side=LONG_SIDE)
        films += [pydicom.dcmread(study.files[0]) for study in (pair.prior, pair.current)]
    return films


def send_all(run: Soaked, films: Sequence[pydicom.Dataset], node: Node) -> None:
    """One study after the other at the asked rate; each on an association of its own, as modalities do."""
    took = []
    began = time.monotonic()
    for number in range(round(run.seconds * run.rate)):
        pause = began + number / run.rate - time.monotonic()
        if pause > 0:
            time.sleep(pause)  # the load itself, not a wait for something
        started = time.monotonic()
        status = send(films[number % len(films)], number, node.port)
        took.append(time.monotonic() - started)
        run.sent += 1
        run.refused += status != 0
    run.send_p50, run.send_p95 = statistics.median(took), statistics.quantiles(took, n=20)[-1]


def send(film: pydicom.Dataset, number: int, port: int) -> int:
    """The film as a new study of another patient; the status that it was answered with, -1 without one."""
    film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    film.PatientID, film.PatientName = f"SOAK-{number}", f"Soak^Number {number}"
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="LUMEN")
    if not association.is_established:
        return -1
    status = association.send_c_store(film)
    association.release()
    return int(status.get("Status", -1))


def waiting(node: Node) -> int:
    """Studies that have no result yet."""
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.count()).where(Study.state != StudyState.ANALYSED)) or 0


def unproven(node: Node) -> int:
    ended = (DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED)
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.count()).where(Delivery.state.not_in(ended))) or 0


def images_left(node: Node) -> int:
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.count(Instance.id))) or 0


def count(run: Soaked, node: Node, pacs: Pacs) -> None:
    """Count studies, results, documents, failed jobs and unproven deliveries after the run."""
    with node.database() as database, database.read() as session:
        of_study = select(func.count()).where(Result.is_current).group_by(Result.study_pk)
        counts = list(session.scalars(of_study))
        run.studies = session.scalar(select(func.count(Study.id))) or 0
        run.current_results, run.twice_current = len(counts), sum(one > 1 for one in counts)
        run.documents = session.scalar(select(func.count(Document.id))) or 0
        run.dead = session.scalar(select(func.count()).where(Job.state == JobState.DEAD)) or 0
    run.unproven, run.at_pacs, run.images_left = unproven(node), len(pacs.kept), images_left(node)


def report(run: Soaked) -> str:
    """The run as Markdown."""
    lines = [
        f"`python benchmarks/bench_soak.py --seconds {run.seconds:.0f} --rate {run.rate:g} --model {run.model}"
        f"{f' --at-once {run.at_once}' if run.at_once else ''}`,"
        f" {run.began:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} shared cores, load at the end {run.load:.1f}.",
        "",
        f"{run.sent} studies sent, {run.refused} refused; C-STORE with its association: median {run.send_p50:.2f} s,"
        f" 95 % {run.send_p95:.2f} s. {run.backlog} without a result when the last was sent, all done and proven"
        f" {run.drained_in:.0f} s later: {run.current_results} studies with a current result, {run.twice_current} with"
        f" two; {run.documents} documents made, {run.at_pacs} at the PACS, {run.unproven} unproven, {run.dead} dead"
        f" letters, {run.images_left} images left by retention.",
        "",
        "| process or folder | median MiB | greatest MiB | rise of the fitted line MiB | files | rise of files |",
        "|---|---|---|---|---|---|",
    ]
    for one in run.trends:
        files = "" if one.name.startswith("disk") else f"{one.files:.0f}"
        rise = "" if one.name.startswith("disk") else f"{one.files_rise:+.1f}"
        lines.append(f"| {one.name} | {one.median:.1f} | {one.greatest:.1f} | {one.rise:+.1f} | {files} | {rise} |")
    share = 100 * (1 - WARM_UP)
    return "\n".join(
        [*lines, "", f"The lines are fitted to the last {share:.0f} % of the time in which the node had work."]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=2.0, help="studies per second")
    parser.add_argument("--model", default="tiny", help='"tiny", "demo" or another [model] source')
    parser.add_argument("--at-once", type=int, default=0, help="[model] studies_at_once; 0, as by default: by the load")
    parser.add_argument("--write", action="store_true", help="write the figures to docs/benchmarks.md")
    parser.add_argument("--folder", type=Path, help="where the node lies (kept); else a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = soak(folder, seconds=options.seconds, rate=options.rate, model=options.model, at_once=options.at_once)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    text = report(run)
    print(text)
    print({k: v for k, v in dataclasses.asdict(run).items() if k != "trends"}, file=sys.stderr)
    if options.write:
        from benchmarks.bench_receive import write_section
        from benchmarks.receive_targets import ROOT

        write_section(ROOT / "docs" / "benchmarks.md", "A steady load through the whole node", text)


if __name__ == "__main__":
    main()
