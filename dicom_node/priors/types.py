"""The values that image and prior choice work on: what a header says of an image and a person, and verdicts on it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from model.schema import AbstainReason


class View(StrEnum):
    """The path of the beam through the chest."""

    PA = "PA"
    """Frontal, back to front: the standing film."""
    AP = "AP"
    """Frontal, front to back: the bed film."""
    FRONTAL = "frontal"
    """Frontal, but nothing says whether PA or AP."""
    LATERAL = "lateral"
    OTHER = "other"
    """Oblique, apical, decubitus, axial and the like."""
    UNKNOWN = "unknown"
    """Nothing says it."""

    @property
    def is_frontal(self) -> bool:
        return self in (View.PA, View.AP, View.FRONTAL)


class Refusal(StrEnum):
    """Why an image is not analysed and not compared with."""

    NOT_RADIOGRAPH = "not a projection radiograph"
    NOT_HUMAN = "not a person"
    NO_PIXELS = "no pixel data"
    TOO_SMALL = "too few pixels"
    NOT_CHEST = "not a chest radiograph"
    NOT_FRONTAL = "not a frontal view"
    UNDECIDED = "body part or view cannot be told"
    FOR_PROCESSING = "raw detector data (FOR PROCESSING)"
    NOT_UPRIGHT = "mirrored, turned or with black and white exchanged"
    WITHDRAWN = "withdrawn by a rejection note"
    DISPUTED = "its UID is claimed for another patient"
    SAME_EXPOSURE = "another rendition of an exposure that is used already"
    LIMIT = "more images than the limit"

    @property
    def abstain_reason(self) -> AbstainReason:
        """The outcome that a study gets whose images were all refused for this."""
        return _ABSTAIN[self]


_ABSTAIN = {
    Refusal.NOT_RADIOGRAPH: AbstainReason.NOT_CHEST,
    Refusal.NOT_HUMAN: AbstainReason.NOT_CHEST,
    Refusal.NO_PIXELS: AbstainReason.NO_PIXELS,
    Refusal.TOO_SMALL: AbstainReason.NOT_USABLE,
    Refusal.NOT_CHEST: AbstainReason.NOT_CHEST,
    Refusal.NOT_FRONTAL: AbstainReason.NOT_FRONTAL,
    Refusal.UNDECIDED: AbstainReason.NOT_FRONTAL,
    Refusal.FOR_PROCESSING: AbstainReason.UNREADABLE,
    Refusal.NOT_UPRIGHT: AbstainReason.NOT_USABLE,
    Refusal.WITHDRAWN: AbstainReason.NOT_USABLE,
    Refusal.DISPUTED: AbstainReason.NOT_USABLE,
    Refusal.SAME_EXPOSURE: AbstainReason.NOT_FRONTAL,
    Refusal.LIMIT: AbstainReason.NOT_FRONTAL,
}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PatientKey:
    """A patient's ID and who issued it; an empty issuer is one that nobody stated."""

    patient_id: str
    issuer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Whose image it is, as the header says it. Empty where missing or malformed.

    birth_date: DA, eight digits. name: Unicode, groups joined by "=", components by "^".
    """

    key: PatientKey
    birth_date: str = ""
    sex: str = ""
    name: str = ""
    other_keys: tuple[PatientKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCheck:
    """The result of looking at the pixels (`model.checks.frontal_view`), reduced to what the rules use.

    view: PA and AP are beyond the check: FRONTAL, LATERAL or OTHER (not a chest); UNKNOWN where it was not sure.
    probability: of the stated view, 0..1.
    remark: "inverted", "rotated" and the like; empty where nothing is to be said.
    fault: why the picture is certainly no chest radiograph (`model.checks.plausibility`); empty where it may be one.
    pose: how a frontal chest certainly does not stand as it should, "is turned by 180°"; empty where it may.
    """

    view: View
    probability: float
    remark: str = ""
    fault: str = ""
    pose: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Everything about one stored image that the choice rests on; no pixels.

    taken_at: local date and time of the exposure: the first valid of AcquisitionDateTime, Acquisition-, Content-,
    Series- and StudyDate with its time; None without a date. taken_time_known: False where only the date is known.
    zone: what the exposure's clock was ahead of UTC, None where the header does not say.
    study_date, study_time: DA and normalised TM, "" where missing or malformed.
    pixel_sha256: of the stored grey values where they were decoded before, else "".
    texts: body part and view in words, strongest first: (keyword, value).
    withdrawn, disputed: why the object as a whole is not to be used: a rejection note names it; its UID is claimed for
    another patient. Empty where nothing speaks against it.
    """

    sop_instance_uid: str
    study_instance_uid: str
    patient: Patient
    series_instance_uid: str = ""
    sop_class_uid: str = ""
    modality: str = ""
    study_date: str = ""
    study_time: str = ""
    taken_at: dt.datetime | None = None
    taken_time_known: bool = False
    zone: dt.timedelta | None = None
    view_position: str = ""
    view_codes: tuple[tuple[str, str], ...] = ()
    body_part: str = ""
    region_codes: tuple[tuple[str, str], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    patient_orientation: tuple[str, ...] = ()
    presentation_intent: str = ""
    image_type: tuple[str, ...] = ()
    species: str = ""
    rows: int | None = None
    columns: int | None = None
    frames: int = 1
    has_pixels: bool = True
    instance_number: int | None = None
    irradiation_event_uid: str = ""
    source_sop_uids: tuple[str, ...] = ()
    pixel_sha256: str = ""
    check: ImageCheck | None = None
    withdrawn: str = ""
    disputed: str = ""

    @property
    def when(self) -> str:
        """Date and, where known, time for a sentence: "2020-03-16 19:10"."""
        if self.taken_at is None:
            return "unknown date"
        return self.taken_at.strftime("%Y-%m-%d %H:%M" if self.taken_time_known else "%Y-%m-%d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suitability:
    """Suitability of one image as a frontal chest radiograph for display, and the facts that decided it.

    decided_on: one short clause per piece of evidence, for example "ViewPosition says AP".
    sentence: for a report; why it is fit, or why not.
    """

    view: View
    refusal: Refusal | None
    decided_on: tuple[str, ...]
    sentence: str

    @property
    def is_fit(self) -> bool:
        return self.refusal is None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedImage:
    """An image with the verdict on it."""

    image: ImageFacts
    suitability: Suitability


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentChoice:
    """The images of a study that deserve an analysis.

    chosen: one for each exposure that is a frontal chest radiograph, the most fit first; may be empty.
    judged: every image of the study with its verdict, in a stable order.
    refusal: why nothing was chosen, None where something was.
    sentence: what to tell the radiologist of the choice.
    """

    chosen: tuple[JudgedImage, ...]
    judged: tuple[JudgedImage, ...]
    refusal: Refusal | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorPolicy:
    """The site's rules. Times in days.

    look_back_days: an older film is no comparison.
    same_view_days: a film of the same view goes before a newer one of the other view unless it is so much older.
    max_priors: earlier images that one analysis uses at the most.
    merged_keys: IDs that the site says are one person's: each key's canonical key.
    default_issuer: who issued an ID that names no issuer.
    """

    look_back_days: int = 1826
    same_view_days: int = 365
    allow_changed_family_name: bool = False
    allow_for_processing: bool = False
    max_images: int = 4
    max_priors: int = 7
    default_issuer: str = ""
    merged_keys: tuple[tuple[PatientKey, PatientKey], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateVerdict:
    """The verdict of the rules on one candidate.

    against: why it may not be compared with; empty for an admitted one. in_favour: what speaks for it.
    rank: 1 for the chosen one, then in order of preference; None where not admitted.
    """

    image: ImageFacts
    view: View
    in_favour: tuple[str, ...]
    against: tuple[str, ...]
    rank: int | None = None

    @property
    def is_admitted(self) -> bool:
        return not self.against


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorChoice:
    """The chosen prior or None, why, and the verdict on every candidate.

    reasons: short sentences for the report, the status page and the log; no name, ID or birth date stands in them.
    earlier: images before the prior that a checkpoint which takes more than two is shown as well, oldest first.
    """

    prior: ImageFacts | None
    reasons: tuple[str, ...]
    verdicts: tuple[CandidateVerdict, ...]
    earlier: tuple[ImageFacts, ...] = ()
