"""A run over an archive's past, with a real Orthanc: to its end, limited, paused, refused, out of hours, at a rate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select

from dicom_node.backfill import runs
from dicom_node.backfill.drive import drive
from dicom_node.backfill.dry_run import dry_run
from dicom_node.backfill.listing import ask_in_parts
from dicom_node.backfill.progress import progress_of, report_rows
from dicom_node.backfill.spans import Span
from dicom_node.config import QueryPeer, Retrieve
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.backfill import BackfillItemState, BackfillRangeState, BackfillReason, BackfillRunState
from dicom_node.index.tables.core import Delivery, Job, JobKind, Outcome, Result, Study, StudyPurpose
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority
from dicom_node.priors.retrieval import fetch
from dicom_node.priors.retrieval.fetch import open_archive
from dicom_node.studies import completion
from tests.support.archives import part10, receive
from tests.support.common import free_port
from tests.support.faulty_archive import Fault, faulty_peer
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.past import DATES, PATIENTS, SetClock, backfill_site, film, frontal_films, other_films

on_each_index = pytest.mark.usefixtures("each_index")

LIMIT = 4
"""Orthanc's LimitFindResults: an answer of more studies ends with A700."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """An Orthanc that limits its answers, its films, and the port at which it believes LUMEN to listen."""

    orthanc: Orthanc
    node_port: int
    frontal: list[Dataset]
    others: dict[str, Dataset]

    def peer(self, retrieve: Retrieve = Retrieve.GET) -> QueryPeer:
        return QueryPeer(
            name="pacs",
            ae_title="ORTHANC",
            port=self.orthanc.dicom_port,
            retrieve=retrieve,
            url=self.orthanc.dicomweb_url,
        )

    @property
    def radiographs(self) -> set[str]:
        """The studies of which a run makes items."""
        films = [*self.frontal, *(self.others[name] for name in ("knee", "lateral", "empty"))]
        return {str(film.StudyInstanceUID) for film in films}


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    folder, port = tmp_path_factory.mktemp("past"), free_port()
    films = frontal_films(folder)
    others = other_films(folder / "others")
    modalities = {"LUMEN": ("127.0.0.1", port)}
    with running_orthanc(folder / "orthanc", modalities=modalities, LimitFindResults=LIMIT) as orthanc:
        for data_set in (*films, *others.values()):
            orthanc.upload(part10(data_set))
        yield Past(orthanc=orthanc, node_port=port, frontal=films, others=others)


def uid(data_set: Dataset) -> str:
    return str(data_set.StudyInstanceUID)


@pytest.mark.parametrize("retrieve", [Retrieve.MOVE, Retrieve.DICOMWEB])
def test_an_archive_that_limits_its_answers_is_asked_until_all_are_listed(
    past: Past, tmp_path: Path, retrieve: Retrieve
) -> None:
    with backfill_site(tmp_path, [past.peer(retrieve)]) as site:
        archive = open_archive(past.peer(retrieve), site.node)
        year = Span(first_date="20240101", last_date="20241231")
        parts = list(ask_in_parts(archive, year, most=LIMIT))
        listed = {study.study_instance_uid for _, answer in parts for study in answer.radiographs}
        assert listed == past.radiographs
        assert [span for span, answer in parts if answer.cut] == []
        assert sum(answer.others for _, answer in parts) == 1, "the CT"


