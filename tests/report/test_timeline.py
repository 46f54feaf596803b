"""The course of a finding: what is told of it, in both languages, and what is never told."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from dicom_node.report.chart_facts import ChartFact, FactKind
from dicom_node.report.documents import build_documents
from dicom_node.report.render.text import as_text
from dicom_node.report.request import CoursePoint, ReportRequest, SourceImage
from dicom_node.report.rules import EarlierStatement, Seen
from dicom_node.report.timeline import CourseStep, finding_courses
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.course import course_sentences
from dicom_node.report.wording.sections import SectionKey, sections
from model.schema import Change, Finding, Presence
from tests.support import report_cases as cases
from tests.support.course_reports import references
from tests.support.validators import dciodvfy_errors, save

EFFUSION = "pleural_effusion"
Said = tuple[Seen, str | None]
NOT, SMALL, LARGE = (Seen.NOT_SEEN, None), (Seen.SEEN, "mild"), (Seen.SEEN, "severe")


def _point(day: int, said: Said, *, hour: int = 8, side: str | None = "left") -> CoursePoint:
    """A film of March 2026 with what its result says of the effusion."""
    seen, level = said
    statement = EarlierStatement(seen=seen, level=level, location=side if seen is Seen.SEEN else None)
    taken = dt.datetime(2026, 3, day, hour, 15)  # noqa: DTZ001 - DICOM local time
    return CoursePoint(sop_instance_uid=f"2.25.{day}{hour}", taken=taken, statements={EFFUSION: statement})


def _request(points: list[CoursePoint], now: Finding, **values: object) -> ReportRequest:
    """The report of 20 March, compared with the newest of the points."""
    prior = SourceImage(header=cases.header("prior", f"{points[-1].taken:%Y%m%d}"), image=cases.image(2))
    made = cases.request(cases.prediction(now), prior=prior, course=tuple(points), earlier=points[-1].statements)
    current = SourceImage(header=cases.header("current", "20260320"), image=cases.image(1))
    return dataclasses.replace(made, current=current, **values)  # type: ignore[arg-type]


def _told(request: ReportRequest, language: str = "en") -> list[str]:
    return list(course_sentences(request, catalogue(language)))


BETTER = cases.finding(EFFUSION, Change.IMPROVING, location="left", level="mild")


def test_first_largest_smaller_with_their_dates() -> None:
    request = _request([_point(1, NOT), _point(3, SMALL), _point(9, LARGE)], BETTER)
    assert _told(request) == [
        "Pleural effusion: first seen on 3 March 2026, largest on 9 March 2026, smaller since.",
    ]
    assert _told(request, "de") == [
        "Pleuraerguss: zuerst nachweisbar am 3. März 2026, am größten am 9. März 2026, seither kleiner."
    ]
    keys = [section.key for section in sections(request)]
    assert keys.index(SectionKey.COURSE) == keys.index(SectionKey.FINDINGS) + 1
    assert "COURSE" in as_text(request)


@pytest.mark.parametrize(
    ("points", "now", "line"),
    [
        (
            [_point(1, LARGE), _point(9, SMALL)],
            cases.finding(EFFUSION, Change.RESOLVED),
            "Pleural effusion: seen on the first film read, 1 March 2026, largest on 1 March 2026, "
            "not seen on 20 March 2026.",
        ),
        (
            [_point(1, SMALL), _point(3, NOT), _point(9, NOT)],
            cases.finding(EFFUSION, Change.NEW, location="left", level="severe"),
            "Pleural effusion: seen on the first film read, 1 March 2026, not seen on 3 March 2026, "
            "seen again on 20 March 2026, largest on 20 March 2026.",
        ),
        (
            [_point(9, SMALL, hour=7), _point(9, LARGE, hour=19)],
            BETTER,
            "Pleural effusion: seen on the first film read, 9 March 2026, 07:15, largest on 9 March 2026, 19:15, "
            "smaller since.",
        ),
    ],
    ids=["gone", "came back", "two films of a day"],
)
def test_courses(points: list[CoursePoint], now: Finding, line: str) -> None:
    assert _told(_request(points, now)) == [line]


@pytest.mark.parametrize("change", [Change.STABLE, Change.WORSENING])
def test_no_degree_is_told_against_the_stated_change(change: Change) -> None:
    """The degrees say less, the change says unchanged or larger: the course keeps to when it was seen."""
    now = cases.finding(EFFUSION, change, location="left", level="mild")
    (course,) = finding_courses(_request([_point(3, SMALL), _point(9, LARGE)], now))
    assert [clause.step for clause in course.clauses] == [CourseStep.FROM_START]


def test_nothing_is_told_beside_a_doubt_on_two_sides_or_of_two_films() -> None:
    uncertain = cases.finding(EFFUSION, Change.NOT_COMPARABLE, change_probability=0.3)
    films = [_point(3, SMALL), _point(9, LARGE)]
    assert _told(_request(films, BETTER)) != []
    assert _told(_request(films, uncertain)) == []
    assert _told(_request(films[1:], BETTER)) == []
    assert _told(_request([_point(3, SMALL, side="right"), _point(9, LARGE)], BETTER)) == []
    possible = cases.finding(EFFUSION, presence=Presence.ABSENT, probability=0.4)
    assert _told(_request(films, possible)) == []


def test_films_of_another_model_are_left_out_and_counted() -> None:
    films = [_point(3, SMALL), _point(9, LARGE)]
    assert _told(_request(films, BETTER, course_left_out=1))[-1].startswith("One earlier film was read by another")
    assert _told(_request(films, BETTER, course_left_out=4), "de")[-1].startswith("4 frühere Aufnahmen")
    assert _told(_request(films[1:], BETTER, course_left_out=4)) == []


def test_documents_with_a_course_and_a_chart_are_valid(tmp_path: Path) -> None:
    chart = (ChartFact(kind=FactKind.LAB, name="CRP", text="184 mg/L", before=dt.timedelta(hours=2)),)
    request = _request([_point(1, NOT), _point(3, SMALL), _point(9, LARGE)], BETTER, chart=chart)
    files = [save(one.dataset, tmp_path / f"{one.kind.value}.dcm") for one in build_documents(request)]
    assert len(files) == 2
    assert dciodvfy_errors(files) == {}


def test_films_of_a_told_course_and_images_that_the_model_saw_are_evidence() -> None:
    films = [_named(_point(day, said)) for day, said in ((1, NOT), (3, SMALL), (9, LARGE))]
    shown = SourceImage(header=cases.header("shown", "20260305"), image=cases.image(3))
    told, untold = _request(films, BETTER), _request(films[:1], BETTER)
    for request, course in ((told, films), (untold, [])):
        request = dataclasses.replace(request, earlier_images=(shown,))
        assert request.prior is not None
        pertinent = {str(one.header.SOPInstanceUID) for one in (request.prior, shown)}
        pertinent |= {point.sop_instance_uid for point in course}
        for document in build_documents(request):
            evidence = references(document.dataset, "PertinentOtherEvidenceSequence")
            assert set(evidence) == pertinent
            assert len(evidence) == len(pertinent), "each once"
    nameless = _request([dataclasses.replace(films[0], sop_class_uid=""), *films[1:]], BETTER)
    assert films[0].sop_instance_uid not in references(
        build_documents(nameless)[0].dataset, "PertinentOtherEvidenceSequence"
    )


def _named(point: CoursePoint) -> CoursePoint:
    """The film with all UIDs that a reference to it needs."""
    day = point.taken.day
    return dataclasses.replace(
        point, study_instance_uid=f"2.25.5{day}", series_instance_uid=f"2.25.6{day}", sop_class_uid=f"2.25.7{day}"
    )


def test_a_prognosis_stands_under_its_own_heading_and_never_in_the_impression() -> None:
    found = {section.key: " ".join(section.sentences) for section in sections(cases.kinds()["prognosis"])}
    assert "31%" in found[SectionKey.PROGNOSIS]
    assert "investigational" in found[SectionKey.PROGNOSIS]
    assert not any("edema" in words for key, words in found.items() if key is SectionKey.IMPRESSIONS)
