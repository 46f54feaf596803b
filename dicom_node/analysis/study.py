"""The story of one study: choose the image, look at it, choose its prior, ask the model, say what came of it.

Files and values in, report requests out: the node's job (`analyse_job`) and `dicom-node analyze` tell the same story.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset

from dicom_node.analysis.cautions import identity_cautions, newer_image_note
from dicom_node.dicom.read import read_object
from dicom_node.dicom.rejection_notes import withdrawn_by
from dicom_node.dicom.sop_classes import is_image
from dicom_node.errors import AnalysisError, UnreadableObjectError
from dicom_node.index.tables.core import Instance, Outcome
from dicom_node.logs import get_logger
from dicom_node.priors import choose_prior, facts_of, facts_of_rows, image_check, same_picture, select_current
from dicom_node.priors.types import CurrentChoice, ImageFacts, PriorChoice, PriorPolicy
from dicom_node.report.region_rules import films_of, with_fitting_regions
from dicom_node.report.request import PredecessorDocument, ReportRequest, SourceImage
from dicom_node.report.rules import EarlierStatement
from dicom_node.serving.model_process import PairPredictor, ask_together
from model.checks.frontal_view import check_view
from model.errors import InferenceError, PixelError
from model.schema import AbstainReason, DisplayImage, Prediction, StudyPair

log = get_logger(__name__)

UNFAMILIAR = "What it would say of such an image was never measured."

Decode = Callable[[Path], DisplayImage]
"""Makes the display image of a stored object; raises PixelError."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """A stored object that the story may use: its file, its header without pixels, and the facts in it."""

    path: Path
    header: Dataset
    facts: ImageFacts
    damage: str = ""
    """Why the object cannot be read; header and facts are then what the index knows of it."""


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
    earlier: Callable[[str, str], Mapping[str, EarlierStatement] | None] = lambda _uid, _device_uid: None
    """(SOP Instance UID of the prior, Device UID of the checkpoint) → what its own result said; None without one."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Looked:
    """Images that were decoded, or why they could not be; each file is decoded once."""

    images: dict[Path, DisplayImage] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)

    def at(self, stored: StoredImage, decode: Decode) -> DisplayImage | None:
        if stored.damage:
            self.failures[stored.path] = stored.damage
            return None
        if stored.path not in self.images and stored.path not in self.failures:
            try:
                self.images[stored.path] = decode(stored.path)
            except PixelError as error:
                self.failures[stored.path] = str(error)
        return self.images.get(stored.path)


def read_stored(path: Path) -> StoredImage:
    """Read an object's header; the pixels stay on the disk. Raises PixelError for what cannot be read."""
    try:
        header = read_object(path)
    except UnreadableObjectError as error:
        raise PixelError(f"the object cannot be read: {error}") from error
    except OSError as error:
        raise PixelError(f"the object cannot be read: {error.strerror or error}") from error
    facts = facts_of(header)
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if keyword in header:
            del header[keyword]
    return StoredImage(path=path, header=header, facts=facts)


def damaged_image(row: Instance, path: Path, damage: str) -> StoredImage:
    """An object that cannot be read, as the index knows it: its study must not go without a report for it."""
    study, header = row.series.study, Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in (
        ("SOPClassUID", row.sop_class_uid),
        ("SOPInstanceUID", row.sop_instance_uid),
        ("StudyInstanceUID", study.study_instance_uid),
        ("SeriesInstanceUID", row.series.series_instance_uid),
        ("PatientName", study.patient_name),
        ("PatientID", study.patient_id),
        ("IssuerOfPatientID", study.issuer_of_patient_id),
        ("PatientBirthDate", study.patient_birth_date),
        ("PatientSex", study.patient_sex),
        ("StudyDate", study.study_date),
        ("StudyTime", study.study_time),
        ("AccessionNumber", study.accession_number),
        ("StudyID", study.study_id),
        ("StudyDescription", study.study_description),
        ("Modality", row.series.modality),
    ):
        if value:
            setattr(header, keyword, value)
    facts = replace(facts_of_rows(study, row.series, row), has_pixels=is_image(row.sop_class_uid))
    return StoredImage(path=path, header=header, facts=facts, damage=damage)


def analyse_study(
    images: Sequence[StoredImage], earlier: Sequence[StoredImage], setting: Setting
) -> list[ReportRequest]:
    """One report request for each frontal image that deserves it, or one that says why there is none. Never empty.

    images: all objects of the study. earlier: objects of other studies that may be this person's.
    Raises AnalysisError where there is no model to ask, or it failed and this is not the last try; all else ends in a
    request.
    """
    if not images:
        raise ValueError("a study without a single object cannot be analysed")
    looked = _Looked()
    images, earlier = without_withdrawn(images, earlier)
    images = [_checked(image, setting, looked) for image in images]
    setting = replace(setting, comparison_notes=(*setting.comparison_notes, *_left_out(images)))
    choice = select_current([image.facts for image in images], setting.policy)
    by_uid = {image.facts.sop_instance_uid: image for image in images}
    prepared = [_prepare(by_uid[judged.image.sop_instance_uid], earlier, setting, looked) for judged in choice.chosen]
    answers = iter(ask_together(setting.predictor, [item.pair for item in prepared if isinstance(item, _Prepared)]))
    requests = [_answered(item, next(answers), setting) if isinstance(item, _Prepared) else item for item in prepared]
    requests = [replace(request, frontal_images=len(requests)) for request in requests]
    return requests or [_refused(images, choice, setting, looked)]


