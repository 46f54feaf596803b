"""The story of one study: choose the image, look at it, choose its prior, ask the model, say what came of it.

Files and values in, report requests out: the node's job (`analyse_job`) and `dicom-node analyze` tell the same story.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydicom import Dataset

from dicom_node.analysis.cautions import identity_cautions, newer_image_note
from dicom_node.analysis.chart import KnownChart
from dicom_node.analysis.earlier_images import ChosenImages, ImageChooser
from dicom_node.analysis.earlier_results import EarlierReadings, Readings, with_course
from dicom_node.analysis.stored_images import Decode, LookedImages, StoredImage, checked
from dicom_node.dicom.rejection_notes import withdrawn_by
from dicom_node.errors import AnalysisError
from dicom_node.index.tables.core import Outcome
from dicom_node.logs import get_logger
from dicom_node.priors import patient_of, select_current
from dicom_node.priors.identity import canonical, names_nobody
from dicom_node.priors.suitability import header_contradictions
from dicom_node.priors.types import CurrentChoice, PriorChoice, PriorPolicy
from dicom_node.report.exposure import moment
from dicom_node.report.region_rules import films_of, with_fitting_regions
from dicom_node.report.request import PredecessorDocument, ReportRequest, SourceImage
from dicom_node.serving.predictor import PairPredictor, ask_together
from model.errors import InferenceError
from model.schema import AbstainReason, DisplayImage, Prediction, StudyPair

log = get_logger(__name__)

UNFAMILIAR = "How well the model reads such an image was never measured."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """The inputs of an analysis beside the images. `predecessors` are looked up by the analysed image's SOP Instance
    UID."""

    predictor: PairPredictor
    decode: Decode
    policy: PriorPolicy
    produced_at: dt.datetime
    revision: int = 1
    generation: int = 1
    language: str = "en"
    predecessors: Callable[[str], tuple[PredecessorDocument, ...]] = lambda _uid: ()
    last_try: bool = True
    """True if a model that fails on this study ends in a report that says so; else it is an AnalysisError."""
    reads_unfamiliar: bool = False
    """An image unlike those of training gets its findings with a warning; else it is not analysed."""
    comparison_notes: tuple[str, ...] = ()
    """Further notes on the search for a prior: a fetch that failed, an archive that did not answer."""
    chart: Callable[[Dataset], KnownChart | None] = lambda _header: None
    """Header of the analysed image → what was known of the patient then; asked where the checkpoint learned it."""
    readings: Readings = lambda _uids, _device_uid: EarlierReadings()
    """(SOP Instance UID of the prior, Device UID of the checkpoint) → what its own result said; None without one."""


def analyse_study(
    images: Sequence[StoredImage], earlier: Sequence[StoredImage], setting: Setting
) -> list[ReportRequest]:
    """One report request for each frontal image that deserves it, or one that says why there is none. Never empty.

    images: all objects of the study. earlier: objects of other studies that may be this person's.
    Raises AnalysisError where there is no model to ask, or it failed and this is not the last try; all else ends in a
    request.
    """
    study = prepare_study(images, earlier, setting)
    return finish_study(study, ask_together(setting.predictor, study.pairs), setting)


def prepare_study(images: Sequence[StoredImage], earlier: Sequence[StoredImage], setting: Setting) -> PreparedStudy:
    """Decode the images and choose their priors: all of an analysis that needs no model, only its identity."""
    if not images:
        raise ValueError("a study without a single object cannot be analysed")
    looked = LookedImages()
    images, earlier = without_withdrawn(images, earlier)
    images = [checked(image, setting.decode, looked) for image in images]
    notes = (*setting.comparison_notes, *_left_out(images))
    choice = select_current([image.facts for image in images], setting.policy)
    by_uid = {image.facts.sop_instance_uid: image for image in images}
    parts = [_prepare(by_uid[judged.image.sop_instance_uid], earlier, setting, looked) for judged in choice.chosen]
    parts = parts or [_request_of_refusal(images, choice, setting, looked)]
    return PreparedStudy(parts=tuple(parts), comparison_notes=notes)


def finish_study(
    study: PreparedStudy, answers: Sequence[Prediction | InferenceError], setting: Setting
) -> list[ReportRequest]:
    """Make the requests of a prepared study. answers: one for each of `study.pairs`. Raises as `analyse_study`."""
    setting = replace(setting, comparison_notes=study.comparison_notes)
    in_order = iter(answers)
    requests = [
        _request_with_answer(part, next(in_order), setting) if isinstance(part, _Prepared) else part
        for part in study.parts
    ]
    return _numbered(requests)


def without_withdrawn(
    images: Sequence[StoredImage], earlier: Sequence[StoredImage]
) -> tuple[list[StoredImage], list[StoredImage]]:
    """The same, with a mark on every object that a rejection note among them names."""
    why = withdrawn_by(stored.header for stored in (*images, *earlier))

    def mark_image(stored: StoredImage) -> StoredImage:
        named = (stored.facts.study_instance_uid, stored.facts.sop_instance_uid)
        if named not in why:
            return stored
        facts = replace(stored.facts, withdrawn=why[named])
        return replace(stored, facts=facts)

    return [mark_image(stored) for stored in images], [mark_image(stored) for stored in earlier]


def _left_out(images: Sequence[StoredImage]) -> tuple[str, ...]:
    """Name the objects of the study that cannot be read, beside others that can."""
    damaged = [image for image in images if image.damage]
    if not damaged or len(damaged) == len(images):
        return ()
    causes = "; ".join(dict.fromkeys(image.damage for image in damaged))
    return (f"Left out of this study: {len(damaged)} of {len(images)} objects, because {causes}.",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """An image that is to be answered, its prior and the images before that, and why these."""

    current: StoredImage
    seen: DisplayImage
    chosen: ChosenImages
    prior_seen: DisplayImage | None
    earlier_seen: tuple[DisplayImage, ...] = ()
    chart: KnownChart | None = None

    @property
    def choice(self) -> PriorChoice:
        return self.chosen.choice

    @property
    def prior(self) -> StoredImage | None:
        return self.chosen.prior

    @property
    def pair(self) -> StudyPair:
        images = [*self.earlier_seen, *([] if self.prior_seen is None else [self.prior_seen]), self.seen]
        times = [image.acquired for image in images if image.acquired is not None]
        if times != sorted(times):  # clocks of two time zones: the order is proven, the days between are not
            images = [replace(image, acquired=None) for image in images]
        prior = images[-2] if self.prior_seen is not None else None
        earlier = tuple(images[: len(self.earlier_seen)])
        context = self.chart.context if self.chart is not None else None
        return StudyPair(current=images[-1], prior=prior, earlier=earlier, context=context)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedStudy:
    """A study whose images are decoded and whose priors are chosen; it only lacks the model's answers.

    parts: for each analysed image the model's input, or the finished request that says why there is none; never empty.
    """

    parts: tuple[_Prepared | ReportRequest, ...]
    comparison_notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[StudyPair]:
        """The questions to the model, in the order in which `finish_study` wants their answers."""
        return [part.pair for part in self.parts if isinstance(part, _Prepared)]


def _numbered(requests: Sequence[ReportRequest]) -> list[ReportRequest]:
    """Each request with its image's number among the study's frontal images, in the order in which they were taken."""
    late = dt.datetime.max  # noqa: DTZ901 - DICOM local time; an image without a time counts last
    by_time = sorted(range(len(requests)), key=lambda place: moment(requests[place].current) or late)
    numbers = {index: number for number, index in enumerate(by_time, start=1)}
    return [
        replace(request, frontal_images=len(requests), frontal_number=numbers[index])
        for index, request in enumerate(requests)
    ]


def _prepare(
    current: StoredImage, earlier: Sequence[StoredImage], setting: Setting, looked: LookedImages
) -> _Prepared | ReportRequest:
    """Prepare the model's input, or the request that says why there is none."""
    seen = looked.at(current, setting.decode)
    if seen is None:
        detail = looked.failures[current.path]
        return _not_analysed(current, AbstainReason.UNREADABLE, f"The image cannot be read: {detail}.", setting)
    most = min(setting.policy.max_priors, setting.predictor.identity.images - 1)
    chosen = ImageChooser(earlier, setting.policy, setting.decode, looked, most=most).choose(current, seen)
    prior_seen = looked.at(chosen.prior, setting.decode) if chosen.prior is not None else None
    return _Prepared(
        current=current,
        seen=seen,
        chosen=chosen,
        prior_seen=prior_seen,
        earlier_seen=tuple(looked.images[image.path] for image in chosen.earlier),
        chart=_chart(current.header, setting),
    )


