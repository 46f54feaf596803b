"""Load a checkpoint once, answer image pairs: battery → engine → calibration → consistent findings → regions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from model.checkpoints.files import MANIFEST_NAME
from model.checkpoints.foreign import foreign_manifest, identity_of
from model.checkpoints.manifest import Manifest, read_manifest
from model.checkpoints.registry import resolve_source
from model.engine.answers import ClosedAnswer, EngineJob, JobAnswers
from model.engine.auto_classes import local_folder
from model.engine.engine import Engine
from model.engine.mass import MassWatch
from model.engine.memory import failures_of_memory
from model.engine.vlm import NvilaVlm, Vlm, open_vlm
from model.errors import CheckpointError, InferenceError
from model.experts.expert import Expert, load_expert
from model.experts.film_classifier import FAMILIAR
from model.film_reader import FilmReader, PairView, is_person, open_film_reader
from model.finding_answers import DETAILS, finding_answers
from model.finding_states import JointWeights, read_finding
from model.images.square import keep_squares
from model.localise.relevance import Localiser, read_outline_head
from model.ontology import ontology
from model.prognosis.foresight import Foresight, items_of_answers, open_foresight, within_gap, without_contradictions
from model.questions.battery import Question, QuestionType, battery
from model.questions.prompts import PromptLayout, context_text
from model.schema import (
    MAX_IMAGES,
    Change,
    DisplayImage,
    Finding,
    ModelIdentity,
    Prediction,
    Presence,
    PrognosisItem,
    StudyPair,
)


class Predictor:
    """One loaded checkpoint. Not for several threads at once.

    manifest: how its answers are read. `findings`: ontology keys that it may be asked, in ontology order. localiser:
    adds regions where given. films: reads films of people in the language model's place. expert: what it says of each
    image stands in the prompt, where the checkpoint was trained with such lines (`Manifest.expert`) and only there.
    """

    def __init__(
        self,
        vlm: Vlm,
        manifest: Manifest,
        *,
        engine: Engine | None = None,
        localiser: Localiser | None = None,
        expert: Expert | None = None,
        films: FilmReader | None = None,
    ) -> None:
        self.vlm = vlm
        self.manifest = manifest
        self.engine = engine or Engine(vlm)
        self.localiser = localiser
        self.films = films
        self.findings: tuple[str, ...] = tuple(sorted(manifest.findings, key=list(ontology().findings).index))
        self._weights = JointWeights.from_values(manifest.joint)
        self._mass_watch = MassWatch(manifest.label)
        self.asks_everything = True
        """False: only what a prediction states is asked; no free text, no view, no side or degree of what is absent."""
        self.foresight: Foresight | None = None
        self.expert = expert if manifest.expert else None
        self._identity = identity_of(manifest, self.expert.fingerprint if self.expert is not None else None)

    @property
    def identity(self) -> ModelIdentity:
        """The checkpoint that answers; a prognosis head looks at every image, whatever the language model takes."""
        if self.foresight is None:
            return self._identity
        vocabulary = self.foresight.head.vocabulary
        return replace(self._identity, images=MAX_IMAGES, chart=(*vocabulary.labs, *vocabulary.treatments))

    def predict(self, pair: StudyPair) -> Prediction:
        """Answer one pair. Raises InferenceError where the model fails."""
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        """Answer several pairs, in batches where the model allows it."""
        # One film is looked at several times (classifier, tower, outlines, next image): keep its square and features.
        with keep_squares(), self.vlm.model.keep_features() if isinstance(self.vlm, NvilaVlm) else nullcontext():
            return self._predict(pairs)

    def _predict(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        started = time.perf_counter()
        with failures_of_memory():
            # The films come first: what they show decides whether the language model is asked at all.
            views = self.films.look(pairs) if self.films is not None else [None] * len(pairs)
            jobs, owners = self._all_jobs(pairs, views)
            answered = self.engine.ask(jobs) if jobs else []
        merged = [JobAnswers() for _ in pairs]
        for owner, answers in zip(owners, answered, strict=True):
            merged[owner].add(answers)
        # Pairs of a batch are answered together, so the time of one alone is not known.
        share = (time.perf_counter() - started) / max(len(pairs), 1)
        self._mass_watch.note(merged)
        shown = dict(zip(reversed(owners), (job.layout for job in reversed(jobs)), strict=True))  # the first one's
        result = []
        for number, (pair, answers, view) in enumerate(zip(pairs, merged, views, strict=True)):
            with failures_of_memory():
                read = self._read(pair, answers, view, share)
            result.append(self._with_regions(pair, read, view, shown.get(number)))
        return result

    def _all_jobs(
        self, pairs: Sequence[StudyPair], views: Sequence[PairView | None]
    ) -> tuple[list[EngineJob], list[int]]:
        """The engine's jobs, and whose each is; of films that the film classifier reads nothing is asked."""
        jobs, owners = [], []
        for number, (pair, view) in enumerate(zip(pairs, views, strict=True)):
            for job in self.jobs(pair) if not is_person(view) else ():
                jobs.append(job)
                owners.append(number)
        return jobs, owners

    def _with_regions(
        self, pair: StudyPair, read: Prediction, view: PairView | None, layout: PromptLayout | None
    ) -> Prediction:
        if self.films is not None and view is not None and view.shows_person:
            return self.films.add_regions(pair, view, read)
        return self.localiser.add_regions(pair, read, layout=layout) if self.localiser is not None else read

    def unfamiliarity(self, pair: StudyPair) -> float | None:
        """The distance of the pair's films from those of training, as `Prediction.unfamiliarity`; above 1 they are like
        none of them. None where the checkpoint has no film classifier."""
        return self.films.recognise(pair).unfamiliarity if self.films is not None else None

    def questions(self, *, with_prior: bool) -> tuple[Question, ...]:
        """The questions for a pair: the battery of the checkpoint's findings, without types it was not trained on."""
        known = set(self.manifest.question_types)
        foretold = self.manifest.prognosis and self.foresight is None
        everything = battery(self.findings, with_prior=with_prior, prognosis=foretold)
        return tuple(
            question
            for question in everything
            if (question.type in known or (foretold and question.type is QuestionType.PREDICTION))
            # The open prediction has no place in a Prediction: its closed questions say the same, coded.
            and not (question.type is QuestionType.PREDICTION and question.allowed is None)
            and (self.asks_everything or (question.allowed is not None and question.type is not QuestionType.VIEW))
        )

    def jobs(self, pair: StudyPair) -> list[EngineJob]:
        """The engine's jobs for one pair: the pair's own, and one on the current image alone for the prognosis."""
        questions = self.questions(with_prior=pair.prior is not None)
        context = context_text(pair.context) if self.manifest.context else None
        shown = pair.newest(self.manifest.images)
        images, days = shown.images, shown.days if self.manifest.times else ()
        pictures = tuple(self.vlm.picture(image) for image in images)
        expert = self._ask_expert(images[-2:])
        layout = self.vlm.layout(priors=len(pictures) - 1, days=days, context=context, expert=expert)
        together = tuple(question for question in questions if not question.alone)
        alone = tuple(question for question in questions if question.alone)
        waits = not self.asks_everything and isinstance(self.engine, Engine)  # a server would read its prefix again
        late = tuple(question for question in together if waits and question.type in DETAILS)
        first = EngineJob(pictures=pictures, layout=layout, questions=tuple(q for q in together if q not in late))
        jobs = [replace(first, late=late, follow_ups=partial(self._details, pair))]
        if alone:
            # A question on one image alone was taught without the prior, so it has a prompt of its own.
            layout = self.vlm.layout(priors=0, context=context, expert=self._ask_expert(images[-1:]))
            jobs.append(EngineJob(pictures=pictures[-1:], layout=layout, questions=alone))
        return jobs

    def _details(self, pair: StudyPair, answers: JobAnswers) -> list[str]:
        """The keys of the questions on side and degree of what is present: of nothing else are they stated."""
        calibrated = {key: self.calibrate_answer(answer) for key, answer in answers.closed.items()}
        stated = [key for key in self.findings if self._finding(key, calibrated, pair).presence is Presence.PRESENT]
        return [f"{type.value}/{key}" for key in stated for type in DETAILS]

    def _ask_expert(self, images: Sequence[DisplayImage]) -> str | None:
        return self.expert.text(images) if self.expert is not None else None

    def calibrate_answer(self, answer: ClosedAnswer) -> dict[str, float]:
        """Probabilities of the allowed answers at the temperature of the question's type."""
        return answer.probabilities(self.manifest.calibration.get(answer.question.type.value, 1.0))

    def _read(self, pair: StudyPair, answers: JobAnswers, view: PairView | None, seconds: float) -> Prediction:
        calibrated = {key: self.calibrate_answer(answer) for key, answer in answers.closed.items()}
        unstated: tuple[str, ...] = ()
        # On films of people the classifier speaks; on everything else (phantoms) the language model does.
        if self.films is not None and view is not None and view.shows_person:
            findings = self.films.findings(self.findings, view, self.manifest.certainty_floor)
            unstated = self.films.omitted_findings(self.findings)
        else:
            findings = tuple(self._finding(key, calibrated, pair) for key in self.findings)
        difference = answers.open.get(QuestionType.DIFFERENCE.value)
        course, is_read = self._course(pair, view), not is_person(view)
        foreseen = course if self.foresight is not None else None
        takes_context = (is_read and self.manifest.context) or (foreseen is not None and bool(self.identity.chart))
        return Prediction(
            findings=findings,
            model=self.identity,
            prognosis=without_contradictions(self._foretold(course, calibrated), findings),
            difference_text=difference.text if difference is not None else None,
            unfamiliarity=view.unfamiliarity if view is not None else None,
            unfamiliarity_limit=FAMILIAR if view is not None else None,
            unstated=unstated,
            images_seen=max(
                min(len(pair.images), self.manifest.images if is_read else 2), len(foreseen.images) if foreseen else 0
            ),
            context_seen=pair.context is not None and takes_context,
            seconds={**answers.seconds, "total": seconds},
            certainty_floor=self.manifest.certainty_floor,
            is_calibrated=self.manifest.calibrated_on > 0,
        )

    def _finding(self, key: str, calibrated: Mapping[str, Mapping[str, float]], pair: StudyPair) -> Finding:
        answers = finding_answers(key, calibrated)
        if answers is None:
            raise InferenceError(f"the checkpoint {self.manifest.label} was not trained on presence questions")
        statement = read_finding(
            key,
            answers,
            threshold=self.manifest.thresholds.get(key, 0.5),
            floor=self.manifest.certainty_floor,
            with_prior=pair.prior is not None,
            weights=self._weights,
        )
        # It was asked of the change, and its answers do not settle one: that is said, not passed over in silence.
        asked_in_vain = answers.change is None and f"{QuestionType.CHANGE.value}/{key}" in calibrated
        if asked_in_vain and statement.change is None and statement.presence is not Presence.ABSENT:
            return replace(statement, change=Change.NOT_COMPARABLE)
        return statement

    def _course(self, pair: StudyPair, view: PairView | None) -> StudyPair | None:
        """The part of a study that the next image may be predicted from, None where nothing may be said of it.

        A head's figures hold for the kinds of images that they were measured on: nothing is said of others, nor where
        nobody can tell the kind. Nothing is said of films of people by what was learned from phantoms.
        """
        evidence = self.manifest.prognosis_evidence
        if self.foresight is None or evidence is None:
            return None if is_person(view) else pair
        if self.films is None or view is None:
            return None
        course = self.films.course(pair, view, evidence.kinds)
        return within_gap(course, evidence.longest_gap) if course is not None else None

    def _foretold(
        self, course: StudyPair | None, calibrated: Mapping[str, Mapping[str, float]]
    ) -> tuple[PrognosisItem, ...]:
        if course is None:
            return ()
        if self.foresight is not None:
            return self.foresight.items(course)
        return items_of_answers(calibrated, self.findings, self.manifest.certainty_floor)


