"""A hospital in small: a node with phantom studies that a tiny champion answered, and readers who know the truth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest
from sqlalchemy import delete, select

from dicom_node.admin.import_folder import import_files
from dicom_node.analysis.job import handler
from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.result_rows import result_row
from dicom_node.analysis.stored_images import read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.context import NodeContext
from dicom_node.feedback import record as feedback
from dicom_node.feedback.record import Aspect, FeedbackWord, Source
from dicom_node.index.queries import instances_of_study, prior_candidates
from dicom_node.index.tables.core import Job, JobKind, Result, Study, StudyPurpose, StudyState, Verdict
from dicom_node.index.tables.models import ModelServing
from dicom_node.jobs import queue as jobs
from dicom_node.priors import policy_of
from dicom_node.retrain import subprocess as stage_process
from dicom_node.retrain.site_export import KEY_NAME
from dicom_node.serving.champion import ServingModels
from dicom_node.serving.predictor import PairPredictor
from dicom_node.studies import completion
from model.images.display import load_display_image
from model.schema import Change
from tests.support.champions import FINDINGS
from tests.support.common import wait_until
from tests.support.delivery_node import Clock, make_node
from tests.support.forked import STAGE, ForkedProcess
from training.phantom.dicom import PhantomStudies, write_study_pair
from training.phantom.sampling import PairOptions, sample_pair

FILM_SIDE = 128
"""Pixels of the films' longer side: what the tiny models see has 32."""
Value = Callable[[str, Aspect, str], str]
"""(finding, aspect, truth) → what the radiologist says."""


def truly(_finding: str, _aspect: Aspect, truth: str) -> str:
    """A radiologist who is always right."""
    return truth


def turned(_finding: str, aspect: Aspect, truth: str) -> str:
    """One who says the opposite: a harmful set."""
    if aspect is Aspect.PRESENCE:
        return "absent" if truth == "present" else "present"
    return {"new": "resolved", "resolved": "new", "worsening": "improving", "improving": "worsening"}.get(truth, "new")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """The node and what was sent to it. findings: of the champion's battery."""

    node: NodeContext
    clock: Clock
    films: Path
    findings: tuple[str, ...] = FINDINGS

    def receive(self, seeds: Iterable[int]) -> list[PhantomStudies]:
        """Take in the two studies of each seed's patient, prior as comparison material, current to be analysed."""
        made = []
        for seed in seeds:
            pair = write_study_pair(
                self.films / str(seed), seed, pair=sample_pair(seed, PairOptions()), long_side=FILM_SIDE
            )
            list(import_files(list(pair.prior.files), self.node, purpose=StudyPurpose.PRIOR))
            list(import_files(list(pair.current.files), self.node, purpose=StudyPurpose.ROUTED))
            made.append(pair)
        return made

    @contextmanager
    def serving(self) -> Iterator[ServingModels]:
        """The champion in service, as in a worker process."""
        models = ServingModels(self.node, threads=1)
        models.start()
        try:
            yield models
        finally:
            models.close()

    def wait_for(self, device_uid: str) -> None:
        """Wait until the worker says that this checkpoint answers."""

        def answers() -> bool:
            with self.node.database.read() as session:
                return device_uid in session.scalars(select(ModelServing.device_uid)).all()

        wait_until(answers, seconds=600, what="the new champion to answer")

    def analyse(self, models: ServingModels) -> None:
        """Close every study and run the analyse jobs as the worker does."""
        self.clock.forward(hours=2)
        with self.node.database.write() as session:
            completion.sweep(session, completion=self.node.settings.completion, now=self.clock())
        handle = handler(models)
        while True:
            with self.node.database.write() as session:
                job = jobs.claim(session, kinds=[JobKind.ANALYSE], owner="test:1:analyse")
            if job is None:
                return
            handle(job, self.node)

    def answered_before(self, predictor: PairPredictor) -> None:
        """Results of everything that has none, by the same story as the analyse job's, without a process for each film.

        No documents are made: these studies are long delivered.
        """
        policy = policy_of(self.node.settings)
        self.clock.forward(hours=2)
        with self.node.database.write() as session:
            completion.sweep(session, completion=self.node.settings.completion, now=self.clock())
            waiting = session.scalars(
                select(Study).where(Study.state == StudyState.COMPLETE, Study.purpose == "routed")
            )
            for study in waiting.all():
                images = instances_of_study(session, study.id)
                earlier = prior_candidates(session, study, look_back_days=policy.look_back_days)
                setting = AnalysisInputs(
                    predictor=predictor, decode=load_display_image, policy=policy, produced_at=self.clock()
                )
                stored, priors = (
                    [read_stored(self.node.store.path(row.path)) for row in rows] for rows in (images, earlier)
                )
                for request in analyse_study(stored, priors, setting):
                    session.add(result_row(study.id, request, {}, now=self.clock()))
                study.state = StudyState.ANALYSED
            session.execute(delete(Job).where(Job.kind == JobKind.ANALYSE))

    def report(
        self,
        studies: Iterable[PhantomStudies],
        *,
        says: Value = truly,
        author: str = "reader",
        first_source: int = 0,
    ) -> None:
        """A word on every finding of every current study, as the page, the report's reader or the table writes it."""
        sources = list(Source)
        with self.node.database.write() as session:
            for number, pair in enumerate(studies, start=first_source):
                study, result = session.execute(
                    select(Study, Result)
                    .join(Result, Result.study_pk == Study.id)
                    .where(Study.study_instance_uid == pair.current.study_instance_uid, Result.is_current)
                ).one()
                source = sources[number % len(sources)]
                for word in self._words(pair, says):
                    feedback.record(
                        session, result, study, word, author=author, role="radiologist", source=source, now=self.clock()
                    )

    def _words(self, pair: PhantomStudies, says: Value) -> list[FeedbackWord]:
        words = []
        for key in self.findings:
            there = "present" if key in pair.current.findings else "absent"
            value = says(key, Aspect.PRESENCE, there)
            words.append(FeedbackWord(finding=key, aspect=Aspect.PRESENCE, verdict=Verdict.CORRECT, value=value))
            change = pair.changes.get(key)
            if change is not None and change is not Change.NOT_COMPARABLE:
                value = says(key, Aspect.CHANGE, change.value)
                words.append(FeedbackWord(finding=key, aspect=Aspect.CHANGE, verdict=Verdict.CORRECT, value=value))
        return words

    def results(self) -> dict[str, Result]:
        """Current results by Study Instance UID."""
        with self.node.database.read() as session:
            rows = session.execute(
                select(Study.study_instance_uid, Result).join(Result.study).where(Result.is_current)
            ).all()
        return dict(rows)


