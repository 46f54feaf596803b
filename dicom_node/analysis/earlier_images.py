"""The images that a study is compared with: the rules choose, the pixels are looked at, and the rules choose again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.analysis.stored_images import Decode, DecodedImages, StoredImage, with_image_check
from dicom_node.priors import choose_prior, same_picture
from dicom_node.priors.series import choose_earlier
from dicom_node.priors.types import PriorChoice, PriorPolicy
from model.schema import DisplayImage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChosenImages:
    """The prior or None, with the images before it that are shown as well, oldest first, and why."""

    choice: PriorChoice
    prior: StoredImage | None = None
    earlier: tuple[StoredImage, ...] = ()


class ImageChooser:
    """Chooses among the stored objects of other studies; each file is decoded once, whatever is chosen.

    most: of the images before the current one, the prior included.
    """

    def __init__(
        self, earlier: Sequence[StoredImage], policy: PriorPolicy, decode: Decode, looked: DecodedImages, *, most: int
    ) -> None:
        self._earlier, self._policy, self._decode, self._looked, self._most = earlier, policy, decode, looked, most

    def choose(self, current: StoredImage, seen: DisplayImage) -> ChosenImages:
        """Choose for one image of the current study, which looks like `seen`."""
        candidates = {image.facts.sop_instance_uid: image for image in self._earlier}
        choice = self._prior(current, seen, candidates)
        if choice.prior is None:
            return ChosenImages(choice=choice)
        prior = candidates[choice.prior.sop_instance_uid]
        return ChosenImages(choice=choice, prior=prior, earlier=self._before(choice, prior, seen, candidates))

    def _prior(self, current: StoredImage, seen: DisplayImage, candidates: dict[str, StoredImage]) -> PriorChoice:
        """Choose, look at the chosen film, and choose again until what was seen no longer changes the choice."""
        same: set[str] = set()
        unreadable = [(image.facts.sop_instance_uid, image.damage) for image in self._earlier if image.damage]
        verified: set[str] = set()
        while True:
            facts = [image.facts for image in candidates.values()]
            choice = choose_prior(current.facts, facts, self._policy, same_picture=same, unreadable=unreadable)
            # Looked at already and still the choice: nothing that was seen since has changed it.
            if choice.prior is None or choice.prior.sop_instance_uid in verified:
                return choice
            uid = choice.prior.sop_instance_uid
            prior_seen = self._looked.at(candidates[uid], self._decode)
            if prior_seen is None:
                # Each turn excludes a candidate or verifies one, so the loop ends.
                unreadable.append((uid, self._looked.failures[candidates[uid].path]))
            elif same_picture(seen, prior_seen):
                # The same film stored under another UID is no earlier examination.
                same.add(uid)
            else:
                candidates[uid] = with_image_check(candidates[uid], self._decode, self._looked)
                verified.add(uid)

    def _before(
        self, choice: PriorChoice, prior: StoredImage, seen: DisplayImage, candidates: dict[str, StoredImage]
    ) -> tuple[StoredImage, ...]:
        """The images before the prior, looked at in the same way; what is unfit by its pixels is left out."""
        refused: set[str] = set()
        verified: set[str] = set()
        while True:
            facts = [image.facts for image in candidates.values()]
            chosen = choose_earlier(choice, facts, self._policy, most=self._most - 1, refused=refused)
            uid = next(
                (image.sop_instance_uid for image in reversed(chosen) if image.sop_instance_uid not in verified), None
            )
            if uid is None:
                return tuple(candidates[image.sop_instance_uid] for image in chosen)
            others = [seen, self._looked.images[prior.path]]
            others += [self._looked.images[candidates[other].path] for other in verified if other not in refused]
            own = self._looked.at(candidates[uid], self._decode)
            if own is None or any(same_picture(own, other) for other in others):
                refused.add(uid)
            else:
                # What the pixels say changes the facts, and with them whether the rules still choose it.
                candidates[uid] = with_image_check(candidates[uid], self._decode, self._looked)
                verified.add(uid)
