"""Telling people: dead letters, disk, quarantine, dates that lie ahead and a new model become rows, and rows go out by
webhook and e-mail.

The same trouble is told once (its key is unique). No patient data leaves: texts speak of our own job keys and counts.
"""

from __future__ import annotations

import datetime as dt
import smtplib
from collections.abc import Callable, Mapping
from email.message import EmailMessage

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.config import NotifySection
from dicom_node.context import NodeContext
from dicom_node.errors import NodeError
from dicom_node.index.tables.core import (
    Delivery,
    Job,
    JobKind,
    JobState,
    Notice,
    Quarantine,
    Result,
    Study,
    StudyPurpose,
)
from dicom_node.index.tables.models import ModelEvent, ModelEventKind
from dicom_node.index.upsert import insert_if_absent
from dicom_node.logs import get_logger
from dicom_node.system.backoff import pause_after

log = get_logger(__name__)

LATEST_RESULTS = 1000
"""Results, and studies, that each tick looks through from the newest: far more than one tick brings."""
SEND_SECONDS = 10.0
FIRST_RETRY = dt.timedelta(seconds=30)
LONGEST_RETRY = dt.timedelta(hours=1)
MOST_ATTEMPTS = 100


class NotifyError(NodeError):
    """A notice could not be sent."""


def raise_notice(session: Session, *, key: str, kind: str, text: str, now: dt.datetime) -> bool:
    """Add a notice in the caller's transaction; the same key twice makes one. Returns whether it is new."""
    values = {"key": key[:255], "kind": kind, "text": text, "created_at": now, "next_attempt_at": now}
    new = insert_if_absent(session, Notice, {**values, "attempts": 0, "last_error": ""}, unique=["key"]) is not None
    if new:
        log.warning("notice", kind=kind, text=text)
    return new


def run(node: NodeContext) -> None:
    """Tick: look for what people must hear of, then send what waits. Raises NotifyError."""
    with node.database.write() as session:
        now = node.clock()
        _dead_letters(session, now)
        _add_quarantine_notices(session, now)
        _add_future_dates(session, now)
        _new_model(session, now)
    settings = node.settings.notify
    if settings.webhook_url or settings.email_to:
        send_waiting(node)


def _dead_letters(session: Session, now: dt.datetime) -> None:
    """One notice for each destination and hour, named: a PACS that is down makes hundreds of failed deliveries."""
    rows = session.execute(
        select(Job.id, Job.kind, Job.finished_at, Job.last_error, Delivery.destination)
        .outerjoin(Delivery, (Job.kind == JobKind.DELIVER) & (Job.payload["delivery_id"].as_integer() == Delivery.id))
        .where(Job.state == JobState.DEAD, Job.finished_at.is_not(None))
        .order_by(Job.id)
    )
    for row in rows:
        # Only the node's own words: behind the first colon an error may quote what somebody else said, of a patient.
        why = row.last_error.partition(":")[0][:200]
        if row.destination is None:
            text = f"{row.kind} job {row.id} failed for good and needs attention: {why}"
            key = f"dead letter:{row.id}:{row.finished_at.isoformat()}"
        else:
            hour = f"{row.finished_at:%Y-%m-%d %H}"
            text = f"deliveries to {row.destination} fail for good since {row.finished_at:%Y-%m-%d %H:%M} UTC: {why}"
            key = f"dead deliveries:{row.destination}:{hour}"
        raise_notice(session, key=key, kind="dead letter", text=text, now=now)


def _add_quarantine_notices(session: Session, now: dt.datetime) -> None:
    rows = session.execute(
        select(Quarantine.id, Quarantine.reason, Quarantine.calling_ae_title).where(Quarantine.resolved_at.is_(None))
    )
    for row in rows:
        text = f"object {row.id} from {row.calling_ae_title} is in quarantine: {row.reason}"
        raise_notice(session, key=f"quarantine:{row.id}", kind="quarantine", text=text, now=now)


def _add_future_dates(session: Session, now: dt.datetime) -> None:
    """Studies of tomorrow: they stand above all others, and every later film of the patient is "older" than they are.

    A day is allowed for sites east of UTC.
    """
    tomorrow = f"{now + dt.timedelta(days=1):%Y%m%d}"
    latest = session.scalar(select(func.max(Study.id))) or 0
    rows = session.execute(
        select(Study.id, Study.study_instance_uid, Study.study_date).where(
            Study.id > latest - LATEST_RESULTS, Study.study_date > tomorrow, Study.purpose == StudyPurpose.ROUTED
        )
    )
    for row in rows:
        if not row.study_date.isdigit():
            continue  # what is no date sorts behind every date
        text = f"study {row.study_instance_uid} is dated {row.study_date}, in the future: check the modality's clock"
        raise_notice(session, key=f"future date:{row.id}", kind="date", text=text, now=now)


