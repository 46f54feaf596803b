"""The values that cross the border of `model`: the image pair that goes in and the structured answer that comes out.

No torch here: the receiver, the report writer and the tests import this module and must stay light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from model.study import MAX_IMAGES as MAX_IMAGES
from model.study import DisplayImage as DisplayImage
from model.study import PatientContext as PatientContext
from model.study import SourceGeometry as SourceGeometry
from model.study import StudyPair as StudyPair


class Presence(StrEnum):
    """Presence of a finding on the current image."""

    PRESENT = "present"
    """The model says that the finding is there."""
    ABSENT = "absent"
    """The model says that it is not."""
    ABSTAINED = "abstained"
    """The certainty was below the floor of the checkpoint's manifest: no statement is made."""


class Change(StrEnum):
    """Change of a finding between the prior and the current image."""

    NEW = "new"
    """Absent on the prior, present on the current image."""
    WORSENING = "worsening"
    """On both, more severe on the current image."""
    STABLE = "stable"
    """On both, of the same degree."""
    IMPROVING = "improving"
    """On both, less severe on the current image."""
    RESOLVED = "resolved"
    """On the prior, absent on the current image."""
    NOT_COMPARABLE = "not comparable"
    """There is a prior, but the certainty is too low for a statement on change."""


INVERSE_CHANGE: Mapping[Change, Change] = {
    Change.NEW: Change.RESOLVED,
    Change.RESOLVED: Change.NEW,
    Change.WORSENING: Change.IMPROVING,
    Change.IMPROVING: Change.WORSENING,
    Change.STABLE: Change.STABLE,
    Change.NOT_COMPARABLE: Change.NOT_COMPARABLE,
}
"""The change that the same pair shows in the other order."""
COMPARED_CHANGES = tuple(change.value for change in Change if change is not Change.NOT_COMPARABLE)
"""The words of the changes that a comparison may state."""
ON_PRIOR = frozenset({Change.WORSENING, Change.STABLE, Change.IMPROVING, Change.RESOLVED})
"""Changes that say of a finding that the prior shows it."""


class ImageRole(StrEnum):
    """The role of an image in the pair."""

    CURRENT = "current"
    PRIOR = "prior"


class AbstainReason(StrEnum):
    """Why a study or a pair got no answer from the model. Each is a coded, visible outcome, never silence."""

    NOT_CHEST = "not a chest radiograph"
    NOT_FRONTAL = "no frontal image"
    NO_PIXELS = "no pixel data"
    UNREADABLE = "unreadable image"
    NOT_USABLE = "image not usable"
    """Readable, but too small, mirrored, turned, withdrawn or of disputed identity."""
    LOW_CERTAINTY = "certainty too low"
    UNFAMILIAR = "unlike the training images"
    """Beyond the checkpoint's limit of unfamiliarity: nothing that it says of such an image was ever measured."""
    MODEL_FAILED = "the model failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A closed outline on one image of the pair.

    points: (column, row) in pixels of the stored image, first point repeated at the end, as SCOORD POLYLINE wants it.
    method: an honest name of how the model found it, for example "occlusion relevance".
    """

    role: ImageRole
    points: tuple[tuple[float, float], ...]
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The model's answer on one finding of its battery.

    key: the key in `model.ontology`.
    probability: calibrated probability that it is present on the current image, 0..1.
    prior_probability: the same for the prior image where it was asked, else None.
    change: None without a prior, and where the finding is absent on both images: nothing is there that could change.
    change_probability: calibrated probability of the stated change, None where no change is stated.
    location: words of the ontology such as "left" or "right lower", None where not asked or not present.
    level: a level word of the ontology such as "moderate", None where not asked or not present.
    threshold: least probability at which this checkpoint calls the finding present, 0..1.
    deny_below: probability below which "not seen" may be said, because few of the images on which radiologists marked
    the finding lie below it; 0 never, None where the checkpoint has no such figure.
    """

    key: str
    presence: Presence
    probability: float
    prior_probability: float | None = None
    change: Change | None = None
    change_probability: float | None = None
    location: str | None = None
    level: str | None = None
    regions: tuple[Region, ...] = ()
    threshold: float = 0.5
    deny_below: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrognosisItem:
    """A statement on what is likely on the next film; investigational (LUMEN's prediction questions)."""

    key: str
    change: Change
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """The checkpoint that answered. A retrained model gets a new device_uid (IHE AIR 1.2).

    images: most images of one study that it makes use of. context: whether its prompts held
    the chart in training. chart: laboratory values and treatments that its prognosis head learned.
    """

    name: str
    version: str
    device_uid: str
    manufacturer: str = "dicom-node"
    demonstration: bool = False
    licence: str = ""
    images: int = 2
    context: bool = False
    chart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The structured answer to one StudyPair.

    findings: one for every finding of the checkpoint's battery, present, absent or abstained, in ontology order.
    abstained: set when the pair as a whole got no answer; findings is then empty.
    difference_text: the model's own sentence to "what has changed compared to the reference image?", unparsed.
    unstated: findings on which nothing is stated because no figure on films of this kind allows it; they are abstained.
    seconds: wall time by stage ("encode", "prefill", "score", "generate", "localise").
    certainty_floor: of the checkpoint's manifest, 0..1. is_calibrated: False for a checkpoint whose probabilities were
    never fitted on validation answers.
    images_seen: newest images of the study that the answer rests on. context_seen: it rests on the chart as well.
    unfamiliarity: how unlike the training images the least familiar image of the pair is, None where the checkpoint
    cannot tell; beyond unfamiliarity_limit (its manifest's) the image counts as unfamiliar.
    """

    findings: tuple[Finding, ...]
    model: ModelIdentity
    prognosis: tuple[PrognosisItem, ...] = ()
    abstained: AbstainReason | None = None
    abstained_detail: str = ""
    difference_text: str | None = None
    unstated: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    certainty_floor: float = 0.0
    is_calibrated: bool = True
    images_seen: int = 2
    context_seen: bool = False
    unfamiliarity: float | None = None
    unfamiliarity_limit: float | None = None

    @property
    def is_unfamiliar(self) -> bool:
        """Tell whether an image of the pair is unlike what the checkpoint was trained on."""
        score, limit = self.unfamiliarity, self.unfamiliarity_limit
        return score is not None and limit is not None and score > limit

    def finding(self, key: str) -> Finding:
        """The finding with this ontology key; raises KeyError naming the keys that there are."""
        for finding in self.findings:
            if finding.key == key:
                return finding
        raise KeyError(f"no finding {key!r}; this prediction holds {[f.key for f in self.findings]}")
