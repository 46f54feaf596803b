"""The pages of radiologists: log-in, work list, study, feedback."""

from __future__ import annotations

from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.admin import listings as reading
from dicom_node.admin import operations
from dicom_node.audit import messages as audit
from dicom_node.config import Role
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import UsageError
from dicom_node.feedback import record as feedback
from dicom_node.index.tables.core import DeliveryState, Outcome, Result, Study, StudyState, Verdict
from dicom_node.priors.explain import as_values, explained
from dicom_node.questions.ask import history
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule, address_of

Choice = TypeVar("Choice", StudyState, Outcome, DeliveryState)


def log_in_page(call: Call) -> Response:
    """The form."""
    return render(call.request, "login.html", wanted="/")


def log_in(call: Call) -> Response:
    """Check name and password; open a session."""
    name = call.form.get("name", "")[:255]
    keys = call.doorkeeper.failure_keys(address_of(call), name)
    if not call.doorkeeper.waiting.acquire(blocking=False):
        text = "many log in at this moment; try again in a few seconds"
        return render(call.request, "message.html", status=503, title="503", text=text)
    try:
        with call.doorkeeper.one_at_a_time:
            if call.doorkeeper.must_pause(keys):
                text = "too many wrong passwords; try again in a minute"
                return render(call.request, "message.html", status=429, title="429", text=text)
            session = call.doorkeeper.log_in(name, call.form.get("password", "")[:1024])
            call.doorkeeper.note(keys, failed=session is None)
    finally:
        call.doorkeeper.waiting.release()
    _audit_log_in(call, name, succeeded=session is not None)
    if session is None:
        return render(call.request, "login.html", status=401, wanted="/", wrong=True)
    call.request.session.clear()
    call.request.session.update(session)
    return RedirectResponse(_local(call.form.get("wanted", "/")), 303)


def _local(path: str) -> str:
    """Only a path of ours is a place to go to after the log-in."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def log_out(call: Call) -> Response:
    """End the session, here and in the browser."""
    call.doorkeeper.log_out(call.request.session)
    call.request.session.clear()
    return RedirectResponse("/", 303)


def _audit_log_in(call: Call, name: str, *, succeeded: bool) -> None:
    with call.node.database.write() as session:
        audit.record(
            session,
            audit.Event.USER_AUTHENTICATION,
            event_type=audit.EventType.LOGIN,
            now=call.node.clock(),
            participants=(
                audit.Participant(user_id=name or "(none)", requestor=True, address=address_of(call)),
                audit.this_node(call.node.settings.node.ae_title),
            ),
            outcome=audit.Outcome.SUCCESS if succeeded else audit.Outcome.SERIOUS_FAILURE,
            site=call.node.settings.audit.site,
        )


def work_list(call: Call) -> Response:
    """The studies that were sent to us."""
    wanted = filter_of(call)
    with call.node.database.read() as session:
        lines, total = reading.work_list(session, wanted)
    return render(
        call.request,
        "worklist.html",
        user=call.user,
        lines=lines,
        total=total,
        wanted=wanted,
        states=list(StudyState),
        outcomes=list(Outcome),
        delivery_states=list(DeliveryState),
    )


def filter_of(call: Call) -> reading.Filter:
    """The filter in the query string. Raises HTTPException 400 naming what is allowed."""
    return reading.Filter(
        words=call.text("q").replace("\x00", "")[:200],
        state=choice(call, "state", StudyState),
        outcome=choice(call, "outcome", Outcome),
        delivery=choice(call, "delivery", DeliveryState),
        study_date=call.text("date").replace("\x00", "")[:10],
        offset=call.number("offset", 0),
        limit=call.number("limit", reading.PAGE, least=1, most=500),
    )


def choice(call: Call, name: str, states: type[Choice]) -> Choice | None:
    """A state of the query string; None where none is given."""
    given = call.text(name)
    if not given:
        return None
    try:
        return states(given)
    except ValueError:
        allowed = ", ".join(member.value for member in states)
        raise HTTPException(400, f"{name} must be one of: {allowed}") from None


def study(call: Call) -> Response:
    """One study with its images, findings, time line and buttons. Looking at it is audited."""
    page = load_page(call)
    with call.node.database.read() as session:
        words = feedback.of_study(session, page.study.study_instance_uid)
        questions = history(session, page.study.id)
    audit_access(call, page.study)
    aspects = [feedback.Aspect.PRESENCE, feedback.Aspect.CHANGE, feedback.Aspect.LOCATION, feedback.Aspect.LEVEL]
    return render(
        call.request,
        "study.html",
        user=call.user,
        page=page,
        words=words,
        questions=questions,
        values={aspect.value: feedback.allowed_values(aspect) for aspect in aspects},
        thanks=call.text("thanks") == "1",
        done=call.text("done")[:80],
    )


def priors(call: Call) -> Response:
    """Every candidate for the prior with what speaks for and against it. Looking at it is audited."""
    page = load_page(call)
    audit_access(call, page.study)
    choice = as_values(*explained(page.study.study_instance_uid, call.node))
    return render(call.request, "priors.html", user=call.user, page=page, choice=choice)


def load_page(call: Call) -> reading.StudyPage:
    """The study of the path, with the result of the query string where there is one. Raises HTTPException 404."""
    uid = str(call.request.path_params["study_instance_uid"])
    result_id = call.number("result", 0, most=2**62) or None
    with call.node.database.read() as session:
        page = reading.study_page(session, uid, result_id=result_id) if is_uid(uid) else None
    if page is None:
        raise HTTPException(404, "no such study")
    return page


def audit_access(call: Call, row: Study, event: audit.Event = audit.Event.PATIENT_RECORD) -> None:
    """Audit that somebody looked at a study's record or, with INSTANCES_ACCESSED, at an image of it."""
    with call.node.database.write() as session:
        audit.record(
            session,
            event,
            now=call.node.clock(),
            participants=(
                audit.Participant(user_id=call.who.name, requestor=True, address=address_of(call)),
                audit.this_node(call.node.settings.node.ae_title),
            ),
            study=audit.AboutStudy(
                study_instance_uid=row.study_instance_uid,
                patient_id=row.patient_id,
                patient_name=row.patient_name,
                accession_number=row.accession_number,
            ),
            site=call.node.settings.audit.site,
        )


