"""Studies of a run, read and answered: the analysis of the service, without its index and without documents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from dicom_node.analysis.prepared import AnalysisInputs, PreparedStudy
from dicom_node.analysis.stored_images import Decode, StoredImage
from dicom_node.analysis.study import finish_study, prepare_study
from dicom_node.bulk.work import BulkError, Work
from dicom_node.config import ModelSection, StorageSection
from dicom_node.errors import AnalysisError
from dicom_node.predict.headers import read_with_row
from dicom_node.predict.inputs import InputFile
from dicom_node.predict.locations import Locations
from dicom_node.predict.plan import StudyItem
from dicom_node.predict.rows import Row, error_row, rows_of
from dicom_node.priors.types import PriorPolicy
from dicom_node.serving.predictor import PairPredictor, ask_together, load
from dicom_node.storage.instance_store import StoreUnavailableError
from model.errors import InferenceError, ModelError, PixelError
from model.images.sandbox import decode_in_child
from model.schema import DisplayImage, ModelIdentity, Prediction, StudyPair

NO_DATE: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""Rows bear no time of their making: a run that is repeated gives the same rows."""
MAX_FAILED_BATCHES: Final = 10
"""One after another in which the model answers nothing: then it is the model that has failed, not the images."""
DISPUTED: Final = "another file with its UID names another patient or study"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisRules:
    """The site's rules of a run, from its settings. threads: of torch in each process; None: as it likes. cache: folder
    for copies of fetched objects; None: without."""

    model: ModelSection
    storage: StorageSection
    policy: PriorPolicy
    cache: Path | None = None
    language: str = "en"
    threads: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityWork(Work[None, None, ModelIdentity]):
    """Loads the model where it will answer, and says who it is."""

    rules: AnalysisRules

    def open_reader(self) -> Callable[[Sequence[None]], None]:
        """Nothing is read."""
        return lambda _items: None

    def open_answerer(self) -> Callable[[None], list[ModelIdentity]]:
        """Make what names the model. Raises BulkError where it cannot be loaded."""
        identity = open_model(self.rules).identity
        return lambda _prepared: [identity]

    def lost(self, item: None, why: str) -> list[ModelIdentity]:
        """Without a model there is no run."""
        raise BulkError(f"the model cannot be loaded: {why}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedItem:
    """A study that was read. study: None where it could not be; `rows` then say why."""

    item: StudyItem
    study: PreparedStudy | None = None
    where: dict[str, str]
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictWork(Work[StudyItem, list[PreparedItem], Row]):
    """Decodes studies and asks the model about them, a batch of studies at once."""

    rules: AnalysisRules
    identity: ModelIdentity
    node_version: str

    def open_reader(self) -> Callable[[Sequence[StudyItem]], list[PreparedItem]]:
        """Make what fetches, decodes and chooses priors."""
        locations = Locations(self.rules.storage, self.rules.cache)

        def read(items: Sequence[StudyItem]) -> list[PreparedItem]:
            try:
                return [self._read(item, locations) for item in items]
            except StoreUnavailableError as error:
                raise BulkError(str(error)) from error

        return read

    def open_answerer(self) -> Callable[[list[PreparedItem]], list[Row]]:
        """Make what asks the model. It raises BulkError where the model fails on everything."""
        return Answerer(self, open_model(self.rules)).answer

    def lost(self, item: StudyItem, why: str) -> list[Row]:
        """Make the row of a study at which the process died."""
        return [self.error(item, why)]

    def error(self, item: StudyItem, why: str) -> Row:
        """The row of a study without a result."""
        location = item.images[0].location
        return error_row(location, why, node_version=self.node_version, study_uid=item.study_uid)

    def setting(self, predictor: AbsentModel, decode: Decode) -> AnalysisInputs:
        """The setting of every study's analysis."""
        return AnalysisInputs(
            predictor=predictor,
            decode=decode,
            policy=self.rules.policy,
            produced_at=NO_DATE,
            language=self.rules.language,
            reads_unfamiliar=self.rules.model.unfamiliar == "warn",
        )

    def _read(self, item: StudyItem, locations: Locations) -> PreparedItem:
        if item.fault:
            return PreparedItem(item=item, where={}, rows=(self.error(item, item.fault),))
        with locations.fetch({file.location: file.stamp for file in (*item.images, *item.earlier)}) as local:
            images, rows = self._read_stored(item, item.images, local)
            earlier, _ = self._read_stored(item, item.earlier, local)  # what cannot be read has a row of its own
            where = {image.facts.sop_instance_uid: file.location for file, image in (*images, *earlier)}
            if not images:
                return PreparedItem(item=item, where=where, rows=tuple(rows))
            setting = self.setting(AbsentModel(self.identity), _decoder([*images, *earlier]))
            study = prepare_study([image for _, image in images], [image for _, image in earlier], setting)
        return PreparedItem(item=item, study=study, where=where, rows=tuple(rows))

    def _read_stored(
        self, item: StudyItem, files: Sequence[InputFile], local: dict[str, Path]
    ) -> tuple[list[tuple[InputFile, StoredImage]], list[Row]]:
        """The objects of these files, and a row for each that has become unreadable since its header was read."""
        images, rows = [], []
        for file in files:
            try:
                if file.location not in local:
                    raise PixelError("the object is gone from its bucket")
                stored = read_with_row(file, local[file.location])
            except PixelError as error:
                rows.append(
                    error_row(file.location, str(error), node_version=self.node_version, study_uid=item.study_uid)
                )
                continue
            if stored.facts.sop_instance_uid in item.disputed:
                stored = replace(stored, facts=replace(stored.facts, disputed=DISPUTED))
            images.append((file, stored))
        return images, rows


@dataclass(frozen=True, slots=True)
class AbsentModel:
    """Stands for the model where studies are read: there its identity is known, and nothing is asked."""

    identity: ModelIdentity

    def predict(self, pair: StudyPair) -> Prediction:
        """Refuse: no model is loaded here."""
        raise InferenceError("no model is loaded where studies are read")

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        """Refuse: no model is loaded here."""
        raise InferenceError("no model is loaded where studies are read")


class Answerer:
    """A loaded model, and how often it has failed on everything."""

    def __init__(self, work: PredictWork, predictor: PairPredictor) -> None:
        self._work = work
        self._predictor = predictor
        self._failed = 0
        if self._predictor.identity != work.identity:
            raise BulkError("the model has changed since the run began; start the same command again")

    def answer(self, prepared: list[PreparedItem]) -> list[Row]:
        """The rows of a batch, study by study."""
        # All pairs of the batch in one forward pass; below, each study takes back as many answers as it asked.
        pairs = [pair for part in prepared if part.study is not None for pair in part.study.pairs]
        answers = ask_together(self._predictor, pairs)
        self._watch(answers)
        answered, rows = iter(answers), list[Row]()
        for part in prepared:
            rows.extend(part.rows)
            if part.study is None:
                continue
            own = [next(answered) for _ in part.study.pairs]
            setting = self._work.setting(AbsentModel(self._work.identity), decode_in_child)
            for request in finish_study(part.study, own, setting):
                rows.extend(rows_of(request, part.where, self._work.node_version))
        return rows

    def _watch(self, answers: Sequence[Prediction | InferenceError]) -> None:
        """Stop where nothing is answered any more, such as by a server that is gone: no shard may end like that."""
        if not answers:
            return
        errors = [answer for answer in answers if isinstance(answer, InferenceError)]
        self._failed = self._failed + 1 if len(errors) == len(answers) else 0
        if self._failed >= MAX_FAILED_BATCHES:
            raise BulkError(f"the model failed on {self._failed} batches one after another, at last: {errors[-1]}")


@lru_cache(maxsize=1)
def open_model(rules: AnalysisRules) -> PairPredictor:
    """Load the model of a run in this process, once for all its works. Raises BulkError."""
    try:
        return load(rules.model, threads=rules.threads)
    except (ModelError, AnalysisError, OSError, MemoryError, ValueError) as error:
        raise BulkError(f"the model cannot be loaded: {error}") from error


def _decoder(images: Sequence[tuple[InputFile, StoredImage]]) -> Decode:
    """Decode in a child; an image whose header has no date gets that of its row."""
    dates = {stored.path: stored.facts.taken_at for file, stored in images if file.date}

    def decode(path: Path) -> DisplayImage:
        image = decode_in_child(path)
        taken = dates.get(path)
        return replace(image, acquired=taken) if image.acquired is None and taken is not None else image

    return decode