def _new_model(session: Session, now: dt.datetime) -> None:
    """The first result of a checkpoint that is not the node's first one and that nobody promoted: of a promotion the
    journal tells (`dicom_node.serving.promotion`). So what is left is another model by configuration or on the
    server."""
    named = select(Result.device_uid).where(Result.device_uid != "")
    own = session.scalar(named.order_by(Result.id).limit(1))
    latest = session.scalar(select(func.max(Result.id))) or 0
    rows = session.execute(
        select(Result.device_uid, func.max(Result.model_version).label("version"))
        .where(Result.id > latest - LATEST_RESULTS, Result.device_uid != "", Result.device_uid != own)
        .group_by(Result.device_uid)
        .order_by(func.min(Result.id))
    ).all()
    promoted = set(session.scalars(select(ModelEvent.device_uid).where(ModelEvent.kind == ModelEventKind.PROMOTED)))
    for row in rows:
        if row.device_uid in promoted:
            continue
        text = f"results now come from model version {row.version}, device UID {row.device_uid}"
        raise_notice(session, key=f"model:{row.device_uid}", kind="model change", text=text, now=now)


def send_waiting(node: NodeContext) -> None:
    """Send all notices that are due as one message, so that a storm of troubles is one e-mail. Raises NotifyError."""
    now = node.clock()
    with node.database.read() as session:
        rows = session.execute(
            select(Notice.id, Notice.kind, Notice.text, Notice.created_at, Notice.attempts, Notice.last_error)
            .where(Notice.sent_at.is_(None), Notice.next_attempt_at <= now, Notice.attempts < MOST_ATTEMPTS)
            .order_by(Notice.id)
            .limit(500)
        ).all()
    if not rows:
        return
    failures: dict[int, list[str]] = {row.id: [] for row in rows}
    for way, send in _ways(node.settings.notify).items():
        owed = [row for row in rows if row.attempts == 0 or _failure_prefix(way) in row.last_error]
        lines = [(row.kind, row.text, row.created_at) for row in owed]
        if lines and (failure := send(node.settings.notify, node.settings.node.ae_title, lines)):
            for row in owed:
                failures[row.id].append(f"{_failure_prefix(way)}{failure}")
    _note_sent(node, {key: "; ".join(texts) for key, texts in failures.items()}, now)


def _note_sent(node: NodeContext, errors: Mapping[int, str], now: dt.datetime) -> None:
    """Write what came of each notice. Raises NotifyError where one has to wait."""
    with node.database.write() as session:
        for notice in session.scalars(select(Notice).where(Notice.id.in_(list(errors)))):
            error = errors[notice.id]
            notice.attempts += 1
            notice.last_error = error
            if error:
                notice.next_attempt_at = now + pause_after(notice.attempts, first=FIRST_RETRY, longest=LONGEST_RETRY)
            else:
                notice.sent_at = now
    waiting = [error for error in errors.values() if error]
    if waiting:
        raise NotifyError(f"{len(waiting)} notices wait: {waiting[0]}")


Lines = list[tuple[str, str, dt.datetime]]
"""(kind, text, when) of each notice."""


def _ways(settings: NotifySection) -> dict[str, Callable[[NotifySection, str, Lines], str]]:
    """The configured ways of telling people; each sends all lines at once and returns "" or what failed."""
    ways: dict[str, Callable[[NotifySection, str, Lines], str]] = {}
    if settings.webhook_url:
        ways["webhook"] = _post
    if settings.email_to:
        ways["e-mail"] = _try_mail
    return ways


def _failure_prefix(way: str) -> str:
    """Begins a way's part of `last_error`. A retry goes by the ways that failed, not by those that got through."""
    return f"{way}: "


def _post(settings: NotifySection, ae_title: str, lines: Lines) -> str:
    import httpx  # a fifth of a second that the command line need not wait

    notices = [{"kind": kind, "text": text, "at": at.isoformat()} for kind, text, at in lines]
    body = {"node": ae_title, "notices": notices}
    try:
        answer = httpx.post(str(settings.webhook_url), json=body, timeout=SEND_SECONDS, trust_env=False)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        return f"answered {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"cannot be reached ({type(error).__name__})"
    return ""


def _try_mail(settings: NotifySection, ae_title: str, lines: Lines) -> str:
    try:
        _mail(settings, ae_title, lines)
    except (OSError, smtplib.SMTPException) as error:
        return f"the server did not take it ({type(error).__name__})"
    return ""


def _mail(settings: NotifySection, ae_title: str, lines: list[tuple[str, str, dt.datetime]]) -> None:
    message = EmailMessage()
    kinds = ", ".join(sorted({kind for kind, _, _ in lines}))
    message["Subject"] = f"[{ae_title}] {kinds}"
    message["From"], message["To"] = settings.email_from, ", ".join(settings.email_to)
    message.set_content("\n".join(f"{at:%Y-%m-%d %H:%M:%S} UTC  {kind}: {text}" for kind, text, at in lines))
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=SEND_SECONDS) as server:
        if settings.smtp_starttls:
            server.starttls()
        server.send_message(message)