def open_hospital(
    folder: Path, champion: Path, *destinations: dict[str, Any], sections: dict[str, Any] | None = None, **retrain: Any
) -> Hospital:
    """An empty hospital whose node serves `champion`; `retrain` are keys of [retrain], sections other tables."""
    clock = Clock()
    node = make_node(
        folder,
        clock,
        *destinations,
        **(sections or {}),
        model={"source": str(champion)},
        retrain={"threads": 1, "nice": 0, "calibrate_with": [], "known_pairs": 4, **retrain},
    )
    key = node.settings.node.data_dir / KEY_NAME
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_bytes(b"k" * 32)  # else every run of a test would split its patients in another way
    return Hospital(node=node, clock=clock, films=folder / "films")


def fork_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stages of a retraining forked from a process that has torch, where this process would start them."""
    forking = ModuleType("subprocess")
    forking.__dict__.update(vars(subprocess) | {"Popen": _fork_stage})
    monkeypatch.setattr(stage_process, "subprocess", forking)


def _fork_stage(command: list[str], *, stdin: int, stdout: IO[bytes], stderr: IO[bytes], env: dict[str, str]) -> Any:
    assert (command[:3], stdin, stdout) == ([sys.executable, "-m", STAGE], subprocess.DEVNULL, stderr)
    return ForkedProcess(STAGE, command[3:], log=Path(stdout.name), environment=env)


@dataclass(slots=True)
class Heard:
    """Whoever started the run: remembers what was said."""

    lines: list[str] = field(default_factory=list)
    told: list[tuple[str, int, int]] = field(default_factory=list)
    answer: bool | None = None

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, what: str, done: int, total: int) -> None:
        self.told.append((what, done, total))

    def confirm(self, question: str) -> bool | None:
        self.lines.append(question)
        return self.answer
