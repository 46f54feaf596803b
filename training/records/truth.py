"""The known truth on a pair of images: the one value that readers give, instructions ask and metrics compare.

None always means "not known", never "absent": a label set that is silent on a finding must not train or score it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from model.ontology import ontology
from model.schema import INVERSE_CHANGE, Change

MANUFACTURER = "manufacturer"
"""Key of `PairTruth.facts`: the maker of the modality that took the current image, where the data set knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTruth:
    """One finding on one image. side: "left", "right" or "bilateral"; grade: "mild", "moderate" or "severe".

    severity: 0..1 where it is known more exactly than its grade (phantoms).
    """

    present: bool
    side: str | None = None
    grade: str | None = None
    severity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingTruth:
    """One finding over the pair.

    current, prior: None where the image is not labelled for it (or there is no prior).
    change: None where not known, and where the finding is on neither image; `nothing` tells the two apart.
    """

    key: str
    current: ImageTruth | None = None
    prior: ImageTruth | None = None
    change: Change | None = None

    @property
    def nothing(self) -> bool:
        """Known to be absent on both images: the answer to "how did it change" is "none"."""
        return self.current is not None and self.prior is not None and not (self.current.present or self.prior.present)

    @property
    def change_answer(self) -> str | None:
        """The answer to the change question, None where not known."""
        if self.change is not None:
            return self.change.value
        return "none" if self.nothing else None

    def swapped(self) -> FindingTruth:
        """The same finding with the images in the other order."""
        change = None if self.change is None else INVERSE_CHANGE[self.change]
        return replace(self, current=self.prior, prior=self.current, change=change)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTruth:
    """One pair, or one image where has_prior is False.

    pair_id: unique in its set. patient_id: pseudonymous; the unit of splits and of the bootstrap.
    proxy: the labels are text-mined or from the clinical course; no report may call agreement with them accuracy.
    """

    pair_id: str
    patient_id: str
    findings: Mapping[str, FindingTruth]
    has_prior: bool = True
    view: str | None = None
    prior_view: str | None = None
    proxy: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        foreign = set(self.findings) - set(ontology().findings)
        if foreign:
            raise ValueError(f"{self.pair_id}: findings {sorted(foreign)} are not in the ontology")

    def swapped(self) -> PairTruth:
        """The truth of the pair in the other order; raises ValueError without a prior."""
        if not self.has_prior:
            raise ValueError(f"{self.pair_id} has no prior to swap with")
        findings = {key: truth.swapped() for key, truth in self.findings.items()}
        return replace(
            self,
            pair_id=f"{self.pair_id}/swapped",
            findings=findings,
            view=self.prior_view,
            prior_view=self.view,
        )
