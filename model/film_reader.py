"""Reading pairs of films of people by a checkpoint's film classifier instead of its language model."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.errors import CheckpointError
from model.experts.film_classifier import (
    FAMILIAR,
    FilmClassifier,
    FilmKind,
    FilmView,
    TowerFeatures,
    load_film_classifier,
    squares_of,
)
from model.experts.film_network import SIDE
from model.film_rules import FilmReading, read_film_finding
from model.localise.outline import outlines
from model.localise.relevance import Heatmap, Method, choose_regions
from model.schema import Finding, ImageRole, Prediction, Region, StudyPair


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairView:
    """The classifier's answers on the films of a pair."""

    current: FilmView
    prior: FilmView | None

    @property
    def unfamiliarity(self) -> float:
        """Of the film that is less like those it learned on; above 1 it is like none of them."""
        return max(view.unfamiliarity for view in self.films)

    @property
    def shows_person(self) -> bool:
        """True if the films are of a person, by the nearer kind of the current one."""
        return self.current.kind is FilmKind.PERSON

    @property
    def films(self) -> tuple[FilmView, ...]:
        """The one or two films."""
        return (self.current,) if self.prior is None else (self.prior, self.current)

    def of(self, role: ImageRole) -> FilmView | None:
        """The film of this role."""
        return self.current if role is ImageRole.CURRENT else self.prior


class FilmReader:
    """The classifier of one checkpoint with the rules of its manifest. Not for several threads at once."""

    def __init__(self, classifier: FilmClassifier, reading: FilmReading) -> None:
        self.classifier = classifier
        self.reading = reading
        self._localised = {
            key: rule.localised for key, rule in reading.findings.items() if rule.stated and rule.localised is not None
        }

    def look(self, pairs: Sequence[StudyPair]) -> list[PairView]:
        """Look at each film of the pairs once. Where the current one is no film of a person, both are only recognised:
        nothing else of them is read."""
        films = [[image for image in (pair.prior, pair.current) if image is not None] for pair in pairs]
        # one film may stand in several pairs: a prior that two current films are compared with
        images = {id(image): image for pair in films for image in pair}
        if not images:
            return []
        places = {key: number for number, key in enumerate(images)}
        indices = [[places[id(image)] for image in pair] for pair in films]
        squares = squares_of(list(images.values()))
        recognised = self.classifier.recognise(squares)
        unread = dict(enumerate(recognised.views))
        # A film of something else (a phantom, a hand, noise) is recognised and not read: its numbers would mean
        # nothing.
        is_person = [unread[pair[-1]].kind is FilmKind.PERSON for pair in indices]
        wanted = list(dict.fromkeys(i for pair, person in zip(indices, is_person, strict=True) if person for i in pair))
        read = self.classifier.read(squares[wanted], recognised.of(wanted)) if wanted else []
        of_people = dict(zip(wanted, read, strict=True))
        answers = []
        for pair, person in zip(indices, is_person, strict=True):
            *prior, current = ((of_people if person else unread)[index] for index in pair)
            answers.append(PairView(prior=prior[0] if prior else None, current=current))
        return answers

    def recognise(self, pair: StudyPair) -> PairView:
        """Tell the kind of a pair's films and how like those of training they are; nothing else of them is read."""
        images = [image for image in (pair.prior, pair.current) if image is not None]
        *prior, current = self.classifier.recognise(squares_of(images)).views
        return PairView(prior=prior[0] if prior else None, current=current)

    def course(self, study: StudyPair, view: PairView, kinds: Collection[str]) -> StudyPair | None:
        """The part of a study that was measured: all its images are of these kinds (else None), and the course begins
        after the newest image that is unlike those of training (None where that is the current one)."""
        earlier = self.classifier.recognise(squares_of(study.earlier)).views if study.earlier else ()
        views = [*earlier, *view.films]
        if any(film.kind not in kinds for film in views):
            return None
        unlike = [index for index, film in enumerate(views) if film.unfamiliarity > FAMILIAR]
        # Films after the last unlike one; views[-1] is the current.
        readable = len(views) - 1 - unlike[-1] if unlike else len(views)
        return study.newest(readable) if readable else None

    def omitted_findings(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Findings of which nothing is stated on films of people, because no figure on such films allows it."""
        rules = self.reading.findings
        return tuple(key for key in keys if key not in rules or not rules[key].stated)

    def findings(self, keys: Sequence[str], view: PairView, floor: float) -> tuple[Finding, ...]:
        """The statements on these findings, in order."""
        return tuple(
            read_film_finding(
                key,
                view.current.scores(key),
                view.prior.scores(key) if view.prior is not None else None,
                self.reading.findings.get(key),
                floor=floor,
            )
            for key in keys
        )

    def add_regions(self, pair: StudyPair, view: PairView, prediction: Prediction) -> Prediction:
        """The prediction with regions of its positive and changed findings where the maps were measured."""
        started = time.perf_counter()
        regions: dict[str, list[Region]] = {}
        for key, role in choose_regions(prediction.findings, self._localised):
            image = pair.current if role is ImageRole.CURRENT else pair.prior
            heatmap = film_heatmap(view, key, role)
            if image is None or heatmap is None:
                continue
            regions.setdefault(key, []).extend(
                Region(role=role, points=points, method=heatmap.method.value)
                for points in outlines(heatmap.grid, image, SIDE)
            )
        findings = tuple(replace(f, regions=tuple(regions.get(f.key, ()))) for f in prediction.findings)
        seconds = {**prediction.seconds, "localise": time.perf_counter() - started}
        return replace(prediction, findings=findings, seconds=seconds)


def film_heatmap(view: PairView, key: str, role: ImageRole) -> Heatmap | None:
    """The classifier's map of a finding on one film of the pair; None where it has none."""
    film = view.of(role)
    if film is None or key not in film.maps:
        return None
    return Heatmap(grid=np.asarray(film.maps[key], dtype=np.float32), method=Method.FILM_MAP)


def is_person(view: PairView | None) -> bool:
    """Tell whether the film classifier reads this pair."""
    return view is not None and view.shows_person


def open_film_reader(
    folder: Path, reading: FilmReading | None, tower: TowerFeatures | None = None
) -> FilmReader | None:
    """The film classifier of a checkpoint with its manifest's rules; None where it has none. Raises CheckpointError.

    tower: of the checkpoint's language model, as for `load_film_classifier`.
    """
    classifier = load_film_classifier(folder, tower)
    if (classifier is None) != (reading is None):
        raise CheckpointError(f"{folder}: a film classifier and its rules in the manifest belong together")
    return FilmReader(classifier, reading) if classifier is not None and reading is not None else None