def give_feedback(call: Call) -> Response:
    """One word on one statement, from the study page's form."""
    row_id = keep_word(call, word_of(call.form), call.form.get("result", ""))
    uid = str(call.request.path_params["study_instance_uid"])
    return RedirectResponse(f"/studies/{uid}?thanks=1#word-{row_id}", 303)


def word_of(fields: dict[str, str]) -> feedback.Word:
    """A word out of a form or JSON object. Raises UsageError naming what is allowed."""
    if any(not _is_storable(value) for value in fields.values()):
        raise UsageError("a text holds characters that no text may hold")
    try:
        aspect = feedback.Aspect(fields.get("aspect", ""))
        verdict = Verdict(fields.get("verdict", ""))
    except ValueError as error:
        raise UsageError(
            f"{error}; aspect is one of {', '.join(feedback.Aspect)}, verdict one of {', '.join(Verdict)}"
        ) from error
    return feedback.Word(
        finding=fields.get("finding", ""),
        aspect=aspect,
        verdict=verdict,
        value=fields.get("value", "") if verdict is Verdict.CORRECT else "",
        comment=fields.get("comment", "").strip(),
    )


def _is_storable(text: str) -> bool:
    """Whether databases take it: lone surrogates come in by JSON, and PostgreSQL refuses NUL."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def row_number(text: str) -> int | None:
    """The number of a row; None for what is none, also where it is longer than any database keeps."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def keep_word(call: Call, word: feedback.Word, result_id: str) -> int:
    """Write the word to a result of the path's study. Raises UsageError, HTTPException 404."""
    uid = str(call.request.path_params["study_instance_uid"])
    number = row_number(result_id)
    if number is None:
        raise UsageError("result: which result the word is on, by its number")
    with call.node.database.write() as session:
        result = session.get(Result, number)
        if result is None or result.study.study_instance_uid != uid:
            raise HTTPException(404, "no such result of this study")
        row = feedback.record(
            session,
            result,
            result.study,
            word,
            author=call.who.name,
            role=call.who.role.value,
            source=feedback.Source.WEB,
            now=call.node.clock(),
        )
        return row.id


def reprocess(call: Call) -> Response:
    """Analyse the study again."""
    uid = str(call.request.path_params["study_instance_uid"])
    with call.node.database.write() as session:
        operations.reprocess(session, uid, settings=call.node.settings, now=call.node.clock(), who=call.who.name)
    return RedirectResponse(f"/studies/{uid}?done=the study will be analysed again", 303)


def resend(call: Call) -> Response:
    """Send the study's current documents again."""
    uid = str(call.request.path_params["study_instance_uid"])
    with call.node.database.write() as session:
        count = operations.resend_study(
            session, uid, settings=call.node.settings, now=call.node.clock(), who=call.who.name
        )
    return RedirectResponse(f"/studies/{uid}?done={count} documents will be sent again", 303)


RULES = (
    Rule(path="/login", view=log_in_page, role=None),
    Rule(path="/login", view=log_in, methods=("POST",), role=None),
    Rule(path="/logout", view=log_out, methods=("POST",)),
    Rule(path="/", view=work_list),
    Rule(path="/studies/{study_instance_uid}", view=study),
    Rule(path="/studies/{study_instance_uid}/priors", view=priors),
    Rule(path="/studies/{study_instance_uid}/feedback", view=give_feedback, methods=("POST",), role=Role.RADIOLOGIST),
    Rule(path="/studies/{study_instance_uid}/reprocess", view=reprocess, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/studies/{study_instance_uid}/resend", view=resend, methods=("POST",), role=Role.ADMINISTRATOR),
)
