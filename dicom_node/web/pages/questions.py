"""Questions on a study: the form of its page, and the JSON route."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from dicom_node.admin import operations
from dicom_node.dicom.uids import is_uid
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.questions import StudyQuestion
from dicom_node.questions.ask import TooManyQuestionsError, ask, is_demonstration, question_values
from dicom_node.web.routing import Call, Rule
from model.questions.free_text import MAX_CHARACTERS

FIELD = "question"


def ask_by_form(call: Call) -> Response:
    """Answer the question of the study page's form and show it there."""
    row, _ = _ask_and_keep(call, call.form.get(FIELD, ""))
    uid = str(call.request.path_params["study_instance_uid"])
    return RedirectResponse(f"/studies/{uid}#question-{row.id}", 303)


def ask_by_json(call: Call) -> Response:
    """Answer {"question": TEXT}: 200 with the answer or, `refused` true, with the reason why there is none."""
    given = call.json_value()
    if not isinstance(given, dict) or set(given) != {FIELD} or not isinstance(given[FIELD], str):
        raise HTTPException(400, f'the body must be {{"{FIELD}": TEXT}}')
    row, demonstration = _ask_and_keep(call, given[FIELD])
    return JSONResponse(question_values(row, demonstration=demonstration))


def _ask_and_keep(call: Call, text: str) -> tuple[StudyQuestion, bool]:
    """Keep the question with its answer, audited; tell also whether the answer is a demonstration's.

    Raises HTTPException 400, 404 or 429.
    """
    cleaned = text.replace("\x00", "").strip()
    if not 0 < len(cleaned) <= MAX_CHARACTERS:
        raise HTTPException(400, f"a question has 1 to {MAX_CHARACTERS} characters")
    uid = str(call.request.path_params["study_instance_uid"])
    now = call.node.clock()
    with call.node.database.write() as session:
        study = study_by_uid(session, uid) if is_uid(uid) else None
        if study is None:
            raise HTTPException(404, "no such study")
        try:
            row = ask(session, study, cleaned, author=call.who.name, now=now)
        except TooManyQuestionsError as error:
            raise HTTPException(429, str(error)) from None
        operations.record_change(session, call.node.settings, study, now=now, who=call.who.name)
        demonstration = is_demonstration(session, row)
        session.expunge(row)
    return row, demonstration


RULES = (Rule(path="/studies/{study_instance_uid}/questions", view=ask_by_form, methods=("POST",)),)
