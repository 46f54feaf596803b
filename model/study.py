"""The input of a model: images as a person sees them, in the order of time, and the facts that are known beside them.

Everybody imports these values from `model.schema`. No torch here, and numpy for the type checker alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads manifests without numpy
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGeometry:
    """Where a display image lies in the stored image that it was made from.

    rows, columns: size of the stored image in pixels.
    top, left, height, width: the part that was kept after border cropping, in stored pixels.
    pixel_aspect: height of a stored pixel divided by its width; the display image has square pixels.
    """

    rows: int
    columns: int
    top: int
    left: int
    height: int
    width: int
    pixel_aspect: float = 1.0

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Map a point given in fractions (0 to 1) of the display image to (column, row) in stored pixels."""
        return self.left + x * self.width, self.top + y * self.height


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DisplayImage:
    """One radiograph as a person would see it, made only by `model.images.display`.

    pixels: float32 [H, W] in 0..1, air dark and bone bright (MONOCHROME2 sense), border cropped, aspect ratio kept.
    geometry: where the pixels lie in the stored image.
    view: "PA" or "AP" where the header says so, else None.
    sop_instance_uid, study_instance_uid: of the stored object, empty for images that never were DICOM.
    acquired: local date and time of the exposure as the header has it (naive), or None.
    sha256: of the stored grey values, to recognise the same film under another UID.
    """

    pixels: NDArray[np.float32]
    geometry: SourceGeometry
    view: str | None = None
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    acquired: dt.datetime | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientContext:
    """Facts that may be told to the model beside the pixels. Every field is optional and off by default in the
    recipes."""

    age_years: int | None = None
    sex: str | None = None
    indication: str | None = None
    labs: Mapping[str, str] = field(default_factory=dict)
    treatments: tuple[str, ...] = ()
    """Current or planned treatments, in words ("diuretics", "line removal planned")."""


MAX_IMAGES = 8
"""Of one study: the current image and seven priors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyPair:
    """One question to the model: the current image and its proven priors, of which a pair has one.

    An absent prior is None, never a black image (BioViL-T, Bannur et al. 2023). earlier: images older than the prior,
    oldest first. Raises ValueError for earlier images without a prior, more than MAX_IMAGES images, and images that
    were acquired in another order than they stand in: a course read backwards turns every change round.
    """

    current: DisplayImage
    prior: DisplayImage | None = None
    context: PatientContext | None = None
    earlier: tuple[DisplayImage, ...] = ()

    def __post_init__(self) -> None:
        if self.earlier and self.prior is None:
            raise ValueError("a study with earlier images has a prior: the newest of them")
        if len(self.images) > MAX_IMAGES:
            raise ValueError(f"a study has at most {MAX_IMAGES} images, not {len(self.images)}")
        # Images without a time stand where the caller put them.
        times = [image.acquired for image in self.images if image.acquired is not None]
        for before, after in pairwise(times):
            if after < before:
                raise ValueError(f"the images are not in order of time: {before:%Y-%m-%d %H:%M} stands before {after}")

    @property
    def images(self) -> tuple[DisplayImage, ...]:
        """All images, oldest first, the current one last."""
        return (*self.earlier, *([] if self.prior is None else [self.prior]), self.current)

    @property
    def days(self) -> tuple[int | None, ...]:
        """Whole days between each prior image and the current one; None where a time is not known."""
        now = self.current.acquired
        return tuple(
            None if now is None or image.acquired is None else (now.date() - image.acquired.date()).days
            for image in self.images[:-1]
        )

    def newest(self, images: int) -> StudyPair:
        """The same study with at most its `images` newest images (at least one)."""
        kept = self.images[-max(images, 1) :]
        return replace(self, prior=kept[-2] if len(kept) > 1 else None, earlier=kept[:-2])

    def swapped(self) -> StudyPair:
        """The last two images in the other order, without their times; raises ValueError without a prior."""
        if self.prior is None:
            raise ValueError("a study without a prior cannot be swapped")
        prior, current = replace(self.current, acquired=None), replace(self.prior, acquired=None)
        return StudyPair(current=current, prior=prior, context=self.context)
