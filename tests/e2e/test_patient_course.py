"""Five studies of a patient by storescu, laboratory and wards by HL7, the reports in Orthanc: one node, one archive.

The node is killed between the laboratory's messages and the studies, and after a question. A second patient with the
same films sends them in another order and has the same reports.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.context import NodeContext
from dicom_node.drift import weekly
from dicom_node.drift.prognosis import CAME_TRUE
from dicom_node.index.tables.chart import ChartEntry
from dicom_node.index.tables.core import Result
from dicom_node.index.tables.models import DriftFigure
from dicom_node.report.concepts import finding_concept
from dicom_node.storage.folder_store import FolderStore
from model.images.display import load_display_image
from model.predict import load_predictor
from model.schema import StudyPair
from tests.support.command_line import run_command
from tests.support.course_films import write_patient
from tests.support.course_reports import OF_STUDY, PROGNOSIS, comparable, references, texts, tracking
from tests.support.course_site import (
    MISLEADING,
    CourseSite,
    ask,
    client,
    course_node,
    kept_questions,
    row_counts,
    send_chart,
)
from tests.support.node import destination, running
from tests.support.orthanc import running_orthanc
from tests.support.postgres import PostgresServer
from tests.support.validators import dciodvfy_errors, pixelmed_errors, save

SEED, FILMS = 9_301_526, 5
ARRIVALS = ((3, 1), (4, 0), (2,))
"""Films of the second patient, by number, as they arrive: each group when the one before it has its results."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CourseSite]:
    folder = tmp_path_factory.mktemp("course")
    ordered, shuffled = (
        write_patient(folder / name, SEED, films=FILMS, patient_id=name) for name in ("COURSE-A", "COURSE-B")
    )
    node = course_node(folder / "node")
    with running_orthanc(folder / "orthanc", modalities={"LUMEN": ("127.0.0.1", node.port)}) as orthanc:
        with node.config.open("a") as config:
            config.write(destination("pacs", orthanc.ae_title, orthanc.dicom_port, "commitment"))
        with running(node):
            yield CourseSite(node=node, orthanc=orthanc, ordered=ordered, shuffled=shuffled)


def test_films_in_the_order_of_time_after_the_node_was_killed_behind_the_laboratory(site: CourseSite) -> None:
    for patient in (site.ordered, site.shuffled):
        send_chart(site, patient)
    with site.node.database() as database, database.read() as session:
        before = session.scalar(select(func.count(ChartEntry.id)))
    site.node.kill()
    site.node.start()
    with site.node.database() as database, database.read() as session:
        assert session.scalar(select(func.count(ChartEntry.id))) == before
    site.send(site.ordered, range(FILMS), results=FILMS)
    assert [result.generation for result in site.results(site.ordered)] == [1] * FILMS, "nothing was done twice"


def test_the_chart_of_each_film_is_told_as_it_was_known_then(site: CourseSite) -> None:
    reports = site.reports(site.ordered, "reading")
    for film, report in zip(site.ordered.films, reports, strict=True):
        sentence = re.search(r"Also considered: ([^.]*)\.", " ".join(texts(report).split()))
        assert sentence is not None
        told = sentence[1].split("; ")
        labs = [f"{name} {' '.join(text.split()[:2])}, 2 h before" for name, text in sorted(film.labs.items())]
        assert told[: len(labs)] == labs
        given = [re.sub(r", (begun|ordered) \d+ (h|days?) before$", "", one) for one in told[len(labs) :]]
        assert given == sorted(film.treatments)
    assert "BNP 2076 pg/mL, 2 h before" in texts(reports[2])
    assert "feeding tube removal planned, ordered 3 h before" in texts(reports[2])
    assert not any(f" {value} mg/L" in texts(report) for report in reports for value in MISLEADING)


def test_status_lists_what_was_not_understood(site: CourseSite) -> None:
    said = run_command("status", "--json", "--config", str(site.node.config), folder=site.node.folder)
    values = json.loads(said.stdout)
    listed = {(part["kind"], part["code"], part["times"]) for part in values["chart_not_understood"]}
    assert listed == {("unit", "furlong", 2), ("lab", "L0815", 2)}, "one of each patient"


def test_the_prognosis_is_what_the_checkpoint_says_of_these_films_and_this_chart(site: CourseSite) -> None:
    *earlier, prior, current = (load_display_image(film.path) for film in site.ordered.films)
    context = site.ordered.films[-1].context
    pair = StudyPair(current=current, prior=prior, earlier=tuple(earlier), context=context)
    expected = {item.key: item for item in load_predictor("demo").predict(pair).prognosis}
    assert expected
    stored = {item["key"]: item for item in site.results(site.ordered)[-1].prediction["prognosis"]}
    assert {key: item["change"] for key, item in stored.items()} == {k: i.change.value for k, i in expected.items()}
    for key, item in stored.items():
        assert item["probability"] == pytest.approx(expected[key].probability, abs=2e-3)
    names = {finding_concept(key).name for key in expected}
    tracked = [name for name, _ in tracking(site.reports(site.ordered, "machine")[-1])]
    assert {name.removesuffix(PROGNOSIS) for name in tracked if name.endswith(PROGNOSIS)} == names
    reading = texts(site.reports(site.ordered, "reading")[-1])
    assert "investigational" in reading.lower()


def test_another_order_of_arrival_gives_the_same_documents(site: CourseSite) -> None:
    arrived = 0
    for group in ARRIVALS:
        arrived += len(group)
        site.send(site.shuffled, group, results=arrived)
    assert max(result.generation for result in site.results(site.shuffled)) > 1, "some were made anew"
    for kind in ("reading", "machine"):
        one, other = (comparable(patient, site.reports(patient, kind)) for patient in (site.ordered, site.shuffled))
        assert one == other


