"""A study before the model is asked: the inputs of an analysis, and the images that are to be answered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydicom import Dataset

from dicom_node.analysis.chart import KnownChart
from dicom_node.analysis.earlier_images import ChosenImages
from dicom_node.analysis.earlier_results import EarlierReadings, Readings
from dicom_node.analysis.stored_images import Decode, StoredImage
from dicom_node.priors.types import PriorChoice, PriorPolicy
from dicom_node.report.request import PredecessorDocument, ReportRequest
from dicom_node.serving.predictor import PairPredictor
from model.schema import DisplayImage, StudyPair


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnalysisInputs:
    """The inputs of an analysis beside the images. `predecessors` are looked up by the analysed image's SOP Instance
    UID."""

    predictor: PairPredictor
    decode: Decode
    policy: PriorPolicy
    produced_at: dt.datetime
    revision: int = 1
    generation: int = 1
    language: str = "en"
    predecessors: Callable[[str], tuple[PredecessorDocument, ...]] = lambda _uid: ()
    last_try: bool = True
    """True if a model that fails on this study ends in a report that says so; else it is an AnalysisError."""
    reads_unfamiliar: bool = False
    """An image unlike those of training gets its findings with a warning; else it is not analysed."""
    comparison_notes: tuple[str, ...] = ()
    """Further notes on the search for a prior: a fetch that failed, an archive that did not answer."""
    chart: Callable[[Dataset], KnownChart | None] = lambda _header: None
    """Header of the analysed image → what was known of the patient then; asked where the checkpoint learned it."""
    readings: Readings = lambda _uids, _device_uid: EarlierReadings()
    """(SOP Instance UID of the prior, Device UID of the checkpoint) → what its own result said; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedImage:
    """An image that is to be answered, its prior and the images before that, and why these."""

    current: StoredImage
    seen: DisplayImage
    chosen: ChosenImages
    prior_seen: DisplayImage | None
    earlier_seen: tuple[DisplayImage, ...] = ()
    chart: KnownChart | None = None

    @property
    def choice(self) -> PriorChoice:
        return self.chosen.choice

    @property
    def prior(self) -> StoredImage | None:
        return self.chosen.prior

    @property
    def pair(self) -> StudyPair:
        images = [*self.earlier_seen, *([] if self.prior_seen is None else [self.prior_seen]), self.seen]
        times = [image.acquired for image in images if image.acquired is not None]
        if times != sorted(times):  # clocks of two time zones: the order is proven, the days between are not
            images = [replace(image, acquired=None) for image in images]
        prior = images[-2] if self.prior_seen is not None else None
        earlier = tuple(images[: len(self.earlier_seen)])
        context = self.chart.context if self.chart is not None else None
        return StudyPair(current=images[-1], prior=prior, earlier=earlier, context=context)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedStudy:
    """A study whose images are decoded and whose priors are chosen; it only lacks the model's answers.

    parts: for each analysed image the model's input, or the finished request that says why there is none; never empty.
    """

    parts: tuple[PreparedImage | ReportRequest, ...]
    comparison_notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[StudyPair]:
        """The questions to the model, in the order in which `finish_study` wants their answers."""
        return [part.pair for part in self.parts if isinstance(part, PreparedImage)]
