"""The course section: one line for each finding whose course may be told (`report.timeline`)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from dicom_node.report.request import ReportRequest
from dicom_node.report.timeline import CourseClause, CourseStep, FindingCourse, crowded_days, finding_courses
from dicom_node.report.wording.catalogue import Catalogue, sentence
from dicom_node.report.wording.phrases import MEASURED_BY_SIZE, name_of

_OF_DEGREE = frozenset({CourseStep.MOST, CourseStep.LESS_SINCE})


def course_sentences(request: ReportRequest, words: Catalogue) -> tuple[str, ...]:
    """ "Pleural effusion: first seen 3 March 2026, largest 9 March 2026, smaller since." for each finding."""
    crowded = crowded_days(request)
    lines = [_line(course, crowded, words) for course in finding_courses(request)]
    if lines and request.course_left_out:
        key = "course.other_model_one" if request.course_left_out == 1 else "course.other_model"
        lines.append(words.text(key, count=request.course_left_out))
    return tuple(lines)


def _line(course: FindingCourse, crowded: Collection[dt.date], words: Catalogue) -> str:
    clauses = ", ".join(_clause(course.key, clause, crowded, words) for clause in course.clauses)
    return words.text("course.line", finding=sentence(name_of(course.key, words)), clauses=clauses)


def _clause(key: str, clause: CourseClause, crowded: Collection[dt.date], words: Catalogue) -> str:
    name = clause.step.value
    if clause.step in _OF_DEGREE:
        name += "_size" if key in MEASURED_BY_SIZE else "_degree"
    return words.text(f"course.{name}", date=_day(clause.when, crowded, words))


def _day(when: dt.datetime, crowded: Collection[dt.date], words: Catalogue) -> str:
    day = words.date(when)
    return words.text("date_time", date=day, time=f"{when:%H:%M}") if when.date() in crowded else day
