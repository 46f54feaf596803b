"""The story of one study: choose the image, look at it, choose its prior, ask the model, say what came of it.

Files and values in, report requests out: the node's job (`analyse_job`) and `dicom-node analyze` tell the same story.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

from pydicom import Dataset

from dicom_node.analysis.cautions import same_study_note
from dicom_node.analysis.chart import KnownChart
from dicom_node.analysis.earlier_images import ImageChooser
from dicom_node.analysis.prepared import AnalysisInputs, PreparedImage, PreparedStudy
from dicom_node.analysis.requests import request_of_abstention, request_of_refusal, request_with_answer
from dicom_node.analysis.stored_images import DecodedImages, StoredImage, with_image_check
from dicom_node.dicom.rejection_notes import withdrawn_by
from dicom_node.priors import select_current
from dicom_node.report.exposure import moment
from dicom_node.report.request import ReportRequest
from dicom_node.serving.predictor import ask_together
from model.errors import InferenceError
from model.images.square import keep_squares
from model.schema import AbstainReason, Prediction


def analyse_study(
    images: Sequence[StoredImage], earlier: Sequence[StoredImage], setting: AnalysisInputs
) -> list[ReportRequest]:
    """One report request for each frontal image that deserves it, or one that says why there is none. Never empty.

    images: all objects of the study. earlier: objects of other studies that may be this person's.
    Raises AnalysisError where there is no model to ask, or it failed and this is not the last try; all else ends in a
    request.
    """
    with keep_squares():  # the checks of view and lungs want the same small square of each image
        study = prepare_study(images, earlier, setting)
        return finish_study(study, ask_together(setting.predictor, study.pairs), setting)


def prepare_study(
    images: Sequence[StoredImage], earlier: Sequence[StoredImage], setting: AnalysisInputs
) -> PreparedStudy:
    """Decode the images and choose their priors: all of an analysis that needs no model, only its identity."""
    if not images:
        raise ValueError("a study without a single object cannot be analysed")
    looked = DecodedImages()
    images, earlier = without_withdrawn(images, earlier)
    images = [with_image_check(image, setting.decode, looked) for image in images]
    notes = (*setting.comparison_notes, *_note_unreadable(images))
    choice = select_current([image.facts for image in images], setting.policy)
    by_uid = {image.facts.sop_instance_uid: image for image in images}
    parts = [_prepare(by_uid[judged.image.sop_instance_uid], earlier, setting, looked) for judged in choice.chosen]
    parts = parts or [request_of_refusal(images, choice, setting, looked)]
    return PreparedStudy(parts=tuple(parts), comparison_notes=notes)


def finish_study(
    study: PreparedStudy, answers: Sequence[Prediction | InferenceError], setting: AnalysisInputs
) -> list[ReportRequest]:
    """Make the requests of a prepared study. answers: one for each of `study.pairs`. Raises as `analyse_study`."""
    setting = replace(setting, comparison_notes=study.comparison_notes)
    in_order = iter(answers)
    requests = [
        request_with_answer(part, next(in_order), setting) if isinstance(part, PreparedImage) else part
        for part in study.parts
    ]
    return _number_images(requests)


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


def _note_unreadable(images: Sequence[StoredImage]) -> tuple[str, ...]:
    """Name the objects of the study that cannot be read, beside others that can."""
    damaged = [image for image in images if image.damage]
    if not damaged or len(damaged) == len(images):
        return ()
    causes = "; ".join(dict.fromkeys(image.damage for image in damaged))
    return (f"Left out of this study: {len(damaged)} of {len(images)} objects, because {causes}.",)


def _number_images(requests: Sequence[ReportRequest]) -> list[ReportRequest]:
    """Each request with its image's number among the study's frontal images, in the order in which they were taken."""
    late = dt.datetime.max  # noqa: DTZ901 - DICOM local time; an image without a time counts last
    by_time = sorted(range(len(requests)), key=lambda place: moment(requests[place].current) or late)
    numbers = {index: number for number, index in enumerate(by_time, start=1)}
    return [
        replace(
            request,
            frontal_images=len(requests),
            frontal_number=numbers[index],
            newer_prior=request.newer_prior or same_study_note(request, requests),
        )
        for index, request in enumerate(requests)
    ]


def _prepare(
    current: StoredImage, earlier: Sequence[StoredImage], setting: AnalysisInputs, looked: DecodedImages
) -> PreparedImage | ReportRequest:
    """Prepare the model's input, or the request that says why there is none."""
    seen = looked.at(current, setting.decode)
    if seen is None:
        detail = looked.failures[current.path]
        return request_of_abstention(current, AbstainReason.UNREADABLE, f"The image cannot be read: {detail}.", setting)
    # The checkpoint says how many images it reads, the current one among them.
    most = min(setting.policy.max_priors, setting.predictor.identity.images - 1)
    chosen = ImageChooser(earlier, setting.policy, setting.decode, looked, most=most).choose(current, seen)
    prior_seen = looked.at(chosen.prior, setting.decode) if chosen.prior is not None else None
    return PreparedImage(
        current=current,
        seen=seen,
        chosen=chosen,
        prior_seen=prior_seen,
        earlier_seen=tuple(looked.images[image.path] for image in chosen.earlier),
        chart=_chart(current.header, setting),
    )


def _chart(header: Dataset, setting: AnalysisInputs) -> KnownChart | None:
    """The part of the chart that the checkpoint learned to use; not looked up for one that learned none."""
    identity = setting.predictor.identity
    if not identity.context and not identity.chart:
        return None
    chart = setting.chart(header)
    return chart if chart is None or identity.context else chart.restrict_to(identity.chart)