def test_each_finding_has_one_uid_over_the_five_reports(site: CourseSite) -> None:
    studies = [dict(tracking(report)) for report in site.reports(site.ordered, "machine")]
    findings = [{name: uid for name, uid in study.items() if name not in OF_STUDY} for study in studies]
    in_all = set.intersection(*(set(study) for study in findings))
    assert in_all, "a finding that stands in all five"
    followed = {name: {study[name] for study in findings if name in study} for study in findings for name in study}
    followed = {name: uids for name, uids in followed.items() if not name.endswith(PROGNOSIS)}
    assert all(len(uids) == 1 for uids in followed.values()), followed
    assert len(set.union(*followed.values())) == len(followed)
    others = [dict(tracking(report)) for report in site.reports(site.shuffled, "machine")]
    assert not {uid for study in studies for uid in study.values()} & {uid for one in others for uid in one.values()}


def test_the_earlier_films_that_the_model_saw_and_a_course_is_told_of_are_evidence(site: CourseSite) -> None:
    uids = [str(film.header.SOPInstanceUID) for film in site.ordered.films]
    courses = 0
    for kind in ("reading", "machine"):
        for number, report in enumerate(site.reports(site.ordered, kind)):
            assert references(report, "CurrentRequestedProcedureEvidenceSequence") == [uids[number]]
            assert set(references(report, "PertinentOtherEvidenceSequence")) == set(uids[:number])
            assert number < 2 or "The model also saw the earlier chest radiograph" in texts(report)
            courses += any(item.ConceptNameCodeSequence[0].CodeValue == "COURSE" for item in report.ContentSequence)
    assert courses, "of five films something can be told"


def test_validators_find_no_error(site: CourseSite, tmp_path: Path) -> None:
    files = []
    for kind in ("reading", "machine"):
        for number, report in enumerate(site.reports(site.shuffled, kind)):
            files.append(save(report, tmp_path / f"{kind}-{number}.dcm"))
    assert dciodvfy_errors(files) == {}
    assert pixelmed_errors(files) == {}


def test_an_answer_is_kept_once_when_the_node_is_killed_behind_it(site: CourseSite) -> None:
    uid = site.ordered.films[-1].study_uid
    before = row_counts(site)
    answer = ask(site, uid, "Is there edema?")
    assert not answer["refused"]
    site.node.kill()
    site.node.start()
    refusal = ask(site, uid, "How many ribs are there?")["answer"]
    assert kept_questions(site) == [
        ("Is there edema?", answer["answer"], False),
        ("How many ribs are there?", refusal, True),
    ]
    assert site.is_quiet()
    assert row_counts(site) == before, "no result, document or entry of the chart came or went"


def test_what_came_of_the_prognoses_is_shown_for_the_week(site: CourseSite) -> None:
    """Each film but the first judges the one before it; the week is closed by looking at it eight days later."""
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=8)
    with site.node.database() as database:
        store = FolderStore(site.node.settings.node.data_dir / "instances")
        weekly.run(NodeContext(settings=site.node.settings, database=database, store=store, clock=lambda: later))
        with database.read() as session:
            (overall,) = session.scalars(select(DriftFigure).where(DriftFigure.figure == CAME_TRUE))
    judged = [pair for patient in (site.ordered, site.shuffled) for pair in _judged(site.results(patient))]
    assert len(judged) >= 2 * FILMS
    assert overall.n == len(judged)
    assert overall.value == pytest.approx(sum(came_true for _, came_true in judged) / len(judged))
    assert overall.baseline == pytest.approx(sum(probability for probability, _ in judged) / len(judged))
    with client(site) as doctor:
        page = " ".join(doctor.get("/drift?weeks=1").text.split())
    assert f'<td data-label="Prognoses">{overall.n}</td>' in page
    assert "investigational" in page


def _judged(results: Sequence[Result]) -> list[tuple[float, bool]]:
    """(stated probability, whether it came true) of each prognosis that the next film's result tells something of."""
    judged = []
    for before, after in pairwise(results):
        shown = {finding["key"]: finding for finding in after.prediction["findings"]}
        for item in before.prediction["prognosis"]:
            finding = shown[item["key"]]
            stays_absent = item["change"] == "new" and finding["change"] is None and finding["seen"] == "not seen"
            if stays_absent or finding["change"] not in (None, "not comparable"):
                judged.append((item["probability"], item["change"] == finding["change"]))
    return judged


def test_on_postgresql_too_nothing_is_lost_or_doubled(
    site: CourseSite, postgres_server: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    """Killed behind the laboratory's messages, and again behind a question."""
    url = postgres_server.new_database(template=postgres_template)
    node = course_node(tmp_path / "node", extra=f'[database]\nurl = "{url}"\n')
    patient, film = site.ordered, site.ordered.films[0]
    with running(node):
        other = replace(site, node=node)
        send_chart(other, patient)
        entries = row_counts(other)
        node.kill()
        node.start()
        assert row_counts(other) == entries
        other.send(patient, [0], results=1)
        answer = ask(other, film.study_uid, "Is there edema?")
        before = row_counts(other)
        node.kill()
        node.start()
        assert other.is_quiet()
        assert row_counts(other) == before
        assert kept_questions(other) == [("Is there edema?", answer["answer"], answer["refused"])]
    assert other.results(patient)[0].prediction["findings"]
