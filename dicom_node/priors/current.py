"""The images of a study to analyse: one for each exposure that is a frontal chest radiograph.

Rules, in order:
1. Every image is judged by itself (`suitability.judge`).
2. Of several renditions of one exposure (FOR PROCESSING beside FOR PRESENTATION, a differently processed copy, a copy
   under another UID) one stays: FOR PRESENTATION before what states no intent before FOR PROCESSING, then ORIGINAL
   before DERIVED, more pixels before fewer, the lower InstanceNumber, the smaller SOPInstanceUID.
3. Order: PA before AP before an unstated frontal view; then the later exposure, because a repeat corrects what went
   before. At most `policy.max_images` are analysed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from dicom_node.priors.suitability import is_for_processing, judge
from dicom_node.priors.types import CurrentChoice, ImageFacts, JudgedImage, PriorPolicy, Refusal, Suitability, View

_VIEW_ORDER = {View.PA: 0, View.AP: 1, View.FRONTAL: 2}


def select_current(instances: Iterable[ImageFacts], policy: PriorPolicy | None = None) -> CurrentChoice:
    """Choose among a study's images; does not depend on their order."""
    policy = policy or PriorPolicy()
    # One entry for each object, in an order that depends on the objects only.
    unique = {image.sop_instance_uid: image for image in sorted(instances, key=repr)}
    judged = [JudgedImage(image=image, suitability=judge(image, policy)) for _, image in sorted(unique.items())]
    fit = sorted((item for item in judged if item.suitability.is_fit), key=lambda item: rendition_order(item.image))
    kept: list[JudgedImage] = []
    refused: dict[str, Suitability] = {}
    for item in fit:
        same = next((other for other in kept if is_same_exposure(item.image, other.image)), None)
        if same is None:
            kept.append(item)
        else:
            refused[item.image.sop_instance_uid] = _refuse(
                item, Refusal.SAME_EXPOSURE, "it is another rendition of an exposure that is analysed already"
            )
    kept.sort(key=_analysis_order)
    for item in kept[policy.max_images :]:
        refused[item.image.sop_instance_uid] = _refuse(
            item, Refusal.LIMIT, f"the study has more than {policy.max_images} frontal images"
        )
    final = tuple(
        replace(item, suitability=refused.get(item.image.sop_instance_uid, item.suitability)) for item in judged
    )
    chosen = tuple(kept[: policy.max_images])
    refusal = None if chosen else _main_refusal(final)
    return CurrentChoice(chosen=chosen, judged=final, refusal=refusal, sentence=_sentence(chosen, final))


def is_same_exposure(a: ImageFacts, b: ImageFacts) -> bool:
    """Tell whether two images show one and the same exposure, whatever their UIDs."""
    if a.sop_instance_uid == b.sop_instance_uid:
        return True
    if a.irradiation_event_uid and b.irradiation_event_uid:
        return a.irradiation_event_uid == b.irradiation_event_uid
    if a.pixel_sha256 and a.pixel_sha256 == b.pixel_sha256:
        return True
    if a.sop_instance_uid in b.source_sop_uids or b.sop_instance_uid in a.source_sop_uids:
        return True
    # Nobody takes two films of one patient within a second.
    return (
        a.study_instance_uid == b.study_instance_uid
        and a.taken_time_known
        and b.taken_time_known
        and a.taken_at == b.taken_at
        and (a.view_position == b.view_position)
    )


def rendition_order(image: ImageFacts) -> tuple[int, bool, int, int, str]:
    """Rule 2: the smaller, the better a rendition for looking at."""
    if is_for_processing(image):
        intent = 2
    else:
        intent = 0 if image.presentation_intent == "FOR PRESENTATION" else 1
    pixels = (image.rows or 0) * (image.columns or 0)
    # No number comes last; the UID makes the order one and the same whatever came first.
    number = image.instance_number if image.instance_number is not None else 1 << 31
    return intent, "ORIGINAL" not in image.image_type, -pixels, number, image.sop_instance_uid


def _analysis_order(item: JudgedImage) -> tuple[int, float, tuple[int, bool, int, int, str]]:
    """Rule 3."""
    moment = item.image.taken_at
    # timedelta arithmetic instead of timestamp(): the date is local time of an unknown zone.
    later_first = -(moment - moment.min).total_seconds() if moment else 0.0
    return _VIEW_ORDER.get(item.suitability.view, 3), later_first, rendition_order(item.image)


def _refuse(item: JudgedImage, refusal: Refusal, sentence: str) -> Suitability:
    return replace(item.suitability, refusal=refusal, sentence=sentence)


def _main_refusal(judged: tuple[JudgedImage, ...]) -> Refusal:
    """The reason for which most images were refused; ties by the order of Refusal."""
    counts = Counter(item.suitability.refusal for item in judged)
    order = list(Refusal)
    best = max(counts, key=lambda r: (counts[r], -order.index(r)) if r else (0, 0), default=None)
    return best or Refusal.NO_PIXELS


def _sentence(chosen: tuple[JudgedImage, ...], judged: tuple[JudgedImage, ...]) -> str:
    if not judged:
        return "The study holds no image."
    if not chosen:
        parts = [f"{_name(item.image)}: {item.suitability.sentence}" for item in judged]
        return f"No image of this study is a frontal chest radiograph for display. {'. '.join(parts)}."
    first = chosen[0]
    others = f" {len(chosen)} frontal images are analysed." if len(chosen) > 1 else ""
    return f"Analysed image: {first.suitability.sentence}.{others}"


def _name(image: ImageFacts) -> str:
    return f"Image {image.instance_number}" if image.instance_number is not None else "Image"
