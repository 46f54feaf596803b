"""Cautions that the choice of the prior leaves: doubts about the patient, and a newer image that was not compared."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.priors.choose import LATER, PART_OF_CURRENT
from dicom_node.priors.identity import ID_CONFLICT, NOTHING_TO_CHECK, OTHER_ID, SAME_ID_OTHER_ISSUER
from dicom_node.priors.types import CandidateVerdict, PriorChoice
from dicom_node.report.exposure import moment, taken
from dicom_node.report.request import ReportRequest

_NOT_THIS_PATIENTS = (PART_OF_CURRENT, LATER, OTHER_ID, SAME_ID_OTHER_ISSUER, ID_CONFLICT)
"""Objections to images that are no earlier ones of this patient: nothing is said of these."""


def identity_cautions(choice: PriorChoice) -> tuple[str, ...]:
    """Points to check before believing the comparison; English, as the analysis speaks."""
    cautions = []
    for verdict in choice.verdicts:
        if verdict.against and verdict.against[0].startswith(ID_CONFLICT):
            cautions.append(f"Check the patient (image of {verdict.image.when}): {verdict.against[0]}.")
    if choice.prior is not None and choice.verdicts[0].in_favour[0].endswith(NOTHING_TO_CHECK):
        cautions.append(f"Check the patient: {choice.verdicts[0].in_favour[0]}.")
    return tuple(dict.fromkeys(cautions))


def newer_image_note(choice: PriorChoice) -> str:
    """Why the newest image that is newer than the prior was not compared with; "" where there is none."""
    newer = [verdict for verdict in choice.verdicts if _is_newer(verdict, choice)]
    if not newer:
        return ""
    newest = max(newer, key=lambda verdict: verdict.image.when)
    why = "; ".join(newest.against) or f"it has another view ({newest.view})"
    return f"Not compared with the more recent prior of {newest.image.when}: {why}."


def same_study_note(request: ReportRequest, study: Sequence[ReportRequest]) -> str:
    """Name the newest image of the same study that lies between the prior and this one; "" where there is none.

    Images of one study are not compared with each other, and the prior is then not the last image before this one.
    """
    now, then = moment(request.current), moment(request.prior) if request.prior is not None else None
    others = [exposure for other in study if (exposure := taken(other.current)) is not None]
    # Only what lies between the two films: an older one of the same study would not have been the newer prior either.
    between = [exposure for exposure in others if now is not None and then is not None and then < exposure.moment < now]
    if not between:
        return ""
    newest = max(between, key=lambda exposure: exposure.moment)
    when = newest.moment.strftime("%Y-%m-%d %H:%M" if newest.time_known else "%Y-%m-%d")
    return f"Not compared with the more recent prior of {when}: it is {PART_OF_CURRENT}."


def _is_newer(verdict: CandidateVerdict, choice: PriorChoice) -> bool:
    """Tell whether a reader of the report would ask why this image was not taken."""
    if any(objection.startswith(_NOT_THIS_PATIENTS) for objection in verdict.against):
        return False
    taken, prior = verdict.image.taken_at, choice.prior
    if taken is None or (prior is not None and prior.sop_instance_uid == verdict.image.sop_instance_uid):
        return False
    return prior is not None and prior.taken_at is not None and taken > prior.taken_at
