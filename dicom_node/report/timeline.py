"""The course of a finding over a patient's films: when it was first seen, most marked, and gone. Pure rules.

It is told from what the current results of earlier films state and from this result's statements, all by one
checkpoint, and never beside a doubt. Rules:
1. Three films at least, on which the finding is said to be seen or not seen; two are what the change is stated of.
2. Nothing on a finding whose change this result does not state, or that is said to be on different sides.
3. A degree is compared only where one film alone has the highest; what is said of it must not contradict the stated
   change since the prior.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dicom_node.report.exposure import moment
from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import SEVERITY, EarlierStatement, Seen, Statement, in_order, side_of
from dicom_node.report.statements import is_compared, statements
from model.schema import Change

MIN_FILMS = 3
"""Rule 1."""


class CourseStep(StrEnum):
    """One clause of a course."""

    FIRST = "first"
    """First seen, after a film on which it was not."""
    FROM_START = "from_start"
    """Seen on the first film that was read."""
    MOST = "most"
    """Most marked."""
    LESS_SINCE = "less_since"
    """Less since then."""
    GONE = "gone"
    """Not seen any more, after it was."""
    AGAIN = "again"
    """Seen again, after it was gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseClause:
    """A step and the film's moment; LESS_SINCE refers to the clause before it."""

    step: CourseStep
    when: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingCourse:
    """The course of one finding. key: in the ontology. clauses: in the order of time."""

    key: str
    clauses: tuple[CourseClause, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DatedReading:
    """A film with its result's word on the finding. degree: the smaller, the more marked; None where none is stated."""

    when: dt.datetime
    is_seen: bool
    degree: int | None


def finding_courses(request: ReportRequest) -> tuple[FindingCourse, ...]:
    """The courses that may be told, what matters most first; none without a comparison."""
    now = moment(request.current)
    if now is None or not is_compared(request) or len(request.course) + 1 < MIN_FILMS:
        return ()
    courses = (_course(statement, request, now) for statement in in_order(statements(request)))
    return tuple(course for course in courses if course is not None)


def _course(statement: Statement, request: ReportRequest, now: dt.datetime) -> FindingCourse | None:
    key = statement.finding.key
    if statement.doubt is not None or statement.possible_change is not None:  # rule 2
        return None
    readings = [(point.taken, point.statements[key]) for point in request.course if key in point.statements]
    own = EarlierStatement(seen=statement.seen, location=statement.finding.location, level=statement.finding.level)
    known = [reading for reading in (*readings, (now, own)) if reading[1].seen in (Seen.SEEN, Seen.NOT_SEEN)]
    sides = {side_of(reading.location) for _, reading in known if reading.seen is Seen.SEEN} - {None, "bilateral"}
    if len(known) < MIN_FILMS or len(sides) > 1 or own.seen not in (Seen.SEEN, Seen.NOT_SEEN):
        return None
    films = [
        _DatedReading(when=when, is_seen=reading.seen is Seen.SEEN, degree=_degree(reading)) for when, reading in known
    ]
    clauses = [*_presence(films), *_most_marked(films, statement, _prior_moment(request))]
    return FindingCourse(key=key, clauses=_in_time(clauses)) if clauses else None


def _presence(films: Sequence[_DatedReading]) -> list[CourseClause]:
    """When the finding came and went."""
    clauses: list[CourseClause] = []
    was_seen = False
    for number, film in enumerate(films):
        if film.is_seen and not was_seen:
            first = CourseStep.FIRST if number else CourseStep.FROM_START
            # Only a finding that was told of before can come "again".
            clauses.append(CourseClause(step=CourseStep.AGAIN if clauses else first, when=film.when))
        elif was_seen and not film.is_seen:
            clauses.append(CourseClause(step=CourseStep.GONE, when=film.when))
        was_seen = film.is_seen
    return clauses


def _most_marked(films: Sequence[_DatedReading], statement: Statement, prior: dt.datetime | None) -> list[CourseClause]:
    """Rule 3."""
    graded = [film for film in films if film.is_seen and film.degree is not None]
    if len(graded) < 2 or prior is None:
        return []
    highest = min(film.degree for film in graded if film.degree is not None)
    tops = [film for film in graded if film.degree == highest]
    top, now = tops[0], films[-1]
    if len(tops) > 1 or (top is now and statement.change not in (Change.NEW, Change.WORSENING)):
        return []
    is_before_prior = top.when < prior
    if top is not now and now.is_seen and not is_before_prior and statement.change is not Change.IMPROVING:
        return []  # "most marked on the prior" beside "larger" or "unchanged since the prior"
    clauses = [CourseClause(step=CourseStep.MOST, when=top.when)]
    since = films[films.index(top) + 1 :]
    is_less = bool(since) and all(film.is_seen for film in since) and now.degree is not None
    if is_less and statement.change in (Change.IMPROVING, Change.STABLE):
        clauses.append(CourseClause(step=CourseStep.LESS_SINCE, when=top.when))
    return clauses


def _in_time(clauses: Sequence[CourseClause]) -> tuple[CourseClause, ...]:
    order = (CourseStep.FIRST, CourseStep.FROM_START, CourseStep.GONE, CourseStep.AGAIN, CourseStep.MOST)
    rank = {step: number for number, step in enumerate((*order, CourseStep.LESS_SINCE))}
    return tuple(sorted(clauses, key=lambda clause: (clause.when, rank[clause.step])))


def _degree(said: EarlierStatement) -> int | None:
    return SEVERITY.index(said.level) if said.level in SEVERITY else None


def _prior_moment(request: ReportRequest) -> dt.datetime | None:
    return moment(request.prior) if request.prior is not None else None


def crowded_days(request: ReportRequest) -> frozenset[dt.date]:
    """Days on which several of the films were made: there the time of day is told as well."""
    films = [*(point.taken for point in request.course), moment(request.current)]
    days = [film.date() for film in films if film is not None]
    return frozenset(day for day in days if days.count(day) > 1)
