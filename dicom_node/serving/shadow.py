"""The challenger in the shadow: it answers live studies after the champion did, unheard, and its answers are kept.

A job of its own kind, enqueued in the commit of the champion's result, done by a thread and a model process of its own
at the lowest priority, begun only while no analysis waits or runs. Whatever happens to it, the result is committed and
its documents are on their way; the challenger's error is a row.
"""

from __future__ import annotations

import datetime as dt
import time

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.config import Settings
from dicom_node.context import NodeContext
from dicom_node.errors import AnalysisError, StorageError, UsageError
from dicom_node.index.tables.core import Instance, JobKind, Outcome, Result
from dicom_node.index.tables.models import ModelEventKind, ShadowChoice, ShadowResult
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.backlog import analyses_have_work
from dicom_node.jobs.due import Priority
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import bound, get_logger
from dicom_node.notifications import raise_notice
from dicom_node.report.result import finding_values
from dicom_node.report.stored import model_answers
from dicom_node.serving.model_process import InferenceProcess
from dicom_node.serving.promotion import ModelsError, champion, note, refusal
from dicom_node.serving.shadow_comparison import differences
from model.checkpoints import registry
from model.checkpoints.registry import Promotion
from model.errors import CheckpointError, InferenceError, PixelError
from model.images.sandbox import decode_in_child
from model.schema import ModelIdentity, Prediction, StudyPair

log = get_logger(__name__)

PRIORITY = Priority.SHADOW
THREADS = 1
GIVE_WAY = dt.timedelta(seconds=2)
"""So long a shadow job waits before it looks again whether the analyses have nothing to do."""
LOAD_AGAIN_SECONDS = 600.0
"""A challenger that did not load is not tried again before each study."""
OFF, DEFAULT = "off", "default"
ANSWERED = (Outcome.COMPARED, Outcome.FINDINGS_ONLY)


def challenger(session: Session, settings: Settings) -> str:
    """The folder that runs in the shadow, "" for none: what a command said, else the configuration."""
    choice = session.get(ShadowChoice, 1)
    return choice.folder if choice is not None else settings.model.shadow


def choose(node: NodeContext, name: str, *, who: str) -> str:
    """Put a checkpoint into the shadow, "off" for none, "default" for the configured one; returns which it is now.

    Raises ModelsError for one that is refused, UnknownModelError for an unknown name, UsageError for the champion.
    """
    # No row means "as configured"; an empty folder in the row means "off, whatever is configured".
    folder = "" if name == OFF else node.settings.model.shadow if name == DEFAULT else name
    if folder:
        _must_be_fit(node, folder)
    now = node.clock()
    with node.database.write() as session:
        before = challenger(session, node.settings)
        if name == DEFAULT:
            session.execute(delete(ShadowChoice))
        else:
            session.merge(ShadowChoice(id=1, folder=folder, since=now, who=who[:255]))
        if before and before != folder:
            note(session, node, ModelEventKind.SHADOW_OFF, Promotion(folder=before, at=now, who=who))
        if folder and before != folder:
            note(session, node, ModelEventKind.SHADOW_ON, Promotion(folder=folder, at=now, who=who))
    return folder


def _must_be_fit(node: NodeContext, folder: str) -> None:
    if node.settings.model.backend != "transformers":
        raise UsageError('model.backend is "openai": a challenger in the shadow needs backend = "transformers"')
    if folder == champion(node.models_dir):
        raise UsageError(f"{folder} is the champion: in the shadow it would only agree with itself")
    try:
        entry = registry.show_model(node.models_dir, folder)
    except CheckpointError as error:
        raise refusal(error) from error
    if entry.problem:
        raise ModelsError(entry.problem)


def enqueue(session: Session, node: NodeContext, result: Result) -> bool:
    """Have a result that is being committed answered by the challenger too, if there is one."""
    folder = challenger(session, node.settings)
    if not folder or result.outcome not in ANSWERED or not (node.models_dir / folder).is_dir():
        return False
    return jobs.enqueue(
        session,
        JobKind.SHADOW,
        f"shadow:{result.id}:{folder}",
        {"result_pk": result.id, "folder": folder},
        priority=PRIORITY,
        max_attempts=3,
    )


