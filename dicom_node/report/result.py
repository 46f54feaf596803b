"""The result as plain values: what result.json, the index and the status page hold."""

from __future__ import annotations

from typing import Any

from dicom_node.report.concepts import finding_concept
from dicom_node.report.exposure import moment
from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import Statement
from dicom_node.report.sr.uids import header_uid
from dicom_node.report.statements import statements
from dicom_node.report.wording.sections import impressions
from model.schema import Finding, PrognosisItem, Region


def result_json(request: ReportRequest) -> dict[str, Any]:
    """The content of result.json: only str, float, bool, None, list and dict; keys as the contract has them.

    `prior` is null without a comparison; `probability` is that of presence on the current image, 0..1. `presence` and
    `change` of a finding are what the report states (`report.rules`), `answer` is what the model said.
    """
    prediction = request.prediction
    abstained = prediction.abstained if prediction is not None else None
    return {
        "study_uid": header_uid(request.current, "StudyInstanceUID"),
        "sop_instance_uid": header_uid(request.current, "SOPInstanceUID"),
        "outcome": request.outcome.value,
        "reason": request.reason,
        "impressions": list(impressions(request)),
        "prior": _prior(request),
        "prior_reasons": list(request.prior_reasons),
        "findings": [statement_values(statement) for statement in statements(request)],
        "dropped_regions": [
            {"key": region.finding, "image": region.role.value, "fault": region.fault.value}
            for region in request.dropped_regions
        ],
        "prognosis": [_prognosis(item) for item in (prediction.prognosis if prediction is not None else ())],
        "abstained": None
        if abstained is None
        else {"reason": abstained.value, "detail": prediction.abstained_detail if prediction is not None else ""},
        "model": {
            "name": request.model.name,
            "version": request.model.version,
            "device_uid": request.model.device_uid,
            "demonstration": request.model.demonstration,
        },
        "produced_at": request.produced_at.isoformat(),
        "revision": request.revision,
        "generation": request.generation,
    }


def _prognosis(item: PrognosisItem) -> dict[str, Any]:
    return {
        "code": finding_concept(item.key).code.value,
        "key": item.key,
        "change": item.change.value,
        "probability": item.probability,
    }


def _prior(request: ReportRequest) -> dict[str, Any] | None:
    if request.prior is None:
        return None
    when = moment(request.prior)
    return {
        "study_uid": header_uid(request.prior, "StudyInstanceUID"),
        "sop_instance_uid": header_uid(request.prior, "SOPInstanceUID"),
        "date": when.isoformat() if when is not None else None,
        "reasons": list(request.prior_reasons),
    }


def statement_values(statement: Statement) -> dict[str, Any]:
    """One statement as result.json has it: the finding as it is stated, with the model's own answer beside it.

    `seen`: seen, possible, not seen or no statement. `doubt`: why no change is stated, null where one is or none is
    asked for. `rank`: the group of the impression that it stands in, "none" where in no one. `calibrated`: false where
    nobody has measured what the probabilities are worth, so that no number is shown. `judged`: false where the
    checkpoint may not state the finding on images of this kind.
    """
    answer = finding_values(statement.finding)
    change = statement.coded_change
    return answer | {
        "presence": statement.presence.value,
        "change": change.value if change is not None else None,
        "seen": statement.seen.value,
        "doubt": statement.doubt.value if statement.doubt is not None else None,
        "rank": statement.rank.name.lower(),
        "calibrated": statement.is_calibrated,
        "judged": not statement.is_omitted,
        "answer": {key: answer[key] for key in ("presence", "change", "change_probability")},
    }


def finding_values(finding: Finding) -> dict[str, Any]:
    """One finding as the model answered it."""
    concept = finding_concept(finding.key)
    return {
        "key": finding.key,
        "code": concept.code.value,
        "scheme": concept.code.scheme,
        "name": concept.name,
        "presence": finding.presence.value,
        "probability": finding.probability,
        "prior_probability": finding.prior_probability,
        "change": finding.change.value if finding.change is not None else None,
        "change_probability": finding.change_probability,
        "location": finding.location,
        "level": finding.level,
        "regions": [_region(region) for region in finding.regions],
    }


def _region(region: Region) -> dict[str, Any]:
    return {
        "image": region.role.value,
        "points": [[float(x), float(y)] for x, y in region.points],
        "method": region.method,
    }
