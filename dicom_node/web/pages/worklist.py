"""The pages of radiologists: work list, study, the choice of its prior."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.admin import listings as reading
from dicom_node.admin import operations
from dicom_node.admin.formats import amount, label
from dicom_node.admin.study_page import StudyPage, study_page
from dicom_node.audit import messages as audit
from dicom_node.config import VIEWER_PLACES, Role
from dicom_node.dicom.uids import is_uid
from dicom_node.feedback import record as feedback
from dicom_node.index.tables.core import DeliveryState, Outcome, Study, StudyState
from dicom_node.priors.explain import as_values, explain_choice
from dicom_node.questions.ask import history
from dicom_node.report.render.marks import LINE_STYLES, hex_colour
from dicom_node.report.rules import side_of
from dicom_node.web.pages.corrections import fitting_words
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule, address_of
from model.schema import Change

_SIDE_LETTERS = {"left": "L", "right": "R", "bilateral": "both sides"}
Choice = TypeVar("Choice", StudyState, Outcome, DeliveryState, reading.Urgency, reading.Order)


def work_list(call: Call) -> Response:
    """The studies that were sent to us."""
    chosen = filter_of(call)
    with call.node.database.read() as session:
        lines, total = reading.work_list(session, chosen)
    return render(
        call.request,
        "worklist.html",
        user=call.user,
        lines=lines,
        total=total,
        wanted=chosen,
        states=list(StudyState),
        outcomes=list(Outcome),
        delivery_states=list(DeliveryState),
        urgencies=list(reading.Urgency),
        orders=list(reading.Order),
    )


def filter_of(call: Call) -> reading.Filter:
    """The filter in the query string. Raises HTTPException 400 naming what is allowed."""
    return reading.Filter(
        words=call.text("q").replace("\x00", "")[:200],
        state=choice(call, "state", StudyState),
        outcome=choice(call, "outcome", Outcome),
        delivery=choice(call, "delivery", DeliveryState),
        urgency=choice(call, "urgency", reading.Urgency),
        order=choice(call, "order", reading.Order) or reading.Order.STUDY_TIME,
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
    return render(
        call.request,
        "study.html",
        user=call.user,
        page=page,
        words=words,
        questions=questions,
        corrections={item["key"]: fitting_words(item) for item in page.findings},
        regions=[item["regions"] if item["key"] in page.outlined else [] for item in page.findings],
        marks=[_mark(item) for item in page.findings],
        viewer=_viewer_link(call, page.study),
        language=call.node.settings.node.language,
        thanks=call.text("thanks") == "1",
        done=call.text("done")[:80],
    )


def _viewer_link(call: Call, row: Study) -> str:
    """The study in the site's own viewer; "" where none is configured."""
    template = call.node.settings.web.viewer_url
    if template is None:
        return ""
    values = {name: quote(getattr(row, name), safe="") for name in VIEWER_PLACES}
    return template.format(**values)


def _mark(finding: dict[str, Any]) -> dict[str, Any]:
    """The drawing of this finding's regions: the same colour, line and label as in the report's picture."""
    change = Change(finding["change"]) if finding.get("change") in list(Change) else None
    style = LINE_STYLES[change]
    side = side_of(finding.get("location"))
    finding_name = f"{finding['name']} {_SIDE_LETTERS[side]}" if side else finding["name"]
    is_stated = change is not None and finding.get("doubt") is None
    return {
        "colour": hex_colour(finding["key"]),
        "width": style.width,
        "dashes": style.dashes,
        "name": f"{label(change)}: {finding_name}" if is_stated else finding_name,
        "prior": finding_name,
    }


def priors(call: Call) -> Response:
    """Every candidate for the prior with what speaks for and against it. Looking at it is audited."""
    page = load_page(call)
    audit_access(call, page.study)
    choice = as_values(*explain_choice(page.study.study_instance_uid, call.node))
    return render(call.request, "priors.html", user=call.user, page=page, choice=choice)


def load_page(call: Call) -> StudyPage:
    """The study of the path, with the result of the query string where there is one. Raises HTTPException 404."""
    uid = str(call.request.path_params["study_instance_uid"])
    result_id = call.number("result", 0, most=2**62) or None
    with call.node.database.read() as session:
        page = study_page(session, uid, result_id=result_id) if is_uid(uid) else None
    if page is None:
        raise HTTPException(404, "no such study")
    return page


def audit_access(call: Call, row: Study, event: audit.AuditedEvent = audit.AuditedEvent.PATIENT_RECORD) -> None:
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
    return RedirectResponse(f"/studies/{uid}?done={amount(count, 'document')} will be sent again", 303)


RULES = (
    Rule(path="/", view=work_list),
    Rule(path="/studies/{study_instance_uid}", view=study),
    Rule(path="/studies/{study_instance_uid}/priors", view=priors),
    Rule(path="/studies/{study_instance_uid}/reprocess", view=reprocess, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/studies/{study_instance_uid}/resend", view=resend, methods=("POST",), role=Role.ADMINISTRATOR),
)
