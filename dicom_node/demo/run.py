"""`dicom-node demo`: a real node and a small PACS on loopback do the main job on a prior and a current study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from sqlalchemy import func, select

from dicom_node.analysis.rendering import load_report, page_of, picture_of, text_of
from dicom_node.config import ModelSection, load_settings
from dicom_node.context import NodeContext
from dicom_node.demo.keep import Login, keep_running
from dicom_node.demo.peers import DemoPacs, send
from dicom_node.demo.ports import accepts, free_port
from dicom_node.errors import NodeError, UsageError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, DeliveryState, Document, Job, JobState, Result, Study, StudyState
from dicom_node.storage.opening import open_store

AE_TITLE = "LUMEN"
START_SECONDS = 900.0
FINISH_SECONDS = 1800.0
"""Guards against a node that hangs; one that ends is noticed at once. A busy laptop needs minutes."""
POLL_SECONDS = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _StudyFiles:
    """The files of one study, in the order in which it will be sent."""

    study_instance_uid: str
    order: tuple[str, str, str]
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Leave everything running after the reports. viewer: OHIF's built pages, where they are at hand."""

    viewer: Path | None = None
    web_port: int = field(default_factory=free_port)
    login: Login = field(default_factory=Login)


def run_demo(
    *,
    studies: Path | None,
    out: Path,
    seed: int,
    model: ModelSection,
    say: Say,
    keep: Keep | None = None,
    beside: Path | None = None,
) -> None:
    """Send the studies as a PACS would, wait for the reports to come back, and leave them in `out`.

    keep: node, pages and PACS then run on until Ctrl-C. beside: folder of DICOM files that are sent after the studies.
    Raises NodeError where the node does not finish, UsageError where a folder holds no DICOM file.
    """
    started = time.monotonic()
    more = _given_studies(beside, "--beside", say) if beside is not None else []
    with tempfile.TemporaryDirectory(prefix="dicom-node-demo-") as work:
        folder = Path(work)
        to_send = [*_studies(studies, folder, seed, say), *more]
        pacs = DemoPacs(folder / "pacs")
        pacs.start()
        try:
            _send_and_collect(to_send, pacs, folder, out, model, say, keep=keep, started=started)
        finally:
            pacs.stop()


def _send_and_collect(
    to_send: list[_StudyFiles],
    pacs: DemoPacs,
    folder: Path,
    out: Path,
    model: ModelSection,
    say: Say,
    *,
    keep: Keep | None,
    started: float,
) -> None:
    port = free_port()
    config = _write_config(folder, port, pacs, model, keep)
    pacs.knows("127.0.0.1", port, AE_TITLE)
    log = out / "node.log"
    out.mkdir(parents=True, exist_ok=True)
    with _node(config, log) as process:

        def listens() -> bool:
            if process.poll() is not None:
                raise NodeError(f"the node ended with status {process.returncode}; its log is {log}")
            return accepts(port)

        _wait(listens, START_SECONDS, "the node to listen", log)
        say(f"node {AE_TITLE} and PACS {pacs.ae_title} run on 127.0.0.1 (ports {port} and {pacs.port})")
        accepted = sum(_send(study, port, say) for study in to_send)
        if accepted == 0:
            raise NodeError(f"the node took none of the studies; its log is {log}")
        settings = load_settings(config)
        database, store = Database(settings.database.url), open_store(settings)
        node = NodeContext(settings=settings, database=database, store=store)
        try:
            _wait(lambda: _is_finished(database, accepted), FINISH_SECONDS, "reports and their proof", log)
            _collect(node, pacs, to_send, out, say)
        finally:
            database.close()
        took = time.monotonic() - started
        say(f"{len(to_send)} studies in {took:.0f} s; reports, page and picture are in {out}/")
        if keep is not None:
            _keep_running(keep, pacs, to_send, folder, say)


def _keep_running(keep: Keep, pacs: DemoPacs, sent: Sequence[_StudyFiles], folder: Path, say: Say) -> None:
    keep_running(
        web_port=keep.web_port,
        login=keep.login,
        held=pacs.held(),
        sent=[path for study in sent for path in study.files],
        folder=folder,
        viewer=keep.viewer,
        say=say,
    )


def _send(study: _StudyFiles, port: int, say: Say) -> bool:
    """Send one study; whether the node has taken any of it."""
    refused = send(study.files, "127.0.0.1", port, AE_TITLE)
    taken = len(study.files) - len(refused)
    say(f"sent study of {study.order[0] or 'unknown date'}: {taken} of {len(study.files)} objects taken")
    for path, why in refused.items():
        say(f"  not taken: {path.name}: {why}")
    return taken > 0


def _studies(given: Path | None, folder: Path, seed: int, say: Say) -> list[_StudyFiles]:
    if given is None:
        from training.phantom.dicom import write_study_pair

        target = folder / "studies"
        write_study_pair(target, seed)
        say(f"made two synthetic chest studies of one synthetic patient (seed {seed})")
        return _sort_studies(target, say)
    return _given_studies(given, "--studies", say)


