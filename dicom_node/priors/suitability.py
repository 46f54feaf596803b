"""Suitability of one image as a frontal chest radiograph for display, by weighing all that speaks of it.

Body part and view are each decided by a vote of the sources below. What was decided on is kept as sentences, because a
header that contradicts itself is common and the reader must see what was believed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from dicom_node.priors.types import ImageFacts, PriorPolicy, Refusal, Suitability, View
from dicom_node.priors.vocabulary import (
    CHEST_CODES,
    VIEW_CODES,
    Body,
    body_in,
    is_mirrored_or_turned,
    view_in,
    view_of_orientation,
    view_of_position,
)

RADIOGRAPHS = frozenset(
    {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
    }
)
CAPTURES = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    }
)
"""Digitised films and converted pictures: radiographs only where Modality says so."""
MODALITIES = frozenset({"CR", "DX", "RG"})
SMALLEST_SIDE = 100
"""Pixels. A smaller picture is a thumbnail or a test pattern."""

# Weights. What describes this very image outweighs what describes its series, its study or a preset of the device.
# A confident look at the pixels outweighs any one element, and two strong elements together outweigh the look.
CHECK_WEIGHT = 5.0
ELEMENT_WEIGHT = 3.0
TEXT_WEIGHTS = {"SeriesDescription": 2.0, "ProtocolName": 1.5, "StudyDescription": 1.0}
OTHER_TEXT_WEIGHT = 1.5
ORIENTATION_WEIGHT = 0.5
"""Many devices write L\\F into everything."""
CONFIDENT = 0.8
"""A look at the pixels counts from this probability on."""

_Evidence = tuple[str, View, float]


def judge(image: ImageFacts, policy: PriorPolicy | None = None) -> Suitability:
    """The verdict on one image by itself; pure, and independent of every other image."""
    policy = policy or PriorPolicy()
    # The first one is enough, they come gravest first.
    for refusal, sentence in _plain_refusals(image, policy):
        return Suitability(view=View.UNKNOWN, refusal=refusal, decided_on=(), sentence=sentence)
    body_refusal, body_on = _decide_body(image)
    view, view_on = _decide_view(image)
    decided_on = tuple(dict.fromkeys((*body_on, *view_on)))
    if body_refusal is not None:
        text = {
            Refusal.NOT_CHEST: "it is not a chest radiograph",
            Refusal.UNDECIDED: "nothing proves that it is a chest",
        }
        return _refuse(view, body_refusal, decided_on, text[body_refusal])
    if view is View.UNKNOWN:
        return _refuse(view, Refusal.UNDECIDED, decided_on, "nothing tells a frontal view from a lateral one")
    if not view.is_frontal:
        what = "a lateral view" if view is View.LATERAL else "not a plain frontal view"
        return _refuse(view, Refusal.NOT_FRONTAL, decided_on, f"it is {what}")
    if min(image.rows or 0, image.columns or 0) < SMALLEST_SIDE:
        return _refuse(view, Refusal.TOO_SMALL, decided_on, f"it has only {image.columns} × {image.rows} pixels")
    if pose := _pose(image):
        doubted = "its grey values" if pose.endswith("has black and white exchanged") else "left and right"
        return _refuse(view, Refusal.NOT_UPRIGHT, decided_on, f"{pose}, so {doubted} cannot be trusted")
    kind = "frontal chest radiograph" if view is View.FRONTAL else f"{view} chest radiograph"
    return Suitability(view=view, refusal=None, decided_on=decided_on, sentence=f"{kind} ({'; '.join(decided_on)})")


def header_contradictions(image: ImageFacts) -> tuple[str, ...]:
    """Name the elements that surely state another body part or view than the pixels show: "BodyPartExamined says HAND".

    Empty where the pixels were not looked at, or are not surely a frontal chest. Codes are left out: one that this
    program does not know may well be a chest's.
    """
    check = image.check
    if check is None or check.probability < CONFIDENT or not check.view.is_frontal:
        return ()
    clauses = []
    if body_in(image.body_part) is Body.OTHER:
        clauses.append(f"BodyPartExamined says {image.body_part}")
    if view_of_position(image.view_position) is View.LATERAL:
        clauses.append(f"ViewPosition says {image.view_position}")
    return tuple(clauses)


def _refuse(view: View, refusal: Refusal, decided_on: tuple[str, ...], what: str) -> Suitability:
    because = f" ({'; '.join(decided_on)})" if decided_on else ""
    return Suitability(view=view, refusal=refusal, decided_on=decided_on, sentence=f"{what}{because}")


def _plain_refusals(image: ImageFacts, policy: PriorPolicy) -> Iterator[tuple[Refusal, str]]:
    """Refusals that need no weighing, the gravest first."""
    if image.sop_class_uid not in RADIOGRAPHS and not (
        image.sop_class_uid in CAPTURES and image.modality in MODALITIES
    ):
        yield Refusal.NOT_RADIOGRAPH, f"it is no projection radiograph (modality {image.modality or 'not stated'})"
    elif image.modality and image.modality not in MODALITIES:
        yield Refusal.NOT_RADIOGRAPH, f"its modality is {image.modality}, not CR or DX"
    if image.withdrawn:
        yield Refusal.WITHDRAWN, image.withdrawn
    if image.disputed:
        yield Refusal.DISPUTED, image.disputed
    if image.species:
        yield Refusal.NOT_HUMAN, f"it is not of a person: {image.species}"
    if not image.has_pixels or not image.rows or not image.columns:
        yield Refusal.NO_PIXELS, "it holds no pixel data"
    if image.frames > 1:
        yield Refusal.NOT_FRONTAL, f"it is a sequence of {image.frames} frames"
    if "LOCALIZER" in image.image_type:
        yield Refusal.NOT_FRONTAL, "it is a scout (ImageType LOCALIZER)"
    if image.check is not None and image.check.fault:
        yield Refusal.NOT_CHEST, f"the picture {image.check.fault}, whatever its header says"
    if is_for_processing(image) and not policy.allow_for_processing:
        yield Refusal.FOR_PROCESSING, "it is raw detector data (FOR PROCESSING), not meant to be looked at"


def _pose(image: ImageFacts) -> str:
    """The deviation from the pose that a reader and the model take for granted; "" where nothing says so."""
    if is_mirrored_or_turned(image.patient_orientation):
        return f"it is mirrored or turned (PatientOrientation {'/'.join(image.patient_orientation)})"
    return f"the picture {image.check.pose}" if image.check is not None and image.check.pose else ""


def is_for_processing(image: ImageFacts) -> bool:
    """Tell whether the image is raw detector data."""
    return image.sop_class_uid == DigitalXRayImageStorageForProcessing or image.presentation_intent == "FOR PROCESSING"


def _decide_body(image: ImageFacts) -> tuple[Refusal | None, tuple[str, ...]]:
    """None for a chest. A tie, and silence, are no proof."""
    votes: dict[bool, float] = defaultdict(float)
    clauses: list[str] = []
    for clause, is_chest, weight in _body_evidence(image):
        votes[is_chest] += weight
        clauses.append(clause)
    if not votes:
        return Refusal.UNDECIDED, ()
    return (None if votes[True] > votes[False] else Refusal.NOT_CHEST), tuple(clauses)


def _body_evidence(image: ImageFacts) -> Iterator[tuple[str, bool, float]]:
    check = image.check
    if check is not None and check.probability >= CONFIDENT and check.view is not View.UNKNOWN:
        is_chest = check.view is not View.OTHER
        yield f"the image looks like {'a chest' if is_chest else 'no chest'}", is_chest, CHECK_WEIGHT
    body = body_in(image.body_part)
    if body is not None:
        yield f"BodyPartExamined says {image.body_part}", body is Body.CHEST, ELEMENT_WEIGHT
    if image.region_codes:
        codes = {code for code, _ in image.region_codes}
        meaning = image.region_codes[0][1] or image.region_codes[0][0]
        yield f"AnatomicRegionSequence says {meaning}", bool(codes & CHEST_CODES), ELEMENT_WEIGHT
    for keyword, text in image.texts:
        body = body_in(text)
        if body in (Body.CHEST, Body.OTHER):  # a text that names both ("chest and abdomen") decides nothing
            yield f"{keyword} says {text!r}", body is Body.CHEST, TEXT_WEIGHTS.get(keyword, OTHER_TEXT_WEIGHT)


def _decide_view(image: ImageFacts) -> tuple[View, tuple[str, ...]]:
    """The view by weight: first frontal, lateral or other, then PA or AP among what says frontal."""
    evidence = list(_view_evidence(image))
    kinds: dict[View, float] = defaultdict(float)
    for _, view, weight in evidence:
        kinds[View.FRONTAL if view.is_frontal else view] += weight
    clauses = tuple(clause for clause, _, _ in evidence)
    if not kinds:
        return View.UNKNOWN, ()
    best, second = ([*sorted(kinds.items(), key=lambda item: -item[1]), (View.UNKNOWN, 0.0)])[:2]
    # PatientOrientation alone, and a tie, prove nothing.
    if best[1] <= ORIENTATION_WEIGHT or best[1] == second[1]:
        return View.UNKNOWN, clauses
    return (_pa_or_ap(evidence) if best[0] is View.FRONTAL else best[0]), clauses


def _pa_or_ap(evidence: Iterable[_Evidence]) -> View:
    sides: dict[View, float] = defaultdict(float)
    for _, view, weight in evidence:
        if view in (View.PA, View.AP):
            sides[view] += weight
    if sides[View.PA] == sides[View.AP]:
        return View.FRONTAL
    return View.PA if sides[View.PA] > sides[View.AP] else View.AP


def _view_evidence(image: ImageFacts) -> Iterator[_Evidence]:
    check = image.check
    if check is not None and check.probability >= CONFIDENT and check.view not in (View.UNKNOWN, View.OTHER):
        yield f"the image looks {check.view}{f' and {check.remark}' if check.remark else ''}", check.view, CHECK_WEIGHT
    if (view := view_of_position(image.view_position)) is not None:
        yield f"ViewPosition says {image.view_position}", view, ELEMENT_WEIGHT
    if image.view_codes:
        code, meaning = image.view_codes[0]
        yield f"ViewCodeSequence says {meaning or code}", VIEW_CODES.get(code, View.OTHER), ELEMENT_WEIGHT
    for keyword, text in image.texts:
        if (view := view_in(text)) is not None:
            yield f"{keyword} says {text!r}", view, TEXT_WEIGHTS.get(keyword, OTHER_TEXT_WEIGHT)
    if (view := view_of_orientation(image.patient_orientation)) is not None:
        orientation = "\\".join(image.patient_orientation)
        yield f"PatientOrientation says {orientation}", view, ORIENTATION_WEIGHT
