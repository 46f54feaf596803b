"""The site's rules for the choice, from the settings; and what looking at a picture means for it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dicom_node.config import PriorsSection, Settings
from dicom_node.errors import ConfigurationError
from dicom_node.logs import get_logger
from dicom_node.priors.merged_ids import read_merged
from dicom_node.priors.types import ImageCheck, PatientKey, PriorPolicy, View
from model.checks.frontal_view import ViewCheck, ViewKind

log = get_logger(__name__)

SURE_OF_POSE = 0.99
"""From this probability on a turned or inverted film is refused, not only remarked upon."""
_VIEWS = {ViewKind.FRONTAL_CHEST: View.FRONTAL, ViewKind.LATERAL_CHEST: View.LATERAL, ViewKind.OTHER: View.OTHER}


def policy_of(settings: Settings) -> PriorPolicy:
    """The policy that [priors] states. Raises ConfigurationError where the file of merged IDs is wrong."""
    section = settings.priors
    return _policy(section, _read_merged_ids(section.merged_ids) if section.merged_ids is not None else ())


def policy_in_service(settings: Settings) -> PriorPolicy:
    """The same for a running node: while the file of merged IDs is wrong, no ID counts as merged, and work goes on.

    A line that was typed wrong must not keep every patient's report back; without the merges fewer images are compared.
    """
    try:
        return policy_of(settings)
    except ConfigurationError as error:
        log.error("no patient ID counts as merged until the file is mended", why=str(error))
        return _policy(settings.priors, ())


def _policy(section: PriorsSection, merged_keys: tuple[tuple[PatientKey, PatientKey], ...]) -> PriorPolicy:
    return PriorPolicy(
        look_back_days=section.look_back_days,
        same_view_days=section.same_view_days,
        allow_changed_family_name=section.allow_changed_family_name,
        allow_for_processing=section.allow_for_processing,
        max_images=section.max_images,
        max_priors=section.max_priors,
        default_issuer=section.default_issuer,
        merged_keys=merged_keys,
    )


def image_check(check: ViewCheck) -> ImageCheck:
    """The meaning, for the rules, of what the trained check saw in the pixels."""
    remarks, pose = [], []
    if check.kind is ViewKind.FRONTAL_CHEST:
        if check.inverted:
            remarks.append("inverted")
            # Only a sure verdict refuses an image; a likely one is said beside it.
            if check.inverted_probability >= SURE_OF_POSE:
                pose.append("has black and white exchanged")
        if check.rotation:
            remarks.append(f"turned by {check.rotation}°")
            if check.rotation_probability >= SURE_OF_POSE:
                pose.append(f"is turned by {check.rotation}°")
    return ImageCheck(
        view=_VIEWS[check.kind],
        probability=check.probability,
        remark=" and ".join(remarks),
        fault=check.fault or "",
        pose=" and ".join(pose),
    )


def _read_merged_ids(path: Path) -> tuple[tuple[PatientKey, PatientKey], ...]:
    """Read again only when the file changed: an administrator adds a line while the node runs."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigurationError(f"priors.merged_ids: {path} cannot be read: {error.strerror}") from error
    return _read(path, changed)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> tuple[tuple[PatientKey, PatientKey], ...]:
    return read_merged(path)
