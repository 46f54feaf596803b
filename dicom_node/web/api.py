"""JSON for programs: the same values as the pages, and feedback in. Described by /api/openapi.json."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from dicom_node.admin import job_listings as reading_jobs
from dicom_node.admin import listings as reading
from dicom_node.config import Role
from dicom_node.feedback import record as feedback
from dicom_node.index.tables.core import DeliveryState, Job, JobState, Outcome, StudyState, Verdict
from dicom_node.web.pages.corrections import keep_word, word_of
from dicom_node.web.pages.questions import ask_by_json
from dicom_node.web.pages.worklist import audit_access, choice, filter_of, load_page
from dicom_node.web.routing import Call, Rule
from model.questions.free_text import MAX_CHARACTERS


def _json(value: Any, status: int = 200) -> Response:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return Response(text, status, media_type="application/json")


def studies(call: Call) -> Response:
    """The work list."""
    with call.node.database.read() as session:
        lines, total = reading.work_list(session, filter_of(call))
    return _json({"total": total, "studies": [dataclasses.asdict(line) for line in lines]})


def study(call: Call) -> Response:
    """One study: result, time line, deliveries, feedback. Looking at it is audited."""
    page = load_page(call)
    audit_access(call, page.study)
    with call.node.database.read() as session:
        words = [_word(row) for row in feedback.of_study(session, page.study.study_instance_uid)]
    return _json(
        {
            "study_instance_uid": page.study.study_instance_uid,
            "state": page.study.state,
            "revision": page.study.revision,
            "instances": page.instances,
            "result_id": page.result.id if page.result is not None else None,
            "result": page.result.prediction if page.result is not None else None,
            "timeline": [dataclasses.asdict(moment) for moment in page.timeline],
            "deliveries": [dataclasses.asdict(line) for line in page.deliveries],
            "feedback": words,
        }
    )


def _word(row: Any) -> dict[str, Any]:
    keys = ("finding", "aspect", "stated", "verdict", "value", "comment", "author", "role", "source", "created_at")
    return {key: getattr(row, key) for key in keys}


def give_feedback(call: Call) -> Response:
    """One word on one statement of a result."""
    given = call.json_value()
    if not isinstance(given, dict) or not all(isinstance(value, str | int) for value in given.values()):
        raise HTTPException(400, "the body must be an object of texts")
    fields = {str(key): str(value) for key, value in given.items()}
    unknown = sorted(fields.keys() - _WORD_FIELDS)
    if unknown:
        raise HTTPException(400, f"unknown fields: {', '.join(unknown)}; allowed: {', '.join(sorted(_WORD_FIELDS))}")
    return _json({"id": keep_word(call, word_of(fields), fields.get("result", ""))}, 201)


_WORD_FIELDS = {"result", "finding", "aspect", "verdict", "value", "comment"}


def jobs(call: Call) -> Response:
    """Jobs, dead ones first."""
    given = call.text("state")
    if given and given not in [state.value for state in JobState]:
        raise HTTPException(400, f"state must be one of: {', '.join(JobState)}")
    limit = call.number("limit", 200, least=1, most=1000)
    with call.node.database.read() as session:
        rows = reading_jobs.job_lines(session, JobState(given) if given else None, limit=limit)
    return _json({"jobs": [job_json(row) for row in rows]})


def job_json(row: Job) -> dict[str, Any]:
    """One job as values."""
    keys = ("id", "kind", "key", "state", "attempts", "max_attempts", "run_at", "created_at", "last_error")
    return {key: getattr(row, key) for key in keys}


def deliveries(call: Call) -> Response:
    """The latest deliveries."""
    with call.node.database.read() as session:
        lines = reading.deliveries(session, choice(call, "state", DeliveryState))
    return _json({"deliveries": [dataclasses.asdict(line) for line in lines]})


def token(call: Call) -> Response:
    """The CSRF token that changing requests carry in X-CSRF-Token."""
    from dicom_node.web.authentication import csrf_token

    return _json({"csrf": csrf_token(call.request.session), "user": call.who.name, "role": call.who.role})


def openapi(_call: Call) -> Response:
    """This description."""
    return JSONResponse(description())


def description() -> dict[str, Any]:
    """OpenAPI 3.1 of the routes below /api."""
    uid = {
        "name": "study_instance_uid",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": r"^[0-9.]{1,64}$"},
    }
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 500})
    filters = [
        _query("q", {"type": "string", "maxLength": 200}),
        _query("state", _enum(StudyState)),
        _query("outcome", _enum(Outcome)),
        _query("delivery", _enum(DeliveryState)),
        _query("date", {"type": "string", "maxLength": 10}),
        _query("offset", {"type": "integer", "minimum": 0, "maximum": 1_000_000}),
        limit,
    ]
    result = _query("result", {"type": "integer", "minimum": 0})
    word = _feedback_body()
    question = _body_of(
        {"question": {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}}, required=["question"]
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "dicom-node", "version": "1"},
        "paths": {
            "/api/studies": {"get": _operation("the work list", filters)},
            "/api/studies/{study_instance_uid}": {"get": _operation("one study", [uid, result], "404")},
            "/api/studies/{study_instance_uid}/feedback": {
                "post": {**_operation("one word on a result", [uid], "404", "413", success="201"), "requestBody": word}
            },
            "/api/studies/{study_instance_uid}/questions": {
                "post": {**_operation("a question on a study", [uid], "404", "413", "429"), "requestBody": question}
            },
            "/api/jobs": {"get": _operation("jobs", [_query("state", _enum(JobState)), {**limit}])},
            "/api/deliveries": {"get": _operation("deliveries", [_query("state", _enum(DeliveryState))])},
            "/api/token": {"get": _operation("the CSRF token", [])},
        },
    }


def _feedback_body() -> dict[str, Any]:
    return _body_of(
        {
            "result": {"type": "integer", "minimum": 1},
            "finding": {"type": "string", "maxLength": 64},
            "aspect": {"enum": [aspect.value for aspect in feedback.Aspect]},
            "verdict": {"enum": [verdict.value for verdict in Verdict]},
            "value": {"type": "string", "maxLength": 64},
            "comment": {"type": "string", "maxLength": feedback.MAX_COMMENT},
        },
        required=["result", "aspect", "verdict"],
    )


def _body_of(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    """A JSON body of these properties and no others."""
    schema = {"type": "object", "required": required, "additionalProperties": False, "properties": properties}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _enum(states: Any) -> dict[str, Any]:
    return {"type": "string", "enum": [state.value for state in states]}


def _operation(summary: str, parameters: list[dict[str, Any]], *more: str, success: str = "200") -> dict[str, Any]:
    answers = {code: {"description": "refused"} for code in ("400", "401", "403", *more)}
    good = {"description": "done", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"summary": summary, "parameters": parameters, "responses": {success: good, **answers}}


RULES = (
    Rule(path="/api/studies", view=studies),
    Rule(path="/api/studies/{study_instance_uid}", view=study),
    Rule(
        path="/api/studies/{study_instance_uid}/feedback",
        view=give_feedback,
        methods=("POST",),
        role=Role.RADIOLOGIST,
    ),
    Rule(path="/api/studies/{study_instance_uid}/questions", view=ask_by_json, methods=("POST",)),
    Rule(path="/api/jobs", view=jobs),
    Rule(path="/api/deliveries", view=deliveries),
    Rule(path="/api/token", view=token),
    Rule(path="/api/openapi.json", view=openapi),
)
