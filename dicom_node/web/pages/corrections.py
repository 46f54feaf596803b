"""Feedback of radiologists on a result, from the forms of the study page and from programs."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.config import Role
from dicom_node.errors import UsageError
from dicom_node.feedback import record as feedback
from dicom_node.index.tables.core import Result, Verdict
from dicom_node.web.routing import Call, Rule
from model.ontology import FindingKind, ontology

_FORM = (feedback.Aspect.PRESENCE, feedback.Aspect.CHANGE, feedback.Aspect.LOCATION, feedback.Aspect.LEVEL)
"""The fields of the correction form, in this order."""


_SIDES = ("bilateral", "left", "right")
_UNFIT = {"lung": {"pericardial", "pleural", "rib"}, "pleura": {"lobe", "pericardial", "retrocardiac", "rib"}}
"""Site of a finding → words for places that it cannot have."""
_NO_DEGREES = frozenset({"decreasing", "increasing", "mildly", "minimally", "moderately"})
"""Words of the vocabulary that say a change or go with a verb."""


def fitting_words(finding: dict[str, Any]) -> dict[str, list[str]]:
    """Aspect → the words that a correction of this finding may use, sorted; no change where nothing was compared."""
    words = {aspect.value: list(feedback.allowed_values(aspect)) for aspect in _FORM}
    concept = ontology().findings.get(finding["key"])
    is_device = concept is not None and concept.kind is FindingKind.DEVICE
    site = concept.site if concept is not None else ""
    if finding.get("change") is None:
        del words["change"]
    places = set(words["location"]) - _UNFIT.get(site, set())
    words["location"] = sorted(_SIDES if is_device else places)
    words["level"] = sorted(set(words.get("level", ())) - _NO_DEGREES)
    if is_device or site == "heart":
        del words["level" if is_device else "location"]  # a tube has no degree, a heart no place
    return words


def give_feedback(call: Call) -> Response:
    """Take the study page's forms: a verdict on one statement, or a correction of several aspects at once."""
    fields = dict(call.form)
    if fields.get("verdict") == "corrections":
        row_id = _keep_corrections(call, fields)
    else:
        row_id = keep_word(call, word_of(fields), fields.get("result", ""))
    uid = str(call.request.path_params["study_instance_uid"])
    return RedirectResponse(f"/studies/{uid}?thanks=1#word-{row_id}", 303)


def _keep_corrections(call: Call, fields: dict[str, str]) -> int:
    """Keep one word for each aspect that the form names; raises UsageError where it names none."""
    given = {aspect: fields.get(aspect.value, "") for aspect in _FORM}
    words = [
        word_of({**fields, "aspect": aspect.value, "verdict": Verdict.CORRECT.value, "value": value})
        for aspect, value in given.items()
        if value
    ]
    if not words:
        raise UsageError("nothing was corrected: choose what is right in at least one field")
    return max([keep_word(call, word, fields.get("result", "")) for word in words])


def word_of(fields: dict[str, str]) -> feedback.FeedbackWord:
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
    return feedback.FeedbackWord(
        finding=fields.get("finding", ""),
        aspect=aspect,
        verdict=verdict,
        value=fields.get("value", "") if verdict is Verdict.CORRECT else "",
        comment=fields.get("comment", "").strip(),
    )


def _is_storable(text: str) -> bool:
    """Tell whether databases take it: lone surrogates come in by JSON, and PostgreSQL refuses NUL."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def row_number(text: str) -> int | None:
    """The number of a row; None for what is none, also where it is longer than any database keeps."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def keep_word(call: Call, word: feedback.FeedbackWord, result_id: str) -> int:
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


RULES = (
    Rule(path="/studies/{study_instance_uid}/feedback", view=give_feedback, methods=("POST",), role=Role.RADIOLOGIST),
)