def load_predictor(
    source: str | Path,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    findings: Sequence[str] = (),
    experts: Path | None = None,
) -> Predictor:
    """Load "demo", a checkpoint folder, the champion of a models directory, a foreign folder or a Hub id.

    A checkpoint with a manifest is verified file by file, also one from the Hub; without one, `findings` names what it
    may be asked. experts: folder of `model.experts.expert`, read where the manifest says that the checkpoint was
    trained with an expert's lines. Raises CheckpointError.
    """
    folder = local_folder(resolved := resolve_source(source), revision=revision, trust_remote_code=trust_remote_code)
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder)
        vlm = open_vlm(folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code, tiling=manifest.tiling)
        # A manifest beside another model's files would have its rules applied to the wrong answers.
        if vlm.kind is not manifest.kind:
            raise CheckpointError(f"{folder}: the manifest says {manifest.kind}, the folder holds {vlm.kind}")
        head = read_outline_head(folder, manifest.findings)
        localiser = Localiser(vlm, head=head, measured=manifest.localisation)
        # An expert's lines are told only to a checkpoint that learned to read them.
        expert = load_expert(experts) if experts is not None and manifest.expert else None
        films = open_film_reader(folder, manifest.films, vlm.tower_features if isinstance(vlm, NvilaVlm) else None)
        predictor = Predictor(vlm, manifest, localiser=localiser, expert=expert, films=films)
        predictor.foresight = open_foresight(folder, manifest, vlm, predictor.engine, predictor.calibrate_answer)
        return predictor
    if not findings:
        raise CheckpointError(
            f"{source}: has no {MANIFEST_NAME}, so it is half-written or foreign; a foreign checkpoint needs the "
            "findings that it may be asked ([model] findings)"
        )
    vlm = open_vlm(folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return Predictor(vlm, foreign_manifest(source, resolved, revision, vlm.kind, findings))