class ShadowModel:
    """The challenger's process in one worker, and the handler of its jobs."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._folder = ""
        self._process: InferenceProcess | None = None
        self._broken: tuple[str, str, float] = ("", "", 0.0)
        """Folder, error and the monotonic time until which it is not loaded again."""

    def handle(self, job: ClaimedJob, node: NodeContext) -> None:
        """Answer one pair, unless analyses have work: then the job waits."""
        with bound(job=job.key):
            folder = str(job.payload["folder"])
            with node.database.read() as session:
                current = challenger(session, node.settings)
                busy = analyses_have_work(session)
                result = session.get(Result, int(job.payload["result_pk"]))
            if folder != current or result is None:
                self._leave(job)
            elif busy:
                now = node.clock()
                with node.database.write() as session:
                    jobs.postpone(session, job, until=now + GIVE_WAY)
            else:
                self._answer(job, result, folder)

    def close(self) -> None:
        """End the model process; a thread that waits for its answer gives its job back."""
        if self._process is not None:
            self._process.close()

    def _leave(self, job: ClaimedJob) -> None:
        log.info("left: another challenger, or the result is gone")
        self.close()
        with self._node.database.write() as session:
            jobs.complete(session, job)

    def _answer(self, job: ClaimedJob, result: Result, folder: str) -> None:
        node, started = self._node, time.perf_counter()
        prediction, error = None, ""
        try:
            prediction = self._predict(result, folder)
        except (AnalysisError, InferenceError, PixelError, StorageError) as failure:
            if node.stop.is_set():
                raise AnalysisError("the node stops") from failure
            error = str(failure)
            log.warning("no answer from the challenger", challenger=folder, error=error)
        identity = prediction.model if prediction is not None else self._identity(folder)
        now = node.clock()
        with node.database.write() as session:
            jobs.complete(session, job)
            # Retention removed the study while the challenger was asked.
            if session.get(Result, result.id) is None:
                return
            session.execute(
                # An answer of an earlier try is replaced: one row for each result and checkpoint.
                delete(ShadowResult).where(
                    ShadowResult.result_pk == result.id, ShadowResult.device_uid == identity.device_uid
                )
            )
            session.add(_row(result, folder, identity, prediction, error, time.perf_counter() - started, now))

    def _predict(self, result: Result, folder: str) -> Prediction:
        pair = self._pair(result)
        broken, error, until = self._broken
        # A challenger that does not load is not loaded again for every pair: each try takes long.
        if broken == folder and time.monotonic() < until:
            raise AnalysisError(error)
        if self._process is None or self._folder != folder:
            self.close()
            source = str(self._node.models_dir / folder)
            self._folder = folder
            self._process = InferenceProcess(
                self._node.settings.model,
                source=lambda: source,
                stop=self._node.stop,
                threads=THREADS,
                nice=self._node.settings.model.shadow_nice,
            )
        try:
            # Loads the model, and tells a broken checkpoint from a pair that cannot be answered.
            _ = self._process.identity
        except AnalysisError as failure:
            # A load that was cut off by the shutdown is no fault of the checkpoint.
            if not self._node.stop.is_set():
                self._broken = (folder, str(failure), time.monotonic() + LOAD_AGAIN_SECONDS)
                self._tell(folder, str(failure))
            raise
        return self._process.predict(pair)

    def _pair(self, result: Result) -> StudyPair:
        """The images that the champion saw, decoded anew. Raises PixelError where one is no longer there."""
        uids = [uid for uid in (result.sop_instance_uid, result.prior_sop_instance_uid) if uid]
        with self._node.database.read() as session:
            rows = session.execute(
                select(Instance.sop_instance_uid, Instance.path).where(Instance.sop_instance_uid.in_(uids))
            ).all()
        paths = {uid: self._node.store.path(path) for uid, path in rows}
        if len(paths) < len(uids) or not uids:
            raise PixelError("the images were removed before the challenger saw them")
        images = [decode_in_child(paths[uid]) for uid in uids]
        return StudyPair(current=images[0], prior=images[1] if len(images) > 1 else None)

    def _identity(self, folder: str) -> ModelIdentity:
        try:
            manifest = registry.read_manifest(self._node.models_dir / folder, verify=False)
        except CheckpointError:
            return ModelIdentity(name=folder, version="", device_uid="")
        return ModelIdentity(name=manifest.name, version=manifest.version, device_uid=manifest.device_uid)

    def _tell(self, folder: str, error: str) -> None:
        now = self._node.clock()
        text = f"challenger {folder} does not load in the shadow: {error[:500]}"
        with self._node.database.write() as session:
            key = f"shadow does not load:{folder}:{now:%Y-%m-%d}"
            raise_notice(session, key=key, kind="model not loaded", text=text, now=now)


def _row(
    result: Result,
    folder: str,
    identity: ModelIdentity,
    prediction: Prediction | None,
    error: str,
    seconds: float,
    now: dt.datetime,
) -> ShadowResult:
    findings = [finding_values(finding) for finding in prediction.findings] if prediction is not None else []
    differing = differences(model_answers(result.prediction), findings)
    return ShadowResult(
        result_pk=result.id,
        folder=folder,
        model_name=identity.name,
        model_version=identity.version,
        device_uid=identity.device_uid,
        findings=findings,
        differences=differing,
        disagreements=len(differing),
        seconds=seconds,
        error=error[:2000],
        created_at=now,
    )


def forget(session: Session, *, before: dt.datetime) -> int:
    """Retention: remove shadow answers older than `before`; returns how many."""
    deleted = session.execute(delete(ShadowResult).where(ShadowResult.created_at < before).returning(ShadowResult.id))
    return len(deleted.all())