@on_each_index
def test_a_run_brings_everything_once_and_says_what_it_skipped(past: Past, tmp_path: Path) -> None:
    with backfill_site(tmp_path, [past.peer(Retrieve.MOVE)], port=past.node_port) as site:
        site.start(most_answers=LIMIT + 2)
        site.work()
        assert site.run().state is BackfillRunState.DONE
        items = site.items()
        assert set(items) == past.radiographs
        skipped = {uid(data_set): name for name, data_set in past.others.items()}
        told = {skipped[key]: item.reason for key, item in items.items() if key in skipped}
        assert told == {
            "knee": "not a chest radiograph",
            "lateral": "no frontal image",
            "empty": "no pixel data",
        }
        frontal = {key: item for key, item in items.items() if key not in skipped}
        assert {item.state for item in frontal.values()} == {BackfillItemState.ANALYSED}
        # Films of one patient are each other's priors: each was fetched once all the same.
        assert sum(item.fetched for item in items.values()) == len(past.radiographs) - 1, "the knee is not fetched"
        # That there are no pixels is found by the analysis; what the headers refuse is not even analysed.
        assert site.count(Result.is_current) == len(past.frontal) + 1
        compared = site.count(Result.is_current, Result.outcome == Outcome.COMPARED)
        assert compared == len(past.frontal) - PATIENTS, "each but a patient's first has a prior"
        assert site.count(Result.generation > 1) == 0, "oldest first: none had to be made anew"
        assert site.count(Delivery.id > 0) == 0
        analyses = site.count(Job.kind == JobKind.ANALYSE, Job.priority == Priority.BULK)
        assert analyses == len(past.frontal) + 1
        with site.node.database.read() as session:
            purposes = set(session.scalars(select(Study.purpose).join(Study.results)))
            rows = list(report_rows(session, site.run()))
        assert purposes == {StudyPurpose.BACKFILL}
        assert [row["study_date"] for row in rows] == sorted(str(row["study_date"]) for row in rows)
        assert len(rows) == len(items)


def test_a_second_run_finds_all_analysed(past: Past, tmp_path: Path) -> None:
    with backfill_site(tmp_path, [past.peer()]) as site:
        chosen = [uid(data_set) for data_set in past.frontal[:2]]
        site.start("first", dates=None, studies=chosen)
        site.work()
        site.start("second", dates=None, studies=[*chosen, "1.2.3.4"])
        site.work()
        with site.node.database.read() as session:
            rows = {row["study_instance_uid"]: row for row in report_rows(session, site.run("second"))}
        reasons = {key: row["reason"] for key, row in rows.items()}
        assert reasons == {**dict.fromkeys(chosen, "already analysed"), "1.2.3.4": "gone"}
        assert sum(int(str(row["fetched"])) for row in rows.values()) == 0


@on_each_index
def test_reports_are_sent_only_where_the_run_says_so(past: Past, tmp_path: Path) -> None:
    pacs = {"name": "pacs", "ae_title": "ORTHANC", "port": past.orthanc.dicom_port}
    with backfill_site(tmp_path, [past.peer()], destinations=[pacs]) as site:
        silent, told = (uid(data_set) for data_set in past.frontal[:2])
        site.start("silent", dates=None, studies=[silent])
        site.work()
        assert (site.count(Result.is_current), site.count(Delivery.id > 0)) == (1, 0)
        site.start("told", dates=None, studies=[told], sends_reports=True)
        site.work()
        assert (site.count(Result.is_current), site.count(Delivery.id > 0)) == (2, 2)
        sent = site.count(Job.kind == JobKind.DELIVER, Job.priority == Priority.BULK)
        assert sent == 2, "after everything that is of tonight"


@on_each_index
def test_tonights_study_goes_before_the_backfill(past: Past, tmp_path: Path) -> None:
    with backfill_site(tmp_path, [past.peer()]) as site:
        site.start()
        site.work(JobKind.BACKFILL)
        assert site.count(Job.kind == JobKind.ANALYSE) == len(past.frontal) + 1, "the one without pixels as well"
        tonight = film(past.frontal[0], "tonight", "P99", "20240401", "230000")
        receive(site.node, tonight)
        with site.node.database.write() as session:
            later = site.node.clock() + dt.timedelta(hours=1)
            completion.sweep(session, completion=site.node.settings.completion, now=later)
        with site.node.database.write() as session:
            job = jobs.claim(session, kinds=[JobKind.ANALYSE], owner="test")
        assert job is not None
        assert job.payload["study_instance_uid"] == uid(tonight)


@on_each_index
def test_a_pause_stops_what_was_dispatched_too_and_a_resume_loses_nothing(past: Past, tmp_path: Path) -> None:
    with backfill_site(tmp_path, [past.peer()]) as site:
        node = site.node
        site.start(most_answers=LIMIT)

        def has_begun() -> bool:
            items = site.items().values()
            return len(items) >= 6 and any(item.fetched for item in items)

        site.work(
            JobKind.BACKFILL, until=lambda: len(site.items()) >= 6 and any(i.fetched for i in site.items().values())
        )
        drive(node)
        with node.database.write() as session:
            runs.pause_run(session, "past", settings=node.settings, now=node.clock(), who="test")
        before = {key: item.fetched for key, item in site.items().items()}
        site.work(JobKind.BACKFILL)
        assert {key: item.fetched for key, item in site.items().items()} == before
        assert BackfillItemState.FETCHING not in {item.state for item in site.items().values()}
        with node.database.write() as session:
            runs.resume_run(session, "past", limits=None, settings=node.settings, now=node.clock(), who="test")
        site.work(JobKind.BACKFILL)
        assert set(site.items()) == past.radiographs
        assert sum(item.fetched for item in site.items().values()) == len(past.radiographs) - 1
        attempts = {item.attempts for item in site.items().values()}
        assert attempts == {0}, "a pause is no failed attempt"