def without_withdrawn(
    images: Sequence[StoredImage], earlier: Sequence[StoredImage]
) -> tuple[list[StoredImage], list[StoredImage]]:
    """The same, with a mark on every object that a rejection note among them names."""
    why = withdrawn_by(stored.header for stored in (*images, *earlier))

    def marked(stored: StoredImage) -> StoredImage:
        named = (stored.facts.study_instance_uid, stored.facts.sop_instance_uid)
        if named not in why:
            return stored
        facts = replace(stored.facts, withdrawn=why[named])
        return replace(stored, facts=facts)

    return [marked(stored) for stored in images], [marked(stored) for stored in earlier]


def _checked(image: StoredImage, setting: Setting, looked: _Looked) -> StoredImage:
    """The same image with what its pixels say beside what its header says."""
    if not image.facts.has_pixels:
        return image
    seen = looked.at(image, setting.decode)
    if seen is None:
        return image
    facts = replace(image.facts, pixel_sha256=seen.sha256, check=image_check(check_view(seen)))
    return replace(image, facts=facts)


def _left_out(images: Sequence[StoredImage]) -> tuple[str, ...]:
    """Name the objects of the study that cannot be read, beside others that can."""
    damaged = [image for image in images if image.damage]
    if not damaged or len(damaged) == len(images):
        return ()
    causes = "; ".join(dict.fromkeys(image.damage for image in damaged))
    return (f"Left out of this study: {len(damaged)} of {len(images)} objects, because {causes}.",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """An image that is to be answered, its prior, and why that one."""

    current: StoredImage
    seen: DisplayImage
    choice: PriorChoice
    prior: StoredImage | None
    prior_seen: DisplayImage | None

    @property
    def pair(self) -> StudyPair:
        return StudyPair(current=self.seen, prior=self.prior_seen)


def _prepare(
    current: StoredImage, earlier: Sequence[StoredImage], setting: Setting, looked: _Looked
) -> _Prepared | ReportRequest:
    """Prepare the model's input, or the request that says why there is none."""
    seen = looked.at(current, setting.decode)
    if seen is None:
        detail = looked.failures[current.path]
        return _not_analysed(current, AbstainReason.UNREADABLE, f"The image cannot be read: {detail}.", setting)
    choice, prior = _prior(current, seen, earlier, setting, looked)
    prior_seen = looked.at(prior, setting.decode) if prior is not None else None
    return _Prepared(current=current, seen=seen, choice=choice, prior=prior, prior_seen=prior_seen)


def _answered(item: _Prepared, answer: Prediction | InferenceError, setting: Setting) -> ReportRequest:
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
    return replace(
        request,
        cautions=identity_cautions(item.choice),
        dropped_regions=dropped,
        newer_prior=newer_image_note(item.choice),
        earlier=setting.earlier(prior.facts.sop_instance_uid, answer.model.device_uid) if prior is not None else None,
    )


def _prior(
    current: StoredImage, seen: DisplayImage, earlier: Sequence[StoredImage], setting: Setting, looked: _Looked
) -> tuple[PriorChoice, StoredImage | None]:
    """Choose, look at the chosen film, and choose again until what was seen no longer changes the choice."""
    candidates = {image.facts.sop_instance_uid: image for image in earlier}
    same: set[str] = set()
    unreadable = [(image.facts.sop_instance_uid, image.damage) for image in earlier if image.damage]
    verified: set[str] = set()
    while True:
        facts = [image.facts for image in candidates.values()]
        choice = choose_prior(current.facts, facts, setting.policy, same_picture=same, unreadable=unreadable)
        if choice.prior is None:
            return choice, None
        uid = choice.prior.sop_instance_uid
        if uid in verified:
            return choice, candidates[uid]
        prior_seen = looked.at(candidates[uid], setting.decode)
        if prior_seen is None:
            unreadable.append((uid, looked.failures[candidates[uid].path]))
        elif same_picture(seen, prior_seen):
            same.add(uid)
        else:
            candidates[uid] = _checked(candidates[uid], setting, looked)
            verified.add(uid)


def _reason(outcome: Outcome, choice: PriorChoice) -> str:
    if outcome is Outcome.FINDINGS_ONLY:
        return choice.reasons[0] if choice.reasons else "No prior chest radiograph was found."
    return ""


def _refused(images: Sequence[StoredImage], choice: CurrentChoice, setting: Setting, looked: _Looked) -> ReportRequest:
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
    )