def _given_studies(folder: Path, option: str, say: Say) -> list[_StudyFiles]:
    if not folder.exists():
        raise UsageError(f"{option} {folder}: no such folder")
    return _sort_studies(folder, say)


def _sort_studies(folder: Path, say: Say) -> list[_StudyFiles]:
    """DICOM files below `folder` by study, oldest first: an archive would have routed the prior earlier."""
    by_uid: dict[str, tuple[tuple[str, str, str], list[Path]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        uid = str(header.get("StudyInstanceUID", ""))
        if not uid or "SOPInstanceUID" not in header:
            say(f"left out, no UIDs: {path.name}")
            continue
        order = (str(header.get("StudyDate", "")), str(header.get("StudyTime", "")), uid)
        by_uid.setdefault(uid, (order, []))[1].append(path)
    if not by_uid:
        raise UsageError(f"{folder}: no DICOM file below this folder")
    studies = [_StudyFiles(study_instance_uid=uid, order=o, files=tuple(f)) for uid, (o, f) in by_uid.items()]
    return sorted(studies, key=lambda study: study.order)


def _write_config(folder: Path, port: int, pacs: DemoPacs, model: ModelSection, keep: Keep | None) -> Path:
    """The demonstration's own node: everything on loopback and in a folder that goes away."""
    path = folder / "config.toml"
    settings = {key: value for key, value in model.model_dump(mode="json").items() if value is not None}
    lines = [
        "[node]",
        f'ae_title = "{AE_TITLE}"',
        'host = "127.0.0.1"',
        f"port = {port}",
        "[completion]",
        "quiet_seconds = 1",
        "[web]",
        *(["enabled = false"] if keep is None else [f"port = {keep.web_port}", *keep.login.table()]),
        "[model]",
        *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
        "[[destinations]]",
        'name = "pacs"',
        f'ae_title = "{pacs.ae_title}"',
        'host = "127.0.0.1"',
        f"port = {pacs.port}",
        'verify = "commitment"',
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@contextmanager
def _node(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_finished(database: Database, studies: int) -> bool:
    """Tell whether every study has its result and every document its proof; raises NodeError where work went dead."""
    with database.read() as session:
        dead = session.scalars(select(Job.last_error).where(Job.state == JobState.DEAD)).first()
        if dead is not None:
            raise NodeError(f"a job of the node failed for good: {dead}")
        analysed = session.scalar(select(func.count()).where(Study.state == StudyState.ANALYSED)) or 0
        ended = Delivery.state.in_([DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED])
        open_deliveries = session.scalar(select(func.count()).where(~ended)) or 0
        deliveries = session.scalar(select(func.count()).select_from(Delivery)) or 0
    return analysed >= studies and deliveries > 0 and open_deliveries == 0


def _collect(node: NodeContext, pacs: DemoPacs, to_send: list[_StudyFiles], out: Path, say: Say) -> None:
    """Copy what came back, study by study, and print the last report: the newest study is the one that compares."""
    held = pacs.held()
    by_instance = _by_instance(to_send)
    number = 0
    for study in to_send:
        for result, documents in _results_of(node.database, study.study_instance_uid):
            number += 1
            target = out / f"study-{number:02d}"
            target.mkdir(parents=True, exist_ok=True)
            for document in documents:
                shutil.copyfile(held[document.sop_instance_uid], target / f"{document.kind}.dcm")
            _write_for_people(node, result, target)
            for uid, name in ((result.sop_instance_uid, "current"), (result.prior_sop_instance_uid, "prior")):
                if uid in by_instance:
                    shutil.copyfile(by_instance[uid], target / f"{name}.dcm")
            say(f"\n=== {target} ===")
            say((target / "report.txt").read_text("utf-8"))


def _write_for_people(node: NodeContext, result: Result, target: Path) -> None:
    """Write page, picture, text and values of a result, as the node makes them for whoever asks."""
    stored = load_report(node, result.id)
    if stored is None:
        raise NodeError(f"result {result.id} has no kept report")
    (target / "report.html").write_text(page_of(node, stored), "utf-8")
    (target / "report.txt").write_text(text_of(stored), "utf-8")
    (target / "pair.jpg").write_bytes(picture_of(node, stored))
    (target / "result.json").write_text(json.dumps(result.prediction, ensure_ascii=False, indent=2), "utf-8")


def _by_instance(studies: list[_StudyFiles]) -> dict[str, Path]:
    files = [path for study in studies for path in study.files]
    return {str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path for path in files}


def _results_of(database: Database, study_instance_uid: str) -> list[tuple[Result, list[Document]]]:
    with database.read() as session:
        results = session.scalars(
            select(Result)
            .join(Study, Study.id == Result.study_pk)
            .where(Study.study_instance_uid == study_instance_uid, Result.is_current)
            .order_by(Result.id)
        ).all()
        return [(result, list(result.documents)) for result in results]


def _wait(condition: Callable[[], bool], seconds: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NodeError(f"waited {seconds:.0f} s in vain for {what}; the node's log is {log}")
        time.sleep(POLL_SECONDS)