@on_each_index
def test_the_archive_is_asked_in_its_hours_only(past: Past, tmp_path: Path) -> None:
    # Berlin is two hours ahead of UTC in July: 22:00 is 20:00 UTC, and the window goes over midnight.
    clock = SetClock(dt.datetime(2024, 7, 1, 19, 59, tzinfo=dt.UTC))
    limits = runs.BackfillLimits(per_minute=1e6, hours="mon-fri 22:00-05:00", timezone="Europe/Berlin")
    with backfill_site(tmp_path, [past.peer()], clock=clock) as site:
        site.start(limits=limits)
        site.work(JobKind.BACKFILL)
        assert {part.state for part in site.ranges()} == {BackfillRangeState.WAITING}
        assert site.count(Job.kind == JobKind.BACKFILL) == 0
        clock.now = dt.datetime(2024, 7, 1, 20, 0, tzinfo=dt.UTC)
        site.work(JobKind.BACKFILL, until=lambda: len(site.items()) > 0)
        drive(site.node)  # one is dispatched, and the window closes before a worker has it
        clock.now = dt.datetime(2024, 7, 2, 3, 0, tzinfo=dt.UTC)
        asked = len(site.items())
        site.work(JobKind.BACKFILL)
        assert len(site.items()) == asked
        assert BackfillItemState.FETCHING not in {item.state for item in site.items().values()}
        clock.now = dt.datetime(2024, 7, 2, 2, 59, tzinfo=dt.UTC)  # still the night of Monday
        site.work(JobKind.BACKFILL)
        assert len(site.items()) > asked


def test_no_more_studies_a_minute_than_allowed_priors_included(past: Past, tmp_path: Path) -> None:
    start = dt.datetime(2024, 7, 1, 12, 0, tzinfo=dt.UTC)
    clock = SetClock(start)
    newest = [uid(data_set) for data_set in past.frontal if data_set.StudyDate == DATES[-1]]
    with backfill_site(tmp_path, [past.peer()], clock=clock) as site:
        site.start(dates=None, studies=newest, limits=runs.BackfillLimits(per_minute=2.0, at_once=4))
        for minute in range(1, 9):
            site.work(JobKind.BACKFILL)
            fetched = sum(item.fetched for item in site.items().values())
            # Each of these brings two priors, which are charged when they have come.
            assert fetched <= 2 * minute + 2
            clock.now = start + dt.timedelta(minutes=minute)
        assert fetched == len(past.frontal)


def test_no_more_at_once_than_allowed(past: Past, tmp_path: Path) -> None:
    with backfill_site(tmp_path, [past.peer()]) as site:
        site.start(limits=runs.BackfillLimits(per_minute=1e6, at_once=2))
        site.work(JobKind.BACKFILL, until=lambda: len(site.items()) >= 6)
        for _ in range(5):
            drive(site.node)
        states = [item.state for item in site.items().values()]
        assert states.count(BackfillItemState.FETCHING) == 2


@on_each_index
def test_an_archive_that_is_away_holds_the_run_and_costs_no_study_an_attempt(past: Past, tmp_path: Path) -> None:
    clock = SetClock(dt.datetime(2024, 7, 1, 12, 0, tzinfo=dt.UTC))
    away = QueryPeer(name="pacs", ae_title="ORTHANC", port=free_port(), retrieve=Retrieve.GET)
    with backfill_site(tmp_path, [away], clock=clock) as site:
        site.start(dates=None, studies=[uid(past.frontal[0])])
        for _ in range(12):
            site.work(JobKind.BACKFILL)
            clock.now += dt.timedelta(hours=2)
        run, (item,) = site.run(), site.items().values()
        assert run.unreachable_times == 12
        assert (item.state, item.attempts) == (BackfillItemState.WAITING, 0)
        assert item.reason == BackfillReason.UNREACHABLE
        assert "cannot be reached" in run.held_reason
        with site.node.database.read() as session:
            assert progress_of(session, run, now=clock()).left == 1


