"""Earlier images shown beside the prior: the chosen prior's own prior, and so on. Pure.

Each of them is admitted as a prior of the current image, by all rules of `choose`, and chosen as the prior of the image
behind it by the same rules. So no two are of one study or one exposure, and their order in time is proven.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dicom_node.priors.choose import choose_prior
from dicom_node.priors.current import is_same_exposure
from dicom_node.priors.types import ImageFacts, PriorChoice, PriorPolicy


def choose_earlier(
    choice: PriorChoice,
    candidates: Iterable[ImageFacts],
    policy: PriorPolicy,
    *,
    most: int,
    refused: Collection[str] = (),
) -> tuple[ImageFacts, ...]:
    """At most `most` images older than the chosen prior, oldest first; does not depend on the candidates' order.

    candidates: as `choose_prior` had them; `choice`'s verdicts say which are admitted. refused: SOP Instance UIDs of
    those whose pixels cannot be used or show a film that is used already.
    """
    if choice.prior is None or most < 1:
        return ()
    admitted = {verdict.image.sop_instance_uid for verdict in choice.verdicts if verdict.is_admitted} - set(refused)
    left = [image for image in candidates if image.sop_instance_uid in admitted]
    used = [choice.prior]
    # Each step asks as if the last chosen one were current, so that the same rules hold back in time.
    while len(used) <= most:
        left = [image for image in left if not any(_is_same(image, other) for other in used)]
        before = choose_prior(used[-1], left, policy).prior
        if before is None:
            break
        used.append(before)
    return tuple(reversed(used[1:]))


def _is_same(image: ImageFacts, other: ImageFacts) -> bool:
    return image.study_instance_uid == other.study_instance_uid or is_same_exposure(image, other)
