"""From the model's answer, or from the reason why there is none, to the request of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydicom import Dataset

from dicom_node.analysis.cautions import identity_cautions, newer_image_note
from dicom_node.analysis.earlier_results import with_course
from dicom_node.analysis.prepared import AnalysisInputs, PreparedImage
from dicom_node.analysis.stored_images import DecodedImages, StoredImage
from dicom_node.errors import AnalysisError
from dicom_node.index.tables.core import Outcome
from dicom_node.logs import get_logger
from dicom_node.priors import patient_of
from dicom_node.priors.identity import canonical, names_nobody
from dicom_node.priors.suitability import header_contradictions
from dicom_node.priors.types import CurrentChoice, PriorChoice, PriorPolicy
from dicom_node.report.region_rules import films_of, marked_roles, with_fitting_regions
from dicom_node.report.request import ReportRequest, SourceImage
from model.errors import InferenceError
from model.schema import AbstainReason, Prediction

log = get_logger(__name__)


UNFAMILIAR = "How well the model reads such an image was never measured."


def request_with_answer(
    item: PreparedImage, answer: Prediction | InferenceError, setting: AnalysisInputs
) -> ReportRequest:
    if isinstance(answer, InferenceError):
        log.error("model failed", error=str(answer), last_try=setting.last_try)
        if not setting.last_try:
            raise AnalysisError(f"the model failed: {answer}") from answer
        return request_of_abstention(
            item.current, AbstainReason.MODEL_FAILED, "The model failed on this image.", setting
        )
    if answer.abstained is not None:
        # Nothing was compared, so no prior is named: a page that shows one and says nothing of it contradicts itself.
        detail = answer.abstained_detail or str(answer.abstained)
        return request_of_abstention(item.current, answer.abstained, f"The model gave no answer: {detail}.", setting)
    if answer.is_unfamiliar and not setting.reads_unfamiliar:
        return request_of_abstention(item.current, AbstainReason.UNFAMILIAR, UNFAMILIAR, setting)
    outcome = Outcome.FINDINGS_ONLY if item.prior is None else Outcome.COMPARED
    prior = item.prior
    answer, dropped = with_fitting_regions(answer, films_of(item.seen, item.prior_seen, marked_roles(answer)))
    request = _request(
        SourceImage(header=item.current.header, image=item.seen),
        setting,
        prior=SourceImage(header=prior.header, image=item.prior_seen) if prior is not None else None,
        outcome=outcome,
        reason=_reason(outcome, item.choice),
        prior_reasons=(*item.choice.reasons, *setting.comparison_notes),
        prediction=answer,
    )
    request = replace(
        request,
        earlier_images=_earlier_images(item, answer.images_seen),
        chart=item.chart.facts if item.chart is not None and answer.context_seen else (),
        cautions=identity_cautions(item.choice),
        dropped_regions=dropped,
        newer_prior=newer_image_note(item.choice),
        header_contradictions=header_contradictions(item.current.facts),
    )
    return with_course(request, item.choice, setting.readings)


def _earlier_images(item: PreparedImage, images_seen: int) -> tuple[SourceImage, ...]:
    """The images before the prior that the answer rests on, oldest first."""
    shown = [
        SourceImage(header=image.header, image=seen)
        for image, seen in zip(item.chosen.earlier, item.earlier_seen, strict=True)
    ]
    return tuple(shown[max(0, len(shown) - max(images_seen - 2, 0)) :])


def _reason(outcome: Outcome, choice: PriorChoice) -> str:
    if outcome is Outcome.FINDINGS_ONLY:
        return choice.reasons[0] if choice.reasons else "No prior chest radiograph was found."
    return ""


def request_of_refusal(
    images: Sequence[StoredImage], choice: CurrentChoice, setting: AnalysisInputs, looked: DecodedImages
) -> ReportRequest:
    """The request of a study in which no image is fit; it speaks of the image that came nearest."""
    refusal = choice.refusal
    # A note or a presentation state is no image that a report could speak of.
    nearest = sorted(images, key=lambda image: (image.path not in looked.images, not image.facts.has_pixels))
    shown = nearest[0]
    failure = next((text for path, text in looked.failures.items() if path == shown.path), "")
    if all(image.damage for image in images):
        sentence = f"No object of this study can be read: {failure or shown.damage}."
        return request_of_abstention(shown, AbstainReason.UNREADABLE, sentence, setting)
    sentence = choice.sentence
    if failure and refusal is not None and refusal.abstain_reason is AbstainReason.NOT_FRONTAL:
        sentence = f"{sentence} The image cannot be read: {failure}."
    reason = refusal.abstain_reason if refusal is not None else AbstainReason.NOT_FRONTAL
    return request_of_abstention(shown, reason, sentence, setting)


def request_of_abstention(
    image: StoredImage, reason: AbstainReason, sentence: str, setting: AnalysisInputs
) -> ReportRequest:
    prediction = Prediction(findings=(), model=setting.predictor.identity, abstained=reason, abstained_detail=sentence)
    return _request(
        SourceImage(header=image.header),
        setting,
        prior=None,
        outcome=Outcome.NOT_ANALYSED,
        reason=sentence,
        prior_reasons=(),
        prediction=prediction,
    )


def _request(
    current: SourceImage,
    setting: AnalysisInputs,
    *,
    prior: SourceImage | None,
    outcome: Outcome,
    reason: str,
    prior_reasons: tuple[str, ...],
    prediction: Prediction,
) -> ReportRequest:
    return ReportRequest(
        current=current,
        prior=prior,
        outcome=outcome,
        reason=reason,
        prior_reasons=prior_reasons,
        prediction=prediction,
        model=prediction.model,
        produced_at=setting.produced_at,
        revision=setting.revision,
        generation=setting.generation,
        predecessors=setting.predecessors(str(current.header.get("SOPInstanceUID", "") or "")),
        language=setting.language,
        patient_key=_patient_key(current.header, setting.policy),
    )


def _patient_key(header: Dataset, policy: PriorPolicy) -> tuple[str, str]:
    """Patient ID and issuer after the site's merges; of an ID that is a placeholder nothing."""
    key = canonical(patient_of(header).key, policy)
    return ("", "") if names_nobody(key.patient_id) else (key.patient_id, key.issuer)