@pytest.mark.parametrize("fault", [Fault.MOVE_SHORT, Fault.MOVE_UNKNOWN])
def test_what_an_archive_refuses_is_tried_five_times_and_told(
    past: Past, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SETTLE_SECONDS", 0.3)
    clock = SetClock(dt.datetime.now(dt.UTC))
    two = [film(past.frontal[0], "two", "P50", "20240110", "080000", SOPInstanceUID=f"1.2.{n}") for n in (1, 2)]
    port = free_port()
    with (
        faulty_peer(two, fault, node_port=port) as faulty,
        backfill_site(tmp_path, [faulty.peer()], port=port, clock=clock) as site,
    ):
        site.start(dates=None, studies=[uid(two[0])])
        for _ in range(5):
            site.work(JobKind.BACKFILL)
            clock.now += dt.timedelta(hours=2)
        (item,) = site.items().values()
        assert (item.state, item.reason, item.attempts) == (BackfillItemState.FAILED, BackfillReason.REFUSED, 5)
        drive(site.node)
        assert site.run().state is BackfillRunState.DONE
        with site.node.database.write() as session:
            now = clock()
            told = runs.retry_run(session, "past", settings=site.node.settings, now=now, who="test")
        assert told == (0, 1)
        assert site.run().state is BackfillRunState.RUNNING


def test_a_deaf_archive_ends_in_a_failed_range_and_not_in_queries_without_end(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SETTLE_SECONDS", 0.3)
    many = [film(past.frontal[0], f"deaf{n}", f"P{n}", "20240110", "080000") for n in range(12)]
    with (
        faulty_peer(many, Fault.FIND_DEAF, node_port=free_port()) as faulty,
        backfill_site(tmp_path, [faulty.peer()]) as site,
    ):
        january, february = dt.date(2024, 1, 1), dt.date(2024, 2, 28)
        site.start(dates=(january, february), most_answers=10, limits=runs.BackfillLimits(per_minute=0.01))
        for _ in range(12):
            drive(site.node)
            site.step(JobKind.BACKFILL)
        parts = site.ranges()
        assert len(parts) <= 20
        assert len(site.items()) == len(many)
        failed = [part for part in parts if part.state is BackfillRangeState.FAILED]
        assert failed
        assert "may be missing" in failed[0].last_error


def test_a_study_that_is_routed_after_its_backfill_is_reported_as_any_other(past: Past, tmp_path: Path) -> None:
    pacs = {"name": "pacs", "ae_title": "ORTHANC", "port": past.orthanc.dicom_port}
    with backfill_site(tmp_path, [past.peer()], destinations=[pacs]) as site:
        routed = past.frontal[0]
        site.start(dates=None, studies=[uid(routed)])
        site.work()
        assert site.count(Delivery.id > 0) == 0
        receive(site.node, routed)
        with site.node.database.read() as session:
            study = study_by_uid(session, uid(routed))
            assert study is not None
            assert (study.purpose, study.revision) == (StudyPurpose.ROUTED, 2)
        with site.node.database.write() as session:
            later = site.node.clock() + dt.timedelta(hours=1)
            completion.sweep(session, completion=site.node.settings.completion, now=later)
        site.step(JobKind.ANALYSE)
        assert site.count(Delivery.id > 0) == 2


def test_a_dry_run_counts_and_writes_nothing(past: Past, tmp_path: Path) -> None:
    with backfill_site(tmp_path, [past.peer()]) as site:
        site.start("begun", dates=None, studies=[uid(past.frontal[0])])
        site.work()
        dates = (dt.date(2024, 1, 1), dt.date(2024, 12, 31))
        new = runs.NewRun(name="next", archive="pacs", dates=dates, most_answers=LIMIT + 1)
        counted = dry_run(new, site.node)
        assert counted.radiographs == len(past.radiographs)
        assert (counted.known, counted.to_fetch) == (1, len(past.radiographs) - 1)
        assert counted.of_other_modalities == 1
        assert counted.incomplete == []
        assert len(site.items()) == 1