def _chart(header: Dataset, setting: Setting) -> KnownChart | None:
    """The part of the chart that the checkpoint learned to use; not looked up for one that learned none."""
    identity = setting.predictor.identity
    if not identity.context and not identity.chart:
        return None
    chart = setting.chart(header)
    return chart if chart is None or identity.context else chart.limited(identity.chart)


def _request_with_answer(item: _Prepared, answer: Prediction | InferenceError, setting: Setting) -> ReportRequest:
    if isinstance(answer, InferenceError):
        log.error("model failed", error=str(answer), last_try=setting.last_try)
        if not setting.last_try:
            raise AnalysisError(f"the model failed: {answer}") from answer
        return _not_analysed(item.current, AbstainReason.MODEL_FAILED, "The model failed on this image.", setting)
    if answer.abstained is not None:
        # Nothing was compared, so no prior is named: a page that shows one and says nothing of it contradicts itself.
        detail = answer.abstained_detail or str(answer.abstained)
        return _not_analysed(item.current, answer.abstained, f"The model gave no answer: {detail}.", setting)
    if answer.is_unfamiliar and not setting.reads_unfamiliar:
        return _not_analysed(item.current, AbstainReason.UNFAMILIAR, UNFAMILIAR, setting)
    outcome = Outcome.FINDINGS_ONLY if item.prior is None else Outcome.COMPARED
    prior = item.prior
    answer, dropped = with_fitting_regions(answer, films_of(item.seen, item.prior_seen))
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


def _earlier_images(item: _Prepared, images_seen: int) -> tuple[SourceImage, ...]:
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


def _request_of_refusal(
    images: Sequence[StoredImage], choice: CurrentChoice, setting: Setting, looked: LookedImages
) -> ReportRequest:
    """The request of a study in which no image is fit; it speaks of the image that came nearest."""
    refusal = choice.refusal
    # A note or a presentation state is no image that a report could speak of.
    nearest = sorted(images, key=lambda image: (image.path not in looked.images, not image.facts.has_pixels))
    shown = nearest[0]
    failure = next((text for path, text in looked.failures.items() if path == shown.path), "")
    if all(image.damage for image in images):
        sentence = f"No object of this study can be read: {failure or shown.damage}."
        return _not_analysed(shown, AbstainReason.UNREADABLE, sentence, setting)
    sentence = choice.sentence
    if failure and refusal is not None and refusal.abstain_reason is AbstainReason.NOT_FRONTAL:
        sentence = f"{sentence} The image cannot be read: {failure}."
    reason = refusal.abstain_reason if refusal is not None else AbstainReason.NOT_FRONTAL
    return _not_analysed(shown, reason, sentence, setting)


def _not_analysed(image: StoredImage, reason: AbstainReason, sentence: str, setting: Setting) -> ReportRequest:
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
    setting: Setting,
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
